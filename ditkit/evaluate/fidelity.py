"""How near reconstructions come to their images, pair by pair: PSNR and SSIM (and LPIPS, see ``networks/lpips.py``)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ditkit.base.errors import UserError
from ditkit.evaluate.images import check_images, check_same_shape

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def psnr(images: Tensor, others: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (N,) float64 in dB of pairs of uint8 images (N, C, H, W); infinite for equal ones.

    Raises UserError on other types, sizes or counts.
    """
    check_pairs(images, others)
    error = (images.double() - others.double()).square().mean((1, 2, 3))
    return 10 * torch.log10(255**2 / error)


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """Structural similarity (N,) float64 in -1..1 of pairs of uint8 images (N, C, H, W), the mean over channels.

    Wang et al. 2004, equations 13-16: Gaussian window of 11 and sigma 1.5, K = (0.01, 0.03), where the window fits.
    Raises UserError on other types, sizes or counts, or images smaller than the window.
    """
    check_pairs(images, others)
    if min(images.shape[2:]) < WINDOW:
        raise UserError(
            f"images are {tuple(images.shape[2:])}, expected at least {WINDOW}x{WINDOW} for SSIM: leave it out"
        )
    x, y = images.double(), others.double()
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    cov = blur(x * y) - mean_x * mean_y
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * cov + c2) / (var_x + var_y + c2)
    return (luminance * structure).mean((1, 2, 3))


def blur(x: Tensor) -> Tensor:
    """Local means (B, C, H - 10, W - 10) of x (B, C, H, W) under the Gaussian window."""
    places = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = (-(places**2) / (2 * SIGMA**2)).exp()
    weights = (weights / weights.sum()).expand(x.shape[1], 1, 1, WINDOW)
    rows = F.conv2d(x, weights, groups=x.shape[1])
    return F.conv2d(rows, weights.mT, groups=x.shape[1])


def check_pairs(images: Tensor, others: Tensor) -> None:
    """Raises UserError unless both are uint8 (N, C, H, W) of the same shape."""
    check_images("images", images)
    check_images("reconstructions", others)
    check_same_shape("reconstructions", others, "images", images)
    if len(images) != len(others):
        raise UserError(
            f"{len(others)} reconstructions of {len(images)} images, expected one of each: give both in order"
        )
