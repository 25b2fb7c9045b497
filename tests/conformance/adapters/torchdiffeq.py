"""torchdiffeq's way with dopri5, on which answers of loose tolerance depend to more digits than they are right.

It chooses step lengths by the error of the whole batch, goes past the end and comes back along a quartic. The tableau,
the velocity and the stages are this project's.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ditkit.process.denoiser import Denoise, Denoised, Denoiser
from ditkit.process.path import Path
from ditkit.process.prediction import split_variance
from ditkit.solvers.dopri5 import DOPRI5, ERROR
from ditkit.solvers.flow import Flow, weighted

MIDDLE = (
    6025192743 / 30085553152 / 2,
    0.0,
    51252292925 / 65400821598 / 2,
    -2691868925 / 45128329728 / 2,
    187940372067 / 1594534317056 / 2,
    -1776094331 / 19743644256 / 2,
    11237099 / 235043384 / 2,
)
"""The weights of the slopes for the middle of a step (Shampine 1986)."""

ERROR_SHARE = 2 / 3
"""Its fourth-order companion is Shampine's, a third of the way to the fifth order's."""


@dataclasses.dataclass(frozen=True)
class AnyTime:
    """A denoiser that answers beyond the data end too, where there is no image: the reference asks it there."""

    denoiser: Denoiser

    @property
    def path(self) -> Path:
        return self.denoiser.path

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        d = self.denoiser
        p, mix = split_variance(d.output(x, t).prediction, x.shape[1])
        return Denoised(*d.prediction.solve(d.path, p, x, t), mix)


def dopri5_past_the_end(denoise: Denoise, x: Tensor, start: Tensor, end: Tensor, rtol: float, atol: float) -> Tensor:
    """x at time ``end`` < ``start``, both () float64."""
    flow, t = Flow(denoise, "time"), start
    h = first_step(flow, x, t, rtol, atol)
    while True:
        (points,) = flow.plan(t[None], (t - h)[None], [DOPRI5])
        slopes, x_new, _ = flow.stages(x, points, DOPRI5, denoise(x, t))
        error = ERROR_SHARE * rms(h * weighted(ERROR, slopes) / (atol + rtol * torch.maximum(x.abs(), x_new.abs())))
        growth = min(10.0, max(0.9 * max(error, 1e-10) ** -0.2, 1.0 if error < 1 else 0.2))
        if error <= 1 and t - h <= end:
            middle = x - h * weighted(MIDDLE, slopes)
            return quartic(x, middle, x_new, -h * slopes[0], -h * slopes[-1], float((t - end) / h))
        if error <= 1:
            x, t = x_new, t - h
        h = h * growth


def first_step(flow: Flow, x: Tensor, t: Tensor, rtol: float, atol: float) -> float:
    """Hairer, Norsett & Wanner 1993, II.4, algorithm for the starting step size."""

    def slope(x: Tensor, t: Tensor) -> Tensor:
        return -flow.slope(flow.denoise(x, t), flow.points(t[None])[0])

    allowed, f = atol + rtol * x.abs(), slope(x, t)
    size, speed = rms(x / allowed), rms(f / allowed)
    trial = 0.01 * size / speed
    bend = rms((slope(x + trial * f, t - trial) - f) / allowed) / trial
    return min(100 * trial, (0.01 / max(speed, bend)) ** 0.2)


def rms(x: Tensor) -> float:
    """The root mean square of all numbers."""
    return float(x.square().mean().sqrt())


def quartic(left: Tensor, middle: Tensor, right: Tensor, d_left: Tensor, d_right: Tensor, share: float) -> Tensor:
    """The quartic through three values and two slopes of a step of length 1, at ``share`` of it."""
    straight = right - left
    off = middle - (left + right) / 2 + (d_right - d_left) / 8  # how far the middle is from the cubic's
    bow = share * (1 - share)
    cubic = left + share * straight + bow * ((1 - share) * (d_left - straight) - share * (d_right - straight))
    return cubic + 16 * bow**2 * off
