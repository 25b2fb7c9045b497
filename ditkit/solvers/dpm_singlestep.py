"""Floor 1: single-step DPM-Solver and DPM-Solver++: an order-p step asks the denoiser p times, at the grid's own times.

A step of order p spans p intervals of the grid, so that a grid of K steps is K evaluations, as with multi-step solvers;
the states inside a step are its stages, of lower order. Published codes put the stages evenly in log-SNR (the grid
log_snr) or evenly in the grid's own variable. Shared options: see ditkit.solvers.dpm_multistep.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from ditkit.base.errors import UserError, unknown
from ditkit.process.denoiser import Denoise
from ditkit.process.grids import check
from ditkit.process.path import is_noise
from ditkit.solvers.exponential import (
    FEW,
    Answer,
    Data,
    Form,
    Level,
    Noise,
    NoiseSource,
    Rule,
    draw,
    exact,
    levels,
    midpoint,
)
from ditkit.solvers.state import State

Stages = Mapping[tuple[int, int], tuple[tuple[int, ...], Rule]]
"""(order, stage) -> which earlier stages' answers the stage takes beside the first, and their rule; none: order 1."""

MIDPOINT: Stages = {(2, 2): ((1,), midpoint), (3, 2): ((1,), exact), (3, 3): ((2,), exact)}
"""As published (Lu et al. 2022a, alg. 1 and 2); of order 3 where the last stage is at 2/3 of the step in log-SNR."""
TAYLOR: Stages = {(2, 2): ((1,), exact), (3, 2): ((1,), exact), (3, 3): ((1, 2), exact)}
"""Through all answers, integrated exactly: the variant "taylor" of published code."""
STAGES = {"midpoint": MIDPOINT, "taylor": TAYLOR}


def dpm_solver(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    order: int = 3,
    stages: str = "midpoint",
    lower_order_below: int = FEW,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[State]:
    """DPM-Solver 1, 2, 3, eps interpolated (Lu et al. 2022a, alg. 1 and 2; "DPM-Solver-fast").

    x: (B, C, ...) at ts[0]. noise(k): the draw of interval k, where eta > 0. order: 1 to 3. stages: midpoint or taylor.
    UserError: the grid does not fall inside [0, 1]; an order, eta or s_noise out of range; unknown stages.
    """
    return _named(Noise(eta, s_noise), stages, denoise, x, ts, noise, order, lower_order_below)


def dpmpp_2s(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    stages: str = "midpoint",
    lower_order_below: int = FEW,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[State]:
    """DPM-Solver++ 2S, x0 interpolated, order 2 (Lu et al. 2022b, alg. 1). Arguments: see dpm_solver."""
    return _named(Data(eta, s_noise), stages, denoise, x, ts, noise, 2, lower_order_below)


def dpmpp_3s(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    stages: str = "midpoint",
    lower_order_below: int = FEW,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[State]:
    """DPM-Solver++ 3S, x0 interpolated, order 3 (DPM-Solver's code). Arguments: see dpm_solver."""
    return _named(Data(eta, s_noise), stages, denoise, x, ts, noise, 3, lower_order_below)


def orders_of(steps: int, order: int, *, final_lower: bool = False) -> list[int]:
    """The orders of single steps that take ``steps`` evaluations in all: as high as they fit, the rest last.

    final_lower: end in lower orders also where ``order`` divides ``steps`` (Lu et al. 2022a, section 3.4).
    """
    whole, rest = divmod(steps, order)
    if rest:
        return [order] * whole + [rest]
    if final_lower and order == 3 and whole:
        return [order] * (whole - 1) + [2, 1]
    return [order] * whole


def _named(
    form: Form,
    stages: str,
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    noise: NoiseSource | None,
    order: int,
    lower_order_below: int,
) -> Iterator[State]:
    """The single-step solver with its options read."""
    if order not in (1, 2, 3):
        raise UserError(f"order {order}: expected 1, 2 or 3")
    if stages not in STAGES:
        raise unknown("stages", stages, STAGES)
    ts, steps = check(ts), len(ts) - 1
    # infinitely long in lambda, and so of order 1: the step from pure noise and that to a clean end
    first = 1 if bool(is_noise(denoise.path, ts[0])) else 0
    last = 1 if bool(denoise.path.sigma(ts[-1]) == 0) and steps > first else 0
    orders = orders_of(steps - first - last, order, final_lower=steps < lower_order_below and not last)
    return singlestep(form, STAGES[stages], [1] * first + orders + [1] * last, denoise, x, ts, noise)


def singlestep(
    form: Form,
    stages: Stages,
    orders: Sequence[int],
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    noise: NoiseSource | None,
) -> Iterator[State]:
    """Steps of these orders, whose sum is the number of the grid's intervals."""
    path_levels = levels(denoise.path, ts)
    done = 0
    for order in orders:
        inside = path_levels[done : done + order + 1]
        for state in single(form, stages, denoise, x, inside, noise, first_draw=done):
            yield state
        x, done = state.x, done + order


def single(
    form: Form,
    stages: Stages,
    denoise: Denoise,
    x: Tensor,
    inside: Sequence[Level],
    noise: NoiseSource | None,
    *,
    first_draw: int = 0,
) -> Iterator[State]:
    """The stages of one step from x at inside[0] to inside[-1]; stage j = 1..p ends at inside[j], with its own draw."""
    order, answers, at = len(inside) - 1, [], x
    for j in range(1, order + 1):
        answers.append(Answer(inside[j - 1], denoise(at, inside[j - 1].t)))
        used, rule = stages.get((order, j), ((), exact))
        others = [answers[i] for i in used]
        at = form.step(x, answers[0], inside[j], others, rule, lambda j=j: draw(noise, first_draw + j - 1))
        yield State(at, inside[j].t, answers[-1].said)
