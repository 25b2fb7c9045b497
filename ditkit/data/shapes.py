"""Shapes: a procedural set, drawn on the fly, with a class, a caption, a mask and an edge map for each picture."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from PIL import Image

from ditkit.base import rng
from ditkit.data.listed import Plain, digest
from ditkit.data.packed import Computed
from ditkit.data.spec import options_of, word_of

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (247, 140, 20),
    "yellow": (250, 215, 50),
    "green": (46, 160, 67),
    "blue": (40, 90, 210),
    "purple": (130, 60, 190),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
"""Name and RGB of each colour."""

_VERSION = 1  # of the drawing: any change of a pixel is another
_MOST = 10**8
_SIZES = {"small": (0.16, 0.22), "large": (0.28, 0.36)}  # the radius, as a share of the shorter side


@dataclasses.dataclass(frozen=True)
class Scene:
    """What a picture shows. radius: share of the shorter side. x, y: the middle, 0..1. turn: radians."""

    shape: str
    size: str
    colour: str
    ground: str
    radius: float
    x: float
    y: float
    turn: float

    def caption(self) -> str:
        """The picture in words: "a small red star at the top left on a blue background"."""
        side = "left" if self.x < 0.45 else "right" if self.x > 0.55 else ""
        height = "top" if self.y < 0.45 else "bottom" if self.y > 0.55 else ""
        place = f"at the {f'{height} {side}'.strip()}" if height or side else "in the middle"
        article = "an" if self.ground[0] in "aeiou" else "a"
        return f"a {self.size} {self.colour} {self.shape} {place} on {article} {self.ground} background"


def _polygon(*corners: tuple[float, float]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """The signed distance to a polygon, negative inside; corners in the unit circle."""

    def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        nearest, inside = np.full(x.shape, np.inf), np.zeros(x.shape, dtype=bool)
        for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
            ex, ey = bx - ax, by - ay
            along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
            nearest = np.minimum(nearest, np.hypot(x - ax - along * ex, y - ay - along * ey))
            if ey:  # a ray to the right crosses the edge
                inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * ex / ey)
        return np.where(inside, -nearest, nearest)

    return distance


def _regular(*radii: float, corners: int) -> list[tuple[float, float]]:
    """Corners at equal angles, the first one upwards, at radii that take turns."""
    angles = [2 * math.pi * k / corners for k in range(corners)]
    return [(radii[k % len(radii)] * math.sin(a), -radii[k % len(radii)] * math.cos(a)) for k, a in enumerate(angles)]


_ARM, _TIP = 0.3, 0.95
_CROSS = [(_ARM, -_TIP), (_ARM, -_ARM), (_TIP, -_ARM), (_TIP, _ARM), (_ARM, _ARM), (_ARM, _TIP)]

SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda x, y: np.hypot(x, y) - 1,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.75) - 0.25,
    "triangle": _polygon(*_regular(1, corners=3)),
    "square": _polygon(*[(x / math.sqrt(2), y / math.sqrt(2)) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1))]),
    "pentagon": _polygon(*_regular(1, corners=5)),
    "hexagon": _polygon(*_regular(1, corners=6)),
    "star": _polygon(*_regular(1, 0.42, corners=10)),
    "cross": _polygon(*_CROSS, *[(-x, -y) for x, y in _CROSS]),
}
"""By class, the signed distance from its outline at (x, y) in units of its radius, negative inside."""


class Shapes(Plain):
    """Coloured shapes, 8 classes in turn. Spelled ``shapes`` or ``shapes:size=64,num=10000,seed=0``.

    size: pixels, or HxW; any size shows the same scenes. num: how many pictures. seed: of all draws; picture i depends
    on (seed, i) alone. extras: "mask", 255 inside the shape, and "edges", 255 on its outline, both grey.

    Raises UserError for options that are unknown or out of range.
    """

    words: ClassVar[tuple[str, ...]] = ("shapes",)
    expects: ClassVar[str] = "the word shapes (drawn on the fly), as in shapes:size=64,num=10000,seed=0"

    def __init__(self, spec: str = "shapes") -> None:
        self.spec = spec
        options = options_of(spec, {"size": _size, "num": _whole(1, _MOST), "seed": _whole(0, 2**62)})
        self.size: tuple[int, int] = options.get("size", (64, 64))
        self.seed: int = options.get("seed", 0)
        self._count: int = options.get("num", 10_000)
        self.classes = tuple(SHAPES)
        self.labels: np.ndarray | None = np.arange(self._count, dtype=np.int64) % len(SHAPES)
        self.captions: Sequence[str] | None = Computed(self._count, lambda i: self.scene(i).caption())
        self.extras: Mapping[str, Callable[[int], Image.Image]] = {"mask": self.mask, "edges": self.edges}

    @classmethod
    def recognise(cls, spec: str) -> bool:
        """Whether ``spec`` begins with the word "shapes"."""
        return word_of(spec) in cls.words

    def __len__(self) -> int:
        return self._count

    def name(self, i: int) -> str:
        """The number of the picture."""
        return f"shapes[{i}]"

    def open(self, i: int) -> Image.Image:
        """Picture i, RGB, edges smoothed over one pixel."""
        scene = self.scene(i)
        cover = np.clip(0.5 - self._distance(scene), 0, 1)[..., None]  # HW1
        ground, colour = np.array(COLOURS[scene.ground]), np.array(COLOURS[scene.colour])
        return Image.fromarray((ground + cover * (colour - ground) + 0.5).astype(np.uint8))

    def mask(self, i: int) -> Image.Image:
        """Grey: 255 where picture i shows the shape, else 0."""
        return Image.fromarray(np.where(self._distance(self.scene(i)) < 0, 255, 0).astype(np.uint8))

    def edges(self, i: int) -> Image.Image:
        """Grey: 255 within a pixel of the shape's outline, else 0."""
        return Image.fromarray(np.where(np.abs(self._distance(self.scene(i))) < 1, 255, 0).astype(np.uint8))

    def fingerprint(self) -> str:
        """Digest of the options and the version of the drawing."""
        return digest([("shapes", _VERSION, self.size, self._count, self.seed)])

    def scene(self, i: int) -> Scene:
        """What picture i shows."""
        generator = rng.generator(self.seed, "shapes", i)
        u = torch.rand(7, generator=generator, dtype=torch.float64).tolist()
        size = list(_SIZES)[int(u[0] * len(_SIZES))]
        low, high = _SIZES[size]
        radius = low + u[1] * (high - low)
        names = list(COLOURS)
        colour = int(u[2] * len(names))
        ground = (colour + 1 + int(u[3] * (len(names) - 1))) % len(names)  # another one
        x, y = (radius + place * (1 - 2 * radius) for place in u[4:6])
        shape = self.classes[i % len(SHAPES)]
        return Scene(shape, size, names[colour], names[ground], radius, x, y, (u[6] - 0.5) * math.pi / 3)

    def _distance(self, scene: Scene) -> np.ndarray:
        """The signed distance of each pixel's middle from the outline, in pixels, (H, W); negative inside."""
        height, width = self.size
        radius = scene.radius * min(height, width)
        y = (np.arange(height)[:, None] + 0.5 - scene.y * height) / radius
        x = (np.arange(width)[None, :] + 0.5 - scene.x * width) / radius
        cos, sin = math.cos(scene.turn), math.sin(scene.turn)
        return SHAPES[scene.shape](cos * x + sin * y, cos * y - sin * x) * radius


def _whole(low: int, high: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return int(text)

    return read


def _size(text: str) -> tuple[int, int]:
    height, x, width = text.partition("x")
    try:
        sides = _whole(4, 16384)(height), _whole(4, 16384)(width if x else height)
    except ValueError as error:
        raise ValueError("pixels or HEIGHTxWIDTH, each from 4 to 16384") from error
    return sides
