"""Samples of every solver have the moments of the mixture that they are drawn from, within their Monte-Carlo error.

Nothing is set by hand but the chance of a false alarm: first and second moments of N samples scatter about those of
the mixture with a covariance of 1 / N times that of (x, x x^T), known in closed form. Grids are fine enough that the
solver's own error drowns in it.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from ditkit.process import grids
from ditkit.process.denoiser import Denoise
from ditkit.process.path import Path
from tests.exact import PATHS, normal, run
from tests.mixtures import Mixture, mixture
from tests.test_everything import SOLVERS

DATA = mixture(2)
COUNT = 4000
FALSE_ALARM = 1e-6
HIGH, LOW = 6.0, 0.01


def features(x: Tensor) -> Tensor:
    """First and second moments' terms of points in the plane, (N, 5): x, y, xx, xy, yy."""
    return torch.stack([x[:, 0], x[:, 1], x[:, 0] ** 2, x[:, 0] * x[:, 1], x[:, 1] ** 2], 1)


@functools.cache
def exact_moments(data: Mixture) -> tuple[Tensor, Tensor]:
    """Mean (5,) and covariance (5, 5) of the features: Gauss-Hermite quadrature, exact for polynomials of degree 4."""
    node = 3**0.5  # three points: exact to degree 5
    nodes, weights = torch.tensor([-node, 0, node]).double(), torch.tensor([1 / 6, 2 / 3, 1 / 6]).double()
    z = torch.cartesian_prod(nodes, nodes)  # (9, 2)
    w = torch.cartesian_prod(weights, weights).prod(1)
    variances, axes = data.spectrum
    mean, second = torch.zeros(5).double(), torch.zeros(5, 5).double()
    for k, share in enumerate(data.weights):
        f = features(data.means[k] + (z * variances[k].sqrt()) @ axes[k].T)
        mean += share * (w @ f)
        second += share * (f.T * w) @ f
    return mean, second - torch.outer(mean, mean)


def z_scores(x: Tensor) -> Tensor:
    """How many standard errors each moment of the samples is off."""
    mean, covariance = exact_moments(DATA)
    return (features(x.double()).mean(0) - mean) / (covariance.diag() / len(x)).sqrt()
