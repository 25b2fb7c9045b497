"""From a picture as it was stored to pixels of the wanted size and channels."""

from __future__ import annotations

import contextlib

import numpy as np
from PIL import Image

Size = tuple[int, int]
"""Height and width, in pixels."""

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


def prepare(image: Image.Image, size: Size, channels: int) -> np.ndarray:
    """The picture upright, in 1 or 3 channels, centre-cropped to ``size``: uint8 (C, H, W).

    Raises OSError when the picture is broken or cut short, ValueError when its pixels have no agreed range.
    """
    image.load()  # first, as asking a half-read picture for its EXIF would hide the error
    image = centre_crop(with_channels(upright(image), channels), size)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def centre_crop(image: Image.Image, size: Size) -> Image.Image:
    """ADM's centre crop: shrinks until the picture just covers ``size`` = (H, W), then cuts out the middle.

    Halving by box average while both sides stay at least as long as wanted, then one bicubic step: less aliasing than
    bicubic alone. For H = W as published: Dhariwal & Nichol 2021, https://arxiv.org/abs/2105.05233, training code.
    """
    height, width = size
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    covering = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    if covering != image.size:
        image = image.resize(covering, Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image if image.size == (width, height) else image.crop((left, top, left + width, top + height))


def upright(image: Image.Image) -> Image.Image:
    """The picture turned as its EXIF orientation says."""
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def upright_size(image: Image.Image) -> Size:
    """The height and width that ``upright`` will give, from the header."""
    return (image.width, image.height) if _orientation(image) in _SIDEWAYS else (image.height, image.width)


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


def with_channels(image: Image.Image, channels: int) -> Image.Image:
    """The picture as 8-bit grey (channels 1, luma 0.299 R + 0.587 G + 0.114 B) or RGB (3).

    16-bit grey is scaled by 255/65535; what is transparent is laid on white; CMYK becomes RGB without a profile.
    Raises OSError when the picture is broken, ValueError for float pixels, which have no agreed range.
    """
    wanted = "L" if channels == 1 else "RGB"
    if image.mode == wanted and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise ValueError("float pixels have no agreed range: save the picture with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = _from_16_bits(image)
    elif image.mode in _ALPHA or "transparency" in image.info:
        image = _on_white(image)
    return image.convert(wanted)


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64).clip(0, 65535)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
