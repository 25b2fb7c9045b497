"""The sections on training: its curves and the samples along the way."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ditkit.app.report.axes import Linear, Log, Scale
from ditkit.app.report.charts import Figure, chart
from ditkit.app.report.data import ReportData
from ditkit.app.report.html import Html, element, join
from ditkit.app.report.marks import Dots, Line, Mark, Whiskers, smoothed, thinned
from ditkit.app.report.series import series
from ditkit.app.report.strips import filmstrip, sheet
from ditkit.app.report.words import duration, metric_text, number

_SMALL_CHARTS = {"lr": "Learning rate", "grad_norm": "Gradient norm", "images_per_s": "Images per second"}


def curves(data: ReportData) -> Html:
    """The loss, raw and smoothed, on a logarithmic or linear axis; learning rate, gradient norm and speed beside it."""
    log = data.log or []
    small = [_small_chart(log, key, title) for key, title in _SMALL_CHARTS.items()]
    return join(_loss(log), element("div", *small, class_="multiples"))


def curve(log: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Steps and values of ``key`` in order of the steps, and how many records had a value that is not finite."""
    pairs = sorted(
        (float(record["step"]), float(record[key]))
        for record in log
        if record.get(key) is not None and "step" in record
    )
    finite = [(step, value) for step, value in pairs if math.isfinite(value)]
    steps, values = np.asarray(finite, float).reshape(-1, 2).T
    return steps, values, len(pairs) - len(finite)


def _loss(log: Sequence[Mapping[str, Any]]) -> Html:
    steps, values, lost = curve(log, "loss")
    if len(values) == 0:
        return element("p", "Not shown: the log has no finite loss.", class_="absent")
    half = len(values) // 50
    mean = smoothed(values, half)
    marks: list[Mark] = [*_line(*thinned(steps, mean), series(0))]
    legend: list[tuple[str, str]] = []
    if half:  # a mean over one record is the record
        marks = [Dots(*thinned(steps, values), "raw"), *marks]
        legend = [("raw", "logged"), (series(0), f"mean of {2 * half + 1} records")]
    alt = (
        f"Loss from step {number(steps[0])} to {number(steps[-1])}: the {'smoothed ' if half else ''}loss goes from "
        f"{number(mean[0])} to {number(mean[-1])}, at its lowest {number(mean.min())}."
    )
    x = Linear.over(steps, margin=0)
    views: dict[str, Scale] = {"linear": Linear.over(values)}
    if values.min() > 0:
        views = {"log": Log.over(values), **views}
    figures = {
        name: chart(Figure("Loss", marks, x, y, x_label="step", alt=alt, legend=legend), height="tall")
        for name, y in views.items()
    }
    note = f" Left out, because the loss is not finite: {lost:,} of {lost + len(values):,} records." if lost else ""
    return join(_switch(figures), element("p", alt + note, class_="note"))


def _line(x: np.ndarray, y: np.ndarray, css: str) -> list[Mark]:
    """A line through the points; a dot where there is but one, as a line of one point cannot be seen."""
    return [Line(x, y, css)] if len(x) > 1 else [Dots(x, y, css)]


def _switch(views: Mapping[str, Html]) -> Html:
    """Several drawings of one thing in one place, the first shown, chosen by radio buttons without a script."""
    if len(views) == 1:
        return next(iter(views.values()))
    parts: list[Html] = []
    for i, name in enumerate(views):
        parts.append(element("input", type="radio", name_="loss-axis", id=f"axis-{i}", checked=i == 0))
        parts.append(element("label", f"{name} axis", for_=f"axis-{i}"))
    return element("div", *parts, *(element("div", view, class_="view") for view in views.values()), class_="switch")


def _small_chart(log: Sequence[Mapping[str, Any]], key: str, title: str) -> Html | None:
    steps, values, _ = curve(log, key)
    if len(values) == 0:
        return None
    alt = (
        f"{title} by step: between {number(values.min())} and {number(values.max())}, {number(values[-1])} at the end."
    )
    marks = _line(*thinned(steps, values), f"{series(0)} thin")
    x, y = Linear.over(steps, margin=0), Linear.over(values, np.zeros(1))
    return chart(Figure(title, marks, x, y, x_label="step", alt=alt))


def evaluations(data: ReportData) -> Html:
    """The metrics that were measured during training over the steps, with their standard errors, a chart for each."""
    records = sorted(data.evaluations or [], key=lambda record: record["step"])
    keys = dict.fromkeys(key for record in records for key in record["metrics"])
    counts = sorted({entry["samples"] for record in records for entry in record["metrics"].values()})
    explain = (
        f"Measured during training with few samples ({number(counts[0])}"
        f"{'' if len(counts) == 1 else f' to {number(counts[-1])}'}): to be compared along a curve, not with other "
        "numbers. Bars are one standard error."
    )
    charts = [_metric_chart(records, key) for key in keys]
    return join(element("p", explain), element("div", *charts, class_="multiples"))


def _metric_chart(records: Sequence[Mapping[str, Any]], key: str) -> Html:
    found = [(r["step"], r["metrics"][key]) for r in records if key in r["metrics"]]
    steps = np.asarray([step for step, _ in found], float)
    values = np.asarray([entry["value"] for _, entry in found], float)
    errors = np.asarray([entry.get("standard_error", 0.0) for _, entry in found], float)
    text = metric_text(key)
    best = {"lower": np.argmin, "higher": np.argmax}.get(text.better)
    least = f", best at step {number(float(steps[best(values)]))}" if best else ""
    alt = f"{text.title} from {number(values[0])} to {number(values[-1])} at step {number(steps[-1])}{least}."
    marks = [
        Whiskers(steps, values - errors, values + errors, series(0)),
        Line(steps, values, series(0)),
        Dots(steps, values, series(0)),
    ]
    y = Linear.over(values - errors, values + errors)
    return chart(Figure(text.title, marks, Linear.over(steps, margin=0.03), y, x_label="step", alt=alt))


def progress(data: ReportData) -> Html:
    """The sample grids kept during training, first to last; the same seeds and classes in each."""
    seconds = {record["step"]: record["seconds"] for record in data.log or [] if {"step", "seconds"} <= record.keys()}
    frames = []
    for step, images in sorted((data.progress or {}).items()):
        caption = f"step {step:,}" + (f" · {duration(seconds[step])}" if step in seconds else "")
        columns = math.ceil(math.sqrt(len(images)))
        frames.append((caption, sheet(images, columns, alt=f"{len(images)} samples at step {step:,}", cell=32)))
    explain = "The same noise and classes at every step, so that a cell can be followed as the model learns."
    return join(element("p", explain), filmstrip(frames, label="Samples over training"))
