"""Charts on pages and as files: series that can be told apart, names of points clear of one another, text inside."""

import itertools
import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ditkit.app.report import labels
from ditkit.app.report.axes import Linear, Log
from ditkit.app.report.charts import Figure, chart
from ditkit.app.report.labels import Label, sides
from ditkit.app.report.marks import Dots, Line, Mark, Steps, Whiskers, smoothed, thinned
from ditkit.app.report.series import hollow, series, style
from ditkit.app.report.svg import svg_chart
from ditkit.app.report.training import curve
from ditkit.app.report.words import duration, number, with_error

UNIT = Linear(0.0, 1.0)
SVG = "{http://www.w3.org/2000/svg}"


def figure(count: int = 2, name: str = "series", points: list[Label] | None = None) -> Figure:
    """A chart of this many lines with dots and whiskers, and names at points."""
    marks: list[Mark] = []
    for k in range(count):
        x, y = np.linspace(0.1, 0.9, 3), np.full(3, (k + 1) / (count + 1))
        marks += [Whiskers(x, y - 0.01, y + 0.01, series(k)), Line(x, y, series(k)), Dots(x, y, series(k))]
    legend = [(series(k), f"{name} {k}") for k in range(count)]
    return Figure("A title", marks, UNIT, UNIT, "across", "in words", "up", legend, points or [])


def shape(css: str) -> tuple[str, str]:
    """Dash and shape of the dots: what is left of a series without colours."""
    _, dash, dots = css.split()
    return dash, dots


def test_series_differ_with_colours_and_the_first_without() -> None:
    many = [series(k) for k in range(32)]
    assert len({tuple(css.split()[:2]) for css in many}) == 32
    assert len({shape(css) for css in many[:16]}) == 16
    for one, other in itertools.combinations(many, 2):
        if one.split()[0] == other.split()[0]:
            dash, dots = shape(one), shape(other)
            assert dash[0] != dots[0]
    rules = style()
    assert all(f".figure .{css.split()[0]}{{" in rules for css in many)
    assert all(f".figure .line.{css.split()[1]}{{" in rules for css in many)


def test_hollow_dots_have_a_hole_in_the_plot_and_in_the_legend() -> None:
    assert not hollow(series(0))
    assert hollow(series(8))  # the first colour again
    assert 'class="hole' not in chart(figure(8))
    assert chart(figure(9)).count('class="hole') == 2
    assert svg_chart(figure(9)).count('class="hole') == 2


def test_a_key_of_the_legend_looks_like_its_marks() -> None:
    assert set(re.findall(r'class="(\w+)', figure().key(series(1)))) == {"line", "dots"}
    outline = Figure("t", [Steps(np.arange(3.0), np.ones(2), series(0))], UNIT, UNIT, "x", "a", "", [(series(0), "n")])
    assert set(re.findall(r'class="(\w+)', outline.key(series(0)))) == {"steps"}


def at(*places: tuple[float, float], text: str = "64x4/7") -> list[str]:
    """The sides of names at these places."""
    x, y = np.array(places).T
    return sides([Label(*place, text) for place in places], [Dots(x, y, "")], UNIT, UNIT)


def test_names_stand_clear_of_edges_points_and_one_another() -> None:
    assert at((0.5, 0.5)) == ["right"]
    assert at((0.97, 0.5)) == ["left"]
    assert at((0.5, 0.5), (0.6, 0.5)) == ["left", "right"]
    assert at((0.5, 0.5), (0.5, 0.52)) == ["right", "left"]
    assert at((0.5, 0.5), text="a name that is as wide as half of the plot") == ["above"]
    assert len(at(*[(0.5, 0.5)] * 9)) == 9


def test_names_of_a_row_of_points_do_not_overlap() -> None:
    places = [(k / 9 + 0.05, 0.5) for k in range(9)]
    spans: list[tuple[float, float, str]] = []
    for (x, _), side in zip(places, at(*places, text="64x4"), strict=True):
        middle = x * labels.ROOM[0] + labels.SIDES[side][0] * (labels.LETTER * 4 + 2 * labels.GAP)
        spans.append((middle - labels.LETTER * 2, middle + labels.LETTER * 2, side))
    for one, other in itertools.combinations(spans, 2):
        apart = one[1] <= other[0] or other[1] <= one[0]
        assert apart or ({one[2], other[2]} & {"above", "below"} and one[2] != other[2])


