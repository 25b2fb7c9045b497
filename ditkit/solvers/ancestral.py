"""Floor 1: ancestral solvers, which undo a chain of noising steps one by one: DDPM and DDIM.

A solver is a generator of states: solver(denoise, x, ts, *, noise, ...) yields a State after each step, the last at
ts[-1]. It draws nothing itself: noise(k) gives the standard normal tensor of step k, in the shape of x.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ditkit.process.chain import Chain
from ditkit.process.denoiser import Denoise, Denoised
from ditkit.process.path import over
from ditkit.solvers.state import State

Noise = Callable[[int], Tensor]


def ddpm_step(chain: Chain, k: int, x: Tensor, said: Denoised, noise: Tensor | None, variance: str) -> Tensor:
    """x_s ~ N(posterior mean, variance of the rule); the mean alone where noise is None (Ho et al. 2020, alg. 2)."""
    step = torch.tensor(k)
    mean = chain.posterior_mean(said.x0, x, step)
    if noise is None:
        return mean
    return mean + (0.5 * chain.log_variance(variance, step, x, said.variance_mix)).exp() * noise


def ddim_step(chain: Chain, k: int, x: Tensor, said: Denoised, noise: Tensor | None, eta: float) -> Tensor:
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std z, std = eta sqrt(beta~) (Song et al. 2021, eq. 12, 16)."""
    variance = eta**2 * chain.posterior_variance[k]
    x_s = over(chain.alpha_s[k], x) * said.x0 + over((chain.sigma_s[k] ** 2 - variance).sqrt(), x) * said.eps
    return x_s if noise is None else x_s + over(variance.sqrt(), x) * noise


def ddpm(denoise: Denoise, x: Tensor, ts: Tensor, *, noise: Noise, variance: str | None = None) -> Iterator[State]:
    """DDPM's ancestral sampling on the grid ts, respaced as iDDPM does (Ho et al. 2020; Nichol & Dhariwal 2021).

    x: (B, C, ...) at ts[0]. variance: "posterior" (beta~), "beta", "learned", or None: learned where the model has it,
    else posterior. The step to t = 0 adds no noise.
    """
    chain = Chain(denoise.path, ts)
    for k in range(len(chain)):
        said = denoise(x, chain.t[k])
        rule = variance or ("posterior" if said.variance_mix is None else "learned")
        x = ddpm_step(chain, k, x, said, noise(k) if chain.posterior_variance[k] > 0 else None, rule)
        yield State(x, chain.s[k], said)


def ddim(denoise: Denoise, x: Tensor, ts: Tensor, *, noise: Noise, eta: float = 0.0) -> Iterator[State]:
    """DDIM on the grid ts (Song et al. 2021): eta 0 is deterministic, eta 1 is DDPM with the variance beta~.

    x: (B, C, ...) at ts[0].
    """
    chain = Chain(denoise.path, ts)
    for k in range(len(chain)):
        said = denoise(x, chain.t[k])
        x = ddim_step(chain, k, x, said, noise(k) if eta > 0 and chain.posterior_variance[k] > 0 else None, eta)
        yield State(x, chain.s[k], said)
