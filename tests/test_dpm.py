"""DPM-Solvers beside exact answers: on Gaussian data the probability-flow ODE and all moments are known."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.base.registry import members
from ditkit.process import grids
from ditkit.process.path import Path, is_noise
from ditkit.solvers import dpm_adaptive, dpm_ancestral, dpm_multistep, dpm_singlestep, unipc
from ditkit.solvers.ancestral import ddim
from ditkit.solvers.consistency import Boundary, consistency
from ditkit.solvers.counted import Counted
from ditkit.solvers.dpm_adaptive import dpm_adaptive as adaptive
from ditkit.solvers.dpm_adaptive import dpm_fast
from ditkit.solvers.dpm_ancestral import dpm_2_ancestral, dpm_2_churn, dpmpp_2s_ancestral, dpmpp_sde, euler_ancestral
from ditkit.solvers.dpm_multistep import dpm_multistep as multistep
from ditkit.solvers.dpm_multistep import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, dpmpp_3m_sde
from ditkit.solvers.dpm_singlestep import dpm_solver, dpmpp_2s, dpmpp_3s
from ditkit.solvers.exponential import DATA, NOISE, bh1, exact, levels, midpoint, phi, taylor, weights
from ditkit.solvers.state import State
from tests.exact import PATHS, GaussianData, normal, run

Solver = Callable[..., Iterator[State]]
MEAN, STD, LOW, HIGH = 0.4, 0.5, -1.5, 1.5
VP = PATHS["vp"]


def is_solver(value: Any) -> bool:
    return inspect.isfunction(value) and list(inspect.signature(value).parameters)[:3] == ["denoise", "x", "ts"]


SOLVERS: dict[str, Solver] = {
    name: solver
    for module in (dpm_multistep, dpm_singlestep, dpm_ancestral, dpm_adaptive, unipc)
    for name, solver in members(module.__name__, is_solver).items()
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def times(path: Path, steps: int, grade: float = 1.0, low: float = LOW, high: float = HIGH) -> Tensor:
    """Even in log-SNR; grade > 1: the first steps shorter, of h^grade."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** grade
    return path.time_at(low + (high - low) * u)


def answer(data: GaussianData, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
    """Where the probability-flow ODE takes x from s to t."""
    start, end = data.path.alpha(s) * data.mean, data.path.alpha(t) * data.mean
    return end + (x - start) * (data.variance(t) / data.variance(s)).sqrt()


def ode_error(solver: Solver, path: Path, ts: Tensor, **options: Any) -> float:
    # widths for which the errors of no two methods vanish at once
    data = GaussianData(path, MEAN, torch.tensor([[0.3], [0.8], [2.0]], dtype=torch.float64))  # type: ignore[arg-type]
    x = path.alpha(ts[0]) * MEAN + data.variance(ts[0]).sqrt()
    return float((run(solver, data, x, ts, **options) - answer(data, x, ts[0], ts[-1])).abs().max())


def slope(steps: list[int], errors: list[float]) -> float:
    x, y = (torch.tensor(v, dtype=torch.float64).log() for v in (steps, errors))
    return -float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())


ODE_ORDERS: dict[str, tuple[int, float, Solver]] = {
    "dpm_multistep 1": (1, 1, functools.partial(multistep, order=1)),
    "dpm_multistep 2": (2, 1, functools.partial(multistep, order=2)),
    "dpm_multistep 2 exact": (2, 1, functools.partial(multistep, order=2, rule="exact")),
    "dpm_multistep 3": (3, 2, functools.partial(multistep, order=3, rule="exact")),
    "dpmpp_2m": (2, 1, dpmpp_2m),
    "dpmpp_2m exact": (2, 1, functools.partial(dpmpp_2m, rule="exact")),
    "dpmpp_2m bh1": (2, 1, functools.partial(dpmpp_2m, rule="bh1")),
    "dpmpp_3m": (3, 2, dpmpp_3m),
    "dpm_solver 1": (1, 1, functools.partial(dpm_solver, order=1)),
    "dpm_solver 2": (2, 1, functools.partial(dpm_solver, order=2)),
    "dpm_solver 3": (3, 1, functools.partial(dpm_solver, order=3)),
    "dpm_solver 3 taylor": (3, 1, functools.partial(dpm_solver, order=3, stages="taylor")),
    "dpmpp_2s": (2, 1, dpmpp_2s),
    "dpmpp_3s": (3, 1, dpmpp_3s),
    "dpm_2": (2, 1, dpm_2_churn),
    "dpmpp_sde eta 0": (2, 1, functools.partial(dpmpp_sde, eta=0.0)),
    "dpm_2_ancestral eta 0": (2, 1, functools.partial(dpm_2_ancestral, eta=0.0)),
}


