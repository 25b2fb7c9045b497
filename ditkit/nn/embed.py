"""Embeddings: diffusion time, class labels, image patches and their positions."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ditkit.base.errors import UserError
from ditkit.condition import NULL_LABEL
from ditkit.nn.autocast import without_autocast

# Shapes: B batch, N tokens, D width, C channels, h x w grid of patches.


def timestep_embedding(t: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """cat[cos(t f), sin(t f)] with f_i = max_period^(-i / (dim // 2)): (B,) to (B, dim) float32; odd dims end with 0.

    Vaswani et al. 2017, section 3.5, for a real position t.
    """
    half = dim // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies  # B dim/2
    return nn.functional.pad(torch.cat([angles.cos(), angles.sin()], dim=-1), (0, dim % 2))


class TimeEmbedding(nn.Module):
    """Network time (B,), float or integer, to a vector (B, D): sinusoids, linear, SiLU, linear.

    Evaluated outside of any autocast: times up to 1000 need more digits than half precision has.
    """

    def __init__(self, width: int, frequencies: int = 256, max_period: float = 10_000.0) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.max_period = max_period
        self.inner = nn.Linear(frequencies, width)
        self.outer = nn.Linear(width, width)

    def forward(self, t: Tensor) -> Tensor:
        """(B,) to (B, D) in the dtype of the weights."""
        with without_autocast(t.device.type):
            waves = timestep_embedding(t, self.frequencies, self.max_period).to(self.inner.weight.dtype)
            return self.outer(nn.functional.silu(self.inner(waves)))


class LabelEmbedding(nn.Module):
    """Labels (B,) int64 in 0..K-1 to vectors (B, D); NULL_LABEL to a learned row of its own, where there is one."""

    def __init__(self, num_classes: int, width: int, null_row: bool = True) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.null_row = null_row
        # not nn.Embedding(...): its draw, on the meta device, loads torch's compiler, which takes seconds
        self.table = nn.Embedding.from_pretrained(torch.empty(num_classes + int(null_row), width), freeze=False)

    def forward(self, label: Tensor) -> Tensor:
        """(B,) to (B, D). Raises UserError for a label that has no row."""
        self._check(label)
        return self.table(torch.where(label == NULL_LABEL, self.num_classes, label))

    def _check(self, label: Tensor) -> None:
        # Looking at a value would stall a GPU and break a compiled graph; there an index error is raised by the lookup.
        if label.device.type != "cpu" or torch.compiler.is_compiling():
            return
        lowest = NULL_LABEL if self.null_row else 0
        for value in label[(label < lowest) | (label >= self.num_classes)][:1].tolist():
            null = " (this model has no null label)" if value == NULL_LABEL else ""
            raise UserError(f"class label {value}{null}: expected 0 to {self.num_classes - 1}")


class PatchEmbedding(nn.Module):
    """Images (B, C, H, W) to tokens (B, N, D), one per patch of P x P pixels, row by row."""

    def __init__(self, in_channels: int, patch_size: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(in_channels, width, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, N, D)."""
        return self.projection(x).flatten(2).transpose(1, 2)


def unpatchify(tokens: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Tokens (B, h w, P P C), channel fastest, to images (B, C, h P, w P)."""
    h, w = grid
    x = tokens.unflatten(-1, (patch_size, patch_size, -1)).unflatten(1, (h, w))  # B h w P P C
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def sincos_2d(width: int, grid_h: int, grid_w: int) -> Tensor:
    """Fixed positions of a grid of patches, row by row: (grid_h grid_w, width) float64.

    The first half of the columns encodes the column index, the second the row index, each as cat[sin, cos] of
    index * 10000^(-i / (width / 4)). Raises UserError when the width is no multiple of 4.
    """
    if width % 4:
        raise UserError(f"width {width}: two-dimensional positions need a multiple of 4")
    quarter = width // 4
    omega = 10_000.0 ** (-torch.arange(quarter, dtype=torch.float64, device="cpu") / quarter)

    def encode(index: Tensor) -> Tensor:
        angles = index[:, None] * omega
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    position = torch.arange(grid_h * grid_w, dtype=torch.float64, device="cpu")
    row, column = position.div(grid_w, rounding_mode="floor"), position % grid_w
    return torch.cat([encode(column), encode(row)], dim=-1)
