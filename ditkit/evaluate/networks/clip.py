"""CLIP ViT-L/14 at 336 as a feature space of images and captions: CMMD and the CLIP score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ditkit.evaluate.networks.hub import HubModel, library, normalised
from ditkit.evaluate.networks.network import NetworkProtocol, Taps, exact_float32
from ditkit.evaluate.networks.weights import weights_hash

SIZE = 336
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

MODEL = HubModel(
    network="clip", repository="openai/clip-vit-large-patch14-336", variable="DITKIT_CLIP", gives="CMMD and CLIP score"
)


class CLIP:
    """Projected embeddings of length 1 of images, resized to 336 bicubically, and of captions."""

    name: ClassVar[str] = "clip"
    aliases: ClassVar[Mapping[str, str]] = {"frechet_distance": "fd_clip", "kernel_distance": "kd_clip"}
    num_classes: ClassVar[int | None] = None

    def __init__(self, model: Any, tokenizer: Any, device: torch.device | str = "cpu") -> None:
        """model, tokenizer: transformers' CLIPModel and its CLIPTokenizer."""
        self.model = model.float().to(device).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.device = torch.device(device)
        self.protocol = NetworkProtocol(
            network=MODEL.repository,
            weights=weights_hash(model.state_dict()),
            resizing=f"{SIZE}x{SIZE}, bicubic with antialiasing",
            values="(x / 255 - mean) / std of CLIP",
            features="projected embedding of length 1",
            library=library(),
        )

    @classmethod
    def load(cls, path: Path | str | None = None, device: torch.device | str = "cpu") -> CLIP:
        """From a folder of the hub's files; None: DITKIT_CLIP or the hub's cache."""
        return cls(MODEL.load("CLIPModel", path), MODEL.load("CLIPTokenizer", path), device)

    @staticmethod
    def outline() -> tuple[nn.Module, torch.Size]:
        """What sees images, without numbers, on the meta device, and the shape of an image for it; no network of words.

        UserError as ``load``.
        """
        transformers = MODEL.package()
        config = transformers.CLIPVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            image_size=SIZE,
            patch_size=14,
            projection_dim=768,
        )
        with torch.device("meta"):
            return transformers.CLIPVisionModelWithProjection(config), torch.Size([1, 3, SIZE, SIZE])

    @torch.no_grad()
    def look(self, images: Tensor) -> Taps:
        """Features (B, D) of uint8 images (B, C, H, W), on the CPU."""
        pixels = normalised(images.to(self.device), SIZE, MEAN, STD)
        with exact_float32():
            seen = self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
        return Taps(F.normalize(seen, dim=1).float().cpu())

    @torch.no_grad()
    def read(self, captions: Sequence[str]) -> Tensor:
        """Features (B, D) of captions, on the CPU; of longer ones, the first 77 tokens."""
        tokens = self.tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
        held = {key: tokens[key].to(self.device) for key in ("input_ids", "attention_mask")}
        with exact_float32():
            text = self.model.text_projection(self.model.text_model(**held).pooler_output)
        return F.normalize(text, dim=1).float().cpu()
