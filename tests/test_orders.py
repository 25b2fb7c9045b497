"""The measured order of every solver: the slope of log error over log step size, within 0.2 of the nominal one.

Deterministic solvers in the strong sense, on a mixture, beside the probability-flow ODE at a tolerance of 1e-12.
Stochastic ones in the mean and the covariance of their samples, without sampling: on Gaussian data a solver is affine
in its start and noises, so its answers to a basis of them push both through exactly, beside the closed form.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ditkit.process.langevin import weight
from ditkit.process.path import Path
from ditkit.solvers.dpm_adaptive import dpm_adaptive
from tests.exact import PATHS, run
from tests.mixtures import Mixture, mixture
from tests.test_everything import SOLVERS

VP = PATHS["vp"]
LOW, HIGH = -1.5, 1.5
"""Log-SNR of the ends: between data and noise, where no coefficient is infinite."""


def times(path: Path, steps: int, grade: int = 1) -> Tensor:
    """Even in log-SNR; grade > 1: the first steps shorter, of h^grade, for methods that begin with a lower order."""
    return path.time_at(LOW + (HIGH - LOW) * torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** grade)


def slope(steps: list[int], errors: list[float]) -> float:
    """Of log error over log(1 / steps), by least squares."""
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (steps, errors))
    return -float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def labelled(name: str, options: dict[str, Any]) -> str:
    return " ".join([name, *(str(part) for item in options.items() for part in item if not callable(part))])


@dataclasses.dataclass(frozen=True)
class Strong:
    """A deterministic solver's nominal order; steps: the numbers of steps that it is measured with."""

    name: str
    order: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    grade: int = 1
    steps: tuple[int, ...] = (60, 84, 120, 168)

    @property
    def label(self) -> str:
        return labelled(self.name, self.options)


def no_w(path: Path, t: Tensor, scale: float) -> Tensor:
    return torch.zeros_like(t)


ODE: dict[str, Any] = {"w": no_w, "last": "noise"}
LOOSE: dict[str, Any] = {"rtol": 1e9, "atol": 1e9}
"""One step from each of the grid's times to the next, but for the first."""
FINE = (100, 140, 200, 280)
STRONG = [
    Strong("ddim", 1),
    Strong("euler", 1),
    Strong("edm_euler", 1),
    Strong("euler_ancestral", 1, {"eta": 0.0}),
    Strong("euler_maruyama", 1, ODE),
    Strong("predictor_corrector", 1, {"predictor": "probability_flow", "corrections": 0}),
    Strong("heun", 2),
    Strong("midpoint", 2),
    Strong("dpm_2", 2),
    Strong("edm", 2),
    Strong("dpm_2_churn", 2),
    Strong("stochastic_heun", 2, ODE),
    Strong("platen", 2, ODE),
    Strong("dpm_2_ancestral", 2, {"eta": 0.0}),
    Strong("dpmpp_2s_ancestral", 2, {"eta": 0.0}),
    Strong("dpmpp_sde", 2, {"eta": 0.0}),
    Strong("dpm_multistep", 1, {"order": 1}),
    Strong("dpm_multistep", 2),
    Strong("dpm_multistep", 3, {"order": 3, "rule": "exact"}, 2),
    Strong("dpmpp_2m", 2),
    Strong("dpmpp_2m_sde", 2, {"eta": 0.0}),
    Strong("dpmpp_3m", 3, {}, 2, FINE),
    Strong("dpmpp_3m_sde", 3, {"eta": 0.0}, 2, FINE),
    Strong("dpm_solver", 2, {"order": 2}),
    Strong("dpm_solver", 3),
    Strong("dpmpp_2s", 2),
    Strong("dpmpp_3s", 3),
    # the last steps are of the orders that are left over: of 2 alone, or of 2 and 1, or of 1
    Strong("dpm_fast", 3, steps=(101, 140, 200, 281)),
    Strong("dpm_fast", 2, steps=(60, 84, 120, 168)),
    Strong("dpm_fast", 2, steps=(61, 85, 121, 169)),
    Strong("unipc", 2, {"order": 2, "corrector": False}),
    Strong("unipc", 3, {}, 2),
    Strong("unipc", 4, {"order": 3}, 3, FINE),
    Strong("lms", 2, {"order": 2}, 2),
    Strong("lms", 3, {"order": 3}, 2),
    Strong("lms", 4, {}, 2, (280, 400, 560, 800)),
    Strong("rk4", 4),
    Strong("dopri5", 5, LOOSE, steps=(18, 21, 25, 30)),
]
"""UniPC's corrector adds an order to its predictor's (Zhao et al. 2023, theorem 3.1)."""

DATA = mixture(2)


