"""What a scaling study found: curves and points of each model, and what they say; as points.json has it."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ditkit.app.report.words import metric_text
from ditkit.app.run import Run
from ditkit.app.scaling_study import runs
from ditkit.app.scaling_study.grid import Candidate
from ditkit.app.scaling_study.runs import Look
from ditkit.app.scaling_study.sampling import Drawn, value_of
from ditkit.evaluate.scaling import (
    FEWEST_MODELS,
    Advice,
    Curve,
    Estimate,
    Fit,
    advise,
    correlation,
    fit,
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model of the study, as far as it has come. failed: why its training ended too early, or None."""

    candidate: Candidate
    looks: tuple[Look, ...] = ()
    accuracy: float | None = None
    seconds: float = 0.0
    failed: str | None = None
    sampled: tuple[Drawn, ...] = ()

    @property
    def last(self) -> Look | None:
        """The newest measurement of a model whose training did not fail."""
        return None if self.failed or not self.looks else self.looks[-1]

    @classmethod
    def of(cls, candidate: Candidate, run: Run | None, metric: str, sampled: Sequence[Drawn] = ()) -> Entry:
        """What the candidate's run says; run: None: there is none yet."""
        if run is None:
            return cls(candidate)
        found, judged = runs.looks(run, metric), runs.looks(run, "class_accuracy")
        return cls(
            candidate,
            tuple(found),
            judged[-1].value if judged else None,
            runs.seconds(run),
            runs.failure(run),
            tuple(sampled),
        )


@dataclasses.dataclass(frozen=True)
class Findings:
    """All that a study knows. metric: its key. better: "lower" or "higher". protocol: what the numbers hang on."""

    folder: Path
    metric: str
    better: str
    protocol: dict[str, Any]
    entries: tuple[Entry, ...]
    budgets: tuple[float, ...] = ()

    @property
    def measured(self) -> list[Entry]:
        """The models that have a last measurement, cheapest first."""
        return [entry for entry in self.entries if entry.last]

    @property
    def fitted(self) -> list[Entry]:
        """The measured models that a law of positive values can be fitted to."""
        return [entry for entry in self.measured if any(look.value > 0 for look in entry.looks)]

    @functools.cached_property
    def correlation(self) -> Estimate | None:
        """Of log multiply-adds and the last value; None with fewer than three models."""
        if len(self.measured) < FEWEST_MODELS:
            return None
        size = np.log10([entry.candidate.multiply_adds for entry in self.measured])
        return correlation(size, np.array([entry.last.value for entry in self.measured if entry.last]))

    @functools.cached_property
    def curves(self) -> list[Curve]:
        """Of the models in ``fitted``; values that are not positive are left out."""
        return [_curve(entry) for entry in self.fitted]

    @functools.cached_property
    def law(self) -> Fit | None:
        """The laws of the frontier; None where they cannot be had (see ``why_no_fit``)."""
        return fit(self.curves) if self.better == "lower" else None

    def why_no_fit(self) -> str | None:
        """In words; None where there is a fit."""
        if self.better != "lower":
            title = metric_text(self.metric).title
            return f"no power law is fitted: more is better for {title}, and a law of decay has no meaning for it"
        if len(self.curves) < FEWEST_MODELS:
            return (
                f"no power law is fitted: {len(self.curves)} models are measured, expected at least {FEWEST_MODELS}; "
                "add --sizes or --patches"
            )
        if self.law is None:
            return (
                "no power law is fitted: the frontier, of compute at which two models or more were measured, has fewer "
                "than 3 points; measure more often (--evaluate-every), or choose sizes nearer to one another"
            )
        return None

    def advice(self, found: Fit) -> list[Advice]:
        """For each budget."""
        return [advise(self.curves, found, budget) for budget in self.budgets]

    def nearest(self, multiply_adds: float) -> Entry:
        """The measured model whose forward pass costs about so much."""
        return min(self.measured, key=lambda e: abs(math.log(e.candidate.multiply_adds / multiply_adds)))


def _curve(entry: Entry) -> Curve:
    looks = [look for look in entry.looks if look.value > 0]
    return Curve(
        entry.candidate.multiply_adds,
        np.array([entry.candidate.training_multiply_adds(look.step) for look in looks]),
        np.array([look.value for look in looks]),
    )


def as_json(found: Findings, environment: dict[str, str]) -> dict[str, Any]:
    """The content of points.json."""
    law = found.law
    measured = found.correlation
    return {
        "protocol": found.protocol,
        "metric": found.metric,
        "models": [_entry(entry, found.metric) for entry in found.entries],
        "correlation": measured and dataclasses.asdict(measured),
        "fit": found.why_no_fit() if law is None else _law(law),
        "budgets": [_plain(dataclasses.asdict(advice)) for advice in found.advice(law)] if law else [],
        "environment": environment,
    }


def _entry(entry: Entry, metric: str) -> dict[str, Any]:
    c, train = entry.candidate, entry.candidate.recipe.train
    curve = [{**dataclasses.asdict(k), "multiply_adds": c.training_multiply_adds(k.step)} for k in entry.looks]
    sampled = [
        {
            "evaluations": p.evaluations,
            "steps": p.steps,
            "passes": p.passes,
            "multiply_adds": p.passes * c.multiply_adds,
            "value": _finite(value_of(p, metric)),
        }
        for p in entry.sampled
    ]
    return {
        "name": c.name,
        "run": f"runs/{c.folder}",
        "multiply_adds": c.multiply_adds,
        "parameters": c.parameters,
        "tokens": c.tokens,
        "steps": train.steps,
        "batch_size": train.batch_size,
        "seconds": entry.seconds,
        "failed": entry.failed,
        "class_accuracy": entry.accuracy,
        "curve": curve,
        "sampling": sampled,
    }


def _law(law: Fit) -> dict[str, Any]:
    kept = {"scale", "exponent", "offset", "size_exponent", "range"}
    said = {name: value for name, value in dataclasses.asdict(law).items() if name in kept}
    return {**said, "sizes": law.sizes and dataclasses.asdict(law.sizes)}


def _plain(value: Any) -> Any:
    return {k: (_plain(v) if isinstance(v, dict) else v) for k, v in value.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
