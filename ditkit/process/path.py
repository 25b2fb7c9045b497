"""Floor 0: paths from data to noise, x_t = alpha(t) x0 + sigma(t) eps, eps ~ N(0, I).

Time runs from data (t = 0) to noise (t = 1). A path is two functions, alpha and sigma, and their derivatives; all else
is derived from them here, once. Times and coefficients are float64, the images that they multiply are not.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.process import betas as schedules


def over(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient, () or (B,) float64, shaped and cast to multiply x (B, ...)."""
    if coefficient.dim() == 0:
        return coefficient.to(x.dtype)
    return coefficient.to(x.device, x.dtype).reshape(-1, *[1] * (x.dim() - 1))


BISECTIONS = 60
"""Halvings of [0, 1] that find a time: more than the 53 bits of a float64."""

NEARLY_CLEAN, NEARLY_NOISE = 1e-3, 1 - 1e-3
"""Where paths whose log-SNR is infinite at t = 0 or t = 1 are cut off by those who need it finite."""


class Path(ABC):
    """A Gaussian path. Subclasses give alpha, sigma and their derivatives at times t, a float64 tensor of any shape."""

    name: str
    steps: int | None = None
    """The number of training times of a discrete path, at t = (n + 1) / steps, n = 0..steps-1; None if continuous."""

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """How much of the image is in x_t."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """How much of the noise is in x_t."""

    @abstractmethod
    def d_alpha(self, t: Tensor) -> Tensor:
        """d alpha / dt."""

    @abstractmethod
    def d_sigma(self, t: Tensor) -> Tensor:
        """d sigma / dt."""

    def network_time(self, t: Tensor) -> Tensor:
        """The number that a network sees for time t: 1000 t, the range that sinusoidal embeddings were made for."""
        return 1000 * t

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda(t) = log(alpha / sigma), half the log signal-to-noise ratio (Lu et al. 2022); +inf where sigma = 0."""
        return self.alpha(t).log() - self.sigma(t).log()

    def drift(self, t: Tensor) -> Tensor:
        """f(t) = alpha' / alpha of the forward SDE dx = f x dt + g dw (Song et al. 2021; Kingma et al. 2021)."""
        return self.d_alpha(t) / self.alpha(t)

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """g^2(t) = 2 sigma sigma' - 2 f sigma^2 of the forward SDE."""
        return 2 * self.sigma(t) * self.d_sigma(t) - 2 * self.drift(t) * self.sigma(t) ** 2

    def time_at(self, log_snr: Tensor) -> Tensor:
        """The time t in [0, 1] at which lambda(t) has the given values: the inverse of log_snr, by bisection.

        Every path falls monotonically in lambda. Values beyond lambda(0) or lambda(1) give 0 or 1.
        """
        low, high = torch.zeros_like(log_snr), torch.ones_like(log_snr)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            noisier = self.log_snr(middle) < log_snr
            low, high = torch.where(noisier, low, middle), torch.where(noisier, middle, high)
        return (low + high) / 2

    def ends(self) -> tuple[float, float]:
        """The times (t_min, t_max) between which log_snr is finite, as far as the path is trained and stepped at.

        t_max is 1 unless nothing of the image is left there; t_min is a chain's first time, or 0 where that is noisy.
        """
        zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        clean, noise = bool(self.sigma(zero) == 0), bool(is_noise(self, one))
        if self.steps is not None:
            return 1 / self.steps, 1 - 1 / self.steps if noise else 1.0
        return NEARLY_CLEAN if clean else 0.0, NEARLY_NOISE if noise else 1.0

    def mix(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """x_t = alpha(t) x0 + sigma(t) eps, with x0, eps (B, ...) and t () or (B,)."""
        return over(self.alpha(t), x0) * x0 + over(self.sigma(t), eps) * eps


def is_noise(path: Path, t: Tensor) -> Tensor:
    """Whether nothing of the image is left at t, up to rounding: cos(pi / 2) is 6e-17 in float64. bool, like t."""
    return path.alpha(t) <= 1e-8 * path.sigma(t)


def require_same(what: str, ours: Path, theirs: Path) -> None:
    """Raises UserError unless two paths are the same (see ``same_path``). what: who needs that, for the message."""
    if not same_path(ours, theirs):
        raise UserError(
            f"{what} between the paths {ours.name!r} and {theirs.name!r}: expected two models of the same path and "
            "options, whose noisy images are the same"
        )


class DiscretePath(Path):
    """The path of a chain q(x_n | x_{n-1}) = N(sqrt(1 - beta_n) x_{n-1}, beta_n I) (Ho et al. 2020).

    Index n = 0..T-1 sits at t = (n + 1) / T; between these times log alpha is linear, so that continuous solvers can
    stop anywhere. t = 0 is the clean image.
    """

    name = "betas"
    steps: int

    def __init__(self, betas: Tensor) -> None:
        """betas: (T,), each in (0, 1]; a last one of 1 leaves nothing of the image, which an eps row cannot undo."""
        betas = betas.double()
        if betas.dim() != 1 or len(betas) == 0 or not bool(((betas > 0) & (betas <= 1)).all()):
            raise UserError(f"betas {betas.tolist()[:4]}...: expected a non-empty vector of numbers in (0, 1]")
        self.betas = betas
        self.steps = len(betas)
        log_alpha = torch.log1p(-betas).cumsum(0) / 2
        self._log_alpha = torch.cat([torch.zeros(1, dtype=torch.float64), log_alpha])

    def index(self, t: Tensor) -> Tensor:
        """The chain's index n = T t - 1 at time t, a float: whole at the chain's own times, -1 at t = 0."""
        n = t.double() * self.steps - 1
        # (n + 1) / T * T is not always n + 1 in floating point; a network trained on whole indices must see them.
        return torch.where((n - n.round()).abs() < 1e-9, n.round(), n)

    def network_time(self, t: Tensor) -> Tensor:
        """The chain's index n, as DDPM and DiT give it to the network; 0 for times below the first."""
        return self.index(t).clamp(min=0)

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha_at(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return torch.expm1(2 * self._log_alpha_at(t)).abs().sqrt()  # abs: +0, not -0, at t = 0

    def time_at(self, log_snr: Tensor) -> Tensor:
        """The inverse of log_snr; between the chain's times log alpha is linear. Beyond the ends: 0 or 1."""
        log_alpha = -torch.logaddexp(torch.zeros_like(log_snr), -2 * log_snr) / 2
        table = self._log_alpha.to(log_snr.device)
        left = (torch.searchsorted(-table, -log_alpha) - 1).clamp(0, self.steps - 1)
        weight = (log_alpha - table[left]) / (table[left + 1] - table[left])
        t = ((left + weight) / self.steps).clamp(0, 1)
        return torch.where(log_snr <= self.log_snr(torch.ones_like(log_snr)), 1.0, t)  # a last beta of 1: -inf

    def d_alpha(self, t: Tensor) -> Tensor:
        left = self._segment(t)
        table = self._log_alpha.to(t.device)
        return self.alpha(t) * (table[left + 1] - table[left]) * self.steps

    def d_sigma(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t)

    def _segment(self, t: Tensor) -> Tensor:
        """The segment (left end) whose inside or right end t is."""
        return self.index(t).ceil().long().clamp(0, self.steps - 1)

    def _log_alpha_at(self, t: Tensor) -> Tensor:
        left = self._segment(t)
        table = self._log_alpha.to(t.device)
        right, weight = table[left + 1], self.index(t) + 1 - left
        # the end itself is taken as it is: log alpha may end at -inf, which cannot be weighed
        return torch.where(weight == 1, right, torch.lerp(table[left], right, weight))


class DDPMLinear(DiscretePath):
    """Ho et al. 2020: beta linear from 1e-4 to 0.02 over T = 1000 steps, scaled by 1000 / T for another T."""

    name = "ddpm_linear"

    def __init__(self, *, steps: int = 1000) -> None:
        super().__init__(schedules.linear(steps, *_rescaled(steps, 1e-4, 0.02)))


class Cosine(DiscretePath):
    """Nichol & Dhariwal 2021, eq. 17: abar(t) = f(t) / f(0), f = cos^2(((t + s) / (1 + s)) pi / 2), s = 0.008."""

    name = "cosine"

    def __init__(self, *, steps: int = 1000) -> None:
        super().__init__(schedules.cosine(steps))


class ScaledLinear(DiscretePath):
    """Rombach et al. 2022 (latent diffusion, Stable Diffusion): sqrt(beta) linear, 0.00085 to 0.012.

    As with DDPMLinear these are for T = 1000 steps and are scaled by 1000 / T for another T.
    """

    name = "scaled_linear"

    def __init__(self, *, steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> None:
        """first, last: beta of the first and the last of 1000 steps, 0 < first <= last."""
        super().__init__(schedules.scaled_linear(steps, *_rescaled(steps, first, last)))


def _rescaled(steps: int, first: float, last: float) -> tuple[float, float]:
    """The betas of T = ``steps`` steps that noise as those of 1000 steps do: scaled by 1000 / T.

    UserError unless all betas stay in (0, 1].
    """
    if steps < 1:
        raise UserError(f"steps {steps}: expected at least {max(1, math.ceil(1000 * last))} steps")
    if not 0 < first <= last <= 1:
        raise UserError(f"beta from {first:g} to {last:g}: expected 0 < first <= last <= 1, for a chain of 1000 steps")
    scale = 1000 / steps
    if scale * last > 1:
        raise UserError(
            f"steps {steps}: beta would rise to {scale * last:g}; expected at least {math.ceil(1000 * last)} steps"
        )
    return scale * first, scale * last


def time_of(path: Path, network_time: Tensor) -> Tensor:
    """The time t, float64, at which the network sees this number: the inverse of ``Path.network_time``, which rises."""
    low = torch.zeros_like(network_time, dtype=torch.float64)
    high = torch.ones_like(low)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = path.network_time(middle) < network_time
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high


def same_path(a: Path, b: Path) -> bool:
    """Whether two paths noise alike and call their times alike to the network."""
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    ours, theirs = (torch.stack([p.alpha(t), p.sigma(t), p.network_time(t)]) for p in (a, b))
    return torch.allclose(ours, theirs)
