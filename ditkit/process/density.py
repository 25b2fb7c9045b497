"""Floor 0: the densities p(t) that training times are drawn from.

A density turns uniform numbers into times, so that keyed draws stay keyed: t = quantile(u). On a discrete path the
times are those of the chain. Published systems train on their density as it is (``loss_weight`` is 1); where the
expectation over uniform times is wanted, as with LossHistory, ``weight`` undoes it.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.process.grids import time_shift
from ditkit.process.path import Path

BISECTIONS = 60
"""Halvings of [0, 1] that invert a quantile function: more than the 53 bits of a float64."""


class Density(ABC):
    """A density of training times on [0, 1]. Subclasses give its quantile function and itself, in float64."""

    name: str

    @abstractmethod
    def quantile(self, u: Tensor, path: Path) -> Tensor:
        """The time below which a share u of the times lies (or above which: the density is what counts)."""

    @abstractmethod
    def pdf(self, t: Tensor, path: Path) -> Tensor:
        """p(t), before a discrete path rounds the times up to those of its chain."""

    def __call__(self, u: Tensor, path: Path) -> Tensor:
        """Training times, float64 (B,), from u (B,) uniform in [0, 1)."""
        t = self.quantile(u.double(), path)
        if path.steps is None:
            return t
        return ((t * path.steps).floor() + 1).clamp(max=path.steps) / path.steps

    def weight(self, t: Tensor, path: Path) -> Tensor:
        """1 / p(t), (B,): makes the mean of a loss over the drawn times an unbiased one over uniform times."""
        return 1 / self.pdf(t, path)

    def loss_weight(self, t: Tensor, path: Path) -> Tensor:
        """What training multiplies the losses of times t (B,) by, (B,): 1, the density itself being what is wanted."""
        return torch.ones_like(t)

    def update(self, t: Tensor, losses: Tensor) -> None:  # noqa: B027
        """Learns from the unweighted losses (B,) of the times t (B,); a density without a history does not."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs; a density without a history needs nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027
        """Undoes ``state_dict``."""


@dataclasses.dataclass(frozen=True)
class Uniform(Density):
    """All times of [low, high] alike, or all of a discrete path's."""

    low: float = 0.0
    high: float = 1.0
    name = "uniform"

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise UserError(
                f"training times from {self.low} to {self.high}: expected 0 <= low < high <= 1 (1 is noise)"
            )

    def quantile(self, u: Tensor, path: Path) -> Tensor:
        return self.low + (self.high - self.low) * u

    def pdf(self, t: Tensor, path: Path) -> Tensor:
        return ((t >= self.low) & (t <= self.high)).double() / (self.high - self.low)


@dataclasses.dataclass(frozen=True)
class LogitNormal(Density):
    """log(t / (1 - t)) ~ N(mean, std^2): the middle times more often (Esser et al. 2024, SD3, section 3.1)."""

    mean: float = 0.0
    std: float = 1.0
    name = "logit_normal"

    def __post_init__(self) -> None:
        _check_positive("std", self.std)

    def quantile(self, u: Tensor, path: Path) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))

    def pdf(self, t: Tensor, path: Path) -> Tensor:
        return _normal_pdf(torch.logit(t), self.mean, self.std) / (t * (1 - t))


@dataclasses.dataclass(frozen=True)
class Mode(Density):
    """t = 1 - u - s (cos^2(pi u / 2) - 1 + u), -1 <= s <= 2 / (pi - 2): heavy tails, mode in the middle for s > 0.

    Esser et al. 2024, SD3, eq. 20; s = 1.29 there.
    """

    scale: float = 1.29
    name = "mode"

    def __post_init__(self) -> None:
        if not -1 <= self.scale <= 2 / (math.pi - 2):
            raise UserError(f"mode scale {self.scale}: expected -1 to {2 / (math.pi - 2):.4f}, where it is monotone")

    def quantile(self, u: Tensor, path: Path) -> Tensor:
        return 1 - u - self.scale * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)

    def pdf(self, t: Tensor, path: Path) -> Tensor:
        u = _inverse(lambda u: 1 - self.quantile(u, path), 1 - t)
        return 1 / (1 + self.scale * (1 - math.pi / 2 * torch.sin(math.pi * u)))


@dataclasses.dataclass(frozen=True)
class CosMap(Density):
    """t = 1 - 1 / (1 + tan(pi u / 2)): log-SNR as on the cosine schedule (Esser et al. 2024, SD3, eq. 21)."""

    name = "cosmap"

    def quantile(self, u: Tensor, path: Path) -> Tensor:
        # sin / (sin + cos): the same, finite at u = 1
        sin, cos = torch.sin(math.pi / 2 * u), torch.cos(math.pi / 2 * u)
        return sin / (sin + cos)

    def pdf(self, t: Tensor, path: Path) -> Tensor:
        return 2 / (math.pi * (1 - 2 * t + 2 * t**2))


