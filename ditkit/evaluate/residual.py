"""The small residual network whose last layer is the project's own feature space (He et al. 2016, arXiv:1512.03385)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ditkit.nn.init import allocate

WIDTHS = (32, 64, 128)


class Residual(nn.Module):
    """relu(x' + norm(conv(relu(norm(conv(x)))))), 3x3; x' is x, averaged and projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        changes = stride > 1 or inputs != outputs
        self.shortcut = (
            nn.Sequential(nn.AvgPool2d(stride, ceil_mode=True), nn.Conv2d(inputs, outputs, 1, bias=False))
            if changes
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(h)))


class ResidualNet(nn.Module):
    """A stem, one residual block for each width, each but the first at half the resolution, a mean, a linear head.

    The stem strides so that the blocks start at 16x16 or less, whatever the image's size: equal cost for all sizes.
    """

    def __init__(self, channels: int, height: int, width: int, outputs: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        stride = stem_stride(height, width)
        kernel = 2 * stride + 1
        self.stem = nn.Conv2d(channels, widths[0], kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        self.blocks = nn.ModuleList(
            Residual(a, b, stride=1 if i == 0 else 2)
            for i, (a, b) in enumerate(zip((widths[0], *widths), widths, strict=False))
        )
        self.head = nn.Linear(widths[-1], outputs)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, C, H, W) float32 in [-1, 1] to features (B, D) and logits (B, outputs)."""
        x = F.relu(self.norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        features = x.mean(dim=(2, 3))
        return features, self.head(features)


def stem_stride(height: int, width: int) -> int:
    """The power of two that brings an image to at most 16 * 16 positions, while its short side stays 4 or more."""
    stride = 1
    while height * width > (16 * stride) ** 2 and min(height, width) // (2 * stride) >= 4:
        stride *= 2
    return stride


def build(
    channels: int, height: int, width: int, outputs: int, generator: torch.Generator, widths: tuple[int, ...] = WIDTHS
) -> ResidualNet:
    """A ResidualNet with weights drawn from ``generator`` alone; the global random state is not touched.

    Convolutions start as He et al. 2015 (normal, fan in); each block starts as its shortcut.
    """
    # On the meta device the constructors' own draws do nothing.
    with torch.device("meta"):
        net = ResidualNet(channels, height, width, outputs, widths)
    allocate(net, "cpu")
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    for block in net.blocks:
        assert isinstance(block, Residual)
        nn.init.zeros_(block.norm2.weight)
    nn.init.normal_(net.head.weight, std=0.01, generator=generator)
    nn.init.zeros_(net.head.bias)
    return net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def multiply_adds(net: ResidualNet, channels: int, height: int, width: int) -> int:
    """Multiply-adds of one forward pass for one image."""
    net.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, channels, height, width))
    return counter.get_total_flops() // 2
