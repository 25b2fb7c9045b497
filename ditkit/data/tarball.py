"""A tar archive of images, read in place; a compressed one by way of a temporary file, as it has no directory."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import itertools
import lzma
import posixpath
import shutil
import tarfile
import tempfile
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

from PIL import Image
from tqdm import tqdm

from ditkit.base.errors import UserError
from ditkit.base.files import expanded, explained
from ditkit.data.archive import plain
from ditkit.data.layout import arrange, is_hidden, is_image
from ditkit.data.listed import Listed, digest
from ditkit.data.readat import FileAt

_COMPRESSED: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_BLOCK = 512
_DANGLING = -1
_SPARSE = -2
_LOOKED_AT = 256
_BROKEN = (tarfile.TarError, OSError, EOFError, lzma.LZMAError, zlib.error, ValueError)


class Members:
    """The regular files of a tar archive, in its order: 28 bytes each, and their names as they are read.

    Nothing is ever unpacked to the names that the archive gives, so absolute ones, ".." and links do no harm. Links to
    members stand for these; links to elsewhere have no content.
    """

    def __init__(self, path: Path, where: str) -> None:
        self.where = where
        self.offset = array("q")
        self.size = array("q")
        self.time = array("q")
        with self._explained():
            self._opened = _uncompressed(path, where)
            self.file = FileAt(self._opened)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except _BROKEN as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"{self.where} cannot be read ({error}): expected a whole tar file; download or pack it again"
            ) from error

    def names(self) -> Iterator[str]:
        """Fills the arrays, and yields the name of each member, of folders with "/" at the end.

        Raises UserError when the archive is broken or ends before its end.
        """
        with self._explained():
            yield from self._names()

    def _names(self) -> Iterator[str]:
        links: list[tuple[str, str]] = []
        with tarfile.open(fileobj=self._rewound(), mode="r:", errorlevel=0) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # pyright: ignore[reportAttributeAccessIssue], it would keep every one
                if member.islnk() or member.issym():
                    links.append((member.name, member.linkname if member.islnk() else _target(member)))
                    continue
                if not (member.isreg() or member.isdir()):
                    continue  # devices and pipes
                sparse = member.issparse()
                self._add(_SPARSE if sparse else member.offset_data, member.size, int(member.mtime))
                yield f"{member.name}/" if member.isdir() else member.name
            _check_end(self.file, tar.offset)
        if links:
            yield from self._linked(links)

    def _linked(self, links: list[tuple[str, str]]) -> Iterator[str]:
        # A second pass, for the few archives that have links, rather than every name kept for all.
        with tarfile.open(fileobj=self._rewound(), mode="r:", errorlevel=0) as tar:
            files = {posixpath.normpath(m.name): m for m in tar if m.isreg() and not m.issparse()}
        targets = {posixpath.normpath(name): posixpath.normpath(target) for name, target in links}
        for name, target in links:
            target = posixpath.normpath(target)
            for _ in range(8):  # links to links
                target = targets.get(target, target)
            file = files.get(target)
            self._add(file.offset_data if file else _DANGLING, file.size if file else 0, int(file.mtime) if file else 0)
            yield name

    def _rewound(self) -> BinaryIO:
        self._opened.seek(0)
        return self._opened

    def _add(self, offset: int, size: int, time: int) -> None:
        self.offset.append(offset)
        self.size.append(size)
        self.time.append(time)

    def content(self, i: int) -> bytes:
        """The content of member i. Raises OSError when it cannot be read."""
        if self.offset[i] < 0:
            raise OSError("a sparse file" if self.offset[i] == _SPARSE else "a link to what is not in the archive")
        return self.file.read(self.offset[i], self.size[i])


class Tar(Listed):
    """The images in a .tar, .tar.gz, .tar.bz2 or .tar.xz (see ``ditkit.data.layout`` for how classes are told).

    Raises UserError when the file is no whole tar, is empty, has no images, holds a name twice, or mixes loose images
    and subfolders.
    """

    words: ClassVar[tuple[str, ...]] = ()
    expects: ClassVar[str] = "a .tar or .tar.gz archive of images"

    def __init__(self, spec: str) -> None:
        where = f"archive {spec!r}"
        self._members = Members(expanded(spec), where)
        bar = tqdm(self._members.names(), desc=f"listing {spec}", unit=" files", delay=2, leave=False)
        super().__init__(spec, arrange(plain(bar), where))

    @classmethod
    def recognise(cls, spec: str) -> bool:
        """Whether ``spec`` is a file that is called, or begins like, a tar archive, but no shard of WebDataset."""
        path = expanded(spec)
        return is_tar(path) and not is_shard(path)

    def open(self, i: int) -> Image.Image:
        """Picture i, not decoded yet. Raises OSError when it cannot be read."""
        return Image.open(io.BytesIO(self._members.content(int(self.entries[i]))))

    def beside(self, i: int, ending: str) -> bytes:
        """The content of the side-car of picture i with that ending."""
        return self._members.content(int(self.sidecars[ending][i]))

    def fingerprint(self) -> str:
        """Digest of the names, sizes, places and times of change of the images and of what stands beside them."""
        m, places = self._members, [("", self.entries), *self.sidecars.items()]
        rows = ((ending, k, m.size[e], m.time[e]) for ending, place in places for k, e in enumerate(place) if e >= 0)
        return digest([("names", bytes(self.names.text)), *rows])


def is_tar_name(name: str) -> bool:
    """Whether a file is called like a tar archive."""
    return name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz"))


def is_tar(path: Path) -> bool:
    """Whether a path is a file that is called, or begins like, a tar archive."""
    return path.is_file() and (is_tar_name(path.name) or _begins_like_tar(path))


def is_shard(path: Path) -> bool:
    """Whether a tar archive holds samples of WebDataset: beside one of its first images lies a .cls, or outside of
    subfolders, which would be classes, a .json. False where it cannot be read.
    """
    pictured, beside = set[str](), set[str]()
    with contextlib.suppress(*_BROKEN), tarfile.open(path) as tar:
        for name in plain(member.name for member in itertools.islice(tar, _LOOKED_AT) if member.isfile()):
            key, ending = keyed(name)
            if is_image(name) and not is_hidden(name):
                pictured.add(key)
            elif ending == "cls" or (ending == "json" and "/" not in name):
                beside.add(key)
    return not pictured.isdisjoint(beside)


def keyed(name: str) -> tuple[str, str]:
    """A member's name as WebDataset has it: its sample's key, up to the file name's first dot, and the rest."""
    folder, slash, file = name.rpartition("/")
    stem, _, ending = file.partition(".")
    return folder + slash + stem, ending


