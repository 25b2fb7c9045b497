"""The test-bed tests itself: densities integrate to one, scores are their gradients, moments are those of samples."""

from __future__ import annotations

import pytest
import torch

from ditkit.process.path import Path, over
from tests.exact import PATHS, PREDICTIONS, normal
from tests.mixtures import ReadAs, mixture

every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
TIMES = torch.tensor([0.05, 0.2, 0.5, 0.8, 0.95], dtype=torch.float64)


@every_path
@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_the_score_is_the_gradient_of_the_log_density(path: Path, dimension: int):
    exact = mixture(dimension).on(path)
    x = normal(5, dimension).requires_grad_()
    (gradient,) = torch.autograd.grad(exact.log_density(x, TIMES).sum(), x)
    torch.testing.assert_close(exact.score(x, TIMES).detach(), gradient, rtol=1e-10, atol=1e-10)


@every_path
def test_image_noise_score_and_velocity_agree(path: Path):
    exact, x = mixture(3).on(path), normal(5, 3)
    said = exact(x, TIMES)
    torch.testing.assert_close(path.mix(said.x0, said.eps, TIMES), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(-said.eps / over(path.sigma(TIMES), x), exact.score(x, TIMES), rtol=1e-10, atol=1e-10)
    flow = over(path.drift(TIMES), x) * x - over(path.diffusion_squared(TIMES) / 2, x) * exact.score(x, TIMES)
    torch.testing.assert_close(exact.velocity(x, TIMES), flow, rtol=1e-10, atol=1e-10)


def test_the_density_integrates_to_one_at_every_time():
    exact = mixture(1).on(PATHS["linear"])
    x = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
    for t in torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64):
        assert torch.trapezoid(exact.log_density(x[:, None], t).exp(), x).item() == pytest.approx(1, abs=1e-9)


def test_samples_have_the_mixtures_moments_and_a_posterior_mean_is_a_regression():
    data, path = mixture(2), PATHS["linear"]
    x0, t = data.sample(200_000), torch.tensor(0.5, dtype=torch.float64)
    torch.testing.assert_close(x0.mean(0), data.mean, rtol=0, atol=0.01)
    torch.testing.assert_close(x0.T.cov(), data.covariance, rtol=0, atol=0.01)
    x_t = path.mix(x0, normal(*x0.shape), t)
    # what is left of x0 is orthogonal to every function of x_t
    left = x0 - data.on(path)(x_t, t).x0
    for function in (torch.ones_like, torch.sin, torch.tanh):
        assert (left * function(x_t)).mean(0).abs().max() < 5e-3


def test_the_ends_are_the_image_and_the_mean():
    exact, x = mixture(2).on(PATHS["linear"]), normal(4, 2)
    clean, noise = (exact(x, torch.tensor(t, dtype=torch.float64)) for t in (0.0, 1.0))
    torch.testing.assert_close(clean.x0, x)
    assert not clean.eps.any()
    torch.testing.assert_close(noise.x0, exact.mixture.mean.expand(4, 2))
    torch.testing.assert_close(noise.eps, x)


def test_the_classifiers_gradient_leads_from_the_mixture_to_its_component():
    exact, x = mixture(2).on(PATHS["gvp"]), normal(5, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(exact.component_log_probability(x, TIMES)[:, 1].sum(), x)
    x = x.detach()
    alone = exact.mixture.component(1).on(exact.path)
    torch.testing.assert_close(exact.score(x, TIMES) + gradient, alone.score(x, TIMES))


def test_answers_keep_the_shape_and_precision_of_the_question():
    exact = mixture(12).on(PATHS["vp"])
    said = ReadAs(exact, PREDICTIONS["v"])(
        normal(2, 3, 2, 2, dtype=torch.float32), torch.tensor(0.5, dtype=torch.float64)
    )
    assert said.x0.shape == (2, 3, 2, 2)
    assert said.x0.dtype == said.eps.dtype == torch.float32