@pytest.mark.parametrize(("order", "grade", "solver"), ODE_ORDERS.values(), ids=ODE_ORDERS)
def test_measured_order_of_the_ode(order: int, grade: float, solver: Solver):
    steps = [30, 42, 60, 90]
    errors = [ode_error(solver, VP, times(VP, k, grade)) for k in steps]
    assert slope(steps, errors) == pytest.approx(order, abs=0.2)


def test_the_published_weights_of_3m_are_not_of_order_3():
    steps = [30, 42, 60, 90]
    errors = [ode_error(dpmpp_3m, VP, times(VP, k, 2.0), rule="taylor") for k in steps]
    assert slope(steps, errors) < 2.3


@every_path
@pytest.mark.parametrize("solver", [multistep, dpmpp_3m, dpm_solver, dpm_2_churn, dpm_fast], ids=lambda s: s.__name__)
def test_all_paths_are_one_in_log_snr(path: Path, solver: Solver):
    """x / alpha solves the same ODE in lambda on every path, so that the orders above hold on all of them."""
    low, high = path.log_snr(torch.tensor(path.ends()).double().flip(0)).tolist()
    low, high = max(low, LOW), min(high, HIGH)
    errors = []
    for on in (path, VP):
        ts = times(on, 12, low=low, high=high)
        errors.append(ode_error(solver, on, ts) / float(on.alpha(ts[-1])))
    # not the error itself: each path's start is scaled by the path
    assert errors[0] == pytest.approx(errors[1], rel=1e-6)


SDE_ORDERS: dict[str, tuple[int, int, Solver]] = {
    "dpm_multistep 1": (1, 1, functools.partial(multistep, order=1, eta=1.0)),
    "dpm_multistep 2": (2, 1, functools.partial(multistep, order=2, eta=1.0)),
    "dpmpp_2m_sde": (2, 1, dpmpp_2m_sde),
    "dpmpp_3m_sde": (2, 1, dpmpp_3m_sde),
    "euler_ancestral": (1, 1, euler_ancestral),
    "dpm_2_ancestral": (2, 1, dpm_2_ancestral),
    "dpmpp_2s_ancestral": (2, 1, dpmpp_2s_ancestral),
    "dpmpp_sde": (1, 2, dpmpp_sde),
    "dpmpp_2s eta 1": (1, 1, functools.partial(dpmpp_2s, eta=1.0)),
}


def moments(solver: Solver, data: GaussianData, ts: Tensor, draws: int) -> tuple[float, float]:
    """Mean and variance of the samples: the solver is affine, so its answers to a start and to each noise say all.

    Row 0 starts in the mean, row 1 a unit beside it, row 2 + k has one unit of draw k.
    """
    x = torch.full((draws + 2, 1), float(data.path.alpha(ts[0])) * data.mean, dtype=torch.float64)
    x[1] += 1

    def noise(k: int) -> Tensor:
        unit = torch.zeros_like(x)
        unit[2 + k] = 1
        return unit

    final = run(solver, data, x, ts, noise)[:, 0]
    answers = final[1:] - final[0]
    variance = data.variance(ts[0]) * answers[0] ** 2 + (answers[1:] ** 2).sum()
    return float(final[0]), float(variance)


@pytest.mark.parametrize(("order", "draws", "solver"), SDE_ORDERS.values(), ids=SDE_ORDERS)
def test_mean_and_covariance_of_the_sde(order: int, draws: int, solver: Solver):
    data, steps, errors = GaussianData(VP, MEAN, STD), [24, 36, 54, 81], []
    for k in steps:
        ts = times(VP, k)
        mean, variance = moments(solver, data, ts, draws * k)
        assert mean == pytest.approx(float(VP.alpha(ts[-1])) * MEAN, abs=1e-10)
        errors.append(abs(variance - float(data.variance(ts[-1]))))
    assert slope(steps, errors) > order - 0.2
    assert errors[-1] < 0.1 * float(data.variance(ts[-1]))


@pytest.mark.parametrize("eta", [0.5, 1.5])
def test_eta_keeps_the_marginals_of_data_that_are_known_exactly(eta: float):
    # one point: x0 and eps are right in every step, whatever its length, so any eta must follow the path
    data, ts = GaussianData(VP, 0.7, 0.0), times(VP, 3)
    for solver, draws in ((dpmpp_2m_sde, 3), (dpmpp_3m_sde, 3)):
        mean, variance = moments(functools.partial(solver, eta=eta), data, ts, draws)
        assert mean == pytest.approx(0.7 * float(VP.alpha(ts[-1])), rel=1e-9)
        assert variance == pytest.approx(float(VP.sigma(ts[-1])) ** 2, rel=1e-9)


