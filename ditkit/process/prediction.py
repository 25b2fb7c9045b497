"""Floor 0: what a network predicts, p = a(t) x0 + b(t) eps, one row (a, b) each.

With x_t = alpha x0 + sigma eps a row is a 2x2 linear system; solving it gives (x0, eps). Its determinant
alpha b - sigma a is zero where the row says nothing that x_t does not say already.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ditkit.process.path import Path, over


class Prediction(ABC):
    """A row (a, b). Subclasses give its two coefficients on a path."""

    name: str

    @abstractmethod
    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) at times t, float64, in the shape of t."""

    def network_input(self, path: Path, x: Tensor, t: Tensor) -> Tensor:
        """What the network sees of x_t: x_t itself, unless the row scales it."""
        return x

    def network_time(self, path: Path, t: Tensor) -> Tensor:
        """What the network sees of t: the path's convention, unless the row has its own."""
        return path.network_time(t)

    def target(self, path: Path, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """p = a x0 + b eps: what the network should say about x_t."""
        a, b = self.coefficients(path, t)
        return over(a, x0) * x0 + over(b, eps) * eps

    def solve(self, path: Path, p: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x0, eps) from the network's p and x_t by Cramer's rule. p, x: (B, ...); t: () or (B,)."""
        a, b = self.coefficients(path, t)
        alpha, sigma = path.alpha(t), path.sigma(t)
        determinant = alpha * b - sigma * a
        x0 = over(b / determinant, x) * x - over(sigma / determinant, p) * p
        eps = over(alpha / determinant, p) * p - over(a / determinant, x) * x
        return x0, eps


class Eps(Prediction):
    """The noise (Ho et al. 2020; DiT, LDM, Stable Diffusion 1)."""

    name = "eps"

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)


class X0(Prediction):
    """The clean image."""

    name = "x0"

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.zeros_like(t)


class V(Prediction):
    """v = alpha eps - sigma x0 (Salimans & Ho 2022, on a variance-preserving path)."""

    name = "v"

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return -path.sigma(t), path.alpha(t)


class Velocity(Prediction):
    """dx_t/dt = alpha' x0 + sigma' eps (flow matching; SiT, SD3, Flux)."""

    name = "velocity"

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return path.d_alpha(t), path.d_sigma(t)


class Score(Prediction):
    """grad log p_t(x_t) = -E[eps | x_t] / sigma (Song et al. 2021)."""

    name = "score"

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), -1 / path.sigma(t)


class EDM(Prediction):
    """The network F of D(x) = c_skip x + c_out F(c_in x; c_noise) (Karras et al. 2022, table 1), on any path.

    sigma_data: standard deviation of the data. A path with alpha != 1 is met at x_t / alpha, sigma / alpha.
    """

    name = "edm"

    def __init__(self, *, sigma_data: float = 0.5) -> None:
        self.sigma_data = sigma_data

    def _noise(self, path: Path, t: Tensor) -> Tensor:
        return path.sigma(t) / path.alpha(t)

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        noise, variance = self._noise(path, t), self.sigma_data**2
        c_skip = variance / (noise**2 + variance)
        c_out = noise * self.sigma_data / (noise**2 + variance).sqrt()
        return (1 - c_skip) / c_out, -c_skip * noise / c_out

    def network_input(self, path: Path, x: Tensor, t: Tensor) -> Tensor:
        """c_in x, with c_in = 1 / sqrt(sigma^2 + sigma_data^2)."""
        c_in = 1 / (self._noise(path, t) ** 2 + self.sigma_data**2).sqrt()
        return over(c_in / path.alpha(t), x) * x

    def network_time(self, path: Path, t: Tensor) -> Tensor:
        """c_noise = log(sigma) / 4."""
        return self._noise(path, t).log() / 4


def split_variance(output: Tensor, channels: int) -> tuple[Tensor, Tensor | None]:
    """A network's output as (p, m): the row, and iDDPM's learned variance where the output has twice the channels.

    output: (B, C or 2C, ...). m in [0, 1] (not clamped) interpolates between log beta~ (0) and log beta (1):
    log var = m log beta + (1 - m) log beta~ (Nichol & Dhariwal 2021, eq. 15); the network says 2 m - 1.
    """
    if output.shape[1] == channels:
        return output, None
    if output.shape[1] == 2 * channels:
        p, v = output.chunk(2, dim=1)
        return p, (v + 1) / 2
    raise ValueError(
        f"the network gave {output.shape[1]} channels; expected {channels}, or {2 * channels} with variance"
    )
