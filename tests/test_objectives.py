"""Objectives against perfect networks, gradients and likelihoods that are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ditkit.backbones.output import Output
from ditkit.base.errors import UserError
from ditkit.objectives.loss import Draws, Loss
from ditkit.objectives.matching import hybrid, simple
from ditkit.objectives.variational import bound, prior_term, variational_term, vlb
from ditkit.process.chain import Chain, full_chain
from ditkit.process.denoiser import Denoised, Denoiser
from ditkit.process.grid import Respaced, respaced_indices
from ditkit.process.grids import uniform as sampling_grid
from ditkit.process.path import DDPMLinear, Path
from ditkit.process.prediction import Eps, Prediction
from tests.exact import DISCRETE, PATHS, PREDICTIONS, GaussianData, Straight, normal

PATH = DDPMLinear(steps=40)
X0 = normal(4, 3, 2, 2, index=1, dtype=torch.float32).clamp(-1, 1)
EPS = normal(4, 3, 2, 2, index=2, dtype=torch.float32)
DRAWS = Draws(torch.tensor([1, 9, 25, 40], dtype=torch.float64) / 40, EPS)
"""Times of PATH, of which the first is the decoder's."""


def saying(prediction: Tensor, path: Path = PATH, row: Prediction | None = None) -> Denoiser:
    """A denoiser whose network always says the same."""
    return Denoiser(lambda x, time, condition: Output(prediction, {}), path, row or Eps())


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("row", PREDICTIONS.values(), ids=PREDICTIONS)
def test_a_perfect_network_has_no_simple_loss(path: Path, row: Prediction):
    target = row.target(path, X0, EPS, DRAWS.t)
    assert simple(saying(target, path, row), X0, DRAWS).per_sample.tolist() == [0.0] * 4
    off = simple(saying(target + 0.5, path, row), X0, DRAWS)
    torch.testing.assert_close(off.per_sample, torch.full((4,), 0.25))


def test_the_simple_loss_does_not_see_the_variance_half():
    prediction = torch.cat([EPS, normal(4, 3, 2, 2, index=5, dtype=torch.float32)], 1)
    assert simple(saying(prediction), X0, DRAWS).total == 0


