"""Axes of charts: values of one axis to 0..1, and where its ticks go."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Scale(Protocol):
    """Maps values of one axis to 0..1 and knows where its ticks go."""

    def __call__(self, values: np.ndarray) -> np.ndarray: ...

    def ticks(self, count: int) -> list[float]: ...


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear axis from low to high."""

    low: float
    high: float

    @classmethod
    def over(cls, *values: np.ndarray, margin: float = 0.05, floor: float | None = None) -> Linear:
        """The axis over all values with a margin on both sides, below ``floor`` only where a value is."""
        low, high = _extent(values)
        pad = (high - low) * margin
        bottom = low - pad if floor is None or low < floor else max(floor, low - pad)
        return cls(bottom, high + pad)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return (np.asarray(values, float) - self.low) / (self.high - self.low)

    def ticks(self, count: int) -> list[float]:
        """At most ``count`` + 1 multiples of 1, 2 or 5 times a power of ten."""
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9)) * power
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


@dataclasses.dataclass(frozen=True)
class Log:
    """A logarithmic axis from low to high, both positive."""

    low: float
    high: float

    @classmethod
    def over(cls, *values: np.ndarray, margin: float = 0.05) -> Log:
        """The axis over all (positive) values with a margin on both sides."""
        low, high = (math.log(v) for v in _extent(values))
        return cls(math.exp(low - (high - low) * margin), math.exp(high + (high - low) * margin))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return np.log(np.asarray(values, float) / self.low) / math.log(self.high / self.low)

    def ticks(self, count: int) -> list[float]:
        """Powers of ten, or multiples between them, or every few, whichever comes nearest to ``count``."""
        if self.high < 10 * self.low:
            return Linear(self.low, self.high).ticks(count)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        choices = [[10.0**d for d in decades if d % every == 0] for every in (4, 2, 1)]
        choices += [[m * 10.0**d for d in decades for m in steps] for steps in ((1, 3), (1, 2, 5))]
        inside = [[v for v in choice if self.low <= v <= self.high] for choice in choices]
        return min(inside, key=lambda ticks: abs(len(ticks) - count))


def _extent(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """The least and the greatest value; widened when they are the same, so that an axis has a length."""
    joined = np.concatenate([np.ravel(v) for v in values])
    low, high = float(joined.min()), float(joined.max())
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    return (low / 1.5, high * 1.5) if low > 0 else (low - 1, high + 1)
