"""Memorisation: how near samples come to training images, judged by how near real images outside them come."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ditkit.base.errors import UserError
from ditkit.evaluate.features import check_features
from ditkit.evaluate.images import check_images, check_same_shape
from ditkit.evaluate.statistics import BINOMIAL, binomial_error

BLOCK_BYTES = 128 * 2**20
NEIGHBOURHOOD = 50
"""Neighbours whose mean distance is the scale of a place (Carlini et al. 2023, arXiv:2301.13188, section 4.2)."""
FEWEST_HELDOUT = 20
"""Held-out images that it takes to tell what is near."""
QUANTILES = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)


def nearest(queries: Tensor, references: Tensor, k: int = 1, *, progress: bool = True) -> tuple[Tensor, Tensor]:
    """The k nearest references of each query: distances (Q, k) float32, rising, and rows (Q, k) int64.

    queries, references: uint8 (Q or R, C, H, W). Distance: Euclidean, over pixels in [-1, 1]. The distances are exact
    (integers, then one root). Memory: a block of pairs. Raises UserError on other types, sizes or a k above R.
    """
    check_images("queries", queries)
    check_images("references", references)
    check_same_shape("queries", queries, "references", references)
    if not 1 <= k <= len(references):
        raise UserError(f"k is {k}, expected 1 to {len(references)}, the number of references")
    # Float32 products choose a few more candidates than asked for; integers then decide. Halves are exact in float32.
    table = references.flatten(1).float() - 127.5
    norms = table.square().sum(1)
    size = max(1, BLOCK_BYTES // (4 * max(len(references), table.shape[1] * (k + 4))))
    found = []
    for block in tqdm(queries.split(size), "neighbours", delay=2, disable=not progress, leave=False):
        near = torch.addmm(norms, block.flatten(1).float() - 127.5, table.T, alpha=-2)
        rows = near.topk(min(k + 4, len(references)), largest=False).indices
        difference = block.flatten(1).int()[:, None] - references.flatten(1)[rows].int()
        squared = difference.square().sum(2)
        # Equal distances are put in the order of their rows.
        rows, order = rows.sort(1)
        squared, best = squared.gather(1, order).sort(dim=1, stable=True)
        found.append((squared[:, :k], rows.gather(1, best)[:, :k]))
    squared, rows = (torch.cat(parts) for parts in zip(*found, strict=True))
    return (squared.double().sqrt() / 127.5).float(), rows


def first_equal(rows: Tensor) -> Tensor:
    """The number of the first row that equals each of the rows (N, ...): (N,) int64; told by their digests."""
    first: dict[bytes, int] = {}
    every = enumerate(rows.flatten(1).contiguous().cpu().numpy())
    return torch.tensor([first.setdefault(hashlib.blake2b(row, digest_size=16).digest(), i) for i, row in every])


@dataclass(frozen=True)
class CopyReport:
    """Distances of samples to their nearest training images, beside those of held-out images.

    copies: rows of the samples that count as copies. false_alarms: the fraction of held-out images, which are no
    copies, that the same rule would call so. quantiles: levels of the two distance columns. distance_threshold,
    ratio_threshold: a copy lies below both. distances, rows: (S, k) of each sample, for drawing pairs. ratios: (S,).
    nearest_heldout: (H,), the distance of each held-out image to its nearest training image.
    """

    samples: int
    training: int
    heldout: int
    copies: Tensor
    false_alarms: float
    quantiles: tuple[float, ...]
    sample_distances: tuple[float, ...]
    heldout_distances: tuple[float, ...]
    distance_threshold: float
    ratio_threshold: float
    distances: Tensor
    rows: Tensor
    ratios: Tensor
    nearest_heldout: Tensor

    @property
    def rule(self) -> str:
        """What counts as a copy, to follow "a sample counts as a copy if it is"."""
        return (
            f"nearer to a training image than {self.distance_threshold:.3g}, and than {self.ratio_threshold:.2g} "
            f"of the mean distance of its {NEIGHBOURHOOD} nearest; of the held-out images, which cannot be copies, "
            f"{100 * self.false_alarms:.1f}% are"
        )

    def most_alike(self, count: int) -> Tensor:
        """Rows of the ``count`` samples that look most like copies, the most alike first."""
        return self.ratios.argsort(stable=True)[:count]

    def summary(self) -> dict[str, Any]:
        """The rate of copies with its error, their number and all but the tensors, as an entry of metrics.json."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items() if not isinstance(v, Tensor)}
        rate = len(self.copies) / self.samples
        error = {"standard_error": float(f"{binomial_error(rate, self.samples):.3g}"), "error_from": BINOMIAL}
        return {"value": rate, **error, **plain, "copies": len(self.copies)}


