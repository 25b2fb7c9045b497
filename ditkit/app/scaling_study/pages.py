"""A scaling study for readers: tables in text, figures, and both on a page."""

from __future__ import annotations

from ditkit.app.report.charts import Figure, chart
from ditkit.app.report.html import Html, element, table
from ditkit.app.report.shell import page
from ditkit.app.report.svg import svg_chart
from ditkit.app.report.words import aligned, duration, metric_text, number, percent, with_error
from ditkit.app.run import environment
from ditkit.app.scaling_study.charts import figures
from ditkit.app.scaling_study.results import Entry, Findings, as_json
from ditkit.app.scaling_study.sampling import value_of
from ditkit.base.files import write_json, write_text
from ditkit.evaluate.scaling import Advice, Estimate, Fit

HEAD = ["Model", "Parameters", "Tokens", "Gmac", "Steps", "Training Tmac", "", "Class accuracy", "Training", "Note"]
SAMPLING_HEAD = ["Model", "Evaluations", "Gmac per image", ""]
NAMED = 3
"""Models that a title names, at most."""
BUDGET_HEAD = ["Budget (Tmac)", "Best model of the fit", "Steps", "Nearest trained", "", "Best measured", "Note"]


def write(found: Findings, device: object) -> None:
    """Writes points.json, table.md, the figures (NAME.svg) and page.html into the study's folder."""
    write_json(found.folder / "points.json", as_json(found, environment(device)))  # pyright: ignore[reportArgumentType]
    write_text(found.folder / "table.md", text(found) + "\n")
    made = figures(found)
    for name, figure in made.items():
        write_text(found.folder / f"{name}.svg", svg_chart(figure) + "\n")
    write_text(found.folder / "page.html", html(found, made))


def text(found: Findings) -> str:
    """Tables and sentences in Markdown."""
    parts = [aligned([_named(HEAD, found), *rows(found)]), *(f"- {line}" for line in sentences(found))]
    for head, body in ((BUDGET_HEAD, budget_rows(found)), (SAMPLING_HEAD, sampling_rows(found))):
        if body:
            parts.append(aligned([_named(head, found), *body]))
    first, rest = parts[0], parts[1:]
    said = "\n".join(part for part in rest if part.startswith("- "))
    return "\n\n".join([first, said, *(part for part in rest if not part.startswith("- ")), notes(found)])


def _named(head: list[str], found: Findings) -> list[str]:
    return [cell or _title(found) for cell in head]


def _title(found: Findings) -> str:
    return metric_text(found.metric).title


def rows(found: Findings) -> list[list[str]]:
    """The models, cheapest first."""
    return [_row(entry) for entry in found.entries]


def _row(entry: Entry) -> list[str]:
    c, last = entry.candidate, entry.last
    step = entry.looks[-1].step if entry.looks else 0
    return [
        c.name,
        f"{c.parameters:,}",
        str(c.tokens),
        number(c.multiply_adds / 1e9),
        f"{step:,}",
        number(c.training_multiply_adds(step) / 1e12),
        "–" if last is None else with_error(last.value, last.standard_error),
        "–" if entry.accuracy is None or entry.failed else percent(entry.accuracy),
        duration(entry.seconds) if entry.seconds else "–",
        _note(entry),
    ]


def _note(entry: Entry) -> str:
    if entry.failed:
        return f"failed: {entry.failed}"
    if not entry.looks:
        return "not trained yet"
    return ""


def sampling_rows(found: Findings) -> list[list[str]]:
    """Each model at each budget of evaluations."""
    return [
        [
            entry.candidate.name,
            str(p.evaluations),
            number(p.passes * entry.candidate.multiply_adds / 1e9),
            number(value_of(p, found.metric)),
        ]
        for entry in found.entries
        for p in entry.sampled
    ]


def budget_rows(found: Findings) -> list[list[str]]:
    """What to train for each budget; none without a fit."""
    law = found.law
    return [] if law is None else [_budget_row(found, advice) for advice in found.advice(law)]


def _budget_row(found: Findings, advice: Advice) -> list[str]:
    batch = found.entries[0].candidate.recipe.train.batch_size
    best = None if advice.best is None else found.fitted[advice.best].candidate.name
    size = advice.multiply_adds
    near = None if size is None else found.nearest(size.value).candidate.name
    return [
        number(advice.budget / 1e12),
        "–" if size is None else f"{_estimate(size, 1e9)} Gmac",
        "–" if size is None else f"{advice.budget / (3 * size.value * batch):,.0f}",
        near or "–",
        _estimate(advice.value),
        best or "–",
        _caution(found, advice),
    ]


