"""Floor 0: a path visited at finitely many times, with its transitions and posteriors.

A grid is a descending float64 vector t_0 > t_1 > ... > t_K; step k leads from t_k to t_{k+1}. On any path
q(x_t | x_s) = N(alpha_t/alpha_s x_s, beta I) for s < t, with beta = sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2
(Kingma et al. 2021, appendix A). On a DDPM path with all its times this is Ho et al. 2020; on fewer, iDDPM's respacing.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ditkit.base.errors import UserError, unknown
from ditkit.process.path import Path, over


class Chain:
    """The transitions of a path on a grid. Every array is float64 (K,), indexed by the step k from noise to data."""

    def __init__(self, path: Path, ts: Tensor) -> None:
        """ts: (K + 1,) float64, strictly descending, in [0, 1]."""
        ts = ts.double()
        if ts.dim() != 1 or len(ts) < 2 or not bool((ts[:-1] > ts[1:]).all()):
            raise ValueError(f"a grid must be at least two strictly descending times, got {ts.tolist()[:8]}")
        self.path, self.ts = path, ts
        self.t, self.s = ts[:-1], ts[1:]
        self.alpha_t, self.alpha_s = path.alpha(self.t), path.alpha(self.s)
        self.sigma_t, self.sigma_s = path.sigma(self.t), path.sigma(self.s)
        # beta = sigma_t^2 (1 - SNR_t / SNR_s), free of cancellation
        self.beta = -(self.sigma_t**2) * torch.expm1(2 * (path.log_snr(self.t) - path.log_snr(self.s)))
        shrink = self.alpha_t / self.alpha_s
        self.posterior_x0 = self.alpha_s * self.beta / self.sigma_t**2
        self.posterior_xt = shrink * self.sigma_s**2 / self.sigma_t**2
        self.posterior_variance = self.beta * self.sigma_s**2 / self.sigma_t**2
        # The last step's posterior has no variance; its logarithm is clipped at the step before (Ho et al. 2020).
        clipped = self.posterior_variance.clone()
        if len(clipped) > 1:
            clipped[-1] = torch.where(clipped[-1] > 0, clipped[-1], clipped[-2])
        else:
            clipped[-1] = torch.where(clipped[-1] > 0, clipped[-1], self.beta[-1])
        self.log_small = clipped.log()
        large = torch.cat([self.beta[:-1], clipped[-1:]])
        self.log_large = large.log()

    def __len__(self) -> int:
        return len(self.t)

    def step_at(self, t: Tensor) -> Tensor:
        """The step k that starts at time t, (B,) int64. ValueError where t is none of the grid's times."""
        wanted = t.double().reshape(-1).cpu()
        k = (wanted[:, None] - self.t).abs().argmin(1)
        if not torch.allclose(self.t[k], wanted, rtol=0, atol=1e-9):
            raise ValueError("t holds times that are not on the chain's grid")
        return k.to(t.device)

    def posterior_mean(self, x0: Tensor, x_t: Tensor, k: Tensor) -> Tensor:
        """The mean of q(x_s | x_t, x0) (Ho et al. 2020, eq. 7). x0, x_t: (B, ...); k: () or (B,) int64."""
        return over(self.at(self.posterior_x0, k), x0) * x0 + over(self.at(self.posterior_xt, k), x_t) * x_t

    def log_variance(self, rule: str | None, k: Tensor, x: Tensor, mix: Tensor | None = None) -> Tensor:
        """The log variance of the model's step k, broadcastable to x.

        rule: a name of LOG_VARIANCE, or None: learned where there is a mix (Denoised's), else posterior. UserError for
        an unknown rule, and for "learned" without a mix.
        """
        rule = rule or ("posterior" if mix is None else "learned")
        if rule not in LOG_VARIANCE:
            raise unknown("variance", rule, LOG_VARIANCE)
        return LOG_VARIANCE[rule](self, k, x, mix)

    def at(self, array: Tensor, k: Tensor) -> Tensor:
        """One of the chain's arrays at steps k, on the device of k."""
        return array.to(k.device)[k]


def _small(chain: Chain, k: Tensor, x: Tensor, mix: Tensor | None) -> Tensor:
    return over(chain.at(chain.log_small, k), x)


def _large(chain: Chain, k: Tensor, x: Tensor, mix: Tensor | None) -> Tensor:
    return over(chain.at(chain.log_large, k), x)


def _learned(chain: Chain, k: Tensor, x: Tensor, mix: Tensor | None) -> Tensor:
    if mix is None:
        raise UserError("variance 'learned': the model has no learned variance; use 'posterior' or 'beta'")
    log_beta = over(chain.at(chain.beta.log(), k), x)
    return mix * log_beta + (1 - mix) * _small(chain, k, x, mix)


LOG_VARIANCE = {"posterior": _small, "beta": _large, "learned": _learned}
"""beta~, the smallest sensible variance; beta, the largest; and iDDPM's learned mixture (eq. 15)."""


@functools.lru_cache(maxsize=8)
def full_chain(path: Path) -> Chain:
    """The chain of a discrete path at all its T times and t = 0: step k is DDPM's index n = T - 1 - k."""
    if path.steps is None:
        raise UserError(
            f"path {path.name!r}: expected a discrete path (betas), this one is continuous and has no chain"
        )
    return Chain(path, torch.arange(path.steps, -1, -1, dtype=torch.float64) / path.steps)
