"""Metrics of held features (N, D), one row for each image: each the metric that the suite computes from a stream."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.base.rng import generator
from ditkit.evaluate.frechet import ROWS, Gaussian, frechet_gaussian
from ditkit.evaluate.statistics import Moments, SplitEntropies, check_finite

ROUNDING = 1e-5
"""Of a feature's length: what the order of a network's sums does to it, at most."""


def gaussian_of(features: Tensor) -> Gaussian:
    """Mean and unbiased covariance (n - 1) of features (N, D), N >= 2; N < D is allowed."""
    moments = Moments()
    moments.update(features)
    return moments.gaussian()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance (FID where the features are Inception's) of features a (N, D) and b (M, D), computed in float64.

    Heusel et al. 2017 (arXiv:1706.08500), equation 6. Symmetric; 0 for equal sets; biased upwards for small N or M.
    Raises UserError with fewer than 2 rows, different widths, or values that are not finite.
    """
    check_features(a, b, fewest=2)
    return frechet_gaussian(gaussian_of(a), gaussian_of(b))


class InceptionScore(NamedTuple):
    """Mean and population standard deviation over the splits, in 1..K."""

    mean: float
    std: float


def inception_score(logits: Tensor, split: Tensor) -> InceptionScore:
    """Inception Score of logits (N, K), each in its split (N,) int64 (``statistics.shuffled_splits``, 10 as published).

    Raises UserError on values that are not finite or an empty split.
    """
    entropies = SplitEntropies(split)
    entropies.update(logits, torch.arange(len(logits)))
    scores = entropies.scores
    return InceptionScore(scores.mean().item(), scores.std(correction=0).item())


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Fraction in 0..1 of rows of logits (N, K) that are largest at the label (N,)."""
    return (logits.argmax(1) == labels).double().mean().item()


def among(queries: Tensor, references: Tensor) -> Tensor:
    """Which queries (M, D) equal one of the references (N, D) up to rounding: (M,) bool. Cheap: no pairwise distances.

    Rows that are equal have equal products with any direction, so only references whose product with one is as near as
    that are looked at. Raises UserError on different widths, or values that are not finite.
    """
    check_features(queries, references, fewest=1)
    direction = torch.randn(queries.shape[1], dtype=torch.float64, generator=generator(0, "evaluate.among"))
    along, places = (torch.cat([part.double() @ direction for part in x.split(ROWS)]) for x in (queries, references))
    places, order = places.sort()
    near = ROUNDING * queries.norm(dim=1)
    # A difference's product is normal with its length as the deviation: six of them leave nothing out.
    first, last = torch.searchsorted(places, along - 6 * near), torch.searchsorted(places, along + 6 * near, right=True)
    found = torch.zeros(len(queries), dtype=torch.bool)
    while len(left := (~found & (first < last)).nonzero()[:, 0]):
        apart = queries[left] - references[order[first[left]]]
        found[left] = apart.norm(dim=1) <= near[left]
        first[left] += 1
    return found


def check_features(a: Tensor, b: Tensor, fewest: int) -> None:
    """Raises UserError unless a is (N, D) and b (M, D), both finite and of at least ``fewest`` rows."""
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise UserError(
            f"features have shapes {tuple(a.shape)} and {tuple(b.shape)}, expected (N, D) and (M, D): "
            "take both from the same network"
        )
    for features in (a, b):
        if len(features) < fewest:
            raise UserError(f"a set of {len(features)} is too small, expected at least {fewest} images: add images")
        check_finite(features)
