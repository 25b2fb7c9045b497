"""Floor 0: the continuous paths of score-based models and flows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.process.path import NEARLY_CLEAN, Path


class VP(Path):
    """Song et al. 2021: log alpha = -t^2 (b1 - b0) / 4 - t b0 / 2, sigma^2 = 1 - alpha^2."""

    name = "vp"

    def __init__(self, *, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        """UserError unless 0 < beta_min <= beta_max, and something of the image is left at t = 1, as float64 see it."""
        _check_betas(beta_min, beta_max)
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

    UserError unless both give a finite tensor in the shape of t (or a constant), positive inside (0, 1), with little
    noise at t = 0 (data), some at t = 1, and a log-SNR that falls all the way from 0 to 1.
    """

    name = "functions"

    def __init__(self, alpha: Callable[[Tensor], Tensor | float], sigma: Callable[[Tensor], Tensor | float]) -> None:
        _check_function("alpha", alpha)
        _check_function("sigma", sigma)
        self._alpha, self._sigma = _of_a_tensor(alpha), _of_a_tensor(sigma)
        _check_path(self)

    def alpha(self, t: Tensor) -> Tensor:
        return self._alpha(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self._sigma(t)

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.func.jvp(self._alpha, (t,), (torch.ones_like(t),))[1]

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.func.jvp(self._sigma, (t,), (torch.ones_like(t),))[1]


LARGEST_START = 0.2
"""sigma / alpha at t = 0 up to which a path is taken to begin at data; published ones begin below 0.02."""


def _of_a_tensor(function: Callable[[Tensor], Tensor | float]) -> Callable[[Tensor], Tensor]:
    """The function, a constant one too, as a tensor in the shape of t."""
    return lambda t: function(t) + torch.zeros_like(t)


def _times() -> Tensor:
    return torch.linspace(0, 1, 1001, dtype=torch.float64)


def _check_function(name: str, function: Callable[[Tensor], Tensor | float]) -> None:
    """UserError unless the function of times (N,) gives N finite numbers, or one for all, of each time its own."""
    t, wanted = _times(), "expected a function of a tensor of times made of torch's functions, such as torch.cos"
    try:
        values, alone = function(t), function(t[0])
    except Exception as error:  # a function of the user's: whatever it raises
        raise UserError(f"{name}(t) raises {type(error).__name__} ({error}): {wanted}") from None
    for value, at in ((values, t), (alone, t[0])):
        constant = isinstance(value, (int, float)) or (isinstance(value, Tensor) and value.dim() == 0)
        if not constant and not (isinstance(value, Tensor) and value.shape == at.shape):
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise UserError(f"{name}(t) of {len(t)} times gives {got}: {wanted}, which gives a number for each time")
    found = torch.as_tensor(values, dtype=torch.float64).expand_as(t)
    finite = found.isfinite()
    if not bool(finite.all()):
        bad = int((~finite).nonzero()[0])
        raise UserError(f"{name} at t = {t[bad]:g} is {found[bad]:g}: expected a finite number from t = 0 to t = 1")
    slope = torch.func.jvp(_of_a_tensor(function), (t,), (torch.ones_like(t),))[1]
    if bool((slope == 0).all()) and bool((found != found[0]).any()):
        raise UserError(f"{name}(t) varies, but has no derivative: {wanted}")


def _check_path(path: Path) -> None:
    """UserError unless a path leads from data at t = 0 to noise at t = 1 and loses signal at every step of the way."""
    t = _times()
    alpha, sigma = path.alpha(t), path.sigma(t)
    if sigma[0].abs() > LARGEST_START * alpha[0]:
        raise UserError(
            f"alpha {alpha[0]:g}, sigma {sigma[0]:g} at t = 0: expected sigma below {LARGEST_START:g} alpha, as data "
            "are at t = 0 and noise at t = 1: swap the two functions, or give f(1 - t) for f(t) where data are at t = 1"
        )
    for name, values in (("alpha", alpha), ("sigma", sigma)):
        if not bool((values[1:-1] > 0).all()):
            bad = t[1:-1][~(values[1:-1] > 0)][0].item()
            raise UserError(f"{name} at t = {bad:g}: expected a number above 0 everywhere between t = 0 and t = 1")
    if not sigma[-1] > 0:
        raise UserError(f"sigma {sigma[-1]:g} at t = 1: expected above 0, as noise is at t = 1")
    # rounding may leave an alpha(1) or sigma(0) of zero a little below it
    log_snr = alpha.clamp(min=0).log() - sigma.clamp(min=0).log()
    rises = (~(log_snr.diff() < 0)).nonzero().flatten()
    if len(rises):
        k = int(rises[0])
        raise UserError(
            f"log-SNR log(alpha / sigma) goes from {log_snr[k]:g} at t = {t[k]:g} to {log_snr[k + 1]:g} at "
            f"t = {t[k + 1]:g}: expected it to fall all the way; let alpha fall or sigma rise there"
        )


def _check_sigmas(low: float, high: float) -> None:
    if not 0 < low < high < math.inf:
        raise UserError(f"sigma from {low} to {high}: expected 0 < sigma_min < sigma_max, finite")


LARGEST_BETAS = 72.0
"""beta_min + beta_max up to which alpha(1) = exp(-(beta_min + beta_max) / 4) is above 1e-8, nothing (is_noise)."""


def _check_betas(low: float, high: float) -> None:
    # Karras et al. 2022 fit both to two noise levels, which can leave beta_min a little below 0.
    noisy = low + (high - low) * NEARLY_CLEAN / 2 > 0
    if not (noisy and low <= high and low + high <= LARGEST_BETAS):
        raise UserError(
            f"beta_min {low:g}, beta_max {high:g}: expected beta_min <= beta_max, noise from t = {NEARLY_CLEAN:g} on "
            f"(beta_min above 0, or hardly below it), and a sum of at most {LARGEST_BETAS:g}, beyond which nothing of "
            "the image is left before t = 1; 0.1 and 20 are the published"
        )
