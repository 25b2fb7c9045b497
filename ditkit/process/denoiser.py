"""Floor 0: the denoiser, where network, path, prediction, condition, autocast and time convention meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from ditkit.base.errors import NotFiniteError, UserError
from ditkit.condition import Condition, cat
from ditkit.process.path import Path, over
from ditkit.process.prediction import Prediction, split_variance


@dataclasses.dataclass(frozen=True)
class Denoised:
    """What a denoiser says about x_t, in float32.

    x0, eps: (B, C, ...), with x_t = alpha x0 + sigma eps.
    variance_mix: (B, C, ...) or None; where log beta~ (0) and log beta (1) are to be mixed (split_variance).
    """

    x0: Tensor
    eps: Tensor
    variance_mix: Tensor | None = None

    def __getitem__(self, rows: slice) -> Denoised:
        mix = None if self.variance_mix is None else self.variance_mix[rows]
        return Denoised(self.x0[rows], self.eps[rows], mix)


class Denoise(Protocol):
    """All that solvers and guidance know of a model: its path, and what it says about x (B, C, ...) at time t ()."""

    @property
    def path(self) -> Path:
        """The path that the model was trained on."""
        ...

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        """x: (B, C, ...) float32; t: () or (B,) float64 in [0, 1]."""
        ...


class Conditional(Protocol):
    """A model that becomes a denoiser under a condition."""

    @property
    def path(self) -> Path:
        """The path that the model was trained on."""
        ...

    def given(self, condition: Condition) -> Denoise:
        """The model under this condition."""
        ...


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A network read as a denoiser of its path.

    net: called as net(x, network_time, condition), returns a dataclass whose ``prediction`` is (B, C or 2C, ...).
    autocast: the dtype that the network's matrix products run in (None: as the weights are).
    """

    net: Callable[..., Any]
    path: Path
    prediction: Prediction
    condition: Condition = dataclasses.field(default_factory=Condition)
    autocast: torch.dtype | None = None

    def given(self, condition: Condition) -> Denoiser:
        """The same denoiser under another condition."""
        return dataclasses.replace(self, condition=condition)

    def output(self, x: Tensor, t: Tensor, keep: tuple[int, ...] = ()) -> Any:
        """The network's own output at x_t, with ``prediction`` in float32."""
        time = self.prediction.network_time(self.path, t.double()).expand(len(x)).to(x.device, torch.float32)
        x = self.prediction.network_input(self.path, x, t.double())
        with torch.autocast(x.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            output = self.net(x, time, self.condition, keep=keep) if keep else self.net(x, time, self.condition)
        return dataclasses.replace(output, prediction=output.prediction.float())

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        """See ``Denoise``. UserError: a time outside [0, 1]; a row that is singular there (Prediction.solve)."""
        _check_times(t)
        p, mix = split_variance(self.output(x, t).prediction, x.shape[1])
        return Denoised(*self.prediction.solve(self.path, p, x, t), mix)

    def under(self, conditions: list[Condition], x: Tensor, t: Tensor) -> list[Denoised]:
        """What the network says about the same x under several conditions, in one batched call."""
        n = len(conditions)
        times = t.repeat(n) if t.dim() else t
        joined = self.given(cat(conditions))(torch.cat([x] * n), times)
        return [joined[i * len(x) : (i + 1) * len(x)] for i in range(n)]


def _check_times(t: Tensor) -> None:
    # as in Prediction.solve: times on an accelerator would have to be waited for
    if t.device.type == "cpu" and not (t.min().item() >= 0 and t.max().item() <= 1):
        bad = t.reshape(-1)[~((t >= 0) & (t <= 1)).reshape(-1)][0]
        raise UserError(
            f"time {bad:g}: expected 0 (data) to 1 (noise); index n of a chain of T steps is the time (n + 1) / T"
        )


@dataclasses.dataclass(frozen=True)
class MapX0:
    """A denoiser whose x0 goes through a function (clipping, thresholding); eps follows from x_t.

    At sigma = 0, where no eps follows from x_t (which is x0), it is left as the denoiser says it.
    NotFiniteError, when called, for an x0 that is not finite before it.
    """

    denoise: Denoise
    function: Callable[[Tensor], Tensor]

    @property
    def path(self) -> Path:
        """The path of the denoiser within."""
        return self.denoise.path

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        said = self.denoise(x, t)
        finite = said.x0.flatten(1).isfinite().all(1)
        if not bool(finite.all()):  # clipped, what is infinite would pass for an image
            when = f"t = {float(t.max()):.4g}: try more steps or less guidance; is the model trained?"
            raise NotFiniteError(int((~finite).nonzero()[0]), f"is not finite at {when}")
        x0 = self.function(said.x0)
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        eps = over(1 / sigma, x) * (x - over(alpha, x0) * x0)
        clean = over(sigma, x) == 0
        return Denoised(x0, torch.where(clean, said.eps, eps), said.variance_mix)


def clipped(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> MapX0:
    """The denoiser with x0 kept inside the range of pixels (Ho et al. 2020's code; not for latents)."""
    return MapX0(denoise, lambda x0: x0.clamp(low, high))
