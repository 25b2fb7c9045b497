"""Floor 3: what an objective takes and gives."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Draws:
    """The random draws of a training step. t: (B,) float64 in (0, 1]. eps: (B, C, ...) standard normal."""

    t: Tensor
    eps: Tensor


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss per sample, (B,) float32, and the parts that it is the sum of, under their names.

    notes: what else the log is to name, (n,) each with n <= B: of the samples that it can be said of.
    """

    parts: dict[str, Tensor]
    notes: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def per_sample(self) -> Tensor:
        """The sum of the parts, (B,)."""
        return torch.stack(list(self.parts.values())).sum(0)

    @property
    def total(self) -> Tensor:
        """The mean over the batch, ()."""
        return self.per_sample.mean()

    def weighed(self, weight: Tensor) -> Loss:
        """The same loss with each sample's parts multiplied by its weight, (B,)."""
        return Loss({name: weight * part for name, part in self.parts.items()}, self.notes)


def mean_flat(x: Tensor) -> Tensor:
    """The mean over all dimensions but the first, (B,)."""
    return x.flatten(1).mean(1)
