"""Sampling grids: every one on every path, published values, and what is refused."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.base.registry import members
from ditkit.process import grids
from ditkit.process.betas import inverse
from ditkit.process.continuous import EDM, GVP, VE, VP, Linear
from ditkit.process.path import DDPMLinear, DiscretePath, Path, is_noise
from tests.exact import PATHS, Straight


def is_grid(value: Any) -> bool:
    """A function (path, steps, *, options)."""
    if not inspect.isfunction(value):
        return False
    positional = [p.name for p in inspect.signature(value).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return positional == ["path", "steps"]


GRIDS: dict[str, Callable[..., Tensor]] = members("ditkit.process.grids", is_grid)
GIVEN = {"given": {"times": "1,0.7,0.2,0.1,0"}}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
chains_only = {"linspaced", "leading", "trailing"}


def levels(path: Path, ts: Tensor) -> Tensor:
    return grids.noise_level(path, ts)


class Returning(Straight):
    """A path whose noise falls again halfway."""

    name = "returning"

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi * t) + 1e-3


def test_the_grids_are_found_by_name():
    assert {"uniform", "quadratic", "shifted", "flux", "log_snr", "polyexponential", "karras", "given"} <= set(GRIDS)


@every_path
@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_every_grid_falls_from_the_noise_to_zero_in_its_steps_on_every_path(name: str, steps: int, path: Path):
    if path.steps is None and name in chains_only:
        with pytest.raises(UserError, match="continuous"):
            GRIDS[name](path, steps)
        return
    if name == "given" and steps != 4:
        with pytest.raises(UserError, match="4 steps"):
            GRIDS[name](path, steps, **GIVEN[name])
        return
    ts = GRIDS[name](path, steps, **GIVEN.get(name, {}))
    assert ts.dtype == torch.float64
    assert len(ts) == steps + 1
    assert ts[-1] == 0
    assert bool((ts[:-1] > ts[1:]).all())
    if name != "leading":
        assert ts[0] >= 0.999


@every_path
def test_between_a_paths_ends_its_log_snr_is_finite(path: Path):
    t_min, t_max = path.ends()
    assert 0 <= t_min < t_max <= 1
    log_snr = path.log_snr(torch.tensor([t_min, t_max], dtype=torch.float64))
    assert log_snr.isfinite().all()
    assert log_snr.abs().max() < 20


def test_a_chain_that_ends_in_pure_noise_ends_one_step_before():
    path = DiscretePath(inverse(50))
    assert is_noise(path, torch.tensor(1.0, dtype=torch.float64))
    assert path.ends() == (1 / 50, 49 / 50)
    assert grids.karras(path, 5)[0] == 49 / 50


@every_path
def test_the_noise_level_and_the_time_are_inverse(path: Path):
    ts = torch.tensor([0.9, 0.5, 0.03], dtype=torch.float64)
    torch.testing.assert_close(grids.time_of_noise(path, levels(path, ts)), ts, rtol=1e-9, atol=0)
    assert grids.time_of_noise(path, torch.zeros(1, dtype=torch.float64)).item() == 0


def test_karras_is_equation_5():
    path, n, rho = EDM(sigma_min=0.02, sigma_max=20.0), 8, 7.0
    i = torch.arange(n, dtype=torch.float64)
    expected = (20 ** (1 / rho) + i / (n - 1) * (0.02 ** (1 / rho) - 20 ** (1 / rho))) ** rho
    torch.testing.assert_close(levels(path, grids.karras(path, n, rho=rho))[:-1], expected, rtol=1e-12, atol=0)


@every_path
def test_log_snr_steps_are_even_between_the_asked_noise_levels(path: Path):
    ts = grids.log_snr(path, 6, sigma_max=3.0, sigma_min=0.1, to_zero=False)
    assert len(ts) == 7
    expected = torch.linspace(-math.log(3), -math.log(0.1), 7, dtype=torch.float64)
    torch.testing.assert_close(path.log_snr(ts), expected, rtol=1e-10, atol=1e-12)
    with_zero = grids.log_snr(path, 6, sigma_max=3.0, sigma_min=0.1)
    torch.testing.assert_close(levels(path, with_zero[-2:]).tolist()[0], 0.1, rtol=1e-10, atol=0)
    assert with_zero[-1] == 0


def test_polyexponential_bends_log_noise():
    path = EDM(sigma_min=0.1, sigma_max=10.0)
    sigmas = levels(path, grids.polyexponential(path, 3, rho=2.0))
    # at r = 1/2 the exponent has fallen to 1/4
    assert sigmas[1].item() == pytest.approx(0.1 * 100 ** (1 / 4))


def test_a_noisy_end_of_the_path_is_where_grids_end():
    path = VE()
    ts = grids.log_snr(path, 5)
    torch.testing.assert_close(ts, torch.linspace(1, 0, 6, dtype=torch.float64))
    assert len(grids.karras(path, 5, sigma_min=path.sigma_min)) == 6


def test_time_grids_have_their_formulas():
    torch.testing.assert_close(grids.quadratic(Linear(), 4)[1].item(), 0.75**2)
    quadratic = grids.quadratic(VP(), 4, t_max=0.81, t_min=0.01, to_zero=False)
    torch.testing.assert_close(quadratic.sqrt(), torch.linspace(0.9, 0.1, 5, dtype=torch.float64))
    even = grids.uniform(VP(), 3, t_min=0.4)
    torch.testing.assert_close(even, torch.tensor([1.0, 0.7, 0.4, 0.0], dtype=torch.float64))
    # 3 t / (1 + 2 t) at 3/4, 1/2, 1/4 (Esser et al. 2024)
    shifted = grids.shifted(Linear(), 4, shift=3.0)
    torch.testing.assert_close(shifted, torch.tensor([1, 0.9, 0.75, 0.5, 0], dtype=torch.float64))
    torch.testing.assert_close(grids.shifted(GVP(), 4, shift=1.0), grids.uniform(GVP(), 4))


def test_flux_shifts_by_the_number_of_tokens():
    assert grids.flux_mu(256) == 0.5
    assert grids.flux_mu(4096) == pytest.approx(1.15)
    t = grids.flux(Linear(), 2, tokens=4096)[1].item()
    assert t == pytest.approx(math.exp(1.15) / (math.exp(1.15) + 1))


def test_chains_are_spaced_as_published():
    path = DDPMLinear()
    indices = {name: path.index(GRIDS[name](path, 4)[:-1]).tolist() for name in sorted(chains_only)}
    assert indices == {"leading": [750, 500, 250, 0], "linspaced": [999, 666, 333, 0], "trailing": [999, 749, 499, 249]}
    assert path.index(grids.leading(path, 4, offset=1)[:-1]).tolist() == [751, 501, 251, 1]


REFUSED: dict[str, Callable[[], object]] = {
    "steps 0:": lambda: grids.karras(VP(), 0),
    "-2": lambda: grids.quadratic(VP(), -2),
    "steps 1001": lambda: grids.trailing(DDPMLinear(), 1001),
    "shift -1": lambda: grids.shifted(Linear(), 4, shift=-1.0),
    "rho 0": lambda: grids.karras(VP(), 4, rho=0.0),
    "rho 0.001": lambda: grids.karras(VP(), 4, rho=1e-3),
    "rho -0.001": lambda: grids.karras(VP(), 4, rho=-1e-3),
    "rho nan": lambda: grids.polyexponential(VP(), 4, rho=math.nan),
    "tokens 1000000000": lambda: grids.flux(Linear(), 4, tokens=1000000000),
    "tokens -5": lambda: grids.flux(Linear(), 4, tokens=-5),
    "shift nan": lambda: grids.shifted(Linear(), 4, shift=math.nan),
    "rho -1": lambda: grids.polyexponential(VP(), 4, rho=-1.0),
    "100 to": lambda: grids.karras(EDM(), 4, sigma_max=100.0),
    "to 0.001:": lambda: grids.log_snr(VE(), 4, sigma_min=0.001),
    "to 0:": lambda: grids.log_snr(VP(), 4, sigma_min=0.0),
    "from 1 to 2": lambda: grids.karras(VP(), 4, sigma_max=1.0, sigma_min=2.0),
    "from 1.5 to 0": lambda: grids.uniform(Linear(), 4, t_max=1.5),
    "from 1 to 1": lambda: grids.uniform(Linear(), 4, t_min=1.0),
    "offset 300": lambda: grids.leading(DDPMLinear(), 4, offset=300),
    "0.2, 0.5": lambda: grids.check([0.9, 0.2, 0.5, 0.0]),
    "0.5, 0.5": lambda: grids.check([0.5, 0.5]),
    "time 1000": lambda: grids.check([1000.0, 500.0, 0.0]),
    "time -0.1": lambda: grids.check([1.0, -0.1]),
    "time nan": lambda: grids.check([1.0, math.nan, 0.0]),
    "shape": lambda: grids.check([1.0]),
    "'1,a'": lambda: grids.given(VP(), 1, times="1,a"),
    "returning": lambda: grids.karras(Returning(), 4, sigma_max=1.0, sigma_min=0.1),
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_makes_no_grid_is_refused_in_one_line_that_names_it(named: str):
    with pytest.raises(UserError) as error:
        REFUSED[named]()
    assert named in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("steps", [20, 25, 1000])
def test_a_chains_own_times_are_found_from_their_log_snr(steps: int):
    path = DDPMLinear(steps=steps)
    ts = (torch.arange(steps, dtype=torch.float64) + 1) / steps
    torch.testing.assert_close(path.time_at(path.log_snr(ts)), ts, rtol=1e-9, atol=0)
    far = torch.tensor([-50.0, 50.0, math.inf, -math.inf], dtype=torch.float64)
    # with 20 steps the last beta is 1: log-SNR falls from a finite value at t = 19/20 to -inf, and skips -50
    skips = 19 / 20 if path.log_snr(ts[-1]) < -50 else 1
    torch.testing.assert_close(path.time_at(far), torch.tensor([skips, 0, 0, 1], dtype=torch.float64))
