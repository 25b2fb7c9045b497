"""Likelihoods of data whose density is known at every t."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from ditkit.backbones.output import Output
from ditkit.base.errors import UserError
from ditkit.evaluate.likelihood import (
    LEVEL,
    Exact,
    Hutchinson,
    Likelihood,
    Mirrored,
    default_times,
    dequantised,
    gaussian,
    log_likelihood,
    prior_log_density,
    rademacher,
)
from ditkit.process.continuous import VE, VP, Linear
from ditkit.process.denoiser import Denoiser
from ditkit.process.path import DDPMLinear, Path
from ditkit.process.prediction import Velocity
from ditkit.solvers.dopri5 import dopri5
from ditkit.solvers.ode import heun, rk4
from tests.exact import PATHS, GaussianData
from tests.mixtures import mixture

NATS_PER_DIM = 1e-3
DIMENSIONS = 3
DATA = mixture(DIMENSIONS)
ZERO = torch.zeros((), dtype=torch.float64)
TIMES = torch.linspace(0.0, 1.0, 5, dtype=torch.float64)


every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


@every_path
def test_the_likelihood_of_a_mixture_is_its_density(path: Path):
    """Given the density at the noisy end: the solver and the divergence are exact, on every path and chain."""
    x, denoise = DATA.sample(4), DATA.on(path)
    found = log_likelihood(denoise, x, divergence=Exact(), prior=denoise.log_density)
    # a path that is noisy at t = 0 has no density of x0, only that of x0 with this noise
    assert ((found.log_p - denoise.log_density(x, ZERO)) / DIMENSIONS).abs().max().item() < NATS_PER_DIM
    assert torch.equal(found.standard_error, torch.zeros(4, dtype=torch.float64))
    assert 20 < found.evaluations < 2000


LEFT_OF_THE_IMAGE = {
    "functions": 1.0,
    "scaled_linear": 0.1,
    "ve": 0.02,
    "edm": 0.01,
    "vp": 0.01,
    "sub_vp": 0.01,
    "ddpm_linear": 0.01,
}
"""Nats per dimension by which the density of the samples of a path that keeps some image at t = 1 may be another."""


@every_path
def test_with_the_prior_that_samples_start_from_it_is_the_density_of_the_samples(path: Path):
    """The default: not quite the data's where N(0, sigma(1)^2) is not quite x_1's density; the samples' it is."""
    x, denoise = DATA.sample(4), DATA.on(path)
    solver = functools.partial(dopri5, rtol=1e-4, atol=1e-4)
    found = log_likelihood(denoise, x, divergence=Exact(), solver=solver)
    last = default_times(path)[-1]
    of_prior = prior_log_density(path, found.latent, last) - denoise.log_density(found.latent, last)
    off = found.log_p - denoise.log_density(x, ZERO)
    # all that it is off by, the prior's density at the noise that the ODE leads to accounts for
    assert ((off - of_prior) / DIMENSIONS).abs().max().item() < 2 * NATS_PER_DIM
    assert (off / DIMENSIONS).abs().max().item() < LEFT_OF_THE_IMAGE.get(path.name, 2 * NATS_PER_DIM)


def test_in_float32_and_in_the_shape_of_images():
    path, x = VP(), torch.linspace(-1, 1, 24).reshape(2, 3, 2, 2)
    data = GaussianData(path, 0.1, 0.6)
    found = log_likelihood(data, x, divergence=Hutchinson(rademacher(x, 2)))
    exact = (-(((x - 0.1) / 0.6) ** 2) / 2 - math.log(0.6) - math.log(2 * math.pi) / 2).flatten(1).sum(1)
    # the Jacobian is a multiple of the identity, of which random signs say the trace without error
    torch.testing.assert_close(found.log_p.float() / 12, exact / 12, atol=2e-3, rtol=0)
    assert found.standard_error.max().item() < 1e-9
    assert found.latent.shape == x.shape
    assert found.latent.dtype == torch.float32


@pytest.mark.parametrize("probes", [rademacher, gaussian])
def test_hutchinsons_standard_error_is_what_it_is_off_by(probes):
    path = Linear()
    x = DATA.sample(40)
    denoise = DATA.on(path)
    solver = functools.partial(rk4, variable="time", at_clean_end=True)
    times = torch.linspace(0, 1, 13, dtype=torch.float64)
    likelihood = functools.partial(log_likelihood, denoise, x, times=times, solver=solver)
    exact = likelihood(divergence=Exact()).log_p
    found = likelihood(divergence=Hutchinson(probes(x, 24)))
    off = (found.log_p - exact) / found.standard_error
    assert 0.7 < off.square().mean().sqrt().item() < 1.5
    assert abs(off.mean().item()) < 4 / 40**0.5
    fewer = likelihood(divergence=Hutchinson(probes(x, 6)))
    assert (fewer.standard_error / found.standard_error).median().item() == pytest.approx(2.0, rel=0.35)
    assert likelihood(divergence=Hutchinson(probes(x, 1))).standard_error.isnan().all()


