"""LPIPS: distance of two images in VGG-16's features (Zhang et al. 2018, arXiv:1801.03924, equation 1)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ditkit.base.errors import UserError
from ditkit.convert.files import read_state
from ditkit.evaluate.fidelity import check_pairs
from ditkit.evaluate.networks.network import as_rgb
from ditkit.evaluate.networks.weights import Published
from ditkit.nn.cost import multiply_adds

STAGES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
"""The convolutions of VGG-16's five stages by their numbers in the published state dict."""
WIDTHS = (64, 128, 256, 512, 512)
"""Their channels."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's mean and deviation for values in [-1, 1]."""

VGG = Published(
    "lpips", "vgg16-397923af.pth", "https://download.pytorch.org/models/vgg16-397923af.pth", "DITKIT_VGG16", "LPIPS"
)
HEADS = Published(
    "lpips",
    "lpips_vgg.pth",
    "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth",
    "DITKIT_LPIPS",
    "LPIPS",
)


class LPIPS:
    """The published v0.1 distance on VGG-16. vgg: its convolutions by key. heads: ``lin0`` to ``lin4`` by key."""

    def __init__(
        self, vgg: Mapping[str, Tensor], heads: Mapping[str, Tensor], device: torch.device | str = "cpu"
    ) -> None:
        """Raises UserError when a weight is missing."""
        try:
            self.stages = [
                [(vgg[f"features.{i}.weight"].to(device), vgg[f"features.{i}.bias"].to(device)) for i in stage]
                for stage in STAGES
            ]
            self.heads = [heads[f"lin{i}.model.1.weight"].float().to(device) for i in range(len(STAGES))]
        except KeyError as error:
            raise UserError(
                f"weights of LPIPS have no {error}: give {VGG.file} and {HEADS.url} (saved as {HEADS.file})"
            ) from None
        self.device = torch.device(device)

    @classmethod
    def load(cls, device: torch.device | str = "cpu") -> LPIPS:
        """From DITKIT_VGG16 and DITKIT_LPIPS, or torch's hub cache."""
        return cls(read_state(VGG.find()), read_state(HEADS.find()), device)

    @classmethod
    def training_cost(cls, shape: torch.Size) -> int:
        """Multiply-adds of ``distance`` of images of a shape (N, C, H, W), and of its gradient for one of them."""
        vgg, inputs = {}, 3
        for stage, width in zip(STAGES, WIDTHS, strict=True):
            for i in stage:
                vgg[f"features.{i}.weight"] = torch.empty(width, inputs, 3, 3, device="meta")
                vgg[f"features.{i}.bias"] = torch.empty(width, device="meta")
                inputs = width
        heads = {f"lin{i}.model.1.weight": torch.empty(1, w, 1, 1, device="meta") for i, w in enumerate(WIDTHS)}
        net, real = cls(vgg, heads, "meta"), torch.empty(shape, device="meta")
        made = torch.empty(shape, device="meta", requires_grad=True)
        return multiply_adds(lambda: net.distance(real, made).sum().backward())

    @torch.no_grad()
    def __call__(self, images: Tensor, others: Tensor) -> Tensor:
        """Distances (N,) float32 of pairs of uint8 images (N, C, H, W), 0 or more; UserError as ``fidelity.psnr``."""
        check_pairs(images, others)
        x, y = (pixels.to(self.device) / 127.5 - 1 for pixels in (images, others))
        return self.distance(x, y).cpu()

    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances (N,) of pairs of images (N, C, H, W) float32 in [-1, 1] on its device, with gradients."""
        x, y = self._scaled(x), self._scaled(y)
        total = torch.zeros(len(x), device=self.device)
        for number, (stage, head) in enumerate(zip(self.stages, self.heads, strict=True)):
            x, y = (_through(stage, F.max_pool2d(h, 2) if number else h) for h in (x, y))
            difference = (_unit(x) - _unit(y)).square()
            total += F.conv2d(difference, head).mean((1, 2, 3))
        return total

    def _scaled(self, x: Tensor) -> Tensor:
        shift, scale = (torch.tensor(v, device=self.device)[:, None, None] for v in (SHIFT, SCALE))
        return (as_rgb(x) - shift) / scale


def _through(stage: list[tuple[Tensor, Tensor]], h: Tensor) -> Tensor:
    for weight, bias in stage:
        h = F.relu(F.conv2d(h, weight, bias, padding=1))
    return h


def _unit(h: Tensor) -> Tensor:
    """Each position's channels at length 1."""
    return h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10)
