"""Floor 5: measuring a run's samples against real images."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ditkit.app.recipe import Sampling
from ditkit.app.run import Model, Run, environment
from ditkit.app.stored import read_images
from ditkit.app.training import split
from ditkit.base.errors import UserError
from ditkit.base.files import write_json
from ditkit.data.images import Images, load_images
from ditkit.data.source import open_source
from ditkit.evaluate.classifier import Classifier, cached_classifier
from ditkit.evaluate.copies import FEWEST_HELDOUT, CopyReport, copy_report
from ditkit.evaluate.measured import Side, measure
from ditkit.evaluate.suite import compare

MOST = 50_000
"""Real images that are measured against, at most; of a larger set, evenly spaced ones."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """Real images (uint8), their labels as the model numbers its classes, and a classifier that knows them."""

    source: str
    fingerprint: str
    classifier: Classifier
    side: Side

    def scores(self, images: Tensor, labels: Tensor | None) -> dict[str, dict[str, Any]]:
        """The suite's scores of samples (N, C, H, W) uint8 with the labels that they were drawn for."""
        samples = measure("samples", images, labels if "hits" in self.side.held else None, self.classifier)
        return compare(self.side, samples, self.classifier)


def reference(model: Model, source: str | None) -> Reference:
    """The real images to measure a model against; None: what it was trained on (the held-out ones too).

    The classifier is trained on them once and kept in the run's folder.
    """
    name = source or model.facts["source"]
    opened = open_source(name)
    real = _in_memory(load_images(opened, size=model.size, channels=model.shape[0]))
    images, labels = real.get(torch.arange(len(real))), _labels(real, model, name)
    classifier = cached_classifier(
        model.run.folder / "classifier",
        images,
        labels,
        num_classes=len(model.classes) if labels is not None else None,
        device=model.device,
    )
    side = measure("reference images", images, labels, classifier)
    return Reference(name, opened.fingerprint(), classifier, side)


def _in_memory(images: Images) -> Images:
    if len(images) <= MOST:
        return images
    return images.subset(torch.linspace(0, len(images) - 1, MOST).long())


def _labels(real: Images, model: Model, name: str) -> Tensor | None:
    """The reference's labels in the model's numbering; None where there are no two classes to tell apart."""
    labels = matched_labels(real, model, f"--reference {name}")
    return labels if len(model.classes) > 1 else None


def matched_labels(real: Images, model: Model, option: str) -> Tensor | None:
    """The images' labels (N,) in the model's numbering, matched by class name; None where either has no classes.

    option: what gave the images, for the UserError about a class that the model does not know.
    """
    if not model.classes or real.labels is None:
        return None
    missing = [c for c in real.classes if c not in model.classes]
    if missing:
        raise UserError(
            f"{option} has the class {missing[0]!r}, which the model does not know (it knows "
            f"{', '.join(model.classes[:10])}): give images of the classes that it was trained on"
        )
    numbers = torch.tensor([model.classes.index(c) for c in real.classes])
    return numbers[real.labels]


def copies(model: Model, samples: Tensor) -> tuple[CopyReport, Tensor] | None:
    """How near samples come to training images beside held-out ones, and the training images.

    None where too few images were held out to tell what is near.
    """
    recipe = model.run.recipe
    if not recipe.data.heldout:
        return None
    learned, held = split(read_images(recipe.data), recipe)
    if held is None or len(held) < FEWEST_HELDOUT:
        return None
    training = _all(learned)
    return copy_report(samples, training, _all(held)), training


def _all(images: Images) -> Tensor:
    images = _in_memory(images)
    return images.get(torch.arange(len(images)))


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Samples (uint8), the labels and seeds that they were drawn for, and the seconds that it took."""

    images: Tensor
    labels: Tensor | None
    seeds: Sequence[int]
    seconds: float


def draw(model: Model, sampling: Sampling, num: int, seed: int, progress: str) -> Drawn:
    """``num`` samples, classes in turn (so as balanced as can be), seeds counting up from ``seed``."""
    labels, seeds = model.labels(num, range(len(model.names(sampling)))), range(seed, seed + num)
    start = time.perf_counter()
    images = model.draw(seeds, labels, sampling, progress=progress)
    return Drawn(images, labels, seeds, time.perf_counter() - start)


def evaluate(model: Model, against: Reference, sampling: Sampling, drawn: Drawn) -> dict[str, Any]:
    """The content of metrics.json: each metric with value and samples, and the protocol that they hang on."""
    metrics: dict[str, Any] = against.scores(drawn.images, drawn.labels)
    metrics["seconds_per_sample"] = {"value": drawn.seconds / len(drawn.images), "samples": len(drawn.images)}
    found = copies(model, drawn.images)
    if found:
        summary = found[0].summary()
        metrics["copies"] = {"value": summary.pop("copies"), **summary}
    metrics["protocol"] = {
        "run": str(model.run.folder),
        "step": model.step,
        "weights": "ema",
        "sampling": dataclasses.asdict(sampling),
        "labels": "none" if drawn.labels is None else "each class in turn",
        "seeds": [drawn.seeds[0], drawn.seeds[-1]],
        "reference": {"source": against.source, "fingerprint": against.fingerprint, "images": against.side.count},
        "feature_space": dataclasses.asdict(against.classifier.protocol),
        "environment": environment(model.device),
    }
    return metrics


def read_metrics(run: Run) -> dict[str, Any] | None:
    """The run's metrics.json; None where there is none. UserError where it is damaged."""
    path = run.folder / "metrics.json"
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        protocol = found["protocol"]
        _ = protocol["step"], protocol["reference"]["source"], float(protocol["sampling"]["guidance"])
        _ = found["seconds_per_sample"]["value"], [float(e["value"]) for e in found.values() if "value" in e]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}: {error}): expected what ditkit evaluate writes; "
            f"delete it, or make it anew with ditkit evaluate {run.folder}"
        ) from None
    return found


def write_metrics(run: Run, metrics: dict[str, Any]) -> Path:
    """Writes the run's metrics.json."""
    path = run.folder / "metrics.json"
    write_json(path, metrics)
    return path
