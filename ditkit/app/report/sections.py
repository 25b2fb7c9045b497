"""The sections that show samples: by class, over guidance, along the denoising, beside training images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ditkit.app.pictures import as_array
from ditkit.app.report.axes import Linear
from ditkit.app.report.charts import Figure, chart
from ditkit.app.report.data import GuidancePoint, Metric, Neighbours, ReportData
from ditkit.app.report.html import Html, element, join, table
from ditkit.app.report.marks import Dots, Line, Mark, Rule, Steps, Whiskers
from ditkit.app.report.series import series
from ditkit.app.report.strips import labelled, rows, sheet
from ditkit.app.report.words import metric_text, number, with_error

COLUMNS = 10
"""Samples beside each other, at most."""


def samples(data: ReportData) -> Html:
    """A row of samples for each class."""
    named = data.samples or {}
    columns = min(COLUMNS, max(len(images) for images in named.values()))
    pictures = [
        (name, sheet(images, columns, alt=f"{len(images)} samples" + (f" of class {name}" if name else "")))
        for name, images in named.items()
    ]
    guidance = "without guidance" if data.guidance is None else f"with classifier-free guidance {number(data.guidance)}"
    chosen = "One row per class. " if len(named) > 1 else ""
    if data.classes > len(named) > 1:
        chosen = f"One row per class, the first {len(named)} of {data.classes:,}. "
    return join(
        element("p", f"{chosen}Drawn {guidance}, not picked by hand."),
        rows(pictures, label="Samples of each class" if len(named) > 1 else "Samples"),
    )


def sweep(data: ReportData) -> Html:
    """The numbers over the guidance scale as charts and as a table, and the same seeds at each scale."""
    points = sorted(data.sweep or [], key=lambda point: point.guidance)
    keys = list(dict.fromkeys(key for point in points for key in point.metrics))
    fractions = [key for key in keys if metric_text(key).fraction]
    shares = "Shares of images" if len(fractions) > 1 else "".join(metric_text(key).title for key in fractions)
    charts = [_sweep_chart(shares, points, fractions, data.guidance)] if fractions else []
    charts += [
        _sweep_chart(metric_text(key).title, points, [key], data.guidance) for key in keys if key not in fractions
    ]
    pictures = [
        (number(p.guidance), sheet(p.images, len(p.images), alt=f"{len(p.images)} samples at {number(p.guidance)}"))
        for p in points
        if p.images is not None
    ]
    explain = (
        "Guidance pushes each sample towards its class: more of it usually makes samples more typical and less varied. "
        "1 is no guidance." + ("" if data.guidance is None else " The dashed line is the scale that this page uses.")
    )
    return join(
        element("p", explain),
        element("div", *charts, class_="multiples"),
        _sweep_table(points, keys),
        element("h3", "The same seeds at each guidance scale") if pictures else None,
        rows(pictures, label="The same seeds at each guidance scale") if pictures else None,
    )


def _sweep_table(points: Sequence[GuidancePoint], keys: Sequence[str]) -> Html:
    """A row for each metric, a column for each scale, and what the numbers are of."""
    measured = [point.metrics[key] for key in keys for point in points if key in point.metrics]
    counts = sorted({metric.samples for metric in measured if metric.samples is not None})
    cells = [[metric_text(key).title, *(_with_error(point.metrics.get(key)) for point in points)] for key in keys]
    between = " to ".join(f"{count:,}" for count in dict.fromkeys([*counts[:1], *counts[-1:]]))
    said = [f"of {between} samples each"] if counts else []
    said += ["± and bars are one standard error"] if any(metric.error is not None for metric in measured) else []
    return table(
        ["Guidance", *(number(point.guidance) for point in points)],
        cells,
        caption=", ".join(["Numbers at each guidance scale", *said]),
    )


def _with_error(metric: Metric | None) -> str:
    return "–" if metric is None else with_error(metric.value, metric.error)


def _sweep_chart(title: str, points: Sequence[GuidancePoint], keys: Sequence[str], used: float | None) -> Html:
    marks: list[Mark] = [] if used is None else [Rule(used)]
    legend, ends, spoken = [], [], []
    for i, key in enumerate(keys):
        found = [(p.guidance, p.metrics[key]) for p in points if key in p.metrics]
        triples = [(x, m.value, m.error or 0.0) for x, m in found if np.isfinite(m.value)]
        x, y, error = np.asarray(triples, float).reshape(-1, 3).T
        if len(x) == 0:
            continue
        css, text = series(i), metric_text(key)
        marks += [Whiskers(x, y - error, y + error, css)] if error.any() else []
        marks += [Line(x, y, css), Dots(x, y, css)]
        legend.append((css, text.title))
        ends += [y - error, y + error]
        spoken.append(f"{text.title} goes from {number(y[0])} to {number(y[-1])}")
    if not ends:
        return element("p", f"Not shown: {title} has no finite value.", class_="absent")
    scales = np.asarray([p.guidance for p in points] + ([] if used is None else [used]))
    x_axis = Linear.over(scales, margin=0.03)
    y_axis = Linear(0, 1.04) if metric_text(keys[0]).fraction else Linear.over(*ends, np.zeros(1), floor=0)
    alt = f"{title} over guidance {number(scales.min())} to {number(scales.max())}: {'; '.join(spoken)}."
    figure = Figure(title, marks, x_axis, y_axis, x_label="guidance", alt=alt, legend=legend if len(keys) > 1 else ())
    return chart(figure)


def trajectory(data: ReportData) -> Html:
    """Each sample's states from noise to image, and the image that the network predicts at each."""
    assert data.trajectory is not None
    path = data.trajectory
    times = [f"{t:.2f}".rstrip("0").rstrip(".") for t in path.t]
    span = f"from t = {times[0]} to t = {times[-1]}"
    blocks = []
    for i, states in enumerate(path.states):
        name = path.names[i] if i < len(path.names) else f"sample {i + 1}"
        lines = [(_symbol("t"), labelled(states, times, alt=f"{name}: the state {span}"))]
        if path.predictions is not None:
            alt = f"{name}: the predicted image {span}"
            lines.append((_symbol("0"), sheet(path.predictions[i], len(times), alt=alt)))
        blocks.append(element("div", element("h3", name), rows(lines, label=f"Denoising of {name}")))
    explain = [
        element("p", "From left to right the noise is taken away: t = 1 is pure noise, t = 0 the finished image.")
    ]
    rows_are = [_symbol("t"), " is what the sampler holds at that moment"]
    if path.predictions is not None:
        rows_are += ["; ", _symbol("0"), " is what the network takes the finished image to be, seeing only that"]
    return join(*explain, element("p", *rows_are, ".", class_="note"), element("div", *blocks, class_="paths"))


