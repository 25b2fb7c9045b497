"""How a tree of files is read as a data set: one subfolder per class, or images without classes."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from array import array
from collections.abc import Iterable, Sequence

import numpy as np
from tqdm import tqdm

from ditkit.base.errors import UserError
from ditkit.data.packed import Packed, Packer, integers

EXTENSIONS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pnm")
"""The endings, in any case, by which a file counts as an image."""

SIDECARS = (".txt", ".cls", ".json")
"""The endings of files that may say more about the image of the same name: a caption, a label, both."""

_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z", ".rar")
_NUMBER = re.compile("([0-9]+)")
_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029]")
_LONG = 200
_ENCODING = ("utf-8", "surrogatepass")  # keeps the order of code points


@dataclasses.dataclass(frozen=True)
class Layout:
    """The images of a data set, in an order that depends on their names alone.

    names: (N,) paths inside the source, with "/", class by class.
    classes: (K,) class names in natural order ("2" before "10"); empty when there are no classes.
    labels: (N,) int64, 0..K-1; None when there are no classes.
    entries: (N,) int64, the place of each image in the listing.
    sidecars: by ending, (N,) int64, the place in the listing of the file of the same stem; -1 where there is none.
    """

    names: Packed
    classes: tuple[str, ...]
    labels: np.ndarray | None
    entries: np.ndarray
    sidecars: dict[str, np.ndarray]


def natural_key(name: str) -> bytes:
    """Sorts numbers inside names by value and all else by code point, whatever the machine's locale."""
    normal = unicodedata.normalize("NFC", name)
    text, *rest = _NUMBER.split(normal)
    key, zeros = [text.encode(*_ENCODING), b"\0"], bytearray()
    for number, after in zip(rest[::2], rest[1::2], strict=True):
        digits = number.lstrip("0")  # the longer of two numbers is the larger
        key += [len(digits).to_bytes(4, "big"), digits.encode(), after.encode(*_ENCODING), b"\0"]
        zeros.append(255 - min(255, len(number) - len(digits)))
    key += [zeros] if normal == name else [zeros, b"\0", name.encode(*_ENCODING)]
    return b"".join(key)


