"""More steps of sampling or a larger model? Each finished run drawn at several budgets of network evaluations."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pydantic
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from ditkit.app import build, measuring
from ditkit.app.model import Model, described, load_model
from ditkit.app.recipe import Recipe, Sampling
from ditkit.app.references import Reference
from ditkit.app.run import Run
from ditkit.app.samples import Plan, RunSamples
from ditkit.app.solver_study.choice import Choice, Task, plan
from ditkit.backbones.output import Output
from ditkit.base.errors import DivergedError, UserError
from ditkit.base.files import write_json
from ditkit.condition import Condition
from ditkit.evaluate.protocol import protocol_hash
from ditkit.sample import ROWS, sample
from ditkit.train.settings import STRICT

FILE = "sampling.json"
"""In a run's folder: what was drawn of it so far."""


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Drawn:
    """Samples of one run at one budget. passes: forward passes of the network for a sample (a guided pair: two).

    metrics: entries as in metrics.json; None where a sample was not finite.
    """

    evaluations: int
    steps: int
    passes: float
    metrics: dict[str, Any] | None


_POINTS = TypeAdapter(list[Drawn])


def tasks(recipe: Recipe, evaluations: Sequence[int]) -> list[Task]:
    """The recipe's own solver at each budget, cheapest first; none for no budgets.

    UserError for a budget that buys no step, and for a solver that chooses its own steps.
    """
    if not evaluations:
        return []
    own = recipe.sample
    choice = Choice(own.solver, own.solver_options, own.grid, own.grid_options)
    if choice.adaptive:
        raise UserError(f"solver {choice} chooses its own steps, so that --evaluations cannot be set: name no budgets")
    return plan(recipe.process, own, [str(choice)], evaluations)


def known(run: Run[Recipe], against: Reference, planned: Sequence[Task]) -> list[Drawn]:
    """What was drawn of the run before at the planned budgets. UserError where what was kept is damaged."""
    kept = _kept(run)
    return [kept[said] for task in planned if (said := _protocol(run, task, against)) in kept]


def draw(run: Run[Recipe], against: Reference, planned: Sequence[Task], label: str) -> Iterator[None]:
    """Draws and measures the run's samples at each planned budget that is not known yet, and keeps each at once."""
    model: Model | None = None
    for k, task in enumerate(planned):
        if known(run, against, [task]):
            continue
        model = model or load_model(run)
        said = f"{label}, {task.evaluations} evaluations ({k + 1} of {len(planned)})"
        _keep(run, _protocol(run, task, against), _draw(model, task, against, said))
        yield


def _protocol(run: Run[Recipe], task: Task, against: Reference) -> str:
    """What a point hangs on besides the run, whose folder it is kept in."""
    said = {"sampling": described(task.sampling), "num": run.recipe.evaluate.every_num}
    said |= {"reference": against.fingerprint}
    said |= {"scores": against.space.scores, "network": dataclasses.asdict(against.network.protocol)}
    return protocol_hash(json.loads(json.dumps(said)))


def _kept(run: Run[Recipe]) -> dict[str, Drawn]:
    path = run.folder / FILE
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return dict(zip(found, _POINTS.validate_python(list(found.values())), strict=True))
    except (ValueError, AttributeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} cannot be read ({reason}): delete it, and its samples are drawn anew") from None


def _keep(run: Run[Recipe], said: str, point: Drawn) -> None:
    points = _kept(run) | {said: point}
    write_json(run.folder / FILE, {key: dataclasses.asdict(p) for key, p in points.items()})


def _draw(model: Model, task: Task, against: Reference, label: str) -> Drawn:
    assert task.evaluations is not None  # the solver takes no steps of its own choice
    samples = RunSamples.of(model, Plan(task.sampling, model.run.recipe.evaluate.every_num))
    how_many = passes(model, task.sampling)
    try:
        found = measuring.measure(samples, against, together=task.sampling.batch_size, progress=label)
    except DivergedError:
        return Drawn(task.evaluations, task.steps, how_many, None)
    assert found is not None  # one process studies
    return Drawn(task.evaluations, task.steps, how_many, json.loads(json.dumps(found.scores)))


def passes(model: Model, sampling: Sampling) -> float:
    """Forward passes of the model's network for one sample: by drawing with one in its place that only counts."""
    channels = model.latent_shape[0] * (2 if model.run.recipe.process.learned_variance else 1)
    counting = _Counting(channels)
    labels = model.labels(ROWS)
    sample(
        dataclasses.replace(model.denoiser, net=counting.to(model.device)),
        Condition(label=labels),
        range(ROWS),
        model.latent_shape,
        build.grid(sampling, model.denoiser.path),
        **model.how(sampling),
    )
    return counting.rows / ROWS


class _Counting(nn.Module):
    """Says nothing of every input, and counts them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.rows = channels, 0
        self.device = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor, condition: Condition, keep: Any = ()) -> Output:
        self.rows += len(x)
        return Output(x.new_zeros(len(x), self.channels, *x.shape[2:]), {})


def value_of(point: Drawn, metric: str) -> float:
    """The metric of a point; NaN where it has none."""
    entry = (point.metrics or {}).get(metric)
    return float(entry["value"]) if entry else math.nan


def place(folder: Path, name: str) -> Path:
    """The run of a name in a study's folder."""
    return folder / "runs" / name