@every_path
@every_solver
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_few_uneven_steps_from_noise_to_clean(path: Path, solver: Solver, steps: int):
    data = GaussianData(path, MEAN, STD)
    ts = grids.uniform(path, steps) ** 1.3
    x = path.sigma(ts[0]) * normal(4, 3)
    noise = lambda k: normal(4, 3, index=k + 1)  # noqa: E731
    *_, last = solver(data, x, ts, noise=noise)
    assert last.x.isfinite().all()
    assert torch.equal(last.t, ts[-1])
    if float(path.sigma(ts[-1])) == 0:
        torch.testing.assert_close(last.x, last.said.x0)
    if steps == 1 and float(path.sigma(ts[-1])) == 0:
        torch.testing.assert_close(last.x, data(x, ts[0]).x0)


@every_solver
def test_states_follow_the_grid_on_the_device_and_in_the_dtype_of_x(solver: Solver):
    path, ts = PATHS["linear"], grids.uniform(PATHS["linear"], 4)
    data, x = GaussianData(path, MEAN, STD), normal(2, 3).float()
    states = list(solver(data, x, ts, noise=lambda k: normal(2, 3).float()))
    assert {state.x.dtype for state in states} == {torch.float32}
    if solver is not adaptive:  # which has to look at its error
        x = torch.empty(2, 3, device="meta")
        assert run(solver, data, x, ts, lambda k: torch.empty_like(x)).device.type == "meta"


@every_solver
def test_samples_do_not_depend_on_the_batch(solver: Solver):
    if solver is adaptive:
        pytest.skip("its steps are as long as the batch allows")
    data, ts = GaussianData(VP, MEAN, STD), times(VP, 5)
    together = run(solver, data, normal(4, 2), ts, lambda k: normal(4, 2, index=k + 1))
    for i in range(4):
        alone = run(solver, data, normal(4, 2)[i : i + 1], ts, lambda k, i=i: normal(4, 2, index=k + 1)[i : i + 1])
        assert torch.equal(alone[0], together[i])


def test_first_order_is_ddim():
    data, x, ts = GaussianData(VP, MEAN, STD), normal(4, 2), grids.uniform(VP, 7)
    expected = run(ddim, data, x, ts)
    for solver in (functools.partial(multistep, order=1), functools.partial(dpm_solver, order=1)):
        torch.testing.assert_close(run(solver, data, x, ts), expected)
    torch.testing.assert_close(run(euler_ancestral, data, x, ts, eta=0.6), run(ddim, data, x, ts, eta=0.6))


def test_without_eta_nothing_is_drawn():
    data, x, ts = GaussianData(VP, MEAN, STD), normal(4, 2), times(VP, 6)
    for solver in (dpmpp_2m_sde, dpmpp_3m_sde, dpmpp_sde, euler_ancestral, dpm_2_ancestral, dpmpp_2s_ancestral):
        *_, last = solver(data, x, ts, eta=0.0)
        assert last.x.isfinite().all()
    with pytest.raises(UserError, match="noise None"):
        list(dpmpp_2m_sde(data, x, ts))


