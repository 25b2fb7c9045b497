"""DINOv2 ViT-L/14 as a feature space: FD-DINOv2 (Stein et al. 2023, arXiv:2306.04675)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ditkit.evaluate.networks.hub import HubModel, library, normalised
from ditkit.evaluate.networks.network import NetworkProtocol, Taps, exact_float32
from ditkit.evaluate.networks.weights import weights_hash

SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MODEL = HubModel(
    network="dinov2", repository="facebook/dinov2-large", variable="DITKIT_DINOV2", gives="FD-DINOv2 and KD-DINOv2"
)


class DINOv2:
    """The normalised class token (B, 1024) of images resized to 224 bicubically and normalised as ImageNet's."""

    name: ClassVar[str] = "dinov2"
    aliases: ClassVar[Mapping[str, str]] = {"frechet_distance": "fd_dinov2", "kernel_distance": "kd_dinov2"}
    num_classes: ClassVar[int | None] = None

    def __init__(self, model: Any, device: torch.device | str = "cpu") -> None:
        """model: transformers' Dinov2Model."""
        self.model = model.float().to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self.protocol = NetworkProtocol(
            network=MODEL.repository,
            weights=weights_hash(model.state_dict()),
            resizing=f"{SIZE}x{SIZE}, bicubic with antialiasing",
            values="(x / 255 - mean) / std of ImageNet",
            features="class token after the last norm",
            library=library(),
        )

    @classmethod
    def load(cls, path: Path | str | None = None, device: torch.device | str = "cpu") -> DINOv2:
        """From a folder of the hub's files; None: DITKIT_DINOV2 or the hub's cache."""
        return cls(MODEL.load("Dinov2Model", path), device)

    @staticmethod
    def outline() -> tuple[nn.Module, torch.Size]:
        """The network without numbers, on the meta device, and the shape of an image for it. UserError as ``load``."""
        transformers = MODEL.package()
        config = transformers.Dinov2Config(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=518, patch_size=14
        )
        with torch.device("meta"):
            return transformers.Dinov2Model(config), torch.Size([1, 3, SIZE, SIZE])

    @torch.no_grad()
    def look(self, images: Tensor) -> Taps:
        """Features (B, D) of uint8 images (B, C, H, W), on the CPU."""
        pixels = normalised(images.to(self.device), SIZE, MEAN, STD)
        with exact_float32():
            return Taps(self.model(pixel_values=pixels).last_hidden_state[:, 0].float().cpu())
