"""The two ways in which published metrics bring images to a network's size."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def bilinear_tf1(images: Tensor, height: int, width: int) -> Tensor:
    """Images (B, C, H, W) as float32 of height x width by TensorFlow 1's rule: output pixel i lies at i * H / height.

    No half-pixel centres and no antialiasing: what the standard FID was defined with, wrong as it is for images
    larger than the network's (Parmar et al. 2022, arXiv:2104.11222).
    """
    # A row and a column past the end, as the rule has them, and corner on corner: the places are then the same.
    x = F.pad(images.float(), (0, 1, 0, 1), mode="replicate")
    x = F.interpolate(x, (height + 1, width + 1), mode="bilinear", align_corners=True)
    return x[:, :, :height, :width]


def bicubic(images: Tensor, size: int) -> Tensor:
    """Images (B, C, H, W) as float32 in 0..255 of size x size: bicubic with antialiasing, rounded to whole values."""
    resized = F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True, align_corners=False)
    return resized.round().clamp(0, 255)
