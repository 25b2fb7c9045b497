"""From a picture as it was stored to pixels of the wanted size and channels."""

from __future__ import annotations

import contextlib
import math

import numpy as np
from PIL import Image

from ditkit.data.crops import Placed, Size, centred
from ditkit.data.jpeg import loaded

_GREY = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"}
_ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {5, 6, 7, 8}


MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""The channels that pictures can be brought to: grey, grey with alpha, colours, colours with alpha."""

_LONGEST = 32
"""How many times as long as wanted a picture may be, before its ends are cut off at once."""


def prepare(image: Image.Image, size: Size, channels: int, placed: Placed | None = None) -> np.ndarray:
    """The picture upright, in 1 to 4 channels (see ``MODES``), cropped to ``size``: uint8 (C, H, W).

    placed: the crop; None is ADM's centre crop. Raises OSError when the picture is broken or cut short, ValueError when
    its pixels have no agreed range.
    """
    placed = placed or centred(size)
    image = loaded(image, _as_stored(image, placed.covering))
    image = cut(cover(with_channels(upright(image), channels), placed.covering), size, placed)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _as_stored(image: Image.Image, size: Size) -> Size:
    """A size of the upright picture, as it lies in a JPEG file (asking others before they are read hides errors)."""
    sideways = image.format == "JPEG" and _orientation(image) in _SIDEWAYS
    return (size[1], size[0]) if sideways else size


def centre_crop(image: Image.Image, size: Size) -> Image.Image:
    """ADM's centre crop: shrinks until the picture just covers ``size`` = (H, W), then cuts out the middle.

    For H = W as published: Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233, training code.
    """
    return cut(cover(image, size), size, centred(size))


def cover(image: Image.Image, size: Size) -> Image.Image:
    """The picture shrunk, or enlarged, until it just covers ``size`` = (H, W): the first half of ADM's crops.

    Halving by box average while both sides stay at least as long as wanted, then one bicubic step: less aliasing than
    bicubic alone. Of a picture over 32 times longer than wanted only the middle is kept, so that one of 100,000 x 1
    pixels does not fill the memory.
    """
    height, width = size
    image = _without_ends(image, size)
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    covering = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    return image if covering == image.size else image.resize(covering, Image.Resampling.BICUBIC)


def _without_ends(image: Image.Image, size: Size) -> Image.Image:
    height, width = size
    scale = max(width / image.width, height / image.height)
    most = math.ceil(_LONGEST * width / scale), math.ceil(_LONGEST * height / scale)
    kept = min(image.width, most[0]), min(image.height, most[1])
    left, top = (image.width - kept[0]) // 2, (image.height - kept[1]) // 2
    return image if kept == image.size else image.crop((left, top, left + kept[0], top + kept[1]))


def cut(image: Image.Image, size: Size, placed: Placed) -> Image.Image:
    """What of ``size`` = (H, W) a crop makes of a picture that covers it; black around a crop that is smaller."""
    height, width = (min(pair) for pair in zip(size, placed.covering, strict=True))
    top, left = placed.corner((image.height - height, image.width - width))
    taken = image if image.size == (width, height) else image.crop((left, top, left + width, top + height))
    left, top = (size[1] - width) // 2, (size[0] - height) // 2
    return taken if (height, width) == size else taken.crop((-left, -top, size[1] - left, size[0] - top))


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says."""
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def upright_size(image: Image.Image, stored: tuple[int, int] | None = None) -> Size:
    """The height and width that ``upright`` will give, from the header.

    stored: the (W, H) in the file; None is the picture's own, which a JPEG decoded at less has no more.
    """
    width, height = stored or image.size
    return (width, height) if _orientation(image) in _SIDEWAYS else (height, width)


def _orientation(image: Image.Image) -> int:
    # Broken EXIF says nothing about the pixels; ``load`` still raises for those.
    with contextlib.suppress(Exception):
        return image.getexif().get(_ORIENTATION, 1)
    return 1


def channels_of(image: Image.Image) -> int:
    """1 when the picture is stored as grey, or by a palette and uses its greys only, else 3; alpha does not count."""
    if image.mode in ("P", "PA"):
        rgb = np.asarray(image.convert("RGB"))  # HWC
        return 1 if (rgb == rgb[..., :1]).all() else 3
    return 1 if image.mode in _GREY else 3


def colours_of(channels: int) -> int:
    """1 or 3: how many of 1 to 4 channels are not alpha."""
    return 1 if channels <= 2 else 3


def has_alpha(image: Image.Image) -> bool:
    """Whether a picture says of its pixels how transparent they are."""
    return image.mode in _ALPHA or "transparency" in image.info


def with_channels(image: Image.Image, channels: int) -> Image.Image:
    """The picture with 8 bits in 1 to 4 channels (see ``MODES``); grey is luma, 0.299 R + 0.587 G + 0.114 B.

    16-bit grey is scaled by 255/65535; without an alpha channel (1, 3) what is transparent is laid on white, and with
    one (2, 4) pictures that have none are opaque; CMYK becomes RGB without a profile. Raises OSError when the picture
    is broken, ValueError for float pixels, which have no agreed range.
    """
    wanted = MODES[channels]
    see_through = has_alpha(image)
    if image.mode == wanted and see_through == (wanted in _ALPHA):
        return image
    if image.mode == "F":
        raise ValueError("float pixels have no agreed range: save the picture with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _from_16_bits(image)
    elif see_through:
        image = image.convert("RGBA") if wanted in _ALPHA else _on_white(image)
    return image.convert(wanted)


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
