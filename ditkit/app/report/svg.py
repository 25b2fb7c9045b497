"""A chart as one SVG file, for pages that are not ours: its axes, labels, colours and background are in it."""

from __future__ import annotations

import numpy as np

from ditkit.app.report.axes import Scale
from ditkit.app.report.charts import Figure
from ditkit.app.report.html import Html, element, join
from ditkit.app.report.labels import GAP, LETTER
from ditkit.app.report.series import style
from ditkit.app.report.words import compact

WIDTH, LEFT, RIGHT, TOP, HEIGHT = 640, 60, 20, 64, 330
"""The figure's width, its margins, the top and height of the plot, in units of 1.25 pixels where there is room."""
PLOT = WIDTH - LEFT - RIGHT
KEY, ROW = 56, 22
"""Of an entry of the legend: the width beside its text, and its height."""
LARGER = 1.25
"""Pixels to a unit: large enough to read where a page halves the figure, and not too large alone."""


def svg_chart(figure: Figure) -> Html:
    """The figure, its legend below the plot."""
    longest = max((len(text) for _, text in figure.legend), default=1)
    columns = max(1, int((WIDTH - LEFT) // (KEY + LETTER * longest)))
    rows = -(-len(figure.legend) // columns)
    legend_top = TOP + HEIGHT + 62
    height = legend_top + (ROW * rows if rows else -8)
    keys = (
        _key(figure, css, text, LEFT + k % columns * ((WIDTH - LEFT) / columns), legend_top + ROW * (k // columns))
        for k, (css, text) in enumerate(figure.legend)
    )
    return element(
        "svg",
        element("title", figure.alt),
        element("style", Html(_style())),
        element("rect", width=str(WIDTH), height=str(height), rx="8", class_="card"),
        element("text", figure.title, x="16", y="28", class_="title"),
        element("text", figure.y_label, x="16", y="48") if figure.y_label else None,
        _axes(figure.x, figure.y),
        element("text", figure.x_label, x=str(LEFT + PLOT), y=str(TOP + HEIGHT + 40), text_anchor="end"),
        element(
            "svg",
            figure.drawn(),
            x=str(LEFT),
            y=str(TOP),
            width=str(PLOT),
            height=str(HEIGHT),
            viewBox="0 0 1000 1000",
            preserveAspectRatio="none",
            overflow="visible",
        ),
        _names(figure),
        *keys,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {WIDTH} {height}",
        width=f"{LARGER * WIDTH:.0f}",
        height=f"{LARGER * height:.0f}",
        role="img",
        class_="figure",
    )


def _axes(x: Scale, y: Scale) -> Html:
    x_ticks, y_ticks = x.ticks(5), y.ticks(5)
    rights = LEFT + x(np.asarray(x_ticks)) * PLOT
    downs = TOP + (1 - y(np.asarray(y_ticks))) * HEIGHT
    lines = [f"M{place:.1f},{TOP}v{HEIGHT}" for place in rights] + [f"M{LEFT},{place:.1f}h{PLOT}" for place in downs]
    return join(
        element("path", d="".join(lines), class_="grid"),
        *(
            element("text", compact(tick), x=f"{place:.1f}", y=str(TOP + HEIGHT + 20), text_anchor="middle")
            for tick, place in zip(x_ticks, rights, strict=True)
        ),
        *(
            element("text", compact(tick), x=str(LEFT - 8), y=f"{place + 5:.1f}", text_anchor="end")
            for tick, place in zip(y_ticks, downs, strict=True)
        ),
    )


_TURNED = {
    "right": (GAP, 5.0, "start"),
    "left": (-GAP, 5.0, "end"),
    "above": (0.0, -GAP, "middle"),
    "below": (0.0, GAP + 11.0, "middle"),
}
"""From a point to the foot of its name, and the end of it that stands there, by side."""


def _names(figure: Figure) -> Html:
    """The labels of points."""
    return join(
        *(
            element(
                "text",
                label.text,
                x=f"{LEFT + right * PLOT + _TURNED[side][0]:.1f}",
                y=f"{TOP + (1 - up) * HEIGHT + _TURNED[side][1]:.1f}",
                text_anchor=_TURNED[side][2],
                class_="point",
            )
            for label, side, right, up in figure.placed()
        )
    )


def _key(figure: Figure, css: str, text: str, left: float, middle: float) -> Html:
    return join(
        element("g", figure.key(css), transform=f"translate({left:.1f} {middle})"),
        element("text", text, x=f"{left + 36:.1f}", y=f"{middle + 5}"),
    )


def _style() -> str:
    return (
        ".figure{max-width:100%;height:auto}"
        ".figure text{font:13.5px system-ui,sans-serif;fill:#5b6068}.figure .title{font-size:16px;font-weight:600}"
        ".figure .title,.figure .point{fill:#1b1c1e}.figure .card{fill:#fff}"
        ".figure path{fill:none;vector-effect:non-scaling-stroke;stroke-linejoin:round;stroke-linecap:round;"
        "stroke-width:2}.figure .grid{stroke:#dcdee2;stroke-width:1}.figure .whiskers{stroke-width:1.5}"
        ".figure .rule{stroke:#5b6068;stroke-width:1.5;stroke-dasharray:4 4}"
        ".figure path.hole{stroke:#fff}.figure .point{paint-order:stroke;stroke:#fff;stroke-width:3}"
        f"{style()}@media screen and (prefers-color-scheme:dark)"
        "{.figure{color-scheme:dark}.figure text{fill:#b4bac4}.figure .rule{stroke:#b4bac4}"
        ".figure .grid{stroke:#3a3e45}.figure .card{fill:#1b1d21}"
        ".figure .title,.figure .point{fill:#e9eaec}.figure path.hole,.figure .point{stroke:#1b1d21}}"
    )
