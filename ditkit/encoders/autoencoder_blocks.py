"""The two halves of the convolutional autoencoder of latent diffusion, and their blocks.

Esser et al. 2021 (VQGAN), appendix; Rombach et al. 2022, appendix G. Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ditkit.base.errors import UserError
from ditkit.nn.attention import SelfAttention


def group_norm(width: int, groups: int) -> nn.GroupNorm:
    """A GroupNorm over the channels; UserError when the groups do not divide the width."""
    if groups < 1 or width % groups:
        raise UserError(f"autoencoder width {width} cannot be split into {groups} norm groups: give groups that divide")
    return nn.GroupNorm(groups, width, eps=1e-6)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), the shortcut a 1x1 convolution where the width changes."""

    def __init__(self, width_in: int, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = group_norm(width_in, groups)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.norm2 = group_norm(width, groups)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.shortcut = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, width, H, W)."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.shortcut(x) + h


class PixelAttention(nn.Module):
    """x + attention(norm(x)) with one head, every pixel a token."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(width, groups)
        self.attention = SelfAttention(width, heads=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # B HW C
        return x + self.attention(tokens).transpose(1, 2).unflatten(2, x.shape[2:])


class Downsample(nn.Module):
    """Half the height and width by a strided convolution; padded on the right and below only, as published."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H/2, W/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the height and width: each pixel repeated, then a convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, 2H, 2W)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Stage(nn.Module):
    """Residual blocks at one resolution, then the step to the next one (nothing at the last)."""

    def __init__(self, width_in: int, width: int, blocks: int, groups: int, resample: nn.Module) -> None:
        super().__init__()
        self.width = width
        self.blocks = nn.Sequential(*(ResBlock(width if j else width_in, width, groups) for j in range(blocks)))
        self.resample = resample

    def forward(self, x: Tensor) -> Tensor:
        """(B, width_in, H, W) to (B, width, H', W')."""
        return self.resample(self.blocks(x))


def middle(width: int, groups: int) -> nn.Sequential:
    """The blocks at the lowest resolution, around the attention: (B, C, H, W) to the same."""
    return nn.Sequential(ResBlock(width, width, groups), PixelAttention(width, groups), ResBlock(width, width, groups))


class Encoder(nn.Module):
    """Pixels (B, C, H, W) to features (B, out_channels, H/f, W/f), f = 2^(len(widths) - 1)."""

    def __init__(self, channels: int, out_channels: int, widths: Sequence[int], blocks: int, groups: int) -> None:
        """widths: of the stages, from full resolution down. blocks: residual blocks per stage."""
        super().__init__()
        self.conv_in = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.stages = nn.Sequential()
        for i, width in enumerate(widths):
            resample = Downsample(width) if i < len(widths) - 1 else nn.Identity()
            self.stages.append(Stage(widths[max(i - 1, 0)], width, blocks, groups, resample))
        self.mid = middle(widths[-1], groups)
        self.norm_out = group_norm(widths[-1], groups)
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out_channels, H/f, W/f)."""
        return self.through_middle(self.descend(x))

    def descend(self, x: Tensor) -> Tensor:
        """The part that sees a neighbourhood (but for its norms): (B, C, H, W) to (B, widths[-1], H/f, W/f)."""
        return self.stages(self.conv_in(x))

    def through_middle(self, h: Tensor) -> Tensor:
        """The part that sees the whole image, at the lowest resolution: to (B, out_channels, H/f, W/f)."""
        return self.conv_out(F.silu(self.norm_out(self.mid(h))))


class Decoder(nn.Module):
    """Latents (B, in_channels, h, w) to pixels (B, C, f h, f w): the encoder's mirror, one block more per stage."""

    def __init__(self, channels: int, in_channels: int, widths: Sequence[int], blocks: int, groups: int) -> None:
        """widths and blocks: the encoder's."""
        super().__init__()
        upward = [*reversed(widths)]
        self.conv_in = nn.Conv2d(in_channels, upward[0], 3, padding=1)
        self.mid = middle(upward[0], groups)
        self.stages = nn.Sequential()
        for i, width in enumerate(upward):
            resample = Upsample(width) if i < len(upward) - 1 else nn.Identity()
            self.stages.append(Stage(upward[max(i - 1, 0)], width, blocks + 1, groups, resample))
        self.norm_out = group_norm(upward[-1], groups)
        self.conv_out = nn.Conv2d(upward[-1], channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """(B, in_channels, h, w) to (B, C, f h, f w)."""
        return self.ascend(self.through_middle(z))

    def through_middle(self, z: Tensor) -> Tensor:
        """The part that sees the whole image, at the lowest resolution: to (B, widths[-1], h, w)."""
        return self.mid(self.conv_in(z))

    def ascend(self, h: Tensor) -> Tensor:
        """The part that sees a neighbourhood (but for its norms): (B, widths[-1], h, w) to (B, C, f h, f w)."""
        return self.conv_out(F.silu(self.norm_out(self.stages(h))))
