"""What is kept of a stream of features: statistics that merge, so that processes measure parts of one set.

Each has ``update`` for a batch, ``merge`` for another process's part and ``state``, plain tensors from which
``of_state`` makes it again. Merged parts equal one pass to rounding of float64, whatever the parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.evaluate.frechet import Gaussian

BINOMIAL, SPREAD, INFLUENCE = "binomial", "spread over the samples", "first-order influence of each sample"
"""How a standard error is known from one set of samples: of a fraction; of a mean; of a function of the distribution
(the infinitesimal jackknife, to which the bootstrap tends: Efron 1982, chapter 6)."""
COMPRESSED_ABOVE = 4
"""Rows of a factor, in multiples of its width, above which they are replaced by as many as the width."""


class Statistic(Protocol):
    """A summary of rows seen so far."""

    def merge(self, other: Self) -> None:
        """Adds what another one has seen."""
        ...

    @property
    def state(self) -> dict[str, Tensor]:
        """All of it, as tensors on the CPU."""
        ...

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The statistic whose state this is."""
        ...


class Moments:
    """Count, mean and covariance of rows (N, D), float64, in memory of O(D^2).

    The covariance is kept as a factor R of the scatter, sum (x - mean)(x - mean)^T = R^T R: the root of a computed
    covariance would lose half of the digits where it is singular. Parts are put together as by Chan et al. 1979,
    the shift of their means being one more row of the factor.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.zeros(0, dtype=torch.float64)
        self._rows: list[Tensor] = []

    def update(self, features: Tensor) -> None:
        """Adds features (B, D). Raises UserError on another width, or values that are not finite."""
        check_finite(features)
        if not len(features):
            return
        x = features.double().cpu()
        mean = x.mean(0)
        self._add(len(x), mean, [x - mean])

    def merge(self, other: Moments) -> None:
        """Adds what another one has seen."""
        if other.count:
            self._add(other.count, other.mean, other._rows)

    def gaussian(self) -> Gaussian:
        """The normal distribution of these moments, its covariance unbiased (n - 1). UserError with fewer than 2."""
        if self.count < 2:
            raise UserError(
                f"a set of {self.count} is too small for a covariance, expected at least 2 images: add images"
            )
        self._compress()
        return Gaussian(self.mean, self._rows[0] / (self.count - 1) ** 0.5)

    @property
    def state(self) -> dict[str, Tensor]:
        """count () int64, mean (D,) and factor (K, D) float64."""
        self._compress()
        factor = self._rows[0] if self._rows else torch.zeros(0, len(self.mean), dtype=torch.float64)
        return {"count": torch.tensor(self.count), "mean": self.mean, "factor": factor}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Moments:
        """The moments whose state this is."""
        found = cls()
        if int(state["count"]):
            found._add(int(state["count"]), state["mean"], [state["factor"]])
        return found

    def _add(self, count: int, mean: Tensor, rows: list[Tensor]) -> None:
        if not self.count:
            self.count, self.mean, self._rows = count, mean, list(rows)
            return
        if len(mean) != len(self.mean):
            raise UserError(
                f"features have {len(mean)} values, expected {len(self.mean)} as before: take all from one network"
            )
        total = self.count + count
        shift = mean - self.mean
        between = (self.count * count / total) ** 0.5 * shift
        self._rows += [*rows, between[None]]
        self.mean = self.mean + (count / total) * shift
        self.count = total
        if sum(map(len, self._rows)) > COMPRESSED_ABOVE * len(mean):
            self._compress()

    def _compress(self) -> None:
        """Replaces the rows of the factor by at most D others with the same R^T R."""
        if self._rows and (len(self._rows) > 1 or len(self._rows[0]) > len(self.mean)):
            rows = torch.cat(self._rows)
            self._rows = [torch.linalg.qr(rows, mode="r").R if len(rows) > rows.shape[1] else rows]


class Mean:
    """Count, mean and spread of single numbers, such as one for each image."""

    def __init__(self) -> None:
        self._moments = Moments()

    def update(self, values: Tensor) -> None:
        """Adds values (B,)."""
        self._moments.update(values[:, None])

    def merge(self, other: Mean) -> None:
        """Adds what another one has seen."""
        self._moments.merge(other._moments)

    @property
    def count(self) -> int:
        """How many numbers."""
        return self._moments.count

    @property
    def value(self) -> float:
        """Their mean."""
        return self._moments.mean.item()

    @property
    def standard_error(self) -> float:
        """Of the mean: the standard deviation (n - 1) over the root of n. UserError with fewer than 2."""
        return self._moments.gaussian().factor.norm().item() / self.count**0.5

    @property
    def state(self) -> dict[str, Tensor]:
        """As that of ``Moments``, of width 1."""
        return self._moments.state

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Mean:
        """The mean whose state this is."""
        found = cls()
        found._moments = Moments.of_state(state)
        return found


class Rows:
    """The rows themselves, in the order of their numbers, for what needs all of them (neighbours, kernels): O(N D)."""

    def __init__(self) -> None:
        self._rows: list[Tensor] = []
        self._index: list[Tensor] = []

    def update(self, rows: Tensor, index: Tensor) -> None:
        """Adds rows (B, ...) with their numbers (B,) int64 in the whole set. Raises UserError if not finite."""
        check_finite(rows)
        self._rows.append(rows.cpu())
        self._index.append(index.cpu())

    def merge(self, other: Rows) -> None:
        """Adds what another one has seen."""
        self._rows += other._rows
        self._index += other._index

    @property
    def count(self) -> int:
        """How many rows."""
        return sum(map(len, self._rows))

    @property
    def rows(self) -> Tensor:
        """All rows (N, ...) in the order of their numbers."""
        return self.state["rows"]

    @property
    def state(self) -> dict[str, Tensor]:
        """rows (N, ...) and their numbers, index (N,), rising."""
        if not self._rows:
            raise UserError("no rows were kept, expected at least one batch: measure images first")
        if len(self._rows) > 1:
            index, order = torch.cat(self._index).sort(stable=True)
            self._rows, self._index = [torch.cat(self._rows)[order]], [index]
        return {"rows": self._rows[0], "index": self._index[0]}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The rows whose state this is."""
        found = cls()
        found.update(state["rows"], state["index"])
        return found


