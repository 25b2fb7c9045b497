"""A close look at one picture: what it is, what is odd about it, and what it can be compared by."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from ditkit.data.crops import Size
from ditkit.data.duplicates import SIDE
from ditkit.data.preprocess import channels_of, has_alpha, upright, with_channels

LONG = 4.0
"""A picture over so many times as long as it is wide is suspicious: a crop shows little of it."""

_POWERS = np.stack([np.arange(256), np.arange(256) ** 2], 1)  # 256 x 2

_ENDINGS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".gif": "GIF", ".webp": "WEBP", ".bmp": "BMP"}
_MOVING = {"GIF", "PNG", "WEBP"}


@dataclasses.dataclass(frozen=True)
class Look:
    """What was seen of a picture.

    size: upright (H, W). kind: "JPEG RGB", its format and mode. channels: 1 grey, 3 colours. digest: of its pixels.
    thumbnail: uint8 (16, 16), grey. sums: int64 (2, 3), of v and of v^2 over the pixels, v in 0..255 of R, G and B on
    white; alpha: int64 (2,), the same of alpha, where there is any. odd: what is suspicious.
    """

    size: Size
    kind: str
    channels: int
    digest: bytes
    thumbnail: np.ndarray
    sums: np.ndarray
    alpha: np.ndarray | None
    odd: tuple[str, ...]


def look(image: Image.Image, name: str) -> Look:
    """Decodes a picture in full and looks at it. Raises whatever decoding raises, as in training."""
    kind, moving = image.format, _frames(image)
    image.load()
    channels = channels_of(image)
    picture = upright(with_channels(image, channels))
    alpha = with_channels(image, 2).getchannel("A") if has_alpha(image) else None
    counts = np.asarray(picture.histogram(), np.int64).reshape(channels, 256)
    grey = picture.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
    size = (picture.height, picture.width)
    pixels = f"{picture.mode} {size} ".encode() + picture.tobytes()
    return Look(
        size=size,
        kind=f"{kind} {image.mode}" if kind else image.mode,
        channels=channels,
        digest=hashlib.blake2b(pixels, digest_size=16).digest(),
        thumbnail=np.asarray(grey),
        sums=np.broadcast_to(counts @ _POWERS, (3, 2)).T,
        alpha=np.asarray(alpha.histogram(), np.int64) @ _POWERS if alpha else None,
        odd=tuple(_oddities(alpha, name, kind, moving, size, counts)),
    )


def _frames(image: Image.Image) -> int:
    return getattr(image, "n_frames", 1) if image.format in _MOVING else 1


def _oddities(
    alpha: Image.Image | None, name: str, kind: str | None, frames: int, size: Size, counts: np.ndarray
) -> Iterator[str]:
    ending = PurePosixPath(name).suffix.lower()
    if kind and _ENDINGS.get(ending, kind) != kind:
        yield f"named {ending}, but is {kind}"
    if frames > 1:
        yield f"{frames} frames, of which the first is used"
    if max(size) > LONG * min(size):
        yield f"{max(size) / min(size):.3g} times as long as wide ({size[0]}x{size[1]})"
    if alpha and alpha.getextrema()[1] == 0:
        yield "wholly transparent"
    elif (np.count_nonzero(counts, axis=1) == 1).all():
        yield "of one colour"
