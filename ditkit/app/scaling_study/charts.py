"""The figures of a scaling study (Peebles & Xie 2023, figures 2, 6, 8, 9 and 10), for the user's own data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from ditkit.app.report.axes import Linear, Log, Scale
from ditkit.app.report.charts import Figure
from ditkit.app.report.labels import Label
from ditkit.app.report.marks import Dots, Line, Mark, Whiskers
from ditkit.app.report.series import series
from ditkit.app.report.words import metric_text, number
from ditkit.app.scaling_study.results import Entry, Findings
from ditkit.app.scaling_study.sampling import value_of
from ditkit.evaluate.scaling import Fit

GIGA, TERA = 1e9, 1e12


def figures(found: Findings) -> dict[str, Figure]:
    """Charts by name; those that have no points yet are left out."""
    law = found.law
    made = {
        "steps": _over_steps(found),
        "model": _over_model(found),
        "training": _over_training(found, law),
        "sampling": _over_sampling(found),
    }
    return {name: figure for name, figure in made.items() if figure}


def _over_steps(found: Findings) -> Figure | None:
    lines = [(e, [look.step for look in e.looks], [look.value for look in e.looks]) for e in found.entries]
    return _lines(found, lines, "during training", "training steps", Linear.over)


def _over_training(found: Findings, law: Fit | None) -> Figure | None:
    lines = [(e, _spent(e), [look.value for look in e.looks]) for e in found.entries]
    extra: list[tuple[np.ndarray, np.ndarray, str]] = []
    if law:
        c = np.geomspace(*law.range, 50)
        extra = [(c / TERA, law.law(c), "fitted law")]
    x = "total training compute (Tmac)"
    return _lines(found, lines, "against training compute", x, Log.over, extra)


def _over_sampling(found: Findings) -> Figure | None:
    lines = []
    for e in found.entries:
        points = [(p.passes * e.candidate.multiply_adds / GIGA, value_of(p, found.metric)) for p in e.sampled]
        known = [(x, y) for x, y in points if np.isfinite(y)]
        lines.append((e, [x for x, _ in known], [y for _, y in known]))
    return _lines(found, lines, "against sampling compute", "sampling compute (Gmac per image)", Log.over)


def _over_model(found: Findings) -> Figure | None:
    if not found.measured:
        return None
    lines = [(e, [e.candidate.multiply_adds / GIGA], [e.last.value] if e.last else []) for e in found.entries]
    measured = found.correlation
    said = "" if measured is None else f"; correlation with its logarithm: {measured.value:.2f}"
    x_label = f"forward pass (Gmac per image{said})"
    figure = _lines(found, lines, "against model compute", x_label, Log.over)
    names = [Label(x, y, e.candidate.name) for e, (x,), ys in lines for y in ys]
    return figure and dataclasses.replace(figure, legend=(), labels=names)


def _spent(entry: Entry) -> list[float]:
    return [entry.candidate.training_multiply_adds(look.step) / TERA for look in entry.looks]


def _lines(
    found: Findings,
    lines: Sequence[tuple[Entry, Sequence[float], Sequence[float]]],
    what: str,
    x_label: str,
    x_axis: Callable[..., Scale],
    extra: Sequence[tuple[np.ndarray, np.ndarray, str]] = (),
) -> Figure | None:
    """A line for each model that has points, whiskers of a standard error where the points are those of training."""
    marks: list[Mark] = []
    legend: list[tuple[str, str]] = []
    for k, (entry, xs, ys) in enumerate(lines):
        if not len(ys):
            continue
        x, y = np.array(xs, float), np.array(ys, float)
        line = [Line(x, y, series(k))] if len(x) > 1 else []
        marks += [*_whiskers(entry, x, y, series(k)), *line, Dots(x, y, series(k))]
        legend.append((series(k), entry.candidate.name))
    if not marks:
        return None
    for x, y, name in extra:
        marks.append(Line(x, y, "rule"))
        legend.append(("rule", name))
    title = metric_text(found.metric).title
    return Figure(
        f"{title} {what}",
        marks,
        x_axis(*(m.x for m in marks if isinstance(m, Dots))),
        _value_axis(marks),
        x_label=x_label,
        y_label=f"{title} ({found.better} is better)",
        alt=_words(title, what, lines),
        legend=legend,
    )


def _whiskers(entry: Entry, x: np.ndarray, y: np.ndarray, css: str) -> list[Mark]:
    errors = {look.value: look.standard_error or 0.0 for look in entry.looks}
    error = np.array([errors.get(value, 0.0) for value in y])
    return [Whiskers(x, np.maximum(y - error, y / 2), y + error, css)] if error.any() and (y > 0).all() else []


def _value_axis(marks: Sequence[Mark]) -> Scale:
    ends = [m.y for m in marks if isinstance(m, Dots)]
    ends += [end for m in marks if isinstance(m, Whiskers) for end in (m.low, m.high)]
    return Log.over(*ends) if all((end > 0).all() for end in ends) else Linear.over(*ends)


def _words(title: str, what: str, lines: Sequence[tuple[Entry, Sequence[float], Sequence[float]]]) -> str:
    last = [f"{entry.candidate.name} {number(ys[-1])}" for entry, _, ys in lines if len(ys)]
    return f"{title} {what}. Last points: {', '.join(last)}."
