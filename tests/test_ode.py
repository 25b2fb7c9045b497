"""Solvers of the probability-flow ODE: measured order on exact mixtures, ends of the path, adaptivity, churn."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.process import grids
from ditkit.process.continuous import EDM, GVP, VP, Linear
from ditkit.process.denoiser import Denoise, Denoised, clipped
from ditkit.process.path import DDPMLinear, Path, over
from ditkit.solvers.ancestral import ddim
from ditkit.solvers.consistency import consistency
from ditkit.solvers.counted import Counted
from ditkit.solvers.dopri5 import DOPRI5, ERROR, dopri5
from ditkit.solvers.edm import churned_times, edm, edm_euler
from ditkit.solvers.flow import EULER, RK4, Tableau, two_stage
from ditkit.solvers.ode import adams_bashforth, dpm_2, euler, heun, lms, midpoint, rk4
from tests.exact import PATHS, GaussianData, moments, normal, run
from tests.mixtures import mixture

every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
variables = pytest.mark.parametrize("variable", ["noise", "angle", "time"])
DATA = mixture(2)
HIGH, LOW = 4.0, 0.08
"""Noise levels that every path has between data and noise."""

SOLVERS: dict[str, tuple[Callable[..., Any], float]] = {
    "euler": (euler, 1),
    "heun": (heun, 2),
    "midpoint": (midpoint, 2),
    "dpm_2": (dpm_2, 2),
    "rk4": (rk4, 4),
    "edm": (edm, 2),
    "edm_third": (functools.partial(edm, node=2 / 3), 2),
    "edm_euler": (edm_euler, 1),
    **{f"lms{k}": (functools.partial(lms, order=k), k) for k in (1, 2, 3, 4)},
}
every_solver = pytest.mark.parametrize(("solver", "order"), SOLVERS.values(), ids=SOLVERS)


def interior(path: Path, steps: int) -> Tensor:
    """Steps between two noise levels, of which the first is cut so that the start of a multi-step method is shorter."""
    ts = grids.karras(path, steps, sigma_max=HIGH, sigma_min=LOW, to_zero=False)
    # of h^2, h^(4/3) and the rest: Euler's and second order's errors there are of order 4
    cuts = torch.tensor([1 / steps, 1 / steps + 0.5 * steps ** (-1 / 3)], dtype=torch.float64)
    return torch.cat([ts[:1], ts[0] + cuts * (ts[1] - ts[0]), ts[1:]])


@functools.cache
def solution(path: Path) -> tuple[Tensor, Tensor]:
    """Exact samples of x_t at the first level and where the ODE takes them at the last."""
    ts = interior(path, 4)[[0, -1]]
    x = DATA.on(path).start(6, ts[0])
    return x, run(dopri5, DATA.on(path), x, ts, rtol=1e-11, atol=1e-11)


@every_path
@every_solver
def test_the_error_falls_with_the_nominal_order(solver: Callable[..., Any], order: float, path: Path):
    x, exact = solution(path)
    counts = torch.tensor([40, 56, 80, 112] if order > 2 else [20, 28, 40, 56])
    errors = [(run(solver, DATA.on(path), x, interior(path, k)) - exact).norm(dim=1).mean() for k in counts.tolist()]
    log_h, log_error = -counts.double().log(), torch.stack(errors).log()
    slope = ((log_h - log_h.mean()) * log_error).sum() / (log_h - log_h.mean()).square().sum()
    assert slope.item() == pytest.approx(order, abs=0.2), [f"{e:.2e}" for e in errors]


@variables
@pytest.mark.parametrize("path", [VP(), Linear(), GVP(), EDM(sigma_max=8.0)], ids=lambda path: path.name)
def test_heun_is_of_order_2_in_every_variable(path: Path, variable: str):
    x, exact = solution(path)
    errors = []
    for k in (24, 48, 96, 192):
        ts = interior(path, k)
        errors.append((run(heun, DATA.on(path), x, ts, variable=variable) - exact).norm(dim=1).mean().item())
    slopes = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert sum(slopes) / 3 == pytest.approx(2, abs=0.2), slopes


@pytest.mark.parametrize("path", [Linear(), GVP()], ids=lambda path: path.name)
@pytest.mark.parametrize("solver", [heun, midpoint, dpm_2])
def test_order_2_shows_from_pure_noise_to_the_image(solver: Callable[..., Any], path: Path):
    x, data = normal(6, 2), DATA.on(path)
    exact = run(dopri5, data, x, grids.uniform(path, 1), rtol=1e-9, atol=1e-9, t_min=1e-5)
    errors = [(run(solver, data, x, grids.uniform(path, k)) - exact).norm(dim=1).mean().item() for k in (20, 80)]
    assert math.log(errors[0] / errors[1], 4) > 1.8


UNEVEN = [[1.0, 0.0], [1.0, 0.3, 0.0], [1.0, 0.97, 0.5, 0.49, 0.1, 0.002, 0.0]]


@every_path
@every_solver
def test_few_and_uneven_steps_give_finite_samples_of_the_same_type(
    solver: Callable[..., Any], order: float, path: Path
):
    for variable, steps in itertools.product(["noise", "angle", "time"], UNEVEN):
        ts, z = torch.tensor(steps, dtype=torch.float64), normal(3, 2, index=5, dtype=torch.float32)
        denoise, x = DATA.on(path), over(path.sigma(ts[0]), z) * z
        states = list(solver(denoise, x, ts, noise=lambda k: normal(3, 2, dtype=torch.float32), variable=variable))
        assert [state.t.item() for state in states] == steps[1:]
        for state in states:
            assert state.x.dtype == torch.float32, variable
            assert state.x.isfinite().all(), (variable, steps)


@every_path
@pytest.mark.parametrize("solver", [euler, heun, dpm_2, edm, edm_euler])
@pytest.mark.parametrize("variable", ["noise", "angle"])
def test_the_step_to_the_clean_image_lands_on_x0(variable: str, solver: Callable[..., Any], path: Path):
    zero = torch.zeros((), dtype=torch.float64)
    *_, last = solver(DATA.on(path), normal(3, 2), grids.check([1.0, 0.4, 0.0]), noise=None, variable=variable)
    if path.sigma(zero) == 0:
        torch.testing.assert_close(last.x, last.said.x0, rtol=1e-12, atol=1e-12)
    else:
        assert (last.x - last.said.x0).abs().max() > 1e-4


@every_path
@pytest.mark.parametrize("variable", ["noise", "angle"])
def test_euler_is_ddim(variable: str, path: Path):
    x, ts = normal(3, 2), grids.check([0.9, 0.5, 0.2, 0.01])
    torch.testing.assert_close(run(euler, DATA.on(path), x, ts, variable=variable), run(ddim, DATA.on(path), x, ts))


def test_in_time_euler_follows_the_velocity():
    path, x = GVP(), normal(3, 2)
    data, ts = DATA.on(path), grids.check([0.8, 0.6])
    torch.testing.assert_close(run(euler, data, x, ts, variable="time"), x - 0.2 * data.velocity(x, ts[0]))
    straight = DATA.on(Linear())
    both = [run(euler, straight, x, ts, variable=variable) for variable in ("time", "noise")]
    torch.testing.assert_close(*both)


def test_heun_asks_about_the_clean_end_only_when_told_to():
    denoise = Counted(DATA.on(Linear()))
    run(heun, denoise, normal(2, 2), grids.uniform(denoise.path, 3), variable="time")
    assert denoise.evaluations == 5
    run(heun, denoise, normal(2, 2), grids.uniform(denoise.path, 3), variable="time", at_clean_end=True)
    assert denoise.evaluations == 5 + 6


@pytest.mark.parametrize("tableau", [two_stage(1.0), two_stage(0.5), RK4, DOPRI5], ids=lambda t: len(t.b))
def test_tableaux_are_consistent(tableau: Tableau):
    assert sum(tableau.b) == pytest.approx(1)
    assert sum(b * c for b, c in zip(tableau.b, tableau.nodes, strict=True)) == pytest.approx(1 / 2)
    assert EULER.nodes == [0]
    assert sum(ERROR) == pytest.approx(0, abs=1e-12)


def test_multi_step_weights_are_those_of_adams_and_bashforth():
    known = {1: [1], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}
    for order, weights in known.items():
        assert adams_bashforth([-float(j) for j in range(order)], 1.0) == pytest.approx(weights)


@every_path
def test_dopri5_meets_its_tolerance_with_fewer_evaluations_for_a_looser_one(path: Path):
    x, exact = solution(path)
    ts, evaluations = interior(path, 4)[[0, -1]], []
    for tolerance in (1e-3, 1e-5, 1e-7):
        denoise = Counted(DATA.on(path))
        end = run(dopri5, denoise, x, ts, rtol=tolerance, atol=tolerance)
        assert (end - exact).abs().max() < 20 * tolerance
        evaluations.append(denoise.evaluations)
    assert 7 <= evaluations[0] < evaluations[1] < evaluations[2] < 400


@every_path
@pytest.mark.parametrize("variable", ["angle", "time"])
def test_dopri5_goes_from_pure_noise_to_the_image(variable: str, path: Path):
    x = over(path.sigma(torch.ones((), dtype=torch.float64)), normal(3, 2)) * normal(3, 2, dtype=torch.float32)
    states = list(dopri5(DATA.on(path), x, grids.check([1.0, 0.5, 0.0]), variable=variable))
    assert [state.t.item() for state in states] == [0.5, 0.0]
    exact = run(dopri5, DATA.on(path), x.double(), grids.check([1.0, 0.0]), rtol=1e-8, atol=1e-8)
    assert states[-1].x.dtype == torch.float32
    torch.testing.assert_close(states[-1].x.double(), exact, rtol=0, atol=0.02)


class Broken:
    """A denoiser of which one sample is not a number."""

    path = VP()

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        bad = x.clone()
        bad[1] = math.nan
        return Denoised(bad, bad)


def nothing(solver: Callable[..., Any], ts: list[float], denoise: Denoise | None = None, **options: Any) -> object:
    ts_tensor = torch.tensor(ts, dtype=torch.float64)
    return list(solver(denoise or DATA.on(VP()), normal(3, 2), ts_tensor, noise=lambda k: normal(3, 2), **options))


@pytest.mark.parametrize("solver", [heun, rk4])
def test_a_clipped_denoiser_can_be_asked_about_the_clean_end(solver: Any):
    denoise, x, ts = DATA.on(Linear()), normal(3, 2), grids.uniform(Linear(), 4)
    options: dict[str, Any] = {"variable": "time", "at_clean_end": True}
    wide = run(solver, clipped(denoise, -1e3, 1e3), x, ts, **options)
    torch.testing.assert_close(wide, run(solver, denoise, x, ts, **options))
    assert bool(run(solver, clipped(denoise), x, ts, **options).isfinite().all())


REFUSED: dict[str, Callable[[], object]] = {
    "variable 'nose'": lambda: nothing(heun, [1, 0.5], variable="nose"),
    "0.2, 0.5": lambda: nothing(rk4, [0.2, 0.5]),
    "time 3": lambda: nothing(dpm_2, [3, 0.5]),
    "order 5": lambda: nothing(lms, [1, 0.5], order=5),
    "node 0": lambda: nothing(edm, [1, 0.5], node=0.0),
    "s_churn -1": lambda: nothing(edm, [1, 0.5], s_churn=-1.0),
    "s_min 3, s_max 2": lambda: nothing(edm, [1, 0.5], s_min=3.0, s_max=2.0),
    "s_max nan": lambda: nothing(edm_euler, [1, 0.5], s_max=math.nan),
    "t_min -1": lambda: nothing(dopri5, [1, 0.5, 0], t_min=-1.0),
    "t_min 2": lambda: nothing(dopri5, [1, 0.5, 0], t_min=2.0),
    "t_min 0.6": lambda: nothing(dopri5, [1, 0.5, 0], t_min=0.6),
    "t_min nan": lambda: nothing(dopri5, [1, 0], t_min=math.nan),
    "rtol inf": lambda: nothing(dopri5, [1, 0], rtol=math.inf),
    "sigma_min 1000": lambda: nothing(consistency, [1, 0.5], sigma_min=1000.0),
    "s_noise nan": lambda: nothing(edm_euler, [1, 0.5], s_noise=math.nan),
    "rtol 0": lambda: nothing(dopri5, [1, 0.5], rtol=0.0),
    "'noise' is infinite": lambda: nothing(dopri5, [1, 0.5], DATA.on(Linear()), variable="noise"),
    "sample 1 of the batch is not finite": lambda: nothing(dopri5, [1, 0.5], Broken()),
    "rtol 1e-12": lambda: list(dopri5(DATA.on(VP()), normal(3, 2).float(), grids.check([1, 0.1]), rtol=1e-12)),
    "0.1, 0.4": lambda: nothing(consistency, [0.1, 0.4]),
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_cannot_be_solved_is_refused_in_one_line_that_names_it(named: str):
    with pytest.raises(UserError) as error:
        REFUSED[named]()
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def test_without_churn_edm_is_heun():
    path, x = VP(), normal(3, 2)
    ts = grids.karras(path, 9)
    torch.testing.assert_close(run(edm, DATA.on(path), x, ts), run(heun, DATA.on(path), x, ts))


@every_path
def test_churn_raises_the_noise_level_inside_its_interval_and_never_beyond_the_path(path: Path):
    ts = grids.check([1.0, 0.8, 0.5, 0.2, 0.05, 0.0])
    level = grids.noise_level(path, ts[:-1])
    s_min, s_max = level[3].item() * 0.99, level[1].item() * 1.01
    starts = churned_times(path, ts, 1.0, s_min, s_max)
    raised = grids.noise_level(path, starts)
    assert starts.max() <= 1
    torch.testing.assert_close(raised[2:4], level[2:4] * 1.2, rtol=1e-8, atol=0)
    assert starts[[0, 4]].tolist() == ts[[0, 4]].tolist()
    most = grids.noise_level(path, churned_times(path, ts, 1e9, 0.0, math.inf))
    assert (most[1:] <= level[1:] * math.sqrt(2) * (1 + 1e-8)).all()


@every_path
@pytest.mark.parametrize(("solver", "within"), [(edm, 0.004), (edm_euler, 0.05)])
def test_churned_samples_have_the_datas_mean_and_variance(solver: Callable[..., Any], within: float, path: Path):
    data = GaussianData(path, 0.4, 0.5)
    ts = grids.log_snr(path, 80, sigma_max=HIGH, sigma_min=0.02, to_zero=False)
    mean, variance = moments(solver, data, ts, s_churn=30.0)
    assert mean == pytest.approx(path.alpha(ts[-1]).item() * 0.4, abs=within)
    assert variance == pytest.approx(data.variance(ts[-1]).item(), rel=within * 4)
    start = moments(solver, data, ts, s_churn=30.0, s_noise=1.2)
    assert start[1] > variance


def test_consistency_puts_fresh_noise_on_what_was_said():
    path, ts, x = DDPMLinear(), grids.check([1.0, 0.5, 0.0]), normal(3, 2)
    first, last = consistency(DATA.on(path), x, ts, noise=lambda k: normal(3, 2, index=k + 7))
    torch.testing.assert_close(first.x, path.mix(first.said.x0, normal(3, 2, index=7), ts[1]))
    assert torch.equal(last.x, last.said.x0)
