"""The suite: every score of a set of samples against real images."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ditkit.base.errors import UserError, unknown
from ditkit.base.registry import members
from ditkit.evaluate.classifier import Classifier
from ditkit.evaluate.images import check_images, check_same_shape
from ditkit.evaluate.measured import Measured, Side, measure

FEWEST = 4
"""k + 1 for k = 3 neighbours: below it no score of the distribution has a meaning."""


def available() -> dict[str, Any]:
    """The scores by name: the functions of ``ditkit.evaluate.scores`` that take a ``Measured``."""
    return members("ditkit.evaluate.scores", _is_score)


def evaluate_samples(
    samples: Tensor,
    sample_labels: Tensor | None,
    reference: Tensor,
    reference_labels: Tensor | None,
    classifier: Classifier,
    *,
    scores: Sequence[str] | None = None,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Scores of samples against real images, as they stand in metrics.json.

    samples, reference: uint8 (N, C, H, W) of one size. Labels: int64 (N,) or None. scores: names, by default all.
    Gives for every key {"value": float, "samples": int}, and "note" where there is something to know before
    believing the value. Class accuracies are absent without classes.
    Raises UserError on what has no meaning: other types or shapes, fewer than 4 images, an unknown score.
    """
    check_images("samples", samples)
    check_images("reference images", reference)
    check_same_shape("samples", samples, "reference images", reference)
    for what, images in (("samples", samples), ("reference images", reference)):
        if len(images) < FEWEST:
            raise UserError(f"{len(images)} {what} are too few, expected at least {FEWEST} (better 1,000): add some")
    chosen(scores)
    generated = measure("samples", samples, sample_labels, classifier, progress=progress)
    real = measure("reference images", reference, reference_labels, classifier, progress=progress)
    return compare(real, generated, classifier, scores=scores)


def compare(
    real: Side, generated: Side, classifier: Classifier, *, scores: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """The same from measured sides, so that a sweep measures its reference once (see ``measured.measure``)."""
    measured = Measured(real, generated, classifier)
    results: dict[str, dict[str, Any]] = {}
    for score in chosen(scores):
        for key, value in score(measured).items():
            results[key] = {k: v for k, v in dataclasses.asdict(value).items() if v is not None}
    return results


def chosen(names: Sequence[str] | None) -> list[Any]:
    """The score functions of these names, or all; UserError on an unknown one."""
    found = available()
    for name in names or ():
        if name not in found:
            raise unknown("score", name, found)
    return [found[name] for name in (found if names is None else names)]


def _is_score(value: Any) -> bool:
    return inspect.isfunction(value) and [p.annotation for p in inspect.signature(value).parameters.values()] == [
        Measured.__name__
    ]
