"""Pictures as one array of numpy: .npy, or .npz with labels, as ADM's evaluator and many data sets have it."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from ditkit.base.errors import UserError
from ditkit.base.files import expanded
from ditkit.data.central import BrokenZipError, Entries
from ditkit.data.folder import size_and_time
from ditkit.data.labels import Labels
from ditkit.data.listed import Plain, digest
from ditkit.data.readat import FileAt

_IMAGES = ("arr_0", "images", "image", "data", "x", "x_train", "train_images")
_LABELS = ("arr_1", "labels", "label", "y", "y_train", "train_labels")
_CLASSES = ("classes", "class_names")
_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}


class Arrays(Plain):
    """An array uint8 (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 to 4, in a .npy or .npz file.

    In a .npz it is called arr_0 or images, its labels (N,) arr_1 or labels, and their names classes. Uncompressed
    arrays stay on the disc. Raises UserError for files that are broken, pickled or hold another shape or type.
    """

    words: ClassVar[tuple[str, ...]] = ()
    expects: ClassVar[str] = "a .npy or .npz array of images"

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self._path = expanded(spec)
        self._whole = self._path.suffix.lower() == ".npy"  # which has no checksum
        try:
            arrays = _members(self._path)
        except (BrokenZipError, zipfile.BadZipFile, zlib.error, OSError, ValueError, EOFError) as error:
            raise self._unreadable(error) from error
        self._called = _pick(arrays, _IMAGES, spec)
        self._pixels = _pixels(arrays[self._called], spec)  # NHWC
        self.classes, self.labels = self._classes(arrays)

    @classmethod
    def recognise(cls, spec: str) -> bool:
        """Whether ``spec`` is a file that is called .npy or .npz."""
        path = expanded(spec)
        return path.suffix.lower() in (".npy", ".npz") and path.is_file()

    def __len__(self) -> int:
        return len(self._pixels)

    def name(self, i: int) -> str:
        """The file and the row of picture i."""
        return f"{self._path.name}[{i}]"

    def open(self, i: int) -> Image.Image:
        """Picture i. Raises UserError where the file is damaged: at the first picture all are looked at."""
        self._check()
        pixels = np.ascontiguousarray(self._pixels[i])
        return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)

    def _check(self) -> None:
        """Holds stored pictures against their checksum, once: mapped into memory, they are read without it."""
        if self._whole:
            return
        entries = Entries()
        with self._path.open("rb") as file:
            at = FileAt(file)
            try:
                place = {name: i for i, name in enumerate(entries.read(at))}.get(f"{self._called}.npy")
                if place is not None and entries.start(at, place) is not None:
                    entries.check(at, place)
            except (BrokenZipError, OSError) as error:
                raise self._unreadable(error) from error
        self._whole = True

    def _unreadable(self, error: Exception) -> UserError:
        reason = "it is pickled" if "pickle" in str(error) else " ".join(str(error).split())
        return UserError(
            f"array {self.spec!r} cannot be read ({reason}): expected a whole .npy or .npz of uint8; save it again"
        )

    def fingerprint(self) -> str:
        """Digest of the file's size and time of change; of a .npz the names, sizes and CRCs of its arrays."""
        if self._path.suffix.lower() == ".npy":
            return digest([("npy", *size_and_time(self._path))])
        entries = Entries()
        with self._path.open("rb") as file:
            names = list(entries.read(FileAt(file)))
        return digest(zip(names, entries.size, entries.crc, strict=True))

    def _classes(self, arrays: dict[str, np.ndarray]) -> tuple[tuple[str, ...], np.ndarray | None]:
        found = next((arrays[name] for name in _LABELS if name in arrays), None)
        if found is None:
            return (), None
        values = np.asarray(found).reshape(-1) if found.ndim == 2 and found.shape[1] == 1 else np.asarray(found)
        if values.shape != (len(self),) or values.dtype.kind not in "iuU":
            raise UserError(
                f"array {self.spec!r}: its labels are {values.dtype} of shape {values.shape}, expected {len(self):,} "
                f"whole numbers or names, one an image; save them as such"
            )
        names = next((np.atleast_1d(arrays[name]) for name in _CLASSES if name in arrays), None)
        if names is not None and values.dtype.kind in "iu":
            if values.min() < 0 or values.max() >= len(names):
                raise UserError(
                    f"array {self.spec!r}: its labels reach from {values.min()} to {values.max()}, but it names "
                    f"{len(names)} classes: expected a name for each; save them together"
                )
            return tuple(map(str, names)), values.astype(np.int64)
        labels = Labels()
        for value in values.tolist():
            labels.add(value)
        return labels.done(self.name, f"array {self.spec!r}")


def _members(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file, by name ("" in a .npy), on the disc where they are not compressed."""
    if path.suffix.lower() == ".npy":
        return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
    entries, arrays = Entries(), {}
    with path.open("rb") as file:
        at = FileAt(file)
        places = {name: i for i, name in enumerate(entries.read(at)) if name.endswith(".npy")}
        for name, i in places.items():
            start = entries.start(at, i)
            if start is not None:
                arrays[name.removesuffix(".npy")] = _mapped(path, start)
    with np.load(path, allow_pickle=False) as packed:
        unpacked = {name: packed[name] for name in packed.files if name not in arrays}
        return arrays | {name: array for name, array in unpacked.items() if isinstance(array, np.ndarray)}


def _mapped(path: Path, start: int) -> np.ndarray:
    with path.open("rb") as file:
        file.seek(start)
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.hasobject:
            raise ValueError("object arrays are pickled")
        return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def _pick(arrays: dict[str, np.ndarray], names: tuple[str, ...], spec: str) -> str:
    """What the file calls its images."""
    for name in ("", *names):
        if name in arrays:
            return name
    found = ", ".join(f"{name!r} {array.shape}" for name, array in arrays.items()) or "nothing"
    raise UserError(f"array {spec!r} holds {found}: expected the images as 'arr_0' or 'images'; rename them")


def _values(array: np.ndarray) -> str:
    """What the first of an array's floats hold, to follow its type; nothing for other types."""
    first = array[:64]
    if first.dtype.kind != "f" or not first.size:
        return ""
    if not np.isfinite(first).all():
        return " with NaN or infinite values"
    return f" with values {first.min():.3g}..{first.max():.3g}"


def _pixels(array: np.ndarray, spec: str) -> np.ndarray:
    """The array as (N, H, W, C), a view."""
    shape = f"{array.dtype} of shape {array.shape}"
    if array.dtype != np.uint8:
        raise UserError(
            f"array {spec!r} is {shape}{_values(array)}: expected uint8, 0 to 255; scale, round and save it as such"
        )
    if array.ndim == 3:
        array = array[..., None]
    elif array.ndim == 4 and array.shape[-1] not in _MODES and array.shape[1] in _MODES:
        array = np.moveaxis(array, 1, -1)
    if array.ndim != 4 or array.shape[-1] not in _MODES or 0 in array.shape:
        raise UserError(
            f"array {spec!r} is {shape}: expected N images as (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 to 4 "
            "channels; reshape it"
        )
    return array
