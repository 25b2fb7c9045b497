"""Samples of which each class has a fixed share: other draws differ within the classes alone (Cochran 1977, chapter 5).

A stratum is the class (N,) int64 of each sample. None stands for samples whose classes are drawn with them, or that
have none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ditkit.base.rng import generator
from ditkit.evaluate.jackknife import GROUPS

AT_ONCE = 4096
"""Rows that are summed at a time."""


def equal_shares(labels: Tensor | None) -> Tensor | None:
    """The labels (N,) of any kind as strata, numbered from 0, where all classes have as many rows, give or take one.

    Else None, also where a class has one row: classes that were drawn are not so even unless there are hardly more
    rows than classes, and how uneven they are moves a distance further than all else.
    """
    if labels is None or not len(labels):
        return None
    stratum, sizes = labels.cpu().unique(return_inverse=True, return_counts=True)[1:]
    return stratum if int(sizes.min()) > 1 and int(sizes.max() - sizes.min()) <= 1 else None


def variance(values: Tensor, strata: Tensor | None) -> float:
    """Variance of values (N,) float64 about the mean of their stratum; about that of all without strata.

    Strata are taken to spread alike, so that some may hold one value; where there are fewer than two for each, they
    are left out of account.
    """
    stratum, sizes = _numbered(strata, values)
    means = values.new_zeros(len(sizes)).index_add_(0, stratum, values) / sizes
    return ((values - means[stratum]).square().sum() / (len(values) - len(sizes))).item()


def between(rows: Tensor, mean: Tensor, strata: Tensor | None) -> Tensor:
    """A factor (K, D) float64 of what the means of strata add to the covariance of rows (N, D) about their ``mean``.

    Without strata it is zero, as their mean is.
    """
    stratum, sizes = _numbered(strata, rows)
    sums = mean.new_zeros(len(sizes), len(mean))
    for numbers, batch in zip(stratum.split(AT_ONCE), rows.split(AT_ONCE), strict=True):
        sums.index_add_(0, numbers, batch.double() - mean)
    return sums / (sizes[:, None] * len(rows)).sqrt()


def _numbered(strata: Tensor | None, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The stratum (N,) of each row, counted from 0, and their sizes; one of all where they are none or too many.

    With fewer than two rows for each, next to nothing is left to tell how they differ within.
    """
    count = len(rows)
    if strata is not None:
        stratum, sizes = strata.to(rows.device).unique(return_inverse=True, return_counts=True)[1:]
        if 2 * len(sizes) <= count:
            return stratum, sizes
    return torch.zeros(count, dtype=torch.int64, device=rows.device), torch.tensor([count], device=rows.device)


def in_turn(strata: Tensor | None, count: int) -> Tensor:
    """An order (count,) int64 of rows any run of which is like any other: all strata take turns; shuffled without them.

    Of rows that come class by class, as from folders, runs would be classes, and leaving one out would tell nothing
    of other draws.
    """
    mixed = torch.randperm(count, generator=generator(0, "strata"))
    if strata is None or not count:
        return mixed
    by_class, sizes = strata.argsort(stable=True), strata.bincount()
    before = sizes.cumsum(0) - sizes
    share = torch.empty(count, dtype=torch.float64)  # of the stratum that has come before the row
    share[by_class] = (torch.arange(count) - before[strata[by_class]]) / sizes[strata[by_class]].double()
    if int(sizes[sizes > 0].min()) >= GROUPS:  # a tenth of the rows has them all
        return share.argsort(stable=True)
    return mixed[share[mixed].argsort(stable=True)]  # which of them it has is chance, not their number
