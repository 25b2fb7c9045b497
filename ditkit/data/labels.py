"""Classes from values: what a table, a side-car or an array says of each picture becomes a label and its name."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import numpy as np

from ditkit.base.errors import UserError
from ditkit.data.layout import natural_key, shown, some
from ditkit.data.packed import integers

LABEL = ("label", "labels", "class", "cls", "category", "class_name", "target")
"""What a label is called in tables and records, in any case."""

CAPTION = ("caption", "captions", "text", "prompt", "description")
"""What a caption is called in tables and records, in any case."""


class Labels:
    """Collects the class of each picture, one after the other."""

    def __init__(self) -> None:
        self._value_of: dict[str, int] = {}
        self._values = array("q")

    def add(self, value: object) -> None:
        """The class of the next picture, as a name or number; None or "" when it has none."""
        name = "" if value is None else shown(str(value).strip())
        self._values.append(self._value_of.setdefault(name, len(self._value_of)) if name else -1)

    def done(self, name: Callable[[int], str], where: str) -> tuple[tuple[str, ...], np.ndarray | None]:
        """The class names in natural order (10 after 9) and the labels (N,) int64; () and None when there are none.

        Raises UserError when some pictures have a class and others do not; ``name`` gives a picture's name for that.
        """
        values = integers(self._values)
        if not self._value_of:
            return (), None
        without = np.flatnonzero(values < 0)
        if len(without):
            raise UserError(
                f"{where} has no label for {len(without):,} of {len(values):,} images "
                f"({some([name(int(i)) for i in without[:4]])}): expected one for each or none at all; add them"
            )
        classes = tuple(sorted(self._value_of, key=natural_key))
        rank = {value: label for label, value in enumerate(classes)}
        return classes, np.array([rank[value] for value in self._value_of], dtype=np.int64)[values]
