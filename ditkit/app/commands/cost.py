"""Count what a network costs: ditkit cost RUN, RECIPE or PRESET: parameters, multiply-adds, sampling, training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from pydantic import Field
from pydantic.dataclasses import dataclass

from ditkit.app.cli import load, parse, telling
from ditkit.app.recipe import Recipe
from ditkit.base.errors import UserError
from ditkit.train.settings import STRICT

if TYPE_CHECKING:
    from ditkit.app.spending import Work
    from ditkit.nn.cost import Cost


@dataclass(frozen=True, config=STRICT)
class What:
    """Count parameters and multiply-adds module by module, and what sampling and training take. Nothing is computed.

    A multiply-add counts as one, as the "Gflops" of the DiT paper do, which also count normalised elements. Every
    leaf of a recipe can be overridden: --data.size 512, --sample.steps 50, --model.depth 6.
    """

    what: Annotated[str, tyro.conf.Positional] = ""
    """A run's folder or checkpoint, a recipe's file or name, a preset (DiT-XL/2), an autoencoder (kl, vq, fast) or a
    feature network (inception, dinov2, clip); it stands first. Of a preset, all but the model is as in the paper."""
    depth: Annotated[int, Field(ge=0, lt=100)] = 2
    """Levels of modules below the network that are printed."""
    classes: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """How many classes, 0 for none; None: as a run, a preset or the data say."""
    autoencoder: str | None = None
    """An autoencoder by name (the published size) or a folder of weights; None: the recipe's own, of a preset kl."""
    json: Path | None = None
    """A new file for all numbers, of modules to every depth."""


def main(args: Sequence[str]) -> int:
    """The command."""
    what = args[0] if args and not args[0].startswith("-") else None
    if what is None:
        parse(_options(Recipe), "cost", args)
        raise UserError(
            "ditkit cost lacks what to count: give a run, a recipe or a preset first, as in ditkit cost DiT-XL/2"
        )
    load("cost")
    from ditkit.app import cost_table
    from ditkit.base.files import write_json

    with telling("ditkit cost: counting"):  # PyTorch's first count takes seconds
        options, about, whole, works = _counted(what, args)
    print("\n".join(f"{key:<9}  {value}" for key, value in about.items()))
    print(f"\n{cost_table.tree(whole, options.depth)}\n")
    print("\n\n".join([_forward(whole), *map(cost_table.work, works)]))
    if options.json is not None:
        write_json(options.json, {"about": about, "network": dataclasses.asdict(whole), "works": _works(works)})
        print(f"\nwritten to {options.json}")
    return 0


def _counted(what: str, args: Sequence[str]) -> tuple[Any, dict[str, str], Cost, list[Work]]:
    """The command's options, what is counted in words, the network's cost and what is done with it."""
    from ditkit.app import costing
    from ditkit.nn.cost import cost

    if what in (networks := costing.outlines()):
        options = _parsed(What, args)
        for name, value in (("classes", options.classes), ("autoencoder", options.autoencoder)):
            if value is not None:
                raise UserError(f"--{name} {value} does nothing with {what}, a feature network: leave it out")
        net, shape = networks[what].outline()
        return options, {"counted": what, "input": "x".join(map(str, shape[1:]))}, cost(net, shape), []
    named = costing.find(what)
    options, recipe = _overridden(named.recipe, args)
    subject = costing.subject(named, recipe, options.classes, options.autoencoder)
    works = costing.find_kind(recipe.kind).works(subject)
    return options, {"counted": what} | _about(subject.facts), subject.network, works


def _parsed(kind: type[Any], args: Sequence[str], default: Any = None) -> Any:
    """The options. UserError before anything is counted where the numbers cannot be written."""
    from ditkit.base.files import check_file

    options = parse(kind, "cost", args, default=default)
    if options.json is not None:
        check_file(options.json)
    return options


def _options(recipe: type[Any]) -> Any:
    """The command's options: its own, and every leaf of a kind of recipe."""
    return dataclass(frozen=True, config=STRICT)(type("Options", (What, recipe), {"__doc__": What.__doc__}))


def _overridden(recipe: Any, args: Sequence[str]) -> tuple[Any, Any]:
    """The options, and the recipe as they override it."""
    leaves = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)}
    kind = _options(type(recipe))
    options = _parsed(kind, args, kind(**leaves))
    return options, type(recipe)(**{name: getattr(options, name) for name in leaves})


def _about(facts: dict[str, Any]) -> dict[str, str]:
    """What goes in, in words."""
    shape, image = ([facts["channels"], *facts["input_size"]], facts["image_shape"])
    return {
        "input": "x".join(map(str, shape)) + ("" if shape == [*image] else f", images {'x'.join(map(str, image))}"),
        "classes": str(len(facts["classes"]) or "none"),
    }


def _forward(whole: Cost) -> str:
    from ditkit.app.cost_table import amount

    published = whole.multiply_adds + whole.norms
    return (
        f"a forward pass, for an image: {amount(whole.multiply_adds)} multiply-adds, {amount(whole.norms)} normalised "
        f"elements ({published / 1e9:,.2f} Gflops as the DiT paper counts)"
    )


def _works(works: list[Work]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(work) | {"multiply_adds": work.total} for work in works]
