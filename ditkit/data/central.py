"""The central directory of a zip archive as arrays: 34 bytes an entry and its name, not an object each.

Source: PKWARE, .ZIP File Format Specification 6.3, sections 4.3.12 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import bz2
import dataclasses
import lzma
import struct
import zlib
from array import array
from collections.abc import Callable, Iterator

from ditkit.data.readat import FileAt

ENCRYPTED = 0x1
_UTF8 = 0x800

_ENTRY = struct.Struct("<4x4x2HHHIIIHHHHHII")  # 4.3.12
_LONGEST = _ENTRY.size + 3 * 0xFFFF
_PIECE = 2**20
_LOCAL = struct.Struct("<4s22xHH")  # 4.3.7
_END = struct.Struct("<4sHHHHIIH")  # 4.3.16
_END64_AT = struct.Struct("<4sIQI")  # 4.3.15
_END64 = struct.Struct("<4sQHHIIQQQQ")  # 4.3.14
_BEYOND32 = 0xFFFFFFFF


class BrokenZipError(ValueError):
    """The file is no whole zip archive; says why."""


LARGEST = 2**30
"""Bytes of an unpacked entry at most: a small archive must not be able to fill the memory."""


def _unlzma(content: bytes, size: int) -> bytes:
    # Two bytes of version, two of length, five of properties; then as in the stand-alone format without its header.
    return lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(content[4:9] + b"\xff" * 8 + content[9:], size)


UNPACK: dict[int, Callable[[bytes, int], bytes]] = {
    0: lambda content, size: content,
    8: lambda content, size: zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size),
    12: lambda content, size: bz2.BZ2Decompressor().decompress(content, size),
    14: _unlzma,
}
"""What undoes each method of compression (4.4.5), to so many bytes at most, at least 1."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Where the central directory stands: its place and length in bytes, and what precedes the archive itself."""

    place: int
    length: int
    before: int


def bounds(file: FileAt) -> Bounds:
    """Finds the central directory. Raises BrokenZipError when there is no whole one."""
    tail_at = max(0, file.size - _END.size - 0xFFFF)
    tail = file.read(tail_at, file.size - tail_at)
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) - end < _END.size:
        raise BrokenZipError("it has no directory at its end")
    *_, length, place, _ = _END.unpack_from(tail, end)
    stop = tail_at + end
    if stop >= _END64_AT.size:
        signature, _, end64, _ = _END64_AT.unpack(file.read(stop - _END64_AT.size, _END64_AT.size))
        if signature == b"PK\6\7":
            # What precedes the archive shifts this place too: the record stands right before its locator.
            stop = stop - _END64_AT.size - _END64.size
            signature, *_, length, place = _END64.unpack(file.read(max(0, stop), _END64.size))
            if signature != b"PK\6\6":
                raise BrokenZipError(f"its 64-bit directory is not at byte {end64:,}")
    before = stop - length - place
    if before < 0:
        raise BrokenZipError(f"{-before:,} bytes of it are missing")
    return Bounds(place + before, length, before)


class Entries:
    """What the directory says of each entry, in its order, as arrays of N."""

    def __init__(self) -> None:
        self.offset = array("q")
        self.packed = array("q")
        self.size = array("q")
        self.crc = array("I")
        self.method = array("H")
        self.flags = array("H")

    def read(self, file: FileAt) -> Iterator[str]:
        """Fills the arrays, and yields the name of each entry. Raises BrokenZipError when the directory is damaged."""
        where = bounds(file)
        for at, entry in _entries(file, where):
            flags, method, _, _, crc, packed, size, n, more, _, _, _, _, offset = _ENTRY.unpack_from(entry)
            name = entry[_ENTRY.size : _ENTRY.size + n]
            if _BEYOND32 in (size, packed, offset):
                size, packed, offset = _wide(entry[_ENTRY.size + n :][:more], size, packed, offset)
            offset += where.before
            if offset + packed > where.place:
                raise BrokenZipError(f"the entry at byte {at:,} would end beyond the archive's content")
            for column, value in zip(self._columns(), (offset, packed, size, crc, method, flags), strict=True):
                column.append(value)
            yield name.decode("utf-8", "surrogateescape") if flags & _UTF8 else name.decode("cp437")

    def _columns(self) -> tuple[array[int], ...]:
        return self.offset, self.packed, self.size, self.crc, self.method, self.flags

    def content(self, file: FileAt, i: int) -> bytes:
        """The unpacked content of entry i. Raises BrokenZipError or OSError, or what the decompressor does."""
        method = self.method[i]
        if method not in UNPACK:
            raise BrokenZipError(f"it is compressed by method {method}, which is not known")
        if self.size[i] > LARGEST:
            raise BrokenZipError(f"it has {self.size[i]:,} bytes, more than the {LARGEST:,} that an image may have")
        content = UNPACK[method](file.read(self._begin(file, i), self.packed[i]), self.size[i] + 1)
        if len(content) != self.size[i] or zlib.crc32(content) != self.crc[i]:
            raise BrokenZipError("its checksum does not fit")
        return content

    def check(self, file: FileAt, i: int) -> None:
        """Raises BrokenZipError where the content of entry i, stored as it is, does not have its checksum."""
        begin, crc = self._begin(file, i), 0
        for at in range(0, self.size[i], _PIECE):
            crc = zlib.crc32(file.read(begin + at, min(_PIECE, self.size[i] - at)), crc)
        if crc != self.crc[i]:
            raise BrokenZipError("its checksum does not fit")

    def start(self, file: FileAt, i: int) -> int | None:
        """The place of entry i's content in the file; None when it is compressed or encrypted."""
        plain = self.method[i] == 0 and not self.flags[i] & ENCRYPTED
        return self._begin(file, i) if plain else None

    def _begin(self, file: FileAt, i: int) -> int:
        signature, n, more = _LOCAL.unpack(file.read(self.offset[i], _LOCAL.size))
        if signature != b"PK\3\4":
            raise BrokenZipError(f"no entry begins at byte {self.offset[i]:,}")
        return self.offset[i] + _LOCAL.size + n + more


def _entries(file: FileAt, where: Bounds) -> Iterator[tuple[int, bytes]]:
    """The place and the bytes of each entry of the directory, which is read piece by piece."""
    at, stop = where.place, where.place + where.length
    piece, begin = b"", at
    while at + _ENTRY.size <= stop:
        if at + _LONGEST > begin + len(piece) < stop:
            piece, begin = file.read(at, min(_PIECE, stop - at)), at
        here = at - begin
        *_, n, more, comment, _, _, _, _ = _ENTRY.unpack_from(piece, here)
        length = _ENTRY.size + n + more + comment
        if piece[here : here + 4] != b"PK\1\2" or at + length > stop:
            raise BrokenZipError(f"its directory is damaged at byte {at:,}")
        yield at, piece[here : here + length]
        at += length


def _wide(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """The 64-bit values from an entry's extra field, for those that say that they are there (4.5.3)."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = iter(value for (value,) in struct.iter_unpack("<Q", extra[at + 4 : at + 4 + length // 8 * 8]))
            values = [next(wide, v) if v == _BEYOND32 else v for v in (size, packed, offset)]
            return values[0], values[1], values[2]
        at += 4 + length
    return size, packed, offset
