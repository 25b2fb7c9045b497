"""Floor 4: training a denoiser: the draws of a step, and an objective on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ditkit.base import rng
from ditkit.condition import Condition
from ditkit.data.loader import Batch
from ditkit.objectives.loss import Draws, Loss
from ditkit.process.denoiser import Denoiser
from ditkit.process.density import Density, Uniform
from ditkit.process.path import Path

UNIFORM = Uniform()
"""All training times alike."""

Objective = Callable[[Denoiser, Tensor, Draws], Loss]
Encode = Callable[[Tensor, Tensor], Tensor]
"""Pixels (B, C, H, W) on the trainer's device and the keys (B, 2) of their draws to latents (B, c, h, w) on it."""


@dataclasses.dataclass(frozen=True)
class Noised:
    """What is denoised in a step: x0 (B, C, H, W), its condition with labels dropped, its draws, its weight (B,)."""

    x0: Tensor
    condition: Condition
    draws: Draws
    weight: Tensor

    def __len__(self) -> int:
        return len(self.x0)

    def __getitem__(self, rows: slice) -> Noised:
        draws = Draws(self.draws.t[rows], self.draws.eps[rows])
        return Noised(self.x0[rows], self.condition[rows], draws, self.weight[rows])


@dataclasses.dataclass
class Denoising:
    """A task (see ``ditkit.train.task``): a denoiser under an objective.

    denoiser: holds the network to train, already on its device. density: of training times. label_dropout: the share of
    samples that train the learned null. encode: to latent space; None: pixel space.
    """

    denoiser: Denoiser
    objective: Objective
    seed: int
    label_dropout: float = 0.0
    density: Density = UNIFORM
    encode: Encode | None = None

    @property
    def net(self) -> nn.Module:
        """The network of the denoiser."""
        assert isinstance(self.denoiser.net, nn.Module)
        return self.denoiser.net

    def work(self, batch: Batch, step: int) -> Noised:
        """See ``Task``."""
        device, x0 = next(self.net.parameters()).device, batch.x0
        if self.encode:
            x0 = self.encode(x0.to(device), batch.keys)
        draws, dropped = draw(self.seed, step, x0, self.denoiser.path, self.label_dropout, self.density)
        weight = self.density.loss_weight(draws.t, self.denoiser.path).float()
        condition = batch.condition.drop(dropped).to(device)
        return Noised(x0.to(device), condition, Draws(draws.t.to(device), draws.eps.to(device)), weight.to(device))

    def loss(self, net: nn.Module, work: Noised) -> Loss:
        """The objective's loss, weighed as the density asks; the density learns from the loss before its weight."""
        denoiser = dataclasses.replace(self.denoiser, net=net, condition=work.condition)
        loss = self.objective(denoiser, work.x0, work.draws)
        self.density.update(work.draws.t, loss.per_sample.detach())
        return loss.weighed(work.weight)

    def state(self) -> dict[str, Tensor]:
        """The density's history."""
        return self.density.state_dict()

    def load(self, state: dict[str, Tensor]) -> None:
        """Puts back what ``state`` gave."""
        self.density.load_state_dict(state)


def draw(
    seed: int, step: int, x0: Tensor, path: Path, label_dropout: float, density: Density = UNIFORM
) -> tuple[Draws, Tensor]:
    """The draws of a step, on the CPU: times, noise, and which samples lose their condition, (B,) bool."""
    source = rng.generator(seed, "train", step)
    t = density(torch.rand(len(x0), generator=source, dtype=torch.float64), path)
    dropped = torch.rand(len(x0), generator=source) < label_dropout
    return Draws(t, torch.randn(x0.shape, generator=source)), dropped
