"""Samples of every solver have the moments of the mixture that they are drawn from, within their Monte-Carlo error.

First and second moments of N samples scatter about the mixture's own with 1 / N times the covariance of (x, x x^T),
which is known in closed form. The bound follows from N and the chance of a false alarm, nothing else; grids are so fine
that the solver's own error drowns in the scatter (with 8,000 samples that of ddpm no longer would). Every solver fails
here with noise 30% too strong, or answers 6% too far; tests/test_orders.py sees what is smaller.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ditkit.process import grids
from ditkit.process.denoiser import Denoise, Denoised
from ditkit.process.path import Path, over
from ditkit.solvers.dpm_multistep import dpmpp_3m
from tests.exact import PATHS, normal, run
from tests.mixtures import Mixture, mixture
from tests.test_everything import SOLVERS, Solver

DATA = mixture(2)
COUNT = 2000
MOMENTS = 5
FALSE_ALARM = 1e-4
"""The chance that a right solver fails a test, were the seeds drawn anew."""
HIGH, LOW = 6.0, 0.01
"""Noise levels sigma / alpha of the start, where the samples are exact, and of the step to the clean image."""

every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
TELLING = ("vp", "linear", "edm", "ddpm_linear")  # alpha^2 + sigma^2 = 1; straight; alpha = 1; a chain
every_telling_path = pytest.mark.parametrize("path", [PATHS[name] for name in TELLING], ids=TELLING)


@dataclasses.dataclass(frozen=True)
class EndOfODE:
    """A denoiser read as a consistency function: x0 is where the probability-flow ODE takes x_t."""

    denoise: Denoise

    @property
    def path(self) -> Path:
        """The path of the denoiser within."""
        return self.denoise.path

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        x0 = run(dpmpp_3m, self.denoise, x, fine(self.path, 40, float(grids.noise_level(self.path, t)), LOW / 2))
        return Denoised(x0, (x - over(self.path.alpha(t), x) * x0) / over(self.path.sigma(t), x))


MODELS: dict[str, tuple[Callable[[Denoise], Denoise], int]] = {"consistency": (EndOfODE, 3)}
"""What a solver asks of its model where it is not the posterior mean, and the steps that it takes then."""


def fine(path: Path, steps: int, high: float = HIGH, low: float = LOW) -> Tensor:
    """Even in log-SNR between two noise levels, then t = 0."""
    return grids.log_snr(path, steps, sigma_max=high, sigma_min=low)


def features(x: Tensor) -> Tensor:
    """The terms of the first and second moments of points (N, 2) in the plane: x, y, xx, xy, yy, (N, 5)."""
    return torch.stack([x[:, 0], x[:, 1], x[:, 0] ** 2, x[:, 0] * x[:, 1], x[:, 1] ** 2], 1)


@functools.cache
def exact_moments(data: Mixture) -> tuple[Tensor, Tensor]:
    """Mean (5,) and variance (5,) of the features: Gauss-Hermite with 3 nodes an axis, exact up to degree 5."""
    node, weight = torch.tensor([-(3**0.5), 0, 3**0.5]).double(), torch.tensor([1 / 6, 2 / 3, 1 / 6]).double()
    z, w = torch.cartesian_prod(node, node), torch.outer(weight, weight).flatten()
    variances, axes = data.spectrum
    x = data.means[:, None] + torch.einsum("kde,ke,ne->knd", axes, variances.sqrt(), z)  # (K, 9, 2)
    share = (data.weights[:, None] * w).flatten()
    terms = features(x.flatten(0, 1))
    mean = share @ terms
    return mean, share @ (terms - mean) ** 2


def standard_errors_off(x: Tensor) -> Tensor:
    """The largest error of a moment, in standard errors."""
    mean, variance = exact_moments(DATA)
    return ((features(x.double()).mean(0) - mean).abs() / (variance / len(x)).sqrt()).max()


def bound() -> float:
    """What the largest of the standardised errors stays below but for a false alarm (Bonferroni)."""
    return torch.special.ndtri(torch.tensor(1 - FALSE_ALARM / (2 * MOMENTS)).double()).item()


@functools.cache
def noise(k: int) -> Tensor:
    return normal(COUNT, 2, index=k + 1)


def test_exact_samples_scatter_as_is_stated():
    off = torch.stack([features(DATA.sample(COUNT, seed)).mean(0) for seed in range(100)])
    mean, variance = exact_moments(DATA)
    z = (off - mean) / (variance / COUNT).sqrt()
    assert z.mean(0).abs().max() < 0.4  # standard error 0.1
    assert (z.std(0) - 1).abs().max() < 0.3  # standard error 0.07


@every_telling_path
@every_solver
def test_samples_have_the_moments_of_the_mixture(solver: Solver, path: Path):
    model, steps = MODELS.get(solver.__name__, (lambda denoise: denoise, 100))
    ts = fine(path, steps)
    x = run(solver, model(DATA.on(path)), DATA.on(path).start(COUNT, ts[0], seed=1), ts, noise)
    assert standard_errors_off(x) < bound()