def shown(name: str) -> str:
    """A name as it can be printed and stored: composed letters (NFC); what is not UTF-8, and what moves a terminal's
    cursor or begins a line, spelled out.
    """
    text = unicodedata.normalize("NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def some(names: Sequence[str], most: int = 3) -> str:
    """The first few of many names, for messages; of very long ones their ends."""
    short = [name if len(name) <= _LONG else f"{name[: _LONG // 2]}...{name[-_LONG // 2 :]}" for name in names[:most]]
    return ", ".join(map(repr, short)) + (", ..." if len(names) > most else "")


def is_image(entry: str) -> bool:
    """Whether a file counts as an image by its name."""
    return entry.lower().endswith(EXTENSIONS)


def is_hidden(entry: str) -> bool:
    """Whether a path is, or lies in, a hidden place, or one of those that macOS adds to archives."""
    return entry.startswith((".", "__MACOSX/")) or "/." in entry or "/__MACOSX/" in entry


def arrange(entries: Iterable[str], where: str) -> Layout:
    """Reads a listing as a data set.

    entries: paths with "/" of every file, and of folders with a "/" at the end (an empty folder shows only so).
    Hidden files and files that are no images are ignored. Folders inside a class folder belong to the class. A single
    top folder that holds only folders (as packers add) is looked through; one that holds images is the only class.

    Raises UserError when there is no image, when images lie beside class folders, when a class folder has none, and
    when a name comes twice. Takes about 150 bytes an image while it sorts.
    """
    listing = _Listing(entries)
    if not len(listing.images):
        raise _no_images(listing, where)
    names = listing.images.done()
    prefix = listing.prefix()
    label_of, classes = listing.labels_of_folders(prefix)
    labels = np.array(label_of, dtype=np.int64)[integers(listing.folder_of)]  # N
    if (labels >= 0).any() and (labels < 0).any():
        raise _mixture(names, labels, where)
    order = _natural_order(names, labels, where)
    names, labels = names.take(order), labels[order]
    places = integers(listing.places)[order]
    sidecars = listing.sidecars(order)
    if labels[0] < 0:
        return Layout(names, (), None, places, sidecars)
    _check_none_empty(classes, labels, where)
    return Layout(names, classes, labels, places, sidecars)


class _Listing:
    """What a listing holds, in one pass over it."""

    def __init__(self, entries: Iterable[str]) -> None:
        self.images = Packer()
        self.places = array("q")  # of each image in the listing
        self.folder_of = array("q")  # of each image, as the number of its folder
        self.folders: dict[str, int] = {}
        self.others: list[str] = []
        self.archives = 0
        self._with_images: set[str] = set()
        self._stems = array("q")  # of each image, hashed: names would take ten times as much
        self._beside = {ending: (array("q"), array("q")) for ending in SIDECARS}  # hashes of stems, places
        for place, entry in enumerate(entries):
            if entry and not is_hidden(entry):
                self._take(place, entry)

    def _take(self, place: int, entry: str) -> None:
        folder, _, file = entry.rpartition("/")
        number = self.folders.setdefault(folder, len(self.folders))
        if not file:
            return
        stem, dot, ending = entry.rpartition(".")
        if is_image(file):
            self.images.add(entry)
            self.places.append(place)
            self.folder_of.append(number)
            self._stems.append(hash(stem))
            self._with_images.add(folder)
        elif (beside := self._beside.get(dot + ending)) is not None:
            beside[0].append(hash(stem))
            beside[1].append(place)
        if not len(self.images) and len(self.others) < 1000:
            self.others.append(entry)
        self.archives += file.lower().endswith(_ARCHIVES)

    def prefix(self) -> str:
        """The path, with "/", of single top folders that hold no image themselves."""
        prefix = ""
        while True:
            below = [folder[len(prefix) :] for folder in self.folders if folder.startswith(prefix)]
            tops = {folder.split("/", 1)[0] for folder in below} - {""}
            at_hand = any("/" not in folder[len(prefix) :] for folder in self._with_images)
            if len(tops) != 1 or at_hand or prefix.rstrip("/") in self._with_images:
                return prefix
            prefix += f"{tops.pop()}/"

    def labels_of_folders(self, prefix: str) -> tuple[list[int], tuple[str, ...]]:
        """The label of each folder (-1: not in a class), and the names of the classes, in natural order."""
        tops = {folder: folder[len(prefix) :].split("/", 1)[0] for folder in self.folders if folder.startswith(prefix)}
        names = {top: shown(top) for top in tops.values() if top}
        classes = tuple(sorted(set(names.values()), key=natural_key))
        label_of = {name: label for label, name in enumerate(classes)}
        return [label_of.get(names.get(tops.get(folder, ""), ""), -1) for folder in self.folders], classes

    def sidecars(self, order: np.ndarray) -> dict[str, np.ndarray]:
        """For each ending that occurs, the places of the files beside the images, in the images' ``order``."""
        stems = integers(self._stems)[order]
        found = {}
        for ending, (hashes, places) in self._beside.items():
            matched = _matched(stems, integers(hashes), integers(places))
            if (matched >= 0).any():
                found[ending] = matched
        return found


def _matched(wanted: np.ndarray, keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The value of each wanted key (N,), -1 where there is none."""
    if not len(keys):
        return np.full(len(wanted), -1, dtype=np.int64)
    ascending = np.argsort(keys, kind="stable")
    at = np.minimum(np.searchsorted(keys, wanted, sorter=ascending), len(keys) - 1)
    found = ascending[at]
    return np.where(keys[found] == wanted, values[found], -1)


def _natural_order(names: Packed, labels: np.ndarray, where: str) -> np.ndarray:
    """The rows class by class, each in natural order. Raises UserError when a name comes twice."""
    by_label = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[by_label], prepend=labels.min() - 1))
    order = np.empty(len(names), dtype=np.int64)
    with tqdm(total=len(names), desc="sorting names", unit=" names", delay=2, leave=False) as bar:
        for start, stop in zip(starts, [*starts[1:], len(names)], strict=True):
            rows = by_label[start:stop]
            keys = np.empty(len(rows), dtype=object)
            for k, row in enumerate(rows.tolist()):
                keys[k] = natural_key(names[row])
                if k % 10_000 == 9_999:
                    bar.update(10_000)
            ranks = np.argsort(keys, kind="stable")
            order[start:stop] = rows[ranks]
            twice = np.flatnonzero(keys[ranks[1:]] == keys[ranks[:-1]])
            if len(twice):
                raise _duplicates([names[int(rows[ranks[k]])] for k in twice], where)
    return order


def _no_images(listing: _Listing, where: str) -> UserError:
    files = sorted(listing.others)
    what = f"holds files but no images ({some(files)})" if files else "is empty"
    remedy = "give one of the archives, or unpack them" if listing.archives else "check the path or put images there"
    return UserError(
        f"{where} {what}: expected images ({' '.join(EXTENSIONS)}), loose or in one subfolder per class; {remedy}"
    )


def _mixture(names: Packed, labels: np.ndarray, where: str) -> UserError:
    loose = sorted((names[i] for i in np.flatnonzero(labels < 0).tolist()), key=natural_key)
    return UserError(
        f"{where} mixes loose images ({len(loose)}: {some(loose)}) with images in subfolders "
        f"({len(names) - len(loose)}): "
        "expected one subfolder per class or loose images only; move the loose ones into a class folder or away"
    )


def _duplicates(names: Sequence[str], where: str) -> UserError:
    return UserError(
        f"{where} holds {len(names)} names twice ({some(names)}): expected every file once; pack it again without "
        "the older ones"
    )


def _check_none_empty(classes: Sequence[str], labels: np.ndarray, where: str) -> None:
    counts = np.bincount(labels, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        raise UserError(
            f"{where} has class folders without images ({len(empty)}: {some(empty)}): expected at least one image in "
            "each; add images or remove the folder"
        )
