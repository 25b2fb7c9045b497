"""Floor 1: guidance maps a denoiser to a denoiser.

x0, eps and every other row are linear in one another at given (x_t, t), so guiding (x0, eps) guides them all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.condition import Condition
from ditkit.process.denoiser import Denoise, Denoised, Denoiser
from ditkit.process.path import Path, over


def extrapolate(null: Denoised, conditional: Denoised, scale: float, channels: int | None = None) -> Denoised:
    """null + scale (conditional - null), on the first ``channels`` channels or on all (None).

    The remaining channels and the learned variance are the conditional's.
    """

    def guide(a: Tensor, b: Tensor) -> Tensor:
        guided = a + scale * (b - a)
        if channels is not None and channels < b.shape[1]:
            guided[:, channels:] = b[:, channels:]
        return guided

    return Denoised(guide(null.x0, conditional.x0), guide(null.eps, conditional.eps), conditional.variance_mix)


DIT_CHANNELS = 3
"""DiT's published numbers guide only the first three of four latent channels: ``ClassifierFree(channels=...)``."""


@dataclasses.dataclass(frozen=True)
class ClassifierFree:
    """eps~ = eps_null + s (eps_cond - eps_null), one batched network call (Ho & Salimans 2022, with s = 1 + w).

    scale: s; 1 is no guidance, 0 the unconditional model. channels: None guides all (DIT_CHANNELS for compatibility).
    """

    denoiser: Denoiser
    scale: float
    channels: int | None = None
    against: Condition | None = None
    """What to lead away from; None: the learned null."""

    @property
    def path(self) -> Path:
        """The path of the denoiser within."""
        return self.denoiser.path

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        condition = self.denoiser.condition
        conditional, null = self.denoiser.under([condition, self.against or condition.null()], x, t)
        return extrapolate(null, conditional, self.scale, self.channels)


@dataclasses.dataclass(frozen=True)
class ClassifierGuided:
    """eps~ = eps - sigma w grad log p(y | x_t), and the x0 that goes with it (Dhariwal & Nichol 2021, algorithm 2).

    gradient: (x (B, C, ...), t) -> w grad_x log p(y | x_t), of a classifier trained on noisy images, scaled by w.
    """

    denoise: Denoise
    gradient: Callable[[Tensor, Tensor], Tensor]

    @property
    def path(self) -> Path:
        """The path of the denoiser within."""
        return self.denoise.path

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        said = self.denoise(x, t)
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        eps = said.eps - over(sigma, x) * self.gradient(x, t)
        x0 = over(1 / alpha, x) * x - over(sigma / alpha, x) * eps
        return Denoised(x0, eps, said.variance_mix)


def shift_mean(mean: Tensor, variance: Tensor, gradient: Tensor) -> Tensor:
    """mean + Sigma w grad log p(y | x_t): a classifier guides an ancestral step (Dhariwal & Nichol 2021, alg. 1)."""
    return mean + variance * gradient


@dataclasses.dataclass(frozen=True)
class Interval:
    """Guidance only at times low <= t <= high, the plain model elsewhere (Kynkäänniemi et al. 2024).

    Called with one time t () for all samples. Raises UserError unless 0 <= low <= high <= 1.
    """

    guided: Denoise
    plain: Denoise
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= 1:
            raise UserError(f"guidance interval {self.low} to {self.high}: expected 0 <= low <= high <= 1 (1 is noise)")

    @property
    def path(self) -> Path:
        """The path of the denoisers within."""
        return self.guided.path

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        return self.guided(x, t) if self.low <= float(t) <= self.high else self.plain(x, t)
