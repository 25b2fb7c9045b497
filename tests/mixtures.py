"""The analytic test-bed: mixtures of Gaussians, of which everything about x_t is known in closed form on every path.

x0 ~ sum_k w_k N(m_k, S_k) makes x_t ~ sum_k w_k N(alpha m_k, C_k) with C_k = alpha^2 S_k + sigma^2 I. All in float64.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import torch
from torch import Tensor

from ditkit.base import rng
from ditkit.process.denoiser import Denoise, Denoised
from ditkit.process.path import Path, over
from ditkit.process.prediction import Prediction


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture of K Gaussians in D dimensions.

    weights: (K,), positive, sum 1. means: (K, D). covariances: (K, D, D), positive definite. All float64.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @functools.cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """Variances (K, D) along the axes (K, D, D; columns) of the components."""
        return torch.linalg.eigh(self.covariances)

    @property
    def mean(self) -> Tensor:
        """E[x0], (D,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Tensor:
        """Cov[x0], (D, D)."""
        apart = self.means - self.mean
        return torch.einsum("k,kij->ij", self.weights, self.covariances + apart[:, :, None] * apart[:, None, :])

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Samples of x0, (count, D); the same for the same seed."""
        draw = rng.generator(seed, "mixture")
        k = torch.multinomial(self.weights, count, replacement=True, generator=draw)
        z = torch.randn(count, self.means.shape[1], generator=draw, dtype=torch.float64)
        variances, axes = self.spectrum
        return self.means[k] + torch.einsum("bde,be->bd", axes[k], variances[k].sqrt() * z)

    def component(self, k: int) -> Mixture:
        """The k-th component alone: what the data are under condition k."""
        return Mixture(torch.ones_like(self.weights[:1]), self.means[k : k + 1], self.covariances[k : k + 1])

    def on(self, path: Path) -> MixtureDenoiser:
        """The exact denoiser on a path."""
        return MixtureDenoiser(self, path)


@dataclasses.dataclass(frozen=True, eq=False)
class MixtureDenoiser:
    """A Denoise: x0 = E[x0 | x_t], eps = E[eps | x_t]; and the densities of x_t.

    x: (B, ...) of D numbers a sample, t: () or (B,) float64, any t of [0, 1], the ends too. Answers have the shape and
    the dtype of x; they are computed in float64.
    """

    mixture: Mixture
    path: Path

    def _parts(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log joint densities log w_k N(x_t), (B, K); C_k^-1 (x - alpha m_k), the same times S_k, (B, K, D)."""
        alpha, sigma = (c.double().reshape(-1, 1, 1) for c in (self.path.alpha(t), self.path.sigma(t)))
        variances, axes = self.mixture.spectrum
        c = alpha**2 * variances + sigma**2  # (B or 1, K, D)
        apart = x.double().reshape(len(x), 1, -1) - alpha * self.mixture.means
        z = torch.einsum("bkd,kde->bke", apart, axes)
        log_normal = -0.5 * (z**2 / c + c.log() + math.log(2 * math.pi)).sum(2)
        whitened, kept = (torch.einsum("bke,kde->bkd", z * gain, axes) for gain in (1 / c, variances / c))
        return self.mixture.weights.log() + log_normal, whitened, kept

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """log p_t(x_t) in nats, (B,) float64."""
        return self._parts(x, t)[0].logsumexp(1)

    def component_log_probability(self, x: Tensor, t: Tensor) -> Tensor:
        """log p(k | x_t), (B, K) float64: the exact noisy classifier."""
        return self._parts(x, t)[0].log_softmax(1)

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        log_joint, whitened, kept = self._parts(x, t)
        r = log_joint.softmax(1)
        alpha, sigma = (c.double().reshape(-1, 1) for c in (self.path.alpha(t), self.path.sigma(t)))
        x0 = torch.einsum("bk,bkd->bd", r, self.mixture.means + alpha[:, :, None] * kept)
        eps = sigma * torch.einsum("bk,bkd->bd", r, whitened)
        return Denoised(x0.reshape(x.shape).to(x.dtype), eps.reshape(x.shape).to(x.dtype))

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """grad log p_t(x_t); finite at sigma = 0 too."""
        log_joint, whitened, _ = self._parts(x, t)
        return -torch.einsum("bk,bkd->bd", log_joint.softmax(1), whitened).reshape(x.shape).to(x.dtype)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """E[dx_t/dt | x_t] = alpha' x0 + sigma' eps: the drift of the probability-flow ODE."""
        said = self(x, t)
        return over(self.path.d_alpha(t), x) * said.x0 + over(self.path.d_sigma(t), x) * said.eps

    def start(self, count: int, t: Tensor, seed: int = 0) -> Tensor:
        """Exact samples of x_t, (count, D) float64."""
        eps = torch.randn(
            count, *self.mixture.means.shape[1:], generator=rng.generator(seed, "noise"), dtype=torch.float64
        )
        return self.path.mix(self.mixture.sample(count, seed), eps, t)


@dataclasses.dataclass(frozen=True)
class ReadAs:
    """A Denoise whose answers go through a row, as those of a network that was trained to predict it."""

    denoise: Denoise
    row: Prediction

    @property
    def path(self) -> Path:
        """The path of the denoiser within."""
        return self.denoise.path

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        said = self.denoise(x, t)
        p = self.row.target(self.path, said.x0, said.eps, t)
        return Denoised(*self.row.solve(self.path, p, x, t), said.variance_mix)


def mixture(dimension: int, components: int = 3, *, seed: int = 0, radius: float = 1.0, std: float = 0.3) -> Mixture:
    """A mixture of unequal weights and full covariances: means at about ``radius``, deviations of std / 2 to std."""
    draw = rng.generator(seed, "mixture of", dimension, components)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=draw, dtype=torch.float64)

    means = torch.randn(components, dimension, generator=draw, dtype=torch.float64)
    axes = torch.linalg.qr(torch.randn(components, dimension, dimension, generator=draw, dtype=torch.float64))[0]
    variances = (std * (1 + uniform(components, dimension)) / 2) ** 2
    weights = 0.5 + uniform(components)
    return Mixture(
        weights / weights.sum(),
        radius * means / means.norm(dim=1, keepdim=True),
        axes @ (variances[:, :, None] * axes.mT),
    )