def _begins_like_tar(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(265)[257:262] == b"ustar"
    return False


def _uncompressed(path: Path, where: str) -> BinaryIO:
    """The archive's file, or what is in it, in a temporary file that nobody else sees and that goes with it."""
    file = path.open("rb")
    magic = file.read(6)
    file.seek(0)
    unpack = next((unpack for begin, unpack in _COMPRESSED.items() if magic.startswith(begin)), None)
    if unpack is None:
        return file
    temporary = tempfile.TemporaryFile()  # noqa: SIM115, it lives as long as the source
    bar = tqdm.wrapattr(
        file, "read", path.stat().st_size, desc=f"unpacking {where}", delay=2, leave=False, unit="B", unit_scale=True
    )
    with bar as read, explained(Path(tempfile.gettempdir())), unpack(read) as unpacked:
        shutil.copyfileobj(unpacked, temporary, 2**20)
    file.close()
    temporary.seek(0)
    return cast(BinaryIO, temporary)


def _target(link: tarfile.TarInfo) -> str:
    """The member that a symbolic link points to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(link.name), link.linkname))


def _check_end(file: FileAt, place: int) -> None:
    # Reading ends without an error at a header that is damaged or missing; at a whole archive's end there are zeros.
    if place + _BLOCK > file.size:
        raise tarfile.ReadError("it ends before its end mark")
    if any(file.read(place, _BLOCK)):
        raise tarfile.ReadError(f"it is damaged at byte {place:,}")
