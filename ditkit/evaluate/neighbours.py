"""Precision, recall, density and coverage: who lies within whose reach, in tiles of pairwise distances."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ditkit.base.errors import UserError
from ditkit.evaluate.features import check_features
from ditkit.evaluate.jackknife import GROUPS, groups_of, standard_error

TILE = 2048
"""Rows and columns of one tile of distances: 32 MiB, and as much again for its features at 2,048 each."""


class PrecisionRecall(NamedTuple):
    """Fractions in 0..1."""

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """Density is 0 or more, 1 for equal distributions; coverage in 0..1."""

    density: float
    coverage: float


@dataclass(frozen=True)
class Reach:
    """How two sets lie in one another's balls, a ball reaching from a point to its k-th nearest of its own set.

    around_generated: (M,) int64, how many balls of real points hold each generated one. around_real: (G, N), how many
    balls of the generated points of each of ``GROUPS`` groups hold each real one. within: (G, N), how many generated
    points of each group each real one's ball holds. k: of the radii.
    """

    around_generated: Tensor
    around_real: Tensor
    within: Tensor
    k: int

    @property
    def recall_error(self) -> float:
        """Standard error of recall by leaving out groups of generated points, the balls of the others being kept.

        A little too large, as these would grow. That of N independent points is too small: one ball holds many.
        """
        return _error(self.around_real)

    @property
    def coverage_error(self) -> float:
        """Standard error of coverage by leaving out groups of generated points."""
        return _error(self.within)

    @property
    def precision_recall(self) -> PrecisionRecall:
        """Kynkäänniemi et al. 2019 (arXiv:1904.06991), equations 1 and 2, borders included as ADM's evaluator does."""
        return PrecisionRecall(_fraction(self.around_generated > 0), _fraction(self.around_real.sum(0) > 0))

    @property
    def density_coverage(self) -> DensityCoverage:
        """Naeem et al. 2020 (arXiv:2002.09797), equations 3 and 4, borders included."""
        return DensityCoverage(self.around_generated.double().mean().item() / self.k, _fraction(self.within.sum(0) > 0))


def precision_recall(real: Tensor, generated: Tensor, k: int = 3, *, progress: bool = False) -> PrecisionRecall:
    """Improved precision and recall of features real (N, D) and generated (M, D), float64; see ``reach``."""
    return reach(real, generated, [k], progress=progress)[0].precision_recall


def density_coverage(real: Tensor, generated: Tensor, k: int = 5, *, progress: bool = False) -> DensityCoverage:
    """Density and coverage of features real (N, D) and generated (M, D), float64; see ``reach``."""
    return reach(real, generated, [k], progress=progress)[0].density_coverage


def reach(real: Tensor, generated: Tensor, ks: Sequence[int], *, progress: bool = False) -> list[Reach]:
    """How real (N, D) and generated (M, D) features lie in one another's balls, for each k in one pass.

    The k-th neighbour does not count the point itself. Distances are float64. Memory: the features and a few tiles.
    Raises UserError with k or fewer rows, different widths or non-finite values.
    """
    if min(ks) < 1:
        raise UserError(f"k is {min(ks)}, expected 1 or more: 3 (density and coverage: 5) is the published choice")
    check_features(real, generated, fewest=max(ks) + 1)
    centre = real.mean(0, dtype=torch.float64)
    columns = [k - 1 for k in ks]
    real_radii, generated_radii = (
        squared_neighbours(points, max(ks), centre, progress=progress)[:, columns] for points in (real, generated)
    )
    group = groups_of(len(generated))
    found = [
        Reach(
            torch.zeros(len(generated), dtype=torch.int64),
            torch.zeros(GROUPS, len(real), dtype=torch.int32),
            torch.zeros(GROUPS, len(real), dtype=torch.int32),
            k,
        )
        for k in ks
    ]
    for rows, cols, squared in tiles(generated, real, centre, "precision and recall", progress):
        for column, result in enumerate(found):
            near_real = squared <= real_radii[cols, column]
            near_generated = squared <= generated_radii[rows, column, None]
            result.around_generated[rows] += near_real.sum(1).cpu()
            result.around_real[:, cols].index_add_(0, group[rows], near_generated.int().cpu())
            result.within[:, cols].index_add_(0, group[rows], near_real.int().cpu())
    return found


def squared_neighbours(points: Tensor, k: int, centre: Tensor, *, progress: bool = False) -> Tensor:
    """Squared distances (N, k), rising, of every point (N, D) to its k nearest neighbours, itself not counted."""
    nearest = points.new_full((len(points), k + 1), float("inf"), dtype=torch.float64)
    for rows, _, squared in tiles(points, points, centre, "neighbours", progress):
        candidates = torch.cat([nearest[rows], squared], 1)
        nearest[rows] = candidates.topk(k + 1, largest=False).values
    # The point itself is among the k + 1 nearest, at distance zero.
    return nearest[:, 1:]


def tiles(a: Tensor, b: Tensor, centre: Tensor, what: str, progress: bool) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows of ``a``, rows of ``b`` and their squared distances, tile by tile; a bar after 2 s.

    centre (D,) is taken from both: distances stay the same, and what rounding does to their norms stays small.
    """
    starts = [(i, j) for i in range(0, len(a), TILE) for j in range(0, len(b), TILE)]
    row, held = -1, a[:0].double()
    for i, j in tqdm(starts, what, delay=2, disable=not progress, leave=False):
        rows, cols = slice(i, i + TILE), slice(j, j + TILE)
        if i != row:
            row, held = i, a[rows].double() - centre
        yield rows, cols, squared_distances(held, b[cols].double() - centre)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 (N, M) of float64 rows a (N, D) and b (M, D), through one matrix product.

    What rounding may have left of equal rows is set to zero, so that a point lies in its own ball of radius zero.
    """
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    squared = torch.addmm(norms, a, b.T, alpha=-2)
    rounding = 16 * torch.finfo(squared.dtype).eps
    return squared.masked_fill_(squared < rounding * norms, 0)


def _error(counts: Tensor) -> float:
    """Standard error of the fraction of columns of counts (G, N) that are above 0 in all, by leaving out each group.

    At least that of half a column: that all are, or none, is not certain.
    """
    left = ((counts.sum(0) - counts) > 0).double().mean(1)
    return max(standard_error(left), 0.5 / counts.shape[1])


def _fraction(hits: Tensor) -> float:
    return hits.double().mean().item()
