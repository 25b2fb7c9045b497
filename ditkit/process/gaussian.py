"""Floor 0: divergences and likelihoods of Gaussians, in nats, elementwise.

Evaluated in the precision of their arguments, term by term as published, so that numbers agree with published code even
where float32 cancels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def normal_kl(mean_1: Tensor, log_variance_1: Tensor, mean_2: Tensor, log_variance_2: Tensor) -> Tensor:
    """KL(N(mean_1, exp(log_variance_1)) || N(mean_2, exp(log_variance_2))), elementwise; arguments broadcast."""
    return 0.5 * (
        -1.0
        + log_variance_2
        - log_variance_1
        + torch.exp(log_variance_1 - log_variance_2)
        + (mean_1 - mean_2) ** 2 * torch.exp(-log_variance_2)
    )


def normal_cdf(x: Tensor) -> Tensor:
    """The standard normal's distribution function by its tanh approximation, as DDPM's decoder uses it (Page 1977)."""
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def standard_normal_log_density(x: Tensor) -> Tensor:
    """log N(x; 0, 1)."""
    return -0.5 * (x**2 + math.log(2 * math.pi))


def discretized_gaussian_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log of the mass that N(mean, exp(log_std)^2) puts on the 8-bit bin of x (Ho et al. 2020, eq. 13).

    x: values k/127.5 - 1 in [-1, 1], bins of half width 1/255, the outermost two open.
    """
    inverse_std = torch.exp(-log_std)
    upper = normal_cdf(inverse_std * (x - mean + 1.0 / 255.0))
    lower = normal_cdf(inverse_std * (x - mean - 1.0 / 255.0))
    mass = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1.0 - lower, upper - lower))
    return mass.clamp(min=1e-12).log()
