"""Paths, chains, rows and grids against closed forms, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.process import betas as schedules
from ditkit.process.chain import Chain, full_chain
from ditkit.process.density import Uniform
from ditkit.process.gaussian import discretized_gaussian_log_likelihood, normal_cdf, normal_kl
from ditkit.process.grid import Respaced, chain_grid, respaced_indices
from ditkit.process.grids import uniform as sampling_grid
from ditkit.process.path import DDPMLinear, DiscretePath, Path, ScaledLinear
from ditkit.process.prediction import Prediction, split_variance
from tests.exact import DISCRETE, PATHS, PREDICTIONS, Straight, normal

every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
every_discrete_path = pytest.mark.parametrize("path", DISCRETE.values(), ids=DISCRETE)
every_row = pytest.mark.parametrize("row", PREDICTIONS.values(), ids=PREDICTIONS)


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def inside(path: Path) -> Tensor:
    """Times between the ends, none of them a chain's own."""
    steps = path.steps or 1000
    return (torch.arange(1, steps, max(1, steps // 50), dtype=torch.float64) + 0.3) / steps


def slope(function, t: Tensor) -> Tensor:
    return torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]


def a_grid(path: Path) -> Tensor:
    """A few uneven steps down to t = 0."""
    return sampling_grid(path, "3,2,1" if path.steps else 7)


def test_discovery_finds_paths_and_rows():
    assert PATHS.keys() >= {
        *("ddpm_linear", "cosine", "scaled_linear", "vp", "sub_vp", "ve", "edm", "linear", "gvp", "functions")
    }
    assert {"eps", "x0", "v", "velocity", "score", "edm"} <= PREDICTIONS.keys()


# --- paths ---


@every_discrete_path
def test_coefficients_at_the_chains_times_are_the_running_product(path: DiscretePath):
    t = (torch.arange(path.steps) + 1).double() / path.steps
    product = torch.cumprod(1 - path.betas, 0)
    close(path.alpha(t) ** 2, product)
    close(path.sigma(t) ** 2, 1 - product)


@every_path
def test_derivatives_are_autograds(path: Path):
    t = inside(path)
    close(path.d_alpha(t), slope(path.alpha, t))
    close(path.d_sigma(t), slope(path.sigma, t))


@every_path
def test_the_forward_sde_moves_mean_and_variance_along_the_path(path: Path):
    t = inside(path)
    close(path.drift(t), slope(lambda t: path.alpha(t).log(), t))
    d_variance = slope(lambda t: path.sigma(t) ** 2, t)
    close(d_variance, 2 * path.drift(t) * path.sigma(t) ** 2 + path.diffusion_squared(t))


@every_discrete_path
def test_the_drift_over_a_segment_makes_its_beta(path: DiscretePath):
    middle = (torch.arange(path.steps) + 0.5).double() / path.steps
    close(-torch.expm1(2 * path.drift(middle) / path.steps), path.betas)
    close(path.diffusion_squared(middle), -2 * path.drift(middle))


@every_path
def test_a_path_starts_at_the_clean_image(path: Path):
    zero = torch.zeros((), dtype=torch.float64)
    least = getattr(path, "sigma_min", 0.0) if path.name == "ve" else 0.0  # VE never loses its last grain of noise
    assert path.alpha(zero) == 1
    assert path.sigma(zero) == least
    assert not torch.signbit(path.sigma(zero))
    assert path.log_snr(zero) == (-math.log(least) if least else math.inf)


@pytest.mark.parametrize("steps", [1, 2, 3, *range(5, 1500, 97), 1000, 4000])
def test_the_network_sees_whole_indices_at_the_chains_times(steps: int):
    path = DiscretePath(schedules.constant(steps, 0.01))
    chain = full_chain(path)
    whole = torch.arange(steps, dtype=torch.float64)
    assert torch.equal(path.network_time(chain.t).flip(0), whole)
    assert torch.equal(path.network_time(Uniform()((whole + 0.5) / steps, path)), whole)


def test_the_network_sees_fractions_between_the_chains_times():
    path = DDPMLinear(steps=100)
    close(
        path.network_time(torch.tensor([0.0, 0.005, 0.0125, 0.995])),
        torch.tensor([0, 0, 0.25, 98.5]).double(),
        atol=1e-5,
        rtol=0,
    )


@pytest.mark.parametrize("betas", [[], [0.1, 0.0], [0.1, 1.5], [-0.1]])
def test_betas_out_of_range_are_refused(betas: list[float]):
    with pytest.raises(UserError, match="betas"):
        DiscretePath(torch.tensor(betas))


@pytest.mark.parametrize(
    ("path", "options", "said"),
    [
        (DDPMLinear, {"steps": 10}, r"steps 10: .*at least 20"),
        (ScaledLinear, {"steps": 11}, r"steps 11: .*at least 12"),
        (ScaledLinear, {"steps": 0}, r"steps 0: .*at least 12"),
        (ScaledLinear, {"first": -0.1}, r"beta from -0\.1 to 0\.012: expected 0 < first"),
        (ScaledLinear, {"last": 1e-4}, r"beta from 0\.00085 to 0\.0001: expected .*first <= last"),
    ],
)
def test_betas_that_no_chain_can_have_are_refused_with_what_it_needs(path: type[Path], options: Any, said: str):
    with pytest.raises(UserError, match=said):
        path(**options)


@pytest.mark.parametrize("kind", [DDPMLinear, ScaledLinear])
@pytest.mark.parametrize("steps", [50, 200, 4000])
def test_a_chain_of_any_length_noises_as_the_one_of_1000_steps_does(kind: Any, steps: int):
    t = torch.tensor([0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    # betas of fewer steps are larger, and log(1 - beta) of a larger beta is more than proportional
    close(kind(steps=steps).log_snr(t), kind().log_snr(t), rtol=0, atol=0.03 + 50 / steps)


def test_the_scaled_linear_chain_of_1000_steps_is_the_published_one_to_the_bit():
    assert torch.equal(ScaledLinear().betas, torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2)


# --- rows ---


@every_path
@every_row
def test_solving_a_rows_target_gives_back_image_and_noise(path: Path, row: Prediction):
    x0, eps = normal(9, 2, 3, index=1), normal(9, 2, 3, index=2)
    for t in (torch.linspace(0.1, 0.9, 9, dtype=torch.float64), torch.tensor(0.37, dtype=torch.float64)):
        target = row.target(path, x0, eps, t)
        solved = row.solve(path, target, path.mix(x0, eps, t), t)
        for actual, expected in zip(solved, (x0, eps), strict=True):
            close(actual, expected, rtol=0, atol=1e-8)


def test_learned_variance_is_the_second_half_of_the_channels():
    output = normal(2, 6, 4)
    p, mix = split_variance(output, 3)
    assert mix is not None
    assert torch.equal(p, output[:, :3])
    close(2 * mix - 1, output[:, 3:])
    assert split_variance(output, 6)[1] is None
    with pytest.raises(ValueError, match="6 channels; expected 4, or 8"):
        split_variance(output, 4)


# --- chains ---


@every_path
def test_steps_compose_to_the_path(path: Path):
    chain = Chain(path, a_grid(path))
    close(chain.sigma_t**2, (chain.alpha_t / chain.alpha_s) ** 2 * chain.sigma_s**2 + chain.beta)


@every_path
def test_the_posterior_is_bayes_rule(path: Path):
    chain = Chain(path, a_grid(path))
    k = torch.arange(len(chain) - 1)
    x0, x_t = normal(len(k), 3, index=1), normal(len(k), 3, index=2)
    shrink = (chain.alpha_t / chain.alpha_s)[k]
    # precisions of q(x_s | x0), and of q(x_t | x_s) seen as a function of x_s, add up
    precision = 1 / chain.sigma_s[k] ** 2 + shrink**2 / chain.beta[k]
    weighted = (chain.alpha_s / chain.sigma_s**2)[k, None] * x0 + (shrink / chain.beta[k])[:, None] * x_t
    close(chain.posterior_variance[k], 1 / precision)
    close(chain.posterior_mean(x0, x_t, k), weighted / precision[:, None])


@every_path
def test_a_last_step_without_noise_goes_to_the_image_and_its_log_variance_is_clipped(path: Path):
    chain = Chain(path, a_grid(path))
    x0, x_t = normal(2, 3, index=1), normal(2, 3, index=2)
    clean = bool(path.sigma(chain.ts[-1]) == 0)
    assert torch.equal(chain.posterior_variance == 0, torch.tensor([False] * (len(chain) - 1) + [clean]))
    assert torch.allclose(chain.posterior_mean(x0, x_t, torch.tensor(len(chain) - 1)), x0, rtol=1e-12) == clean
    close(chain.log_small[-1].exp(), chain.posterior_variance[-2 if clean else -1])
    close(chain.log_large[-1], chain.log_small[-1])
    close(chain.log_large[:-1].exp(), chain.beta[:-1])


@every_discrete_path
@pytest.mark.parametrize("spec", ["7", "ddim20", "4,1,9"])
def test_a_respaced_chain_is_the_chain_of_the_respaced_betas(path: DiscretePath, spec: str):
    indices = respaced_indices(path.steps, spec)
    respaced = Chain(path, chain_grid(path, indices))
    product = torch.cumprod(1 - path.betas, 0)[indices]
    before = torch.cat([torch.ones(1, dtype=torch.float64), product[:-1]])
    own = full_chain(DiscretePath(1 - product / before))
    as_a_path = Respaced(path, indices)
    close(as_a_path.betas, own.beta.flip(0))
    assert as_a_path.network_time(full_chain(as_a_path).t).tolist() == indices[::-1]
    for name in (
        "alpha_t",
        "sigma_s",
        "beta",
        "posterior_x0",
        "posterior_xt",
        "posterior_variance",
        "log_small",
        "log_large",
    ):
        close(getattr(respaced, name), getattr(own, name))
    assert path.network_time(respaced.t).tolist() == indices[::-1]


def test_the_full_chain_is_the_schedule():
    path = DDPMLinear(steps=50)
    close(full_chain(path).beta.flip(0), path.betas)
    assert full_chain(path) is full_chain(path)


def test_a_chain_may_end_in_pure_noise():
    chain = full_chain(DiscretePath(schedules.inverse(30)))
    assert (chain.alpha_t[0], chain.sigma_t[0], chain.beta[0]) == (0, 1, 1)
    close(chain.alpha_t**2, torch.arange(30).double() / 30)
    for name in ("posterior_x0", "posterior_xt", "posterior_variance", "log_small", "log_large"):
        assert bool(getattr(chain, name).isfinite().all())
    assert chain.posterior_xt[0] == 0


def test_steps_are_found_by_their_times():
    chain = full_chain(DDPMLinear(steps=60))
    k = torch.tensor([0, 59, 7, 7])
    assert torch.equal(chain.step_at(chain.t[k]), k)
    with pytest.raises(ValueError, match="grid"):
        chain.step_at(torch.tensor([0.5 / 60]))


def test_learned_variance_interpolates_logarithms():
    chain = full_chain(DDPMLinear(steps=60))
    x, k = normal(3, 2), torch.tensor([0, 30, 58])

    def learned(mix: float) -> Tensor:
        return chain.log_variance("learned", k, x, torch.full_like(x, mix))

    small, large = chain.log_small[k, None].expand(3, 2), chain.beta.log()[k, None].expand(3, 2)
    close(learned(0.0), small)
    close(learned(1.0), large)
    close(learned(0.25), 0.75 * small + 0.25 * large)
    close(learned(1.5), 1.5 * large - 0.5 * small)
    close(chain.log_variance(None, k, x, torch.ones_like(x)), large)
    close(chain.log_variance(None, k, x).expand(3, 2), small)


def test_a_variance_that_is_not_there_is_refused():
    chain, x, k = full_chain(DDPMLinear(steps=60)), normal(1, 2), torch.tensor(0)
    with pytest.raises(UserError, match="'learned': the model has no"):
        chain.log_variance("learned", k, x)
    with pytest.raises(UserError, match=r"'postrior'.*did you mean 'posterior'"):
        chain.log_variance("postrior", k, x)
    with pytest.raises(UserError, match=r"'straight'.*discrete"):
        full_chain(Straight())


@pytest.mark.parametrize("ts", [[1.0], [0.0, 1.0], [1.0, 0.5, 0.5, 0.0]])
def test_a_grid_that_does_not_descend_is_refused(ts: list[float]):
    with pytest.raises(ValueError, match="strictly descending"):
        Chain(Straight(), torch.tensor(ts))


# --- grids ---


@pytest.mark.parametrize(
    ("steps", "spec", "indices"),
    [
        (8, "3", [0, 4, 7]),  # 3.5 rounds to even
        (10, "2,2,2", [0, 3, 4, 6, 7, 9]),  # the first section takes the remainder
        (10, "1", [0]),
        (10, "ddim4", [0, 3, 6, 9]),
        (3, "", [0, 1, 2]),
    ],
)
def test_respacing_visits_what_was_published(steps: int, spec: str, indices: list[int]):
    assert respaced_indices(steps, spec) == indices


@given(st.integers(20, 400), st.data())
@settings(max_examples=60, deadline=None)
def test_respacing_takes_as_many_as_it_was_asked_for(steps: int, data: st.DataObject):
    counts = data.draw(st.lists(st.integers(1, steps // 5), min_size=1, max_size=5))
    indices = respaced_indices(steps, counts)
    assert indices == respaced_indices(steps, ",".join(map(str, counts)))
    assert indices == sorted(set(indices))
    assert len(indices) == sum(counts)
    assert 0 <= indices[0] <= indices[-1] < steps


@every_path
@pytest.mark.parametrize("steps", [1, 2, 13, 50])
def test_sampling_grids_run_from_noise_to_image(path: Path, steps: int):
    ts = sampling_grid(path, steps)
    assert len(ts) == steps + 1
    assert (ts[0], ts[-1]) == (1, 0)
    assert bool((ts.diff() < 0).all())


def test_a_grid_visits_the_chains_own_times():
    path = DDPMLinear()
    assert path.network_time(sampling_grid(path, "ddim50")[:-1]).tolist() == list(range(980, -1, -20))
    assert len(sampling_grid(path, "")) == 1001


BAD_SPECS = ["0", "-3", "1001", "many", "ddim", "ddim333", "ddim-1", "10,x", "600,600", "5,0", "1.5"]


@pytest.mark.parametrize("spec", BAD_SPECS)
def test_steps_that_do_not_fit_are_refused_in_one_line(spec: str):
    with pytest.raises(UserError) as error:
        sampling_grid(DDPMLinear(), spec)
    assert spec in str(error.value)
    assert "\n" not in str(error.value)


def test_a_continuous_path_takes_numbers_only():
    with pytest.raises(UserError, match=r"'ddim50'.*continuous"):
        sampling_grid(Straight(), "ddim50")


@every_discrete_path
def test_training_visits_every_time_alike(path: DiscretePath):
    u = (torch.arange(3 * path.steps) + 0.5).double() / (3 * path.steps)
    steps = full_chain(path).step_at(Uniform()(u, path))
    assert torch.equal(steps.bincount(), torch.full((path.steps,), 3))


def test_training_times_of_a_continuous_path_are_uniform():
    u = torch.rand(5)
    assert torch.equal(Uniform()(u, Straight()), u.double())


# --- schedules and Gaussians ---


def test_schedules_start_and_end_as_told():
    ends = {
        "linear": schedules.linear(7, 0.1, 0.3),
        "scaled_linear": schedules.scaled_linear(7, 0.1, 0.3),
        "warmup": schedules.warmup(7, 0.1, 0.3, 0.5),
    }
    for betas in ends.values():
        close(betas[[0, -1]], torch.tensor([0.1, 0.3]).double(), rtol=1e-7, atol=0)
    close(ends["warmup"][3:], torch.full((4,), 0.3, dtype=torch.float64))
    close(schedules.inverse(4), torch.tensor([1 / 4, 1 / 3, 1 / 2, 1], dtype=torch.float64))
    assert schedules.cosine(50).max() == 0.999


def test_divergence_is_torchs():
    m1, m2, l1, l2 = (normal(5, index=i) for i in range(4))
    p, q = (torch.distributions.Normal(m, (log / 2).exp()) for m, log in ((m1, l1), (m2, l2)))
    close(normal_kl(m1, l1, m2, l2), torch.distributions.kl_divergence(p, q))


def test_the_decoders_bins_hold_all_the_mass():
    bins = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, std in ((0.0, 0.3), (0.98, 0.1), (-0.4, 0.004)):
        mass = discretized_gaussian_log_likelihood(bins, torch.tensor(mean), torch.tensor(math.log(std))).exp()
        assert mass.sum().item() == pytest.approx(1, abs=1e-8)
    x = torch.linspace(-4, 4, 101, dtype=torch.float64)
    close(normal_cdf(x), torch.special.ndtr(x), rtol=0, atol=3e-4)