def _caution(found: Findings, advice: Advice) -> str:
    sizes = [entry.candidate.multiply_adds for entry in found.measured]
    beyond = advice.multiply_adds is not None and not min(sizes) <= advice.multiply_adds.value <= max(sizes)
    said = ["more or less compute than was tried"] * advice.extrapolated
    said += ["a size that was not tried"] * beyond
    return f"extrapolated: {', '.join(said)}" if said else ""


def _estimate(value: Estimate, unit: float = 1.0) -> str:
    if value.low is None or value.high is None:
        return f"{number(value.value / unit)} (no interval)"
    return f"{number(value.value / unit)} ({number(value.low / unit)} to {number(value.high / unit)})"


def sentences(found: Findings) -> list[str]:
    """What the points say, a line each."""
    said = []
    measured = found.correlation
    if measured is None:
        said.append("No correlation: expected three measured models or more.")
    else:
        count = len(found.measured)
        said.append(
            f"Pearson's correlation of log Gmac and {_title(found)} over {count} models: {_estimate(measured)}. "
            "Peebles & Xie 2023 report -0.93 for DiT on ImageNet (FID)."
        )
    law = found.law
    why = found.why_no_fit()
    return [
        *said,
        *([] if law is None else _law_sentences(found, law)),
        *([f"{why[0].upper()}{why[1:]}."] if why else []),
    ]


def _law_sentences(found: Findings, law: Fit) -> list[str]:
    # per Tmac, so that the scale is a number that one can read
    scale = law.law.scale * 1e12**law.law.exponent
    form = f"{_title(found)} = {number(scale)} (C / Tmac)^{law.law.exponent:.3f}"
    offset = "" if law.offset is None else f" + {number(law.offset.value)}"
    low, high = (number(c / 1e12) for c in law.range)
    said = [
        f"Compute frontier, {low} to {high} Tmac of training: {form}{offset}; exponent {_estimate(law.exponent)}"
        + ("." if law.offset is None else f", offset {_estimate(law.offset)}."),
    ]
    if law.offset is None:
        said.append("An offset (a value that no compute goes below) cannot be told from 0 and is left out.")
    if law.sizes is None or law.size_exponent is None:
        said.append("Which size is best for a budget cannot be told: one model was best on the whole frontier.")
    else:
        said.append(f"The best model's Gmac grow as C^{_estimate(law.size_exponent)} along the frontier.")
    return said


def notes(found: Findings) -> str:
    """What the numbers hang on."""
    p = found.protocol
    return (
        f"{p['samples']:,} samples a measurement, seeds 0 to {p['samples'] - 1:,} for every model, solver "
        f"{p['sampling']['solver']} in {p['sampling']['steps']} steps, guidance {p['sampling']['guidance']:g}, moving "
        f"average of the weights, against {p['reference']['images']:,} real images in the space {p['network']} (the "
        "same statistics for all). Gmac and Tmac are 1e9 and 1e12 multiply-adds: of one forward pass, and of all "
        "training (3 x forward pass x batch x steps). ± is one standard error of the samples; (low to high) is a 95% "
        "bootstrap interval over models. Measurements before the end are of a learning rate that is not lowered yet."
    )


def html(found: Findings, made: dict[str, Figure]) -> Html:
    """The page: figures and tables."""
    names = [entry.candidate.name for entry in found.entries]
    title = f"Scaling of {', '.join(names)}" if len(names) <= NAMED else f"Scaling study of {len(names)} models"
    tables = [
        (HEAD, rows(found), "Models, after their last measurement"),
        (BUDGET_HEAD, budget_rows(found), "Compute-optimal size for a budget"),
        (SAMPLING_HEAD, sampling_rows(found), "Sampling compute"),
    ]
    shown = [table(_named(head, found), body, caption=caption) for head, body, caption in tables if body]
    return page(
        f"{title} · ditkit study",
        element("header", element("p", "ditkit study scaling", class_="kicker"), element("h1", title)),
        element(
            "main",
            element("section", *(element("p", line) for line in sentences(found))),
            *(element("section", chart(figure, height="large")) for figure in made.values()),
            *(element("section", each) for each in shown),
            element("section", element("p", notes(found), class_="note")),
        ),
    )
