"""Charts as inline SVG: the lines stretch with the page, the labels keep their size, the colours follow the theme."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from ditkit.app.report.axes import Scale
from ditkit.app.report.html import Html, element, join
from ditkit.app.report.labels import Label, sides
from ditkit.app.report.marks import UNIT, Dots, Mark
from ditkit.app.report.series import hollow
from ditkit.app.report.words import compact


@dataclasses.dataclass(frozen=True)
class Figure:
    """A chart before it is drawn, on a page (``chart``) or as a file of its own (``svg_chart``).

    alt: what it shows, in words. y_label: nothing where the title says it. legend: (css classes, text) of series;
    its keys are drawn as the marks of these classes are. labels: the names of points.
    """

    title: str
    marks: Sequence[Mark]
    x: Scale
    y: Scale
    x_label: str
    alt: str
    y_label: str = ""
    legend: Sequence[tuple[str, str]] = ()
    labels: Sequence[Label] = ()

    def drawn(self) -> Html:
        """The marks as paths in the square of ``UNIT``."""
        return join(*(_path(mark, mark.path(self.x, self.y)) for mark in self.marks))

    def key(self, css: str) -> Html:
        """The marks of these classes as paths in a legend (see ``Mark.key``), one of each kind."""
        kinds = {type(mark): mark for mark in self.marks if mark.css == css and mark.key}
        return join(*(_path(mark, mark.key) for mark in kinds.values()))

    def placed(self) -> Iterator[tuple[Label, str, float, float]]:
        """The labels with their side of the point (see ``labels.SIDES``) and the point's place, 0..1 each."""
        for label, side in zip(self.labels, sides(self.labels, self.marks, self.x, self.y), strict=True):
            (right,), (up,) = self.x(np.asarray([label.x])), self.y(np.asarray([label.y]))
            yield label, side, float(right), float(up)


def _path(mark: Mark, data: str) -> Html:
    path = element("path", d=data, class_=f"{type(mark).__name__.lower()} {mark.css}")
    hole = isinstance(mark, Dots) and hollow(mark.css)
    return join(path, element("path", d=data, class_=f"hole {mark.css}") if hole else None)


def chart(figure: Figure, *, height: str = "") -> Html:
    """The figure with its axes. height: of the plot: "" (small), "tall" or "large"."""
    gridline, labels, longest = _axes(figure.x, figure.y)
    names = [
        element("span", label.text, class_=f"point {side}", style=f"left:{100 * right:.2f}%;bottom:{100 * up:.2f}%")
        for label, side, right, up in figure.placed()
    ]
    keys = [element("li", _key(figure, css), text) for css, text in figure.legend]
    return element(
        "figure",
        element("figcaption", figure.title),
        element("p", figure.y_label, class_="y-label") if figure.y_label else None,
        element(
            "div",
            element(
                "svg",
                gridline,
                figure.drawn(),
                viewBox=f"0 0 {UNIT} {UNIT}",
                preserveAspectRatio="none",
                aria_hidden="true",
            ),
            *labels,
            *names,
            class_=f"plot {height}".strip(),
            role="img",
            aria_label=figure.alt,
        ),
        element(
            "div",
            element("p", figure.x_label, class_="x-label"),
            element("ul", *keys, class_="legend") if keys else None,
            class_="foot",
        ),
        class_="chart figure",
        style=f"--letters:{longest}",
    )


def _key(figure: Figure, css: str) -> Html:
    return element("svg", figure.key(css), viewBox="0 -5 28 10", class_="key", aria_hidden="true")


def _axes(x: Scale, y: Scale) -> tuple[Html, list[Html], int]:
    """The grid lines, as one path, the labels at the ticks of both axes, and the letters of y's longest."""
    x_ticks, y_ticks = x.ticks(5), y.ticks(5)
    x_places, y_places = x(np.asarray(x_ticks)), y(np.asarray(y_ticks))
    lines = [f"M{place:.1f},0V{UNIT}" for place in x_places * UNIT]
    lines += [f"M0,{place:.1f}H{UNIT}" for place in (1 - y_places) * UNIT]
    labels = [
        element("span", compact(tick), class_=css, style=f"{side}:{100 * place:.2f}%")
        for css, side, ticks, places in (("x", "left", x_ticks, x_places), ("y", "bottom", y_ticks, y_places))
        for tick, place in zip(ticks, places, strict=True)
    ]
    longest = max((len(compact(tick)) for tick in y_ticks), default=1)
    return element("path", d="".join(lines), class_="gridline"), labels, longest
