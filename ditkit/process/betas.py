"""Floor 0: the noise schedules of discrete chains, beta_n for n = 0..T-1, float64 (T,)."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def linear(steps: int, first: float, last: float) -> Tensor:
    """beta linear in n (Ho et al. 2020)."""
    return torch.linspace(first, last, steps, dtype=torch.float64)


def scaled_linear(steps: int, first: float, last: float) -> Tensor:
    """sqrt(beta) linear in n (latent diffusion; "quad" in DDPM's code)."""
    return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2


def cosine(steps: int, *, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    """beta_n = min(1 - f((n+1)/T) / f(n/T), 0.999), f(t) = cos^2(((t + s)/(1 + s)) pi/2) (Nichol & Dhariwal 2021)."""
    t = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=largest)


def constant(steps: int, value: float) -> Tensor:
    """The same beta at every step."""
    return torch.full((steps,), value, dtype=torch.float64)


def warmup(steps: int, first: float, last: float, fraction: float) -> Tensor:
    """Linear from ``first`` to ``last`` over the first ``fraction`` of the steps, then ``last``."""
    rising = int(steps * fraction)
    betas = constant(steps, last)
    betas[:rising] = linear(rising, first, last)
    return betas


def inverse(steps: int) -> Tensor:
    """beta_n = 1 / (T - n): 1/T, 1/(T-1), ..., 1 (Sohl-Dickstein et al. 2015; "jsd" in DDPM's code)."""
    return 1 / torch.linspace(steps, 1, steps, dtype=torch.float64)
