"""Charts as inline SVG: the lines stretch with the page, the labels keep their size, the colours follow the theme."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ditkit.app.report.html import Html, element
from ditkit.app.report.words import compact

_UNIT = 1000
"""The plot area is a square of this many units, stretched to the box that the page gives it."""


class Scale(Protocol):
    """Maps values of one axis to 0..1 and knows where its ticks go."""

    def __call__(self, values: np.ndarray) -> np.ndarray: ...

    def ticks(self, count: int) -> list[float]: ...


@dataclasses.dataclass(frozen=True)
class Linear:
    """A linear axis from low to high."""

    low: float
    high: float

    @classmethod
    def over(cls, *values: np.ndarray, margin: float = 0.05, floor: float | None = None) -> Linear:
        """The axis over all values with a margin on both sides, below ``floor`` only where a value is."""
        low, high = _extent(values)
        pad = (high - low) * margin
        bottom = low - pad if floor is None or low < floor else max(floor, low - pad)
        return cls(bottom, high + pad)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return (np.asarray(values, float) - self.low) / (self.high - self.low)

    def ticks(self, count: int) -> list[float]:
        """At most ``count`` + 1 multiples of 1, 2 or 5 times a power of ten."""
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(m for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9)) * power
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


@dataclasses.dataclass(frozen=True)
class Log:
    """A logarithmic axis from low to high, both positive."""

    low: float
    high: float

    @classmethod
    def over(cls, *values: np.ndarray, margin: float = 0.05) -> Log:
        """The axis over all (positive) values with a margin on both sides."""
        low, high = (math.log(v) for v in _extent(values))
        return cls(math.exp(low - (high - low) * margin), math.exp(high + (high - low) * margin))

    def __call__(self, values: np.ndarray) -> np.ndarray:
        return np.log(np.asarray(values, float) / self.low) / math.log(self.high / self.low)

    def ticks(self, count: int) -> list[float]:
        """Powers of ten, or multiples between them, or every few, whichever comes nearest to ``count``."""
        if self.high < 10 * self.low:
            return Linear(self.low, self.high).ticks(count)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        choices = [[10.0**d for d in decades if d % every == 0] for every in (4, 2, 1)]
        choices += [[m * 10.0**d for d in decades for m in steps] for steps in ((1, 3), (1, 2, 5))]
        inside = [[v for v in choice if self.low <= v <= self.high] for choice in choices]
        return min(inside, key=lambda ticks: abs(len(ticks) - count))


def _extent(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """The least and the greatest value; widened when they are the same, so that an axis has a length."""
    joined = np.concatenate([np.ravel(v) for v in values])
    low, high = float(joined.min()), float(joined.max())
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    return (low / 1.5, high * 1.5) if low > 0 else (low - 1, high + 1)


class Mark(Protocol):
    """Something drawn into the plot area. css: its class, which gives it colour and dash ("series-1")."""

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

    def path(self, x: Scale, y: Scale) -> str:
        return "M" + " ".join(_points(x(self.x), y(self.y)))


@dataclasses.dataclass(frozen=True)
class Dots:
    """One dot a point: a stroke of no length with round ends, which stays round when the plot is stretched."""

    x: np.ndarray
    y: np.ndarray
    css: str

    def path(self, x: Scale, y: Scale) -> str:
        return "".join(f"M{point}h0" for point in _points(x(self.x), y(self.y)))


@dataclasses.dataclass(frozen=True)
class Steps:
    """A histogram's outline: ``heights`` (n,) over ``edges`` (n + 1,), closed along zero."""

    edges: np.ndarray
    heights: np.ndarray
    css: str

    def path(self, x: Scale, y: Scale) -> str:
        xs = np.repeat(self.edges, 2)
        ys = np.concatenate([[0.0], np.repeat(self.heights, 2), [0.0]])
        return "M" + " ".join(_points(x(xs), y(ys))) + "Z"


@dataclasses.dataclass(frozen=True)
class Rule:
    """A vertical line at one value of x."""

    x: float
    css: str = "rule"

    def path(self, x: Scale, y: Scale) -> str:
        (place,) = x(np.asarray([self.x]))
        return f"M{place * _UNIT:.1f},0V{_UNIT}"


def _points(x: np.ndarray, y: np.ndarray) -> list[str]:
    return [f"{a:.0f},{b:.0f}" for a, b in zip(x * _UNIT, (1 - y) * _UNIT, strict=True)]


def chart(
    title: str,
    marks: Sequence[Mark],
    x: Scale,
    y: Scale,
    *,
    x_label: str,
    alt: str,
    legend: Sequence[tuple[str, str]] = (),
    tall: bool = False,
) -> Html:
    """A figure with its axes. alt: what the chart shows, in words. legend: (css class, text) pairs."""
    gridline, labels = _axes(x, y)
    paths = [element("path", d=mark.path(x, y), class_=f"{type(mark).__name__.lower()} {mark.css}") for mark in marks]
    keys = [element("li", element("i", class_=css), text) for css, text in legend]
    return element(
        "figure",
        element("figcaption", title),
        element(
            "div",
            element(
                "svg", gridline, *paths, viewBox=f"0 0 {_UNIT} {_UNIT}", preserveAspectRatio="none", aria_hidden="true"
            ),
            *labels,
            class_="plot tall" if tall else "plot",
            role="img",
            aria_label=alt,
        ),
        element(
            "div",
            element("ul", *keys, class_="legend") if keys else None,
            element("p", x_label, class_="x-label"),
            class_="foot",
        ),
        class_="chart",
    )


def _axes(x: Scale, y: Scale) -> tuple[Html, list[Html]]:
    """The grid lines, as one path, and the labels at the ticks of both axes."""
    x_ticks, y_ticks = x.ticks(5), y.ticks(5)
    x_places, y_places = x(np.asarray(x_ticks)), y(np.asarray(y_ticks))
    lines = [f"M{place:.1f},0V{_UNIT}" for place in x_places * _UNIT]
    lines += [f"M0,{place:.1f}H{_UNIT}" for place in (1 - y_places) * _UNIT]
    labels = [
        element("span", compact(tick), class_=css, style=f"{side}:{100 * place:.2f}%")
        for css, side, ticks, places in (("x", "left", x_ticks, x_places), ("y", "bottom", y_ticks, y_places))
        for tick, place in zip(ticks, places, strict=True)
    ]
    return element("path", d="".join(lines), class_="gridline"), labels


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