def test_a_losss_total_is_the_mean_of_its_parts_sum():
    loss = Loss({"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([3.0, 5.0])})
    assert loss.per_sample.tolist() == [4, 7]
    assert loss.total == 5.5


def test_the_hybrids_bound_teaches_the_variance_alone():
    said = normal(4, 6, 2, 2, index=3, dtype=torch.float32).requires_grad_()
    loss = hybrid(saying(said), X0, DRAWS)
    of_vb = torch.autograd.grad(loss.parts["vb"].sum(), said, retain_graph=True)[0]
    of_mse = torch.autograd.grad(loss.parts["mse"].sum(), said)[0]
    assert not of_vb[:, :3].any()
    assert bool((of_vb[:, 3:].flatten(1).abs().amax(1) > 0).all())
    assert bool((of_mse[:, :3] != 0).all())
    assert not of_mse[:, 3:].any()


def test_the_hybrid_is_the_simple_loss_and_a_weighted_bound():
    denoiser = saying(normal(4, 6, 2, 2, index=3, dtype=torch.float32))
    one, half = hybrid(denoiser, X0, DRAWS), hybrid(denoiser, X0, DRAWS, vb_weight=0.5)
    torch.testing.assert_close(one.parts["mse"], simple(denoiser, X0, DRAWS).per_sample)
    torch.testing.assert_close(one.parts["vb"], vlb(denoiser, X0, DRAWS).per_sample / 40)
    torch.testing.assert_close(half.parts["vb"], one.parts["vb"] / 2)


def test_the_best_learned_variance_is_the_exact_one():
    # In expectation over x0 and eps the bound is least where the model's variance is that of p(x_s | x_t).
    chain = full_chain(PATH)
    data = GaussianData(PATH, 0.0, 0.6, chain)
    k = torch.tensor(20)
    x0 = 0.6 * normal(20_000, 1, index=1)
    x_t = PATH.mix(x0, normal(20_000, 1, index=2), chain.t[k])
    said = data(x_t, chain.t[k])
    assert said.variance_mix is not None

    def term(shift: float) -> float:
        assert said.variance_mix is not None
        moved = Denoised(said.x0, said.eps, said.variance_mix + shift)
        return variational_term(chain, k, moved, x0, x_t).mean().item()

    assert term(0.0) < min(term(-0.3), term(0.3))


@pytest.mark.parametrize("objective", [hybrid, vlb])
def test_chain_objectives_say_what_they_lack(objective):
    with pytest.raises(UserError, match="'straight'"):
        objective(saying(torch.cat([EPS, EPS], 1), Straight()), X0, DRAWS)
    with pytest.raises(UserError, match="learned variance"):
        hybrid(saying(EPS), X0, DRAWS)
    off_grid = Draws(DRAWS.t * 0.99, EPS)
    with pytest.raises(ValueError, match="grid"):
        objective(saying(torch.cat([EPS, EPS], 1)), X0, off_grid)


def test_a_model_that_is_the_posterior_has_no_divergence():
    chain = full_chain(PATH)
    for k in range(len(chain) - 1):
        x_t = PATH.mix(X0, EPS, chain.t[k])
        term = variational_term(chain, torch.full((4,), k), Denoised(X0, EPS), X0, x_t, "posterior")
        assert term.abs().max() < 1e-6


def test_the_estimate_over_all_times_is_the_bounds_sum():
    path = Respaced(PATH, respaced_indices(PATH.steps, "7"))
    chain = full_chain(path)
    denoiser = saying(normal(4, 6, 2, 2, index=3, dtype=torch.float32), path)
    whole = bound(denoiser, X0, chain.ts, lambda k: EPS)
    estimates = [vlb(denoiser, X0, Draws(t.expand(4), EPS)).per_sample for t in chain.t]
    torch.testing.assert_close(torch.stack(estimates, 1), 7 * whole.terms)
    torch.testing.assert_close(whole.total, whole.terms.sum(1) + whole.prior)


@pytest.mark.parametrize("path", DISCRETE.values(), ids=DISCRETE)
def test_the_bound_of_an_exact_model_is_the_datas_likelihood(path: Path):
    std = 0.25
    x0 = ((std * normal(8, 3, 64, 64) + 1) * 127.5).round() / 127.5 - 1
    # 8-bit images of N(0, std^2): the logarithm of the density, and of a bin's width
    nats = -torch.distributions.Normal(0.0, std).log_prob(x0).mean().item()
    bits = nats / math.log(2) + math.log2(127.5)
    chain = Chain(path, sampling_grid(path, 20))
    found = bound(GaussianData(path, 0.0, std, chain), x0, chain.ts, lambda k: normal(8, 3, 64, 64, index=k + 1))
    assert found.total.mean().item() == pytest.approx(bits, abs=0.01)
    worse = bound(GaussianData(path, 0.2, std, chain), x0, chain.ts, lambda k: normal(8, 3, 64, 64, index=k + 1))
    assert worse.total.mean() > found.total.mean() + 0.1
    assert bool((found.terms.mean(0) > -1e-6).all())
    assert found.eps_mse.shape == found.x0_mse.shape == (8, 20)
    assert found.x0_mse.mean(0)[0].item() == pytest.approx(std**2, rel=0.05)
    assert found.x0_mse.mean(0)[-1] < 1e-3


def test_the_prior_term_is_torchs_divergence():
    chain = full_chain(PATH)
    x0 = normal(3, 4)
    q = torch.distributions.Normal(chain.alpha_t[0] * x0, chain.sigma_t[0])
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).mean(1) / math.log(2)
    torch.testing.assert_close(prior_term(chain, x0), expected)
