"""Floor 1: UniPC, a multi-step predictor whose next evaluation also corrects the last step (Zhao et al. 2023).

Predictor and corrector are the same exponential integrator; the corrector has one answer more, that at the step's end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from ditkit.base.errors import UserError, unknown
from ditkit.process.denoiser import Denoise
from ditkit.process.grids import check
from ditkit.solvers.exponential import (
    DATA,
    FEW,
    NOISE,
    Answer,
    Form,
    NoiseSource,
    Rule,
    bh1,
    draw,
    exact,
    final_orders,
    levels,
    midpoint,
)
from ditkit.solvers.state import State

FORMS: dict[str, Form] = {"x0": DATA, "eps": NOISE}
VARIANTS: dict[str, Rule] = {"bh1": bh1, "bh2": midpoint, "exact": exact}
"""B(h), which matters only where a single answer beside the first is used: else the weights do not depend on it."""
HIGHEST = 5
"""Of higher orders the polynomials swing too far on real grids."""


def unipc(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    order: int = 2,
    variant: str = "bh2",
    predict: str = "x0",
    corrector: bool = True,
    uncorrected: Sequence[int] = (),
    lower_order_below: int = FEW,
) -> Iterator[State]:
    """UniPC-p: a predictor of order p and a corrector of order p + 1, one evaluation a step (Zhao et al. 2023, alg. 1).

    x: (B, C, ...) at ts[0]; the states are predictions, each corrected when the next step asks there. order: 1 to 5;
    the first steps are of lower order, and the last of grids of fewer steps than lower_order_below. variant: bh1, bh2
    or exact. predict: x0 or eps, what is interpolated. corrector: off is UniP. uncorrected: steps left uncorrected
    (the first few, under strong guidance). UserError: the grid does not fall inside [0, 1]; an option out of range.
    """
    if order not in range(1, HIGHEST + 1):
        raise UserError(f"order {order}: expected 1 to {HIGHEST}")
    for name, value, allowed in (("variant", variant, VARIANTS), ("predict", predict, FORMS)):
        if value not in allowed:
            raise unknown(name, value, allowed)
    ts = check(ts)
    steps = len(ts) - 1
    clean_end = bool(denoise.path.sigma(ts[-1]) == 0)
    orders = final_orders(steps, order, lower_order_below, clean_end=clean_end)
    corrected = [corrector and k not in uncorrected for k in range(steps)]
    return predict_correct(FORMS[predict], VARIANTS[variant], orders, corrected, denoise, x, ts)


def predict_correct(
    form: Form, rule: Rule, orders: Sequence[int], corrected: Sequence[bool], denoise: Denoise, x: Tensor, ts: Tensor
) -> Iterator[State]:
    """The steps, of at most orders[k]; step k is corrected where corrected[k], but never the last: nothing follows."""
    at, past = levels(denoise.path, ts), []
    predicted = x  # x is corrected, and its answers are those at predictions
    for k in range(len(at) - 1):
        start = Answer(at[k], denoise(predicted, at[k].t))
        if k > 0:
            others = [start, *past[1 : max(orders[k - 1], 1)]]
            x = form.step(x, past[0], at[k], others, rule, _none) if corrected[k - 1] else predicted
        predicted = form.step(x, start, at[k + 1], past[: orders[k] - 1], rule, _none)
        past = [start, *past][: max(orders)]
        yield State(predicted, at[k + 1].t, start.said)


def _none() -> Tensor:
    return draw(None, 0)
