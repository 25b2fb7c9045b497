"""The page of an autoencoder's run: what it makes of images, and the latents that it puts them into."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ditkit.app.report import numbers, training
from ditkit.app.report.data import ReportData
from ditkit.app.report.html import Html, element, join, table
from ditkit.app.report.page import Section
from ditkit.app.report.strips import rows, sheet
from ditkit.app.report.words import number

if TYPE_CHECKING:
    from ditkit.app.pictures import Images

COLUMNS = 10
"""Images beside each other on the page."""


@dataclasses.dataclass(frozen=True)
class AutoencoderData(ReportData):
    """What an autoencoder's page shows besides.

    pairs: images and their reconstructions, (N, C, H, W) uint8 each; which: what images they are, in words.
    latents: mean and standard deviation of each latent channel before normalisation.
    """

    pairs: tuple[Images, Images] | None = None
    which: str = ""
    latents: Sequence[tuple[float, float]] = ()


def reconstructions(data: ReportData) -> Html:
    """Each image above its reconstruction."""
    assert isinstance(data, AutoencoderData)
    assert data.pairs is not None
    images, made = data.pairs
    strips = []
    for first in range(0, len(images), COLUMNS):
        for name, shown in (("image", images), ("reconstruction", made)):
            row = shown[first : first + COLUMNS]
            strips.append((name, sheet(row, COLUMNS, alt=f"{len(row)} images: {name}s")))
    said = f"Not picked by hand: {data.which}. Each reconstruction stands below its image."
    return join(element("p", said), rows(strips, label="Images and their reconstructions"))


def latents(data: ReportData) -> Html:
    """Mean and standard deviation by channel."""
    assert isinstance(data, AutoencoderData)
    cells = [[str(i), number(mean), number(std)] for i, (mean, std) in enumerate(data.latents)]
    said = "Before normalisation; shift and scale of the autoencoder bring all of them together to mean 0, deviation 1."
    return join(
        element("p", said), table(["Channel", "Mean", "Standard deviation"], cells, caption="Latents by channel")
    )


SECTIONS = (
    Section("pairs", "Reconstructions", reconstructions, "no image was reconstructed."),
    Section("log", "Training", training.curves, "the run has no log.jsonl."),
    Section("latents", "Latents", latents, "the latents were not measured."),
    Section("metrics", "Metrics", numbers.metrics, "the run has not been measured; ditkit evaluate does that."),
    Section("recipe", "Recipe", numbers.recipe, "the run has no recipe.yaml."),
    Section("environment", "Environment", numbers.environment, "the environment was not recorded."),
    Section("command", "How this page was made", numbers.command, "the command line was not recorded."),
)
