"""Every path x row x solver, collected from the modules: a new file is tested without being listed.

The model is the exact denoiser of a mixture, read through the row as a trained network would be. A few steps cannot
be exact, but they must end finite, and no farther from the data than the data are wide.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from ditkit.app import build, checks
from ditkit.app.recipe import Process, Sampling
from ditkit.base import registry, rng
from ditkit.base.errors import UserError
from ditkit.condition import Condition
from ditkit.process.denoiser import Denoise, Denoised
from ditkit.process.path import Path, is_noise
from ditkit.process.prediction import Prediction
from ditkit.sample import sample
from ditkit.solvers.state import State
from tests.exact import PATHS, PREDICTIONS, normal
from tests.mixtures import ReadAs, mixture

Solver = Callable[..., Iterator[State]]
DATA = mixture(2)
COUNT = 256
ONE = torch.ones((), dtype=torch.float64)


# by the command line's own rule: functions of (denoise, x, ts), whether they yield themselves or return a generator
SOLVERS: dict[str, Solver] = build.known("solver")
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
every_row = pytest.mark.parametrize("row", PREDICTIONS.values(), ids=PREDICTIONS)
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


@functools.cache
def levels(path: Path, steps: int) -> Tensor:
    """Noise levels around sigma = alpha, each 1.5 in log-SNR from the next, and then t = 0 if it is without noise."""
    log_snr = 1.5 * (torch.arange(steps + 1, dtype=torch.float64) - (steps - 1) / 2)
    ts = path.time_at(log_snr)
    if path.steps is not None:  # a chain's own times
        ts = (ts * path.steps).round() / path.steps
    if path.sigma(0 * ONE) == 0:
        ts[-1] = 0
    return ts


@functools.cache
def noise(k: int) -> Tensor:
    """The noise of draw k."""
    return normal(COUNT, 2, index=k + 1)


def end(solver: Solver, denoise: Denoise, ts: Tensor) -> Tensor:
    """The samples that start from exact x_t at ts[0]."""
    *_, last = solver(denoise, DATA.on(denoise.path).start(COUNT, ts[0]), ts, noise=noise)
    return last.x


def outcome(solver: Solver, denoise: Denoise, ts: Tensor) -> tuple[Tensor | None, str]:
    """The samples, or None and the one line that says why there are none."""
    try:
        return end(solver, denoise, ts), ""
    except UserError as error:
        reason = str(error)
    assert "\n" not in reason
    return None, reason


def check_near_the_data(samples: Tensor, steps: int) -> None:
    """The mean is right within a few steps' bias and the Monte-Carlo error; so is the width, where one step, which can
    lead no farther than to E[x0 | x_t], is narrower."""
    width = DATA.covariance.trace().sqrt()
    assert samples.shape == (COUNT, 2)
    assert bool(samples.isfinite().all())
    assert (samples.mean(0) - DATA.mean).norm() < 0.5 * width
    spread = (samples - samples.mean(0)).square().sum(1).mean().sqrt()
    assert 0.4 * (steps > 1) < spread / width < 3


@every_path
@every_solver
@pytest.mark.parametrize("steps", [1, 2])
def test_every_solver_takes_one_and_two_steps(solver: Solver, path: Path, steps: int):
    check_near_the_data(end(solver, DATA.on(path), levels(path, steps)), steps)


def uneven(path: Path, steps: int) -> Tensor:
    """Random times whose noise is of the size of the image, no two steps alike."""
    low, high = path.log_snr(torch.tensor(path.ends(), dtype=torch.float64).flip(0)).clamp(-2.5, 2.5).tolist()
    random = torch.rand(steps + 1, generator=rng.generator(0, "uneven grid", steps), dtype=torch.float64)
    return path.time_at(low + (high - low) * random.sort().values)


@every_path
@every_solver
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_every_solver_takes_uneven_steps_between_any_ends(solver: Solver, path: Path, steps: int):
    inside = uneven(path, steps)
    clean = torch.cat([inside[:-1], 0 * ONE[None]])
    for ts in (inside, clean):
        *_, last = solver(DATA.on(path), DATA.on(path).start(COUNT, ts[0]), ts, noise=noise)
        assert last.t == ts[-1]
        assert bool(last.x.isfinite().all())
    if steps > 2 and path.sigma(0 * ONE) == 0:
        check_near_the_data(last.x, steps)


BAD_GRIDS = {
    "0.2, 0.5": [0.9, 0.2, 0.5, 0.0],
    "0.5, 0.5": [0.5, 0.5],
    "time 1000": [1000.0, 500.0, 0.0],
    "time -0.1": [1.0, -0.1],
    "time nan": [1.0, math.nan, 0.0],
    "at least two times": [1.0],
}


@every_solver
@pytest.mark.parametrize("named", BAD_GRIDS)
def test_every_solver_refuses_what_is_no_grid(solver: Solver, named: str):
    ts = torch.tensor(BAD_GRIDS[named], dtype=torch.float64)
    with pytest.raises(UserError, match=re.escape(named)) as error:
        list(solver(DATA.on(PATHS["vp"]), noise(0), ts, noise=noise))
    assert "\n" not in str(error.value)


@dataclasses.dataclass(frozen=True)
class Breaking:
    """A denoiser whose answer about one row is not a number from some noise level down."""

    path: Path
    row: int

    def given(self, condition: Condition) -> Breaking:
        return self

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        said = DATA.on(self.path)(x, t)
        broken = (torch.arange(len(x)) == self.row)[:, None] & (t < 0.5)
        return Denoised(*(torch.where(broken, math.nan, part) for part in (said.x0, said.eps)))


@every_solver
def test_a_state_that_is_not_finite_is_named_by_step_and_seed(solver: Solver):
    ts = torch.tensor([0.9, 0.7, 0.4, 0.2, 0.0], dtype=torch.float64)
    denoiser: Any = Breaking(PATHS["vp"], 2)
    with pytest.raises(UserError, match=r"^step (\d+): the sample of seed 13 is not finite at t = 0") as error:
        sample(denoiser, Condition(), [11, 12, 13], (2,), ts, solver=solver)
    assert "\n" not in str(error.value)
    if [state.t for state in solver(DATA.on(PATHS["vp"]), noise(0), ts, noise=noise)] == ts[1:].tolist():
        # said to be broken at 0.4 first, a stage of the step there at the earliest
        assert str(error.value).split(":")[0] in ("step 2", "step 3")


BUILT = [(path, row) for path in build.known("path") for row in build.known("prediction")]
IN_TIME = [name for name, grid in build.known("grid").items() if "t_max" in registry.options(grid)]


@pytest.mark.parametrize(("path", "row"), BUILT, ids=lambda name: name)
def test_every_pair_of_path_and_row_is_trained_and_drawn_from_by_default(path: str, row: str):
    process = Process(path=path, prediction=row)
    checks.check_training(process)
    for grid in IN_TIME:
        checks.check_sampling(process, Sampling(grid=grid))
    prediction, denoise = build.prediction(process), DATA.on(build.path(process))
    ts = build.grid(Sampling(), denoise.path, prediction.start(denoise.path))
    check_near_the_data(end(build.solver(Sampling()), ReadAs(denoise, prediction), ts), len(ts) - 1)
    # only a row that is singular at the noise alone leaves it out
    assert (ts[0] < 1) == (row in ("eps", "score") and bool(is_noise(denoise.path, ONE)))


@every_path
@every_row
@every_solver
def test_every_combination_samples_in_three_steps(solver: Solver, row: Prediction, path: Path):
    check_near_the_data(end(solver, ReadAs(DATA.on(path), row), levels(path, 3)), 3)


@pytest.mark.parametrize("path", [path for path in PATHS.values() if is_noise(path, ONE)], ids=lambda path: path.name)
@every_row
@every_solver
def test_a_start_where_nothing_is_left_of_the_image_samples_or_says_why_not(
    solver: Solver, row: Prediction, path: Path
):
    ts = torch.cat([ONE[None], levels(path, 3)])
    samples, reason = outcome(solver, ReadAs(DATA.on(path), row), ts)
    if samples is None:
        assert re.search(r"(t =|time) 1\b|alpha", reason)
    else:
        assert bool(samples.isfinite().all())


@every_solver
def test_states_are_as_precise_as_the_samples_and_end_where_the_grid_does(solver: Solver):
    path = PATHS["vp"]
    ts, x = levels(path, 3), DATA.on(path).start(8, levels(path, 3)[0])
    for dtype in (torch.float32, torch.float64):
        states = list(solver(DATA.on(path), x.to(dtype), ts, noise=lambda k, dtype=dtype: noise(k)[:8].to(dtype)))
        times = torch.stack([state.t for state in states])
        assert times.dtype == torch.float64
        assert bool((times.diff() <= 0).all())
        assert times[-1] == ts[-1]
        assert {state.x.dtype for state in states} == {dtype}
        assert all(state.x.shape == x.shape for state in states)


def test_discovery_finds_a_solver_of_each_family():
    assert {"ddpm", "ddim", "heun", "dpmpp_2m", "dpm_adaptive", "euler_ancestral", "unipc", "edm"} <= SOLVERS.keys()
