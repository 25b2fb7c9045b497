"""Opening and decoding the pictures of a source, and saying which could not be."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ditkit.base.errors import UserError
from ditkit.data.crops import Placed, Size
from ditkit.data.preprocess import channels_of, colours_of, has_alpha, prepare, upright_size
from ditkit.data.source import Source

MOST_BAD = 0.01
"""The share of pictures that may fail to decode and be skipped; more is an error."""

_SURVEYED = 2048

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Bad:
    """A picture that could not be decoded: its name in the source, and why."""

    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Decoded:
    """pixels: uint8 (C, H, W); resized, recoloured: whether size or channels had to be changed for that."""

    pixels: np.ndarray
    resized: bool
    recoloured: bool


@dataclasses.dataclass(frozen=True)
class Decoder:
    """Decodes pictures of a source to one size (H, W) and number of channels (1 to 4).

    still: the crop where a call names none; None is the centre.
    """

    source: Source
    size: Size
    channels: int
    still: Placed | None = None

    def __call__(self, i: int, placed: Placed | None = None) -> Decoded | Bad:
        """Picture i by a crop (None: ``still``), or what is wrong with it. Safe in threads."""
        return attempt(self.source, i, lambda image: self._decode(image, placed))

    def _decode(self, image: Image.Image, placed: Placed | None) -> Decoded:
        stored = image.size  # before a JPEG is decoded at less
        pixels = prepare(image, self.size, self.channels, placed or self.still)
        resized = upright_size(image, stored) != self.covering
        return Decoded(pixels, resized, colours_of(self.channels) != channels_of(image))

    @property
    def covering(self) -> Size:
        """The size (H, W) of pictures that are taken as they are."""
        return self.still.covering if self.still else self.size


def attempt(source: Source, i: int, action: Callable[[Image.Image], T]) -> T | Bad:
    """What ``action`` makes of picture i, opened but not decoded, or what is wrong with it."""
    # Decoders raise nearly every kind of error on broken files (OSError, SyntaxError, struct.error, zlib.error, ...).
    try:
        with source.open(i) as image:
            return action(image)
    except UserError:
        raise
    except UnidentifiedImageError:
        return Bad(source.name(i), "no image format that is known")
    except Exception as error:
        return Bad(source.name(i), " ".join(str(error).split()) or type(error).__name__)


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a sample of a source's pictures looks like: how many have each size (H, W), how many each channel count,
    alpha not among them, and how many have alpha.
    """

    sizes: collections.Counter[Size]
    channels: collections.Counter[int]
    alpha: int

    @property
    def commonest_size(self) -> Size:
        """The size that most have; among equals the smallest, so that fewer are enlarged."""
        return min(self.sizes, key=lambda size: (-self.sizes[size], size[0] * size[1], size))

    @property
    def most_channels(self) -> int:
        """1 when all are grey, else 3."""
        return max(self.channels)

    @property
    def total(self) -> int:
        """How many pictures were looked at and could be opened."""
        return self.sizes.total()


def survey(source: Source, progress: bool = True) -> Survey:
    """Looks at the headers of up to 2,048 pictures, spread evenly over the source.

    Raises UserError when none of them can be opened, or too many of them cannot.
    """
    looked_at = min(len(source), _SURVEYED)
    spread = range(0, len(source) * looked_at, len(source))
    bar = tqdm(spread, desc="looking at images", unit="img", delay=1, leave=False, disable=not progress)
    headers = [attempt(source, i // looked_at, _header) for i in bar]
    good = [header for header in headers if not isinstance(header, Bad)]
    bad = [header for header in headers if isinstance(header, Bad)]
    if not good or len(bad) > MOST_BAD * len(source):
        raise too_many_bad(source, bad)
    sizes, channels, alpha = zip(*good, strict=True)
    return Survey(collections.Counter(sizes), collections.Counter(channels), sum(alpha))


def _header(image: Image.Image) -> tuple[Size, int, bool]:
    return upright_size(image), channels_of(image), has_alpha(image)


def too_many_bad(source: Source, bad: Sequence[Bad]) -> UserError:
    """The error for a source of which more pictures are broken than may be skipped."""
    named = "; ".join(f"{b.name} ({b.reason})" for b in bad[:3]) + ("; ..." if len(bad) > 3 else "")
    return UserError(
        f"data {source.spec!r}: at least {len(bad)} of {len(source):,} images do not decode, expected at most "
        f"{MOST_BAD:.0%}: {named}; replace or remove them"
    )


def default_workers(stored: Size) -> int:
    """Threads for pictures stored at (H, W): one per core, at most 16; one alone where the pictures are small.

    Below about 128x128 decoding is so short that threads only wait for the interpreter's lock (measured: two threads
    are slower than one by a half at 32x32, equal at 128x128, faster above).
    """
    if stored[0] * stored[1] < 128 * 128:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, cores)
