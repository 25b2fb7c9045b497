"""In what precision an autoencoder computes: its weights as they are, its matrix products in another dtype."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from ditkit.encoders.autoencoder import LatentAutoencoder, Posterior, Shape
from ditkit.encoders.tiling import Tiled

PRECISIONS: Mapping[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
"""What a precision can be, and the dtype of matrix products that it means; None: that of the weights."""


@dataclasses.dataclass(frozen=True)
class Autocast:
    """An autoencoder whose convolutions and attention compute in ``dtype`` (see ``Autoencoder``).

    Its identity is that of the weights, which stay as they are: latents of both precisions are of one autoencoder.
    What comes out is float32 again, the posterior with its exponential too.
    """

    inner: LatentAutoencoder | Tiled
    dtype: torch.dtype

    @property
    def identity(self) -> str:
        """See ``Autoencoder``."""
        return self.inner.identity

    def latent_shape(self, shape: Shape) -> Shape:
        """See ``Autoencoder``."""
        return self.inner.latent_shape(shape)

    def posterior(self, pixels: Tensor) -> Posterior:
        """q(z | x) of pixels (B, C, H, W), before normalisation."""
        with torch.autocast(pixels.device.type, dtype=self.dtype):
            return self.inner.posterior(pixels)

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """See ``Autoencoder``."""
        with torch.autocast(pixels.device.type, dtype=self.dtype):
            return self.inner.encode(pixels, noise)

    def decode(self, latents: Tensor) -> Tensor:
        """See ``Autoencoder``."""
        with torch.autocast(latents.device.type, dtype=self.dtype):
            return self.inner.decode(latents)


def in_precision(net: LatentAutoencoder | Tiled, precision: str) -> LatentAutoencoder | Tiled | Autocast:
    """The autoencoder, which computes in a precision (see PRECISIONS)."""
    dtype = PRECISIONS[precision]
    return net if dtype is None else Autocast(net, dtype)
