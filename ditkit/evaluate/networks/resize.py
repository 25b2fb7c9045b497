"""The two ways in which published metrics bring images to a network's size."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bilinear_tf1(images: Tensor, height: int, width: int) -> Tensor:
    """Images (B, C, H, W) as float32 of height x width by TensorFlow 1's rule: output pixel i lies at i * H / height.

    No half-pixel centres and no antialiasing: what the standard FID was defined with, wrong as it is for images
    larger than the network's (Parmar et al. 2022, arXiv:2104.11222).
    """
    x = images.float()
    top, bottom, down = _neighbours(images.shape[2], height, x.device)
    left, right, across = _neighbours(images.shape[3], width, x.device)
    upper, lower = x[:, :, top], x[:, :, bottom]
    upper = upper[..., left].lerp(upper[..., right], across)
    lower = lower[..., left].lerp(lower[..., right], across)
    return upper.lerp(lower, down[:, None])


def bicubic(images: Tensor, size: int) -> Tensor:
    """Images (B, C, H, W) as float32 in 0..255 of size x size: bicubic with antialiasing, rounded to whole values."""
    resized = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True, align_corners=False)
    return resized.round().clamp(0, 255)


def _neighbours(given: int, wanted: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of ``wanted`` places: the pixel before it, the one after it, and how far it is between them, 0..1."""
    # Float32, as in the published graph: the same place falls between the same pixels.
    places = torch.arange(wanted, dtype=torch.float32, device=device) * torch.tensor(given / wanted)
    before = places.floor().long().clamp(max=given - 1)
    return before, (before + 1).clamp(max=given - 1), places - before
