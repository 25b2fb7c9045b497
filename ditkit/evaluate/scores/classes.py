"""Scores of conditional samples: is it what was asked for, and how good is the judge?"""

from __future__ import annotations

from ditkit.evaluate import metrics
from ditkit.evaluate.measured import Measured, Score


def class_accuracy(measured: Measured) -> dict[str, Score]:
    """Fraction of samples that the classifier gives the class they were drawn for; nothing without classes."""
    samples = measured.generated
    if samples.labels is None or measured.classifier.num_classes is None:
        return {}
    return {"class_accuracy": Score(metrics.accuracy(samples.logits, samples.labels), len(samples.labels))}


def classifier_heldout_accuracy(measured: Measured) -> dict[str, Score]:
    """The classifier's accuracy on real images that it was not trained on; nothing without classes."""
    classifier = measured.classifier
    if classifier.num_classes is None:
        return {}
    return {"classifier_heldout_accuracy": Score(classifier.heldout_accuracy, classifier.heldout_samples)}
