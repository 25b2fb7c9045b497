"""A scaling study from its options: what is checked before any training, and the order of the work."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ditkit.app import build
from ditkit.app.kinds.denoiser import DenoiserRuns
from ditkit.app.looking import ORDERED
from ditkit.app.recipe import Model, Recipe
from ditkit.app.references import SELF, Reference, Space, open_reference
from ditkit.app.run import Run
from ditkit.app.scaling_study import grid, pages, runs
from ditkit.app.scaling_study.grid import Candidate
from ditkit.app.scaling_study.results import Entry, Findings
from ditkit.app.scaling_study.sampling import draw, known, place, tasks
from ditkit.app.solver_study.choice import Task
from ditkit.app.training import Means, Stopped, check_apart, read_data
from ditkit.base.errors import UserError, unknown
from ditkit.base.files import alone, check_writable, clear_leftovers
from ditkit.evaluate import suite
from ditkit.evaluate.protocol import differences
from ditkit.train import checkpoint

JUDGED = "class_accuracy"
ALWAYS = ("frechet_distance", JUDGED)
"""Scores of every measurement: cheap, and told beside the metric."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A study that can be made, as far as can be told without the data. budgets: in multiply-adds."""

    recipe: Recipe
    networks: Mapping[str, Model]
    budgets: tuple[float, ...]
    sampling: tuple[Task, ...]
    metric: str
    space: Space

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        *,
        sizes: Sequence[str],
        patches: Sequence[int],
        budgets: Sequence[str] = (),
        evaluations: Sequence[int] = (),
        looks: int = 5,
        timed: bool = False,
        metric: str = "frechet_distance",
        network: tuple[str, str | None] = ("self", None),
    ) -> Wanted:
        """UserError for options that have no meaning. timed: the recipe's limit of minutes holds for every model."""
        if metric not in (known := suite.available().keys() & ORDERED):
            raise unknown("metric of --metric", metric, known)
        if timed and recipe.train.minutes and not recipe.evaluate.every:
            raise UserError(
                f"--train.minutes {recipe.train.minutes:g}: how many steps that is depends on the model, so say when "
                "to measure: add --evaluate-every N"
            )
        train = recipe.train if timed else dataclasses.replace(recipe.train, minutes=None)
        every = recipe.evaluate.every or max(1, train.steps // looks)
        recipe = dataclasses.replace(recipe, train=train, evaluate=dataclasses.replace(recipe.evaluate, every=every))
        return cls(
            recipe,
            grid.models(recipe.model, sizes, patches),
            tuple(sorted(grid.parse_budget(text) for text in budgets)),
            tuple(tasks(recipe, evaluations)),
            metric,
            Space(*network, tuple(dict.fromkeys((*ALWAYS, metric)))),
        )


@dataclasses.dataclass
class Study:
    """A study at work. facts: of the data (see ``ditkit.app.run.Facts``). metric: its key in measurements."""

    wanted: Wanted
    folder: Path
    candidates: list[Candidate]
    against: Reference
    means: Means
    facts: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return DenoiserRuns(self.wanted.recipe).device

    @property
    def metric(self) -> str:
        """The published name of the score in the network's space, where it has one."""
        return self.against.network.aliases.get(self.wanted.metric, self.wanted.metric)

    def findings(self) -> Findings:
        """What is known by now."""
        entries = []
        for c in self.candidates:
            run = runs.existing(c, place(self.folder, c.folder))
            drawable = _drawable(self, c)
            sampled = known(drawable, self.against, self.wanted.sampling) if drawable else ()
            entries.append(Entry.of(c, run, self.metric, sampled))
        better = ORDERED[self.wanted.metric]
        return Findings(self.folder, self.metric, better, self.protocol, tuple(entries), self.wanted.budgets)

    @property
    def protocol(self) -> dict[str, Any]:
        """What all models share, and what the numbers hang on."""
        sampling = dataclasses.asdict(self.wanted.recipe.sample)
        if not build.adaptive(self.wanted.recipe.sample.solver):
            del sampling["batch_size"]  # changes no image
        network = self.against.network.protocol
        said = {
            "samples": self.wanted.recipe.evaluate.every_num,
            "sampling": sampling,
            "reference": {"fingerprint": self.against.fingerprint, "images": self.against.side.count},
            "network": self.wanted.space.network,
            "feature_space": dataclasses.asdict(network),
            "data": self.facts["fingerprint"],
        }
        return json.loads(json.dumps(said))

    def write(self) -> None:
        """Writes what is known by now (see ``pages.write``)."""
        pages.write(self.findings(), self.device)


def study(wanted: Wanted, folder: Path) -> Stopped | None:
    """Makes the study, or goes on with it; None, or what stopped it.

    UserError before any training for what cannot be made of these data, and for a folder with another study.
    """
    check_apart(folder, wanted.recipe.data.source)
    check_writable(folder)
    kind = DenoiserRuns(wanted.recipe)
    examples, facts = read_data(wanted.recipe, kind.autoencoder)
    candidates = grid.candidates(wanted.recipe, wanted.networks, facts)
    for c in candidates:
        runs.existing(c, place(folder, c.folder))
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder, f"study {folder} is being made by another process: wait for it, or stop it"):
        clear_leftovers(folder)
        against = _reference(_space(wanted, facts["classes"]), facts, folder, kind.device)
        kinds: Any = functools.partial(DenoiserRuns, against=against)
        means = Means(kinds, lambda recipe, autoencoder: (examples, facts))
        made = Study(wanted, folder, candidates, against, means, facts)
        _check_same(made)
        made.write()
        tqdm.write("\n".join(grid.sums(candidates)))
        stopped = _train(made)
        if not stopped:
            _sample(made)
            print(pages.text(made.findings()))
            print(f"\nwritten to {folder} (points.json, table.md, page.html and figures as .svg)")
        return stopped


