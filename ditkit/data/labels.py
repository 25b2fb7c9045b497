"""Classes from values: what a table, a side-car or an array says of each picture becomes a label and its name."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from ditkit.base.errors import UserError
from ditkit.data.layout import natural_key, shown, some
from ditkit.data.packed import integers

LABEL = ("label", "labels", "class", "cls", "category", "class_name", "target")
"""What a label is called in tables and records, in any case."""

CAPTION = ("caption", "captions", "text", "prompt", "description")
"""What a caption is called in tables and records, in any case."""


def read_json(text: str | bytes) -> Any:
    """A record of JSON. ValueError where it is none, nests too deep, or holds half a character, which has no UTF-8."""
    try:
        record = json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    if rb"\ud" in (text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")).lower():
        try:
            json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start])
            raise ValueError(f"the character {half} is half of one: expected whole characters") from None
    return record


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
