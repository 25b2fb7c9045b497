"""Floor 5: a sweep of ditkit evaluate for readers: its variants by name, a table, a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ditkit.app.report.charts import Dots, Line, Linear, Mark
from ditkit.app.report.svg import Whiskers, series, svg_chart
from ditkit.app.report.words import aligned, metric_text
from ditkit.base.files import write_json, write_text
from ditkit.evaluate.protocol import differences

NOT_METRICS = {"seconds_per_sample", "classifier_heldout_accuracy", "copies", "copies_in_features"}


def named_variants(results: Sequence[dict[str, Any]]) -> list[str]:
    """A name for each result of a sweep: what its protocol does not share with all others."""
    kept = [{k: p["protocol"].get(k) for k in ("sampling", "weights")} for p in results]
    varied = list(dict.fromkeys(key for other in kept[1:] for key in differences(kept[0], other)))
    leaves = [{key: _leaf(p, key) for key in varied} for p in kept]
    return [", ".join(f"{key.removeprefix('sampling.')} {value}" for key, value in leaf.items()) for leaf in leaves]


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
    error = f" ± {entry['standard_error']:.2g}" if "standard_error" in entry else ""
    return f"{entry['value']:.4g}{error}"


def sweep_table(results: Sequence[dict[str, Any]]) -> str:
    """A sweep as a table in Markdown, its columns aligned."""
    keys = metric_names(results)
    rows = [["Variant", *(metric_text(key).title for key in keys), "Protocol"]]
    for name, found in zip(named_variants(results), results, strict=True):
        rows.append([name, *(entry_text(found.get(key)) for key in keys), found["protocol_hash"][:12]])
    return aligned(rows)


def sweep_plot(results: Sequence[dict[str, Any]]) -> str:
    """The first metric over the guidance scale, a line for all else that varies, whiskers of a standard error."""
    key = metric_names(results)[0]
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for name, found in zip(named_variants(results), results, strict=True):
        rest = ", ".join(part for part in name.split(", ") if not part.startswith("guidance ")) or "guidance"
        entry = found[key]
        point = (found["protocol"]["sampling"]["guidance"], entry["value"], entry.get("standard_error", 0.0))
        lines.setdefault(rest, []).append(point)
    marks: list[Mark] = []
    for k, points in enumerate(lines.values()):
        x, y, error = np.array(sorted(points)).T
        marks += [Whiskers(x, y - error, y + error, series(k)), Dots(x, y, series(k))]
        marks += [Line(x, y, series(k))] if len(x) > 1 else []
    whiskers = [mark for mark in marks if isinstance(mark, Whiskers)]
    title = metric_text(key).title
    best = min(results, key=lambda found: found[key]["value"])
    said = f"{title} over the guidance scale for {', '.join(lines)}; the least is {entry_text(best[key])}."
    return svg_chart(
        f"{title} of the variants",
        marks,
        Linear.over(*(w.x for w in whiskers)),
        Linear.over(*(w.low for w in whiskers), *(w.high for w in whiskers)),
        x_label="guidance scale",
        y_label=title,
        alt=said,
        legend=[(series(k), name) for k, name in enumerate(lines)],
    )


def write_sweep(folder: Path, results: Sequence[dict[str, Any]]) -> None:
    """Writes results.json, table.md and plot.svg."""
    write_json(folder / "results.json", list(results))
    write_text(folder / "table.md", sweep_table(results) + "\n")
    write_text(folder / "plot.svg", sweep_plot(results) + "\n")
