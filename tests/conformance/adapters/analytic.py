"""What the solver cases share: the exact denoiser of a mixture of round Gaussians, watched; Diffusers' sigmas.

k-diffusion, EDM and Diffusers' sigma schedulers speak of y = x / alpha and its noise sigma / alpha.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditkit.process import betas, grids
from ditkit.process.continuous import EDM
from ditkit.process.denoiser import Denoise, Denoised
from ditkit.process.path import DiscretePath, Path, over
from tests.conformance.harness import Case
from tests.mixtures import Mixture


def mixture_of(case: Case) -> Mixture:
    """The data of a case, w_k N(mu_k, s_k^2 I)."""
    weights, means, stds = (case.inputs[f"gmm_{name}"].double() for name in ("weights", "means", "stds"))
    identity = torch.eye(means.shape[1], dtype=torch.float64)
    return Mixture(weights, means, (stds**2)[:, None, None] * identity)


@dataclasses.dataclass
class Watched:
    """A denoiser that keeps what it was asked and what it said."""

    denoise: Denoise
    calls: list[tuple[Tensor, Tensor, Denoised]] = dataclasses.field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.denoise.path

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        said = self.denoise(x, t)
        self.calls.append((x, t, said))
        return said

    @property
    def sigmas(self) -> Tensor:
        """The noise levels at which it was asked."""
        return grids.noise_level(self.path, torch.stack([t for _, t, _ in self.calls]))

    @property
    def inputs(self) -> list[Tensor]:
        """What it was asked about, as y = x / alpha."""
        return [over(1 / self.path.alpha(t), x) * x for x, t, _ in self.calls]


@dataclasses.dataclass
class Recorded:
    """The noise of a case, one tensor a call, with the count of them."""

    noises: Tensor
    count: int = 0

    def __call__(self, k: int) -> Tensor:
        self.count += 1
        return self.noises[k].double()


def edm_path(sigmas: Tensor) -> EDM:
    """alpha = 1 up to the largest of the sigmas."""
    noisy = sigmas[sigmas > 0]
    return EDM(sigma_min=noisy.min().item() * 0.5, sigma_max=noisy.max().item())


SPACINGS = {"linspace": grids.linspaced, "leading": grids.leading, "trailing": grids.trailing}
BETAS = {"linear": betas.linear, "scaled_linear": betas.scaled_linear}


class DiffusersSigmas:
    """The sigmas and timesteps of a Diffusers scheduler that steps in noise levels of a DDPM chain."""

    def __init__(self, n: int, kw: dict[str, Any], spacing: str = "linspace") -> None:
        """n: inference steps. kw: the scheduler's arguments. spacing: its default timestep_spacing."""
        schedule = BETAS[kw.get("beta_schedule", "linear")]
        steps = kw.get("num_train_timesteps", 1000)
        beta = schedule(steps, kw.get("beta_start", 0.0001), kw.get("beta_end", 0.02))
        self.path = DiscretePath(beta)
        # in float32, as the reference: its smallest sigma is 1e-4 off
        abar = (1 - beta.float()).cumprod(0)
        self.table = ((1 - abar) / abar).sqrt().double().numpy()
        self.spacing = kw.get("timestep_spacing", spacing)
        options = {"offset": kw.get("steps_offset", 0)} if self.spacing == "leading" else {}
        self.timesteps = self.path.index(SPACINGS[self.spacing](self.path, n, **options)[:-1])
        # between the chain's steps Diffusers is linear in sigma, where our path is in log alpha
        levels = torch.from_numpy(np.interp(self.timesteps.numpy(), np.arange(steps), self.table))
        self._respace(levels, n, kw)
        last = self.table[0] if kw.get("final_sigmas_type") == "sigma_min" else 0.0
        self.sigmas = torch.cat([self.levels, torch.tensor([last], dtype=torch.float64)])

    def _respace(self, levels: Tensor, n: int, kw: dict[str, Any]) -> None:
        """Other noise levels between the same ends, with the timesteps that belong to them."""
        high, low = levels[0].item(), levels[-1].item()
        ends = {"sigma_max": high, "sigma_min": low}
        path = edm_path(levels)

        def spaced(ts: Tensor) -> Tensor:
            return path.sigma(ts[:-1])

        self.levels = levels
        if kw.get("interpolation_type") == "log_linear":
            whole = {"sigma_max": self.table[-1].item(), "sigma_min": self.table[0].item()}
            path = edm_path(torch.from_numpy(self.table))
            self.levels = spaced(grids.log_snr(path, n + 1, **whole))
        elif kw.get("use_karras_sigmas"):
            self.levels = spaced(grids.karras(path, n, **ends))
        elif kw.get("use_exponential_sigmas"):
            self.levels = spaced(grids.log_snr(path, n, **ends))
        elif kw.get("use_beta_sigmas"):
            self.levels = low + (high - low) * beta_quantiles(n)
        if any(kw.get(f"use_{name}_sigmas") for name in ("karras", "exponential", "beta")):
            table = np.log(self.table)
            index = np.interp(self.levels.log().numpy(), table, np.arange(len(table)))
            self.timesteps = torch.from_numpy(index)

    @property
    def start(self) -> float:
        """The standard deviation of y at the start."""
        largest = self.sigmas.max().item()
        return largest if self.spacing in ("linspace", "trailing") else (largest**2 + 1) ** 0.5


def beta_quantiles(n: int) -> Tensor:
    """Quantiles of Beta(0.6, 0.6) at n levels even from 1 to 0 (Lee et al. 2024), the default of Diffusers."""
    from scipy.stats import beta

    return torch.from_numpy(beta.ppf(1 - np.linspace(0, 1, n), 0.6, 0.6))
