"""Scores of the distribution as a whole."""

from __future__ import annotations

from ditkit.evaluate import metrics
from ditkit.evaluate.measured import Measured, Score


def frechet_distance(measured: Measured) -> dict[str, Score]:
    """Fréchet distance between real and generated features (see ``metrics.frechet_distance``)."""
    real, generated = measured.real.features, measured.generated.features
    fewest, enough = min(len(real), len(generated)), 10 * real.shape[1]
    note = (
        f"few images ({fewest}): the distance is biased upwards below about {enough}, ten for each feature"
        if fewest < enough
        else None
    )
    return {"frechet_distance": Score(metrics.frechet_distance(real, generated), len(generated), note)}


def precision_recall(measured: Measured) -> dict[str, Score]:
    """Precision and recall with k = 3 (see ``metrics.precision_recall``)."""
    real, generated = measured.real.features, measured.generated.features
    precision, recall = metrics.precision_recall(real, generated, k=3, progress=True)
    few = f"few images ({len(real)} real, {len(generated)} generated): the standard error is about "
    return {
        "precision": Score(precision, len(generated), _note(few, precision, len(generated))),
        "recall": Score(recall, len(generated), _note(few, recall, len(real))),
    }


def _note(few: str, fraction: float, n: int) -> str | None:
    return f"{few}{(max(fraction * (1 - fraction), 0.25 / n) / n) ** 0.5:.2f}" if n < 1000 else None
