"""A folder of images: one subfolder per class, or images without classes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from ditkit.base.errors import UserError
from ditkit.base.files import expanded
from ditkit.data.layout import arrange
from ditkit.data.listed import Listed, digest
from ditkit.data.spec import kind_of_folder


class Folder(Listed):
    """The images under a folder, read in place (see ``ditkit.data.layout`` for how classes are told).

    Raises UserError when the folder cannot be listed, is empty, has no images, or mixes loose images and subfolders.
    """

    words: ClassVar[tuple[str, ...]] = ()
    expects: ClassVar[str] = "a folder of images"

    def __init__(self, spec: str) -> None:
        self.root = expanded(spec)
        entries = tqdm(_walk(self.root), desc=f"listing {spec}", unit=" files", delay=2, leave=False)
        super().__init__(spec, arrange(entries, f"folder {spec!r}"))

    @classmethod
    def recognise(cls, spec: str) -> bool:
        """Whether ``spec`` is a folder that is nothing more special."""
        return kind_of_folder(spec) == "images"

    def open(self, i: int) -> Image.Image:
        """Picture i, not decoded yet. Raises OSError when the file cannot be read."""
        return open_file(self.root / self.names[i])

    def beside(self, i: int, ending: str) -> bytes:
        """The content of the side-car of picture i with that ending."""
        return (self.root / self.names[i]).with_suffix(ending).read_bytes()

    def fingerprint(self) -> str:
        """Digest of the names, sizes and times of change of the images and of what stands beside them."""
        return digest(self._marks())

    def _marks(self) -> Iterator[tuple[object, ...]]:
        yield from ((name, *size_and_time(self.root / name)) for name in self.names)
        for ending, places in self.sidecars.items():
            for i in np.flatnonzero(places >= 0).tolist():
                yield i, ending, *size_and_time((self.root / self.names[i]).with_suffix(ending))


def _walk(root: Path) -> Iterator[str]:
    """Every file under ``root``, and every folder with a "/" at the end, as paths from it; links are followed."""

    def refuse(error: OSError) -> None:
        raise UserError(
            f"folder {error.filename!r} cannot be listed ({error.strerror}): expected a readable folder; "
            "check its permissions"
        ) from error

    for here, folders, files in os.walk(root, onerror=refuse, followlinks=True):
        inside = Path(here).relative_to(root).as_posix()
        prefix = "" if inside == "." else f"{inside}/"
        folders[:] = [f for f in folders if not f.startswith(".") and not _leads_back(root, Path(here) / f)]
        yield from (f"{prefix}{folder}/" for folder in folders)
        yield from (prefix + file for file in files)


def _leads_back(root: Path, folder: Path) -> bool:
    """Whether a linked folder contains a folder on the way to it, so that following links would never end."""
    if not folder.is_symlink():
        return False
    target, way = folder.resolve(), [folder.parents[k] for k in range(len(folder.relative_to(root).parts))]
    return any(passed.resolve().is_relative_to(target) for passed in way)


def open_file(path: Path) -> Image.Image:
    """The picture in a file, not decoded yet. Raises OSError when it cannot be read."""
    if path.exists() and not path.is_file():
        # opening a pipe could wait for ever
        raise OSError("a folder, not a file" if path.is_dir() else "a pipe or device, not a file")
    return Image.open(path)


def size_and_time(path: Path) -> tuple[int, int]:
    """The size of a file in bytes and its time of change in ns; -1 where there is none."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns
