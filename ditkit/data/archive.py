"""A zip archive of images, read in place: nothing is unpacked."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from ditkit.base.errors import UserError
from ditkit.base.files import expanded
from ditkit.data.central import ENCRYPTED, BrokenZipError, Entries
from ditkit.data.layout import arrange
from ditkit.data.listed import Listed, digest
from ditkit.data.readat import FileAt


class Zip(Listed):
    """The images in a zip archive (see ``ditkit.data.layout`` for how classes are told).

    Raises UserError when the file is no whole zip, is encrypted, is empty, has no images, holds a name twice, or mixes
    loose images and subfolders.
    """

    words: ClassVar[tuple[str, ...]] = ()
    expects: ClassVar[str] = "a .zip archive of images"

    def __init__(self, spec: str) -> None:
        self._directory = Entries()
        try:
            self._file = FileAt(expanded(spec).open("rb"))
            bar = tqdm(self._directory.read(self._file), desc=f"listing {spec}", unit=" files", delay=2, leave=False)
            super().__init__(spec, arrange(plain(bar), f"archive {spec!r}"))
        except (BrokenZipError, OSError) as error:
            raise UserError(
                f"archive {spec!r} cannot be read ({error}): expected a whole zip file; download or pack it again"
            ) from error
        if (np.array(self._directory.flags)[self.entries] & ENCRYPTED).any():
            raise UserError(f"archive {spec!r} is encrypted: expected a zip without a password; pack it again")

    @classmethod
    def recognise(cls, spec: str) -> bool:
        """Whether ``spec`` is a file that is called, or begins like, a zip archive."""
        path = expanded(spec)
        named = path.suffix.lower()
        return path.is_file() and (named == ".zip" or (named not in (".npz",) and zipfile.is_zipfile(path)))

    def open(self, i: int) -> Image.Image:
        """Picture i, not decoded yet. Raises ValueError or OSError when it cannot be read."""
        return Image.open(io.BytesIO(self._directory.content(self._file, int(self.entries[i]))))

    def beside(self, i: int, ending: str) -> bytes:
        """The content of the side-car of picture i with that ending."""
        return self._directory.content(self._file, int(self.sidecars[ending][i]))

    def fingerprint(self) -> str:
        """Digest of the names, sizes and CRCs of the images and of what stands beside them."""
        d, places = self._directory, [*self.sidecars.values()]
        rows = ((name, d.size[e], d.crc[e]) for name, e in zip(self.names, self.entries, strict=True))
        beside = ((k, d.size[e], d.crc[e]) for place in places for k, e in enumerate(place) if e >= 0)
        return digest(row for part in (rows, beside) for row in part)


def plain(names: tqdm[str] | Iterator[str]) -> Iterator[str]:
    """The names of an archive's entries, as paths inside it with "/"."""
    # Some packers write "./a.png" or "/a.png", and some on Windows "a\b.png" against the format's rule.
    for name in names:
        yield re.sub(r"^(\.{0,2}/)+", "", name.replace("\\", "/")) if "\\" in name or name[:1] in "./" else name
