"""Distances between sets of images, from features of a network (N, D): one row for each image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ditkit.base.errors import UserError
from ditkit.evaluate.classifier import Classifier
from ditkit.evaluate.images import check_labels

BLOCK_BYTES = 128 * 2**20
"""Memory for one block of a matrix of pairwise distances."""


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution: mean (D,) and a factor R (K, D) of its covariance, R^T R, both float64.

    The factor, not the covariance, is kept: taking the root of a computed covariance would lose half of the digits.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def of_features(cls, features: Tensor) -> Gaussian:
        """Mean and unbiased covariance (n - 1) of features (N, D), N >= 2; N < D is allowed."""
        x = features.double()
        mean = x.mean(0)
        return cls(mean, torch.linalg.qr((x - mean) / (len(x) - 1) ** 0.5, mode="r").R)

    @classmethod
    def of_moments(cls, mean: Tensor, covariance: Tensor) -> Gaussian:
        """From a mean (D,) and a covariance (D, D), as statistics files hold them; it may be singular."""
        values, vectors = torch.linalg.eigh(covariance.double())
        return cls(mean.double(), values.clamp(min=0).sqrt()[:, None] * vectors.T)


def frechet_gaussian(a: Gaussian, b: Gaussian) -> float:
    """|mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^{1/2}), Dowson & Landau 1982.

    With S = R^T R the eigenvalues of S_a S_b are the squared singular values of R_a R_b^T, so that the last trace is
    their sum: real, no matrix root, exact for singular covariances.
    """
    root_trace = torch.linalg.svdvals(a.factor @ b.factor.T).sum()
    traces = a.factor.square().sum() + b.factor.square().sum()
    distance = (a.mean - b.mean).square().sum() + traces - 2 * root_trace
    return max(0.0, distance.item())


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance (FID where the features are Inception's) of features a (N, D) and b (M, D), computed in float64.

    Heusel et al. 2017 (arXiv:1706.08500), equation 6. Symmetric; 0 for equal sets; biased upwards for small N or M.
    Raises UserError with fewer than 2 rows, different widths, or values that are not finite.
    """
    _check_features(a, b, fewest=2)
    return frechet_gaussian(Gaussian.of_features(a), Gaussian.of_features(b))


class PrecisionRecall(NamedTuple):
    """Fractions in 0..1."""

    precision: float
    recall: float


def precision_recall(real: Tensor, generated: Tensor, k: int = 3, *, progress: bool = False) -> PrecisionRecall:
    """Improved precision and recall of features real (N, D) and generated (M, D).

    Kynkäänniemi et al. 2019 (arXiv:1904.06991), equations 1 and 2, as ADM's evaluator counts: around every point of a
    set lies a ball whose radius is the distance to its k-th nearest neighbour in the set, itself not counted, border
    included. Precision is the fraction of generated points inside a ball of a real one; recall the reverse.
    Memory: a block of pairwise distances. Raises UserError with k or fewer rows, different widths or non-finite values.
    """
    if k < 1:
        raise UserError(f"k is {k}, expected 1 or more: 3 is the published choice")
    _check_features(real, generated, fewest=k + 1)
    centre = real.double().mean(0)
    real, generated = real.double() - centre, generated.double() - centre
    real_radius = squared_radii(real, k, progress=progress)
    generated_radius = squared_radii(generated, k, progress=progress)
    in_real = torch.zeros(len(generated), dtype=torch.bool)
    in_generated = torch.zeros(len(real), dtype=torch.bool)
    for rows in _blocks(generated, real, "precision and recall", progress):
        squared = squared_distances(generated[rows], real)
        in_real[rows] = (squared <= real_radius).any(1)
        in_generated |= (squared <= generated_radius[rows, None]).any(0)
    return PrecisionRecall(in_real.double().mean().item(), in_generated.double().mean().item())


def squared_radii(points: Tensor, k: int, *, progress: bool = False) -> Tensor:
    """Squared distance (N,) of every point (N, D) to its k-th nearest neighbour, itself not counted."""
    radii = [
        # The point itself is among the k + 1 nearest, at distance zero.
        squared_distances(points[rows], points).topk(k + 1, largest=False).values.amax(1)
        for rows in _blocks(points, points, "neighbours", progress)
    ]
    return torch.cat(radii)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 (N, M) of float64 rows a (N, D) and b (M, D), through one matrix product.

    What rounding may have left of equal rows is set to zero, so that a point lies in its own ball of radius zero.
    """
    norms = a.square().sum(1)[:, None] + b.square().sum(1)
    squared = torch.addmm(norms, a, b.T, alpha=-2)
    rounding = 16 * torch.finfo(squared.dtype).eps
    return squared.masked_fill_(squared < rounding * norms, 0)


def class_accuracy(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """Fraction in 0..1 of uint8 images (N, C, H, W) that the classifier gives the label (N,) they were drawn for.

    Raises UserError when the classifier was trained without classes or a label is not one of them.
    """
    if classifier.num_classes is None:
        raise UserError(
            "class accuracy needs classes, but the classifier was trained without labels: train it with them"
        )
    check_labels("samples", images, labels, classifier.num_classes)
    return accuracy(classifier.logits(images), labels)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Fraction in 0..1 of rows of logits (N, K) that are largest at the label (N,)."""
    return (logits.argmax(1) == labels).double().mean().item()


def _blocks(a: Tensor, b: Tensor, what: str, progress: bool):
    """Slices of the rows of ``a`` such that their distances to all of ``b`` fit into a block; a bar after 2 s."""
    size = max(1, BLOCK_BYTES // (8 * len(b)))
    starts = range(0, len(a), size)
    for start in tqdm(starts, what, delay=2, disable=not progress, leave=False):
        yield slice(start, start + size)


def _check_features(a: Tensor, b: Tensor, fewest: int) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise UserError(
            f"features have shapes {tuple(a.shape)} and {tuple(b.shape)}, expected (N, D) and (M, D): "
            "take both from the same network"
        )
    for features in (a, b):
        if len(features) < fewest:
            raise UserError(f"a set of {len(features)} is too small, expected at least {fewest} images: add images")
        bad = int((~features.isfinite()).any(1).sum())
        if bad:
            raise UserError(
                f"features of {bad} of {len(features)} images are not finite, expected numbers: "
                "look for NaN in the images or in the feature network's weights"
            )
