"""The page: headline, contents and the sections in order, in one HTML file that needs nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from ditkit.app.report import numbers, sections, training
from ditkit.app.report.data import ReportData
from ditkit.app.report.html import Html, element
from ditkit.app.report.shell import page
from ditkit.base.files import write_text


@dataclasses.dataclass(frozen=True)
class Section:
    """One part of the page: drawn from a field of ReportData, or a line with the reason when that is None."""

    field: str
    title: str
    draw: Callable[[ReportData], Html]
    missing: str

    def render(self, data: ReportData) -> Html:
        if not getattr(data, self.field):
            reason = data.missing.get(self.field, self.missing)
            body = element("p", f"Not shown: {reason}", class_="absent")
        else:
            body = self.draw(data)
        return element("section", element("h2", self.title), body, id=self.field)


SECTIONS = (
    Section("samples", "Samples", sections.samples, "no samples were drawn."),
    Section("log", "Training", training.curves, "the run has no log.jsonl."),
    Section("progress", "Samples over training", training.progress, "no sample grids were kept during training."),
    Section(
        "evaluations",
        "Metrics over training",
        training.evaluations,
        "nothing was measured during training; --evaluate-every does that.",
    ),
    Section("sweep", "Guidance", sections.sweep, "no guidance sweep was made."),
    Section("trajectory", "From noise to image", sections.trajectory, "no trajectories were recorded."),
    Section("neighbours", "Nearest training images", sections.neighbours, "no training images were searched."),
    Section(
        "feature_neighbours",
        "Nearest training images in feature space",
        sections.feature_neighbours,
        "no training images were searched.",
    ),
    Section("metrics", "Metrics", numbers.metrics, "the run has not been measured; ditkit evaluate does that."),
    Section("protocol", "Protocol of the metrics", numbers.protocol, "the metrics have no protocol."),
    Section("recipe", "Recipe", numbers.recipe, "the run has no recipe.yaml."),
    Section("environment", "Environment", numbers.environment, "the environment was not recorded."),
    Section("command", "How this page was made", numbers.command, "the command line was not recorded."),
)


def render(data: ReportData, sections: Sequence[Section] = SECTIONS) -> str:
    """The report as one HTML page, without scripts or external resources; all text from ``data`` is escaped."""
    links = [element("li", element("a", section.title, href=f"#{section.field}")) for section in sections]
    return page(
        f"{data.name} · ditkit report",
        element("header", numbers.headline(data)),
        element("nav", element("ul", *links), aria_label="Sections"),
        element("main", *(section.render(data) for section in sections)),
    )


def write_report(path: Path | str, data: ReportData, sections: Sequence[Section] = SECTIONS) -> None:
    """Writes the report to ``path``, atomically. Raises UserError when the device is full."""
    write_text(path, render(data, sections))
