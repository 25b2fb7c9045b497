"""The runs of a scaling study: each trained as ``ditkit train`` trains, gone on with, or left alone when it is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ditkit.app import training
from ditkit.app.looking import EVENT
from ditkit.app.recipe import Recipe
from ditkit.app.run import Run, open_run
from ditkit.app.scaling_study.grid import Candidate
from ditkit.app.training import Means, Stopped
from ditkit.base.errors import DivergedError, UserError
from ditkit.base.files import clear_leftovers
from ditkit.train import checkpoint

FAILED = "failed"
"""Of the log's record of a training that became infinite or NaN: {"event": "failed", "step": ..., "reason": ...}."""


@dataclasses.dataclass(frozen=True)
class Look:
    """A measurement during training. value: of the metric. standard_error: None where it is not known."""

    step: int
    value: float
    standard_error: float | None


def existing(candidate: Candidate, folder: Path) -> Run[Recipe] | None:
    """The candidate's run; None where there is none yet. UserError where its recipe is another than the study's."""
    if not (folder / "recipe.yaml").is_file():
        return None
    run = open_run(folder)
    for place, theirs, ours in _differences(run.recipe, candidate.recipe):
        raise UserError(
            f"run {folder} has {place} {theirs!r}, this study {ours!r}: repeat the study with the settings that it was "
            "begun with, or choose another --out"
        )
    return run


def _differences(a: Any, b: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    for field in dataclasses.fields(a):
        x, y, name = getattr(a, field.name), getattr(b, field.name), f"{place}{field.name}"
        if dataclasses.is_dataclass(x):
            yield from _differences(x, y, f"{name}.")
        elif x != y:
            yield name, x, y


def train(candidate: Candidate, folder: Path, means: Means) -> Stopped | None:
    """Brings the candidate's run to its end; None, or what stopped it.

    A training that becomes infinite or NaN ends there, and its log says so (see ``failure``).
    """
    run = existing(candidate, folder)
    if run is not None and (failure(run) or finished(run)):
        return None
    try:
        if run is None:
            if folder.is_dir():
                clear_leftovers(folder)  # of a run that was killed before it had a recipe
            return training.start(candidate.recipe, folder, means)
        return training.resume(folder, {}, means=means)
    except DivergedError as error:
        run = open_run(folder)
        last = max((r["step"] for r in run.records()), default=0)
        run.append({"event": FAILED, "step": last, "reason": str(error)})
        return None


def failure(run: Run[Recipe]) -> str | None:
    """Why the run's training ended too early; None where it did not."""
    return next((str(r["reason"]) for r in run.records() if r.get("event") == FAILED), None)


def finished(run: Run[Recipe]) -> bool:
    """Whether it is trained, and measured at its end."""
    found = checkpoint.steps(run.folder)
    if not found:
        return False
    newest, train = checkpoint.open_checkpoint(found[-1]), run.recipe.train
    late = train.minutes is not None and newest.about["seconds"] >= 60 * train.minutes
    measured = any(r.get("event") == EVENT and r["step"] == newest.step for r in run.records())
    return measured and (newest.step >= train.steps or late)


def looks(run: Run[Recipe], metric: str) -> list[Look]:
    """What was measured so far, by step; measurements without a value of the metric are left out."""
    found = [(r["step"], r["metrics"].get(metric)) for r in run.records() if r.get("event") == EVENT]
    return [Look(step, e["value"], e.get("standard_error")) for step, e in sorted(found, key=lambda x: x[0]) if e]


def seconds(run: Run[Recipe]) -> float:
    """For how long it has trained, measurements included, as far as the log says."""
    return max((float(r["seconds"]) for r in run.records() if "seconds" in r), default=0.0)
