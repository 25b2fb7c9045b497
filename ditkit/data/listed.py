"""What folders and archives share: a source whose pictures are named files, with side-cars that say more."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from ditkit.data.labels import Labels
from ditkit.data.layout import Layout, shown
from ditkit.data.packed import Computed


class Plain:
    """The part of a source (see ``ditkit.data.source.Source``) that most have in common: neither captions nor maps."""

    captions: Sequence[str] | None = None
    extras: Mapping[str, Callable[[int], Image.Image]] = {}


class Listed(Plain):
    """The part of a source that follows from a list of names.

    A file ``name.txt`` beside ``name.png`` is its caption, and where there are no class folders ``name.cls`` its class.
    Raises UserError when only some have such a class.
    """

    def __init__(self, spec: str, layout: Layout) -> None:
        self.spec = spec
        self.names = layout.names
        self.classes = layout.classes
        self.labels = layout.labels
        self.entries = layout.entries
        self.sidecars = layout.sidecars
        if self.labels is None and ".cls" in self.sidecars:
            self.classes, self.labels = self._classes_beside()
        if ".txt" in self.sidecars:
            missing = np.flatnonzero(self.sidecars[".txt"] < 0)
            self.captions: Sequence[str] | None = Computed(len(self), self._caption, missing)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The path of picture i inside the source."""
        return shown(self.names[i])

    def beside(self, i: int, ending: str) -> bytes:
        """The content of the side-car of picture i with that ending (".txt"). Raises OSError when it is unreadable."""
        raise NotADirectoryError(f"{self.spec} has no files beside its images")

    def _classes_beside(self) -> tuple[tuple[str, ...], np.ndarray | None]:
        labels = Labels()
        for i in tqdm(range(len(self)), desc="reading labels", unit=" labels", delay=2, leave=False):
            labels.add(self._text(i, ".cls"))
        return labels.done(self.name, f"data {self.spec!r}")

    def _caption(self, i: int) -> str:
        return self._text(i, ".txt")

    def _text(self, i: int, ending: str) -> str:
        """The text beside picture i; "" where there is none."""
        if self.sidecars[ending][i] < 0:
            return ""
        return self.beside(i, ending).decode("utf-8-sig", "replace").strip()


def digest(rows: Iterable[tuple[object, ...]]) -> str:
    """The SHA-256 of a table, in hexadecimal."""
    total = hashlib.sha256()
    for row in rows:
        total.update(repr(row).encode("utf-8", "surrogateescape"))
    return total.hexdigest()
