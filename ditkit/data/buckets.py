"""Aspect-ratio buckets: pictures keep about the shape that they have, and every batch has one shape.

Podell et al. 2023 (SDXL), https://arxiv.org/abs/2307.01952, section 2.3 and appendix I.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ditkit.base.errors import UserError
from ditkit.data.crops import Crop, Size
from ditkit.data.decode import MOST_BAD, Bad, Decoder, attempt, default_workers, survey, too_many_bad
from ditkit.data.images import CENTRE, LazyImageSet
from ditkit.data.order import Groups
from ditkit.data.preprocess import upright_size
from ditkit.data.source import Source, caption_notes

AREA = 0.05
"""The area of a bucket differs from the wanted one by this share at most."""

LONGEST = 4.0
"""No bucket is more times as long as it is wide."""


def shapes(side: int, multiple: int, longest: float = LONGEST) -> list[Size]:
    """The buckets' shapes (H, W) with about the area ``side`` x ``side``, from the flattest to the tallest.

    Sides are multiples of ``multiple``; the area is within 5%; of each height the width that comes nearest. Raises
    UserError where no shape has such an area.
    """
    area, found = side * side, []
    for height in range(multiple, int(side * math.sqrt(longest)) + 1, multiple):
        width = max(1, round(area / height / multiple)) * multiple
        if abs(height * width / area - 1) <= AREA and max(height / width, width / height) <= longest:
            found.append((height, width))
    if not found:
        raise UserError(
            f"no shape with sides that are multiples of {multiple} has the area {side}x{side} within {AREA:.0%}: "
            f"expected a size that is such a multiple, as {-(-side // multiple) * multiple}"
        )
    return found


def assign(sizes: Sequence[Size], shapes: Sequence[Size]) -> Tensor:
    """The bucket of each picture, (N,) int64: that of ``shapes`` whose aspect ratio is nearest, by its logarithm."""
    heights, widths = np.asarray(sizes, np.float64).reshape(-1, 2).T  # N
    wanted = np.log([height / width for height, width in shapes])  # K
    return torch.from_numpy(abs(np.log(heights / widths)[:, None] - wanted).argmin(1))


def sizes_of(source: Source, progress: bool = True) -> list[Size | Bad]:
    """The upright (H, W) of every picture, from its header; what is wrong where it cannot be opened."""
    bar = tqdm(range(len(source)), desc="reading sizes", unit="img", delay=2, leave=False, disable=not progress)
    return [attempt(source, i, upright_size) for i in bar]


class BucketSet(LazyImageSet):
    """Pictures that are decoded as needed, each in the shape of its bucket: ``draw`` takes rows of one bucket.

    shapes: (K) of (H, W), see ``shapes``. groups: the bucket of each row.
    """

    def __init__(self, decoder: Decoder, indices: Tensor, groups: Groups, shapes: list[Size], how: How) -> None:
        super().__init__(decoder, indices, how.workers, how.notes, how.crop)
        self.groups: Groups | None = groups
        self.shapes = shapes
        self._of = groups.of
        self._how = how

    def subset(self, rows: Tensor) -> BucketSet:
        """The set of the pictures of ``rows`` (M,) int64, in that order, with the same classes and buckets."""
        some = BucketSet(self._decoder, self.indices[rows], Groups(self._of[rows]), self.shapes, self._how)
        some._broken = self._broken
        return some

    def _size(self, row: int) -> Size:
        return self.shapes[int(self._of[row])]

    @property
    def used(self) -> list[Size]:
        """The shapes that some picture has."""
        return [self.shapes[group] for group in self._of.unique().tolist()]


@dataclasses.dataclass(frozen=True)
class How:
    """How a ``BucketSet`` decodes: threads, crop; and what was done to the pictures."""

    workers: int
    notes: list[str]
    crop: Crop


def load_buckets(
    source: Source,
    multiple: int,
    *,
    size: int | Size | None = None,
    channels: int | None = None,
    crop: Crop = CENTRE,
    progress: bool = True,
) -> BucketSet:
    """The pictures of a source in aspect-ratio buckets, whose sides are multiples of ``multiple`` pixels.

    size: the side of the square that all buckets have the area of, in pixels.
    channels: as for ``load_images``. crop: of each picture to the shape of its bucket.

    Every header is read. Pictures whose header cannot be read take no part and are named in ``skipped``. Raises
    UserError for another size, and when more than 1% cannot be read.
    """
    if not isinstance(size, int):
        raise UserError(
            f"size {size} with buckets: expected one number of pixels, the side of the square of their area; give "
            "--data.size 256, say"
        )
    seen = sizes_of(source, progress)
    good = [one for one in seen if not isinstance(one, Bad)]
    bad = [one for one in seen if isinstance(one, Bad)]
    if len(bad) > MOST_BAD * len(source):
        raise too_many_bad(source, bad)
    found = shapes(size, multiple)
    indices = torch.tensor([i for i, one in enumerate(seen) if not isinstance(one, Bad)], dtype=torch.int64)
    groups = Groups(assign(good, found))
    used = groups.of.unique().tolist()
    note = (
        f"{len(good):,} images in {len(used)} aspect-ratio buckets from {_by(found[used[0]])} to "
        f"{_by(found[used[-1]])}, decoded as needed"
    )
    how = How(default_workers((size, size)), [note, *caption_notes(source)], crop)
    decoder = Decoder(source, (size, size), channels or survey(source, progress).most_channels)
    images = BucketSet(decoder, indices, groups, found, how)
    images.skipped.extend((one.name, one.reason) for one in bad)
    return images


def _by(size: Size) -> str:
    return f"{size[0]}x{size[1]}"
