"""Train a model on your images: ditkit train [RECIPE] --data SOURCE --out RUN, or --resume RUN."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.app.recipe import Recipe, load_recipe
from ditkit.base.errors import UserError


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Options(Recipe):
    """Train a diffusion transformer. Every leaf of the recipe can be overridden here."""

    recipe: Annotated[str | None, tyro.conf.Positional] = None
    """A recipe: a .py or .yaml file, or a ready one by name (digits, mnist, cifar10, ...)."""
    out: Path | None = None
    """The run's folder, new (runs/NAME)."""
    resume: Path | None = None
    """Go on with this run from its newest checkpoint; no recipe, --data or --out then."""


def main(args: Sequence[str]) -> int:
    """The command. Exit code 0 when trained, 130 when a signal stopped it (it can be resumed)."""
    name = args[0] if args and not args[0].startswith("-") else None
    options = parse(Options, "train", args, default=_defaults(name))
    from ditkit.app import training

    if options.resume is not None:
        given = [
            a for a in args if a.startswith("--") and not a.startswith(("--resume", "--train.steps", "--train.minutes"))
        ]
        if name or given:
            extra = name or given[0]
            raise UserError(
                f"--resume goes on with a run as it was: leave out {extra} (only --train.steps and .minutes)"
            )
        limits = {
            k: getattr(options.train, k)
            for k in ("steps", "minutes")
            if any(a.startswith(f"--train.{k}") for a in args)
        }
        stopped = training.resume(options.resume, limits)
    else:
        if not options.data.source:
            raise UserError("--data is missing: expected digits, a folder of images or a .zip of one")
        if options.out is None:
            raise UserError("--out is missing: expected the run's new folder, such as --out runs/first")
        recipe = Recipe(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Recipe)})
        stopped = training.start(recipe, options.out)
    if stopped:
        run = options.resume or options.out
        print(f"stopped by {stopped}; nothing is lost, go on with: ditkit train --resume {run}", file=sys.stderr)
    return 130 if stopped else 0


def _defaults(name: str | None) -> Options:
    recipe = load_recipe(name) if name else Recipe()
    return Options(**{f.name: getattr(recipe, f.name) for f in dataclasses.fields(Recipe)}, recipe=name)
