"""What every score is computed from: both sets of images as statistics of what a network sees in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ditkit.base.errors import UserError, at_least_one
from ditkit.evaluate.frechet import Gaussian
from ditkit.evaluate.images import check_images, check_labels
from ditkit.evaluate.networks.network import FeatureNetwork, Taps
from ditkit.evaluate.points import Points
from ditkit.evaluate.statistics import Mean, Moments, Rows, SplitEntropies, Statistic, shuffled_splits
from ditkit.evaluate.strata import equal_shares

BATCH = 256


class Batch(NamedTuple):
    """Images uint8 (B, C, H, W) with their numbers (B,), what the network sees, and what they were drawn for, if known.

    labels: int64 (B,). prompts: embeddings (B, D) of their captions by the same network.
    """

    images: Tensor
    index: Tensor
    taps: Taps
    labels: Tensor | None = None
    prompts: Tensor | None = None


@dataclass(frozen=True)
class Quantity:
    """One statistic of a side. start: an empty one for a set of so many images. add: what a batch adds to it.

    given: whether a batch has what it takes.
    """

    words: str
    kind: type[Any]
    start: Callable[[int], Statistic]
    given: Callable[[Batch], bool]
    add: Callable[[Any, Batch], None]


@dataclass
class Side:
    """One set of images as statistics by the name of their quantity; sides of parts of a set merge.

    total: images of the whole set, of which ``count`` have been seen; both 0 where a file of statistics says no more.
    strata: (total,) int64, the class of each where every class has its share of them (see ``strata``); None: none has.
    """

    total: int
    count: int = 0
    held: dict[str, Statistic | Gaussian] = field(default_factory=dict)
    strata: Tensor | None = None

    def update(self, batch: Batch, quantities: Iterable[str]) -> None:
        """Adds a batch to those of ``quantities`` for which it has what it takes."""
        self.count += len(batch.images)
        for name in quantities:
            quantity = QUANTITIES[name]
            if quantity.given(batch):
                quantity.add(self.held.setdefault(name, quantity.start(self.total)), batch)

    def merge(self, other: Side) -> None:
        """Adds what another process has seen of the same set. Raises UserError when it kept other quantities."""
        if self.held.keys() != other.held.keys():
            raise UserError(f"the parts keep {sorted(self.held)} and {sorted(other.held)}, expected the same scores")
        mine, others = self._merging(), other._merging()
        self.count += other.count
        for name, statistic in mine.items():
            statistic.merge(others[name])

    @property
    def state(self) -> dict[str, Tensor]:
        """Everything as tensors named ``quantity.part``, from which ``of_state`` makes the side again."""
        parts = {f"{name}.{key}": value for name, held in self._merging().items() for key, value in held.state.items()}
        return {"total": torch.tensor(self.total), "count": torch.tensor(self.count), **parts}

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Side:
        """The side whose state this is."""
        side = cls(int(state["total"]), int(state["count"]))
        for name in dict.fromkeys(key.partition(".")[0] for key in state if "." in key):
            parts = {k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")}
            side.held[name] = QUANTITIES[name].kind.of_state(parts)
        return side

    def __getitem__(self, name: str) -> Any:
        """The statistic of a quantity; UserError when it was not kept."""
        if name not in self.held:
            raise UserError(f"{QUANTITIES[name].words} were not kept, expected one of {', '.join(self.held)}")
        return self.held[name]

    def _merging(self) -> dict[str, Any]:
        """What is held; UserError when some of it was not measured but read from a file of statistics."""
        for name, held in self.held.items():
            if isinstance(held, Gaussian):
                raise UserError(f"{QUANTITIES[name].words} come from a file of statistics: use the file, or its images")
        return dict(self.held)

    @property
    def gaussian(self) -> Gaussian:
        """Mean and covariance of the features."""
        return self["moments"].gaussian()

    @property
    def spatial_gaussian(self) -> Gaussian:
        """Mean and covariance of the spatial features."""
        return self["spatial"].gaussian()

    @property
    def features(self) -> Tensor:
        """Features (N, D), in the order of the images."""
        return self["features"].rows

    @property
    def images(self) -> Tensor:
        """The images uint8 (N, C, H, W), in their order."""
        return self["images"].rows


@dataclass(frozen=True)
class Measured:
    """Real and generated images in one network's eyes."""

    real: Side
    generated: Side
    network: FeatureNetwork