@dataclasses.dataclass(frozen=True)
class LogNormalSigma(Density):
    """log(sigma / alpha) ~ N(mean, std^2), cut off at the path's ends (Karras et al. 2022, EDM, table 1)."""

    mean: float = -1.2
    std: float = 1.2
    name = "log_normal_sigma"

    def __post_init__(self) -> None:
        _check_positive("std", self.std)

    def _ends(self, path: Path) -> Tensor:
        """The normal's distribution function at t = 0 and t = 1."""
        log_sigma = -path.log_snr(torch.tensor([0.0, 1.0], dtype=torch.float64))
        return torch.special.ndtr((log_sigma - self.mean) / self.std)

    def quantile(self, u: Tensor, path: Path) -> Tensor:
        low, high = self._ends(path).to(u.device)
        log_sigma = self.mean + self.std * torch.special.ndtri(low + (high - low) * u)
        return path.time_at(-log_sigma)

    def pdf(self, t: Tensor, path: Path) -> Tensor:
        low, high = self._ends(path).to(t.device)
        slope = path.d_sigma(t) / path.sigma(t) - path.drift(t)
        return _normal_pdf(-path.log_snr(t), self.mean, self.std) * slope / (high - low)


@dataclasses.dataclass(frozen=True)
class Shifted(Density):
    """Another density's times moved to t' = s t / (1 + (s - 1) t), for a resolution with s^2 times the pixels.

    Esser et al. 2024, SD3, eq. 23; s > 1 trains more on noise.
    """

    shift: float = 3.0
    inner: Density = dataclasses.field(default_factory=Uniform)
    name = "shifted"

    def __post_init__(self) -> None:
        _check_positive("shift", self.shift)

    def quantile(self, u: Tensor, path: Path) -> Tensor:
        return time_shift(self.inner.quantile(u, path), self.shift)

    def pdf(self, t: Tensor, path: Path) -> Tensor:
        scale = self.shift - (self.shift - 1) * t
        return self.inner.pdf(t / scale, path) * self.shift / scale**2


class LossHistory(Density):
    """Importance by loss history: p ~ sqrt(E[L_t^2]) over each bin's latest losses (Nichol & Dhariwal 2021, eq. 18).

    Uniform until every bin has ``memory`` losses. Losses are weighed by 1 / p, so that what is learned stays the same.
    bins: equal parts of [0, 1]; for a discrete path its number of steps. uniform: the share of uniform draws kept.
    """

    name = "loss_history"

    def __init__(self, *, bins: int = 1000, memory: int = 10, uniform: float = 0.001) -> None:
        if bins < 1 or memory < 1 or not 0 < uniform <= 1:
            raise UserError(
                f"loss history bins {bins}, memory {memory}, uniform {uniform}: expected at least 1, 1 and 0 to 1"
            )
        self.uniform = uniform
        self.losses = torch.zeros(bins, memory, dtype=torch.float64)
        self.counts = torch.zeros(bins, dtype=torch.int64)

    @property
    def shares(self) -> Tensor:
        """The probability of each bin, (bins,) float64."""
        bins, memory = self.losses.shape
        flat = torch.full((bins,), 1 / bins, dtype=torch.float64)
        size = self.losses.square().mean(1).sqrt()
        if bool((self.counts < memory).any()) or not float(size.sum()) > 0:
            return flat
        return (1 - self.uniform) * size / size.sum() + self.uniform * flat

    def quantile(self, u: Tensor, path: Path) -> Tensor:
        above = self.shares.cumsum(0)
        above = above / above[-1]
        k = torch.searchsorted(above, u.cpu(), right=True).clamp(max=len(above) - 1)
        below = torch.cat([above.new_zeros(1), above])[k]
        return ((k + (u.cpu() - below) / (above[k] - below)) / len(above)).to(u.device)

    def loss_weight(self, t: Tensor, path: Path) -> Tensor:
        """1 / p(t): the loss is that of uniform times, with less variance."""
        return self.weight(t, path)

    def pdf(self, t: Tensor, path: Path) -> Tensor:
        return (self.shares[self._bins(t)] * len(self.counts)).to(t.device)

    def _bins(self, t: Tensor) -> Tensor:
        # A chain's time is its bin's right end, as far as (n + 1) / T * T is n + 1 in floating point.
        return ((t.double().cpu() * len(self.counts) - 1e-9).ceil().long() - 1).clamp(0, len(self.counts) - 1)

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Takes the unweighted losses (B,) of the times t (B,); where there are many devices, of all, in one order."""
        memory = self.losses.shape[1]
        for k, loss in zip(self._bins(t).tolist(), losses.detach().double().cpu().tolist(), strict=True):
            # a ring: which loss is the oldest is all that order is needed for
            self.losses[k, self.counts[k] % memory] = loss
            self.counts[k] += 1

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {"losses": self.losses.clone(), "counts": self.counts.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Undoes ``state_dict``. UserError for a history of another shape."""
        if state["losses"].shape != self.losses.shape:
            raise UserError(
                f"loss history of shape {tuple(state['losses'].shape)}: expected {tuple(self.losses.shape)}; "
                "resume with the same bins and memory"
            )
        self.losses, self.counts = state["losses"].clone(), state["counts"].clone()


def _check_positive(what: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UserError(f"{what} {value}: expected a positive number")


def _normal_pdf(x: Tensor, mean: float, std: float) -> Tensor:
    return torch.exp(-(((x - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))


def _inverse(rising: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
    """The u in [0, 1] at which a rising function has the given values, by bisection."""
    low, high = torch.zeros_like(value), torch.ones_like(value)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = rising(middle) < value
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2
