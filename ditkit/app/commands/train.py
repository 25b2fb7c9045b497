"""Train a model on your images: ditkit train [RECIPE] --data SOURCE --out RUN, or --resume RUN."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic.dataclasses import dataclass

from ditkit.app.launch import Where, launch
from ditkit.app.recipe import Recipe
from ditkit.train.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Options(Where, Recipe):
    """Train a diffusion transformer. Every leaf of the recipe can be overridden here."""


def main(args: Sequence[str]) -> int:
    """The command. Exit code 0 when trained, 130 when a signal stopped it (it can be resumed)."""
    return launch("train", Options, Recipe, args)
