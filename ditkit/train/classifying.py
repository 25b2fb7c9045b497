"""Floor 4: training a classifier on noisy images, p(y | x_t) (Dhariwal & Nichol 2021, section 4)."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional

from ditkit.data.loader import Batch
from ditkit.objectives.loss import Loss
from ditkit.process.density import Density
from ditkit.process.path import Path, over
from ditkit.train.denoising import UNIFORM, Encode, draw

LEVELS = 5
"""Equal parts of [0, 1], the times, whose accuracies the log tells apart."""


def network_input(path: Path, x_t: Tensor, t: Tensor) -> Tensor:
    """What the classifier's network sees: alpha x_t / (alpha^2 + sigma^2), the linear estimate of x0 of unit variance.

    So its gradient vanishes with alpha, as grad log p(y | x_t) = alpha / sigma^2 (E[x0 | x_t, y] - E[x0 | x_t]) does.
    A network that sees x_t itself has a gradient where there is no signal, which guidance divides by alpha.
    """
    alpha, sigma = path.alpha(t), path.sigma(t)
    return over(alpha / (alpha**2 + sigma**2), x_t) * x_t


@dataclasses.dataclass(frozen=True)
class Labelled:
    """What is classified in a step: the network's input x (B, C, H, W) and time (B,), label (B,), weight (B,).

    t: (B,), on the CPU.
    """

    x: Tensor
    time: Tensor
    label: Tensor
    weight: Tensor
    t: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, rows: slice) -> Labelled:
        return Labelled(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


@dataclasses.dataclass
class Classifying:
    """A task (see ``ditkit.train.task``): cross-entropy of the labels at noised images.

    net: (network_input, network time) -> logits (B, K), already on its device. path: noises the images, at times from
    density. encode: to latent space; None: pixel space. autocast: the dtype of matrix products; None: as the weights.
    """

    net: nn.Module
    path: Path
    seed: int
    density: Density = UNIFORM
    encode: Encode | None = None
    autocast: torch.dtype | None = None

    def work(self, batch: Batch, step: int) -> Labelled:
        """See ``Task``."""
        device, x0, label = next(self.net.parameters()).device, batch.x0, batch.condition.label
        assert label is not None
        if self.encode:
            x0 = self.encode(x0.to(device), batch.keys)
        draws, _ = draw(self.seed, step, x0, self.path, 0.0, self.density)
        x_t = self.path.mix(x0.to(device), draws.eps.to(device), draws.t.to(device))
        time = self.path.network_time(draws.t).to(device, torch.float32)
        weight = self.density.loss_weight(draws.t, self.path).to(device, torch.float32)
        x = network_input(self.path, x_t, draws.t)
        return Labelled(x, time, label.to(device), weight, draws.t)

    def loss(self, net: nn.Module, work: Labelled) -> Loss:
        """-log p(y | x_t); noted: the accuracy, of all and by noise level (``accuracy_t0.2``: 0 <= t <= 0.2, ...)."""
        with torch.autocast(work.x.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            logits = net(work.x, work.time)
        entropy = functional.cross_entropy(logits.float(), work.label, reduction="none")
        self.density.update(work.t, entropy.detach())
        correct = (logits.argmax(1) == work.label).float()
        notes = {"accuracy": correct}
        for level in range(LEVELS):
            here = ((work.t * LEVELS).ceil().clamp(min=1) == level + 1).nonzero()[:, 0]  # on the CPU, as t is
            notes[f"accuracy_t{(level + 1) / LEVELS:g}"] = correct[here]
        return Loss({"cross_entropy": entropy}, notes).weighed(work.weight)

    def state(self) -> dict[str, Tensor]:
        """The density's history."""
        return self.density.state_dict()

    def load(self, state: dict[str, Tensor]) -> None:
        """Puts back what ``state`` gave."""
        self.density.load_state_dict(state)
