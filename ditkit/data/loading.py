"""From a source to a set of pictures: in memory where it fits, else decoded as needed."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from tqdm import tqdm

from ditkit.base.errors import UserError
from ditkit.data.crops import Crop, Size
from ditkit.data.decode import MOST_BAD, Bad, Decoder, Survey, default_workers, survey, too_many_bad
from ditkit.data.images import CENTRE, Images, ImageSet, LazyImageSet, labels_of
from ditkit.data.preprocess import MODES
from ditkit.data.source import Source, caption_notes

MEMORY = 2 * 2**30
"""Bytes of pixels up to which a set is held in memory."""

_CHUNK = 64
_NAMED = 10
_LONGEST = 2**16


def load_images(
    source: Source,
    *,
    size: int | Size | None = None,
    channels: int | None = None,
    crop: Crop = CENTRE,
    workers: int | None = None,
    progress: bool = True,
    memory: int = MEMORY,
) -> Images:
    """The pictures of a source in one size and number of channels, in the source's order.

    size: (H, W) or one number for both, in pixels; None is the size that most have (among equals the smallest).
    channels: 1 to 4 (grey, grey and alpha, RGB, RGBA); None is 1 if every picture is grey, else 3.
    crop: one that is drawn anew each epoch means decoding as needed too; ``get`` gives ``crop.still`` then.
    workers: threads; None is one per core.
    memory: bytes of decoded pixels beyond which the set is not decoded now but as needed (``LazyImageSet``). Then
    size and channels are told from 2,048 pictures spread over the source.

    Pictures of other sizes are resized and centre-cropped (``centre_crop``). Those that do not decode are skipped and
    named in ``skipped`` and ``notes``. Raises UserError when more than 1% do not decode, and for a size or channels
    that cannot be.
    """
    check_size(size, channels)
    seen = survey(source, progress)
    height_width = seen.commonest_size if size is None else (size, size) if isinstance(size, int) else size
    workers = workers or default_workers(seen.commonest_size)
    decoder = Decoder(source, height_width, channels or seen.most_channels, crop.still(height_width))
    if crop.drawn or len(source) * decoder.channels * height_width[0] * height_width[1] > memory:
        return LazyImageSet(decoder, torch.arange(len(source)), workers, _notes_of(decoder, seen, crop), crop)
    loading = _Loading(decoder, workers, progress)
    images = loading.run()
    if channels is None and decoder.channels == 1 and loading.recoloured:  # a coloured one that the survey missed
        images = _Loading(dataclasses.replace(decoder, channels=3), workers, progress).run()
    return images


def check_size(size: int | Size | None, channels: int | None = None) -> None:
    """Raises UserError for a size (H, W), or one number for both, and channels that images cannot be brought to."""
    sides = () if size is None else (size,) if isinstance(size, int) else tuple(size)
    if any(not 1 <= side <= _LONGEST for side in sides) or len(sides) > 2:
        raise UserError(
            f"size {size} is no image size: expected a number of pixels or (height, width), each at least 1 and at "
            f"most {_LONGEST}"
        )
    if channels is not None and channels not in MODES:
        raise UserError(
            f"channels {channels} cannot be read from images: expected 1 (grey), 2 (grey and alpha), 3 (RGB) or 4 "
            "(RGBA); leave it out"
        )


def _by(size: Size) -> str:
    height, width = size
    return f"{height}x{width}" if height == width else f"{height}x{width} (height x width)"


def _notes_of(decoder: Decoder, seen: Survey, crop: Crop) -> list[str]:
    why = f"crop {crop.name} takes another part each time" if crop.drawn else "together they would not fit in memory"
    notes = [f"{len(decoder.source):,} images are decoded as needed: {why}"]
    if (others := seen.total - seen.sizes[decoder.covering]) and not crop.drawn:
        notes.append(
            f"{others:,} of {seen.total:,} images looked at are resized and centre-cropped to {_by(decoder.covering)}"
        )
    return notes + caption_notes(decoder.source)


class _Loading:
    """One pass over a source, decoding into one tensor."""

    def __init__(self, decoder: Decoder, workers: int, progress: bool) -> None:
        self.decoder = decoder
        self.workers = workers
        self.progress = progress
        self.pixels = np.empty((len(decoder.source), decoder.channels, *decoder.size), dtype=np.uint8)
        self.bad: dict[int, Bad] = {}
        self.resized = 0
        self.recoloured = 0

    def run(self) -> ImageSet:
        """Decodes all. Raises UserError as soon as more than 1% do not decode."""
        total = len(self.decoder.source)
        chunks = [range(start, min(start + _CHUNK, total)) for start in range(0, total, _CHUNK)]
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="decode")
        try:
            bar = tqdm(total=total, desc="reading images", unit="img", delay=1, leave=False, disable=not self.progress)
            with bar:
                for chunk, (bad, resized, recoloured) in zip(chunks, pool.map(self._decode, chunks), strict=True):
                    self.bad.update(bad)
                    self.resized += resized
                    self.recoloured += recoloured
                    if len(self.bad) > MOST_BAD * total:
                        raise too_many_bad(self.decoder.source, list(self.bad.values()))
                    bar.update(len(chunk))
        finally:
            pool.shutdown(cancel_futures=True)
        return self._gathered()

    def _decode(self, chunk: range) -> tuple[dict[int, Bad], int, int]:
        bad, resized, recoloured = {}, 0, 0
        for i in chunk:
            decoded = self.decoder(i)
            if isinstance(decoded, Bad):
                bad[i] = decoded
                continue
            self.pixels[i] = decoded.pixels
            resized += decoded.resized
            recoloured += decoded.recoloured
        return bad, resized, recoloured

    def _gathered(self) -> ImageSet:
        source = self.decoder.source
        good = np.array([i for i in range(len(source)) if i not in self.bad], dtype=np.int64)
        if self.bad:  # closes the gaps in place, since a copy would take the memory twice
            for row, i in enumerate(good):
                self.pixels[row] = self.pixels[i]
        return ImageSet(
            images=torch.from_numpy(self.pixels[: len(good)]),
            labels=None if source.labels is None else torch.from_numpy(source.labels[good]),
            classes=source.classes,
            indices=torch.from_numpy(good),
            every=labels_of(source),
            skipped=[(bad.name, bad.reason) for bad in self.bad.values()],
            notes=self._notes(len(good)),
        )

    def _notes(self, good: int) -> list[str]:
        notes = []
        if self.resized:
            where = _by(self.decoder.covering)
            notes.append(f"{self.resized:,} of {good:,} images were resized and centre-cropped to {where}")
        if self.recoloured:
            change = "coloured and turned to grey" if self.decoder.channels <= 2 else "grey and repeated to 3 channels"
            notes.append(f"{self.recoloured:,} of {good:,} images were {change}")
        if self.bad:
            bad = list(self.bad.values())
            named = "; ".join(f"{b.name} ({b.reason})" for b in bad[:_NAMED]) + ("; ..." if len(bad) > _NAMED else "")
            notes.append(
                f"{len(self.bad):,} of {good + len(self.bad):,} images do not decode and were skipped: {named}"
            )
        return notes + caption_notes(self.decoder.source)