def nearest_features(
    queries: Tensor, references: Tensor, k: int = 1, *, progress: bool = True
) -> tuple[Tensor, Tensor]:
    """The k nearest references of each query in a feature space: distances (Q, k) float32, rising, and rows (Q, k).

    queries, references: features (Q or R, D), float. Raises UserError on other widths, values that are not finite, or
    a k above R.
    """
    check_features(queries, references, fewest=1)
    if not 1 <= k <= len(references):
        raise UserError(f"k is {k}, expected 1 to {len(references)}, the number of references")
    table = references.double()
    size = max(1, BLOCK_BYTES // (8 * len(references)))
    found = []
    for block in tqdm(queries.double().split(size), "neighbours", delay=2, disable=not progress, leave=False):
        # Not by products: the distance of equal features must be 0, not the root of a rounding.
        distances = torch.cdist(block, table, compute_mode="donot_use_mm_for_euclid_dist")
        found.append(distances.topk(k, largest=False))
    return torch.cat([f.values for f in found]).float(), torch.cat([f.indices for f in found])


def feature_copy_report(
    samples: Tensor, training: Tensor, heldout: Tensor, *, pairs: int = 3, progress: bool = True
) -> CopyReport:
    """The same as ``copy_report`` of features (N, D) of one network: it sees copies that are altered, too."""
    return _report(nearest_features, samples, training, heldout, pairs, progress)


def copy_report(
    samples: Tensor, training: Tensor, heldout: Tensor, *, pairs: int = 3, progress: bool = True
) -> CopyReport:
    """Which samples are copies of training images, at thresholds calibrated on held-out real images.

    samples, training, heldout: uint8 (N, C, H, W) of one size; held-out images must not be among the training images.
    A sample is a copy when its nearest training image is both
    - nearer than it is for all but 1% of the held-out images, and
    - nearer, in proportion to the mean distance of its 50 nearest (the scale of the place: digits of one class lie
      close together, and a bland sample lies close to many), than a third of what that is for a middling held-out
      image, and than for all but 1% of them.
    Training images that are equal count once.
    Held-out images that equal a training image (data often holds an image twice) are left out of the calibration,
    and the 1% leaves room for near-duplicates. pairs: neighbours kept for pictures.
    Raises UserError on other types or sizes, on fewer than 20 held-out or 2 training images, or when most
    held-out images are among the training images.
    """
    check_images("held-out images", heldout)
    check_images("training images", training)
    return _report(nearest, samples, training, heldout, pairs, progress)


def _report(
    near: Callable[..., tuple[Tensor, Tensor]],
    samples: Tensor,
    training: Tensor,
    heldout: Tensor,
    pairs: int,
    progress: bool,
) -> CopyReport:
    """The report by a measure of nearness; see ``copy_report``."""
    if len(heldout) < FEWEST_HELDOUT or len(training) < 2:
        raise UserError(
            f"{len(heldout)} held-out and {len(training)} training images are too few to know a copy, "
            f"expected at least {FEWEST_HELDOUT} and 2: hold out more of the data"
        )
    # Images that the training data holds often count once: else they would be the whole neighbourhood, which tells
    # nothing of the scale of the place.
    first = first_equal(training).unique()
    once = training if len(first) == len(training) else training[first]
    k = min(max(NEIGHBOURHOOD, pairs), len(once))
    real, _ = near(heldout, once, k, progress=progress)
    if real[:, 0].median() == 0:
        raise UserError(
            "more than half of the held-out images are among the training images, expected real images apart from "
            "them: give those that the model was not trained on"
        )
    distances, rows = near(samples, once, k, progress=progress)
    real_ratio, ratio = _ratio(real), _ratio(distances)
    apart = real[:, 0] > 0
    distance_threshold = _quantile(real[apart, 0], 0.01)
    ratio_threshold = min(real_ratio[apart].median().item() / 3, _quantile(real_ratio[apart], 0.01))
    levels = torch.tensor(QUANTILES)
    return CopyReport(
        samples=len(samples),
        training=len(training),
        heldout=len(heldout),
        copies=_below(distances, ratio, distance_threshold, ratio_threshold).nonzero()[:, 0],
        false_alarms=_below(real, real_ratio, distance_threshold, ratio_threshold).double().mean().item(),
        quantiles=QUANTILES,
        sample_distances=tuple(distances[:, 0].quantile(levels).tolist()),
        heldout_distances=tuple(real[:, 0].quantile(levels).tolist()),
        distance_threshold=distance_threshold,
        ratio_threshold=ratio_threshold,
        distances=distances[:, :pairs],
        rows=first[rows[:, :pairs]],
        ratios=ratio,
        nearest_heldout=real[:, 0],
    )


def _ratio(distances: Tensor) -> Tensor:
    """Nearest distance over the mean of the neighbourhood's (Q, k); 0 where all of them are zero."""
    mean = distances.mean(1)
    return torch.where(mean > 0, distances[:, 0] / mean, 0)


def _below(distances: Tensor, ratio: Tensor, distance_threshold: float, ratio_threshold: float) -> Tensor:
    return (distances[:, 0] < distance_threshold) & (ratio < ratio_threshold)


def _quantile(values: Tensor, level: float) -> float:
    return values.quantile(level).item()
