"""Floor 3: the variational bound on the likelihood of a chain, in bits per dimension (Ho et al. 2020, eq. 5)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ditkit.objectives.loss import Draws, Loss, mean_flat
from ditkit.process.chain import Chain, full_chain
from ditkit.process.denoiser import Denoise, Denoised, Denoiser
from ditkit.process.gaussian import discretized_gaussian_log_likelihood, normal_kl
from ditkit.process.path import over


def variational_term(
    chain: Chain, k: Tensor, said: Denoised, x0: Tensor, x_t: Tensor, variance: str | None = None
) -> Tensor:
    """KL(q(x_s | x_t, x0) || p(x_s | x_t)), or -log p(x0 | x_1) at the chain's last step, (B,) bits/dim.

    k: (B,) int64, steps of the chain. variance: see Chain.log_variance.
    """
    true_mean = chain.posterior_mean(x0, x_t, k)
    true_log_variance = chain.log_variance("posterior", k, x0)
    mean = chain.posterior_mean(said.x0, x_t, k)
    log_variance = chain.log_variance(variance, k, x0, said.variance_mix)
    kl = mean_flat(normal_kl(true_mean, true_log_variance, mean, log_variance)) / math.log(2.0)
    log_std = (0.5 * log_variance).expand_as(x0)
    decoder = -mean_flat(discretized_gaussian_log_likelihood(x0, mean, log_std)) / math.log(2.0)
    return torch.where(k == len(chain) - 1, decoder, kl)


def vlb(
    denoiser: Denoiser, x0: Tensor, draws: Draws, chain: Chain | None = None, *, variance: str | None = None
) -> Loss:
    """K times the bound's term at t: an unbiased estimate of its sum, bits/dim (iDDPM's L_vlb).

    x0: (B, C, ...), 8-bit images. chain: of K steps, draws.t among its times; None: all the path's own T.
    """
    chain = chain or full_chain(denoiser.path)
    x_t = denoiser.path.mix(x0, draws.eps, draws.t)
    term = variational_term(chain, chain.step_at(draws.t), denoiser(x_t, draws.t), x0, x_t, variance)
    return Loss({"vb": len(chain) * term})


def prior_term(chain: Chain, x0: Tensor) -> Tensor:
    """L_T = KL(q(x_T | x0) || N(0, I)), (B,) bits/dim: what the chain's start costs."""
    mean = over(chain.alpha_t[0], x0) * x0
    log_variance = over((chain.sigma_t[0] ** 2).log(), x0)
    zero = torch.zeros((), dtype=x0.dtype, device=x0.device)
    return mean_flat(normal_kl(mean, log_variance, zero, zero)) / math.log(2.0)


@dataclasses.dataclass(frozen=True)
class Bound:
    """The bound, bits per dimension. total, prior: (B,). terms, x0_mse, eps_mse: (B, K), noisiest step first."""

    total: Tensor
    prior: Tensor
    terms: Tensor
    x0_mse: Tensor
    eps_mse: Tensor


@torch.no_grad()
def bound(
    denoise: Denoise, x0: Tensor, ts: Tensor, noise: Callable[[int], Tensor], variance: str | None = None
) -> Bound:
    """The whole bound of x0 (B, C, H, W; 8-bit images in [-1, 1]) on the grid ts, one network call a step.

    noise(k): the standard normal tensor that x_t of step k is made with.
    """
    chain = Chain(denoise.path, ts)
    terms, x0_mse, eps_mse = [], [], []
    for k in range(len(chain)):
        eps = noise(k)
        x_t = denoise.path.mix(x0, eps, chain.t[k])
        said = denoise(x_t, chain.t[k])
        steps = torch.full((len(x0),), k, device=x0.device)
        terms.append(variational_term(chain, steps, said, x0, x_t, variance))
        x0_mse.append(mean_flat((said.x0 - x0) ** 2))
        eps_mse.append(mean_flat((said.eps - eps) ** 2))
    stacked = torch.stack(terms, 1)
    prior = prior_term(chain, x0)
    return Bound(stacked.sum(1) + prior, prior, stacked, torch.stack(x0_mse, 1), torch.stack(eps_mse, 1))
