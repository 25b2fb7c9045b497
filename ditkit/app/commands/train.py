"""Train a model on your images: ditkit train [RECIPE] --data SOURCE --out RUN, or --resume RUN."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.app.recipe import Recipe, load_recipe
from ditkit.base.errors import UserError
from ditkit.train.settings import STRICT


@dataclass(frozen=True, config=STRICT)
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
    if options.recipe != name:  # the recipe stands behind options
        options = parse(Options, "train", args, default=_defaults(options.recipe))
    from ditkit.app import training

    if options.resume is not None:
        stopped = training.resume(options.resume, _limits(options, args))
    else:
        if not options.data.source:
            raise UserError("--data is missing: expected digits, shapes, or a folder, archive or table of images")
        if options.out is None:
            raise UserError("--out is missing: expected the run's new folder, such as --out runs/first")
        recipe = Recipe(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Recipe)})
        stopped = training.start(recipe, options.out)
    if stopped:
        run = options.resume or options.out
        print(f"stopped by {stopped}; nothing is lost, go on with: ditkit train --resume {run}", file=sys.stderr)
    return 130 if stopped else 0


def _limits(options: Options, args: Sequence[str]) -> dict[str, int | float | None]:
    """What a resumed run may change: how long it trains."""
    flags = [a.split("=")[0].replace("_", "-") for a in args if a.startswith("--")]
    limits = {f"--train.{key}": key for key in ("steps", "minutes")}
    extra = [options.recipe] if options.recipe else [flag for flag in flags if flag not in (*limits, "--resume")]
    if extra:
        raise UserError(
            f"--resume goes on with a run as it was: leave out {extra[0]} (only {', '.join(limits)} may change)"
        )
    return {limits[flag]: getattr(options.train, limits[flag]) for flag in flags if flag in limits}


def _defaults(name: str | None) -> Options:
    recipe = load_recipe(name) if name else Recipe()
    return Options(**{f.name: getattr(recipe, f.name) for f in dataclasses.fields(Recipe)}, recipe=name)
