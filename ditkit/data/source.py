"""What images come from: a source is a numbered list of pictures, with or without classes.

A new kind of source is a class in a file of this folder, with what ``Source`` asks for: it is found there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from PIL import Image

from ditkit.base.errors import UserError, nearest
from ditkit.base.files import expanded
from ditkit.base.registry import members
from ditkit.data.layout import some
from ditkit.data.spec import word_of


class Source(Protocol):
    """A numbered list of pictures that are opened one at a time.

    spec: what the user called it by, for messages.
    words: the words that call an embedded source; empty when it is called by a path.
    expects: what it is, for messages ("a folder of images").
    classes: (K,) class names, the index is the label; empty for a set without classes.
    labels: (N,) int64, 0..K-1; None for a set without classes.
    captions: (N,) texts, read when they are asked for, "" for a picture without one; None for a set without captions.
    extras: by name ("mask", "edges"), what gives the map that belongs to picture i, of the picture's size.
    """

    words: ClassVar[tuple[str, ...]]
    expects: ClassVar[str]
    spec: str
    classes: tuple[str, ...]
    labels: np.ndarray | None
    captions: Sequence[str] | None
    extras: Mapping[str, Callable[[int], Image.Image]]

    def __init__(self, spec: str) -> None: ...

    @classmethod
    def recognise(cls, spec: str) -> bool:
        """Whether ``spec`` names a source of this kind."""
        ...

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """The name of picture i inside the source, for messages."""
        ...

    def open(self, i: int) -> Image.Image:
        """Picture i, perhaps not decoded yet; safe in threads. Raises anything when it cannot be read."""
        ...

    def fingerprint(self) -> str:
        """A hexadecimal digest that changes when the content does; cheap, so from names, sizes and checksums."""
        ...


def _is_source(value: Any) -> bool:
    return isinstance(value, type) and value is not Source and hasattr(value, "recognise")


def open_source(spec: str | Path) -> Source:
    """The source that ``spec`` names: an embedded set ("digits", "shapes:size=64"), a folder, an archive, a table.

    An embedded set's word wins over a folder of that name ("./digits" is the folder); else a spec is of one kind only.
    Raises UserError when nothing recognises ``spec``, naming the nearest that there is, and whatever the source raises.
    """
    spec = str(spec)
    kind = recognised(spec)
    if kind is None:
        raise _unrecognised(spec, _kinds())
    return kind(spec)


def recognised(spec: str) -> type[Source] | None:
    """The kind of source that ``spec`` names; None where it names none."""
    kinds = [kind for kind in _kinds() if kind.recognise(spec)]
    return min(kinds, key=lambda kind: word_of(spec) not in kind.words, default=None)


def located(spec: str) -> str:
    """The same source as it is called from any folder: by an absolute path; words and names as they are."""
    kind = recognised(spec)
    by_word = kind is not None and word_of(spec) in kind.words
    return spec if by_word or (kind is None and not expanded(spec).exists()) else os.path.abspath(expanded(spec))


def caption_notes(source: Source) -> list[str]:
    """A line for the log where some pictures have no caption, as far as is known without reading every one."""
    missing = getattr(source.captions, "missing", ())
    if not len(missing):
        return []
    named = some([source.name(int(i)) for i in missing[:4]])
    return [f"{len(missing):,} of {len(source):,} images have no caption, theirs is empty: {named}"]


def _kinds() -> list[type[Source]]:
    return list(members("ditkit.data", _is_source).values())


def _unrecognised(spec: str, kinds: list[type[Source]]) -> UserError:
    expected = ", ".join(sorted(kind.expects for kind in kinds))
    if spec and expanded(spec).exists():
        return UserError(f"data {spec!r} cannot be read as images: expected one of: {expected}; check the path")
    close = nearest(word_of(spec), [word for kind in kinds for word in kind.words]) or _sibling(Path(spec))
    hint = f"did you mean {close!r}?" if close else "check the path"
    where = "" if os.path.isabs(expanded(spec)) else f" in {os.getcwd()}"
    return UserError(f"data {spec!r} does not exist{where}: expected one of: {expected}; {hint}")


def _sibling(path: Path) -> str | None:
    """The path beside ``path`` whose name is most like its."""
    with contextlib.suppress(OSError):
        close = nearest(path.name, [sibling.name for sibling in expanded(path).parent.iterdir()])
        return close and str(path.parent / close)
    return None
