"""Floor 1: guidance maps a denoiser to a denoiser.

x0, eps and every other row are linear in one another at given (x_t, t), so guiding (x0, eps) guides them all. The name
of a method is that of the setting of a recipe's sampling that asks for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.condition import Condition
from ditkit.process.denoiser import Denoise, Denoised, Denoiser
from ditkit.process.path import Path, over, require_same
from ditkit.process.prediction import SINGULAR


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
    against: what to lead away from, a negative condition; None: the learned null. rescale: phi of ``rescaled``.
    Raises UserError where rescale is outside [0, 1].
    """

    name: ClassVar[str] = "guidance"

    denoiser: Denoiser
    scale: float
    channels: int | None = None
    against: Condition | None = None
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise UserError(f"guidance rescale {self.rescale}: expected 0 (none) to 1 (the conditional's deviation)")

    @property
    def path(self) -> Path:
        """The path of the denoiser within."""
        return self.denoiser.path

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        condition = self.denoiser.condition
        conditional, null = self.denoiser.under([condition, self.against or condition.null()], x, t)
        guided = extrapolate(null, conditional, self.scale, self.channels)
        return rescaled(self.denoiser, guided, conditional, x, t, self.rescale) if self.rescale else guided


def rescaled(denoiser: Denoiser, guided: Denoised, conditional: Denoised, x: Tensor, t: Tensor, phi: float) -> Denoised:
    """The guided output brought by phi towards the conditional's standard deviation (Lin et al. 2024, eq. 15, 16).

    Each sample's deviation over all its numbers, of the network's own row, as published.
    """
    path, row = denoiser.path, denoiser.prediction
    p, reference = (row.target(path, said.x0, said.eps, t) for said in (guided, conditional))
    ratio = (reference.flatten(1).std(1) / p.flatten(1).std(1)).reshape(-1, *[1] * (p.dim() - 1))
    return Denoised(*row.solve(path, (phi * ratio + 1 - phi) * p, x, t), guided.variance_mix)


@dataclasses.dataclass(frozen=True)
class AutoGuided:
    """weak + s (strong - weak): a model led away from a worse version of itself (Karras et al. 2024, eq. 4).

    strong, weak: denoisers of one path, the weak one smaller or trained for less. scale: s; 1 is no guidance. Raises
    UserError where their paths differ.
    """

    name: ClassVar[str] = "guidance_weak"

    strong: Denoise
    weak: Denoise
    scale: float

    def __post_init__(self) -> None:
        require_same("autoguidance", self.strong.path, self.weak.path)

    @property
    def path(self) -> Path:
        """The path of both denoisers."""
        return self.strong.path

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        return extrapolate(self.weak(x, t), self.strong(x, t), self.scale)


@dataclasses.dataclass(frozen=True)
class ClassifierGuided:
    """eps~ = eps - sigma w grad log p(y | x_t), and the x0 that goes with it (Dhariwal & Nichol 2021, algorithm 2).

    gradient: (x (B, C, ...), t) -> w grad_x log p(y | x_t), of a classifier trained on noisy images, scaled by w.
    """

    name: ClassVar[str] = "guidance_classifier"

    denoise: Denoise
    gradient: Callable[[Tensor, Tensor], Tensor]

    @property
    def path(self) -> Path:
        """The path of the denoiser within."""
        return self.denoise.path

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        said = self.denoise(x, t)
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        # where alpha = 0, x_t is noise alone: no classifier can tell anything from it
        told = alpha > SINGULAR
        gain = torch.where(told, sigma**2 / alpha, 0.0)
        gradient = self.gradient(x, t)
        eps = said.eps - over(torch.where(told, sigma, 0.0), x) * gradient
        return Denoised(said.x0 + over(gain, x) * gradient, eps, said.variance_mix)


def classifier_gradient(
    classifier: Callable[[Tensor, Tensor], Tensor], label: Tensor, path: Path, scale: float = 1.0
) -> Callable[[Tensor, Tensor], Tensor]:
    """w grad_x log p(y | x_t) of a classifier trained on noisy images, for ClassifierGuided and shift_mean.

    classifier: (x (B, C, ...), network time (B,) float32) -> logits (B, K). label: y, (B,) int64. scale: w.
    Works inside torch.inference_mode too.
    """

    def gradient(x: Tensor, t: Tensor) -> Tensor:
        time = path.network_time(t.double()).expand(len(x)).to(x.device, torch.float32)
        with torch.inference_mode(False), torch.enable_grad():
            noisy = x.clone().requires_grad_()
            log_p = classifier(noisy, time.clone()).log_softmax(1)
            chosen = log_p.gather(1, label.clone().to(x.device)[:, None])
            return scale * torch.autograd.grad(chosen.sum(), noisy)[0]

    return gradient


def shift_mean(mean: Tensor, variance: Tensor, gradient: Tensor) -> Tensor:
    """mean + Sigma w grad log p(y | x_t): a classifier guides an ancestral step (Dhariwal & Nichol 2021, alg. 1)."""
    return mean + variance * gradient


@dataclasses.dataclass(frozen=True)
class Interval:
    """Guidance only at times low <= t <= high, the plain model elsewhere (Kynkäänniemi et al. 2024).

    Called with one time t () for all samples. Raises UserError unless 0 <= low <= high <= 1.
    """

    name: ClassVar[str] = "guidance_interval"

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
