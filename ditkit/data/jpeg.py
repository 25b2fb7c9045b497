"""JPEG pictures decoded no larger than they are needed, and faster where the extra for it is installed."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np
from PIL import Image

from ditkit.data.crops import Size

SPARE = 4
"""A reduced picture stays at least so many times as long, on either side, as what it is shrunk to afterwards.

Then the pixels are those of decoding in full within 1.5 of 255 on average and 16 anywhere, on photographs
(docs/data.md). Half of 255 for each halving that is saved is ADM's own: its averages of 8-bit numbers round up twice.
"""

_FACTORS = (8, 4, 2, 1)


def loaded(image: Image.Image, needed: Size) -> Image.Image:
    """The picture decoded; a JPEG at 1/2, 1/4 or 1/8 of its size where both sides stay SPARE times those ``needed``.

    needed: (H, W) as the picture is stored, not turned. Raises OSError when the picture is broken or cut short.
    """
    if image.format == "JPEG" and image.mode in ("L", "RGB", "CMYK"):
        factor = _factor(image.size, needed)
        fast = _by_simplejpeg(image, factor)
        if fast is not None:
            return fast
        if factor > 1:
            return _reduced(image, factor)
    image.load()
    return image


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    width, height = image.width / factor, image.height / factor
    image.draft(None, (int(width), int(height)))  # type: ignore[arg-type]  (None: as it is)
    image.load()
    return _whole(image, width, height)


def _whole(image: Image.Image, width: float, height: float) -> Image.Image:
    """A reduced picture without the part of its last column and row that lies outside of the whole one."""
    if image.size == (width, height):
        return image
    return image.resize((int(width), int(height)), Image.Resampling.BICUBIC, (0, 0, width, height))


def _factor(stored: tuple[int, int], needed: Size) -> int:
    """The largest reduction of a picture of (W, H) that leaves SPARE times ``needed`` = (H, W)."""
    width, height = stored
    spare = min(height // (SPARE * needed[0]), width // (SPARE * needed[1]))
    return next((factor for factor in _FACTORS if factor <= spare), 1)


@functools.cache
def _simplejpeg() -> Any:
    try:
        return importlib.import_module("simplejpeg")  # the extra "jpeg"
    except ImportError:
        return None


def _by_simplejpeg(image: Image.Image, factor: int) -> Image.Image | None:
    """The picture by libjpeg-turbo without Pillow's copies; None without it, and for what it is not sure of.

    What it refuses Pillow has the last word on, so that the same pictures are skipped with and without it.
    """
    module, stream = _simplejpeg(), getattr(image, "fp", None)
    if module is None or stream is None or image.mode not in ("L", "RGB"):
        return None
    try:
        stream.seek(0)
        pixels_HWC = module.decode_jpeg(
            stream.read(),
            colorspace="GRAY" if image.mode == "L" else "RGB",
            min_height=-(-image.height // factor),
            min_width=-(-image.width // factor),
        )
    except Exception:  # of a library that need not be there: Pillow says what is wrong, if anything
        return None
    decoded = Image.fromarray(np.asarray(pixels_HWC)[..., 0] if image.mode == "L" else pixels_HWC)
    decoded = _whole(decoded, image.width / factor, image.height / factor)
    decoded.info = dict(image.info)  # with the EXIF
    return decoded
