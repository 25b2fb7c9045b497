"""Floor 0: what a network predicts, p = a(t) x0 + b(t) eps, one row (a, b) each.

With x_t = alpha x0 + sigma eps a row is a 2x2 linear system; solving it gives (x0, eps). Its determinant
alpha b - sigma a is zero where the row says nothing that x_t does not say already: eps where alpha = 0, x0 where
sigma = 0. There the pair of row and path is singular, and solving it is a UserError.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.process.path import Path, over

SINGULAR = 1e-12
"""Determinants below this are zero but for rounding: cos(pi / 2) is 6e-17. float64 has no digit left to solve with."""


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
        """(x0, eps) from the network's p and x_t by Cramer's rule. p, x: (B, ...); t: () or (B,).

        UserError where the row is singular. Only times on the CPU are looked at, which a solver's are: looking at a
        batch of them on an accelerator would wait for it.
        """
        a, b = self.coefficients(path, t)
        alpha, sigma = path.alpha(t), path.sigma(t)
        determinant = alpha * b - sigma * a
        if t.device.type == "cpu" and _is_singular(determinant):
            raise self._singular(path, t, determinant)
        x0 = over(b / determinant, x) * x - over(sigma / determinant, p) * p
        eps = over(alpha / determinant, p) * p - over(a / determinant, x) * x
        return x0, eps

    def start(self, path: Path) -> float:
        """The time that sampling begins at: 1, or the path's own end (Path.ends) where the row is singular at 1.

        So SiT samples noise and score models on the linear path and GVP from t = 0.999 (Ma et al. 2024, transport).
        """
        one = torch.ones((), dtype=torch.float64)
        return path.ends()[1] if _is_singular(self.determinant(path, one)) else 1.0

    def determinant(self, path: Path, t: Tensor) -> Tensor:
        """alpha b - sigma a: an error e of p is an error -sigma e / determinant of x0, alpha e / determinant of eps."""
        a, b = self.coefficients(path, t)
        return path.alpha(t) * b - path.sigma(t) * a

    def read_as(self, other: Prediction, path: Path, p: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """What a network that predicts ``other`` would have said, from this row's p at x_t. UserError: see solve."""
        return other.target(path, *self.solve(path, p, x, t), t)

    def _singular(self, path: Path, t: Tensor, determinant: Tensor) -> UserError:
        first = float(t.reshape(-1)[~_regular(determinant).reshape(-1)][0])
        at = torch.tensor(first, dtype=torch.float64)
        alpha, sigma = float(path.alpha(at)), float(path.sigma(at))
        remedy = "start the grid below it (grid log_snr does)" if first > 0.5 else "end the grid above it"
        other = "" if self.name == V.name else f", or use prediction {V.name}"
        return UserError(
            f"prediction {self.name!r} on path {path.name!r} is singular at t = {first:g}, where alpha = {alpha:.3g} "
            f"and sigma = {sigma:.3g}: it does not tell the image from the noise; {remedy}{other}"
        )


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
    """grad log p_t(x_t) = -E[eps | x_t] / sigma (Song et al. 2021); infinite where sigma = 0."""

    name = "score"

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), -1 / path.sigma(t)


class EDM(Prediction):
    """The network F of D(x) = c_skip x + c_out F(c_in x; c_noise) (Karras et al. 2022, table 1), on any path.

    sigma_data: standard deviation of the data. A path with alpha != 1 is met at x_t / alpha and sigma / alpha; written
    with r^2 = sigma^2 + alpha^2 sigma_data^2 = Var x_t, nothing divides by alpha and the row is regular everywhere.
    """

    name = "edm"

    def __init__(self, *, sigma_data: float = 0.5) -> None:
        """Raises UserError unless sigma_data is above 0."""
        if not 0 < sigma_data < math.inf:
            raise UserError(f"sigma_data {sigma_data:g}: expected above 0, the standard deviation of the data (0.5)")
        self.sigma_data = sigma_data

    def _deviation(self, path: Path, t: Tensor) -> Tensor:
        return (path.sigma(t) ** 2 + (path.alpha(t) * self.sigma_data) ** 2).sqrt()

    def coefficients(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        """F = (x0 - c_skip x_t / alpha) / c_out, c_skip = (alpha sigma_data / r)^2, c_out = sigma sigma_data / r."""
        r = self._deviation(path, t)
        return path.sigma(t) / (self.sigma_data * r), -path.alpha(t) * self.sigma_data / r

    def network_input(self, path: Path, x: Tensor, t: Tensor) -> Tensor:
        """c_in x_t / alpha = x_t / r."""
        return over(1 / self._deviation(path, t), x) * x

    def network_time(self, path: Path, t: Tensor) -> Tensor:
        """c_noise = log(sigma / alpha) / 4, kept finite at the ends of a path."""
        return (-path.log_snr(t) / 4).clamp(-LARGEST_C_NOISE, LARGEST_C_NOISE)


LARGEST_C_NOISE = 5.0
"""Noise of e^20 and e^-20 of the image: beyond what float32 tells from all and nothing."""


def _regular(determinant: Tensor) -> Tensor:
    return (determinant.abs() > SINGULAR) & determinant.isfinite()


def _is_singular(determinant: Tensor) -> bool:
    if determinant.dim() == 0:  # a solver's step: plain numbers are ten times faster
        return not SINGULAR < abs(determinant.item()) < math.inf
    return not bool(_regular(determinant).all())


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