class Draws:
    """Noise that knows which draws were asked for."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, k: int) -> Tensor:
        self.seen.append(k)
        return normal(1, 1, index=k)


def test_every_noise_has_its_own_draw():
    for solver, draws in ((dpmpp_sde, 8), (dpmpp_2m_sde, 4), (dpmpp_2s_ancestral, 4)):
        noise = Draws()
        run(solver, GaussianData(VP, MEAN, STD), normal(1, 1), times(VP, 4), noise)
        assert noise.seen == list(range(draws))


def test_a_single_step_costs_one_evaluation_an_interval():
    for solver in (dpm_solver, dpmpp_2s, dpmpp_3s, dpmpp_2m, dpm_fast):
        for steps in (1, 2, 3, 7, 12):
            counted = Counted(GaussianData(VP, MEAN, STD))
            run(solver, counted, normal(2, 2), grids.uniform(VP, steps))
            assert counted.evaluations == steps


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("predict", ["eps", "x0"])
@pytest.mark.parametrize("controller", ["pid", "elementary"])
def test_adaptive_keeps_its_tolerance(order: int, predict: str, controller: str):
    ts, options = times(VP, 1), {"order": order, "predict": predict, "controller": controller}
    errors, evaluations = [], []
    for tolerance in (3e-2, 1e-3):
        counted = Counted(GaussianData(VP, MEAN, STD))
        solver = functools.partial(adaptive, rtol=tolerance, atol=tolerance, **options)
        errors.append(ode_error(solver, VP, ts))
        run(solver, counted, normal(3, 1), ts)
        evaluations.append(counted.evaluations)
    assert errors[0] < 0.1
    assert errors[1] < errors[0] / 5
    assert evaluations[1] > evaluations[0]
    assert all(count % order == 0 for count in evaluations)


def test_phi_is_the_integral_that_it_stands_for():
    theta = torch.linspace(0, 1, 20001, dtype=torch.float64)
    for z in (-30.0, -1.01, -0.99, -1e-3, 0.0, 0.5, 1.01, 4.0):
        for k in (1, 2, 3):
            integrand = torch.exp(z * (1 - theta)) * theta ** (k - 1) / math.factorial(k - 1)
            assert phi(k, z) == pytest.approx(float(torch.trapezoid(integrand, theta)), rel=1e-6)
    for k in (1, 2, 3):
        assert phi(k, 1 - 1e-12) == pytest.approx(phi(k, 1 + 1e-12), rel=1e-11)


def test_weights_integrate_polynomials_exactly():
    s, t = levels(VP, times(VP, 1))
    for form in (DATA, NOISE):
        move = form.move(s, t)
        nodes = [-1.3, 0.4, 1.0]
        w = weights(move, nodes, exact)
        for i in (1, 2, 3):
            total = sum(w_k * theta**i for w_k, theta in zip(w, nodes, strict=True))
            assert total == pytest.approx(move.moment(i), rel=1e-10)
        assert weights(move, [-0.5], midpoint)[0] == pytest.approx(-move.moment(0))
        assert weights(move, [-0.5], bh1)[0] == pytest.approx(-move.length)
        assert taylor(move, 2)[1] == pytest.approx(move.moment(2) / 2)


def test_consistency_sampling_jumps_and_noises():
    path, ts = PATHS["edm"], torch.tensor([1.0, 0.3, 0.0], dtype=torch.float64)
    data, seen = GaussianData(path, 0.7, 0.0), []
    x = 80 * normal(3, 2)
    first, last = consistency(data, x, ts, noise=lambda k: seen.append(k) or normal(3, 2, index=9))
    torch.testing.assert_close(first.x, 0.7 + 24 * normal(3, 2, index=9))
    torch.testing.assert_close(last.x, torch.full_like(x, 0.7))
    assert seen == [0]  # the last step adds nothing
    first, _ = consistency(data, x, ts, noise=lambda k: normal(3, 2, index=9), sigma_min=7.0)
    torch.testing.assert_close(first.x, 0.7 + (24**2 - 7**2) ** 0.5 * normal(3, 2, index=9))


def test_a_consistency_function_is_the_identity_without_noise():
    data, x = GaussianData(VP, MEAN, STD), normal(3, 2)
    near, far = (torch.tensor(t, dtype=torch.float64) for t in (1e-9, 0.9))
    torch.testing.assert_close(Boundary(data)(x, near).x0, x, rtol=0, atol=1e-4)
    torch.testing.assert_close(Boundary(data)(x, far).x0, data(x, far).x0, rtol=0, atol=1e-3)
    said = Boundary(data)(x, far)
    torch.testing.assert_close(VP.mix(said.x0, said.eps, far), x)


BAD = {
    "order 4": (multistep, {"order": 4}),
    "order 0": (dpm_solver, {"order": 0}),
    "rule 'middle'": (dpmpp_2m, {"rule": "middle"}),
    "stages 'taylr'": (dpmpp_3s, {"stages": "taylr"}),
    "eta -1": (dpmpp_2m_sde, {"eta": -1.0}),
    "s_noise -2": (euler_ancestral, {"s_noise": -2.0}),
    "node 1": (dpmpp_sde, {"node": 1.0}),
    "s_churn -1": (dpm_2_churn, {"s_churn": -1.0}),
    "rtol 0": (adaptive, {"rtol": 0.0}),
    "controller 'pi'": (adaptive, {"controller": "pi"}),
    "sigma_min -1": (consistency, {"sigma_min": -1.0}),
    "t_min 0.9": (dpm_fast, {"t_min": 0.9}),
}


@pytest.mark.parametrize(("solver", "options"), BAD.values(), ids=BAD)
def test_bad_options_are_named(solver: Solver, options: dict[str, Any], request: pytest.FixtureRequest):
    name = request.node.callspec.id
    with pytest.raises(UserError, match=name.split("'")[0].strip()):
        list(solver(GaussianData(VP, MEAN, STD), normal(1, 1), times(VP, 3), noise=lambda k: normal(1, 1), **options))


@every_solver
def test_a_grid_that_rises_is_refused(solver: Solver):
    with pytest.raises(UserError, match="grid times"):
        list(solver(GaussianData(VP, MEAN, STD), normal(1, 1), times(VP, 3).flip(0), noise=lambda k: normal(1, 1)))


def test_pure_noise_is_met_where_a_path_has_it():
    assert [name for name, path in PATHS.items() if bool(is_noise(path, torch.ones(()).double()))]
