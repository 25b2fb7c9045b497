"""Floor 1: predictor-corrector samplers (Song et al. 2021, section 4.2, algorithms 2 to 5).

A predictor undoes one noising step of the chain; a corrector moves the sample at the noise level that it is at.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.base.registry import find
from ditkit.process.chain import Chain
from ditkit.process.denoiser import Denoise, Denoised
from ditkit.process.grids import check
from ditkit.process.path import over
from ditkit.solvers.sde import drift
from ditkit.solvers.state import State

Noise = Callable[[int], Tensor]
Predictor = Callable[[Chain, int, Tensor, Denoised], tuple[Tensor, Tensor]]
Corrector = Callable[[Chain, int, Tensor, Tensor], Tensor]


def score(chain: Chain, k: int, said: Denoised) -> Tensor:
    """s = -eps / sigma at the start of step k."""
    return over(-1 / chain.sigma_t[k], said.eps) * said.eps


def euler(chain: Chain, k: int, x: Tensor, said: Denoised) -> tuple[Tensor, Tensor]:
    """Mean and std of Euler-Maruyama on the reverse SDE, dx = [f x - g^2 s] dt + g dw."""
    t, dt = chain.t[k], chain.s[k] - chain.t[k]
    g2 = chain.path.diffusion_squared(t)
    return x + over(dt, x) * drift(chain.path, t, said, g2), (g2 * dt.abs()).sqrt()


def reverse_diffusion(chain: Chain, k: int, x: Tensor, said: Denoised) -> tuple[Tensor, Tensor]:
    """Mean and std of x_s = x - [f_k - G_k^2 s] + G_k z, f_k and G_k those of the noising step (eq. 46)."""
    forward, beta = _shrink(chain, k) - 1, chain.beta[k]
    return x - over(forward, x) * x + over(beta, x) * score(chain, k, said), beta.sqrt()


def probability_flow(chain: Chain, k: int, x: Tensor, said: Denoised) -> tuple[Tensor, Tensor]:
    """Mean and std (zero) of the reverse diffusion's deterministic sibling, x_s = x - [f_k - G_k^2 s / 2]."""
    forward, beta = _shrink(chain, k) - 1, chain.beta[k]
    return x - over(forward, x) * x + over(beta / 2, x) * score(chain, k, said), torch.zeros_like(beta)


def ancestral(chain: Chain, k: int, x: Tensor, said: Denoised) -> tuple[Tensor, Tensor]:
    """Mean and std of q's posterior with the model's x0 for the image, std^2 = beta~ (Ho et al. 2020, eq. 7)."""
    step = torch.tensor(k)
    return chain.posterior_mean(said.x0, x, step), chain.posterior_variance[k].sqrt()


def langevin(chain: Chain, k: int, s: Tensor, z: Tensor) -> Tensor:
    """|z| / |s|, (B,): the step size keeps the signal-to-noise ratio of each sample's step (algorithm 4).

    Published code averages both norms over the batch; here a sample does not depend on the others in its batch.
    """
    return norm(z) / norm(s)


def annealed_langevin(chain: Chain, k: int, s: Tensor, z: Tensor) -> Tensor:
    """sigma(t), (): the norms' ratio that is expected at this noise level (Song & Ermon 2019)."""
    return chain.sigma_t[k]


def norm(x: Tensor) -> Tensor:
    """The Euclidean norm of each sample, (B,) float64."""
    return x.flatten(1).double().norm(dim=1)


def step_size(chain: Chain, k: int, ratio: Tensor, snr: float) -> Tensor:
    """2 (alpha_t / alpha_s)^2 (snr ratio)^2: the size of a corrector's step (algorithms 4 and 5), in ratio's shape."""
    return 2 * _shrink(chain, k) ** 2 * (snr * ratio) ** 2


def corrected(x: Tensor, s: Tensor, z: Tensor, size: Tensor) -> Tensor:
    """x + size s + sqrt(2 size) z: a step of Langevin dynamics. size: () or (B,)."""
    return x + over(size, x) * s + over((2 * size).sqrt(), x) * z


def predictor_corrector(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: Noise,
    predictor: str = "reverse_diffusion",
    corrector: str = "annealed_langevin",
    corrections: int = 1,
    snr: float = 0.16,
) -> Iterator[State]:
    """``corrections`` Langevin steps at each time of the grid, then a predictor's step to the next (algorithm 1).

    predictor: euler, reverse_diffusion, probability_flow, ancestral. corrector: langevin, annealed_langevin.
    snr: of a corrector's step. The step to ts[-1] adds no noise. Step k takes the draws from k (corrections + 1) on,
    the predictor's last. UserError: an unknown name; corrections < 0; snr <= 0; a grid that
    does not fall inside [0, 1].
    """
    predict: Predictor = find("predictor", __name__, _takes("chain", "k", "x", "said"), predictor)
    ratio: Corrector = find("corrector", __name__, _takes("chain", "k", "s", "z"), corrector)
    if corrections < 0 or not 0 < snr < math.inf:
        raise UserError(f"corrections {corrections}, snr {snr}: expected corrections >= 0 and snr > 0")
    chain, draw = Chain(denoise.path, check(ts)), 0
    for k in range(len(chain)):
        for _ in range(corrections):
            s, z = score(chain, k, denoise(x, chain.t[k])), noise(draw)
            x = corrected(x, s, z, step_size(chain, k, ratio(chain, k, s, z), snr))
            draw += 1
        said = denoise(x, chain.t[k])
        x, std = predict(chain, k, x, said)
        if k < len(chain) - 1:
            x = x + over(std, x) * noise(draw)
        draw += 1
        yield State(x, chain.s[k], said)


def _shrink(chain: Chain, k: int) -> Tensor:
    return chain.alpha_t[k] / chain.alpha_s[k]


def _takes(*names: str) -> Callable[[Any], bool]:
    return lambda value: inspect.isfunction(value) and tuple(inspect.signature(value).parameters) == names
