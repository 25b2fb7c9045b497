"""Floor 5: the real images that samples are measured against, in a network's eyes; measured once, then cached."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ditkit.app.recipe import Data
from ditkit.app.stored import read_images
from ditkit.base.errors import UserError, unknown
from ditkit.base.files import check_folder, expanded, sha256
from ditkit.data.crops import Crop
from ditkit.data.images import CENTRE, Images
from ditkit.data.latents import LatentStore
from ditkit.data.loading import load_images
from ditkit.data.source import open_source
from ditkit.data.store import is_store
from ditkit.evaluate.classifier import Classifier, cached_classifier, untrained
from ditkit.evaluate.images import check_same_shape, check_values, looked_at
from ditkit.evaluate.measured import BATCH, Side, observe
from ditkit.evaluate.networks.network import FeatureNetwork, as_rgb, available, load_network
from ditkit.evaluate.npz import MOMENTS, image_writer, read_statistics, statistics_of
from ditkit.evaluate.reference import cached_reference, reference_fingerprint
from ditkit.evaluate.suite import (
    FEWEST,
    check_possible,
    check_widths,
    compare,
    needed,
    needed_of_samples,
    prepare,
    too_few,
)

MOST = 50_000
"""Real images that are measured against, at most; of a larger set, evenly spaced ones."""
LEARNED_BYTES = 2 * 2**30
"""Pixels that the feature space "self" learns from, at most; of a larger set, evenly spaced ones."""
SELF = "self"
CLASSIFIER, MEASURED = "classifier", "references"
"""Folders, in the one that is given, of the classifier and of measured references."""
CENTRED = "shorter side, then the centre, as ADM crops"


@dataclasses.dataclass(frozen=True)
class Space:
    """With which eyes to measure. network: a feature network's name, or "self": a classifier of the reference.

    weights: the network's file or folder; None: where it looks for them. scores: names; None: all that can be had.
    Raises UserError for an unknown name, and for weights of "self", which has none yet.
    """

    network: str = SELF
    weights: str | None = None
    scores: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.network not in (known := {SELF, *available()}):
            raise unknown("feature network", self.network, known)
        if self.network == SELF and self.weights is not None:
            raise UserError(
                f"--features-weights {self.weights} does nothing with --features {SELF}, a classifier that is trained "
                "on the reference: leave it out, or name the network that they are of"
            )
        needed(self.scores)


@dataclasses.dataclass(frozen=True)
class Reference:
    """Real images as statistics, and the network that saw them.

    source: what the user called them by. fingerprint: of them, as they were brought to the samples' size.
    space: the eyes and the scores. classes: the names behind the labels; empty where no sample's class can be judged.
    images: themselves, read as they are asked for; None where there are statistics alone. resizing: how they were
    brought to the samples' size.
    """

    source: str
    fingerprint: str
    network: FeatureNetwork
    side: Side
    space: Space
    classes: tuple[str, ...] = ()
    images: Images | None = None
    resizing: str = "none"

    @property
    def labelled(self) -> bool:
        """Whether a sample's class can be judged: the network tells apart the classes of the reference."""
        return "hits" in self.side.held

    @property
    def classifier(self) -> Classifier:
        """The network of the space "self"."""
        assert isinstance(self.network, Classifier)
        return self.network

    @property
    def quantities(self) -> tuple[str, ...]:
        """What is kept of samples for the space's scores and their standard errors."""
        return needed_of_samples(self.space.scores)

    def check(self, shape: Sequence[int], count: int, *, labelled: bool, captioned: bool) -> None:
        """Raises UserError for a score that was asked for by name and cannot be had of samples as these will be.

        shape: (C, H, W). labelled, captioned: whether they have labels and captions.
        """
        labelled = labelled and self.labelled
        check_possible(
            self.space.scores, self.network, shape, count, real=self.side, labelled=labelled, captioned=captioned
        )

    def scores(self, samples: Side) -> dict[str, dict[str, Any]]:
        """The suite's scores of samples that were measured with the same network."""
        return compare(self.side, samples, self.network, scores=self.space.scores)

    def write(self, path: Path) -> None:
        """Writes the images, and FID's statistics where they were measured, in ADM's format.

        UserError without images, and where they have alpha.

        Statistics of other features than FID's are left out: readers take what they find for FID's.
        """
        if self.images is None:
            raise UserError(f"--reference {self.source} holds statistics and no images to write: give images")
        channels, height, width = self.images.shape
        as_rgb(torch.empty(0, channels, height, width))  # said before the file is begun
        is_fid = self.network.aliases.get("frechet_distance") == "fid"
        statistics = statistics_of(self.side) if is_fid else None
        with image_writer(path, len(self.images), height, width, statistics=statistics) as writer:
            for rows in tqdm(torch.arange(len(self.images)).split(BATCH), "reference", delay=2, leave=False):
                writer.write(as_rgb(self.images.get(rows)))

    def left_out(self, samples: Side) -> dict[str, str]:
        """Scores that there are too few samples or real images for, and how many they need."""
        if self.space.scores is not None:
            return {}
        found = too_few(self.side, samples, self.network)
        return {self.network.aliases.get(name, name): why for name, why in found.items()}


