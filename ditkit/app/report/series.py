"""How the series of a chart are told apart: by colour, by dash and by the shape of their dots."""

from __future__ import annotations

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
"""On light and on dark pages."""
DASHES = ("none", "8 5", "2 5", "10 4 2 4")
DOTS = ("", "stroke-linecap:square;stroke-width:6", "stroke-width:8.5", "stroke-linecap:square;stroke-width:7.5")
"""Round, square, and both hollow."""
HOLLOW = {2: "stroke-width:4.5", 3: "stroke-linecap:square;stroke-width:3.5"}
"""The holes of the hollow ones."""


def series(k: int) -> str:
    """The CSS classes of the k-th series.

    The first 16 differ in dash or shape of their dots alone, so without colours too; 32 differ in colour or dash, and
    in lines of one colour in both dash and shape.
    """
    colour, repeat = k % len(COLOURS), k // len(COLOURS)
    return f"c{colour} d{(k + repeat) % len(DASHES)} m{k // len(DASHES) % len(DOTS)}"


def hollow(css: str) -> bool:
    """Whether the dots of these classes have a hole."""
    return any(f"m{shape}" in css.split() for shape in HOLLOW)


def style() -> str:
    """The rules of all series within ``.figure``; on paper the colours are those of light pages."""
    light, dark = ("".join(_colour(k, pair[mode]) for k, pair in enumerate(COLOURS)) for mode in (0, 1))
    dashes = "".join(f".figure .line.d{k}{{stroke-dasharray:{dash}}}" for k, dash in enumerate(DASHES))
    dots = "".join(f".figure .dots.m{k}{{{shape}}}" for k, shape in enumerate(DOTS) if shape)
    holes = "".join(f".figure .hole.m{k}{{{shape}}}" for k, shape in HOLLOW.items())
    return (
        f"{light}@media screen and (prefers-color-scheme:dark){{{dark}}}{dashes}"
        f".figure .dots{{stroke-width:7}}{dots}{holes}"
    )


def _colour(k: int, colour: str) -> str:
    return f".figure .c{k}{{stroke:{colour};color:{colour}}}"
