"""Rows of images for the page: one embedded picture per row, its column labels set exactly over the columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ditkit.app.pictures import data_uri, thumbnails
from ditkit.app.report.html import Html, element, scroller

if TYPE_CHECKING:
    from ditkit.app.pictures import Images


_LEAST = 24
"""CSS pixels an image keeps on a narrow page; beyond that the row scrolls sideways."""


def sheet(images: Images, columns: int, *, alt: str, cell: int = 64) -> Html:
    """The images (N, C, H, W) as one picture, ``columns`` a row, each about ``cell`` CSS pixels wide at most."""
    small_NCHW = thumbnails(images)
    w = small_NCHW.shape[3]
    gap = _gap(w)
    factor = cell // w if w <= cell else cell / w  # small ones by a whole factor: every pixel the same size
    width = round(factor * (columns * (w + gap) - gap))
    return element(
        "img",
        src=data_uri(small_NCHW, columns, padding=gap),
        alt=alt,
        class_="pixels" if factor >= 1 else None,
        style=f"width:{width}px;min-width:{min(width, columns * _LEAST)}px",
    )


def _gap(width: int) -> int:
    """Image pixels between neighbours of this width."""
    return max(1, width // 16)


def labelled(images: Images, labels: Sequence[str], *, alt: str, cell: int = 64) -> Html:
    """One row of images (N, C, H, W) with a label above each."""
    w = thumbnails(images[:1]).shape[3]
    whole = len(labels) * (w + _gap(w)) - _gap(w)
    heads = element(
        "div",
        *(element("span", label) for label in labels),
        class_="heads",
        style=f"grid-template-columns:repeat({len(labels)},1fr);column-gap:{100 * _gap(w) / whole:.4f}%",
        aria_hidden="true",
    )
    return element("div", heads, sheet(images, len(labels), alt=alt, cell=cell), class_="labelled")


def rows(named: Sequence[tuple[str, Html]], *, label: str) -> Html:
    """Rows of pictures in a box that scrolls sideways, each with its name at the left (none if all names are empty)."""
    if not any(name for name, _ in named):
        return scroller(*(picture for _, picture in named), label=label)
    parts = [part for name, picture in named for part in (element("dt", name), element("dd", picture))]
    return scroller(element("dl", *parts, class_="rows"), label=label)


def filmstrip(frames: Sequence[tuple[str, Html]], *, label: str) -> Html:
    """Pictures with captions side by side, in a box that scrolls sideways."""
    figures = [element("figure", picture, element("figcaption", caption)) for caption, picture in frames]
    return scroller(element("div", *figures, class_="film"), label=label)
