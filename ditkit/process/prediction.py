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
