"""The pixels themselves as a feature space: no weights, no training, the same numbers on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.base.pixels import from_uint8
from ditkit.evaluate.networks.network import NetworkProtocol, Taps

MOST = 4096
"""Numbers of an image, at most: the covariance of more would not fit in memory."""


class Pixels:
    """The pixels (B, C H W) in [-1, 1], for small images.

    Their mean and covariance tell samples that are blurred, faded, moved or of too few kinds; they know nothing of what
    is to be seen. Use a trained network where one is at hand.
    """

    name: ClassVar[str] = "pixels"
    aliases: ClassVar[Mapping[str, str]] = {}
    num_classes: ClassVar[int | None] = None
    protocol: ClassVar[NetworkProtocol] = NetworkProtocol(
        network="pixels", weights="none", resizing="none", values="x / 127.5 - 1", features="all pixels"
    )

    @classmethod
    def load(cls, path: Path | str | None = None, device: torch.device | str = "cpu") -> Pixels:
        """There is nothing to read. Raises UserError where a path is given."""
        if path is not None:
            raise UserError(f"the feature network 'pixels' has no weights: leave {path} out")
        return cls()

    def look(self, images: Tensor) -> Taps:
        """Features (B, C H W) of uint8 images (B, C, H, W), on the CPU. Raises UserError where they are too large."""
        numbers = images[0].numel()
        if numbers > MOST:
            raise UserError(
                f"images of {tuple(images.shape[1:])} (C, H, W) have {numbers:,} numbers, the feature network 'pixels' "
                f"takes at most {MOST:,}: choose another network"
            )
        return Taps(from_uint8(images.cpu()).flatten(1))
