"""Floor 4: training an autoencoder, and a patch discriminator against it.

Esser et al. 2021 (VQGAN), section 3.1; Rombach et al. 2022, appendix G.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ditkit.data.loader import Batch
from ditkit.encoders.autoencoder import LatentAutoencoder, posterior_noise
from ditkit.encoders.discriminator import PatchDiscriminator
from ditkit.objectives.loss import Loss, mean_flat
from ditkit.objectives.reconstruction import adaptive_weight, hinge_discriminator, hinge_generator

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Images and reconstructions (B, C, H, W) in [-1, 1] to distances (B,), with gradients."""


class Opponents(nn.Module):
    """The two networks of the game, as one to optimise, average and keep. discriminator: None is no game."""

    def __init__(self, autoencoder: LatentAutoencoder, discriminator: PatchDiscriminator | None) -> None:
        super().__init__()
        self.autoencoder, self.discriminator = autoencoder, discriminator

    def forward(self, pixels: Tensor) -> Tensor:
        """Reconstructions (B, C, H, W) of images, by the mean of the posterior."""
        return self.autoencoder.reconstruct(self.autoencoder.posterior(pixels).mean)


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What is autoencoded in a step: pixels (B, C, H, W), noise of the posterior (B, c, h, w); the step's number."""

    pixels: Tensor
    noise: Tensor
    step: int

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: slice) -> Pictures:
        return Pictures(self.pixels[rows], self.noise[rows], self.step)


@dataclasses.dataclass
class Autoencoding:
    """A task (see ``ditkit.train.task``): L1, a perceptual distance, the penalties on the latents, the game.

    net: both networks, on their device. penalties: the weight of each that the autoencoder names. perceptual: None is
    none. adversarial: the game's weight, from the step ``game_from`` on. autocast: the dtype of matrix products; None:
    as the weights. Where a batch is split, each part has its own adaptive weight.
    """

    net: Opponents
    seed: int
    penalties: Mapping[str, float]
    perceptual: Perceptual | None = None
    perceptual_weight: float = 1.0
    adversarial: float = 0.5
    game_from: int = 0
    autocast: torch.dtype | None = None

    def work(self, batch: Batch, step: int) -> Pictures:
        """See ``Task``."""
        device, x = next(self.net.parameters()).device, batch.x0
        channels, height, width = x.shape[1:]
        shape = self.net.autoencoder.latent_shape((channels, height, width))
        noise = posterior_noise(shape, self.seed, batch.keys)
        return Pictures(x.to(device), noise.to(device), step)

    def loss(self, net: nn.Module, work: Pictures) -> Loss:
        """See ``Task``; one part for each term, weighed. The parts of one network have no gradient in the other."""
        x, autoencoder = work.pixels, self.net.autoencoder
        with torch.autocast(x.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            made = autoencoder.autoencode(x, work.noise)
        y = made.pixels.float()
        parts = {"l1": mean_flat((x - y).abs())}
        if self.perceptual:
            parts["perceptual"] = self.perceptual_weight * self.perceptual(x, y)
        likeness = torch.stack(list(parts.values())).sum(0).mean()
        parts |= {name: self.penalties[name] * value for name, value in made.penalties.items()}
        if self.net.discriminator is None or work.step < self.game_from:
            return Loss(parts, made.notes)
        game = self._game(self.net.discriminator, x, y, likeness)
        return Loss(parts | game.parts, made.notes | game.notes)

    def _game(self, discriminator: PatchDiscriminator, x: Tensor, y: Tensor, likeness: Tensor) -> Loss:
        judge = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
        fooled = hinge_generator(functional_call(discriminator, judge, (y,)))
        weight = adaptive_weight(likeness, fooled.mean(), self.net.autoencoder.decoder.conv_out.weight)
        judged = hinge_discriminator(discriminator(x), discriminator(y.detach()))
        parts = {"adversarial": self.adversarial * weight * fooled, "discriminator": judged}
        return Loss(parts, {"adaptive_weight": weight[None]})

    def state(self) -> dict[str, Tensor]:
        """Nothing: the step's number says it all."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Puts back what ``state`` gave."""
