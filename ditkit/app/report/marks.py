"""What is drawn into a chart: lines, dots, whiskers, histograms, rules; and curves made lighter and smoother."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Protocol

import numpy as np

from ditkit.app.report.axes import Scale

UNIT = 1000
"""The plot area is a square of this many units, stretched to the box that the page gives it."""


class Mark(Protocol):
    """Something drawn into the plot area. css: its classes, which give it colour, dash and shape (see ``series``).

    key: the path data of it in a legend, in a box of 28 x 10 about the middle of its left side.
    """

    key: ClassVar[str]

    @property
    def css(self) -> str: ...

    def path(self, x: Scale, y: Scale) -> str:
        """The SVG path data."""
        ...


@dataclasses.dataclass(frozen=True)
class Line:
    """A line through the points."""

    x: np.ndarray
    y: np.ndarray
    css: str
    key: ClassVar[str] = "M1,0h26"

    def path(self, x: Scale, y: Scale) -> str:
        return "M" + " ".join(_points(x(self.x), y(self.y)))


@dataclasses.dataclass(frozen=True)
class Whiskers:
    """One vertical line a point, from low to high."""

    x: np.ndarray
    low: np.ndarray
    high: np.ndarray
    css: str
    key: ClassVar[str] = ""

    def path(self, x: Scale, y: Scale) -> str:
        ends = zip(x(self.x) * UNIT, (1 - y(self.low)) * UNIT, (1 - y(self.high)) * UNIT, strict=True)
        return "".join(f"M{a:.1f},{low:.1f}V{high:.1f}" for a, low, high in ends)


@dataclasses.dataclass(frozen=True)
class Dots:
    """One dot a point: a stroke of no length with round ends, which stays round when the plot is stretched."""

    x: np.ndarray
    y: np.ndarray
    css: str
    key: ClassVar[str] = "M14,0h0"

    def path(self, x: Scale, y: Scale) -> str:
        return "".join(f"M{point}h0" for point in _points(x(self.x), y(self.y)))


@dataclasses.dataclass(frozen=True)
class Steps:
    """A histogram's outline: ``heights`` (n,) over ``edges`` (n + 1,), closed along zero."""

    edges: np.ndarray
    heights: np.ndarray
    css: str
    key: ClassVar[str] = "M1,4v-8h26v8z"

    def path(self, x: Scale, y: Scale) -> str:
        xs = np.repeat(self.edges, 2)
        ys = np.concatenate([[0.0], np.repeat(self.heights, 2), [0.0]])
        return "M" + " ".join(_points(x(xs), y(ys))) + "Z"


@dataclasses.dataclass(frozen=True)
class Rule:
    """A vertical line at one value of x."""

    x: float
    css: str = "rule"
    key: ClassVar[str] = "M1,0h26"

    def path(self, x: Scale, y: Scale) -> str:
        (place,) = x(np.asarray([self.x]))
        return f"M{place * UNIT:.1f},0V{UNIT}"


def _points(x: np.ndarray, y: np.ndarray) -> list[str]:
    return [f"{a:.0f},{b:.0f}" for a, b in zip(x * UNIT, (1 - y) * UNIT, strict=True)]


def thinned(x: np.ndarray, y: np.ndarray, buckets: int = 250) -> tuple[np.ndarray, np.ndarray]:
    """The curve with at most two points (the least and the greatest y) in each of ``buckets`` equal runs of points."""
    if len(x) <= 2 * buckets:
        return x, y
    runs = np.array_split(np.arange(len(x)), buckets)
    kept = np.unique([run[pick(y[run])] for run in runs for pick in (np.argmin, np.argmax)])
    return x[kept], y[kept]


def smoothed(y: np.ndarray, half: int) -> np.ndarray:
    """The mean over up to ``half`` neighbours on each side (those that exist) and the point itself."""
    place = np.arange(len(y))
    first, last = np.maximum(place - half, 0), np.minimum(place + half + 1, len(y))
    total = np.concatenate([[0.0], np.cumsum(y, dtype=float)])
    return (total[last] - total[first]) / (last - first)
