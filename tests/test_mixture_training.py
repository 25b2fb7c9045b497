"""Training on two Gaussians in the plane: what the trainer makes of an objective is what the solver samples.

docs/objectives.md has the table of 2,000 steps on eight Gaussians; a few hundred on two are enough to tell a right
target from a wrong one.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import mixture
from ditkit.app.recipe import Process
from ditkit.base import rng
from ditkit.objectives.loss import Draws, Loss
from ditkit.process.denoiser import Denoiser
from ditkit.train.denoising import Objective

STEPS = 300
REACHED = 0.1
"""Sliced Wasserstein distance. Two exact sets are 0.05 apart here, a Gaussian of the same moments 0.28."""


@pytest.fixture(autouse=True)
def _two_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture, "MODES", 2)


def reached(process: Process, objective: Objective) -> float:
    return mixture.distances(mixture.train(process, objective, STEPS)).mean().item()


@pytest.mark.parametrize(
    "fields",
    [
        {"path": "edm", "density": "log_normal_sigma", "objective": "simple"},
        {"path": "linear", "objective": "stf"},
    ],
    ids=lambda fields: fields["objective"],
)
def test_an_objective_learns_the_mixture(fields: dict[str, Any]):
    process = Process(prediction="edm", **fields)
    assert reached(process, mixture.objective(process)) < REACHED


def test_a_wrong_target_is_told_apart():
    process = Process(path="edm", prediction="edm", density="log_normal_sigma")

    def blurred(denoiser: Denoiser, x0: Tensor, draws: Draws) -> Loss:
        wrong = x0 + 0.2 * draws.eps.roll(1, 0)  # noise of other samples
        return mixture.objective(process)(denoiser, wrong, draws)

    assert reached(process, blurred) > 1.2 * REACHED


def test_the_distance_is_the_shift_of_a_set_and_zero_of_a_set_to_itself():
    x = torch.randn(500, 2, generator=rng.generator(0, "set"))
    assert mixture.sliced_wasserstein(x, x.flip(0)) == 0
    shift = torch.tensor([0.3, 0.4])  # of length 0.5, whose mean square over directions is 0.25 / 2
    assert mixture.sliced_wasserstein(x, x + shift) == pytest.approx(0.5 / 2**0.5, rel=1e-4)


def test_tables_are_made_of_what_the_modules_have_and_say_what_has_no_meaning():
    tables = mixture.tables()
    assert {"linear", "ddpm_linear", "edm"} <= tables["pairs"].lines.keys()
    assert {"stf", "hybrid", "vlb"} <= tables["objectives"].lines.keys()
    assert tables["objectives"].process("hybrid", "ddpm_linear, eps").learned_variance
    refused = mixture.measure(tables["objectives"].process("vlb", "linear, velocity"), 1)
    assert "no chain" in refused.refused