def _symbol(index: str) -> Html:
    return element("span", element("i", "x"), element("sub", index))


def neighbours(data: ReportData) -> Html:
    """Samples beside their nearest training images, in pixels."""
    assert data.neighbours is not None
    return _near(data.neighbours)


def feature_neighbours(data: ReportData) -> Html:
    """Samples beside their nearest training images, in the features of a network."""
    assert data.feature_neighbours is not None
    return _near(data.feature_neighbours)


def _near(near: Neighbours) -> Html:
    """Samples beside their nearest training images, and how near that is compared with real held-out images."""
    cards = []
    for i, sample_CHW in enumerate(as_array(near.samples)):
        images = np.concatenate([sample_CHW[None], as_array(near.nearest[i])])
        labels = ["sample", *(f"{d:.3g}" for d in near.distances[i])]
        alt = f"Sample {i + 1} and its {len(images) - 1} nearest training images, at {', '.join(labels[1:])}"
        cards.append(element("li", labelled(images, labels, alt=alt)))
    space = f" Distances: {near.space}." if near.space else ""
    rule = f" A sample counts as a copy if it is {near.rule}." if near.rule else ""
    return join(
        element(
            "p", "Left in each strip a sample, then the training images nearest to it with their distances." + space
        ),
        element("ul", *cards, class_="cards"),
        element("h3", "Are samples nearer to training images than unseen real images are?"),
        element(
            "p",
            "A model that copies has samples far nearer to training images than real images it never saw; "
            "one that learned has about the same distances." + rule,
        ),
        _distances(near),
    )


def _distances(near: Neighbours) -> Html:
    """The two distributions of nearest-neighbour distances over one another, as shares of the images."""
    groups = {"samples": near.sample_distances, "held-out images": near.heldout_distances}
    values = {name: np.asarray(group, float)[np.isfinite(group)] for name, group in groups.items()}
    values = {name: group for name, group in values.items() if len(group)}
    if not values:
        return element("p", "Not shown: there are no finite distances.", class_="absent")
    edges = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=30)
    heights = {name: np.histogram(group, edges)[0] / len(group) for name, group in values.items()}
    marks: list[Mark] = [Steps(edges, h, series(i)) for i, h in enumerate(heights.values())]
    legend = [(series(i), f"share of {name}") for i, name in enumerate(values)]
    ends = [edges]
    if near.threshold is not None:
        marks.append(Rule(near.threshold))
        legend.append(("rule", "below this, a copy"))
        ends.append(np.asarray([near.threshold]))
    spoken = "; ".join(f"{name}: median {number(float(np.median(g)))} of {len(g):,}" for name, g in values.items())
    alt = f"Distance to the nearest training image. {spoken}."
    return join(
        chart(
            Figure(
                "Distance to the nearest training image",
                marks,
                Linear.over(*ends, margin=0.02),
                Linear(0, 1.08 * max(float(h.max()) for h in heights.values())),
                x_label="distance",
                alt=alt,
                legend=legend,
            )
        ),
        element("p", alt, class_="note"),
    )
