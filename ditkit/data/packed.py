"""Many short strings in one buffer: a million names cost their bytes, not a million Python objects."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Self, overload

import numpy as np

_CHUNK = 2**12


class Packed(Sequence[str]):
    """An immutable sequence of strings: their UTF-8 bytes end to end, and where each ends.

    Names that are not UTF-8 keep their bytes (surrogateescape, as ``os.fsdecode`` has it). 8 bytes a string more than
    the text.
    """

    def __init__(self, text: bytes | bytearray = b"", ends: np.ndarray | None = None) -> None:
        self.text = text
        self.ends = np.zeros(0, np.int64) if ends is None else ends

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        return self.raw(i).decode("utf-8", "surrogateescape")

    def raw(self, i: int) -> bytes:
        """The bytes of string i. Raises IndexError beyond the last."""
        if not -len(self) <= i < len(self):
            raise IndexError(f"string {i} of {len(self)}")
        i %= len(self)
        return bytes(self.text[self.ends[i - 1] if i else 0 : self.ends[i]])

    def take(self, order: np.ndarray) -> Packed:
        """The strings at ``order`` (M,) int, in that order."""
        text = bytearray()
        for start in range(0, len(order), _CHUNK):  # a join of all at once would hold every string as an object
            text += b"".join(map(self.raw, order[start : start + _CHUNK].tolist()))
        lengths = np.diff(self.ends, prepend=0)
        return Packed(text, np.cumsum(lengths[order], dtype=np.int64))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Packed):
            return self.text == other.text and np.array_equal(self.ends, other.ends)
        if isinstance(other, (list, tuple)):
            return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        return f"Packed({len(self):,} strings, {len(self.text):,} bytes)"


class Packer:
    """Builds a ``Packed`` string by string."""

    def __init__(self) -> None:
        self._text = bytearray()
        self._ends = array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, string: str) -> None:
        """Appends a string."""
        self._text += string.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._text))

    def extend_to(self, count: int) -> Self:
        """Appends empty strings until there are ``count``."""
        self._ends.extend([len(self._text)] * (count - len(self._ends)))
        return self

    def done(self) -> Packed:
        """What was added; the packer must not be used after."""
        return Packed(self._text, integers(self._ends))


def pack(strings: Iterable[str]) -> Packed:
    """The strings as one ``Packed``."""
    packer = Packer()
    for string in strings:
        packer.add(string)
    return packer.done()


def integers(values: array[int]) -> np.ndarray:
    """An array("q") as int64, without a copy."""
    return np.frombuffer(values, dtype=np.int64) if values else np.zeros(0, np.int64)


class Computed(Sequence[str]):
    """Strings that are made when they are asked for: ``make(i)`` for i in 0..count-1.

    missing: (M,) int64, ascending, those that are empty because there is nothing to read.
    """

    def __init__(self, count: int, make: Callable[[int], str], missing: np.ndarray | None = None) -> None:
        self._count = count
        self._make = make
        self.missing = np.zeros(0, np.int64) if missing is None else missing

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self._make(k) for k in range(*i.indices(self._count))]
        if not -self._count <= i < self._count:
            raise IndexError(f"string {i} of {self._count}")
        return self._make(i % self._count)