def open_reference(
    source: str,
    *,
    shape: tuple[int, int, int],
    classes: Sequence[str] | None,
    space: Space,
    folder: Path,
    device: torch.device,
    resize: bool = True,
    crop: Crop = CENTRE,
    labelled: bool = True,
    captioned: bool = True,
) -> Reference:
    """The reference for samples of shape (C, H, W) whose labels number ``classes`` (none: no labels; None: its own).

    source: any data source, a latent store (the images it was made from), or an .npz of ADM's with images, statistics
    or both. folder: keeps classifier and statistics. resize: bring the images to the samples' size, by the still form
    of ``crop`` or of a store's own; else they must have it. labelled, captioned: whether the samples will have labels
    and captions. Raises UserError on images that do not fit, unknown classes, a network or weights that are missing,
    and, before anything is trained or measured, for a score that was asked for by name and cannot be had.
    """
    check_folder(folder / MEASURED)
    if holds_statistics(source):
        return _of_statistics(source, shape, space, folder, device, captioned)
    crop = LatentStore(source).plan.preprocessing.made() if is_store(source) else crop
    images, fingerprint = _images(source, shape, resize, crop)
    names = tuple(images.classes if classes is None else classes)
    cropped = _cropped(crop, shape)
    found = _of_images(
        source,
        images,
        f"{fingerprint}{cropped and ', '}{cropped}",
        names,
        space,
        folder,
        device,
        labelled=labelled,
        captioned=captioned,
    )
    return dataclasses.replace(found, resizing=f"to the samples' size: {cropped or CENTRED}") if resize else found


def check_apart(samples: str, reference: str) -> None:
    """Raises UserError where the samples are the reference itself: its distance to itself says nothing."""
    both = [expanded(place) for place in (samples, reference)]
    if both[0].resolve() == both[1].resolve() or (
        not holds_statistics(reference) and origin(samples) == origin(reference)
    ):
        raise UserError(
            f"--reference {reference} is what is to be measured, {samples}: expected real images; give other ones"
        )


def classes_of(source: str) -> tuple[str, ...]:
    """The names of a reference's classes, before it is read; none for a store or statistics."""
    return () if is_store(source) or holds_statistics(source) else open_source(source).classes


def _images(source: str, shape: tuple[int, int, int], resize: bool, crop: Crop) -> tuple[Images, str]:
    """The images in the samples' shape, at most ``MOST``, and the fingerprint of where they are from."""
    channels, height, width = shape
    size = (height, width) if resize else None
    if is_store(source):
        images = read_images(Data(source=source), size=size)
    else:
        images = load_images(open_source(source), size=size, channels=channels, crop=crop)
    if len(images) < FEWEST:
        raise UserError(f"--reference {source} has {len(images)} images, expected at least {FEWEST}: add images")
    first = images.get(torch.zeros(1).long())
    check_same_shape("samples", torch.empty(1, *shape), f"images of --reference {source}", first)
    check_values(f"images of --reference {source}", images.get(looked_at(len(images))))
    return evenly(images, MOST), origin(source)


def _cropped(crop: Crop, shape: tuple[int, int, int]) -> str:
    """How images of a shape (C, H, W) are cropped where nothing is drawn; "" if it is ADM's way."""
    still = crop.still(shape[1:])
    return "" if still == CENTRE.still(shape[1:]) else f"crop {crop.name}, {still.covering[0]}x{still.covering[1]}"


def origin(source: str) -> str:
    """The fingerprint of a source's images; of a latent store, of those that it was made from."""
    return LatentStore(source).plan.source.fingerprint if is_store(source) else open_source(source).fingerprint()


def evenly(images: Images, most: int) -> Images:
    """The images, or evenly spaced ones of more than ``most``."""
    if len(images) <= most:
        return images
    return images.subset(torch.linspace(0, len(images) - 1, most).long())


def _labels(images: Images, classes: Sequence[str], source: str) -> Tensor | None:
    """The reference's labels in the samples' numbering; None where there are no two classes to tell apart."""
    labels = matched_labels(images, classes, f"--reference {source}")
    return labels if len(classes) > 1 else None


