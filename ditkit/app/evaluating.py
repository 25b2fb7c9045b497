"""Floor 5: ditkit evaluate: the variants of one call, what a kill leaves of them, their table and plot, comparisons."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ditkit.app.measuring import evaluate, measure, protocol, read_result, result
from ditkit.app.recipe import Sampling
from ditkit.app.references import Reference
from ditkit.app.report.charts import Dots, Line, Linear, Mark
from ditkit.app.report.svg import Whiskers, series, svg_chart
from ditkit.app.report.words import metric_text
from ditkit.app.run import Run, environment, load_model
from ditkit.app.samples import FileSamples, Plan, RunSamples
from ditkit.app.solver_study.choice import Choice
from ditkit.base.errors import UserError
from ditkit.base.files import remove_folder, sha256, write_json, write_text
from ditkit.base.workers import Workers
from ditkit.evaluate.parts import Store
from ditkit.evaluate.protocol import differences, protocol_hash

WORK = ".evaluating"
"""The folder, in that of the results, with what is done of a call that has not ended."""
NOT_METRICS = {"seconds_per_sample", "classifier_heldout_accuracy", "copies", "copies_in_features"}


@dataclasses.dataclass(frozen=True)
class Variants:
    """The ways of drawing that one call compares; weights: files of the checkpoint ("ema", "weights")."""

    plans: tuple[Plan, ...]

    @classmethod
    def of(
        cls,
        plan: Plan,
        *,
        guidance: Sequence[float] = (),
        solver: Sequence[str] = (),
        steps: Sequence[str] = (),
        weights: Sequence[str] = (),
    ) -> Variants:
        """Every combination of what is listed; what is not listed is as in the plan."""
        solvers = [_with_solver(plan.sampling, text) for text in dict.fromkeys(solver)] or [plan.sampling]
        lists = [
            list(dict.fromkeys(weights or [plan.weights])),
            solvers,
            list(dict.fromkeys(steps or [plan.sampling.steps])),
            list(dict.fromkeys(guidance or [plan.sampling.guidance])),
        ]
        return cls(
            tuple(
                dataclasses.replace(plan, weights=w, sampling=dataclasses.replace(s, steps=k, guidance=g))
                for w, s, k, g in itertools.product(*lists)
            )
        )


def _with_solver(sampling: Sampling, text: str) -> Sampling:
    choice = Choice.parse(text)
    named = {"solver": choice.solver, "solver_options": dict(choice.solver_options)}
    if "@" in text:
        named |= {"grid": choice.grid, "grid_options": dict(choice.grid_options)}
    return dataclasses.replace(sampling, **named)


@dataclasses.dataclass(frozen=True)
class Work:
    """What one call keeps until it has ended, in a hidden folder of that of its results."""

    folder: Path

    def place(self, said: str, of: str) -> Store:
        """The parts of a protocol (its hash) for samples of a fingerprint."""
        key = hashlib.sha256(f"{said} {of}".encode()).hexdigest()
        return Store(self.folder / key[:16], key)

    def finished(self, store: Store) -> dict[str, Any] | None:
        """The result of a variant that was measured before the call was stopped."""
        path = store.folder / "metrics.json"
        return read_result(path) if path.is_file() else None

    def keep(self, store: Store, found: dict[str, Any]) -> None:
        """Keeps a variant's result in the place of its parts."""
        write_json(store.folder / "metrics.json", found)

    def clear(self) -> None:
        """Removes everything."""
        if self.folder.is_dir():
            remove_folder(self.folder)


def checkpoint_file(folder: Path, weights: str) -> Path:
    """The file of a checkpoint's weights. UserError, naming those that there are, where it has none of this name."""
    path = folder / f"{weights}.safetensors"
    if path.is_file() and weights not in OTHER_FILES:
        return path
    known = sorted(p.stem for p in folder.glob("*.safetensors") if p.stem not in OTHER_FILES)
    raise UserError(f"checkpoint {folder} has no weights {weights!r}: expected one of {', '.join(known)}")


OTHER_FILES = {"optimizer", "meter", "task"}
"""Of a checkpoint: they hold no weights."""


def evaluate_run(
    run: Run,
    step: Path,
    variants: Variants,
    against: Reference,
    work: Work,
    workers: Workers,
    *,
    device: str | None = None,
    npz: Path | None = None,
) -> list[dict[str, Any]]:
    """The results of all variants, in order; nothing in processes that do not lead."""
    found, model = [], None
    for k, plan in enumerate(variants.plans):
        if model is None or plan.weights != variants.plans[k - 1].weights:
            model = load_model(run, step, device=device, weights=plan.weights)
            of = sha256(checkpoint_file(step, plan.weights))
        said = protocol(RunSamples.of(model, plan), against)
        store = work.place(protocol_hash(said), of)
        done = work.finished(store)
        if done is None:
            label = "samples" if len(variants.plans) == 1 else f"samples {k + 1} of {len(variants.plans)}"
            done = evaluate(model, against, plan, store=store, workers=workers, npz=npz, progress=label)
            if done is not None:
                done["about"]["weights_sha256"] = of
                work.keep(store, done)
        if workers.leads and done is not None:
            found.append(done)
    return found


