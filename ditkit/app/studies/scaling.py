"""Train models of several sizes and relate quality to compute: ditkit study scaling RECIPE --sizes ... --out OUT."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic.dataclasses import dataclass

from ditkit.app.launch import over_recipe, recipe_in
from ditkit.app.recipe import Recipe
from ditkit.base.errors import UserError
from ditkit.train.settings import STRICT, Positive


@dataclass(frozen=True, config=STRICT)
class Grid:
    """What a scaling study compares."""

    recipe: Annotated[str | None, tyro.conf.Positional] = None
    """A recipe: a .py or .yaml file, or a ready one by name (digits, mnist, cifar10, ...)."""
    out: Path | None = None
    """The study's folder; the same command again goes on with what is there."""
    sizes: tuple[str, ...] = ()
    """Published sizes of the backbone (S B L XL), or WIDTHxDEPTH or WIDTHxDEPTHxHEADS, such as 48x2 96x4x3."""
    patches: tuple[Positive, ...] = (2, 4, 8)
    """Sides of a patch; each has to divide the input."""
    budget: tuple[str, ...] = ()
    """Budgets of training to find the best size for: multiply-adds (3e15), or petaflop/s-seconds (6PFs; 1PFs is 5e14
    multiply-adds)."""
    evaluations: tuple[Positive, ...] = (16, 32, 64, 128, 256, 1000)
    """Network evaluations per sample at which the trained models are drawn again; none named: that is left out."""
    looks: Positive = 5
    """Measurements during a training, evenly spaced, where the recipe has no --evaluate-every."""
    metric: str = "frechet_distance"
    """The score that is compared, such as frechet_distance or class_accuracy."""
    features: str = "self"
    """Feature network: inception, dinov2, clip, or self, a classifier trained on the data."""
    features_weights: str | None = None
    """The feature network's file or folder; None: where it looks for them."""


@dataclass(frozen=True, config=STRICT)
class Options(Grid, Recipe):
    """Train every size with every patch, each a run in OUT/runs, and relate quality to compute.

    All models take the same steps of the same batches, unless --train.minutes is given here: a limit of minutes in the
    recipe is left out. --evaluate.every-num is the number of samples of a measurement.
    """


def main(args: Sequence[str]) -> int:
    """The study. Exit code 0 when all is done, 130 when a signal stopped it (the same command goes on)."""
    options = over_recipe("study scaling", Options, Recipe, args)
    if not options.data.source:
        raise UserError("--data is missing: expected digits, a folder of images or a .zip of one")
    if options.out is None:
        raise UserError("--out is missing: expected the study's folder, such as --out runs/scaling")
    from ditkit.app.scaling_study.study import Wanted, study

    timed = any(arg.split("=")[0] == "--train.minutes" for arg in args)
    wanted = Wanted.of(
        recipe_in(options, Recipe),
        sizes=options.sizes,
        patches=options.patches,
        budgets=options.budget,
        evaluations=options.evaluations,
        looks=options.looks,
        timed=timed,
        metric=options.metric,
        network=(options.features, options.features_weights),
    )
    stopped = study(wanted, options.out)
    if stopped:
        print(f"stopped by {stopped.signal}; nothing is lost, go on with the same command", file=sys.stderr)
    return 130 if stopped else 0
