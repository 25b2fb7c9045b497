"""A chart as one SVG file, for pages that are not ours: its axes, labels and colours are in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ditkit.app.report.charts import Mark, Scale
from ditkit.app.report.html import Html, element, join
from ditkit.app.report.words import compact

COLOURS = (
    ("#1f5fd0", "#7aa9ff"),
    ("#c2500a", "#ff9c57"),
    ("#0b7a63", "#4fd1b0"),
    ("#9333a8", "#d99bea"),
    ("#a8780a", "#e8c35a"),
    ("#b3264e", "#ff8fae"),
    ("#4a5560", "#b4bec9"),
    ("#2b7f9e", "#7fd0ec"),
)
"""Of the series in order, on light and on dark pages."""
DASHES = ("", "8 5", "2 5", "10 4 2 4")
"""Lines of one colour differ in these, and neighbours in both."""
LEFT, TOP, WIDTH, HEIGHT, KEYS = 66, 46, 500, 320, 190
"""The plot area's place and size, and the width of the legend on its right, in pixels."""


@dataclasses.dataclass(frozen=True)
class Whiskers:
    """One vertical line a point, from low to high."""

    x: np.ndarray
    low: np.ndarray
    high: np.ndarray
    css: str

    def path(self, x: Scale, y: Scale) -> str:
        ends = zip(x(self.x) * 1000, (1 - y(self.low)) * 1000, (1 - y(self.high)) * 1000, strict=True)
        return "".join(f"M{a:.1f},{low:.1f}V{high:.1f}" for a, low, high in ends)


def series(k: int) -> str:
    """The CSS class of the k-th series."""
    return f"s{k % (len(COLOURS) * len(DASHES))}"


def svg_chart(
    title: str,
    marks: Sequence[Mark],
    x: Scale,
    y: Scale,
    *,
    x_label: str,
    y_label: str,
    alt: str,
    legend: Sequence[tuple[str, str]],
) -> Html:
    """The chart. alt: what it shows, in words. legend: (css class, text) pairs, top down."""
    width, height = LEFT + WIDTH + KEYS, max(TOP + HEIGHT + 52, TOP + 22 * len(legend) + 20)
    paths = [element("path", d=mark.path(x, y), class_=f"{type(mark).__name__.lower()} {mark.css}") for mark in marks]
    return element(
        "svg",
        element("title", alt),
        element("style", Html(_style())),
        element("text", title, x="12", y="24", class_="title"),
        _axes(x, y),
        element("text", x_label, x=str(LEFT + WIDTH), y=str(TOP + HEIGHT + 40), text_anchor="end"),
        element("text", y_label, x="12", y=str(TOP - 6), class_="small"),
        element("svg", *paths, x=f"{LEFT}", y=f"{TOP}", width=f"{WIDTH}", height=f"{HEIGHT}", **_STRETCHED),
        *(_key(k, css, text) for k, (css, text) in enumerate(legend)),
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=str(width),
        height=str(height),
        role="img",
        class_="figure",
    )


_STRETCHED = {"viewBox": "0 0 1000 1000", "preserveAspectRatio": "none", "overflow": "visible"}


def _axes(x: Scale, y: Scale) -> Html:
    x_ticks, y_ticks = x.ticks(5), y.ticks(5)
    rights = LEFT + x(np.asarray(x_ticks)) * WIDTH
    downs = TOP + (1 - y(np.asarray(y_ticks))) * HEIGHT
    lines = [f"M{place:.1f},{TOP}v{HEIGHT}" for place in rights] + [f"M{LEFT},{place:.1f}h{WIDTH}" for place in downs]
    return join(
        element("path", d="".join(lines), class_="grid"),
        *(
            element("text", compact(tick), x=f"{place:.1f}", y=str(TOP + HEIGHT + 18), text_anchor="middle")
            for tick, place in zip(x_ticks, rights, strict=True)
        ),
        *(
            element("text", compact(tick), x=str(LEFT - 8), y=f"{place + 4:.1f}", text_anchor="end")
            for tick, place in zip(y_ticks, downs, strict=True)
        ),
    )


def _key(k: int, css: str, text: str) -> Html:
    left, middle = LEFT + WIDTH + 18, TOP + 12 + 22 * k
    return join(
        element("path", d=f"M{left},{middle}h28", class_=f"line {css}"),
        element("text", text, x=str(left + 36), y=str(middle + 4)),
    )


def _style() -> str:
    light, dark = (
        "".join(f".figure .s{k}{{stroke:{COLOURS[k % len(COLOURS)][mode]}}}" for k in range(len(COLOURS) * len(DASHES)))
        for mode in (0, 1)
    )
    dashes = "".join(
        f".figure .line.s{k}{{stroke-dasharray:{DASHES[(k + k // len(COLOURS)) % len(DASHES)] or 'none'}}}"
        for k in range(len(COLOURS) * len(DASHES))
    )
    return (
        ".figure text{font:12px system-ui,sans-serif;fill:#5b6068}.figure .title{font-size:15px;font-weight:600}"
        ".figure path{fill:none;vector-effect:non-scaling-stroke;stroke-linejoin:round;stroke-linecap:round;"
        "stroke-width:2}.figure .grid{stroke:#dcdee2;stroke-width:1}.figure .dots{stroke-width:7}"
        f".figure .whiskers{{stroke-width:1.5}}{light}{dashes}"
        "@media (prefers-color-scheme: dark){.figure text{fill:#b4bac4}.figure .grid{stroke:#3a3e45}" + dark + "}"
    )
