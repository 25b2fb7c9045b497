"""Numbers and metrics in plain words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence


def number(value: float) -> str:
    """Four significant digits: 0.9621, 12.35, 1,234, 1.2e-05; "not finite" for NaN and infinities."""
    if not math.isfinite(value):
        return "not finite"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    decimals = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".rstrip("0").rstrip(".") if decimals else f"{value:,.0f}"


def percent(value: float) -> str:
    """A fraction in percent with one decimal."""
    return f"{100 * value:.1f}%" if math.isfinite(value) else "not finite"


def compact(value: float) -> str:
    """A short label for an axis: 0.05, 20k, 1.5M, 1e-05."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """A duration in the units that suit it: 41 ms, 3.2 s, 5 min 12 s, 2 h 05 min."""
    if not math.isfinite(seconds):
        return "not finite"
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02d} min"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


@dataclasses.dataclass(frozen=True)
class MetricText:
    """How a metric is named and explained. fraction: it lies in 0..1 and is shown in percent."""

    title: str
    meaning: str
    better: str
    fraction: bool = False


def metric_text(key: str) -> MetricText:
    """The words for a metric key of metrics.json; a key without an entry below is shown under its own name."""
    return METRICS.get(key) or MetricText(key.replace("_", " ").capitalize(), "", "")


METRICS = {
    "class_accuracy": MetricText(
        "Class accuracy",
        "Share of samples in which a classifier trained on real images sees the class that was asked for.",
        "higher",
        fraction=True,
    ),
    "classifier_heldout_accuracy": MetricText(
        "Classifier on real images",
        "How often that classifier is right on real images it never saw: the ceiling for class accuracy.",
        "higher",
        fraction=True,
    ),
    "frechet_distance": MetricText(
        "Fréchet distance",
        "How far samples and real images lie apart as two clouds in the classifier’s features; 0 is the same cloud.",
        "lower",
    ),
    "spatial_frechet_distance": MetricText(
        "Spatial Fréchet distance",
        "The same in features that still know where in the image they are; 0 is the same cloud.",
        "lower",
    ),
    "kernel_distance": MetricText(
        "Kernel distance",
        "How far both clouds lie apart by a cubic kernel: unbiased, so that 0 on average is the same cloud.",
        "lower",
    ),
    "precision": MetricText(
        "Precision",
        "Share of samples that lie where real images lie: how believable they are.",
        "higher",
        fraction=True,
    ),
    "recall": MetricText(
        "Recall",
        "Share of real images that lie where samples lie: how much of the variety is covered.",
        "higher",
        fraction=True,
    ),
}