@functools.cache
def solution() -> tuple[Tensor, Tensor]:
    """Exact samples at the first time, and where the probability-flow ODE takes them at the last."""
    ends = times(VP, 1)
    x = DATA.on(VP).start(6, ends[0])
    return x, run(SOLVERS["dopri5"], DATA.on(VP), x, ends, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", STRONG, ids=lambda case: case.label)
def test_strong_order(case: Strong):
    x, exact = solution()
    ends = [run(SOLVERS[case.name], DATA.on(VP), x, times(VP, k, case.grade), **case.options) for k in case.steps]
    errors = [float((end - exact).norm(dim=1).mean()) for end in ends]
    assert slope(list(case.steps), errors) == pytest.approx(case.order, abs=0.2), [f"{e:.1e}" for e in errors]


@pytest.mark.parametrize("order", [2, 3])
def test_the_adaptive_solvers_order_shows_over_the_steps_that_it_takes(order: int):
    x, exact = solution()
    steps, errors = [], []
    for tolerance in (1e-3, 2e-4, 4e-5, 8e-6):
        how: dict[str, Any] = {"order": order, "controller": "elementary", "rtol": tolerance, "atol": tolerance}
        states = list(dpm_adaptive(DATA.on(VP), x, times(VP, 1), **how))
        steps.append(len(states))
        errors.append(float((states[-1].x - exact).norm(dim=1).mean()))
    assert slope(steps, errors) == pytest.approx(order, abs=0.2), (steps, errors)


EXACT = math.inf
"""The order of what has no error at any step size."""


@dataclasses.dataclass(frozen=True)
class Weak:
    """A stochastic solver's nominal orders, of the mean from a start that is off it, and of the covariance.

    w, scale: the Langevin form (process/langevin) of the SDE that its small steps come to; sbdm is g^2, of the reverse
    SDE. draws: noises a step.
    """

    name: str
    of_mean: float
    of_covariance: float
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    w: str = "sbdm"
    scale: float = 1.0
    draws: int = 1
    steps: tuple[int, ...] = (57, 80, 113, 160)

    @property
    def label(self) -> str:
        return labelled(self.name, self.options)


NOISY: dict[str, Any] = {"last": "noise"}
CHURN: dict[str, Any] = {"s_churn": 1.5}
"""Half of the grid's way in log-SNR, so half of the reverse SDE's noise; gamma is log(1 + gamma) to first order."""
NO_CORRECTION: dict[str, Any] = {"corrections": 0}
"""Of the correctors the size is given, whatever the step: they have no order."""
WEAK = [
    Weak("ddpm", EXACT, 1),
    Weak("ddpm", EXACT, 1, {"variance": "beta"}),
    Weak("ddim", 1, 1, {"eta": 0.5}, scale=0.25),
    Weak("euler_ancestral", EXACT, 1),
    Weak("predictor_corrector", 1, 1, NO_CORRECTION),
    Weak("predictor_corrector", 1, 1, {"predictor": "euler", **NO_CORRECTION}),
    Weak("predictor_corrector", EXACT, 1, {"predictor": "ancestral", **NO_CORRECTION}),
    Weak("euler_maruyama", 1, 1, NOISY, "sigma"),
    Weak("euler_maruyama", 1, 1, {"w": "sbdm", **NOISY}),
    Weak("stochastic_heun", 2, 1, NOISY, "sigma"),
    Weak("stochastic_heun", 2, 1, {"w": "sbdm", **NOISY}),
    Weak("platen", 2, 2, NOISY, "sigma"),
    Weak("platen", 2, 2, {"w": "sbdm", **NOISY}),
    Weak("dpm_multistep", 1, 1, {"order": 1, "eta": 1.0}, steps=(80, 113, 160, 226)),
    Weak("dpm_multistep", 2, 2, {"order": 2, "eta": 1.0}),
    Weak("dpm_multistep", 2, 2, {"order": 3, "rule": "exact", "eta": 1.0}),
    Weak("dpmpp_2m_sde", EXACT, 2),
    Weak("dpmpp_2m_sde", 2, 2, {"eta": 0.5}, scale=0.5),
    Weak("dpmpp_3m_sde", EXACT, 2),
    Weak("dpmpp_3m_sde", 2, 2, {"eta": 0.5}, scale=0.5),
    Weak("dpm_solver", 3, 1, {"eta": 1.0}, steps=(81, 114, 162, 228)),
    Weak("dpmpp_2s", EXACT, 1, {"eta": 1.0}),
    Weak("dpmpp_3s", EXACT, 1, {"eta": 1.0}, steps=(80, 113, 160, 226)),
    # a step along the ODE keeps the covariance to its own order, but noise at its end only is late for the mean
    Weak("dpm_2_ancestral", 1, 2),
    Weak("dpmpp_2s_ancestral", 1, 2),
    Weak("dpm_fast", 1, 3, {"eta": 1.0}, steps=(101, 140, 200, 281)),
    Weak("edm", 1, 2, CHURN, scale=0.5),
    Weak("edm_euler", 1, 1, CHURN, scale=0.5),
    Weak("dpm_2_churn", 1, 2, CHURN, scale=0.5),
    Weak("dpmpp_sde", EXACT, 1, draws=2),
    Weak("dpmpp_sde", 1, 1, {"eta": 0.5}, scale=0.25, draws=2),
]

D = 2
AXES = torch.linalg.qr(torch.tensor([[1.0, 0.5], [-0.3, 1.0]], dtype=torch.float64))[0]
VARIANCES = torch.tensor([0.09, 1.96], dtype=torch.float64)
MEAN, OFF = torch.tensor([0.4, -0.3], dtype=torch.float64), torch.tensor([0.8, 0.5], dtype=torch.float64)
GAUSSIAN = Mixture(torch.ones(1, dtype=torch.float64), MEAN[None], (AXES @ VARIANCES.diag() @ AXES.T)[None])


def along_axes(path: Path, t: Tensor) -> Tensor:
    """Var x_t along the axes, (..., D)."""
    return path.alpha(t)[..., None] ** 2 * VARIANCES + path.sigma(t)[..., None] ** 2


def moments_of_the_sde(path: Path, s: Tensor, t: Tensor, w: str, scale: float) -> tuple[Tensor, Tensor]:
    """Mean and covariance at t < s, from a start with the right covariance whose mean is OFF beside the right one.

    A deviation d from the mean follows d' = V' / (2 V) d + w / (2 V) d, time running down, V = Var x_t: the first
    is the probability-flow ODE's sqrt(V_t / V_s), the second the Langevin dynamics', which lead back to the mean.
    """
    nodes, weights = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(200))
    u, du = (s + t) / 2 + (s - t) / 2 * nodes, (s - t) / 2 * weights
    langevin = (du[:, None] * weight(w, path, u, scale)[:, None] / (2 * along_axes(path, u))).sum(0)
    kept = (along_axes(path, t) / along_axes(path, s)).sqrt() * (-langevin).exp()
    return path.alpha(t) * MEAN + AXES @ (kept * (AXES.T @ OFF)), AXES @ along_axes(path, t).diag() @ AXES.T


