"""Floor 4: the standard error of a number that is measured on samples, by leaving groups of them out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GROUPS = 10
"""Groups of samples; each is left out once."""


def left_out(statistic: Callable[[Tensor], float], rows: Tensor, groups: int = GROUPS) -> Tensor:
    """The statistic of rows (N, ...) without the g-th of ``groups`` groups: (groups,) float64, g = 0..groups-1."""
    group = groups_of(len(rows), groups)
    return torch.tensor([statistic(rows[group != g]) for g in range(groups)], dtype=torch.float64)


def groups_of(count: int, groups: int = GROUPS) -> Tensor:
    """The group (count,) int64, 0..groups-1, of each of so many rows.

    Runs, not every groups-th row: where classes take turns, each run has all of them.
    """
    return torch.arange(count) * groups // count


def standard_error(replicates: Tensor) -> float:
    """The delete-a-group jackknife's standard error from replicates (G,) (Kott 2001, eq. 1; Efron & Tibshirani 1993).

    For a difference of two statistics of the same samples' seeds: of the replicates' differences.
    """
    g = len(replicates)
    return float(((g - 1) / g * (replicates - replicates.mean()).square().sum()).sqrt())
