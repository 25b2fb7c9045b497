"""Image sets: the pictures of a source as pixels of one size, in memory where they fit, decoded as needed where not."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, Self

import numpy as np
import torch
from torch import Tensor

from ditkit.base import rng
from ditkit.base.errors import UserError
from ditkit.base.pixels import from_uint8
from ditkit.data.crops import Centre, Crop, Placed, Size
from ditkit.data.decode import MOST_BAD, Bad, Decoder, too_many_bad
from ditkit.data.order import Groups, labels_by_place
from ditkit.data.source import Source

CENTRE = Centre()
"""The crop where nothing else is said: ADM's centre crop."""

_log = logging.getLogger(__name__)


class Examples(Protocol):
    """What is learned from, addressed by row: pictures, or latents of pictures.

    shape: (C, H, W). labels: (N,) int64, or None without classes. classes: (K,) names, empty without.
    indices: (N,) int64, the place of each row in the source. source_labels: (M,) int64, the label of every picture of
    the source, also of those that do not decode; 0 without classes, -1 where it is not known. skipped: the pictures
    that do not decode, as (name, reason). notes: what was done to the pictures, one line each, for the log. groups:
    which rows may be shown together, having one shape; None: all of them.
    """

    labels: Tensor | None
    classes: tuple[str, ...]
    indices: Tensor
    groups: Groups | None

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def source_labels(self) -> Tensor: ...

    @property
    def skipped(self) -> list[tuple[str, str]]: ...

    @property
    def notes(self) -> list[str]: ...

    def __len__(self) -> int: ...

    def draw(self, rows: Tensor, mirrored: Tensor, seed: int, epoch: Tensor | None = None) -> Tensor:
        """What is learned of ``rows`` (B,) int64: float32 (B, C, H, W), pixels in [-1, 1] or latents.

        mirrored: (B,) bool, which of them left to right. epoch: (B,) int64, in which epoch each is shown; None: 0.
        """
        ...

    def text(self, rows: Tensor) -> Tensor | None:
        """What a text encoder made of the captions of ``rows`` (B,), float32 (B, ...); None where none did."""
        ...

    def subset(self, rows: Tensor) -> Self:
        """The set of ``rows`` (M,) int64, in that order, with the same classes."""
        ...


class Images(Examples, Protocol):
    """Pictures of one shape, addressed by row (see ``Examples``)."""

    def get(self, rows: Tensor) -> Tensor:
        """The pictures of ``rows`` (B,) int64: uint8 (B, C, H, W)."""
        ...


def keys(indices: Tensor, rows: Tensor, epoch: Tensor | None = None) -> Tensor:
    """What a draw that concerns a picture is keyed by besides the seed, (B, 2) int64: the epoch in which each of
    ``rows`` (B,) is shown (None: 0) and its place in the source; indices: (N,) int64, the places of all rows.
    """
    return torch.stack([torch.zeros_like(rows) if epoch is None else epoch, indices[rows]], 1)


def _pixels(pictures: Tensor, mirrored: Tensor) -> Tensor:
    x0 = from_uint8(pictures)  # BCHW
    return torch.where(mirrored[:, None, None, None], x0.flip(-1), x0) if mirrored.any() else x0


@dataclasses.dataclass
class ImageSet:
    """Pictures in memory (see ``Images``); images: uint8 (N, C, H, W).

    every: the ``source_labels``; None: no others are known than the pictures here.
    """

    images: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    indices: Tensor
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    groups: Groups | None = None
    every: Tensor | None = None

    def __post_init__(self) -> None:
        _, channels, height, width = self.images.shape
        self.shape: tuple[int, int, int] = (channels, height, width)

    @property
    def source_labels(self) -> Tensor:
        """See ``Examples``."""
        if self.every is not None:
            return self.every
        return labels_by_place(int(self.indices.max()) + 1, self.indices, self.labels)

    def __len__(self) -> int:
        return len(self.images)

    def get(self, rows: Tensor) -> Tensor:
        """The pictures of ``rows`` (B,) int64: uint8 (B, C, H, W)."""
        return self.images[rows]

    def draw(self, rows: Tensor, mirrored: Tensor, seed: int, epoch: Tensor | None = None) -> Tensor:
        """The pictures of ``rows``, mirrored or not, as pixels (see ``Examples``)."""
        return _pixels(self.get(rows), mirrored)

    def text(self, rows: Tensor) -> Tensor | None:
        """See ``Examples``: a source's captions are words."""
        return None

    def subset(self, rows: Tensor) -> ImageSet:
        """The set of the pictures of ``rows`` (M,) int64, copied, in that order, with the same classes."""
        labels = None if self.labels is None else self.labels[rows]
        return dataclasses.replace(self, images=self.images[rows], labels=labels, indices=self.indices[rows])