def matched_labels(real: Images, classes: Sequence[str], option: str) -> Tensor | None:
    """The images' labels (N,) as places in ``classes``, matched by name; None where either has no classes.

    option: what gave the images, for the UserError about a class that the model does not know.
    """
    if not classes or real.labels is None:
        return None
    missing = [c for c in real.classes if c not in classes]
    if missing:
        raise UserError(
            f"{option} has the class {missing[0]!r}, which the model does not know (it knows "
            f"{', '.join(classes[:10])}): give images of the classes that it was trained on"
        )
    numbers = torch.tensor([list(classes).index(c) for c in real.classes])
    return numbers[real.labels]


def _of_images(
    source: str,
    images: Images,
    fingerprint: str,
    classes: tuple[str, ...],
    space: Space,
    folder: Path,
    device: torch.device,
    *,
    labelled: bool,
    captioned: bool,
    held: Side | None = None,
) -> Reference:
    """held: statistics that came with the images, which take the place of theirs; see ``open_reference`` for others."""
    labels = _labels(images, classes, source)
    known = labelled and labels is not None

    def check(network: FeatureNetwork) -> None:
        if held is not None:
            check_widths(f"--reference {source}", held, network, images.shape)
        check_possible(space.scores, network, images.shape, len(images), labelled=known, captioned=captioned)

    network = network_of(space, images, labels, len(classes), folder, device, check)
    seen = f"{fingerprint}, {len(images)} of {images.shape}, classes {classes if labels is not None else 'none'}"
    fingerprint = reference_fingerprint(seen, network, needed(space.scores))
    measure = functools.partial(_measure, images, labels, network, needed(space.scores))
    side = cached_reference(folder / MEASURED, fingerprint, measure, lambda side: prepare(side, space.scores))
    if held is not None:
        side.held.update(held.held)
        side.count = min(side.count, held.count)
    return Reference(source, fingerprint, network, side, space, classes if labels is not None else (), images)


def network_of(
    space: Space,
    images: Images,
    labels: Tensor | None,
    num_classes: int,
    folder: Path,
    device: torch.device,
    check: Callable[[FeatureNetwork], None] = lambda network: None,
) -> FeatureNetwork:
    """The space's network; of the space "self" one that is trained on these images, and kept in the folder.

    check: asks the network for what it is wanted for; before a training, one of its kind that has learned nothing.
    """
    if space.network != SELF:
        network = load_network(space.network, space.weights, device)
        check(network)
        return network
    C, H, W = images.shape
    known = None if labels is None else num_classes
    check(untrained((C, H, W), known))
    rows = torch.arange(len(images))
    if len(images) * C * H * W > LEARNED_BYTES:
        rows = torch.linspace(0, len(images) - 1, LEARNED_BYTES // (C * H * W)).long()
    return cached_classifier(
        folder / CLASSIFIER,
        images.get(rows),
        None if labels is None else labels[rows],
        num_classes=known,
        device=device,
    )


def _measure(images: Images, labels: Tensor | None, network: FeatureNetwork, quantities: Sequence[str]) -> Side:
    """The images' side, a batch at a time: they need not fit in memory."""
    side = Side(len(images))
    for rows in tqdm(torch.arange(len(images)).split(BATCH), "features of the reference", delay=2, leave=False):
        batch = images.get(rows)
        observe(side, network, batch, rows, quantities, labels=None if labels is None else labels[rows])
    return side


def holds_statistics(source: str) -> bool:
    """Whether a source is an .npz with an array of ADM's statistics, whatever else it holds or lacks."""
    path = expanded(source)
    if path.suffix.lower() != ".npz" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        held = {name.removesuffix(".npy") for name in archive.namelist()}
    return not held.isdisjoint(itertools.chain(*MOMENTS.values()))


def _of_statistics(
    source: str, shape: tuple[int, int, int], space: Space, folder: Path, device: torch.device, captioned: bool
) -> Reference:
    """ADM's file: its statistics, and what only images give (recall) of the images in it, where there are some."""
    held = read_statistics(expanded(source))
    if space.network == SELF:
        raise UserError(
            f"--reference {source} holds statistics of a network's features, which --features self does not know: name "
            "the network that they are of (inception, for ADM's files), or give images"
        )
    if held.count:
        images, fingerprint = _images(source, shape, resize=False, crop=CENTRE)
        how = {"labelled": False, "captioned": captioned}
        return _of_images(source, images, fingerprint, (), space, folder, device, **how, held=held)
    network = load_network(space.network, space.weights, device)
    check_widths(f"--reference {source}", held, network, shape)
    fingerprint = reference_fingerprint(f"statistics {sha256(expanded(source))}", network, held.held)
    return Reference(source, fingerprint, network, held, space)
