"""The order of training: which rows a step shows, a function of (seed, step) alone."""

from __future__ import annotations

import dataclasses
import functools

import torch
from torch import Tensor

from ditkit.base import rng
from ditkit.base.errors import UserError, at_least_one


@dataclasses.dataclass(frozen=True)
class Turn:
    """What is shown in a step: index, int64 (B,), rows of the set; epoch, int64 (B,), in which epoch each is shown.

    (seed, epoch, index) is the key of every draw that concerns a picture, so that it is drawn anew each epoch.
    """

    index: Tensor
    epoch: Tensor


def turn(count: int, *, step: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> Turn:
    """The rows of step ``step`` (from 0), of an endless sequence that shows each of ``count`` rows once an epoch.

    The epochs follow each other without a gap, each in a new order, and are cut into batches, so that a batch may span
    two. It depends on (seed, step) alone: a resume at any step goes on exactly. Of ``world`` processes each takes an
    equal share, so that those of ranks 0, 1, ... end to end are the batch of one process.

    batch_size: of all processes together. Raises UserError when it is below 1 or no multiple of ``world``.
    """
    _check_shared(batch_size, world)
    share = batch_size // world
    first = step * batch_size + rank * share
    position = torch.arange(first, first + share)  # B
    epoch, place = position // count, position % count
    index = torch.empty_like(position)
    for e in epoch.unique().tolist():
        here = epoch == e
        index[here] = _order(count, seed, e)[place[here]]
    return Turn(index, epoch)


def labels_by_place(count: int, indices: Tensor, labels: Tensor | None) -> Tensor:
    """(count,) int64: the label of each image of a source, by its place in it; 0 without classes, -1 where not known.

    indices: (N,) int64, the places of those that are known; labels: theirs, (N,) int64.
    """
    if labels is None:
        return torch.zeros(count, dtype=torch.int64)
    return torch.full((count,), -1).index_copy(0, indices, labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Groups:
    """Rows that may be shown together, as those of one shape; every batch holds rows of one group.

    of: (N,) int64, the group of each row.
    """

    of: Tensor

    def steps(self, batch_size: int) -> int:
        """Batches in an epoch: the last one of each group holds what is left of it."""
        return sum(-(-count // batch_size) for count in self.of.bincount().tolist())

    def turn(self, *, step: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> Turn:
        """The rows of step ``step``, of an endless sequence that shows each row exactly once an epoch (see ``turn``).

        No batch spans two epochs. Of a batch that is not full some processes get a row less, or none.
        """
        _check_shared(batch_size, world)
        epoch, place = divmod(step, self.steps(batch_size))
        index = _batches(self, batch_size, seed, epoch)[place].tensor_split(world)[rank]
        return Turn(index, torch.full_like(index, epoch))


def _check_shared(batch_size: int, world: int) -> None:
    if at_least_one("batch_size", batch_size) % world:
        raise UserError(
            f"batch size {batch_size} cannot be split over {world} processes: expected a multiple, such as "
            f"{-(-batch_size // world) * world}"
        )


# A batch touches one or two epochs: what is drawn once an epoch is kept for these, not for all.
@functools.lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(count, generator=rng.generator(seed, "order", epoch))  # N


@functools.lru_cache(maxsize=4)
def _batches(groups: Groups, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """The batches of an epoch: rows in a new order, cut within each group, and the batches in a new order."""
    order = _order(len(groups.of), seed, epoch)
    of = groups.of[order]
    parts = [part for group in of.unique().tolist() for part in order[of == group].split(batch_size)]
    turns = torch.randperm(len(parts), generator=rng.generator(seed, "batches", epoch))
    return [parts[turn] for turn in turns.tolist()]


@functools.lru_cache(maxsize=4)
def mirrored(count: int, seed: int, epoch: int) -> Tensor:
    """Which of ``count`` rows are shown left to right in an epoch, (N,) bool: half of them, as drawn."""
    return torch.rand(count, generator=rng.generator(seed, "flip", epoch)) < 0.5  # N
