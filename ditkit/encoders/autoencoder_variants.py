"""Relatives of the KL autoencoder: one with a codebook, and a small fast one for processors without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditkit.encoders.autoencoder import Autoencoded, LatentAutoencoder
from ditkit.nn.init import initialise

CERTAIN = -30.0
"""Log variance of a latent that is not drawn: the lowest that ``Posterior.of`` lets through."""


class PatchAutoencoderKL(LatentAutoencoder):
    """A KL autoencoder on patches of P x P pixels: it computes nothing at full resolution, where most work would be.

    patch_size: P; the other arguments are those of ``LatentAutoencoder``, widths from the patches' resolution down.
    """

    name = "fast"

    def __init__(self, *args: Any, patch_size: int = 4, **others: Any) -> None:
        self.patch_size = patch_size
        super().__init__(*args, **others)

    @classmethod
    def of_factor(cls, factor: int, width: int, **others: Any) -> Self:
        """See ``LatentAutoencoder``: one stage, at the resolution of the latents."""
        return super().of_factor(1, width, patch_size=factor, **others)

    @classmethod
    def arguments(cls, known: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        """See ``LatentAutoencoder``."""
        patch = int(config["patch_size"])
        return {**known, "channels": known["channels"] // patch**2, "patch_size": patch}

    def own_config(self) -> dict[str, Any]:
        """See ``LatentAutoencoder``."""
        return {"patch_size": self.patch_size}


class VQModel(LatentAutoencoder):
    """Latent diffusion's autoencoder with a codebook (van den Oord et al. 2017; Rombach et al. 2022, appendix G).

    What is diffused is the encoder's output, which the decoder replaces by its nearest codes. codes: how many there
    are; the other arguments are those of ``LatentAutoencoder``.
    """

    name = "vq"
    moments_each: ClassVar[int] = 1

    def __init__(self, *args: Any, codes: int = 8192, seed: int = 0, **others: Any) -> None:
        super().__init__(*args, seed=seed, **others)
        device = torch.empty(0).device
        with torch.device("meta"):
            self.codebook = nn.Embedding(codes, self.latent_channels)
        self.codebook.to_empty(device=device)
        initialise(self.codebook, seed)

    @classmethod
    def arguments(cls, known: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        """See ``LatentAutoencoder``."""
        return {**known, "codes": int(config["num_vq_embeddings"])}

    def own_config(self) -> dict[str, Any]:
        """See ``LatentAutoencoder``."""
        return {"num_vq_embeddings": self.codebook.num_embeddings, "vq_embed_dim": self.latent_channels}

    def moments(self, pixels: Tensor) -> Tensor:
        """See ``LatentAutoencoder``: the encoder's output as the mean, no variance to speak of."""
        z = super().moments(pixels)
        return torch.cat([z, torch.full_like(z, CERTAIN)], dim=1)

    def nearest(self, z: Tensor) -> Tensor:
        """The code nearest to each latent of z (B, c, h, w), the same shape; equation 2 of van den Oord et al."""
        codes_Kc = self.codebook.weight.to(z.dtype)
        rows_Nc = z.movedim(1, -1).flatten(0, -2)
        distance_NK = codes_Kc.square().sum(1) - 2 * rows_Nc @ codes_Kc.mT  # but for |z|^2, which ranks nothing
        found_Nc = F.embedding(distance_NK.argmin(1), codes_Kc)
        return found_Nc.unflatten(0, (z.shape[0], *z.shape[2:])).movedim(-1, 1)

    def reconstruct(self, z: Tensor) -> Tensor:
        """See ``LatentAutoencoder``: of the nearest codes."""
        return super().reconstruct(self.nearest(z))

    def autoencode(self, pixels: Tensor, noise: Tensor) -> Autoencoded:
        """See ``LatentAutoencoder``; the gradient goes straight through from the codes to the encoder's output.

        Penalties, the two last terms of equation 3 of van den Oord et al., means over a sample's latents: "codebook"
        |sg(z) - e|^2 moves the codes, "commitment" |z - sg(e)|^2 the encoder.
        """
        z = self.posterior(pixels).mean
        e = self.nearest(z)
        penalties = {
            "codebook": (z.detach() - e).square().flatten(1).mean(1),
            "commitment": (z - e.detach()).square().flatten(1).mean(1),
        }
        return Autoencoded(super().reconstruct(z + (e - z).detach()), penalties)
