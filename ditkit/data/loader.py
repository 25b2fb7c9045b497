"""Batches whose order follows from (seed, step) alone, made ahead of time in threads."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from ditkit.base import rng
from ditkit.base.errors import UserError
from ditkit.condition import Condition
from ditkit.data.images import Examples, keys
from ditkit.data.order import mirrored, turn

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Batch:
    """x0: float32 (B, C, H, W), pixels in [-1, 1] or latents.

    condition: labels (B,) and embeddings of captions (B, ...), of what there is. index: int64 (B,), rows of the set.
    keys: int64 (B, 2), what draws that concern each picture are keyed by (see ``ditkit.data.images.keys``)."""

    x0: Tensor
    condition: Condition
    index: Tensor
    keys: Tensor


def batch(
    images: Examples, *, step: int, batch_size: int, seed: int, flip: bool = False, rank: int = 0, world: int = 1
) -> Batch:
    """Batch ``step`` of the sequence (see ``ditkit.data.order``), or what process ``rank`` of ``world`` takes of it.

    flip: mirrors half of the images left to right, drawn anew each epoch.
    """
    take = functools.partial(turn, len(images)) if images.groups is None else images.groups.turn
    shown = take(step=step, batch_size=batch_size, seed=seed, rank=rank, world=world)
    turned = torch.zeros_like(shown.index, dtype=torch.bool)
    for e in shown.epoch.unique().tolist() if flip else ():
        here = shown.epoch == e
        turned[here] = mirrored(len(images), seed, e)[shown.index[here]]
    x0 = images.draw(shown.index, turned, seed, shown.epoch)  # BCHW
    label = None if images.labels is None else images.labels[shown.index]
    condition = Condition(label=label, text=images.text(shown.index))
    return Batch(x0, condition, shown.index, keys(images.indices, shown.index, shown.epoch))


def prefetch(make: Callable[[int], T], start: int = 0, stop: int | None = None, *, ahead: int = 4) -> Generator[T]:
    """Yields make(start), make(start + 1), ... up to ``stop`` (excluded; None is endless), made ahead in threads.

    ahead: how many are made or wait at most, at least 1; each in its own thread, so that one that takes long (a slow
    file) does not keep the next ones from being made. An error in ``make`` is raised where its result is due. The
    threads end with the iteration, or when the iterator is closed (``contextlib.closing``).
    """
    steps = itertools.count(start) if stop is None else iter(range(start, stop))
    waiting: collections.deque[Future[T]] = collections.deque()
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="prefetch")
    try:
        waiting.extend(pool.submit(make, step) for step in itertools.islice(steps, ahead))
        while waiting:
            made = waiting.popleft().result()
            waiting.extend(pool.submit(make, step) for step in itertools.islice(steps, 1))
            yield made
    finally:
        pool.shutdown(cancel_futures=True)


def split_heldout(images: Examples, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to learn from and rows held out, int64, both ascending: ``fraction`` of each class, at least one.

    Each class keeps at least one on either side, those that do not decode counted. Depends on (seed, the source's
    labels) alone: an image is on the same side whatever others decode, and whether sets are in memory, lazily decoded,
    in buckets or latents. Raises UserError for a fraction outside (0, 1) and for a class with fewer than two images.
    """
    if not 0 < fraction < 1:
        raise UserError(f"held-out fraction {fraction} is not between 0 and 1: expected for example 0.2")
    labels = images.source_labels if images.labels is not None else torch.zeros_like(images.source_labels)  # M
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels[labels >= 0].unique().tolist():
        places = (labels == label).nonzero().flatten()
        if len(places) < 2:
            name = f"class {images.classes[label]!r}" if images.classes else "the data"
            raise UserError(f"{name} has 1 image: expected at least 2, one to learn from and one to hold out; add some")
        count = min(max(round(fraction * len(places)), 1), len(places) - 1)
        held[places[torch.randperm(len(places), generator=rng.generator(seed, "heldout", label))[:count]]] = True
    mask = held[images.indices]  # N
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()
