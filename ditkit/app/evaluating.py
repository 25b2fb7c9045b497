"""Floor 5: ditkit evaluate: the variants of one call, what a kill leaves of them, their table and plot, comparisons."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ditkit.app import likelihood as likelihoods
from ditkit.app.measuring import evaluate, measure, protocol, read_result, result
from ditkit.app.model import Model, load_model
from ditkit.app.recipe import Sampling
from ditkit.app.references import Reference
from ditkit.app.run import Run, environment
from ditkit.app.samples import FileSamples, Plan, RunSamples
from ditkit.app.solver_study.choice import Choice
from ditkit.app.sweep import entry_text, metric_names
from ditkit.base.errors import UserError
from ditkit.base.files import remove_folder, sha256, write_json
from ditkit.base.workers import Workers
from ditkit.evaluate.parts import Store
from ditkit.evaluate.protocol import differences, protocol_hash
from ditkit.train.checkpoint import weights_file

WORK = ".evaluating"
"""The folder, in that of the results, with what is done of a call that has not ended."""


@dataclasses.dataclass(frozen=True)
class Variants:
    """The ways of drawing that one call compares; weights: files of the checkpoint ("ema", "ema-0.99", "weights")."""

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


def evaluate_run(
    run: Run,
    step: Path,
    variants: Variants,
    against: Reference,
    work: Work,
    workers: Workers,
    *,
    device: str | None = None,
    size: int | tuple[int, int] | None = None,
    npz: Path | None = None,
    repeats: int = 1,
    likelihood: int | None = None,
) -> list[dict[str, Any]]:
    """The results of all variants, in order; nothing in processes that do not lead.

    size: (H, W) in pixels that samples are drawn in, or one number for both; None: that of training. repeats: sets of
    samples of each variant, the seeds of one following those of another. likelihood: real images
    whose bits per dimension are measured, once for each file of weights.
    """
    found, model, of, bits = [], None, "", None
    total = len(variants.plans) * repeats
    for k, plan in enumerate(variants.plans):
        if model is None or plan.weights != variants.plans[k - 1].weights:
            model = load_model(run, step, device=device, weights=plan.weights).sized(size)
            of = sha256(weights_file(step, plan.weights))
            bits = _bits(model, likelihood, work, of) if likelihood and workers.leads else None
        labels = [set_label(k * repeats + r + 1, total) for r in range(repeats)]
        result = evaluate_model(model, plan, against, work, workers, of=of, npz=npz, labels=labels)
        if result is not None:
            found.append(_with_bits(result, bits))
    return found


def _bits(model: Model, num: int, work: Work, of: str) -> dict[str, Any]:
    """The result of bits per dimension, from before or measured now; of: the weights' fingerprint."""
    store = work.place(f"bits per dimension of {num} images", of)
    done = work.finished(store)
    if done is None:
        measured = likelihoods.entry(model, num)
        done = result({"bits_per_dim": measured["bits_per_dim"]}, measured["protocol"], {})
        work.keep(store, done)
    return done


def _with_bits(found: dict[str, Any], bits: dict[str, Any] | None) -> dict[str, Any]:
    """The result of samples with bits per dimension among its scores and, with theirs, its protocol."""
    if bits is None:
        return found
    scores = {key: value for key, value in found.items() if key not in ("protocol", "protocol_hash", "about")}
    said = {**found["protocol"], "likelihood": bits["protocol"]}
    return result({**scores, "bits_per_dim": bits["bits_per_dim"]}, said, found["about"])


def evaluate_model(
    model: Model,
    plan: Plan,
    against: Reference,
    work: Work,
    workers: Workers,
    *,
    of: str,
    npz: Path | None = None,
    labels: Sequence[str] = ("samples",),
) -> dict[str, Any] | None:
    """The result of a plan, over as many sets of samples as there are labels; None in processes that do not lead.

    of: the weights' fingerprint. labels: of each set's progress bar; the seeds of one set follow those of another.
    """
    results = []
    for r, label in enumerate(labels):
        each = dataclasses.replace(plan, seed=plan.seed + r * plan.num)
        results.append(_one_set(model, each, against, work, workers, of=of, npz=npz, label=label))
    if not workers.leads:
        return None
    return over_sets(results) if len(results) > 1 else results[0]


def _one_set(
    model: Model, plan: Plan, against: Reference, work: Work, workers: Workers, *, of: str, npz: Path | None, label: str
) -> Any:
    """The result of one set of samples, from before or measured now; None in processes that do not lead."""
    store = work.place(protocol_hash(protocol(RunSamples.of(model, plan), against)), of)
    done = work.finished(store)
    if done is None:
        done = evaluate(model, against, plan, store=store, workers=workers, npz=npz, progress=label)
        if done is not None:
            done["about"]["weights_sha256"] = of
            work.keep(store, done)
    return done


def set_label(k: int, total: int) -> str:
    """What a progress bar says of set k, counted from 1."""
    return "samples" if total == 1 else f"samples {k} of {total}"


def over_sets(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One result for several sets of samples: means of the values, their standard errors from how the sets differ."""
    first, n = results[0], len(results)
    scores = {}
    for key, entry in first.items():
        if not isinstance(entry, dict) or "value" not in entry:
            continue
        values = [found[key]["value"] for found in results]
        mean = sum(values) / n
        spread = (sum((value - mean) ** 2 for value in values) / (n - 1)) ** 0.5
        error = {"standard_error": float(f"{spread / n**0.5:.3g}"), "error_from": f"{n} sets of samples"}
        scores[key] = {**entry, "value": mean, **error, "values": values}
    said = {
        **first["protocol"],
        "seeds": [first["protocol"]["seeds"][0], results[-1]["protocol"]["seeds"][1]],
        "standard_error": f"over {n} sets of samples, of the mean of their values",
    }
    return result(scores, said, first["about"])


def evaluate_files(
    source: str, samples: FileSamples, against: Reference, work: Work, workers: Workers, device: Any
) -> list[dict[str, Any]]:
    """The result for images that are there already, in a list; nothing in processes that do not lead."""
    said = protocol(samples, against)
    store = work.place(protocol_hash(said), samples.fingerprint)
    found = measure(samples, against, store=store, workers=workers)
    if found is None:
        return []
    about = {
        "samples": source,
        "fingerprint": samples.fingerprint,
        "reference": against.source,
        "left_out": found.left_out,
    }
    return [result(found.scores, said, {**about, "environment": environment(device)})]


def located_result(place: Path) -> Path:
    """The metrics.json that a path names: itself, or the one in a run's or an evaluation's folder.

    UserError for a sweep's folder.
    """
    table = place / "sweep" / "table.md"
    if table.is_file() and not (place / "metrics.json").is_file():
        raise UserError(
            f"{place} holds a sweep, which {table} compares: expected one result, of ditkit evaluate without --sweep"
        )
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
