"""The patch discriminator: it judges every neighbourhood of an image, not the image as a whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditkit.encoders.autoencoder_blocks import group_norm
from ditkit.nn.init import allocate, initialise


class PatchDiscriminator(nn.Module):
    """Pixels to a logit for each neighbourhood (Isola et al. 2017, section 3.2), above 0 where it looks real.

    channels: of the pixels. width: of the first layer, doubled by each further one up to 8 times. layers: that halve
    height and width. Norms over groups, not over batches as published: an image's logits do not depend on the others.
    """

    def __init__(self, channels: int, width: int = 64, layers: int = 3, *, seed: int = 0) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(layers + 1)]
        device = torch.empty(0).device
        with torch.device("meta"):
            self.conv_in = nn.Conv2d(channels, width, 4, stride=2, padding=1)
            self.convs = nn.ModuleList(
                nn.Conv2d(widths[i], widths[i + 1], 4, stride=2 if i < layers - 1 else 1, padding=1)
                for i in range(layers)
            )
            self.norms = nn.ModuleList(group_norm(w, 4) for w in widths[1:])
            self.conv_out = nn.Conv2d(widths[-1], 1, 4, padding=1)
        allocate(self, device)
        initialise(self, seed)

    def forward(self, x: Tensor) -> Tensor:
        """Pixels (B, C, H, W) in [-1, 1] to logits (B, 1, h, w)."""
        h = F.leaky_relu(self.conv_in(x), 0.2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = F.leaky_relu(norm(conv(h)), 0.2)
        return self.conv_out(h)


def smallest(layers: int) -> int:
    """The least height and width in pixels that a discriminator of so many layers can judge."""
    return 3 * 2**layers
