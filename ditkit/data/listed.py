"""What folders and archives share: a source whose pictures are named files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ditkit.data.layout import Layout


class Listed:
    """The part of a source (see ``ditkit.data.source.Source``) that follows from a list of names."""

    def __init__(self, spec: str, layout: Layout) -> None:
        self.spec = spec
        self.names = layout.names
        self.classes = layout.classes
        self.labels = layout.labels

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The path of picture i inside the source."""
        return self.names[i]


def digest(rows: Iterable[tuple[object, ...]]) -> str:
    """The SHA-256 of a table, in hexadecimal."""
    total = hashlib.sha256()
    for row in rows:
        total.update(repr(row).encode("utf-8", "surrogateescape"))
    return total.hexdigest()
