"""Numbers and metrics in plain words."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence


def number(value: float) -> str:
    """Four significant digits: 0.9621, 12.35, 1,234, 1.2e-05; "not finite" for NaN and infinities."""
    if not math.isfinite(value):
        return "not finite"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if not 1e-4 <= abs(value) < 1e6:
        return f"{value:.3g}"
    decimals = max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".rstrip("0").rstrip(".") if decimals else f"{value:,.0f}"


def with_error(value: float, error: float | None) -> str:
    """Four significant digits of the value, and two of its standard error where it is known: 0.9941 ± 0.00077."""
    return number(value) + ("" if error is None or not math.isfinite(error) else f" ± {number(float(f'{error:.2g}'))}")


def percent(value: float) -> str:
    """A fraction in percent with one decimal."""
    return f"{100 * value:.1f}%" if math.isfinite(value) else "not finite"


def compact(value: float) -> str:
    """A short label for an axis: 0.05, 20k, 1.5M, 1e-05."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """A duration in the units that suit it: 41 ms, 3.2 s, 5 min 12 s, 2 h 05 min, 278 h."""
    if not math.isfinite(seconds):
        return "not finite"
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,} h {minutes:02d} min" if hours < 100 else f"{round(seconds / 3600):,} h"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


@dataclasses.dataclass(frozen=True)
class MetricText:
    """How a metric is named and explained. fraction: it lies in 0..1 and is shown in percent."""

    title: str
    meaning: str
    better: str
    fraction: bool = False


def metric_text(key: str) -> MetricText:
    """The words for a metric key of metrics.json; a key without an entry below is shown under its own name."""
    return METRICS.get(key) or MetricText(key.replace("_", " ").capitalize(), "", "")


METRICS = {
    "class_accuracy": MetricText(
        "Class accuracy",
        "Share of samples in which a classifier trained on real images sees the class that was asked for.",
        "higher",
        fraction=True,
    ),
    "classifier_heldout_accuracy": MetricText(
        "Classifier on real images",
        "How often that classifier is right on real images it never saw: the ceiling for class accuracy.",
        "higher",
        fraction=True,
    ),
    "frechet_distance": MetricText(
        "Fréchet distance",
        "How far samples and real images lie apart as two clouds in the classifier’s features; 0 is the same cloud.",
        "lower",
    ),
    "spatial_frechet_distance": MetricText(
        "Spatial Fréchet distance",
        "The same in features that still know where in the image they are; 0 is the same cloud.",
        "lower",
    ),
    "kernel_distance": MetricText(
        "Kernel distance",
        "How far both clouds lie apart by a cubic kernel: unbiased, so that 0 on average is the same cloud.",
        "lower",
    ),
    "precision": MetricText(
        "Precision",
        "Share of samples that lie where real images lie: how believable they are.",
        "higher",
        fraction=True,
    ),
    "recall": MetricText(
        "Recall",
        "Share of real images that lie where samples lie: how much of the variety is covered.",
        "higher",
        fraction=True,
    ),
    "density": MetricText(
        "Density",
        "How densely real images lie around the samples, 1 being as densely as around real ones.",
        "higher",
    ),
    "coverage": MetricText(
        "Coverage",
        "Share of real images with a sample among their nearest neighbours.",
        "higher",
        fraction=True,
    ),
    "classifier_score": MetricText("Classifier score", "The Inception Score of the classifier's answers.", "higher"),
    "fid": MetricText("FID", "Fréchet distance in Inception's features.", "lower"),
    "sfid": MetricText("sFID", "Fréchet distance in Inception's spatial features.", "lower"),
    "kid": MetricText("KID", "Squared MMD in Inception's features, unbiased.", "lower"),
    "inception_score": MetricText("Inception Score", "Sharp answers, and many different ones.", "higher"),
    "fd_dinov2": MetricText("FD-DINOv2", "Fréchet distance in DINOv2's features.", "lower"),
    "kd_dinov2": MetricText("KD-DINOv2", "Squared MMD in DINOv2's features, unbiased.", "lower"),
    "fd_clip": MetricText("FD-CLIP", "Fréchet distance in CLIP's features.", "lower"),
    "kd_clip": MetricText("KD-CLIP", "Squared MMD in CLIP's features with a cubic kernel, unbiased.", "lower"),
    "cmmd": MetricText("CMMD", "1,000 times the squared MMD in CLIP's features with a Gaussian kernel.", "lower"),
    "clip_score": MetricText("CLIP score", "How well images fit their captions, by CLIP.", "higher"),
    "bits_per_dim": MetricText("Bits per dimension", "What real images cost under the model.", "lower"),
    "psnr": MetricText("PSNR (dB)", "How near reconstructions come to their images, pixel by pixel.", "higher"),
    "ssim": MetricText("SSIM", "How alike images and reconstructions are in structure; 1 is the same.", "higher"),
    "lpips": MetricText("LPIPS", "Distance of images and reconstructions in VGG's features.", "lower"),
    "rfrechet_distance": MetricText("rFID in own features", "Fréchet distance of reconstructions to images.", "lower"),
    "rfid": MetricText("rFID", "FID of reconstructions to their images.", "lower"),
    "copy_rate": MetricText("Copies", "Share of samples that repeat a training image.", "lower", fraction=True),
    "copy_rate_in_features": MetricText(
        "Copies in features", "The same by the distance of features.", "lower", fraction=True
    ),
}
HEADLINE = ("class_accuracy", "classifier_heldout_accuracy", "frechet_distance", "precision", "recall", "psnr", "ssim")
"""Metrics that stand at the head of a page, where they were measured."""
