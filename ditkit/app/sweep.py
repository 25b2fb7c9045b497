"""Floor 5: a sweep of ditkit evaluate for readers: its variants by name, a table, a plot."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ditkit.app.report.axes import Linear, Log, Scale
from ditkit.app.report.charts import Figure
from ditkit.app.report.marks import Dots, Line, Mark, Whiskers
from ditkit.app.report.series import series
from ditkit.app.report.svg import svg_chart
from ditkit.app.report.words import aligned, metric_text, with_error
from ditkit.base.files import write_json, write_text
from ditkit.evaluate.protocol import differences

NOT_METRICS = {"seconds_per_sample", "classifier_heldout_accuracy", "copy_rate", "copy_rate_in_features"}


def named_variants(results: Sequence[dict[str, Any]]) -> list[str]:
    """A name for each result of a sweep: what its protocol does not share with all others."""
    return [_name(leaf) for leaf in _varied(results)]


def _varied(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What each result's way of drawing does not share with all others, by names for readers."""
    kept = [{"sampling": r["protocol"].get("sampling"), "weights": _weights(r["protocol"])} for r in results]
    varied = list(dict.fromkeys(key for other in kept[1:] for key in differences(kept[0], other)))
    return [{key.removeprefix("sampling."): _leaf(p, key) for key in varied} for p in kept]


def _weights(protocol: dict[str, Any]) -> str:
    """The weights by name, an average by its length too."""
    decay = protocol.get("ema_decay")
    return str(protocol.get("weights")) if decay is None else f"{protocol['weights']} {decay}"


def _name(leaf: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in leaf.items())


def _leaf(value: Any, place: str) -> Any:
    for part in place.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def metric_names(results: Sequence[dict[str, Any]]) -> list[str]:
    """The metrics of results, in order, without speed, copies and the judge's own accuracy."""
    keys = dict.fromkeys(k for found in results for k, v in found.items() if isinstance(v, dict) and "value" in v)
    return [key for key in keys if key not in NOT_METRICS]


def entry_text(entry: dict[str, Any] | None) -> str:
    """A metric's value with its standard error, where it is known."""
    if entry is None:
        return "–"
    return with_error(entry["value"], entry.get("standard_error"))


def sweep_table(results: Sequence[dict[str, Any]]) -> str:
    """A sweep as a table in Markdown, its columns aligned."""
    keys = metric_names(results)
    rows = [["Variant", *(metric_text(key).title for key in keys), "Protocol"]]
    for name, found in zip(named_variants(results), results, strict=True):
        rows.append([name, *(entry_text(found.get(key)) for key in keys), found["protocol_hash"][:12]])
    return aligned(rows)


@dataclasses.dataclass(frozen=True)
class Axis:
    """What a sweep can be drawn over. varies: the key by which variants differ in it. value: of a protocol; None: it
    has no number.
    """

    title: str
    varies: str
    value: Callable[[dict[str, Any]], float | None]
    scale: Callable[..., Scale]


def _length(protocol: dict[str, Any]) -> float | None:
    """How many steps the weights are averaged over: 1 / (1 - decay); of the weights themselves 1."""
    decay = protocol.get("ema_decay")
    if decay is None:
        return 1.0 if protocol.get("weights") == "weights" else None
    return 1 / (1 - decay) if decay < 1 else None


def _steps(protocol: dict[str, Any]) -> float | None:
    steps = protocol["sampling"]["steps"]
    return float(steps) if steps.isdecimal() else None


AXES = (
    Axis("guidance scale", "guidance", lambda protocol: protocol["sampling"]["guidance"], Linear.over),
    Axis("steps", "steps", _steps, Log.over),
    Axis("length of the moving average, 1 / (1 - decay) steps", "weights", _length, Log.over),
)
"""The first that varies is drawn over, the guidance scale where none does."""


def _axis(results: Sequence[dict[str, Any]]) -> Axis:
    for axis in AXES:
        values = {axis.value(found["protocol"]) for found in results}
        if len(values) > 1 and None not in values:
            return axis
    return AXES[0]


def _drawn(keys: Sequence[str]) -> str:
    """The metric that is drawn: the first distance, else the first of all."""
    return min(keys, key=lambda key: metric_text(key).better != "lower")


def sweep_plot(results: Sequence[dict[str, Any]]) -> str:
    """A distance over what varies (see ``AXES``), a line for all else that does, whiskers of a standard error."""
    key, axis = _drawn(metric_names(results)), _axis(results)
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for leaf, found in zip(_varied(results), results, strict=True):
        rest = _name({k: v for k, v in leaf.items() if k != axis.varies}) or axis.varies
        entry = found[key]
        x = axis.value(found["protocol"])
        assert x is not None
        lines.setdefault(rest, []).append((x, entry["value"], entry.get("standard_error", 0.0)))
    marks: list[Mark] = []
    for k, points in enumerate(lines.values()):
        x, y, error = np.array(sorted(points)).T
        line = [Line(x, y, series(k))] if len(x) > 1 else []
        marks += [Whiskers(x, y - error, y + error, series(k)), *line, Dots(x, y, series(k))]
    whiskers = [mark for mark in marks if isinstance(mark, Whiskers)]
    text = metric_text(key)
    best = (max if text.better == "higher" else min)(results, key=lambda found: found[key]["value"])
    said = f"{text.title} over the {axis.title} for {', '.join(lines)}; the best is {entry_text(best[key])}."
    return svg_chart(
        Figure(
            f"{text.title} of the variants",
            marks,
            axis.scale(*(w.x for w in whiskers)),
            Linear.over(*(w.low for w in whiskers), *(w.high for w in whiskers)),
            x_label=axis.title,
            y_label=f"{text.title} ({text.better} is better)" if text.better else "",
            alt=said,
            legend=[(series(k), name) for k, name in enumerate(lines)] if len(lines) > 1 else [],
        )
    )


def write_sweep(folder: Path, results: Sequence[dict[str, Any]]) -> None:
    """Writes results.json, table.md and plot.svg."""
    write_json(folder / "results.json", list(results))
    write_text(folder / "table.md", sweep_table(results) + "\n")
    write_text(folder / "plot.svg", sweep_plot(results) + "\n")
