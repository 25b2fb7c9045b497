"""Floor 4: the standard error of a number that is measured on samples, by leaving groups of them out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

GROUPS = 10
"""Groups of samples; each is left out once."""


def left_out(
    statistic: Callable[[Tensor], float], rows: Tensor, groups: int = GROUPS, *, neighbours: int = 0
) -> Tensor:
    """The statistic of rows (N, ...) without the g-th of ``groups`` groups: (groups,) float64, g = 0..groups-1.

    neighbours: how many of the groups after it are left out too; the first comes after the last.
    """
    group = groups_of(len(rows), groups)
    kept = [(group - g) % groups > neighbours for g in range(groups)]
    shown = tqdm(kept, "standard error", delay=2, leave=False)
    return torch.tensor([statistic(rows[rest]) for rest in shown], dtype=torch.float64)


def groups_of(count: int, groups: int = GROUPS) -> Tensor:
    """The group (count,) int64, 0..groups-1, of each of so many rows.

    Runs, not every groups-th row: where classes take turns, each run has all of them (see ``strata.in_turn``).
    """
    return torch.arange(count) * groups // count


def standard_error(replicates: Tensor) -> float:
    """The delete-a-group jackknife's standard error from replicates (G,) (Kott 2001, eq. 1; Efron & Tibshirani 1993).

    For a difference of two statistics of the same samples' seeds: of the replicates' differences.
    """
    g = len(replicates)
    return float(((g - 1) / g * (replicates - replicates.mean()).square().sum()).sqrt())


def corrected_error(whole: float, replicates: Tensor, pairs: Tensor) -> float:
    """``standard_error`` without the second order of the statistic, which it holds twice (Efron & Stein 1981).

    That is estimated by how far leaving two groups out, pairs (G,) (``left_out`` with a neighbour), is from the sum of
    what each does; of ``whole``, the statistic of all. Up to a half of the variance is taken off, as no more can be it.
    """
    g = len(replicates)
    variance = standard_error(replicates) ** 2
    together = g * whole - (g - 1) * (replicates + replicates.roll(-1)) + (g - 2) * pairs
    second = (g - 1) / (2 * g) * together.square().mean().item()
    return (variance - min(second, variance / 2)) ** 0.5
