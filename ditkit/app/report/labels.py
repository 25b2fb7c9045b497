"""Where the names of points stand: beside them, clear of one another as far as there is room."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from ditkit.app.report.axes import Scale
from ditkit.app.report.marks import Dots, Mark, Whiskers

SIDES = {"right": (0.5, 0.0), "left": (-0.5, 0.0), "above": (0.0, 0.5), "below": (0.0, -0.5)}
"""Which way a name goes from its point, as shares of its width and height; the first are preferred."""
LETTER, LINE, GAP = 7.5, 16.0, 9.0
"""A letter's width, a line's height, and the distance to the point, in pixels."""
ROOM = (260.0, 250.0)
"""Width and height in pixels of the plot that the names are placed for: a wider one has more room for them."""


@dataclasses.dataclass(frozen=True)
class Label:
    """The name of the point (x, y)."""

    x: float
    y: float
    text: str


def sides(labels: Sequence[Label], marks: Sequence[Mark], x: Scale, y: Scale) -> list[str]:
    """The side of each label (a key of ``SIDES``): one by one, that which covers the least of what is there already."""
    room = np.asarray(ROOM)
    taken = [box for mark in marks for box in _boxes(mark, x, y)]
    chosen = []
    for label in labels:
        point = np.array([x(np.array([label.x]))[0], y(np.array([label.y]))[0]]) * room
        places = {side: _place(point, label.text, way) for side, way in SIDES.items()}
        covered = {side: _outside(box) + sum(_shared(box, other) for other in taken) for side, box in places.items()}
        chosen.append(min(covered, key=lambda side: covered[side]))  # the first of equals
        taken.append(places[chosen[-1]])
    return chosen


_Box = tuple[float, float, float, float]
"""Left, right, bottom and top in pixels."""


def _place(point: np.ndarray, text: str, way: tuple[float, float]) -> _Box:
    width, height = LETTER * len(text), LINE
    across, up = point[0] + way[0] * (width + 2 * GAP), point[1] + way[1] * (height + 2 * GAP)
    return across - width / 2, across + width / 2, up - height / 2, up + height / 2


def _boxes(mark: Mark, x: Scale, y: Scale) -> list[_Box]:
    """What a label should not cover: dots and whiskers."""
    width, height = ROOM
    if isinstance(mark, Dots):
        ends = zip(x(mark.x) * width, y(mark.y) * height, y(mark.y) * height, strict=True)
    elif isinstance(mark, Whiskers):
        ends = zip(x(mark.x) * width, y(mark.low) * height, y(mark.high) * height, strict=True)
    else:
        return []
    return [(across - 4, across + 4, low - 4, high + 4) for across, low, high in ends]


def _shared(one: _Box, other: _Box) -> float:
    """The area of both boxes."""
    width = min(one[1], other[1]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[2], other[2])
    return width * height if width > 0 and height > 0 else 0.0


def _outside(box: _Box) -> float:
    """The area of a box that is beyond the plot, twice: text that is cut off is worse than text on text."""
    inside = _shared(box, (0.0, ROOM[0], 0.0, ROOM[1]))
    return 2 * ((box[1] - box[0]) * (box[3] - box[2]) - inside)