@pytest.mark.parametrize(("count", "name"), [(1, "one"), (9, "64x4/"), (40, "dpmpp_2m:order=2@karras:rho=5")])
def test_a_file_has_all_of_its_text_inside_itself(count: int, name: str) -> None:
    root = ElementTree.fromstring(svg_chart(figure(count, name, [Label(0.9, 0.5, "the last")])))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    assert float(root.attrib["width"]) / float(root.attrib["height"]) == pytest.approx(width / height, rel=0.01)
    said = {}
    for text in root.iter(f"{SVG}text"):
        assert text.text
        said[text.text] = x, y = float(text.attrib["x"]), float(text.attrib["y"])
        reach = labels.LETTER * len(text.text) * {"end": -1, "middle": 0}.get(text.attrib.get("text-anchor", ""), 1)
        assert min(x, x + reach) >= 0
        assert max(x, x + reach) <= width
        assert 0 < y < height - 3
    assert {f"{name} {k}" for k in range(count)} | {"across", "up", "A title", "the last"} <= said.keys()
    assert len({said[f"{name} {k}"] for k in range(count)}) == count


def test_a_page_gives_its_figure_all_text_and_room_for_the_longest_tick() -> None:
    small = Figure("t", figure().marks, UNIT, Linear(-5e-4, 5e-4), "across", "words", "up", [], [Label(0.5, 0, "here")])
    made = chart(small, height="large")
    for said in (">across<", ">up<", ">here<", 'aria-label="words"', 'class="plot large"', '"--letters:7"'):  # -0.0004
        assert said in made
    assert 'class="legend"' not in made
    assert not math.isnan(float(re.findall(r"left:([\d.]+)%", made)[0]))


# Axes, curves and words


@given(low=st.floats(-1e6, 1e6), length=st.floats(1e-3, 1e6))
def test_linear_ticks_are_few_and_inside(low, length):
    axis = Linear(low, low + length)
    ticks = axis.ticks(5)
    assert 2 <= len(ticks) <= 6
    assert ((axis(np.asarray(ticks)) > -1e-3) & (axis(np.asarray(ticks)) < 1.001)).all()


@given(low=st.floats(1e-8, 1e3), ratio=st.floats(1.01, 1e12))
def test_log_ticks_are_few_and_inside(low, ratio):
    axis = Log(low, low * ratio)
    ticks = axis.ticks(5)
    assert 2 <= len(ticks) <= 9
    assert all(low * 0.999 <= tick <= low * ratio * 1.001 for tick in ticks)
    np.testing.assert_allclose(axis(np.asarray([low, low * ratio])), [0, 1], atol=1e-9)


def test_smoothed_is_the_mean_of_existing_neighbours():
    y = np.asarray([0.0, 3.0, 6.0, 9.0, 30.0])
    np.testing.assert_allclose(smoothed(y, 1), [1.5, 3, 6, 15, 19.5])
    np.testing.assert_allclose(smoothed(y, 0), y)


def test_thinned_keeps_the_extremes():
    y = np.zeros(10_000)
    y[1234], y[4321] = 5, -5
    x, kept = thinned(np.arange(10_000), y)
    assert len(x) <= 500
    assert {1234, 4321} <= set(x.tolist())
    assert (kept.max(), kept.min()) == (5, -5)


def test_curve_orders_steps_and_counts_what_is_not_finite():
    log = [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 2.0}, {"step": 3, "loss": float("inf")}, {"loss": 1}]
    steps, values, lost = curve([*log, {"step": 4}], "loss")
    assert (steps.tolist(), values.tolist(), lost) == ([1, 2], [2, 1], 1)


def test_numbers_in_words():
    shown = [number(v) for v in (0.96214, 12.3456, 1234.5, 3.0, 1.234e-5, float("inf"))]
    assert shown == ["0.9621", "12.35", "1,234", "3", "1.23e-05", "not finite"]
    shown = [duration(s) for s in (0.0413, 3.21, 59.97, 312, 7500, 1e6)]
    assert shown == ["41.3 ms", "3.21 s", "1 min 00 s", "5 min 12 s", "2 h 05 min", "278 h"]
    shown = [
        with_error(*pair)
        for pair in ((0.99412, 0.000771), (0.5, None), (123456.7, 2345.0), (-4e-7, 1.26e-8), (3.0, math.nan))
    ]
    assert shown == ["0.9941 ± 0.00077", "0.5", "123,457 ± 2,300", "-4e-07 ± 1.3e-08", "3"]


def test_an_axis_with_a_floor_holds_what_is_below_it() -> None:
    assert Linear.over(np.array([1.0, 2.0]), floor=0.99).low == 0.99
    unbiased = np.array([6e-4, -6e-4])  # an estimate of a distance that is nearly 0
    assert (Linear.over(unbiased, np.zeros(1), floor=0)(unbiased) >= 0).all()
