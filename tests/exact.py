"""What the tests of the mathematics share: paths and rows by discovery, and data whose denoiser is known exactly."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ditkit.base import rng
from ditkit.base.registry import members
from ditkit.process.chain import Chain
from ditkit.process.continuous import FunctionPath
from ditkit.process.denoiser import Denoise, Denoised
from ditkit.process.path import DiscretePath, Path, over
from ditkit.process.prediction import Prediction
from ditkit.solvers.state import State


class Straight(Path):
    """alpha = 1 - t, sigma = t: a continuous path that ends in pure noise; nothing may ask which path it has."""

    name = "straight"

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def d_alpha(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)


def _buildable(kind: type) -> Callable[[Any], bool]:
    def accept(value: Any) -> bool:
        if not (inspect.isclass(value) and issubclass(value, kind)) or inspect.isabstract(value):
            return False
        return all(p.default is not p.empty for p in inspect.signature(value).parameters.values())

    return accept


PATHS: dict[str, Path] = {name: path() for name, path in members("ditkit.process", _buildable(Path)).items()}
PATHS["straight"] = Straight()
PATHS["functions"] = FunctionPath(lambda t: torch.cos(t) ** 2, lambda t: 0.9 * t + t**2 / 2)
DISCRETE = {name: path for name, path in PATHS.items() if isinstance(path, DiscretePath)}
PREDICTIONS: dict[str, Prediction] = {
    name: row() for name, row in members("ditkit.process.prediction", _buildable(Prediction)).items()
}


def normal(*shape: int, index: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers, the same at every call."""
    return torch.randn(shape, generator=rng.generator(0, "test", index), dtype=dtype)


@dataclasses.dataclass(frozen=True)
class GaussianData:
    """The exact denoiser of x0 ~ N(mean, std^2 I).

    With a chain its learned variance is the exact one of p(x_s | x_t): beta~ plus what is unknown of x0.
    """

    path: Path
    mean: float
    std: float
    chain: Chain | None = None

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        gain = alpha * self.std**2 / self.variance(t)
        x0 = self.mean + over(gain, x) * (x - over(alpha, x) * self.mean)
        eps = (x - over(alpha, x) * x0) / over(sigma, x)
        return Denoised(x0, eps, None if self.chain is None else over(self._mix(t), x).expand_as(x))

    def variance(self, t: Tensor) -> Tensor:
        """Var x_t."""
        return self.path.alpha(t) ** 2 * self.std**2 + self.path.sigma(t) ** 2

    def unknown(self, t: Tensor) -> Tensor:
        """Var(x0 | x_t)."""
        return self.std**2 * self.path.sigma(t) ** 2 / self.variance(t)

    def _mix(self, t: Tensor) -> Tensor:
        chain = self.chain
        assert chain is not None
        k = chain.step_at(t).reshape(t.shape)
        exact = chain.posterior_variance[k] + chain.posterior_x0[k] ** 2 * self.unknown(t)
        return (exact.log() - chain.log_small[k]) / (chain.beta[k].log() - chain.log_small[k])


def run(
    solver: Callable[..., Iterator[State]], denoise: Denoise, x: Tensor, ts: Tensor, noise: Any = None, **options: Any
) -> Tensor:
    """The last state's x."""
    *_, last = solver(denoise, x, ts, noise=noise or (lambda k: normal(*x.shape, index=k + 1)), **options)
    return last.x


def moments(
    solver: Callable[..., Iterator[State]], data: GaussianData, ts: Tensor, **options: Any
) -> tuple[float, float]:
    """Mean and variance of the samples, without sampling: on Gaussian data a solver is affine in its start and noises.

    Row 0 runs from the mean without noise, row 1 from one unit beside it, row 2 + k with one unit of noise at step k.
    """
    rows = len(ts) + 1
    x = torch.full((rows, 1), data.path.alpha(ts[0]).item() * data.mean, dtype=torch.float64)
    x[1] += 1

    def noise(k: int) -> Tensor:
        unit = torch.zeros(rows, 1, dtype=torch.float64)
        unit[2 + k] = 1
        return unit

    final = run(solver, data, x, ts, noise, **options)[:, 0]
    response = final[1:] - final[0]
    variance = data.variance(ts[0]) * response[0] ** 2 + (response[1:] ** 2).sum()
    return final[0].item(), variance.item()
