"""The suite: every score of a set of samples against real images."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ditkit.base.errors import UserError, unknown
from ditkit.base.registry import members
from ditkit.evaluate.features import among
from ditkit.evaluate.images import check_images, check_same_shape, check_values
from ditkit.evaluate.measured import QUANTITIES, Measured, Score, Side, measure, observe
from ditkit.evaluate.networks.network import FeatureNetwork
from ditkit.evaluate.requirements import Requirements, requirements_of
from ditkit.evaluate.statistics import Moments

FEWEST = 4
"""k + 1 for k = 3 neighbours: below it no score of the distribution has a meaning."""
FEW_SHARED = 0.01
"""Of the samples: so many may be images of the reference without a note."""
SAME = "samples and reference are the same images: the score says nothing of a model"


def available() -> dict[str, Any]:
    """The scores by name: the functions of ``ditkit.evaluate.scores`` that are marked ``@score``."""
    return members("ditkit.evaluate.scores", _is_score)


def evaluate_samples(
    samples: Tensor,
    sample_labels: Tensor | None,
    reference: Tensor,
    reference_labels: Tensor | None,
    network: FeatureNetwork,
    *,
    scores: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    progress: bool = True,
) -> dict[str, dict[str, Any]]:
    """Scores of samples against real images, as they stand in metrics.json.

    samples, reference: uint8 (N, C, H, W) of one size. Labels: int64 (N,) or None. captions: one for each sample.
    scores: names, by default all that what is given allows.
    Gives for every key {"value": float, "samples": int}, "standard_error" with "error_from" where it is known, and
    "note" where there is something to know before believing the value. Class accuracies are absent without classes.
    Raises UserError on what has no meaning: other types or shapes, fewer than 4 images, an unknown score, or one that
    was asked for by name and cannot be computed.
    """
    check_images("samples", samples)
    check_images("reference images", reference)
    check_same_shape("samples", samples, "reference images", reference)
    for what, images in (("samples", samples), ("reference images", reference)):
        if len(images) < FEWEST:
            raise UserError(f"{len(images)} {what} are too few, expected at least {FEWEST} (better 1,000): add some")
        check_values(what, images)
    kept = needed_of_samples(scores)
    generated = measure(
        "samples", samples, sample_labels, network, quantities=kept, captions=captions, progress=progress
    )
    kept = needed(scores)
    real = measure("reference images", reference, reference_labels, network, quantities=kept, progress=progress)
    return compare(real, generated, network, scores=scores)


def needed(scores: Sequence[str] | None = None) -> tuple[str, ...]:
    """The quantities of a side that these scores, or all, are computed from; UserError on an unknown score."""
    found = [requirements_of(function) for function in chosen(scores)]
    return tuple(dict.fromkeys(name for r in found for name in (*r.samples, *r.reference)))


def needed_of_samples(scores: Sequence[str] | None = None) -> tuple[str, ...]:
    """The same, and what their standard errors are computed from."""
    errors = (name for function in chosen(scores) for name in requirements_of(function).errors)
    return tuple(dict.fromkeys([*needed(scores), *errors]))


def prepare(real: Side, scores: Sequence[str] | None = None) -> None:
    """Computes what these scores, or all, compute of the reference alone; it is kept with it."""
    for function in chosen(scores):
        requirements = requirements_of(function)
        if all(name in real.held for name in requirements.reference):
            requirements.alone(real)


def compare(
    real: Side, generated: Side, network: FeatureNetwork, *, scores: Sequence[str] | None = None
) -> dict[str, dict[str, Any]]:
    """The same from measured sides, so that a sweep measures its reference once (see ``measured.measure``).

    Keys are the scores' published names in the network's feature space (``fid``), where they have one.
    """
    measured = Measured(real, generated, network)
    same = SAME if same_images(real, generated) else _shared(real, generated)
    results: dict[str, dict[str, Any]] = {}
    for function in chosen(scores):
        requirements = requirements_of(function)
        missing = requirements.missing(measured)
        if missing and scores is not None:
            raise _impossible(function, missing)
        if missing:
            continue
        for key, value in function(measured).items():
            entry = _with_notes(
                value, [value.note, requirements.note(measured), same if requirements.reference else None]
            )
            results[network.aliases.get(key, key)] = entry
    return results


def check_enough(scores: Sequence[str] | None, count: int) -> None:
    """Raises UserError for a score that was asked for by name and needs more than ``count`` samples."""
    for function in chosen(scores) if scores is not None else ():
        fewest = requirements_of(function).fewest
        if count < fewest:
            raise _impossible(function, f"{count} samples are too few, expected at least {fewest}")


def check_possible(
    scores: Sequence[str] | None,
    network: FeatureNetwork,
    shape: Sequence[int],
    count: int,
    *,
    real: Side | None = None,
    labelled: bool = True,
    captioned: bool = True,
) -> None:
    """Raises UserError, before long work, for a score that was asked for by name and that nothing of this kind gives.

    shape, count: (C, H, W) of the samples and how many there will be. labelled, captioned: whether they have labels of
    the network's classes, and captions. real: the reference; None where it is not measured yet, and then it is taken
    to have what such samples would. What the network sees is asked of itself, by one blank image.
    """
    if scores is None:
        return
    generated = Side(count)
    observe(
        generated,
        network,
        torch.zeros(1, *shape, dtype=torch.uint8),
        torch.zeros(1, dtype=torch.int64),
        needed(scores),
        labels=torch.zeros(1, dtype=torch.int64) if labelled else None,
        captions=[""] if captioned else None,
    )
    generated.count = count
    measured = Measured(real or generated, generated, network)
    for function in chosen(scores):
        if missing := requirements_of(function).missing(measured):
            raise _impossible(function, missing)


def check_widths(what: str, held: Side, network: FeatureNetwork, shape: Sequence[int]) -> None:
    """Raises UserError, before long work, where statistics that were read are not of features as the network's.

    what: gave them. shape: (C, H, W) of the samples. What the network sees is asked of itself, by one blank image.
    """
    seen = Side(1)
    blank = torch.zeros(1, *shape, dtype=torch.uint8)
    observe(seen, network, blank, torch.zeros(1, dtype=torch.int64), held.held)
    remedy = "name the network that they are of by --features, or give images"
    if not (both := held.held.keys() & seen.held.keys()):
        words = ", ".join(QUANTITIES[name].words for name in held.held)
        raise UserError(f"{what} holds statistics alone ({words}), and the feature network gives none such: {remedy}")
    for name in both:
        theirs, ours = (len(side[name].mean) for side in (held, seen))
        if theirs != ours:
            raise UserError(
                f"{what} holds statistics of {theirs:,} numbers an image ({QUANTITIES[name].words}), expected "
                f"{ours:,}, as the feature network gives: {remedy}"
            )


def _impossible(function: Any, why: str) -> UserError:
    return UserError(f"score {function.__name__!r} cannot be computed: {why}; give what it needs or leave it out")


def too_few(real: Side, generated: Side, network: FeatureNetwork) -> dict[str, str]:
    """The scores that these sides have too few images for, and how many they need."""
    measured = Measured(real, generated, network)
    wanting = {name: requirements_of(function).too_few(measured) for name, function in available().items()}
    return {name: said for name, said in wanting.items() if said}


def chosen(names: Sequence[str] | None) -> list[Any]:
    """The score functions of these names, or all; UserError on an unknown one."""
    found = available()
    for name in names or ():
        if name not in found:
            raise unknown("score", name, found)
    return [found[name] for name in (found if names is None else names)]


def same_images(a: Side, b: Side) -> bool:
    """Whether both sides are the same images in some order, as far as the moments of their features tell."""
    moments = [side.held.get("moments") for side in (a, b)]
    x, y = (m if isinstance(m, Moments) else None for m in moments)
    if x is None or y is None or x.count != y.count or x.count < 2 or x.mean.shape != y.mean.shape:
        return False
    spread, other = (m.gaussian().factor.norm() for m in (x, y))
    # Far above what rounding of float32 features does to them, far below what another draw of as many images does.
    near = 1e-6 * (spread + x.mean.norm())
    return bool((x.mean - y.mean).norm() <= near) and bool((spread - other).abs() <= near)


def _shared(real: Side, generated: Side) -> str | None:
    """What to know where some of the samples are images of the reference; None where hardly one is."""
    if any("features" not in side.held for side in (real, generated)):
        return None
    found, count = int(among(generated.features, real.features).sum()), generated.count
    if found <= FEW_SHARED * count:
        return None
    return f"{found} of {count} samples are images of the reference, by their features: the score flatters the model"


def _with_notes(score: Score, notes: Sequence[str | None]) -> dict[str, Any]:
    said = "; ".join(note for note in notes if note) or None
    values = dataclasses.asdict(dataclasses.replace(score, note=said))
    if score.standard_error is not None:
        values["standard_error"] = float(f"{score.standard_error:.3g}")
    return {key: value for key, value in values.items() if value is not None}


def _is_score(value: Any) -> bool:
    return inspect.isfunction(value) and isinstance(getattr(value, "requirements", None), Requirements)
