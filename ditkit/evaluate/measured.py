"""What every score is computed from: both sets of images and what the classifier makes of them, computed once."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.evaluate.classifier import Classifier
from ditkit.evaluate.images import check_images, check_labels


@dataclass(frozen=True)
class Side:
    """One set of images: images uint8 (N, C, H, W), labels int64 (N,) or None, features (N, D), logits (N, outputs)."""

    images: Tensor
    labels: Tensor | None
    features: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Measured:
    """Real and generated images in one classifier's eyes."""

    real: Side
    generated: Side
    classifier: Classifier


@dataclass(frozen=True)
class Score:
    """A number, how many samples it is measured on, and what to know before believing it (None: nothing)."""

    value: float
    samples: int
    note: str | None = None


def measure(what: str, images: Tensor, labels: Tensor | None, classifier: Classifier, *, progress: bool = True) -> Side:
    """A side for images uint8 (N, C, H, W) and labels int64 (N,) or None; ``what`` names the images in errors.

    Raises UserError on images or labels that are not as said, or images that the classifier was not made for.
    """
    check_images(what, images)
    if labels is not None and classifier.num_classes is not None:
        check_labels(what, images, labels, classifier.num_classes)
    features, logits = classifier.measure(images, progress=progress)
    bad = int((~features.isfinite()).any(1).sum())
    if bad:
        raise UserError(f"features of {bad} of {len(images)} {what} are not finite: train the classifier again")
    return Side(images, labels, features, logits)
