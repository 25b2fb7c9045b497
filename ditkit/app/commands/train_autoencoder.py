"""Train an autoencoder for latent diffusion: ditkit train-autoencoder [RECIPE] --data SOURCE --out RUN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic.dataclasses import dataclass
from tyro.conf import Positional, arg

from ditkit.app.launch import Where, launch
from ditkit.app.recipe import AutoencoderRecipe
from ditkit.app.recipe_files import ready
from ditkit.train.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Options(Where, AutoencoderRecipe):
    """Train an autoencoder (Rombach et al. 2022, section 3.1); the run is one for ditkit encode --autoencoder RUN.

    Every leaf of the recipe can be overridden here.
    """

    recipe: Annotated[str | None, Positional, arg(help_behavior_hint=ready(AutoencoderRecipe))] = None
    """A recipe: a .py or .yaml file, or a ready one by name."""


def main(args: Sequence[str]) -> int:
    """The command. Exit code 0 when trained, 130 when a signal stopped it (it can be resumed)."""
    return launch("train-autoencoder", Options, AutoencoderRecipe, args)
