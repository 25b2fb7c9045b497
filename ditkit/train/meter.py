"""Floor 4: what is measured in training, gathered on the device and read where the log asks for it."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from ditkit.base.errors import DivergedError
from ditkit.objectives.loss import Loss

_NOTED = "noted/"
"""Before the names of notes in a meter's state."""


class Totals:
    """The measurements of a step, whose batch may have come in parts.

    parts: the loss's, the mean over the batch, () each. notes: the sum and count of each note, (2,) each. samples: of
    the batch.
    """

    def __init__(self, samples: int = 0) -> None:
        self.samples = samples
        self.parts: dict[str, Tensor] = {}
        self.notes: dict[str, Tensor] = {}

    def add(self, loss: Loss, share: float) -> None:
        """Takes the loss of some samples, this share of the batch."""
        for name, value in loss.parts.items():
            self.parts[name] = self.parts.get(name, 0) + value.detach().mean() * share
        for name, value in loss.notes.items():
            pair = torch.stack([value.detach().sum(), value.new_tensor(float(value.numel()))])
            self.notes[name] = self.notes.get(name, 0) + pair


class Meter:
    """What was measured at each step since the last reading; touches the device only when read.

    values: by name (the parts of the loss, and grad_norm), one () tensor a step. notes: by name, one (2,) tensor a
    step, a sum and a count. They go into the checkpoints, so that a record of the log covers the same steps whether or
    not the run was stopped between.
    """

    def __init__(self) -> None:
        self.values: dict[str, list[Tensor]] = {}
        self.notes: dict[str, list[Tensor]] = {}
        self.start()

    def start(self) -> None:
        """Begins to count time and samples for the images per second."""
        self.samples, self.since = 0, time.perf_counter()

    def pause(self, seconds: float) -> None:
        """Leaves seconds that were not spent on steps out of the images per second."""
        self.since += seconds

    def add(self, totals: Totals, norm: Tensor) -> None:
        """Takes the measurements of a step."""
        for name, value in {**totals.parts, "grad_norm": norm}.items():
            self.values.setdefault(name, []).append(value.detach())
        for name, value in totals.notes.items():
            self.notes.setdefault(name, []).append(value)
        self.samples += totals.samples

    def state(self) -> dict[str, Tensor]:
        """The values, (steps,) each, and the notes, (steps, 2) each."""
        notes = {_NOTED + name: torch.stack(values) for name, values in self.notes.items()}
        return {name: torch.stack(values) for name, values in self.values.items()} | notes

    def load(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Puts back what ``state`` gave."""
        lists = {name: list(values.to(device)) for name, values in state.items()}
        self.notes = {k.removeprefix(_NOTED): lists.pop(k) for k in [*lists] if k.startswith(_NOTED)}
        self.values = lists

    def check_finite(self, step: int) -> None:
        """Raises DivergedError where a loss or a gradient was not finite."""
        for name, values in self.values.items():
            stacked = torch.stack(values)
            bad = stacked[~stacked.isfinite()]
            if len(bad):
                raise DivergedError(
                    f"{name} became {float(bad[0])} by step {step}: expected a finite number; train anew with "
                    "a smaller --train.lr, a longer --train.warmup or --train.precision float32"
                )

    def read(self, step: int, lr: float, seconds: float) -> dict[str, float]:
        """The record for the log; starts anew. A note that no sample bore on is left out."""
        means = {name: float(torch.stack(values).mean()) for name, values in self.values.items()}
        norm = means.pop("grad_norm")
        totals = {name: torch.stack(values).sum(0).tolist() for name, values in self.notes.items()}
        noted = {name: total / count for name, (total, count) in totals.items() if count}
        rate = self.samples / (time.perf_counter() - self.since)
        record = {"step": step, "loss": sum(means.values()), **means, **noted, "lr": lr, "grad_norm": norm}
        self.values, self.notes = {}, {}
        self.start()
        return {**record, "images_per_s": rate, "seconds": seconds}
