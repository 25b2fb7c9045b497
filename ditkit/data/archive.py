"""A zip archive of images, read in place: nothing is unpacked."""

from __future__ import annotations

import io
import re
import threading
import zipfile
from typing import ClassVar

from PIL import Image

from ditkit.base.errors import UserError
from ditkit.base.files import expanded
from ditkit.data.layout import arrange
from ditkit.data.listed import Listed, digest

_ENCRYPTED = 0x1


class Zip(Listed):
    """The images in a zip archive (see ``ditkit.data.layout`` for how classes are told).

    Raises UserError when the file is no whole zip, is encrypted, is empty, has no images, or mixes loose images and
    subfolders.
    """

    words: ClassVar[tuple[str, ...]] = ()
    expects: ClassVar[str] = "a .zip archive of images"

    def __init__(self, spec: str) -> None:
        try:
            self._zip = zipfile.ZipFile(expanded(spec))
        except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError) as error:
            raise UserError(
                f"archive {spec!r} cannot be read ({error}): expected a whole zip file; download or pack it again"
            ) from error
        infos = {_plain(info.filename): info for info in self._zip.infolist()}
        super().__init__(spec, arrange(infos, f"archive {spec!r}"))
        self._infos = [infos[name] for name in self.names]
        if any(info.flag_bits & _ENCRYPTED for info in self._infos):
            raise UserError(f"archive {spec!r} is encrypted: expected a zip without a password; pack it again")
        # ZipFile counts its open members without a lock, so that threads which open at once could close it early.
        self._lock = threading.Lock()

    @classmethod
    def recognise(cls, spec: str) -> bool:
        """Whether ``spec`` is a file that is called, or begins like, a zip archive."""
        path = expanded(spec)
        return path.is_file() and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path))

    def open(self, i: int) -> Image.Image:
        """Picture i, not decoded yet. Raises BadZipFile or OSError when it cannot be read."""
        with self._lock:
            content = self._zip.read(self._infos[i])
        return Image.open(io.BytesIO(content))

    def fingerprint(self) -> str:
        """Digest of the names, sizes and CRCs of the images."""
        return digest((info.filename, info.file_size, info.CRC) for info in self._infos)


def _plain(name: str) -> str:
    # Some packers write "./a.png" or "/a.png", and some on Windows "a\b.png" against the format's rule.
    return re.sub(r"^(\.{0,2}/)+", "", name.replace("\\", "/"))
