"""Every path x row x solver, collected from the modules: a new file is tested without being listed.

The model is the exact denoiser of a mixture, read through the row as a trained network would be. A few steps cannot
be exact, but they must end finite, and no farther from the data than the data are wide.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.base.registry import members
from ditkit.process.denoiser import Denoise
from ditkit.process.path import Path
from ditkit.process.prediction import Prediction
from ditkit.solvers.state import State
from tests.exact import PATHS, PREDICTIONS, normal
from tests.mixtures import ReadAs, mixture

Solver = Callable[..., Iterator[State]]
DATA = mixture(2)
COUNT = 512


def is_solver(value: object) -> bool:
    """A generator function of (denoise, x, ts)."""
    return inspect.isgeneratorfunction(value) and list(inspect.signature(value).parameters)[:3] == [
        "denoise",
        "x",
        "ts",
    ]


SOLVERS: dict[str, Solver] = members("ditkit.solvers", is_solver)


def levels(path: Path, steps: int) -> Tensor:
    """Even in log-SNR from where there is little image to where there is little noise, then to t = 0."""
    low, high = path.log_snr(torch.tensor([0.999, 1e-3], dtype=torch.float64)).clamp(-4.5, 4.5)
    inner = torch.lerp(low, high, torch.linspace(0, 1, steps, dtype=torch.float64))
    ts = path.time_at(inner) if steps > 1 else path.time_at(low[None])
    if path.steps is not None:  # a chain's own times, each once
        ts = ((ts * path.steps).round().clamp(min=1) / path.steps).unique().flip(0)
    return torch.cat([ts, torch.zeros(1, dtype=torch.float64)])


def noise(shape: torch.Size, k: int) -> Tensor:
    """The noise of draw k."""
    return normal(*shape, index=k + 1)


def end(solver: Solver, denoise: Denoise, ts: Tensor) -> Tensor:
    """The samples that start from exact x_t at ts[0]."""
    x = DATA.on(denoise.path).start(COUNT, ts[0])
    *_, last = solver(denoise, x, ts, noise=functools.partial(noise, x.shape))
    return last.x


def check_near_the_data(samples: Tensor, ts: Tensor) -> None:
    """Means within the Monte-Carlo error and a bias of the few steps; never wider than the data and a half."""
    width = DATA.covariance.diagonal().sum().sqrt()
    assert samples.shape == (COUNT, 2)
    assert bool(samples.isfinite().all())
    assert (samples.mean(0) - DATA.mean).norm() < 0.5 * width
    assert (samples - samples.mean(0)).square().sum(1).mean().sqrt() < 1.5 * width


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("row", PREDICTIONS.values(), ids=PREDICTIONS)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_every_combination_samples_in_a_few_steps(solver: Solver, row: Prediction, path: Path):
    for steps in (1, 2, 3):
        ts = levels(path, steps)
        check_near_the_data(end(solver, ReadAs(DATA.on(path), row), ts), ts)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("row", PREDICTIONS.values(), ids=PREDICTIONS)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_a_start_in_pure_noise_samples_or_says_why_not(solver: Solver, row: Prediction, path: Path):
    ts = torch.cat([torch.ones(1, dtype=torch.float64), levels(path, 3)[levels(path, 3) < 0.999]])
    try:
        samples = end(solver, ReadAs(DATA.on(path), row), ts)
    except UserError as error:
        reason = str(error)
    else:
        check_near_the_data(samples, ts)
        return
    assert path.alpha(ts[0]) < 1e-6
    assert "\n" not in reason
    assert "t = 1" in reason


def test_discovery_finds_a_solver_of_each_family():
    assert {"ddpm", "ddim"} <= SOLVERS.keys()
