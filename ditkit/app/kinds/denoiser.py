"""Floor 5: runs of denoisers: ditkit train."""

from __future__ import annotations

import copy
import dataclasses
import functools
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ditkit.app import build, checks, costing
from ditkit.app.looking import Looking, check_best
from ditkit.app.model import Model, check_sampling
from ditkit.app.pictures import grid, save_png
from ditkit.app.recipe import Recipe
from ditkit.app.references import Reference
from ditkit.app.run import Run
from ditkit.app.spending import Subject, Work
from ditkit.base.errors import UserError
from ditkit.condition import Condition
from ditkit.data.images import Examples
from ditkit.objectives.neighbours import References
from ditkit.process.denoiser import Denoiser
from ditkit.train.denoising import Denoising
from ditkit.train.trainer import Hook, Trainer

GRID_ROWS = 8
"""Samples of each class (or rows of an unconditional grid) in the pictures drawn during training."""


def _check_samples(recipe: Recipe) -> None:
    """Raises UserError for sampling settings that cannot be drawn with, named as training's options are."""
    try:
        check_sampling(recipe, recipe.sample)
    except UserError as error:
        how = recipe.sample
        raise UserError(
            f"{error} (of the samples: --sample.solver {how.solver} --sample.grid {how.grid} --sample.steps "
            f"{how.steps or repr(how.steps)})"
        ) from None


class DenoiserRuns:
    """See ``Kind``: a backbone learns to denoise, under the recipe's process."""

    name = Recipe.kind
    recipe = Recipe
    knows_classes = True
    further = "draw from it: ditkit sample {run}; measure it: ditkit evaluate {run}; see it all: ditkit report {run}"

    def __init__(self, recipe: Recipe, against: Reference | None = None) -> None:
        """against: what it is measured against while it trains; None: its data, measured when they are needed.

        Raises UserError for a process that cannot be trained, and sampling settings that cannot be drawn with.
        """
        _check_samples(recipe)
        checks.check_training(recipe.process)
        check_best(recipe.evaluate.best, recipe.evaluate.every)
        self.settings, self.against = recipe, against
        self.device = build.device(recipe.train.device)
        self.autoencoder = build.autoencoder(recipe, self.device)

    @staticmethod
    def network(recipe: Recipe, facts: dict[str, Any]) -> nn.Module:
        """See ``Kind``."""
        return build.network(recipe.model, recipe.process, facts)

    @staticmethod
    def example(recipe: Recipe, facts: dict[str, Any]) -> tuple[Any, ...]:
        """See ``Kind``."""
        label = torch.zeros(1, dtype=torch.int64) if facts["classes"] else None
        return torch.zeros(1, facts["channels"], *facts["input_size"]), torch.zeros(1), Condition(label=label)

    @staticmethod
    def works(subject: Subject) -> list[Work]:
        """See ``Kind``: sampling and training."""
        return [costing.sampling(subject), costing.denoising(subject)]

    def task(self, facts: dict[str, Any], images: Examples) -> Denoising:
        """See ``Kind``."""
        recipe = self.settings
        denoiser = build.denoiser(recipe, self.network(recipe, facts).to(self.device))
        self._check_guides(denoiser, facts)
        encode = build.encode(recipe, self.autoencoder)
        needs = {References: lambda: build.references(images, encode, recipe.data.flip, self.device, recipe.seed)}
        objective = build.objective(recipe.process, needs)
        checks.check_objective(recipe.process, objective, (facts["channels"], *facts["input_size"]), self.device)
        return Denoising(
            denoiser,
            objective,
            recipe.seed,
            label_dropout=recipe.train.label_dropout,
            density=build.density(recipe.process),
            encode=encode,
        )

    def _check_guides(self, denoiser: Denoiser, facts: dict[str, Any]) -> None:
        """Raises UserError for guides of the sampling settings that do not belong to the data, before any training."""
        sampling = self.settings.sample
        model = Model(Run(Path(), self.settings), 0, facts, denoiser, self.autoencoder, self.device)
        model.how(sampling)

    def pictures(self, run: Run[Recipe], facts: dict[str, Any], held: Examples | None) -> list[Hook]:
        """Samples of the moving average, the same seeds and classes each time: samples/step-NNNNNNN.png; metrics."""
        look = Looking(run, facts, lambda trainer: self._model(run, trainer, facts), self.against)
        hooks = []
        if every := self.settings.train.sample_every:
            draw = functools.partial(self._draw, run, facts)
            hooks.append(Hook(every, draw, "samples", made=lambda trainer: run.picture(trainer.step).is_file()))
        if every := self.settings.evaluate.every:
            hooks.append(Hook(every, look, "measurements", made=look.made))
        return hooks

    def _model(self, run: Run[Recipe], trainer: Trainer[Denoising], facts: dict[str, Any]) -> Model:
        denoiser = dataclasses.replace(trainer.task.denoiser, net=trainer.ema.net)
        autoencoder = copy.copy(self.autoencoder)  # a store's own is read in the copy, and let go with it
        return Model(run, trainer.step, facts, denoiser, autoencoder, trainer.device)

    def _draw(self, run: Run[Recipe], facts: dict[str, Any], trainer: Trainer[Denoising]) -> None:
        model = self._model(run, trainer, facts)
        names = model.names(run.recipe.sample)
        columns = min(len(names), 10) or GRID_ROWS
        labels = model.labels(columns * GRID_ROWS, range(len(names)))
        progress = "samples" if trainer.finished else None  # until then the bar of the training is shown
        images = model.draw(range(columns * GRID_ROWS), labels, run.recipe.sample, progress)
        save_png(run.picture(trainer.step), grid(images, columns, background=255))
