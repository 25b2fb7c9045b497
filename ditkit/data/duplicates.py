"""Pictures that are the same, or nearly: the former by digest, the latter by a perceptual hash and then by pixels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

SIDE = 16
"""Thumbnails have so many pixels a side."""

BITS = 3
"""Hashes of near duplicates differ in so many of 64 bits at most."""

DIFFERENCE = 4.0
"""Thumbnails of near duplicates differ by so much of 255 at most, root mean square."""

_BANDS = 4  # hashes that differ in 3 bits at most are alike in one of 4 bands at least
_BLOCK = 1024
_CROWD = 4096


def exact(digests: Sequence[bytes]) -> list[list[int]]:
    """The groups of two and more rows with equal digests, each ascending, in order of their first rows."""
    rows: dict[bytes, list[int]] = {}
    for row, digest in enumerate(digests):
        rows.setdefault(digest, []).append(row)
    return [group for group in rows.values() if len(group) > 1]


def near(thumbnails: np.ndarray, progress: bool = True) -> list[list[int]]:
    """The groups of rows of thumbnails, uint8 (N, 16, 16) grey, that are alike, directly or by others of the group.

    Alike are two whose hashes (``perceptual_hash``) differ in at most 3 bits, and their thumbnails by at most 4 of 255.
    Those that are of one grey are left out. Among over 4,096 with a quarter of the hash in common each is compared with
    the 1,024 that follow it in order of hash.
    """
    hashes = perceptual_hash(thumbnails)
    shown = np.flatnonzero(thumbnails.std((1, 2)) > DIFFERENCE)
    parent = list(range(len(thumbnails)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for band in tqdm(range(_BANDS), desc="near duplicates", delay=2, leave=False, disable=not progress):
        for one, other in _alike(hashes, shown, band, thumbnails):
            first, second = sorted((root(one), root(other)))
            parent[second] = first
    groups: dict[int, list[int]] = {}
    for row in shown.tolist():
        groups.setdefault(root(row), []).append(row)
    return [group for group in groups.values() if len(group) > 1]


def perceptual_hash(thumbnails: np.ndarray) -> np.ndarray:
    """Hashes uint64 (N,) of thumbnails uint8 (N, 16, 16): which of the 8 x 8 lowest frequencies exceed their median."""
    places, frequencies = np.arange(SIDE), np.arange(8)[:, None]
    dct = np.cos(math.pi * frequencies * (2 * places + 1) / (2 * SIDE))  # 8 x 16
    hashes = np.empty(len(thumbnails), np.uint64)
    for start in range(0, len(thumbnails), _BLOCK):
        block = thumbnails[start : start + _BLOCK].astype(np.float64)
        waves = (dct @ block @ dct.T).reshape(len(block), 64)
        bits = waves > np.median(waves, axis=1, keepdims=True)
        hashes[start : start + _BLOCK] = np.packbits(bits, axis=1).view(np.uint64)[:, 0]
    return hashes


def _alike(hashes: np.ndarray, rows: np.ndarray, band: int, thumbnails: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs of rows that are near and have one band of 16 bits of the hash in common."""
    keys = (hashes[rows] >> np.uint64(16 * band)) & np.uint64(0xFFFF)
    rows = rows[np.lexsort((hashes[rows], keys))]
    ends = np.flatnonzero(np.diff(np.sort(keys))) + 1
    for crowd in np.split(rows, ends):
        if len(crowd) < 2:
            continue
        for start in range(0, len(crowd), _BLOCK):
            block = crowd[start : start + _BLOCK]
            later = crowd[start:] if len(crowd) <= _CROWD else crowd[start : start + 2 * _BLOCK]
            distance = _bits(hashes[block][:, None] ^ hashes[later][None])
            one, other = np.nonzero(np.triu(distance <= BITS, 1))
            one, other = block[one], later[other]
            near_too = _differences(thumbnails, one, other) <= DIFFERENCE
            yield from zip(one[near_too].tolist(), other[near_too].tolist(), strict=True)


_SET = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def _bits(words: np.ndarray) -> np.ndarray:
    """How many bits are set in each uint64 of (A, B)."""
    return _SET[np.ascontiguousarray(words).view(np.uint8).reshape(*words.shape, 8)].sum(-1)


def _differences(thumbnails: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Root mean square differences of pairs of thumbnails, (M,)."""
    found = np.empty(len(one))
    for start in range(0, len(one), _BLOCK):
        part = slice(start, start + _BLOCK)
        difference = thumbnails[one[part]].astype(np.float32) - thumbnails[other[part]]
        found[part] = np.sqrt((difference**2).mean((1, 2)))
    return found
