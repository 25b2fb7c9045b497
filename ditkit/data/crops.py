"""Crops: which part of a picture is shown, and at which scale. A new one is a class in this file (--data.crop NAME)."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import torch

from ditkit.base import registry
from ditkit.base.errors import UserError

Size = tuple[int, int]
"""Height and width, in pixels."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """A crop that was drawn: what is cut out of a picture once it just covers ``covering`` = (H, W).

    place: down and across, each in (0, 1]; of n places that there are for the cut it is number ceil(place n) - 1.
    Where ``covering`` is less than is wanted, the cut is as large as ``covering``, in the middle of black.
    """

    covering: Size
    place: tuple[float, float]

    def corner(self, spare: Size) -> Size:
        """Top and left of the cut, where ``spare`` pixels are left over below and beside it."""
        top, left = (math.ceil(place * (left_over + 1)) - 1 for place, left_over in zip(self.place, spare, strict=True))
        return top, left


def centred(size: Size) -> Placed:
    """The middle of the picture that just covers ``size``: with n pixels to spare, n // 2 above it and to its left."""
    return Placed(size, (0.5, 0.5))


class Crop(abc.ABC):
    """A way to crop. name: what it is called. drawn: whether it differs each time that a picture is shown."""

    name: ClassVar[str]
    drawn: ClassVar[bool]

    @abc.abstractmethod
    def draw(self, size: Size, draws: torch.Generator) -> Placed:
        """The crop that gives pictures of ``size`` = (H, W)."""

    def still(self, size: Size) -> Placed:
        """The crop of ``size`` where pictures are measured, encoded or shown, and nothing is drawn."""
        return centred(size)


def find(name: str) -> Callable[..., Crop]:
    """The crop of that name, to be called with its options. UserError for a name that there is none of."""
    return registry.find("crop", __name__, _is_crop, name)


def _is_crop(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Crop) and value is not Crop


@dataclasses.dataclass(frozen=True)
class Centre(Crop):
    """The middle of the picture, as large as fits: ADM's centre crop.

    Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233, training code.
    """

    name = "centre"
    drawn = False

    def draw(self, size: Size, draws: torch.Generator) -> Placed:
        """The same for all draws."""
        return centred(size)


@dataclasses.dataclass(frozen=True)
class Random(Crop):
    """A random part of the picture, whose shorter side is ``least`` to ``most`` of the picture's: ADM's random crop.

    The scale and then the place are uniform over the whole numbers of pixels. Dhariwal & Nichol 2021, training code.
    """

    least: float = 0.8
    most: float = 1.0

    name = "random"
    drawn = True

    def __post_init__(self) -> None:
        if not 0 < self.least <= self.most <= 1:
            raise UserError(
                f"crop random cannot take {self.least:g} to {self.most:g} of a picture: expected "
                "0 < least <= most <= 1, such as 0.8 and 1"
            )

    def draw(self, size: Size, draws: torch.Generator) -> Placed:
        """Scale and place by three numbers of ``draws``."""
        height, width = size
        lowest, highest = math.ceil(height / self.most), math.ceil(height / self.least)
        covering = int(torch.randint(lowest, highest + 1, (), generator=draws))
        down, across = (1 - torch.rand(2, generator=draws, dtype=torch.float64)).tolist()  # in (0, 1]
        return Placed((covering, max(width, round(width * covering / height))), (down, across))


@dataclasses.dataclass(frozen=True)
class Pad(Crop):
    """The middle of the picture in a black frame ``margin`` pixels wide: 28 x 28 to 32 x 32 with 2."""

    margin: int = 2

    name = "pad"
    drawn = False

    def __post_init__(self) -> None:
        if self.margin < 1 or self.margin != int(self.margin):
            raise UserError(f"crop pad cannot have a margin of {self.margin:g} pixels: expected 1, 2, 3 ...")

    def draw(self, size: Size, draws: torch.Generator) -> Placed:
        """The same for all draws."""
        return self.still(size)

    def still(self, size: Size) -> Placed:
        """See ``Crop``. Raises UserError where the margin leaves nothing of the picture."""
        height, width = (side - 2 * int(self.margin) for side in size)
        if min(height, width) < 1:
            raise UserError(
                f"crop pad with a margin of {self.margin:g} leaves nothing of {size[0]}x{size[1]} pixels: expected "
                "less than half of either side"
            )
        return Placed((height, width), (0.5, 0.5))