def test_a_fixed_grid_solver_comes_nearer_with_more_steps():
    path, x = Linear(), DATA.sample(5)
    errors = []
    for steps in (8, 16, 32):
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        solver = functools.partial(heun, variable="time", at_clean_end=True)
        found = log_likelihood(DATA.on(path), x, divergence=Exact(), times=times, solver=solver)
        assert found.evaluations == 2 * steps
        errors.append((found.log_p - DATA.on(path).log_density(x, ZERO)).abs().max().item())
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_the_latent_is_what_the_ode_takes_back():
    path, x = VP(), DATA.sample(4)
    denoise, times = DATA.on(path), torch.tensor([0.05, 0.9], dtype=torch.float64)
    latent = log_likelihood(denoise, x, divergence=Exact(), times=times).latent
    back = torch.linspace(0.9, 0.05, 101, dtype=torch.float64)
    *_, last = rk4(denoise, latent, back, variable="time")
    torch.testing.assert_close(last.x, x, atol=1e-4, rtol=0)


def test_a_networks_weights_get_no_gradient():
    net = torch.nn.Linear(DIMENSIONS, DIMENSIONS)
    denoiser = Denoiser(lambda x, time, condition: Output(net(x), {}), Linear(), Velocity())
    x = DATA.sample(2).float()
    found = log_likelihood(denoiser, x, divergence=Exact(), times=TIMES)
    assert net.weight.grad is None
    assert not found.log_p.requires_grad
    # dx/dt = W x + b has the divergence tr W
    prior = prior_log_density(Linear(), found.latent, TIMES[-1])
    torch.testing.assert_close(found.log_p - prior, net.weight.trace().detach().double().expand(2), atol=1e-4, rtol=0)


@pytest.mark.parametrize("path", [VP(), VE(), Linear(), DDPMLinear()], ids=lambda path: path.name)
def test_a_mirrored_path_is_a_path(path: Path):
    mirrored, t = Mirrored(path), torch.linspace(0.05, 0.95, 7, dtype=torch.float64)
    t = t + 0.0003  # between a chain's times, where alpha has kinks
    torch.testing.assert_close(mirrored.log_snr(t), -path.log_snr(1 - t))
    assert bool((mirrored.log_snr(t).diff() < 0).all())
    h = 1e-6
    for function, derivative in ((mirrored.alpha, mirrored.d_alpha), (mirrored.sigma, mirrored.d_sigma)):
        torch.testing.assert_close(derivative(t), (function(t + h) - function(t - h)) / (2 * h), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_default_times_rise_where_the_log_snr_is_finite(path: Path):
    times = default_times(path)
    assert bool((times.diff() > 0).all())
    assert bool(path.log_snr(times).isfinite().all())


def test_bits_per_dim_of_uniform_levels_are_eight():
    # data even over [-1 - 1/255, 1 + 1/255]: every one of the 256 levels is as likely as the next
    nats = -math.log(256 * LEVEL)
    x = torch.zeros(2, 3, 4, 4)
    log_p = torch.full((2,), 48 * nats, dtype=torch.float64)
    bits, error = Likelihood(log_p, torch.full_like(log_p, 4.8), x, 1).bits_per_dim()
    torch.testing.assert_close(bits, torch.full((2,), 8.0, dtype=torch.float64))
    torch.testing.assert_close(error, torch.full((2,), 0.1 / math.log(2), dtype=torch.float64))


def test_dequantised_pixels_stay_in_their_level_and_keep_their_draws():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(2, 1, 8, 16)
    x = dequantised(pixels)
    assert torch.equal(((x + 1) / LEVEL).round(), pixels.float())
    assert ((x + 1) / LEVEL - pixels).std().item() == pytest.approx(12**-0.5, rel=0.1)
    assert torch.equal(x[:1], dequantised(pixels[:1]))
    with pytest.raises(UserError, match="expected uint8"):
        dequantised(x)


def test_bad_input_is_an_error_of_one_line():
    denoise, x = DATA.on(Linear()), DATA.sample(2)
    with pytest.raises(UserError, match=r"expected 0 \(data\) to 1"):
        log_likelihood(denoise, x, divergence=Exact(), times=torch.tensor([0.0, 1.5]))
    with pytest.raises(UserError, match="sort them"):
        log_likelihood(denoise, x, divergence=Exact(), times=torch.tensor([0.5, 0.2]))
    with pytest.raises(UserError, match="expected at least 1"):
        rademacher(x, 0)
    with pytest.raises(UserError, match="sample 0 of the batch has no finite velocity at t = 0"):
        log_likelihood(denoise, x.fill_(math.nan), divergence=Exact(), times=TIMES)


def test_probes_depend_on_their_sample_alone():
    x = torch.zeros(5, 2, 3)
    for probes in (rademacher, gaussian):
        assert torch.equal(probes(x, 3)[:, :2], probes(x[:2], 3))
        assert not torch.equal(probes(x, 1), probes(x, 1, seed=1))
