"""Floor 1: multi-step DPM-Solver and DPM-Solver++, one evaluation a step, and their SDE variants.

Options that they share. eta: 0 is the probability-flow ODE, 1 the reverse SDE; between and above, more or less noise
with the same marginals. s_noise: the standard deviation of the noise. rule: how answers are weighed (exact, midpoint,
taylor, bh1; see ditkit.solvers.exponential). lower_order_below: grids of fewer steps than this end in steps of order
2, 1, which is calmer; 0 for never. The first steps have as many answers as there are yet. The step to a clean t = 0
lands on x0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.process.denoiser import Denoise
from ditkit.process.grids import check
from ditkit.solvers.exponential import (
    FEW,
    Answer,
    Data,
    Form,
    Noise,
    NoiseSource,
    Rule,
    draw,
    final_orders,
    levels,
    rule_named,
)
from ditkit.solvers.state import State


def dpm_multistep(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    order: int = 2,
    rule: str = "midpoint",
    lower_order_below: int = FEW,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[State]:
    """DPM-Solver, eps interpolated through the last ``order`` answers (Lu et al. 2022a; Lu et al. 2022b, appendix).

    x: (B, C, ...) at ts[0]. noise(k): the draw of step k, where eta > 0. order: 1 (DDIM) to 3.
    UserError: the grid does not fall inside [0, 1]; an unknown rule; an order, eta or s_noise out of range.
    """
    form = Noise(eta, s_noise)
    return _named(form, rule, denoise, x, ts, noise, order, lower_order_below)


def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    rule: str = "midpoint",
    lower_order_below: int = FEW,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[State]:
    """DPM-Solver++ 2M, order 2 (Lu et al. 2022b, alg. 2). Arguments: see dpm_multistep."""
    return _named(Data(eta, s_noise), rule, denoise, x, ts, noise, 2, lower_order_below)


def dpmpp_3m(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    rule: str = "exact",
    lower_order_below: int = FEW,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> Iterator[State]:
    """DPM-Solver++ 3M, order 3 by the rule exact; published codes weigh by the rule taylor, of order 2.

    The first step is of order 1: order 3 shows where it is short or x0 hardly changes. Arguments: see dpm_multistep.
    """
    return _named(Data(eta, s_noise), rule, denoise, x, ts, noise, 3, lower_order_below)


def dpmpp_2m_sde(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    rule: str = "midpoint",
    lower_order_below: int = 0,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[State]:
    """SDE-DPM-Solver++ 2M (Lu et al. 2022b, eq. 18): mean and covariance of order 2 (measured on Gaussian data).

    Arguments: see dpm_multistep.
    """
    return _named(Data(eta, s_noise), rule, denoise, x, ts, noise, 2, lower_order_below)


def dpmpp_3m_sde(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    rule: str = "exact",
    lower_order_below: int = 0,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[State]:
    """SDE-DPM-Solver++ 3M (k-diffusion's, which has the rule taylor): of order 2 too where eta > 0, but more exact.

    Arguments: see dpm_multistep.
    """
    return _named(Data(eta, s_noise), rule, denoise, x, ts, noise, 3, lower_order_below)


def _named(
    form: Form,
    rule: str,
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    noise: NoiseSource | None,
    order: int,
    lower_order_below: int,
) -> Iterator[State]:
    """The multi-step solver with its options read."""
    if order not in (1, 2, 3):
        raise UserError(f"order {order}: expected 1, 2 or 3")
    ts = check(ts)
    clean_end = bool(denoise.path.sigma(ts[-1]) == 0)
    orders = final_orders(len(ts) - 1, order, lower_order_below, clean_end=clean_end)
    return multistep(form, rule_named(rule), orders, denoise, x, ts, noise)


def multistep(
    form: Form, rule: Rule, orders: Sequence[int], denoise: Denoise, x: Tensor, ts: Tensor, noise: NoiseSource | None
) -> Iterator[State]:
    """Every step through the last answers, at most orders[k] of them."""
    path_levels = levels(denoise.path, ts)
    past: list[Answer] = []
    for k, (s, t) in enumerate(itertools.pairwise(path_levels)):
        start = Answer(s, denoise(x, s.t))
        x = form.step(x, start, t, past[: orders[k] - 1], rule, lambda k=k: draw(noise, k))
        past = [start, *past][: max(orders)]
        yield State(x, t.t, start.said)
