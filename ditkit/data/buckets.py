"""Aspect-ratio buckets: pictures keep about the shape that they have, and every batch has one shape.

Podell et al. 2023 (SDXL), https://arxiv.org/abs/2307.01952, section 2.3 and appendix I.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ditkit.base import rng
from ditkit.base.errors import UserError
from ditkit.base.pixels import from_uint8
from ditkit.condition import Condition
from ditkit.data.crops import Size
from ditkit.data.decode import Bad, Decoder, attempt
from ditkit.data.loader import Batch, mirrored
from ditkit.data.preprocess import upright_size
from ditkit.data.source import Source

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


@dataclasses.dataclass(frozen=True)
class Group:
    """What is shown in a step. bucket: which. index: int64 (B,), rows of the set, all of it. epoch: which, from 0."""

    bucket: int
    index: Tensor
    epoch: int


@dataclasses.dataclass(frozen=True)
class Buckets:
    """Batches of one bucket each, in an endless sequence that shows each row exactly once an epoch.

    of: (N,) int64, the bucket of each row. The last batch of a bucket in an epoch holds what is left of it.
    """

    of: Tensor
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if not len(self.of) or self.batch_size < 1:
            raise UserError(f"{len(self.of)} images in batches of {self.batch_size}: expected at least one of each")

    @functools.cached_property
    def steps(self) -> int:
        """Batches in an epoch."""
        return sum(-(-count // self.batch_size) for count in self.of.bincount().tolist())

    def group(self, step: int) -> Group:
        """What step ``step`` (from 0) shows; it depends on (seed, step) alone."""
        epoch, place = divmod(step, self.steps)
        bucket, index = self._epoch(epoch)[place]
        return Group(bucket, index, epoch)

    def _epoch(self, epoch: int) -> list[tuple[int, Tensor]]:
        return _groups(self, epoch)

    def __hash__(self) -> int:
        return id(self)  # for the cache of epochs: a tensor has no hash of its contents


@functools.lru_cache(maxsize=4)
def _groups(buckets: Buckets, epoch: int) -> list[tuple[int, Tensor]]:
    """The batches of an epoch: rows in a new order, cut within each bucket, and the batches in a new order."""
    order = torch.randperm(len(buckets.of), generator=rng.generator(buckets.seed, "order", epoch))  # N
    groups: list[tuple[int, Tensor]] = []
    for bucket in buckets.of.unique().tolist():
        rows = order[buckets.of[order] == bucket]
        groups += [(bucket, part) for part in rows.split(buckets.batch_size)]
    turns = torch.randperm(len(groups), generator=rng.generator(buckets.seed, "batches", epoch))
    return [groups[turn] for turn in turns.tolist()]


class BucketSet:
    """A source's pictures by aspect ratio, batch by batch.

    shapes: (K) of (H, W); see ``shapes``. skipped: pictures whose header cannot be read, as (name, reason); they take
    no part. A picture that does not decode after all is left out of its batch, and is named in ``skipped`` once.
    """

    def __init__(self, source: Source, side: int, multiple: int, channels: int, progress: bool = True) -> None:
        seen = sizes_of(source, progress)
        self.skipped = [(size.name, size.reason) for size in seen if isinstance(size, Bad)]
        self.indices = torch.tensor([i for i, size in enumerate(seen) if not isinstance(size, Bad)], dtype=torch.int64)
        self.shapes = shapes(side, multiple)
        self.of = assign([size for size in seen if not isinstance(size, Bad)], self.shapes)
        self.labels = None if source.labels is None else torch.from_numpy(source.labels)[self.indices]
        self._decoders = [Decoder(source, shape, channels) for shape in self.shapes]

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, buckets: Buckets, step: int, flip: bool = False) -> Batch:
        """The batch of a step: x0 float32 (B, C, H, W) with the (H, W) of its bucket, pixels in [-1, 1]."""
        group = buckets.group(step)
        decode = self._decoders[group.bucket]
        seen = [(row, decode(int(self.indices[row]))) for row in group.index.tolist()]
        for bad in (bad for _, bad in seen if isinstance(bad, Bad) and (bad.name, bad.reason) not in self.skipped):
            self.skipped.append((bad.name, bad.reason))
        good = [(row, picture.pixels) for row, picture in seen if not isinstance(picture, Bad)]
        index = torch.tensor([row for row, _ in good], dtype=torch.int64)
        empty = np.empty((0, decode.channels, *decode.size), np.uint8)
        x0 = from_uint8(torch.from_numpy(np.stack([p for _, p in good]) if good else empty))  # BCHW
        if flip:
            turned = mirrored(len(self), buckets.seed, group.epoch)[index]
            x0 = torch.where(turned[:, None, None, None], x0.flip(-1), x0)
        return Batch(x0, Condition(label=None if self.labels is None else self.labels[index]), index)
