"""Floor 0: what a sample is conditioned on, and the learned null that stands for nothing."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

NULL_LABEL = -1
"""The label of a sample without a class: the backbone's learned null (classifier-free guidance, Ho & Salimans 2022)."""


@dataclasses.dataclass(frozen=True)
class Condition:
    """The condition of a batch. A field is None where the model has no such condition.

    label: (B,) int64, class indices 0..K-1, or NULL_LABEL for the learned null.
    text: (B, ...) float32, what a text encoder made of captions; zeros for nothing (Podell et al. 2023).
    """

    label: Tensor | None = None
    text: Tensor | None = None

    def null(self) -> Condition:
        """The same batch with nothing known about it."""
        return self.drop(None)

    def all_of(self, label: int) -> Condition:
        """The same batch with every label this one."""
        return self if self.label is None else dataclasses.replace(self, label=torch.full_like(self.label, label))

    def drop(self, dropped: Tensor | None) -> Condition:
        """The condition with the samples where ``dropped`` (B,) bool is true set to null; None drops all."""
        return Condition(_dropped(self.label, dropped, NULL_LABEL), _dropped(self.text, dropped, 0))

    def __getitem__(self, rows: slice | Tensor) -> Condition:
        """The condition of some samples of the batch."""
        return self._map(lambda value: value[rows])

    def to(self, device: torch.device | str) -> Condition:
        """The same condition on another device."""
        return self._map(lambda value: value.to(device))

    def _map(self, function) -> Condition:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return Condition(**{name: None if value is None else function(value) for name, value in values.items()})


def _dropped(value: Tensor | None, dropped: Tensor | None, null: int) -> Tensor | None:
    """value (B, ...), ``null`` where ``dropped`` (B,) is true; None drops all."""
    if value is None:
        return None
    if dropped is None:
        return torch.full_like(value, null)
    return value.masked_fill(dropped.view(-1, *[1] * (value.dim() - 1)), null)


def cat(conditions: list[Condition]) -> Condition:
    """Conditions of several batches as one, in order. All must have the same fields set."""
    names = [f.name for f in dataclasses.fields(Condition)]
    joined = {}
    for name in names:
        values = [getattr(condition, name) for condition in conditions]
        if all(value is None for value in values):
            joined[name] = None
        elif any(value is None for value in values):
            raise ValueError(f"cannot join conditions: {name!r} is set in some and None in others")
        else:
            joined[name] = torch.cat(values)
    return Condition(**joined)
