"""Floor 0: the continuous paths of score-based models and flows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.process.path import Path


class VP(Path):
    """Song et al. 2021: log alpha = -t^2 (b1 - b0) / 4 - t b0 / 2, sigma^2 = 1 - alpha^2."""

    name = "vp"

    def __init__(self, *, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        self.beta_min, self.beta_max = beta_min, beta_max

    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha(t)."""
        return -(t**2) * (self.beta_max - self.beta_min) / 4 - t * self.beta_min / 2

    def beta(self, t: Tensor) -> Tensor:
        """beta(t) = -2 d log alpha / dt, the g^2 of this path."""
        return self.beta_min + t * (self.beta_max - self.beta_min)

    def alpha(self, t: Tensor) -> Tensor:
        return self.log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self.log_alpha(t))).sqrt()

    def d_alpha(self, t: Tensor) -> Tensor:
        return -self.beta(t) / 2 * self.alpha(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return self.beta(t) / 2 * self.alpha(t) ** 2 / self.sigma(t)


class SubVP(VP):
    """Song et al. 2021, appendix B: the same alpha, sigma = 1 - alpha^2."""

    name = "sub_vp"

    def sigma(self, t: Tensor) -> Tensor:
        return -torch.expm1(2 * self.log_alpha(t))

    def d_sigma(self, t: Tensor) -> Tensor:
        return self.beta(t) * self.alpha(t) ** 2


class VE(Path):
    """Song et al. 2021: alpha = 1, sigma = s_min (s_max / s_min)^t; g = sigma sqrt(2 log(s_max / s_min))."""

    name = "ve"

    def __init__(self, *, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        _check_sigmas(sigma_min, sigma_max)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** t

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return self.sigma(t) * math.log(self.sigma_max / self.sigma_min)


class EDM(Path):
    """Karras et al. 2022: alpha = 1, and sigma itself is the time: sigma = s_max t, so that t = 0 is the clean image.

    sigma_min: the smallest noise that is trained and stepped at; grids go from it to 0 in their last step.
    """

    name = "edm"

    def __init__(self, *, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        _check_sigmas(sigma_min, sigma_max)
        self.sigma_min, self.sigma_max = sigma_min, sigma_max

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_max * t

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.sigma_max)

    def ends(self) -> tuple[float, float]:
        """From sigma_min to sigma_max."""
        return self.sigma_min / self.sigma_max, 1.0


class Linear(Path):
    """alpha = 1 - t, sigma = t: flow matching and rectified flow (Lipman et al. 2023; Liu et al. 2023)."""

    name = "linear"

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def d_alpha(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


class GVP(Path):
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2) (Albergo & Vanden-Eijnden 2023; SiT's generalised VP)."""

    name = "gvp"

    def alpha(self, t: Tensor) -> Tensor:
        return torch.cos(math.pi / 2 * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def d_alpha(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * torch.sin(math.pi / 2 * t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return math.pi / 2 * torch.cos(math.pi / 2 * t)


class FunctionPath(Path):
    """A path given as two functions of t (float64, any shape); derivatives by automatic differentiation.

    UserError unless alpha > 0 and sigma > 0 inside (0, 1). A path whose alpha / sigma does not fall all the way has no
    inverse: grids of noise levels refuse it, grids in t take it.
    """

    name = "functions"

    def __init__(self, alpha: Callable[[Tensor], Tensor | float], sigma: Callable[[Tensor], Tensor | float]) -> None:
        self._alpha, self._sigma = _of_a_tensor(alpha), _of_a_tensor(sigma)
        _check_positive(self)

    def alpha(self, t: Tensor) -> Tensor:
        return self._alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._sigma(t)

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.func.jvp(self._alpha, (t,), (torch.ones_like(t),))[1]

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.func.jvp(self._sigma, (t,), (torch.ones_like(t),))[1]


def _of_a_tensor(function: Callable[[Tensor], Tensor | float]) -> Callable[[Tensor], Tensor]:
    """The function, a constant one too, as a tensor in the shape of t."""
    return lambda t: function(t) + torch.zeros_like(t)


def _check_positive(path: Path) -> None:
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)[1:-1]
    for name, values in (("alpha", path.alpha(t)), ("sigma", path.sigma(t))):
        if not bool((values > 0).all()):
            bad = t[~(values > 0)][0].item()
            raise UserError(f"{name} at t = {bad:g}: expected a number above 0 everywhere between t = 0 and t = 1")


def _check_sigmas(low: float, high: float) -> None:
    if not 0 < low < high:
        raise UserError(f"sigma from {low} to {high}: expected 0 < sigma_min < sigma_max")
