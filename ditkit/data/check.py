"""Reading every picture of a source once: what there is, what training would skip, what looks wrong."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from ditkit.data import duplicates
from ditkit.data.crops import Size
from ditkit.data.decode import Bad, attempt, default_workers
from ditkit.data.look import Look, look
from ditkit.data.source import Source

ENLARGED = 2.0
"""A picture that is enlarged over so many times to the commonest size is suspicious."""

_CHUNK = 32


@dataclasses.dataclass(frozen=True)
class Alpha:
    """How many pictures say how transparent they are; mean and standard deviation over their pixels, 0..1."""

    images: int
    mean: float
    std: float


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a source's pictures are; rows are numbers in the source.

    good: rows that decode. bad: those that do not, as (row, name and reason), which training skips.
    suspicious: (row, why) of such that decode. sizes: how many have each upright (H, W); kinds: "JPEG RGB"; channels: 1
    or 3. per_class: good ones of each class. same, alike: groups of rows with equal pixels, and of near duplicates (one
    row of each group of equals). mean, std: (3,) of R, G, B, (1,) where all are grey, over all pixels, as shares of 1,
    what is transparent laid on white. alpha: the same of alpha; None where there is none.
    """

    source: Source
    good: list[int]
    bad: list[tuple[int, Bad]]
    suspicious: list[tuple[int, str]]
    sizes: collections.Counter[Size]
    kinds: collections.Counter[str]
    channels: collections.Counter[int]
    per_class: dict[str, int]
    same: list[list[int]]
    alike: list[list[int]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    alpha: Alpha | None

    @property
    def commonest_size(self) -> Size:
        """The size that most have; among equals the smallest. (0, 0) where none decodes."""
        return min(self.sizes, key=lambda size: (-self.sizes[size], size[0] * size[1], size), default=(0, 0))


def check(source: Source, workers: int | None = None, progress: bool = True) -> Findings:
    """Looks at every picture of a source, in threads.

    workers: threads; None is one per core, and one alone where the first pictures are small. For each picture about
    1 KB is kept.
    """
    good, bad = _looks(source, workers, progress)
    rows = [i for i, _ in good]
    same = duplicates.exact([seen.digest for _, seen in good])
    again = {row for group in same for row in group[1:]}
    first = [place for place in range(len(good)) if place not in again]
    empty = np.empty((0, duplicates.SIDE, duplicates.SIDE), np.uint8)
    thumbnails = np.stack([good[place][1].thumbnail for place in first]) if first else empty
    alike = [[rows[first[place]] for place in group] for group in duplicates.near(thumbnails, progress)]
    looks = [seen for _, seen in good]
    colours = 1 if all(seen.channels == 1 for seen in looks) else 3
    mean, std = _moments([(seen, seen.sums[:, :colours]) for seen in looks])
    found = Findings(
        source=source,
        good=rows,
        bad=bad,
        suspicious=[],
        sizes=collections.Counter(seen.size for _, seen in good),
        kinds=collections.Counter(seen.kind for _, seen in good),
        channels=collections.Counter(seen.channels for _, seen in good),
        per_class=_per_class(source, rows),
        same=[[rows[place] for place in group] for group in same],
        alike=alike,
        mean=mean,
        std=std,
        alpha=_alpha(looks),
    )
    return dataclasses.replace(found, suspicious=sorted(_suspicious(found, good)))


def _looks(source: Source, workers: int | None, progress: bool) -> tuple[list[tuple[int, Look]], list[tuple[int, Bad]]]:
    """What was seen of each row that decodes, and of each that does not."""
    good: list[tuple[int, Look]] = []
    bad: list[tuple[int, Bad]] = []
    total = len(source)
    bar = tqdm(total=total, desc="checking images", unit="img", delay=1, leave=False, disable=not progress)
    with bar:
        for row, seen in _in_order(source, workers):
            if isinstance(seen, Bad):
                bad.append((row, seen))
            else:
                good.append((row, seen))
            bar.update()
    return good, bad


def _in_order(source: Source, workers: int | None) -> Iterator[tuple[int, Look | Bad]]:
    def chunk(start: int) -> list[tuple[int, Look | Bad]]:
        rows = range(start, min(start + _CHUNK, len(source)))
        return [(i, attempt(source, i, lambda image, i=i: look(image, source.name(i)))) for i in rows]

    first = chunk(0)
    yield from first
    sizes = [seen.size for _, seen in first if isinstance(seen, Look)]
    workers = workers or default_workers(max(sizes, default=(1024, 1024)))
    pool = ThreadPoolExecutor(workers, thread_name_prefix="check")
    try:
        for seen in pool.map(chunk, range(_CHUNK, len(source), _CHUNK)):
            yield from seen
    finally:
        pool.shutdown(cancel_futures=True)


def _moments(summed: list[tuple[Look, np.ndarray]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation (K,) over all pixels, as shares of 1, from the sums (2, K) of each picture."""
    pixels = sum(seen.size[0] * seen.size[1] for seen, _ in summed)
    if not pixels:
        return (), ()
    first, second = np.sum([sums for _, sums in summed], axis=0) / pixels  # K, K
    deviation = np.sqrt(np.maximum(second - first**2, 0))
    return tuple((first / 255).tolist()), tuple((deviation / 255).tolist())


def _alpha(looks: list[Look]) -> Alpha | None:
    having = [(seen, seen.alpha[:, None]) for seen in looks if seen.alpha is not None]
    if not having:
        return None
    (mean,), (std,) = _moments(having)
    return Alpha(len(having), mean, std)


def _per_class(source: Source, rows: list[int]) -> dict[str, int]:
    if source.labels is None:
        return {}
    counts = np.bincount(source.labels[rows], minlength=len(source.classes))
    return dict(zip(source.classes, counts.tolist(), strict=True))


def _suspicious(found: Findings, good: list[tuple[int, Look]]) -> Iterator[tuple[int, str]]:
    """What is odd about each picture by itself, and beside the others."""
    height, width = found.commonest_size
    for row, seen in good:
        yield from ((row, why) for why in seen.odd)
        scale = max(height / seen.size[0], width / seen.size[1])
        if scale > ENLARGED:
            size = f"{seen.size[0]}x{seen.size[1]}"
            yield row, f"only {size}: enlarged {scale:.3g} times to the commonest size {height}x{width}"
    labels = found.source.labels
    for group in found.same if labels is not None else ():
        assert labels is not None
        names = sorted({found.source.classes[labels[row]] for row in group})
        if len(names) > 1:
            yield group[0], f"the same picture is in classes {', '.join(names)}"
