"""Mistakes that only Python can make, as the command line checks its options: one line that names value and remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from ditkit.base.errors import UserError
from ditkit.condition import Condition
from ditkit.data.order import turn
from ditkit.evaluate.bits import How
from ditkit.evaluate.likelihood import Exact, log_likelihood
from ditkit.process import grids
from ditkit.process.path import DDPMLinear
from ditkit.sample import sample, trajectory
from ditkit.solvers.ancestral import ddim
from tests.test_grids import GIVEN, GRIDS

CHAIN = DDPMLinear()


def draw(seeds: Any = (0,), how: Callable[..., Any] = sample, **options: Any) -> Any:
    return how(None, Condition(), seeds, (1,), grids.uniform(CHAIN, 2), solver=ddim, **options)


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "no seeds": (lambda: draw(seeds=[]), r"seeds \[\]: expected at least one.*range\(8\)"),
    "no seeds of a trajectory": (lambda: next(draw(seeds=[], how=trajectory)), r"seeds \[\]: expected at least one"),
    "batches of 0": (lambda: draw(batch_size=0), "batch_size 0: expected a whole number, at least 1"),
    "batches of a half": (lambda: draw(batch_size=0.5), "batch_size 0.5: expected a whole number, at least 1"),
    "likelihoods in batches of 0": (lambda: How(0, batch_size=0), "batch_size 0: expected a whole number"),
    "training in batches of 0": (
        lambda: turn(8, step=0, batch_size=0, seed=0),
        "batch_size 0: expected a whole number",
    ),
    "pixels that are no numbers of the model's": (
        lambda: log_likelihood(None, torch.zeros(1, 2, dtype=torch.uint8), divergence=Exact()),  # type: ignore[arg-type]
        r"x of torch.uint8: expected floating point, images in \[-1, 1\]; dequantised\(pixels\)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_in_one_line(mistake: str) -> None:
    make, said = MISTAKES[mistake]
    with pytest.raises(UserError, match=said) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", GRIDS)
def test_a_number_of_steps_may_be_text(name: str) -> None:
    given = GIVEN.get(name, {})
    assert torch.equal(GRIDS[name](CHAIN, "4", **given), GRIDS[name](CHAIN, 4, **given))
