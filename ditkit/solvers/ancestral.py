"""Floor 1: ancestral solvers, which undo a chain of noising steps one by one: DDPM and DDIM.

A solver is a generator of states: solver(denoise, x, ts, *, noise, ...) yields a State after each step, the last at
ts[-1]. It draws nothing itself: noise(k) gives the standard normal tensor of step k, in the shape of x.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.process.chain import Chain
from ditkit.process.denoiser import Denoise, Denoised
from ditkit.process.grids import check
from ditkit.process.path import over
from ditkit.solvers.state import State

Noise = Callable[[int], Tensor]


def ddpm_moments(chain: Chain, k: Tensor, x: Tensor, said: Denoised, variance: str | None) -> tuple[Tensor, Tensor]:
    """Mean and log variance of p(x_s | x_t): q's posterior with the model's x0 for the image (Ho et al. 2020, eq. 11).

    x: (B, C, ...) at the steps' starts; k: () or (B,) int64, steps of the chain; variance: see Chain.log_variance.
    """
    log_variance = chain.log_variance(variance, k, x, said.variance_mix)
    return chain.posterior_mean(said.x0, x, k), log_variance.to(x.device).expand_as(x)


def ddpm_step(chain: Chain, k: Tensor, mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """x_s = mean + std z, the mean alone where s = 0 (Ho et al. 2020, alg. 2). Arguments: see ddpm_moments."""
    noisy = (over(chain.at(chain.sigma_s, k), mean) > 0).to(mean.device)
    return torch.where(noisy, mean + (0.5 * log_variance).exp() * noise, mean)


def ddim_step(chain: Chain, k: Tensor, said: Denoised, noise: Tensor | None, eta: float) -> Tensor:
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - std^2) eps + std z, std = eta sqrt(beta~) (Song et al. 2021, eq. 12, 16).

    k: () or (B,) int64, steps of the chain. noise: needed where eta > 0.
    """
    variance = eta**2 * chain.at(chain.posterior_variance, k)
    # at eta = 1 from pure noise the difference is zero, give or take a rounding
    remaining = (chain.at(chain.sigma_s, k) ** 2 - variance).clamp(min=0).sqrt()
    x_s = over(chain.at(chain.alpha_s, k), said.x0) * said.x0 + over(remaining, said.eps) * said.eps
    return x_s if noise is None else x_s + over(variance.sqrt(), noise) * noise


def ddpm(denoise: Denoise, x: Tensor, ts: Tensor, *, noise: Noise, variance: str | None = None) -> Iterator[State]:
    """DDPM's ancestral sampling on the grid ts, respaced as iDDPM does (Ho et al. 2020; Nichol & Dhariwal 2021).

    x: (B, C, ...) at ts[0]. variance: "posterior" (beta~), "beta", "learned", or None: learned where the model has it,
    else posterior. The step to t = 0 adds no noise. UserError: the grid does not fall inside [0, 1].
    """
    chain = Chain(denoise.path, check(ts))
    for k in range(len(chain)):
        step = torch.tensor(k)
        said = denoise(x, chain.t[k])
        x = ddpm_step(chain, step, *ddpm_moments(chain, step, x, said, variance), noise(k))
        yield State(x, chain.s[k], said)


def ddim(denoise: Denoise, x: Tensor, ts: Tensor, *, noise: Noise, eta: float = 0.0) -> Iterator[State]:
    """DDIM on the grid ts (Song et al. 2021): eta 0 is deterministic, eta 1 is DDPM with the variance beta~.

    x: (B, C, ...) at ts[0]. UserError: eta outside [0, 1]; the grid does not fall inside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise UserError(f"eta {eta}: expected 0 (deterministic) to 1 (as much noise as DDPM)")
    chain = Chain(denoise.path, check(ts))
    for k in range(len(chain)):
        said = denoise(x, chain.t[k])
        x = ddim_step(chain, torch.tensor(k), said, noise(k) if eta > 0 else None, eta)
        yield State(x, chain.s[k], said)


def ddim_invert(denoise: Denoise, x0: Tensor, ts: Tensor) -> Tensor:
    """The noise at ts[0] that DDIM with eta 0 turns into x0, up to the grid's error (Song et al. 2021, section 4.3).

    x0: (B, C, ...) images. A denoiser says nothing of use at t = 0: the images are taken to be at the grid's last
    positive time, as published code does. UserError: the grid does not fall inside [0, 1] or has fewer than two
    positive times, between which nothing would happen; an image that is not finite.
    """
    ts = check(ts)
    x, rising = x0, ts[ts > 0].flip(0)
    if len(rising) < 2:
        raise UserError(
            f"a grid of {len(rising)} positive time: to invert expected at least 2, the last of them small, as the "
            "images are taken to be there; take more steps"
        )
    if not bool((finite := x0.flatten(1).isfinite().all(1)).all()):
        raise UserError(f"image {int((~finite).nonzero()[0])} of the batch is not finite: expected finite numbers")
    for t, noisier in itertools.pairwise(rising):
        said = denoise(x, t)
        x = denoise.path.mix(said.x0, said.eps, noisier)
    return x