class _Broken:
    """The pictures of a source that were found not to decode, each named once; shared by a set and its parts.

    skipped: those that were found before, as (name, reason).
    """

    def __init__(self, source: Source, skipped: Sequence[tuple[str, str]] = ()) -> None:
        self.skipped = list(skipped)
        self._source = source
        self._places: set[int] = set()
        self._lock = threading.Lock()

    def __contains__(self, place: int) -> bool:
        return place in self._places

    def add(self, place: int, bad: Bad) -> None:
        """Picture ``place`` of the source is one. Raises UserError when they are more than 1% of the source."""
        with self._lock:
            if place in self._places:
                return
            self._places.add(place)
            self.skipped.append((bad.name, bad.reason))
            if len(self.skipped) > MOST_BAD * len(self._source):
                raise self.too_many()
        _log.warning("%s does not decode (%s): another image of its class takes its place", bad.name, bad.reason)

    def too_many(self) -> UserError:
        """The error that names them."""
        return too_many_bad(self._source, [Bad(*one) for one in self.skipped])


class LazyImageSet:
    """Pictures that are decoded when they are asked for (see ``Images``): of sets larger than memory, or cropped anew
    each time that they are shown.

    A picture that does not decode is replaced by the next one of its class that does, always the same; it is named
    once, in the log and in ``skipped``. More than 1% of such in the source raise UserError.
    """

    groups: Groups | None = None

    def __init__(self, decoder: Decoder, indices: Tensor, workers: int, notes: list[str], crop: Crop = CENTRE) -> None:
        source = decoder.source
        self.shape: tuple[int, int, int] = (decoder.channels, *decoder.size)
        self.classes = source.classes
        self.labels = None if source.labels is None else torch.from_numpy(source.labels)[indices]
        self.indices = indices
        self.source_labels = labels_of(source)
        self.notes = notes
        self._decoder = decoder
        self._workers = workers
        self._crop = crop
        # Two at least, even where one is faster: a file that is slow to come must not hold up the others.
        self._pool = ThreadPoolExecutor(max(2, workers), thread_name_prefix="decode")
        self._broken = _Broken(source)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """The pictures that do not decode, as far as they were asked for, as (name, reason)."""
        return self._broken.skipped

    def __len__(self) -> int:
        return len(self.indices)

    def get(self, rows: Tensor) -> Tensor:
        """The pictures of ``rows`` (B,) int64, cropped as the decoder does: uint8 (B, C, H, W), decoded in threads."""
        return self._decoded([(row, None) for row in rows.tolist()])

    def draw(self, rows: Tensor, mirrored: Tensor, seed: int, epoch: Tensor | None = None) -> Tensor:
        """The pictures of ``rows``, cropped anew each epoch and mirrored or not, as pixels (see ``Examples``)."""
        if not self._crop.drawn:
            return _pixels(self.get(rows), mirrored)
        draws = [rng.generator(seed, "crop", *key) for key in keys(self.indices, rows, epoch).tolist()]
        placed = [(row, self._crop.draw(self._size(row), draw)) for row, draw in zip(rows.tolist(), draws, strict=True)]
        return _pixels(self._decoded(placed), mirrored)

    def text(self, rows: Tensor) -> Tensor | None:
        """See ``Examples``: a source's captions are words."""
        return None

    def subset(self, rows: Tensor) -> LazyImageSet:
        """The set of the pictures of ``rows`` (M,) int64, in that order, with the same classes."""
        some = LazyImageSet(self._decoder, self.indices[rows], self._workers, self.notes, self._crop)
        some._broken = self._broken
        return some

    def _size(self, row: int) -> Size:
        """The (H, W) that the picture of a row is shown in."""
        return self._decoder.size

    def _decoded(self, wanted: Sequence[tuple[int, Placed | None]]) -> Tensor:
        pixels = list(self._pool.map(self._decode, *zip(*wanted, strict=True))) if wanted else []
        return torch.from_numpy(np.stack(pixels)) if pixels else torch.empty((0, *self.shape), dtype=torch.uint8)

    def _decode(self, row: int, placed: Placed | None) -> np.ndarray:
        size = self._size(row)
        decode = dataclasses.replace(self._decoder, size=size, still=self._crop.still(size))
        for place in (int(self.indices[candidate]) for candidate in self._alike(row)):
            if place in self._broken:
                continue
            decoded = decode(place, placed)
            if not isinstance(decoded, Bad):
                return decoded.pixels
            self._broken.add(place, decoded)
        raise self._broken.too_many()

    def _alike(self, row: int) -> Iterator[int]:
        """The row itself, then those of its class in cyclic order."""
        yield row
        for other in ((row + step) % len(self) for step in range(1, len(self))):
            if self.labels is None or self.labels[other] == self.labels[row]:
                yield other


def labels_of(source: Source) -> Tensor:
    """The ``source_labels`` of what is made of a source (see ``Examples``)."""
    labels = None if source.labels is None else torch.from_numpy(source.labels)
    return labels_by_place(len(source), torch.arange(len(source)), labels)
