"""A study of solvers for readers: a table in text, a plot, and both on a page."""

from __future__ import annotations

import numpy as np

from ditkit.app.report.axes import Log
from ditkit.app.report.charts import Figure, chart
from ditkit.app.report.html import Html, element, table
from ditkit.app.report.marks import Dots, Line, Mark, Whiskers
from ditkit.app.report.series import series
from ditkit.app.report.shell import page
from ditkit.app.report.svg import svg_chart
from ditkit.app.report.words import aligned, duration, number, percent
from ditkit.app.solver_study.points import Point, Study
from ditkit.base.files import write_text

HEAD = ["Solver", "Evaluations", "Steps", "Fréchet distance", "Behind the best", "Class accuracy", "Time per sample"]
FEWEST_DISTANCE = 1e-6
"""Where the logarithmic axis would end for distances, or whiskers, of zero."""


def write(study: Study) -> None:
    """Writes table.md, plot.svg and page.html into the study's folder; nothing where there is no point yet."""
    if study.points:
        paragraphs = [table_text(study), *failures(study), notes(study)]
        write_text(study.folder / "table.md", "\n\n".join(paragraphs) + "\n")
        write_text(study.folder / "plot.svg", svg_chart(plot(study)) + "\n")
        write_text(study.folder / "page.html", html(study))


def table_text(study: Study) -> str:
    """The table in Markdown, its columns aligned."""
    return aligned([HEAD, *rows(study)])


def rows(study: Study) -> list[list[str]]:
    """The table's rows, by solver and evaluations."""
    best = study.best()
    return [_row(point, best) for points in study.by_solver().values() for point in points]


def _row(point: Point, best: Point) -> list[str]:
    behind, error = point.behind(best)
    return [
        point.solver,
        number(round(point.evaluations, 1)),
        str(point.steps),
        f"{point.frechet_distance:.4f} ± {point.standard_error:.4f}",
        "best" if point is best else f"{behind:.4f} ± {error:.4f}",
        "–" if point.class_accuracy is None else percent(point.class_accuracy),
        duration(point.seconds_per_sample),
    ]


def failures(study: Study) -> list[str]:
    """A line for each point that could not be had."""
    return [f"No point for {f.solver} in {f.steps} steps: {f.reason}" for f in study.failures]


def notes(study: Study) -> str:
    """What the numbers hang on, and how to tell a difference from noise."""
    p = study.protocol
    first, last = p["seeds"]
    sampling = p["sampling"]
    return (
        f"{p['run']}, step {p['step']}, moving average of the weights; guidance {sampling['guidance']:g}"
        f"{', clipped' if sampling['clip'] else ''}; {last - first + 1:,} samples a point, seeds {first} to {last} and "
        f"the same classes for all, against {p['reference']['images']:,} real images (device {p['device']}, batches of "
        f"{sampling['batch_size']}). Evaluations are counted; a guided pair of conditions, one batched call, counts "
        "once. ± is one standard error (delete-a-group jackknife); in the column 'behind the best' it is that of the "
        "difference itself, whose two sides share their seeds: less than two of them is noise. The distance is biased "
        "upwards with few samples, alike for all points. Times per sample are those of the machine as busy as it was."
    )


def plot(study: Study) -> Figure:
    """Fréchet distance over evaluations, both logarithmic, a line for each solver with whiskers of a standard error."""
    marks: list[Mark] = []
    for k, points in enumerate(study.by_solver().values()):
        x = np.array([p.evaluations for p in points])
        y, error = np.array([[p.frechet_distance, p.standard_error] for p in points]).T.clip(min=FEWEST_DISTANCE)
        low = np.maximum(y - error, y / 2)
        line = [Line(x, y, series(k))] if len(x) > 1 else []
        marks += [Whiskers(x, low, y + error, series(k)), *line, Dots(x, y, series(k))]
    whiskers = [mark for mark in marks if isinstance(mark, Whiskers)]
    best = study.best()
    return Figure(
        "Quality against network evaluations",
        marks,
        Log.over(*(w.x for w in whiskers)),
        Log.over(*(w.low for w in whiskers), *(w.high for w in whiskers)),
        x_label="network evaluations per sample",
        y_label="Fréchet distance to real images (lower is better)",
        alt=f"Fréchet distance over network evaluations of {', '.join(study.by_solver())}. Least: {best.solver} with "
        f"{number(round(best.evaluations, 1))} evaluations, {number(best.frechet_distance)}.",
        legend=[(series(k), name) for k, name in enumerate(study.by_solver())],
    )


def html(study: Study) -> Html:
    """The page: plot and table."""
    title = f"Solvers of {study.protocol['run']}"
    return page(
        f"{title} · ditkit study",
        element("header", element("p", "ditkit study solvers", class_="kicker"), element("h1", title)),
        element(
            "main",
            element("section", chart(plot(study), height="large")),
            element(
                "section",
                table(HEAD, rows(study), caption="All points"),
                *(element("p", line, class_="note") for line in failures(study)),
                element("p", notes(study), class_="note"),
            ),
        ),
    )
