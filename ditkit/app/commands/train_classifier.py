"""Train a classifier on noisy images, to guide with: ditkit train-classifier [RECIPE] --data SOURCE --out RUN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic.dataclasses import dataclass
from tyro.conf import Positional, arg

from ditkit.app.launch import Where, launch
from ditkit.app.recipe import ClassifierRecipe
from ditkit.app.recipe_files import ready
from ditkit.train.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Options(Where, ClassifierRecipe):
    """Train p(class | noised image), whose gradient guides a model of the same path (Dhariwal & Nichol 2021).

    Every leaf of the recipe can be overridden here. Of a denoiser's recipe, what concerns no classifier is unused.
    """

    recipe: Annotated[str | None, Positional, arg(help_behavior_hint=ready(ClassifierRecipe))] = None
    """A recipe: a .py or .yaml file, or a ready one by name."""


def main(args: Sequence[str]) -> int:
    """The command. Exit code 0 when trained, 130 when a signal stopped it (it can be resumed)."""
    return launch("train-classifier", Options, ClassifierRecipe, args)