def moments_of(solver: Callable[..., Any], path: Path, ts: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """The same of a solver: row 0 starts in the mean, the next D a unit beside it, the others have a unit of noise."""
    rows = 1 + D + D * draws * (len(ts) - 1)
    x = (path.alpha(ts[0]) * MEAN + OFF).repeat(rows, 1)
    x[1 : 1 + D] += torch.eye(D, dtype=torch.float64)

    def noise(k: int) -> Tensor:
        unit = torch.zeros(rows, D, dtype=torch.float64)
        unit[1 + D + k * D : 1 + D + (k + 1) * D] = torch.eye(D)
        return unit

    final = run(solver, GAUSSIAN.on(path), x, ts, noise)
    of_start, of_noises = (final[1 : 1 + D] - final[0]).T, (final[1 + D :] - final[0]).reshape(-1, D, D)
    start = AXES @ along_axes(path, ts[0]).diag() @ AXES.T
    return final[0], of_start @ start @ of_start.T + torch.einsum("kij,kil->jl", of_noises, of_noises)


@pytest.mark.parametrize("case", WEAK, ids=lambda case: case.label)
def test_weak_order(case: Weak):
    solver, errors = functools.partial(SOLVERS[case.name], **case.options), []
    for steps in case.steps:
        ts = times(VP, steps)
        exact = moments_of_the_sde(VP, ts[0], ts[-1], case.w, case.scale)
        found = moments_of(solver, VP, ts, case.draws)
        errors.append([float((a - b).norm()) for a, b in zip(found, exact, strict=True)])
    for nominal, of_one in zip((case.of_mean, case.of_covariance), zip(*errors, strict=True), strict=True):
        if nominal == EXACT:
            assert max(of_one) < 1e-12
        else:
            assert slope(list(case.steps), list(of_one)) == pytest.approx(nominal, abs=0.2), of_one


WITHOUT = {
    "consistency": "jumps to x0 at every time, so it comes to no ODE or SDE in small steps",
    "dpm_adaptive": "chooses its steps; measured over those that it takes",
}


def is_stochastic(name: str) -> bool:
    """Whether the solver, as it is by default, draws."""
    drawn: list[int] = []
    run(
        SOLVERS[name],
        DATA.on(VP),
        torch.zeros(1, 2).double(),
        times(VP, 3),
        lambda k: drawn.append(k) or torch.zeros(1, 2),
    )  # type: ignore[func-returns-value]
    return bool(drawn)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_has_its_order(name: str):
    strong, weak = {case.name for case in STRONG}, {case.name for case in WEAK}
    if name in WITHOUT:
        assert name not in strong | weak
    else:
        assert name in (weak if is_stochastic(name) else strong), f"{name}: give its nominal order in this file"
