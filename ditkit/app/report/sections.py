"""The sections that show samples: by class, over guidance, along the denoising, beside training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ditkit.app.pictures import as_array
from ditkit.app.report.charts import Dots, Line, Linear, Mark, Rule, Steps, chart
from ditkit.app.report.data import GuidancePoint, Neighbours, ReportData
from ditkit.app.report.html import Html, element, join, table
from ditkit.app.report.strips import labelled, rows, sheet
from ditkit.app.report.words import MetricText, metric_text, number


def samples(data: ReportData) -> Html:
    """A row of samples for each class."""
    named = data.samples or {}
    columns = max(len(images) for images in named.values())
    pictures = [
        (name, sheet(images, columns, cell=64, alt=f"{len(images)} samples" + (f" of class {name}" if name else "")))
        for name, images in named.items()
    ]
    guidance = "without guidance" if data.guidance is None else f"with classifier-free guidance {number(data.guidance)}"
    chosen = "One row per class. " if len(named) > 1 else ""
    return join(
        element("p", f"{chosen}Drawn {guidance}, not picked by hand."),
        rows(pictures, label="Samples of each class" if len(named) > 1 else "Samples"),
    )


def sweep(data: ReportData) -> Html:
    """The numbers over the guidance scale as charts and as a table, and the same seeds at each scale."""
    points = sorted(data.sweep or [], key=lambda point: point.guidance)
    keys = list(dict.fromkeys(key for point in points for key in point.metrics))
    texts = {key: metric_text(key) for key in keys}
    fractions = [key for key in keys if texts[key].fraction]
    charts = [_sweep_chart("Shares of images", points, fractions, texts, data.guidance)] if fractions else []
    charts += [
        _sweep_chart(texts[key].title, points, [key], texts, data.guidance) for key in keys if key not in fractions
    ]
    cells = [
        [number(p.guidance), *(number(p.metrics[key]) if key in p.metrics else "–" for key in keys)] for p in points
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
        table(["Guidance", *(texts[key].title for key in keys)], cells, caption="Numbers at each guidance scale"),
        element("h3", "The same seeds at each guidance scale") if pictures else None,
        rows(pictures, label="The same seeds at each guidance scale") if pictures else None,
    )


def _sweep_chart(
    title: str,
    points: Sequence[GuidancePoint],
    keys: Sequence[str],
    texts: Mapping[str, MetricText],
    used: float | None,
) -> Html:
    marks: list[Mark] = [] if used is None else [Rule(used)]
    legend, values, spoken = [], [], []
    for i, key in enumerate(keys):
        pairs = [(p.guidance, p.metrics[key]) for p in points if np.isfinite(p.metrics.get(key, np.nan))]
        x, y = np.asarray(pairs, float).reshape(-1, 2).T
        if len(x) == 0:
            continue
        css = f"series-{i % 4 + 1}"
        marks += [Line(x, y, css), Dots(x, y, css)]
        legend.append((css, texts[key].title))
        values.append(y)
        spoken.append(f"{texts[key].title} goes from {number(y[0])} to {number(y[-1])}")
    if not values:
        return element("p", f"Not shown: {title} has no finite value.", class_="absent")
    scales = np.asarray([p.guidance for p in points] + ([] if used is None else [used]))
    x_axis = Linear.over(scales, margin=0.03)
    y_axis = Linear(0, 1.04) if texts[keys[0]].fraction else Linear.over(*values, np.zeros(1), floor=0)
    alt = f"{title} over guidance {number(scales.min())} to {number(scales.max())}: {'; '.join(spoken)}."
    return chart(title, marks, x_axis, y_axis, x_label="guidance", alt=alt, legend=legend if len(keys) > 1 else ())


def trajectory(data: ReportData) -> Html:
    """Each sample's states from noise to image, and the image that the network predicts at each."""
    assert data.trajectory is not None
    path = data.trajectory
    times = [f"{t:.2f}".rstrip("0").rstrip(".") for t in path.t]
    span = f"from t = {times[0]} to t = {times[-1]}"
    blocks = []
    for i, states in enumerate(path.states):
        name = path.names[i] if i < len(path.names) else f"sample {i + 1}"
        lines = [(_symbol("t"), labelled(states, times, alt=f"{name}: the state {span}", cell=64))]
        if path.predictions is not None:
            alt = f"{name}: the predicted image {span}"
            lines.append((_symbol("0"), sheet(path.predictions[i], len(times), alt=alt, cell=64)))
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
        cards.append(element("li", labelled(images, labels, alt=alt, cell=64)))
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
    marks: list[Mark] = [Steps(edges, h, f"series-{i + 1}") for i, h in enumerate(heights.values())]
    legend = [(f"series-{i + 1} area", f"share of {name}") for i, name in enumerate(values)]
    ends = [edges]
    if near.threshold is not None:
        marks.append(Rule(near.threshold))
        legend.append(("rule", "below this, a copy"))
        ends.append(np.asarray([near.threshold]))
    spoken = "; ".join(f"{name}: median {number(float(np.median(g)))} of {len(g):,}" for name, g in values.items())
    alt = f"Distance to the nearest training image. {spoken}."
    return join(
        chart(
            "Distance to the nearest training image",
            marks,
            Linear.over(*ends, margin=0.02),
            Linear(0, 1.08 * max(float(h.max()) for h in heights.values())),
            x_label="distance",
            alt=alt,
            legend=legend,
        ),
        element("p", alt, class_="note"),
    )
