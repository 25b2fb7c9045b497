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
    balls of the generated points of each of ``GROUPS`` groups hold each real one. in_grown: (G, N) bool, whether some
    ball that is larger without a group's points holds each real one. within: (G, N), how many generated points of each
    group each real one's ball holds. k: of the radii.
    """

    around_generated: Tensor
    around_real: Tensor
    in_grown: Tensor
    within: Tensor
    k: int

    @property
    def recall_error(self) -> float | None:
        """Standard error of recall by leaving out groups of generated points, the balls of the others made anew.

        None where so few are left that a ball has no k-th neighbour to reach to. With the balls kept as they are, the
        error would be too small by half in many dimensions, where few balls hold a real point and their size decides.
        That of N independent points is too small as well: one ball holds many.
        """
        m = len(self.around_generated)
        return _error(_held_by_others(self.around_real) | self.in_grown) if m + -m // GROUPS > self.k else None

    @property
    def coverage_error(self) -> float:
        """Standard error of coverage by leaving out groups of generated points."""
        return _error(_held_by_others(self.within))

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


def reach(
    real: Tensor, generated: Tensor, ks: Sequence[int], *, around: Tensor | None = None, progress: bool = False
) -> list[Reach]:
    """How real (N, D) and generated (M, D) features lie in one another's balls, for each k in one pass.

    The k-th neighbour does not count the point itself. Distances are float64. Memory: the features and a few tiles.
    generated: in an order of which any run is like any other (``strata.in_turn``), for the standard errors.
    around: ``squared_neighbours`` of real, to the largest k or beyond; made here where it is None.
    Raises UserError with k or fewer rows, different widths or non-finite values.
    """
    if min(ks) < 1:
        raise UserError(f"k is {min(ks)}, expected 1 or more: 3 (density and coverage: 5) is the published choice")
    check_features(real, generated, fewest=max(ks) + 1)
    centre = real.mean(0, dtype=torch.float64)
    columns = [k - 1 for k in ks]
    if around is None:
        around = squared_neighbours(real, max(ks), progress=progress)
    real_radii = around[:, columns]
    group = groups_of(len(generated))
    nearest = _nearest_of_groups(generated, max(ks), centre, group, progress)
    generated_radii = _nearest(nearest, max(ks))[:, columns]
    radii_without = torch.stack([_nearest(_without(nearest, g), max(ks))[:, columns] for g in range(GROUPS)])
    radii_without[group, torch.arange(len(generated))] = -1  # a point that is left out has no ball
    widest = radii_without.amax(0)
    found = [
        Reach(
            torch.zeros(len(generated), dtype=torch.int64),
            torch.zeros(GROUPS, len(real), dtype=torch.int32),
            torch.zeros(GROUPS, len(real), dtype=torch.bool),
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
            # Pairs that no ball reaches over but a grown one may are few: k or so for each point.
            row, col = (~near_generated & (squared <= widest[rows, column, None])).nonzero(as_tuple=True)
            between = squared[row, col]
            for g in range(GROUPS):
                near = between <= radii_without[g, rows, column][row]
                result.in_grown[g, cols.start + col[near].cpu()] = True
    return found


def squared_neighbours(points: Tensor, k: int, *, progress: bool = False) -> Tensor:
    """Squared distances (N, k) float64, rising, of every point (N, D) to its k nearest, itself not counted."""
    one_group = torch.zeros(len(points), dtype=torch.int64)
    return _nearest(_nearest_of_groups(points, k, points.mean(0, dtype=torch.float64), one_group, progress), k)


def _nearest_of_groups(points: Tensor, k: int, centre: Tensor, group: Tensor, progress: bool) -> Tensor:
    """Squared distances (N, G, k + 1) of every point (N, D) to its nearest of each group (N,), infinite where it is it.

    Also infinite where a group has too few. The k nearest of all points, or of all but a group, are among them.
    """
    nearest = points.new_full((len(points), int(group.max()) + 1, k + 1), float("inf"), dtype=torch.float64)
    for rows, cols, squared in tiles(points, points, centre, "neighbours", progress):
        inside, sizes = group[cols].unique_consecutive(return_counts=True)
        for g, part in zip(inside.tolist(), squared.split(sizes.tolist(), 1), strict=True):
            candidates = torch.cat([nearest[rows, g], part], 1)
            nearest[rows, g] = candidates.topk(k + 1, largest=False).values
    # The point itself is the nearest of its group, at distance zero.
    nearest[torch.arange(len(points)), group, 0] = float("inf")
    return nearest


def _nearest(nearest: Tensor, k: int) -> Tensor:
    """The k smallest (N, k), rising, of distances (N, G, K)."""
    return nearest.flatten(1).topk(k, largest=False).values


def _without(nearest: Tensor, g: int) -> Tensor:
    """Distances (N, G, K) to the nearest of each group, without those of group g."""
    return torch.cat([nearest[:, :g], nearest[:, g + 1 :]], 1)


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


def _held_by_others(counts: Tensor) -> Tensor:
    """Whether columns of counts (G, N) are above 0 without each group: (G, N) bool."""
    return (counts.sum(0) - counts) > 0


def _error(held: Tensor) -> float:
    """Standard error of the fraction of points that are held, by those held (G, N) where each group is left out.

    At least that of half a point: that all are held, or none, is not certain.
    """
    return max(standard_error(held.double().mean(1)), 0.5 / held.shape[1])


def _fraction(hits: Tensor) -> float:
    return hits.double().mean().item()