@dataclass(frozen=True)
class Score:
    """A number, how many samples it is measured on, and what to know before believing it (None: nothing).

    standard_error: of the value, and error_from: how it is known without drawing again; both None with one sample.
    """

    value: float
    samples: int
    standard_error: float | None = None
    error_from: str | None = None
    note: str | None = None


def measure(
    what: str,
    images: Tensor,
    labels: Tensor | None,
    network: FeatureNetwork,
    *,
    quantities: Iterable[str] | None = None,
    captions: Sequence[str] | None = None,
    batch: int = BATCH,
    progress: bool = True,
) -> Side:
    """A side for images uint8 (N, C, H, W) and labels int64 (N,) or None; ``what`` names the images in errors.

    quantities: those to keep; by default what the scores are computed from. captions: one for each image.
    Raises UserError on images or labels that are not as said, or images that the network was not made for.
    """
    check_images(what, images)
    if labels is not None and network.num_classes is not None:
        check_labels(what, images, labels, network.num_classes)
    if captions is not None and len(captions) != len(images):
        raise UserError(
            f"{len(captions)} captions of {len(images)} {what}, expected one for each: give as many, in order"
        )
    side, keep = Side(len(images)), DEFAULT if quantities is None else tuple(quantities)
    side.strata = equal_shares(labels)
    starts = range(0, len(images), at_least_one("batch", batch))
    for start in tqdm(starts, "features", delay=2, disable=not progress, leave=False):
        rows = slice(start, start + batch)
        observe(
            side,
            network,
            images[rows],
            torch.arange(len(images))[rows],
            keep,
            labels=None if labels is None else labels[rows],
            captions=None if captions is None else captions[rows],
        )
    return side


def observe(
    side: Side,
    network: FeatureNetwork,
    images: Tensor,
    index: Tensor,
    quantities: Iterable[str],
    *,
    labels: Tensor | None = None,
    captions: Sequence[str] | None = None,
) -> None:
    """Adds one batch of a stream to a side: images uint8 (B, C, H, W) with their numbers (B,) in the whole set.

    labels (B,) int64 and captions are those that the images were drawn for; both are left out where the network knows
    no such classes or reads no text.
    """
    read = getattr(network, "read", None)
    prompts = read(captions) if read is not None and captions is not None else None
    known = labels if network.num_classes is not None else None
    side.update(Batch(images, index, network.look(images), known, prompts), quantities)


def _hits(batch: Batch) -> Tensor:
    assert batch.taps.logits is not None
    return (batch.taps.logits.argmax(1) == batch.labels).double()


def _alike(batch: Batch) -> Tensor:
    assert batch.prompts is not None
    return F.cosine_similarity(batch.taps.features.double(), batch.prompts.double()).clamp(min=0)


QUANTITIES = {
    "moments": Quantity(
        "mean and covariance of features", Moments, lambda total: Moments(), lambda b: True,
        lambda s, b: s.update(b.taps.features),
    ),
    "spatial": Quantity(
        "spatial features", Moments, lambda total: Moments(), lambda b: b.taps.spatial is not None,
        lambda s, b: s.update(b.taps.spatial),
    ),
    "spatial_rows": Quantity(
        "spatial features of all images", Rows, lambda total: Rows(), lambda b: b.taps.spatial is not None,
        lambda s, b: s.update(b.taps.spatial, b.index),
    ),
    "features": Quantity(
        "features of all images", Points, lambda total: Points(), lambda b: True,
        lambda s, b: s.update(b.taps.features, b.index),
    ),
    "entropies": Quantity(
        "logits", SplitEntropies, lambda total: SplitEntropies(shuffled_splits(total)),
        lambda b: b.taps.logits is not None, lambda s, b: s.update(b.taps.logits, b.index),
    ),
    "hits": Quantity(
        "labels of classes that the network tells apart", Mean, lambda total: Mean(),
        lambda b: b.labels is not None and b.taps.logits is not None, lambda s, b: s.update(_hits(b)),
    ),
    "captions": Quantity(
        "captions, and a network that reads them", Mean, lambda total: Mean(), lambda b: b.prompts is not None,
        lambda s, b: s.update(_alike(b)),
    ),
    "images": Quantity(
        "the images themselves", Rows, lambda total: Rows(), lambda b: True,
        lambda s, b: s.update(b.images, b.index),
    ),
}  # fmt: skip

DEFAULT = tuple(name for name in QUANTITIES if name not in ("images", "spatial_rows"))
