"""Floor 3: lower-variance targets: the posterior mean E[x0 | x_t] over known images, in place of the single x0.

The posterior over a data set is a softmax of log N(x_t; alpha x_i, sigma^2 I). Any row's target follows from the mean,
since every row is linear in x0 at given x_t. The same mean over the whole data set is the ideal denoiser, which samples
from the data with no training.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
from torch import Tensor

from ditkit.base import rng
from ditkit.base.errors import UserError
from ditkit.condition import NULL_LABEL, Condition
from ditkit.objectives.loss import Draws, Loss, mean_flat
from ditkit.objectives.matching import squared_error
from ditkit.objectives.neighbours import CHUNK, Index, References, check_k
from ditkit.objectives.weights import Weight
from ditkit.process.denoiser import Denoised, Denoiser
from ditkit.process.path import Path, over

TINY = 1e-12
"""Stands for an alpha or sigma of 0 where one is divided by."""


def log_likelihood(path: Path, x_t: Tensor, t: Tensor, references: Tensor) -> Tensor:
    """log N(x_t; alpha x_i, sigma^2 I) up to a constant, (B, n).

    x_t: (B, ...). t: () or (B,). references: (n, ...), or (B, n, ...) where each row has its own.
    """
    alpha = path.alpha(t).clamp(min=TINY)
    query, images = (over(1 / alpha, x_t) * x_t).flatten(1), _flat(references, x_t)  # (B, D), (n, D) or (B, n, D)
    # differences, not |a|^2 - 2 a.b + |b|^2: at a small sigma rounding of the norms would decide
    exact = functools.partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")
    distance = exact(query, images) if images.dim() == 2 else exact(query[:, None], images)[:, 0]  # (B, n)
    return -((over(alpha / path.sigma(t).clamp(min=TINY), distance) * distance) ** 2) / 2


def _flat(references: Tensor, x_t: Tensor) -> Tensor:
    return references.flatten(references.dim() - x_t.dim() + 1)


def posterior_mean(path: Path, x_t: Tensor, t: Tensor, references: Tensor, log_weight: Tensor | None = None) -> Tensor:
    """Sum_i w_i x_i, w = softmax(log_weight_i - |x_t - alpha x_i|^2 / (2 sigma^2)), (B, ...) (Xu et al. 2023, eq. 5).

    Arguments: see log_likelihood. log_weight: (B, n), the log prior of the references; None: all alike.
    """
    log_w = log_likelihood(path, x_t, t, references)
    w = (log_w if log_weight is None else log_w + log_weight).softmax(1)
    images = _flat(references, x_t)
    mean = w @ images if images.dim() == 2 else torch.einsum("bn,bnd->bd", w, images)
    return mean.reshape(x_t.shape)


def noise_of(path: Path, x_t: Tensor, t: Tensor, x0: Tensor) -> Tensor:
    """eps = (x_t - alpha x0) / sigma."""
    return over(1 / path.sigma(t).clamp(min=TINY), x_t) * (x_t - over(path.alpha(t), x0) * x0)


def stf(denoiser: Denoiser, x0: Tensor, draws: Draws, *, weight: str | Weight = "none") -> Loss:
    """Stable target field (Xu et al. 2023): ``simple`` against the posterior mean over the batch. x0: (B, C, ...).

    Under a class the references are the batch's images of that class. weight: see ``simple``.
    """
    x_t = denoiser.path.mix(x0, draws.eps, draws.t)
    label, prior = denoiser.condition.label, None
    if label is not None:
        # a dropped label stands for any class; which class its own image has is no longer known
        alike = (label[:, None] == label) | (label == NULL_LABEL)[:, None]
        prior = torch.zeros_like(alike, dtype=x0.dtype).masked_fill(~alike, -math.inf)
    mean = posterior_mean(denoiser.path, x_t, draws.t, x0, prior)
    return towards(denoiser, x_t, draws.t, mean, weight)


def towards(denoiser: Denoiser, x_t: Tensor, t: Tensor, x0: Tensor, weight: str | Weight = "none") -> Loss:
    """The weighted squared error of the row at x_t to the row of (x0, the noise that goes with it)."""
    eps = noise_of(denoiser.path, x_t, t, x0)
    return Loss({"mse": mean_flat(squared_error(denoiser, x_t, t, x0, eps, weight))})


def neighbours_mean(path: Path, x_t: Tensor, t: Tensor, index: Index, k: int, uniform: Tensor | None = None) -> Tensor:
    """E[x0 | x_t] over an index by importance sampling around the nearest neighbours (Niedoba et al. 2024), (B, ...).

    The k images nearest to x_t / alpha count in full; each of n uniform draws from the M - k others, one from each n-th
    part of them, stands for (M - k) / n. Without draws the others are left out, which biases the mean at high noise.
    uniform: (B, n) numbers in [0, 1), which make the draws. k = M is the exact mean.
    """
    size = len(index.data)
    check_k(k, size)
    query = over(1 / path.alpha(t).clamp(min=TINY), x_t) * x_t
    chosen = index.nearest(query, k).to(index.data.device)  # (B, k)
    prior = torch.zeros(chosen.shape)
    if uniform is not None and k < size and uniform.shape[1] > 0:
        others = _others(chosen, uniform.to(chosen.device), size)
        prior = torch.cat([prior, torch.full(others.shape, math.log((size - k) / others.shape[1]))], 1)
        chosen = torch.cat([chosen, others], 1)
    prior = prior.to(x_t)
    rows = max(1, CHUNK // (chosen.shape[1] * x_t[0].numel()))
    means = [
        posterior_mean(path, x_t[r], t[r] if t.dim() else t, index.data[chosen[r]].to(x_t), prior[r])
        for r in torch.arange(len(x_t)).split(rows)
    ]
    return torch.cat(means)


def _others(chosen: Tensor, uniform: Tensor, size: int) -> Tensor:
    """Stratified draws from 0..size-1 without those chosen in each row, (B, n). chosen: (B, k); uniform: (B, n)."""
    free, n = size - chosen.shape[1], uniform.shape[1]
    stratified = (torch.arange(n, device=uniform.device) + uniform) / n
    rank = (stratified * free).long().clamp(max=free - 1)
    # the j-th smallest of the chosen has (its number - j) free numbers below it: skip those that rank has passed
    below = chosen.sort(1).values - torch.arange(chosen.shape[1], device=chosen.device)
    return rank + torch.searchsorted(below, rank, right=True)


def knn(
    denoiser: Denoiser,
    x0: Tensor,
    draws: Draws,
    *,
    references: References,
    k: int = 64,
    n: int = 64,
    weight: str | Weight = "none",
) -> Loss:
    """``simple`` against ``neighbours_mean`` (Niedoba et al. 2024), within the class of each sample; x0: (B, C, ...).

    references: the training images, as the network sees them. k, n: see neighbours_mean. weight: see ``simple``. The
    noise draws key its own draws. UserError where k is more than there are images, or n below 0.
    """
    references.check(k)
    _check_n(n)
    x_t = denoiser.path.mix(x0, draws.eps, draws.t)
    uniform = torch.stack([_uniform_of(row, n) for row in draws.eps.flatten(1)[:, :4].float().cpu()])
    mean = _mean_in_class(denoiser.path, x_t, draws.t, references, k, uniform, denoiser.condition)
    return towards(denoiser, x_t, draws.t, mean, weight)


def _mean_in_class(
    path: Path, x_t: Tensor, t: Tensor, references: References, k: int, uniform: Tensor, condition: Condition
) -> Tensor:
    """``neighbours_mean`` of each sample over the images of its class; over all where it has none."""
    label = condition.label
    if label is None:
        return neighbours_mean(path, x_t, t, references.whole, k, uniform)
    mean = torch.empty_like(x_t)
    for c in label.unique().tolist():
        here = (label == c).nonzero()[:, 0]
        times, drawn = t[here.to(t.device)] if t.dim() else t, uniform[here.to(uniform.device)]
        mean[here] = neighbours_mean(path, x_t[here], times, references.of(c), k, drawn)
    return mean


def _check_n(n: int) -> None:
    if n < 0:
        raise UserError(f"n {n}: expected at least 0, how many images are drawn besides the k nearest; 0 draws none")


def _uniform_of(noise: Tensor, n: int) -> Tensor:
    # the bits of a sample's first noise numbers are as good a key as (seed, step, sample), which made them
    draw = rng.generator(0, "references", *noise.view(torch.int32).tolist())
    return torch.rand(n, generator=draw, dtype=torch.float64)


@dataclasses.dataclass(frozen=True)
class KNNDenoiser:
    """A denoiser without a network: ``neighbours_mean`` over a data set. Samples from the data with no training.

    references: the data set; under a class, its images of that class. k, n: see neighbours_mean; k = M is the ideal
    denoiser of the data set, which any solver leads to its images. seed: of the n uniform draws, which are the same for
    every sample and every call at the same t.
    """

    path: Path
    references: References
    k: int = 64
    n: int = 0
    seed: int = 0
    condition: Condition = dataclasses.field(default_factory=Condition)

    def __post_init__(self) -> None:
        self.references.check(self.k)
        _check_n(self.n)

    def given(self, condition: Condition) -> KNNDenoiser:
        """The same denoiser under another condition."""
        return dataclasses.replace(self, condition=condition)

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        draw = rng.generator(self.seed, "references", *t.double().cpu().reshape(-1).view(torch.int64).tolist())
        uniform = torch.rand(1, self.n, generator=draw, dtype=torch.float64).expand(len(x), -1)
        x0 = _mean_in_class(self.path, x, t, self.references, self.k, uniform, self.condition)
        return Denoised(x0, noise_of(self.path, x, t, x0))
