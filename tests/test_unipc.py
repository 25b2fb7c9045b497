"""UniPC beside exact answers and beside the multi-step solvers that it contains."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from ditkit.base.errors import UserError
from ditkit.solvers.counted import Counted
from ditkit.solvers.dpm_multistep import dpm_multistep, dpmpp_2m, dpmpp_3m
from ditkit.solvers.unipc import unipc
from tests.exact import GaussianData, normal, run
from tests.test_dpm import MEAN, STD, VP, ode_error, slope, times

DATA = GaussianData(VP, MEAN, STD)
ORDERS: dict[str, tuple[int, float, dict[str, Any]]] = {
    "UniPC-1": (2, 1, {"order": 1}),
    "UniPC-1 eps": (2, 1, {"order": 1, "predict": "eps"}),
    "UniPC-2": (3, 2, {"order": 2}),
    "UniPC-2 bh1": (3, 2, {"order": 2, "variant": "bh1"}),
    "UniPC-2 eps": (3, 2, {"order": 2, "predict": "eps"}),
    "UniPC-3": (4, 2, {"order": 3}),
    "UniP-2": (2, 1, {"order": 2, "corrector": False}),
    "UniP-3": (3, 2, {"order": 3, "corrector": False}),
}


@pytest.mark.parametrize(("order", "grade", "options"), ORDERS.values(), ids=ORDERS)
def test_the_corrector_adds_an_order(order: int, grade: float, options: dict[str, Any]):
    steps, solver = [30, 42, 60, 90], functools.partial(unipc, lower_order_below=0, **options)
    errors = [ode_error(solver, VP, times(VP, k, grade)) for k in steps]
    assert slope(steps, errors) == pytest.approx(order, abs=0.2)


def test_without_its_corrector_it_is_a_multistep_solver():
    x, ts = normal(4, 2), times(VP, 6)
    torch.testing.assert_close(run(unipc, DATA, x, ts, corrector=False), run(dpmpp_2m, DATA, x, ts))
    torch.testing.assert_close(run(unipc, DATA, x, ts, corrector=False, uncorrected=(0,)), run(dpmpp_2m, DATA, x, ts))
    exact = run(unipc, DATA, x, ts, corrector=False, order=3, variant="exact")
    torch.testing.assert_close(exact, run(dpmpp_3m, DATA, x, ts))
    eps = run(unipc, DATA, x, ts, uncorrected=range(6), predict="eps")
    torch.testing.assert_close(eps, run(dpm_multistep, DATA, x, ts))


def test_only_the_named_steps_go_uncorrected():
    x, ts = normal(4, 2), times(VP, 6)
    ends = [run(unipc, DATA, x, ts, uncorrected=steps) for steps in ((), (0,), (5,))]
    assert not torch.allclose(ends[0], ends[1], atol=1e-6)
    torch.testing.assert_close(ends[0], ends[2])  # nothing comes after the last step to correct it


def test_one_evaluation_a_step():
    counted = Counted(DATA)
    run(unipc, counted, normal(2, 2), times(VP, 9), order=3)
    assert counted.evaluations == 9


@pytest.mark.parametrize("options", [{"order": 0}, {"order": 6}, {"variant": "bh3"}, {"predict": "v"}])
def test_bad_options_are_named(options: dict[str, Any]):
    with pytest.raises(UserError, match=next(iter(options))):
        list(unipc(DATA, normal(1, 1), times(VP, 3), **options))
