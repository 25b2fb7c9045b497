"""Maximum mean discrepancy of features: kernel distance (KID) and CMMD (Gretton et al. 2012, JMLR 13, eq. 3-5)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ditkit.base.errors import UserError
from ditkit.evaluate.features import check_features
from ditkit.evaluate.neighbours import squared_distances
from ditkit.evaluate.strata import in_turn, variance

BLOCK = 4096
"""Rows of one block of a kernel matrix."""
WITNESSES = 10_000
"""Rows of either set that tell the standard error of a discrepancy, at most."""
CMMD_SIGMA = 10.0
"""Bandwidth of CMMD's kernel."""
CMMD_SCALE = 1000
"""By which CMMD is shown."""

Kernel = Callable[[Tensor, Tensor], Tensor]
"""float64 rows (N, D) and (M, D) to their similarities (N, M)."""


def polynomial(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / D + 1)^3, the kernel of KID (Bińkowski et al. 2018, arXiv:1801.01401, equation 4)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def rbf(sigma: float) -> Kernel:
    """exp(-|x - y|^2 / (2 sigma^2))."""
    return lambda x, y: squared_distances(x, y).div_(-2 * sigma**2).exp_()


@dataclass(frozen=True)
class KernelSums:
    """Sums of a kernel over two sets of n and m rows: all pairs, and the pairs of equal number (the diagonals).

    The diagonal across the sets, ``xy_diagonal``, is of the first min(n, m) rows.
    """

    n: int
    m: int
    xx: float
    yy: float
    xy: float
    xx_diagonal: float
    yy_diagonal: float
    xy_diagonal: float

    @property
    def biased(self) -> float:
        """MMD^2 with every mean over all pairs (equation 5): 0 or more."""
        return self.xx / self.n**2 + self.yy / self.m**2 - 2 * self.xy / (self.n * self.m)

    @property
    def unbiased(self) -> float:
        """MMD^2 without the pairs of a row with itself (equation 3); it may be negative."""
        return self._within - 2 * self.xy / (self.n * self.m)

    @property
    def u_statistic(self) -> float:
        """As ``unbiased``, without the pairs of equal number across the sets either (equation 4); needs n = m."""
        if self.n != self.m:
            raise UserError(f"the U-statistic of {self.n} and {self.m} rows is not defined, expected as many of both")
        return self._within - 2 * (self.xy - self.xy_diagonal) / (self.n * (self.n - 1))

    @property
    def _within(self) -> float:
        x = (self.xx - self.xx_diagonal) / (self.n * (self.n - 1))
        return x + (self.yy - self.yy_diagonal) / (self.m * (self.m - 1))


def kernel_sums(x: Tensor, y: Tensor, kernel: Kernel, *, progress: bool = False) -> KernelSums:
    """The sums over features x (N, D) and y (M, D) in float64, block by block.

    Raises UserError with fewer than 2 rows, different widths, or values that are not finite.
    """
    check_features(x, y, fewest=2)
    (xx, xx_diagonal), (yy, yy_diagonal), (xy, xy_diagonal) = (
        _sums(a, b, kernel, progress) for a, b in ((x, x), (y, y), (x, y))
    )
    return KernelSums(len(x), len(y), xx, yy, xy, xx_diagonal, yy_diagonal, xy_diagonal)


def _sums(a: Tensor, b: Tensor, kernel: Kernel, progress: bool) -> tuple[float, float]:
    """The sum of the kernel over all pairs, and over those of equal number."""
    total, diagonal = 0.0, 0.0
    starts = [(i, j) for i in range(0, len(a), BLOCK) for j in range(0, len(b), BLOCK)]
    for i, j in tqdm(starts, "kernel", delay=2, disable=not progress, leave=False):
        block = kernel(a[i : i + BLOCK].double(), b[j : j + BLOCK].double())
        total += block.sum().item()
        diagonal += block.diagonal().sum().item() if i == j else 0.0
    return total, diagonal


