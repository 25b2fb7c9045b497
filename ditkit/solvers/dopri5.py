"""Floor 1: the probability-flow ODE by an adaptive embedded Runge-Kutta pair (Dormand & Prince 1980)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ditkit.base.errors import NotFiniteError, UserError
from ditkit.process.denoiser import Denoise
from ditkit.process.grids import check
from ditkit.solvers.flow import Flow, Tableau, weighted
from ditkit.solvers.state import State

DOPRI5 = Tableau(
    (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
)
FOURTH_ORDER = (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40)
ERROR = tuple(fifth - fourth for fifth, fourth in zip(DOPRI5.b, FOURTH_ORDER, strict=True))
SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0


class _Adaptive:
    """The integration as it stands: x at a point, what the denoiser said there, the length of the next step (in u)."""

    def __init__(self, flow: Flow, x: Tensor, ts: Tensor, rtol: float, atol: float) -> None:
        self.flow, self.rtol, self.atol = flow, rtol, atol
        self.x, self.said = x, flow.denoise(x, ts[0])
        self.at, end = flow.points(ts[[0, -1]])
        self.length = self._first_length(self.at.u - end.u)

    def _first_length(self, whole: float) -> float:
        """A step along which x changes by about 1%; a short one where that says nothing (Hairer et al. 1993, II.4)."""
        size = float(self._norm(self.x, self.x).max())
        speed = float(self._norm(self.at.scale * self.flow.slope(self.said, self.at), self.x).max())
        return min(whole, 0.01 * size / speed) if min(size, speed) > 1e-5 else 1e-6 * whole

    def _norm(self, off: Tensor, *xs: Tensor) -> Tensor:
        """The root mean square of off / allowed over the numbers of each sample, (B,)."""
        largest = torch.stack([x.abs() for x in xs]).amax(0)
        return (off / (self.atol + self.rtol * largest)).flatten(1).square().mean(1).sqrt()

    def reach(self, t: Tensor) -> None:
        """Goes on to time t, () float64, in as many steps as it takes."""
        (end,) = self.flow.points(t[None])
        while self.at.u > end.u:
            left = self.at.u - end.u
            cut = self.length >= left * (1 - 1e-9)
            length = left if cut else self.length
            error = self._try(-length, t if cut else None)
            # the error of one step of the pair's lower half is of order 5
            next_length = length * min(GROW, max(SHRINK, SAFETY * max(error, 1e-10) ** -0.2))
            # a step that was cut off to end at t says nothing against a longer one
            self.length = max(self.length, next_length) if cut and error <= 1 else next_length
            if self.at.u - self.length == self.at.u:
                raise UserError(
                    f"rtol {self.rtol:g}, atol {self.atol:g}: dopri5 cannot go on from t = {float(self.at.t):.6g}, "
                    "however short its steps: allow more error, or take a solver with a fixed grid"
                )

    def _try(self, du: float, t_end: Tensor | None) -> float:
        """Takes one step where its error, relative to the allowed one, is at most 1; that error."""
        flow = self.flow
        if t_end is None:
            t_end = flow.variable.time(flow.path, torch.tensor(self.at.u + du, dtype=torch.float64))
        (points,) = flow.plan(self.at.t[None], t_end[None], [DOPRI5])
        slopes, x, said = flow.stages(self.x, points, DOPRI5, self.said)
        error = self._norm((points[-1].scale * du) * weighted(ERROR, slopes), self.x, x)
        finite = error.isfinite()
        if not finite.all():
            bad = int((~finite).nonzero()[0])
            raise NotFiniteError(bad, f"is not finite at t = {float(t_end):.6g} in dopri5: is the model trained?")
        largest = float(error.max())
        if largest <= 1:
            self.x, self.at, self.said = x, points[-1], said
        return largest


def check_tolerances(rtol: float, atol: float, dtype: torch.dtype) -> None:
    """Raises UserError for tolerances that are finer than numbers of this type."""
    finest = 4 * torch.finfo(dtype).eps
    if not (finest <= rtol < math.inf and 0 < atol < math.inf):
        raise UserError(f"rtol {rtol:g}, atol {atol:g}: expected rtol of {finest:.0e} ({dtype}) or more, atol above 0")


def dopri5(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: Callable[[int], Tensor] | None = None,
    rtol: float = 1e-4,
    atol: float = 1e-4,
    variable: str = "angle",
    t_min: float | None = None,
) -> Iterator[State]:
    """Order 5, in steps as long as the tolerances allow; it stops at every time of the grid, two times are enough.

    x: (B, C, ...) at ts[0]. rtol, atol: allowed error of a step, root mean square over the numbers of a sample, of the
    worst sample: step lengths, and with them x within the tolerance, depend on what else is in the batch.
    t_min: where to stop before a clean t = 0 and go on to x0 in one step (None: see Path.ends).
    Wrap the denoiser in Counted to know how often it is asked. UserError: as in euler; tolerances finer than the
    numbers of x; t_min beyond the grid's last noisy time; a variable that is infinite at ts[0]; a state that is not
    finite.
    """
    check_tolerances(rtol, atol, x.dtype)
    ts, flow = check(ts), Flow(denoise, variable)
    last = float(ts[-2])
    if t_min is not None and not 0 <= t_min < last:
        raise UserError(
            f"t_min {t_min:g}: expected at least 0 and below {last:g}, the grid's last noisy time; leave it out for "
            "the path's own"
        )
    if not flow.finite(ts[:1])[0]:
        raise UserError(f"variable {variable!r} is infinite at t = {float(ts[0]):g}: use angle or time")
    low = torch.tensor(flow.path.ends()[0] if t_min is None else t_min, dtype=torch.float64)
    now = _Adaptive(flow, x, ts, rtol, atol)
    for t in ts[1:]:
        said = now.said
        if flow.path.sigma(t) > 0:
            now.reach(t)
            yield State(now.x, t, said)
        else:
            now.reach(low)
            yield State(flow.path.mix(now.said.x0, now.said.eps, t), t, said)