def _reference(space: Space, facts: dict[str, Any], folder: Path, device: torch.device) -> Reference:
    """The real images that every model is measured against: read, and seen by the network, once."""
    return open_reference(
        facts["source"],
        shape=tuple(facts["image_shape"]),
        classes=facts["classes"],
        space=space,
        folder=folder,
        device=device,
        captioned=False,
    )


def _space(wanted: Wanted, classes: Sequence[str]) -> Space:
    """The space with the metric and what is measured besides where it can be: the accuracy of classes that it knows."""
    if wanted.space.network == SELF and len(classes) > 1:
        return wanted.space
    scores = tuple(name for name in wanted.space.scores or () if name == wanted.metric or name != JUDGED)
    return dataclasses.replace(wanted.space, scores=scores)


def _check_same(made: Study) -> None:
    """Raises UserError where the folder has a study whose numbers are not comparable with these."""
    path = made.folder / "points.json"
    if not path.is_file():
        return
    try:
        theirs = json.loads(path.read_text(encoding="utf-8"))["protocol"]
        differ = differences(theirs, made.protocol)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}): delete it, and it is made anew from the runs"
        ) from None
    for key, (x, y) in differ.items():
        raise UserError(
            f"study {made.folder} has {key} {x!r}, this one {y!r}: repeat it with the settings that it was begun with, "
            "or choose another --out"
        )


def _train(made: Study) -> Stopped | None:
    for k, candidate in enumerate(made.candidates):
        folder = place(made.folder, candidate.folder)
        tqdm.write(f"model {k + 1} of {len(made.candidates)}: {candidate.name}")
        stopped = runs.train(candidate, folder, made.means)
        made.write()
        if stopped:
            return stopped
        run = runs.existing(candidate, folder)
        if run is not None and (reason := runs.failure(run)):
            tqdm.write(f"{candidate.name} failed: {reason}")
    return None


def _sample(made: Study) -> None:
    for candidate in made.candidates:
        if (run := _drawable(made, candidate)) is not None:
            for _ in draw(run, made.against, made.wanted.sampling, candidate.name):
                made.write()


def _drawable(made: Study, candidate: Candidate) -> Run[Recipe] | None:
    """The candidate's run, where it can be drawn from."""
    run = runs.existing(candidate, place(made.folder, candidate.folder))
    return None if run is None or runs.failure(run) or not checkpoint.steps(run.folder) else run