class KernelDistance(NamedTuple):
    """MMD^2 over subsets: mean, and population standard deviation (which is no standard error: subsets share rows)."""

    mean: float
    std: float


def kernel_distance(
    generated: Tensor, real: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 2020, progress: bool = False
) -> KernelDistance:
    """KID of features generated (N, D) and real (M, D): unbiased MMD^2 of the polynomial kernel, averaged over subsets.

    Subsets as torch-fidelity draws them. size: at most the smaller set's. Raises UserError as ``kernel_sums``.
    """
    check_features(generated, real, fewest=2)
    fewest = min(len(generated), len(real))
    size = min(size, fewest)
    values = subset_distances(
        generated,
        real,
        polynomial,
        published_subsets(len(generated), len(real), subsets, size, seed),
        subsets,
        progress,
    )
    return KernelDistance(values.mean().item(), values.std(correction=0).item())


def subset_distances(
    x: Tensor,
    y: Tensor,
    kernel: Kernel,
    subsets: Iterator[tuple[Tensor, Tensor]],
    count: int | None = None,
    progress: bool = False,
) -> Tensor:
    """Unbiased MMD^2 (S,) float64 of each pair of subsets, rows of x (N, D) and of y (M, D)."""
    bar = tqdm(subsets, "kernel distance", total=count, delay=2, disable=not progress, leave=False)
    return torch.tensor([kernel_sums(x[i], y[j], kernel).unbiased for i, j in bar], dtype=torch.float64)


def published_subsets(n: int, m: int, subsets: int, size: int, seed: int = 2020) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of rows (size,) int64 of sets of n and m, without repetition, as torch-fidelity draws them in turn."""
    draws = np.random.RandomState(seed)
    for _ in range(subsets):
        yield (
            torch.from_numpy(draws.choice(n, size, replace=False)),
            torch.from_numpy(draws.choice(m, size, replace=False)),
        )


def mmd_standard_error(
    generated: Tensor, real: Tensor, kernel: Kernel, *, strata: Tensor | None = None, progress: bool = False
) -> float:
    """Standard error of MMD^2 by the spread of the samples generated (N, D), the reference real (M, D) being given.

    To first order a sample moves MMD^2 by twice its influence, its mean similarity to the other samples less that to
    the reference (Gretton et al. 2012, section 4.1: the variance of the first projection). Of larger sets,
    ``WITNESSES`` rows of each tell, all strata in their shares. strata: the class (N,) of each sample, where every
    class has its share of them (see ``strata``). Raises UserError as ``kernel_sums``.
    """
    check_features(generated, real, fewest=2)
    chosen = in_turn(strata, len(generated))[:WITNESSES]
    x, y = generated[chosen.to(generated.device)], real[in_turn(None, len(real))[:WITNESSES].to(real.device)]
    influences = []
    for start in tqdm(range(0, len(x), BLOCK), "kernel's error", delay=2, disable=not progress, leave=False):
        rows = x[start : start + BLOCK].double()
        own = kernel(rows, rows).diagonal()
        alike, across = (sum(kernel(rows, part.double()).sum(1) for part in points.split(BLOCK)) for points in (x, y))
        influences.append((alike - own) / (len(x) - 1) - across / len(y))
    first = variance(torch.cat(influences), None if strata is None else strata[chosen])
    return 2 * (first / len(generated)) ** 0.5


def clip_mmd(generated: Tensor, real: Tensor, *, sigma: float = CMMD_SIGMA, progress: bool = False) -> float:
    """CMMD of embeddings generated (N, D) and real (M, D): 1000 MMD^2, biased, of a Gaussian kernel.

    Jayasumana et al. 2024 (arXiv:2401.09603), section 4, on embeddings of length 1. 0 or more.
    """
    return CMMD_SCALE * kernel_sums(generated, real, rbf(sigma), progress=progress).biased
