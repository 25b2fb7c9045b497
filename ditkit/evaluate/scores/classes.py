"""Scores of conditional samples: is it what was asked for, and how good is the judge?"""

from __future__ import annotations

from ditkit.evaluate.classifier import Classifier
from ditkit.evaluate.measured import Measured, Score
from ditkit.evaluate.networks.network import FeatureNetwork
from ditkit.evaluate.requirements import score
from ditkit.evaluate.statistics import BINOMIAL, binomial_error


@score(samples=("hits",))
def class_accuracy(measured: Measured) -> dict[str, Score]:
    """Fraction of samples that the classifier gives the class they were drawn for; nothing without classes."""
    hits = measured.generated["hits"]
    return {"class_accuracy": Score(hits.value, hits.count, binomial_error(hits.value, hits.count), BINOMIAL)}


def _other_than_of_classes(network: FeatureNetwork) -> str | None:
    told = isinstance(network, Classifier) and network.num_classes is not None
    return None if told else "a classifier of the reference's classes: the feature space 'self', of images with classes"


@score(space=_other_than_of_classes)
def classifier_heldout_accuracy(measured: Measured) -> dict[str, Score]:
    """The classifier's accuracy on real images that it was not trained on."""
    network = measured.network
    assert isinstance(network, Classifier)
    accuracy, n = network.heldout_accuracy, network.heldout_samples
    return {"classifier_heldout_accuracy": Score(accuracy, n, binomial_error(accuracy, n), BINOMIAL)}


@score(samples=("entropies",), fewest=100, enough=5000, bias="the score is biased downwards")
def inception_score(measured: Measured) -> dict[str, Score]:
    """Inception Score over 10 splits: sharp answers and many of them (Salimans et al. 2016, arXiv:1606.03498).

    The standard error is the standard deviation over the splits over the root of their number.
    """
    scores = measured.generated["entropies"].scores
    error = scores.std(correction=1).item() / len(scores) ** 0.5
    return {"inception_score": Score(scores.mean().item(), measured.generated.count, error, f"{len(scores)} splits")}
