"""Relatives of the KL autoencoder: one with a codebook, and a small fast one for processors without a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditkit.base.errors import UserError
from ditkit.encoders.autoencoder import Apply, Autoencoded, LatentAutoencoder, at_once
from ditkit.nn.autocast import without_autocast
from ditkit.nn.init import allocate, initialise

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
        if known["channels"] % patch**2:
            raise UserError(
                f"its config.json says patch_size {patch}, for a multiple of {patch**2} channels, the weights take "
                f"{known['channels']}: put the config.json of these there"
            )
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
        allocate(self.codebook, device)
        initialise(self.codebook, seed)

    @classmethod
    def arguments(cls, known: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        """See ``LatentAutoencoder``."""
        return {**known, "codes": int(config["num_vq_embeddings"])}

    def own_config(self) -> dict[str, Any]:
        """See ``LatentAutoencoder``."""
        return {"num_vq_embeddings": self.codebook.num_embeddings, "vq_embed_dim": self.latent_channels}

    def moments(self, pixels: Tensor, apply: Apply = at_once) -> Tensor:
        """See ``LatentAutoencoder``: the encoder's output as the mean, no variance to speak of."""
        z = super().moments(pixels, apply)
        return torch.cat([z, torch.full_like(z, CERTAIN)], dim=1)

    def indices(self, z: Tensor) -> Tensor:
        """Of the code nearest to each latent of z (B, c, h, w): (B, h, w) int64; equation 1 of van den Oord et al."""
        codes_Kc = self.codebook.weight.to(z.dtype)
        rows_Nc = z.movedim(1, -1).flatten(0, -2)
        with without_autocast(z.device.type):  # rounded products would take codes for their neighbours
            distance_NK = codes_Kc.square().sum(1) - 2 * rows_Nc @ codes_Kc.mT  # but for |z|^2, which ranks nothing
        return distance_NK.argmin(1).unflatten(0, (z.shape[0], *z.shape[2:]))

    def codes(self, indices: Tensor, dtype: torch.dtype) -> Tensor:
        """The codes (B, c, h, w) of indices (B, h, w)."""
        return F.embedding(indices, self.codebook.weight.to(dtype)).movedim(-1, 1)

    def nearest(self, z: Tensor) -> Tensor:
        """The code nearest to each latent of z (B, c, h, w), the same shape; equation 2 of van den Oord et al."""
        return self.codes(self.indices(z), z.dtype)

    def counts(self, indices: Tensor) -> Tensor:
        """How often each code is among indices of any shape, (codes,) int64."""
        return torch.bincount(indices.flatten(), minlength=self.codebook.num_embeddings)

    def code_counts(self, pixels: Tensor) -> Tensor:
        """See ``LatentAutoencoder``."""
        return self.counts(self.indices(self.posterior(pixels).mean))

    def reconstruct(self, z: Tensor, apply: Apply = at_once) -> Tensor:
        """See ``LatentAutoencoder``: of the nearest codes."""
        return super().reconstruct(self.nearest(z), apply)

    def autoencode(self, pixels: Tensor, noise: Tensor) -> Autoencoded:
        """See ``LatentAutoencoder``; the gradient goes straight through from the codes to the encoder's output.

        Penalties, the two last terms of equation 3 of van den Oord et al., means over a sample's latents: "codebook"
        |sg(z) - e|^2 moves the codes, "commitment" |z - sg(e)|^2 the encoder. Note "codebook_perplexity", of the batch.
        """
        z = self.posterior(pixels).mean
        indices = self.indices(z)
        e = self.codes(indices, z.dtype)
        penalties = {
            "codebook": (z.detach() - e).square().flatten(1).mean(1),
            "commitment": (z - e.detach()).square().flatten(1).mean(1),
        }
        notes = {"codebook_perplexity": perplexity(self.counts(indices))[None]}
        return Autoencoded(super().reconstruct(z + (e - z).detach()), penalties, notes)


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of codes that are met so often, (codes,): how many are in use evenly, () float32.

    Of a batch it cannot be more than the batch has latents.
    """
    share = counts.float() / counts.sum()
    return torch.special.entr(share).sum().exp()
