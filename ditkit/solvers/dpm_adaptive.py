"""Floor 1: DPM-Solver with steps of its own choice: DPM-Solver-fast on even log-SNR, and an adaptive step size.

Both need only the ends of the grid. Where log-SNR is infinite, in pure noise and at a clean t = 0, the grid's own first
and last steps are taken, of order 1; t_min: where the last one starts (None: at the grid's last noisy time).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from ditkit.base.errors import NotFiniteError, UserError, unknown
from ditkit.process.denoiser import Denoise
from ditkit.process.grids import check
from ditkit.process.path import is_noise
from ditkit.solvers.dpm_ancestral import Renewal, divided
from ditkit.solvers.dpm_singlestep import MIDPOINT, orders_of, single
from ditkit.solvers.exponential import (
    DATA,
    NOISE,
    Answer,
    Form,
    Level,
    NoiseSource,
    exact,
    level_at,
    levels,
    midpoint,
)
from ditkit.solvers.state import State

FORMS: dict[str, Form] = {"eps": NOISE, "x0": DATA}
NODES = {1: (), 2: (0.5,), 3: (1 / 3, 2 / 3)}
"""Where the stages of a step of each order are, in log-SNR (Lu et al. 2022a, alg. 1 and 2)."""


def dpm_fast(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
    t_min: float | None = None,
) -> Iterator[State]:
    """DPM-Solver-fast: as many evaluations as the grid has steps, in steps of order 3 that are even in log-SNR.

    x: (B, C, ...) at ts[0] (Lu et al. 2022a, section 3.4). The last steps are of orders 2, 1, or of what is left over;
    one or two steps in all are of that order. Order 3 shows where the last one is of order 2, else order 2. eta,
    s_noise, noise(k): fresh noise after the k-th of these steps, see euler_ancestral. UserError: the grid does not fall
    inside [0, 1]; eta, s_noise or t_min out of range.
    """
    interval, renewal = Interval(denoise, ts, t_min), Renewal(eta, s_noise)
    for state in interval.step(x, interval.before):
        x = state.x
        yield state
    orders, end = orders_of(interval.evaluations, 3, final_lower=True), interval.end
    outer = divided(denoise.path, interval.start, end, tuple(k / len(orders) for k in range(1, len(orders))))
    for k, (order, (s, t)) in enumerate(zip(orders, itertools.pairwise(outer), strict=bool(orders))):
        below = renewal.below(s, t, end.sigma / end.alpha)
        inside = divided(denoise.path, s, below, NODES[order])
        *_, state = stages = list(single(NOISE, MIDPOINT, denoise, x, inside, noise))
        x = renewal.renewed(state.x, below, t, noise, k)
        yield State(x, t.t, stages[0].said)
    yield from interval.step(x, interval.after)


def dpm_adaptive(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    order: int = 3,
    predict: str = "eps",
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    controller: str = "pid",
    eta: float = 0.0,
    s_noise: float = 1.0,
    t_min: float | None = None,
) -> Iterator[State]:
    """DPM-Solver-12 and -23: steps as long as the tolerances allow (Lu et al. 2022a, appendix C; k-diffusion).

    x: (B, C, ...) at ts[0]; one state for every step that was accepted, each step ``order`` evaluations, also rejected
    ones (wrap the denoiser in Counted to count). order: 2 or 3. predict: eps or x0, what is interpolated. rtol, atol:
    the error that a step may have, so that x depends, within them, on what else is in the batch. h_init: the first step
    in log-SNR. controller: pid (k-diffusion) or elementary (the paper). eta, s_noise: see euler_ancestral; noise(k):
    the draw of the k-th accepted step. UserError: see dpm_fast; options out of range; no step small enough.
    """
    if order not in (2, 3) or predict not in FORMS:
        raise UserError(f"order {order}, predict {predict!r}: expected order 2 or 3 and eps or x0")
    if not (rtol > 0 and atol > 0 and h_init > 0):
        raise UserError(f"rtol {rtol:g}, atol {atol:g}, h_init {h_init:g}: expected above 0, such as 0.05")
    if controller not in CONTROLLERS:
        raise unknown("controller", controller, CONTROLLERS)
    control = CONTROLLERS[controller](h_init, 1.5 if eta else order, Tolerance(rtol, atol))
    interval = Interval(denoise, ts, t_min)
    return adaptive(FORMS[predict], order, control, denoise, x, interval, noise, Renewal(eta, s_noise))


class Interval:
    """The part of a grid where log-SNR is finite, from start to end, and the steps of order 1 before and after it."""

    def __init__(self, denoise: Denoise, ts: Tensor, t_min: float | None) -> None:
        """UserError: not a grid; a t_min for a grid that ends in noise, or beyond its first noisy time."""
        ts, path = check(ts), denoise.path
        noise, clean = bool(is_noise(path, ts[0])), bool(path.sigma(ts[-1]) == 0)
        inside = ts[int(noise) : len(ts) - int(clean)]
        if t_min is not None:
            if not clean or not len(inside) or not 0 < t_min <= inside[0]:
                raise UserError(f"t_min {t_min:g}: expected above 0, below the grid's times, which must end at t = 0")
            inside = torch.cat([inside[:1], torch.tensor([t_min], dtype=torch.float64)])
        ends = inside[[0, -1]] if len(inside) else ts[[-1, -1]]
        self.denoise = denoise
        self.start, self.end = levels(path, ends)
        self.before = levels(path, torch.stack([ts[0], ends[0]])) if noise else []
        self.after = levels(path, torch.stack([ends[1], ts[-1]])) if clean and len(inside) else []
        self.evaluations = len(ts) - 1 - bool(self.before) - bool(self.after)

    def reached(self, s: Level) -> bool:
        """Whether s is the end, up to rounding."""
        return s.log_snr >= self.end.log_snr - SHORTEST

    def step(self, x: Tensor, at: Sequence[Level]) -> Iterator[State]:
        """The step before or after, if there is one."""
        if at:
            yield from single(DATA, MIDPOINT, self.denoise, x, at, None)


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How large an error may be, relative to x and absolute."""

    rtol: float
    atol: float

    def relative(self, off: Tensor, *xs: Tensor) -> Tensor:
        """off / allowed, elementwise."""
        largest = torch.stack([x.abs() for x in xs]).amax(0)
        return off / (self.rtol * largest).clamp(min=self.atol)


