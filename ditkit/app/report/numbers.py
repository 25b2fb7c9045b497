"""The sections that are words and numbers: headline, metrics, recipe, environment, command."""

from __future__ import annotations

from collections.abc import Iterator

from ditkit.app.report.data import Metric, ReportData
from ditkit.app.report.html import Html, element, join, table
from ditkit.app.report.words import HEADLINE, METRICS, duration, metric_text, number, percent, with_error


def headline(data: ReportData) -> Html:
    """The run's name, what was trained on what, and the key numbers as tiles with a sentence each."""
    trained = f"{data.model}, {data.parameters:,} parameters, trained on {data.data} for {data.step:,} steps."
    tiles = [
        element("div", element("dt", title), element("dd", value, class_="value"), element("dd", meaning))
        for title, value, meaning in _tiles(data)
    ]
    return join(
        element("p", "ditkit report", class_="kicker"),
        element("h1", data.name),
        element("p", trained, class_="lead"),
        element("dl", *tiles, class_="tiles") if tiles else None,
    )


def _tiles(data: ReportData) -> Iterator[tuple[str, str, str]]:
    """(title, value, meaning) of each key number that is there."""
    measured = data.metrics or {}
    for key in HEADLINE:
        if key in measured:
            yield METRICS[key].title, _shown(key, measured[key].value), METRICS[key].meaning
    if (copies := _copies(data)) is not None:
        found, checked = copies
        yield "Copies found", f"{found:,}", f"Samples, of {checked:,} checked, that repeat a training image."
    if data.seconds_per_sample is not None:
        yield "Time per sample", duration(data.seconds_per_sample), "How long it takes to draw one sample here."
    if data.training_seconds is not None:
        yield "Training time", duration(data.training_seconds), "How long the training itself took."


def _copies(data: ReportData) -> tuple[int, int] | None:
    """Copies, and of how many samples: those that were measured, else those of the page; None where none were."""
    measured, near = (data.metrics or {}).get("copy_rate"), data.neighbours
    if measured is not None and measured.samples is not None:
        return round(measured.value * measured.samples), measured.samples
    if near is not None and near.copies is not None:
        return near.copies, len(near.sample_distances)
    return None


def _shown(key: str, value: float) -> str:
    return percent(value) if metric_text(key).fraction else number(value)


def metrics(data: ReportData) -> Html:
    """Every metric with its value, sample count and protocol."""
    rows = [_metric_row(key, metric) for key, metric in (data.metrics or {}).items()]
    return table(["Metric", "Value", "Samples", "Better", "How it was measured"], rows, caption="All measured numbers")


def _metric_row(key: str, metric: Metric) -> list[str]:
    text = metric_text(key)
    count = "–" if metric.samples is None else f"{metric.samples:,}"
    value = with_error(metric.value, metric.error)
    return [text.title, value, count, text.better or "–", metric.note or "–"]


def protocol(data: ReportData) -> Html:
    """What the metrics hang on, folded: results are comparable only where the hash is the same."""
    rows = [[key, str(value)] for key, value in (data.protocol or {}).items()]
    return element(
        "details",
        element("summary", "Two results are comparable only where the whole of this, so its hash, is the same"),
        table([], rows, caption="What the metrics hang on"),
    )


def recipe(data: ReportData) -> Html:
    """The recipe, folded."""
    return element(
        "details",
        element("summary", "recipe.yaml: everything that defines this run"),
        element("pre", data.recipe, tabindex=0),
    )


def environment(data: ReportData) -> Html:
    """The machine and the versions."""
    rows = [[str(key), str(value)] for key, value in (data.environment or {}).items()]
    return table([], rows, caption="Where the run took place")


def command(data: ReportData) -> Html:
    """The command line that made the page."""
    return element("pre", data.command, tabindex=0)