def evaluate_files(
    source: str, samples: FileSamples, against: Reference, work: Work, workers: Workers, device: Any
) -> list[dict[str, Any]]:
    """The result for images that are there already, in a list; nothing in processes that do not lead."""
    said = protocol(samples, against)
    store = work.place(protocol_hash(said), samples.fingerprint)
    found = measure(samples, against, store=store, workers=workers)
    if found is None:
        return []
    about = {"samples": source, "fingerprint": samples.fingerprint, "reference": against.source}
    return [result(found.scores, said, {**about, "environment": environment(device)})]


def named_variants(results: Sequence[dict[str, Any]]) -> list[str]:
    """A name for each result of a sweep: what its protocol does not share with all others."""
    kept = [{k: p["protocol"].get(k) for k in ("sampling", "weights")} for p in results]
    varied = list(dict.fromkeys(key for other in kept[1:] for key in differences(kept[0], other)))
    leaves = [{key: _leaf(p, key) for key in varied} for p in kept]
    return [", ".join(f"{key.removeprefix('sampling.')} {value}" for key, value in leaf.items()) for leaf in leaves]


def _leaf(value: Any, place: str) -> Any:
    for part in place.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def metric_names(results: Sequence[dict[str, Any]]) -> list[str]:
    """The metrics of results, in order, without speed, copies and the judge's own accuracy."""
    keys = dict.fromkeys(k for found in results for k, v in found.items() if isinstance(v, dict) and "value" in v)
    return [key for key in keys if key not in NOT_METRICS]


def entry_text(entry: dict[str, Any] | None) -> str:
    """A metric's value with its standard error, where it is known."""
    if entry is None:
        return "–"
    error = f" ± {entry['standard_error']:.2g}" if "standard_error" in entry else ""
    return f"{entry['value']:.4g}{error}"


def sweep_table(results: Sequence[dict[str, Any]]) -> str:
    """A sweep as a table in Markdown, its columns aligned."""
    keys = metric_names(results)
    rows = [["Variant", *(metric_text(key).title for key in keys), "Protocol"]]
    for name, found in zip(named_variants(results), results, strict=True):
        rows.append([name, *(entry_text(found.get(key)) for key in keys), found["protocol_hash"][:12]])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def sweep_plot(results: Sequence[dict[str, Any]]) -> str:
    """The first metric over the guidance scale, a line for all else that varies, whiskers of a standard error."""
    key = metric_names(results)[0]
    lines: dict[str, list[tuple[float, float, float]]] = {}
    for name, found in zip(named_variants(results), results, strict=True):
        rest = ", ".join(part for part in name.split(", ") if not part.startswith("guidance ")) or "guidance"
        entry = found[key]
        point = (found["protocol"]["sampling"]["guidance"], entry["value"], entry.get("standard_error", 0.0))
        lines.setdefault(rest, []).append(point)
    marks: list[Mark] = []
    for k, points in enumerate(lines.values()):
        x, y, error = np.array(sorted(points)).T
        marks += [Whiskers(x, y - error, y + error, series(k)), Dots(x, y, series(k))]
        marks += [Line(x, y, series(k))] if len(x) > 1 else []
    whiskers = [mark for mark in marks if isinstance(mark, Whiskers)]
    title = metric_text(key).title
    best = min(results, key=lambda found: found[key]["value"])
    said = f"{title} over the guidance scale for {', '.join(lines)}; the least is {entry_text(best[key])}."
    return svg_chart(
        f"{title} of the variants",
        marks,
        Linear.over(*(w.x for w in whiskers)),
        Linear.over(*(w.low for w in whiskers), *(w.high for w in whiskers)),
        x_label="guidance scale",
        y_label=title,
        alt=said,
        legend=[(series(k), name) for k, name in enumerate(lines)],
    )


def write_sweep(folder: Path, results: Sequence[dict[str, Any]]) -> None:
    """Writes results.json, table.md and plot.svg."""
    write_json(folder / "results.json", list(results))
    write_text(folder / "table.md", sweep_table(results) + "\n")
    write_text(folder / "plot.svg", sweep_plot(results) + "\n")


def located_result(place: Path) -> Path:
    """The metrics.json that a path names: itself, or the one in a run's or an evaluation's folder."""
    return place / "metrics.json" if place.is_dir() else place


def comparison(a: Path, b: Path) -> tuple[bool, str]:
    """Whether two results are comparable, and the words: both numbers and their difference, or where they differ."""
    one, other = (read_result(located_result(place)) for place in (a, b))
    if one["protocol_hash"] != other["protocol_hash"]:
        differ = differences(one["protocol"], other["protocol"])
        lines = [f"  {key}: {json.dumps(x)} and {json.dumps(y)}" for key, (x, y) in differ.items()]
        return False, "\n".join([f"not comparable: the protocols of {a} and {b} differ in", *lines])
    lines = [f"comparable: both by protocol {one['protocol_hash'][:12]}", ""]
    for key in metric_names([one, other]):
        if key in one and key in other:
            lines.append(
                f"{key:<28} {entry_text(one[key]):>20} {entry_text(other[key]):>20}  {_apart(one[key], other[key])}"
            )
    return True, "\n".join(lines)


def _apart(a: dict[str, Any], b: dict[str, Any]) -> str:
    """The difference of two entries, and how many of its standard errors that is."""
    difference = b["value"] - a["value"]
    if "standard_error" not in a or "standard_error" not in b:
        return f"{difference:+.4g}"
    error = (a["standard_error"] ** 2 + b["standard_error"] ** 2) ** 0.5
    return f"{difference:+.4g} ± {error:.2g}" + ("" if abs(difference) > 2 * error else " (within two standard errors)")
