"""Samples measured in parts that are kept on disk as they are made: a kill loses one part, processes share the rest.

A part holds what the network saw, not the images: memory and disk stay small. The parts are always the same and are
put together in their order, so that the numbers are the same to the bit whoever made them, and after whatever stops.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from ditkit.base.errors import UserError
from ditkit.base.files import atomic_file
from ditkit.base.tensors import save_tensors
from ditkit.base.workers import ALONE, Workers
from ditkit.evaluate.images import check_images
from ditkit.evaluate.measured import Batch, Side
from ditkit.evaluate.networks.network import FeatureNetwork, Taps

PART = 128
"""Images of a part, or a multiple of it; the network always sees so many at a time."""
KEY = "fingerprint"


Each = Callable[[float], object]


class Given(NamedTuple):
    """Images uint8 (B, C, H, W), with the labels (B,) and captions that they were drawn for, where there are any."""

    images: Tensor
    labels: Tensor | None = None
    captions: Sequence[str] | None = None


class Samples(Protocol):
    """A numbered set of samples, which come to be when they are asked for."""

    def __len__(self) -> int: ...

    def part(self, rows: range, each: Each) -> Given:
        """The samples of these numbers: the same ones whatever was asked for before.

        each: told, while they come to be, how many images' worth of the work was done since it was told last.
        """
        ...


@dataclass(frozen=True)
class Part:
    """What was seen of the samples of ``rows``: see ``measured.Batch``. images: None where they were not to be kept.

    seconds: that it took to make the images.
    """

    rows: range
    taps: Taps
    labels: Tensor | None
    prompts: Tensor | None
    images: Tensor | None
    seconds: float


@dataclass(frozen=True)
class Store:
    """A folder of parts. fingerprint: of all that they hang on; parts of another one are made anew."""

    folder: Path
    fingerprint: str

    def has(self, rows: range, images: bool = False) -> bool:
        """Whether the part of these rows is there, with its images if they are needed."""
        with contextlib.suppress(OSError, SafetensorError), safe_open(self._path(rows), "pt") as file:
            same = (file.metadata() or {}).get(KEY) == self.fingerprint
            return same and (not images or "images" in file.keys())  # noqa: SIM118  (it is no mapping)
        return False

    def save(self, part: Part) -> None:
        """Writes a part."""
        taps = {"features": part.taps.features, "logits": part.taps.logits, "spatial": part.taps.spatial}
        others = {"labels": part.labels, "prompts": part.prompts, "images": part.images}
        seconds = torch.tensor(part.seconds, dtype=torch.float64)
        kept = {k: v for k, v in {**taps, **others, "seconds": seconds}.items() if v is not None}
        path = self._path(part.rows)
        with atomic_file(path) as temporary:
            save_tensors(kept, temporary, {KEY: self.fingerprint})

    def load(self, rows: range) -> Part:
        """Reads a part. Raises UserError where it is damaged."""
        path = self._path(rows)
        try:
            held = load_file(path)
            taps = Taps(held["features"], held.get("logits"), held.get("spatial"))
            others = (held.get("labels"), held.get("prompts"), held.get("images"))
            return Part(rows, taps, *others, held["seconds"].item())
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"part {path} cannot be read ({error}): delete it and run the same command again") from None

    def _path(self, rows: range) -> Path:
        return self.folder / f"{rows.start:09d}-{rows.stop:09d}.safetensors"


def parts_of(count: int, together: int = 1) -> list[range]:
    """The parts of so many samples, in order. together: samples that are best made at once."""
    size = PART * -(-together // PART)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def collect(
    samples: Samples,
    network: FeatureNetwork,
    parts: Sequence[range],
    *,
    keep: Callable[[range], bool] = lambda rows: False,
    store: Store | None = None,
    workers: Workers = ALONE,
    progress: str | None = "samples",
) -> Iterator[Part]:
    """Every part in order, made here or, with a store, found there; process 0 alone gets them.

    keep: whether a part's images are kept with it. Raises UserError on images that are none (see ``check_images``).
    """
    if store is None:
        with _bar(samples, progress, 0) as bar:
            for rows in parts:
                yield _look(samples, network, rows, keep(rows), _moving(bar, len(rows)))
        return
    missing = [rows for rows in parts[workers.rank :: workers.world] if not store.has(rows, keep(rows))]
    mine = sum(map(len, parts[workers.rank :: workers.world]))
    shown = progress if workers.leads else None
    with _bar(range(mine), shown, mine - sum(map(len, missing))) as bar:
        for rows in missing:
            store.save(_look(samples, network, rows, keep(rows), _moving(bar, len(rows))))
    workers.wait()
    if workers.leads:
        yield from map(store.load, parts)


def add(side: Side, part: Part, quantities: Iterable[str]) -> None:
    """Adds a part to a side (see ``measured``)."""
    rows = torch.arange(part.rows.start, part.rows.stop)
    taps, fields = part.taps, (part.labels, part.prompts)
    images = part.images if part.images is not None else torch.empty(len(rows), 0, dtype=torch.uint8)
    for chunk in torch.arange(len(rows)).split(PART):
        seen = Taps(taps.features[chunk], _at(taps.logits, chunk), _at(taps.spatial, chunk))
        labels, prompts = (_at(field, chunk) for field in fields)
        side.update(Batch(images[chunk], rows[chunk], seen, labels, prompts), quantities)


def _at(values: Tensor | None, rows: Tensor) -> Tensor | None:
    return None if values is None else values[rows]


def _look(samples: Samples, network: FeatureNetwork, rows: range, keep: bool, move: Each) -> Part:
    start = time.perf_counter()
    images, labels, captions = samples.part(rows, move)
    seconds = time.perf_counter() - start
    move(len(rows))
    check_images("samples", images)
    taps = [network.look(batch) for batch in images.split(PART)]
    read = getattr(network, "read", None)
    return Part(
        rows,
        Taps(*(_together([getattr(t, name) for t in taps]) for name in ("features", "logits", "spatial"))),  # type: ignore[arg-type]
        labels if network.num_classes is not None else None,
        read(captions) if read is not None and captions is not None else None,
        images if keep else None,
        seconds,
    )


def _together(values: list[Tensor | None]) -> Tensor | None:
    given = [value for value in values if value is not None]
    return torch.cat(given) if given else None


def _bar(of: Samples | range, label: str | None, done: int) -> tqdm[Any]:
    return tqdm(total=len(of), initial=done, desc=label, unit="image", disable=label is None)


def _moving(bar: tqdm[Any], images: int) -> Each:
    """Moves the bar by whole images as a part of so many comes to be, to its end at most."""
    done = 0.0

    def move(more: float) -> None:
        nonlocal done
        before, done = done, min(done + more, images)
        bar.update(int(done) - int(before))

    return move
