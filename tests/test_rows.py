"""Any row read as any other, singular pairs, weights as errors of another row; all exact, on every path."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ditkit.backbones.output import Output
from ditkit.base.errors import UserError
from ditkit.base.registry import members
from ditkit.objectives import weights
from ditkit.objectives.loss import Draws
from ditkit.objectives.matching import simple
from ditkit.process.continuous import VE, VP, FunctionPath, Linear, SubVP
from ditkit.process.denoiser import Denoiser
from ditkit.process.path import Path, over
from ditkit.process.prediction import EDM, X0, Eps, Prediction, Score, Velocity
from tests.exact import PATHS, PREDICTIONS, normal
from tests.mixtures import mixture

every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
every_row = pytest.mark.parametrize("row", PREDICTIONS.values(), ids=PREDICTIONS)
WEIGHTS = members("ditkit.objectives.weights", weights._accept)
TIMES = torch.tensor([0.02, 0.1, 0.35, 0.5, 0.75, 0.9, 0.98], dtype=torch.float64)
ENDS = torch.tensor([0.0, 1.0], dtype=torch.float64)


@every_path
@every_row
def test_every_row_is_read_from_every_other(path: Path, row: Prediction):
    data = mixture(2).on(path)
    x = data.start(len(TIMES), TIMES)
    said = data(x, TIMES)
    p = row.target(path, said.x0, said.eps, TIMES)
    for other in PREDICTIONS.values():
        expected = other.target(path, said.x0, said.eps, TIMES)
        torch.testing.assert_close(row.read_as(other, path, p, x, TIMES), expected, rtol=1e-10, atol=1e-10)


@every_path
def test_score_and_velocity_rows_are_the_mixtures_own(path: Path):
    data = mixture(2).on(path)
    x = data.start(len(TIMES), TIMES)
    said = data(x, TIMES)
    for row, exact in ((Score(), data.score), (Velocity(), data.velocity)):
        torch.testing.assert_close(row.target(path, said.x0, said.eps, TIMES), exact(x, TIMES), rtol=1e-10, atol=1e-10)


def refusal(row: Prediction, path: Path, p: Tensor, x: Tensor, t: Tensor) -> str | None:
    """Why the row cannot be solved at t; None where it can."""
    try:
        row.solve(path, p, x, t)
    except UserError as error:
        return str(error)
    return None


@every_path
@every_row
def test_at_the_ends_a_row_either_solves_or_says_why_not(path: Path, row: Prediction):
    x0, eps = normal(1, 3, index=1), normal(1, 3, index=2)
    for t in ENDS:
        alpha, sigma = path.alpha(t).item(), path.sigma(t).item()
        x_t, p = path.mix(x0, eps, t), row.target(path, x0, eps, t)
        why = refusal(row, path, p, x_t, t)
        if why is None:
            solved = row.solve(path, p, x_t, t)
            torch.testing.assert_close(torch.cat(solved), torch.cat([x0, eps]), rtol=1e-8, atol=1e-8)
        else:
            assert min(abs(alpha), abs(sigma)) < 1e-12
            assert all(part in why for part in (repr(row.name), repr(path.name), f"t = {t:g}", "grid"))
            assert "\n" not in why
            # in a batch of times too
            assert refusal(row, path, p.expand(2, 3), x_t.expand(2, 3), torch.stack([TIMES[3], t])) == why


@pytest.mark.parametrize(
    ("row", "path", "t"),
    [
        *((row, path, 1) for row in (Eps(), Score()) for path in ("linear", "gvp")),
        *((row, path, 0) for row in (X0(), Score()) for path in ("linear", "vp", "edm", "ddpm_linear")),
        *((Velocity(), path, 0) for path in ("vp", "ddpm_linear", "cosine")),
    ],
)
def test_these_pairs_are_singular(row: Prediction, path: str, t: int):
    x = normal(1, 3)
    with pytest.raises(UserError, match="singular"):
        row.solve(PATHS[path], x, x, ENDS[t])


@every_path
def test_edms_row_is_karras_table(path: Path):
    row, sd = EDM(sigma_data=0.7), 0.7
    noise = path.sigma(TIMES) / path.alpha(TIMES)
    c_skip, c_out = sd**2 / (noise**2 + sd**2), noise * sd / (noise**2 + sd**2).sqrt()
    x0, eps = normal(len(TIMES), 3, index=1), normal(len(TIMES), 3, index=2)
    x = x0 + over(noise, eps) * eps  # the image at noise sigma / alpha
    f = row.target(path, x0, eps, TIMES)
    torch.testing.assert_close(over(c_skip, x) * x + over(c_out, f) * f, x0, rtol=1e-10, atol=1e-10)
    c_in = 1 / (noise**2 + sd**2).sqrt()
    torch.testing.assert_close(row.network_input(path, path.mix(x0, eps, TIMES), TIMES), over(c_in, x) * x)
    torch.testing.assert_close(row.network_time(path, TIMES), noise.log() / 4)
    assert bool(row.network_time(path, ENDS).isfinite().all())


# --- paths given as functions ---


def test_a_path_of_the_users_two_functions_is_the_same_path():
    own, known = FunctionPath(lambda t: 1 - t, lambda t: t), Linear()
    for name in ("alpha", "sigma", "d_alpha", "d_sigma", "log_snr", "drift", "diffusion_squared"):
        torch.testing.assert_close(getattr(own, name)(TIMES), getattr(known, name)(TIMES))
    constant = FunctionPath(lambda t: 1.0, lambda t: 3 * t)
    assert constant.d_alpha(TIMES).tolist() == [0.0] * len(TIMES)
    assert constant.d_sigma(TIMES).tolist() == [3.0] * len(TIMES)


def _falling(t: Tensor) -> Tensor:
    return 1 - t


def _rising(t: Tensor) -> Tensor:
    return t


NO_PATHS = {
    "no image": (lambda t: 0.5 - t, _rising, r"alpha at t = 0\.5: expected .* above 0"),
    "no noise": (_falling, lambda t: t - 0.2, r"sigma at t = 0\.001: expected .* above 0"),
    "reversed": (_rising, _falling, r"alpha 0, sigma 1 at t = 0: .*data are at t = 0.*swap"),
    "noise that ends": (_falling, lambda t: t * (1 - t), r"sigma 0 at t = 1: expected above 0"),
    "no less signal": (lambda t: 1 - t / 2, lambda t: t * (1.1 - t), r"log-SNR .* at t = 0\.\d+.*fall all the way"),
    "a wave": (lambda t: 1.0, lambda t: t + 0.3 * torch.sin(12 * t), r"log-SNR|above 0"),
    "a number's function": (lambda t: math.cos(t), _rising, r"alpha\(t\) raises .*torch\.cos"),
    "no derivative": (lambda t: 2 - t.detach(), _rising, r"alpha\(t\) varies, but has no derivative"),
    "nothing": (_falling, lambda t: None, r"sigma\(t\) of 1001 times gives None"),
    "another shape": (lambda t: torch.ones(3), _rising, r"alpha\(t\) .* gives shape \(3,\)"),
    "an infinite end": (_falling, lambda t: t / (1 - t), r"sigma at t = 1 is inf: expected a finite number"),
    "NaN": (lambda t: torch.sqrt(0.5 - t), _rising, r"alpha at t = 0\.501 is nan"),
}


@pytest.mark.parametrize(("alpha", "sigma", "said"), NO_PATHS.values(), ids=NO_PATHS)
def test_functions_that_make_no_path_from_data_to_noise_are_refused(alpha: Any, sigma: Any, said: str):
    with pytest.raises(UserError, match=said):
        FunctionPath(alpha, sigma)


@pytest.mark.parametrize("kind", [VP, SubVP])
@pytest.mark.parametrize(
    "betas",
    [
        (-5.0, 20.0),
        (-0.02, 20.0),
        (0.0, 0.0),
        (0.1, 1e6),
        (math.nan, 20.0),
        (0.1, math.nan),
        (0.1, math.inf),
        (5.0, 1.0),
    ],
)
def test_betas_that_make_no_path_are_refused(kind: type[VP], betas: tuple[float, float]):
    with pytest.raises(UserError, match=r"beta_min \S+, beta_max \S+: expected beta_min <= beta_max"):
        kind(beta_min=betas[0], beta_max=betas[1])
    assert kind(beta_min=-0.005, beta_max=17.5).sigma(torch.tensor(1e-3, dtype=torch.float64)) > 0


@pytest.mark.parametrize("kind", [VE, type(PATHS["edm"])])
@pytest.mark.parametrize("sigmas", [(0.01, math.inf), (0.0, 1.0), (math.nan, 1.0), (2.0, 1.0)])
def test_sigmas_that_make_no_path_are_refused(kind: Any, sigmas: tuple[float, float]):
    with pytest.raises(UserError, match=f"sigma from {sigmas[0]} to {sigmas[1]}: expected 0 < sigma_min < sigma_max"):
        kind(sigma_min=sigmas[0], sigma_max=sigmas[1])


@every_path
def test_time_at_is_the_inverse_of_log_snr(path: Path):
    torch.testing.assert_close(path.time_at(path.log_snr(TIMES)), TIMES, rtol=0, atol=1e-9)
    beyond = torch.tensor([1e3, -1e3], dtype=torch.float64)
    torch.testing.assert_close(path.time_at(beyond), ENDS, rtol=0, atol=1e-12)


# --- weights ---


def off_by(error: Tensor, path: Path, row: Prediction) -> tuple[Denoiser, Tensor, Draws]:
    """A denoiser whose eps is wrong by ``error`` (B, D) and whose x0 is wrong accordingly."""
    x0, eps = normal(*error.shape, index=1), normal(*error.shape, index=2)
    x_t = path.mix(x0, eps, TIMES)
    wrong_eps = eps + error
    wrong_x0 = over(1 / path.alpha(TIMES), x_t) * (x_t - over(path.sigma(TIMES), eps) * wrong_eps)
    said = row.target(path, wrong_x0, wrong_eps, TIMES)
    return Denoiser(lambda x, time, condition: Output(said, {}), path, row), x0, Draws(TIMES, eps)


def published(path: Path) -> dict[str, Tensor]:
    """Each weight as its paper has it, on the squared error of eps."""
    alpha, sigma = path.alpha(TIMES), path.sigma(TIMES)
    snr = (alpha / sigma) ** 2
    d_log_snr = 2 * (path.d_alpha(TIMES) / alpha - path.d_sigma(TIMES) / sigma)
    f_noise = 2 * (path.d_sigma(TIMES) - path.d_alpha(TIMES) / alpha * sigma) / 2
    return {
        "snr": torch.ones_like(snr),
        "min_snr": snr.clamp(max=5) / snr,
        "velocity": f_noise**2,
        "likelihood": path.diffusion_squared(TIMES) / sigma**2,
        "edm": (1 / snr + 0.25) / (1 / snr * 0.25) / snr,
        "sigmoid": torch.sigmoid(2 - snr.log()) * -d_log_snr,
    }


@every_path
@every_row
def test_a_weight_means_the_same_whatever_the_network_predicts(path: Path, row: Prediction):
    error = normal(len(TIMES), 3, index=3)
    denoiser, x0, draws = off_by(error, path, row)
    for name, weight in published(path).items():
        found = simple(denoiser, x0, draws, weight=name).per_sample
        expected = weight * (error**2).mean(1)
        torch.testing.assert_close(found, expected.float(), rtol=2e-3, atol=1e-7, check_dtype=False, msg=name)


def test_every_weight_is_compared_with_its_paper():
    assert WEIGHTS.keys() - {"none"} == published(VP()).keys()


def test_no_weight_is_the_rows_own_error_and_a_weight_of_the_own_row_is_one():
    for row, name in ((Eps(), "snr"), (Velocity(), "velocity"), (EDM(), "edm")):
        for path in (VP(), Linear()):
            torch.testing.assert_close(WEIGHTS[name](path, row, TIMES), WEIGHTS["none"](path, row, TIMES))
    torch.testing.assert_close(WEIGHTS["likelihood"](VP(), Score(), TIMES), VP().beta(TIMES))


def test_weights_take_options_and_unknown_ones_are_refused():
    denoiser, x0, draws = off_by(normal(len(TIMES), 3, index=3), VP(), X0())
    plain = simple(denoiser, x0, draws).per_sample
    tight = simple(denoiser, x0, draws, weight=functools.partial(weights.min_snr, gamma=1e-9)).per_sample
    torch.testing.assert_close(tight / plain, torch.full_like(plain, 1e-9))
    with pytest.raises(UserError, match=r"weight 'min_sn'.*did you mean 'min_snr'"):
        simple(denoiser, x0, draws, weight="min_sn")
    assert math.isfinite(plain.sum())
