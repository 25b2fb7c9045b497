"""Many small images as one picture: sheets with exact pixels, for files and for pages."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from ditkit.base.files import atomic_file

if TYPE_CHECKING:
    from torch import Tensor

    Images: TypeAlias = np.ndarray | Tensor
    """Images (N, C, H, W), uint8 in 0..255, C = 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 (RGBA); an array or a
    tensor on any device.
    """

Background: TypeAlias = int | tuple[int, int, int] | None
"""A grey level, an RGB colour, or None for transparent."""

LEAST = 48
"""Pixels along the longer side that an image keeps in a picture for the eye."""

_SMALL = 64
"""Images up to this many pixels a side are embedded without loss, and enlarged without smoothing."""


def as_array(images: Images) -> np.ndarray:
    """The images as a numpy array (N, C, H, W), uint8; ValueError for another layout or type."""
    array = np.asarray(images.detach().cpu() if hasattr(images, "detach") else images)  # type: ignore[union-attr]
    if array.ndim != 4 or array.shape[1] not in (1, 2, 3, 4) or array.dtype != np.uint8 or 0 in array.shape:
        raise ValueError(
            f"expected uint8 images (N, 1 to 4, H, W), none of the sizes 0; got {array.dtype} {array.shape}: "
            "scale to 0..255, round and convert first"
        )
    return array


def grid(images: Images, columns: int, *, padding: int = 2, background: Background = None) -> Image.Image:
    """The images side by side, row after row, as one picture.

    images: (N, C, H, W) uint8. padding: pixels between neighbours (none around the sheet). Image i has its top left
    pixel at row (i // columns) (H + padding), column (i % columns) (W + padding); all else has the background. With an
    alpha channel, or a transparent background, the sheet has one too.
    Raises ValueError for images of another layout, or columns < 1.
    """
    array_NCHW = as_array(images)
    if columns < 1 or padding < 0:
        raise ValueError(f"expected at least one column and padding >= 0; got {columns} columns, padding {padding}")
    n, c, h, w = array_NCHW.shape
    rows = -(-n // columns)
    alpha = c % 2 == 0
    sheet = _sheet(rows * (h + padding) - padding, columns * (w + padding) - padding, c, background)
    colours = sheet.shape[2] - (alpha or background is None)
    for i, image_CHW in enumerate(array_NCHW):
        top, left = (i // columns) * (h + padding), (i % columns) * (w + padding)
        cell_HWC = sheet[top : top + h, left : left + w]
        cell_HWC[..., :colours] = image_CHW[: c - alpha].transpose(1, 2, 0)  # one grey channel fills three colours
        cell_HWC[..., colours:] = image_CHW[c - alpha :].transpose(1, 2, 0) if alpha else 255  # opaque
    return Image.fromarray(sheet.squeeze(2) if sheet.shape[2] == 1 else sheet)


def _sheet(height: int, width: int, channels: int, background: Background) -> np.ndarray:
    """An empty sheet (height, width, channels), with an alpha channel too where the background is transparent."""
    alpha = channels % 2 == 0
    if background is None:
        return np.zeros((height, width, channels + (not alpha)), np.uint8)
    colour = np.atleast_1d(np.asarray(background, np.uint8))
    colour = np.broadcast_to(colour, max(channels - alpha, colour.size))
    pixel = np.append(colour, [255] * alpha).astype(np.uint8)
    return np.broadcast_to(pixel, (height, width, len(pixel))).copy()


def enlarged(picture: Image.Image, side: int) -> Image.Image:
    """A sheet of images whose longer side is ``side``, every pixel as so many that they are LEAST long or longer."""
    factor = math.ceil(LEAST / side)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def cells(picture: Image.Image, height: int, width: int, *, padding: int = 2) -> np.ndarray:
    """The images of a sheet that ``grid`` made, (N, C, H, W) uint8, those of an unfilled last row included."""
    sheet = np.atleast_3d(np.asarray(picture))
    rows, columns = -(-sheet.shape[0] // (height + padding)), -(-sheet.shape[1] // (width + padding))
    corners = [(r * (height + padding), c * (width + padding)) for r in range(rows) for c in range(columns)]
    return np.stack([sheet[top : top + height, left : left + width].transpose(2, 0, 1) for top, left in corners])


def png_bytes(picture: Image.Image) -> bytes:
    """The picture as a PNG file's content; the same picture gives the same bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save_png(path: Path | str, picture: Image.Image) -> None:
    """Writes the picture as PNG, atomically. Raises UserError when the device is full."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(png_bytes(picture))


def thumbnails(images: Images, side: int = 128) -> np.ndarray:
    """The images (N, C, H, W) uint8, shrunk so that neither side exceeds ``side`` pixels; small ones as they are."""
    array_NCHW = as_array(images)
    h, w = array_NCHW.shape[2:]
    if max(h, w) <= side:
        return array_NCHW
    size = (max(1, round(w * side / max(h, w))), max(1, round(h * side / max(h, w))))
    shrunk = [grid(image[None], 1, background=0).resize(size, Image.Resampling.LANCZOS) for image in array_NCHW]
    return np.stack([np.atleast_3d(np.asarray(image)).transpose(2, 0, 1) for image in shrunk])


def data_uri(images: Images, columns: int, *, padding: int = 2) -> str:
    """The images' grid on a transparent background as a data URI: PNG if they are small, WebP (lossy) if not."""
    picture = grid(images, columns, padding=padding)
    if max(images.shape[2:]) <= _SMALL:
        kind, content = "png", png_bytes(picture)
    else:
        buffer = io.BytesIO()
        picture.convert("RGBA").save(buffer, format="WEBP", quality=88)
        kind, content = "webp", buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