class SplitEntropies:
    """What the Inception Score needs of logits (N, K): for each split the mean answer and the mean entropy, float64.

    split: (N,) int64, the split of each number of the whole set (see ``shuffled_splits``).
    """

    def __init__(self, split: Tensor) -> None:
        self.split = split
        self.splits = int(split.max()) + 1 if len(split) else 0
        self._counts = torch.zeros(self.splits, dtype=torch.float64)
        self._negentropies = torch.zeros(self.splits, dtype=torch.float64)
        self._answers: Tensor | None = None

    def update(self, logits: Tensor, index: Tensor) -> None:
        """Adds logits (B, K) with their numbers (B,) int64. Raises UserError on numbers beyond the set or NaN."""
        check_finite(logits)
        if len(index) and int(index.max()) >= len(self.split):
            raise UserError(
                f"image number {int(index.max())} is beyond the {len(self.split)} that were announced: "
                "announce as many as there are"
            )
        log_p = logits.double().cpu().log_softmax(1)
        p, split = log_p.exp(), self.split[index]
        self._counts.index_add_(0, split, torch.ones(len(p), dtype=torch.float64))
        self._negentropies.index_add_(0, split, (p * log_p).sum(1))
        answers = torch.zeros(self.splits, p.shape[1], dtype=torch.float64).index_add_(0, split, p)
        self._answers = answers if self._answers is None else self._answers + answers

    def merge(self, other: SplitEntropies) -> None:
        """Adds what another one has seen; both must split alike."""
        if not torch.equal(self.split, other.split):
            raise UserError("the parts have other splits: make both from the same count and seed")
        self._counts += other._counts
        self._negentropies += other._negentropies
        if other._answers is not None:
            self._answers = other._answers.clone() if self._answers is None else self._answers + other._answers

    @property
    def count(self) -> int:
        """How many rows were seen."""
        return int(self._counts.sum())

    @property
    def scores(self) -> Tensor:
        """exp(E KL(p(y|x) || p(y))) of each split (S,), in 1..K (Salimans et al. 2016, arXiv:1606.03498)."""
        if self._answers is None or bool((self._counts == 0).any()):
            raise UserError(f"{self.count} images are too few for {self.splits} splits: add images or split less")
        marginal = self._answers / self._counts[:, None]
        return (self._negentropies / self._counts - torch.xlogy(marginal, marginal).sum(1)).exp()

    @property
    def state(self) -> dict[str, Tensor]:
        """split (N,), counts (S,), negentropies (S,), answers (S, K)."""
        answers = torch.zeros(self.splits, 0, dtype=torch.float64) if self._answers is None else self._answers
        return {"split": self.split, "counts": self._counts, "negentropies": self._negentropies, "answers": answers}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> SplitEntropies:
        """The entropies whose state this is."""
        found = cls(state["split"])
        found._counts, found._negentropies = state["counts"].clone(), state["negentropies"].clone()
        found._answers = state["answers"].clone() if state["answers"].shape[1] else None
        return found


def equal_splits(n: int, splits: int) -> Tensor:
    """The split (n,) int64 of each of n places: split i has those from i n // splits on, below (i + 1) n // splits."""
    ends = torch.arange(1, splits + 1) * n // splits
    return torch.bucketize(torch.arange(n), ends, right=True)


def published_order(n: int, seed: int = 2020) -> Tensor:
    """The order (n,) int64 in which torch-fidelity takes n images for the Inception Score."""
    return torch.from_numpy(np.random.RandomState(seed).permutation(n).astype(np.int64))


def shuffled_splits(n: int, splits: int = 10) -> Tensor:
    """The split (n,) int64 of each of n images in torch-fidelity's order: images sorted by class do no harm."""
    split = torch.empty(n, dtype=torch.int64)
    split[published_order(n)] = equal_splits(n, splits)
    return split


def binomial_error(fraction: float, n: int) -> float:
    """Standard error of a fraction of n independent draws; not 0 where all or none of them count."""
    return (max(fraction * (1 - fraction), 0.25 / n) / n) ** 0.5


def check_finite(values: Tensor) -> None:
    """Raises UserError unless all values (N, ...) are finite."""
    bad = int((~values.flatten(1).isfinite()).any(1).sum()) if values.is_floating_point() and values.numel() else 0
    if bad:
        raise UserError(
            f"features of {bad} of {len(values)} images are not finite, expected numbers: "
            "look for NaN in the images or in the feature network's weights"
        )
