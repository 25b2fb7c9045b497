"""How a tree of files is read as a data set: one subfolder per class, or images without classes."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np

from ditkit.base.errors import UserError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pnm")
"""The endings, in any case, by which a file counts as an image."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The images of a data set, in an order that depends on their names alone.

    names: (N,) paths inside the source, with "/", class by class.
    classes: (K,) class names in natural order ("2" before "10"); empty when there are no classes.
    labels: (N,) int64, 0..K-1; None when there are no classes.
    """

    names: tuple[str, ...]
    classes: tuple[str, ...]
    labels: np.ndarray | None


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts numbers inside names by value and all else by code point, whatever the machine's locale."""
    name = unicodedata.normalize("NFC", name)
    parts: list[str | int] = [int(p) if odd % 2 else p for odd, p in enumerate(re.split("([0-9]+)", name))]
    return parts, name


def arrange(entries: Iterable[str], where: str) -> Layout:
    """Reads a listing as a data set.

    entries: paths with "/" of every file, and of folders with a "/" at the end (an empty folder shows only so).
    Hidden files and files that are no images are ignored. Folders inside a class folder belong to the class. A single
    top folder that holds only folders (as packers add) is looked through; one that holds images is the only class.

    Raises UserError when there is no image, when images lie beside class folders, and when a class folder has none.
    """
    entries = [entry for entry in entries if entry and not _hidden(entry)]
    if not any(map(_is_image, entries)):
        raise _no_images(entries, where)
    prefix, entries = _unwrapped(entries)
    images = [entry for entry in entries if _is_image(entry)]
    loose = sorted((name for name in images if "/" not in name), key=natural_key)
    if len(loose) == len(images):
        return Layout(tuple(prefix + name for name in loose), (), None)
    if loose:
        raise _mixture(images, loose, where)
    folders = sorted({entry.split("/", 1)[0] for entry in entries if "/" in entry}, key=natural_key)
    label_of = {folder: label for label, folder in enumerate(folders)}
    keyed = sorted((label_of[name.split("/", 1)[0]], natural_key(name), name) for name in images)
    labels = np.array([label for label, _, _ in keyed], dtype=np.int64)
    _check_none_empty(folders, labels, where)
    classes = tuple(unicodedata.normalize("NFC", folder) for folder in folders)
    return Layout(tuple(prefix + name for _, _, name in keyed), classes, labels)


def _is_image(entry: str) -> bool:
    return entry.lower().endswith(EXTENSIONS)


def _hidden(entry: str) -> bool:
    return entry.startswith(".") or "/." in entry or entry.startswith("__MACOSX/")


def _unwrapped(entries: list[str]) -> tuple[str, list[str]]:
    """The prefix of single top folders that hold no image themselves, and the entries without it."""
    prefix = ""
    while True:
        tops = {entry.split("/", 1)[0] for entry in entries if "/" in entry}
        at_hand = any(entry.count("/") <= 1 and _is_image(entry) for entry in entries)
        if len(tops) != 1 or at_hand:
            return prefix, entries
        top = f"{tops.pop()}/"
        prefix, entries = prefix + top, [e.removeprefix(top) for e in entries if e.startswith(top) and e != top]


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(repr(name) for name in names[:most]) + (", ..." if len(names) > most else "")


def _no_images(entries: list[str], where: str) -> UserError:
    files = sorted(entry for entry in entries if not entry.endswith("/"))
    what = f"holds files but no images ({_some(files)})" if files else "is empty"
    return UserError(
        f"{where} {what}: expected images ({' '.join(EXTENSIONS)}), loose or in one subfolder per class; "
        "check the path or put images there"
    )


def _mixture(images: list[str], loose: list[str], where: str) -> UserError:
    return UserError(
        f"{where} mixes loose images ({len(loose)}: {_some(loose)}) with images in subfolders "
        f"({len(images) - len(loose)}): "
        "expected one subfolder per class or loose images only; move the loose ones into a class folder or away"
    )


def _check_none_empty(folders: list[str], labels: np.ndarray, where: str) -> None:
    counts = np.bincount(labels, minlength=len(folders))
    empty = [folder for folder, count in zip(folders, counts, strict=True) if count == 0]
    if empty:
        raise UserError(
            f"{where} has class folders without images ({len(empty)}: {_some(empty)}): expected at least one image in "
            "each; add images or remove the folder"
        )
