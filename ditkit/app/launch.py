"""Floor 5: what the commands that train have in common: a recipe, options over it, a new run or an old one."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro
from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.app.names import SOURCES
from ditkit.app.recipe import AnyRecipe
from ditkit.app.recipe_files import R, load_recipe
from ditkit.base.errors import UserError
from ditkit.base.signals import Interrupted
from ditkit.train.settings import STRICT

if TYPE_CHECKING:
    from ditkit.app.training import Stopped

T = TypeVar("T")


@dataclass(frozen=True, config=STRICT)
class Where:
    """What a run is made from, and where; the options of a command are these and its recipe's."""

    recipe: Annotated[str | None, tyro.conf.Positional] = None
    """A recipe: a .py or .yaml file, or a ready one by name."""
    out: Path | None = None
    """The run's folder, new (runs/NAME)."""
    resume: Path | None = None
    """Go on with this run from its newest checkpoint; no recipe or --out then, --data where the images moved."""


def launch(command: str, kind: type[Any], recipe: type[AnyRecipe], args: Sequence[str]) -> int:
    """Trains as told. Exit code 0 when trained, 130 when a signal stopped it (it can be resumed).

    kind: of the options, both a ``Where`` and the ``recipe`` that they override.
    """
    options = over_recipe(command, kind, recipe, args)
    from ditkit.app.kind import find_kind
    from ditkit.app.training import Stopped

    try:
        stopped = _train(options, recipe, args)
    except Interrupted as stop:  # before its first step
        if options.out is None or not (options.out / "recipe.yaml").is_file():
            raise
        stopped = Stopped(stop.signal)
    folder = shlex.quote(str(options.resume or options.out))
    if stopped:
        print(_farewell(stopped, f"ditkit {command} --resume {folder}"), file=sys.stderr)
        return 130
    print(find_kind(recipe.kind).further.format(run=folder))
    return 0


def _train(options: Any, recipe: type[AnyRecipe], args: Sequence[str]) -> Stopped | None:
    from ditkit.app import training

    if options.resume is not None:
        changes = _changes(options, args)
        return training.resume(options.resume, changes, options.data.source or None)
    if not options.data.source:
        raise UserError(f"--data is missing: expected {SOURCES}")
    if options.out is None:
        raise UserError("--out is missing: expected the run's new folder, such as --out runs/first")
    return training.start(recipe_in(options, recipe), options.out)


def _farewell(stopped: Stopped, again: str) -> str:
    if stopped.missing:
        return f"stopped by {stopped.signal}; the training is complete, this makes the last {stopped.missing}: {again}"
    return f"stopped by {stopped.signal}; nothing is lost, go on with: {again}"


def over_recipe(command: str, kind: type[T], recipe: type[AnyRecipe], args: Sequence[str]) -> T:
    """A command's options, with the leaves of the recipe that they name as defaults.

    kind: of the options: they have a positional ``recipe`` and the leaves of a ``recipe``.
    """
    name = args[0] if args and not args[0].startswith("-") else None
    options: Any = parse(kind, command, args, default=_defaults(kind, recipe, name))
    if options.recipe != name:  # the recipe stands behind options
        options = parse(kind, command, args, default=_defaults(kind, recipe, options.recipe))
    return options


def recipe_in(options: Any, recipe: type[R]) -> R:
    """The recipe that a command's options (see ``over_recipe``) say."""
    return recipe(**{field.name: getattr(options, field.name) for field in dataclasses.fields(recipe)})  # type: ignore[arg-type]


def _changes(options: Any, args: Sequence[str]) -> dict[str, int | float | None]:
    """What a resumed run may change of train: how long it trains. UserError for others, but where the data are."""
    flags = [a.split("=")[0].replace("_", "-") for a in args if a.startswith("--")]
    limits = {f"--train.{key}": key for key in ("steps", "minutes")}
    allowed = {*limits, "--data", "--resume"}
    extra = [options.recipe] if options.recipe else [flag for flag in flags if flag not in allowed]
    if extra:
        raise UserError(
            f"--resume goes on with a run as it was: leave out {extra[0]} (only "
            f"{', '.join(limits)} may change, and --data where the same images moved)"
        )
    return {limits[flag]: getattr(options.train, limits[flag]) for flag in flags if flag in limits}


def _defaults(kind: type[Any], recipe: type[AnyRecipe], name: str | None) -> Any:
    read = load_recipe(name, recipe) if name else recipe()
    return kind(**{f.name: getattr(read, f.name) for f in dataclasses.fields(recipe)}, recipe=name)  # type: ignore[arg-type]