@dataclasses.dataclass
class Controller(ABC):
    """Chooses the next step h, in log-SNR, from the error of the last one."""

    h: float
    order: float
    tolerance: Tolerance

    @abstractmethod
    def error(self, off: Tensor, low: Tensor, before: Tensor) -> float:
        """One number for the difference of the two orders, 1 where it is just allowed."""

    @abstractmethod
    def accepts(self, error: float, h: float) -> bool:
        """Whether the step of length h was short enough; sets h for the next, or for another try."""


@dataclasses.dataclass
class PID(Controller):
    """Soderlind's controller (Soderlind 2003), integral by default, on the error of the whole batch (k-diffusion)."""

    coefficients: tuple[float, float, float] = (0.0, 1.0, 0.0)
    safety: float = 0.81
    past: tuple[float, ...] = ()

    def error(self, off: Tensor, low: Tensor, before: Tensor) -> float:
        return float(self.tolerance.relative(off, low, before).square().mean().sqrt())

    def accepts(self, error: float, h: float) -> bool:
        p, i, d = self.coefficients
        inverse = 1 / (error + 1e-8)
        first, second, third = (inverse, *(self.past or (inverse, inverse)))
        factor = first ** ((p + i + d) / self.order) * second ** (-(p + 2 * d) / self.order) * third ** (d / self.order)
        factor = 1 + math.atan(factor - 1)
        self.h *= factor
        accepted = factor >= self.safety
        self.past = (first, second) if accepted else (second, third)
        return accepted


@dataclasses.dataclass
class Elementary(Controller):
    """h <- theta h error^(-1/order), on the error of the worst sample (Lu et al. 2022a, appendix C)."""

    theta: float = 0.9

    def error(self, off: Tensor, low: Tensor, before: Tensor) -> float:
        return float(self.tolerance.relative(off, low, before).flatten(1).square().mean(1).sqrt().max())

    def accepts(self, error: float, h: float) -> bool:
        self.h = self.theta * h * max(error, 1e-12) ** (-1 / self.order)
        return error <= 1


CONTROLLERS: dict[str, Callable[[float, float, Tolerance], Controller]] = {"pid": PID, "elementary": Elementary}
SHORTEST = 1e-5
"""The remaining log-SNR that counts as none, and the shortest step."""


def adaptive(
    form: Form,
    order: int,
    control: Controller,
    denoise: Denoise,
    x: Tensor,
    interval: Interval,
    noise: NoiseSource | None,
    renewal: Renewal,
) -> Iterator[State]:
    """Steps of two orders at once, the higher one taken, their difference steering the controller."""
    for state in interval.step(x, interval.before):
        x = state.x
        yield state
    s, end, before, taken = interval.start, interval.end, x, 0
    while not interval.reached(s):
        h = min(control.h, end.log_snr - s.log_snr)
        t = end if h == end.log_snr - s.log_snr else level_at(denoise.path, s.log_snr + h)
        below = renewal.below(s, t, end.sigma / end.alpha)
        low, high = both_orders(form, order, denoise, x, divided(denoise.path, s, below, NODES[order]))
        finite = high.x.flatten(1).isfinite().all(1)
        if not bool(finite.all()):
            bad = int((~finite).nonzero()[0])
            raise NotFiniteError(bad, f"is not finite at t = {float(t.t):.6g} in dpm_adaptive: is the model trained?")
        error = control.error(low - high.x, low, before)
        if control.h < SHORTEST:
            raise UserError(f"dpm_adaptive: no step is short enough at t = {float(s.t):.6g}; allow more error (rtol)")
        if control.accepts(error, h):
            x, before, s = renewal.renewed(high.x, below, t, noise, taken), low, t
            taken += 1
            yield State(x, t.t, high.said)
    yield from interval.step(x, interval.after)


def both_orders(form: Form, order: int, denoise: Denoise, x: Tensor, inside: list[Level]) -> tuple[Tensor, State]:
    """x at the end of one step by the order below, from the same answers, and the state by this order."""
    stages = list(single(form, MIDPOINT, denoise, x, inside, None))
    start, others = Answer(inside[0], stages[0].said), [Answer(inside[1], stages[1].said)][: order - 2]
    low = form.step(x, start, inside[-1], others, midpoint if others else exact, _no_noise)
    return low, State(stages[-1].x, inside[-1].t, stages[0].said)


def _no_noise() -> Tensor:
    raise AssertionError("steps along the ODE draw nothing")
