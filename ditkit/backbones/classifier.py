"""A classifier of noisy images, p(y | x_t): a backbone's tokens, pooled (Dhariwal & Nichol 2021, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ditkit.base.rng import generator
from ditkit.condition import Condition

# Shapes: B batch, N tokens, D width, C channels, K classes.


class NoisyClassifier(nn.Module):
    """The mean of a backbone's last tokens, normalised, to the logits of K classes.

    backbone: without classes, called as net(x, t, condition, keep); ``width`` is D, ``depth`` its number of blocks.
    Its last layer, which would make an image, is left out. seed: of the head's weights.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, *, seed: int = 0) -> None:
        super().__init__()
        self.backbone, self.last = backbone, int(backbone.depth) - 1  # type: ignore[arg-type]
        self.grid = backbone.grid
        width = int(backbone.width)  # type: ignore[arg-type]
        backbone.final.requires_grad_(False)  # type: ignore[union-attr]
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        with torch.no_grad():
            source = generator(seed, "weights classifier.head")
            self.head.weight.copy_(torch.randn(num_classes, width, generator=source) * width**-0.5)
            self.head.bias.zero_()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Logits (B, K) float32 of x (B, C, H, W), the network's input, at network time t (B,)."""
        tokens = self.backbone(x, t, Condition(), keep=(self.last,)).kept[self.last]  # B N D
        return self.head(self.norm(tokens.mean(1))).float()
