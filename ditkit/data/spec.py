"""How a source is called: a path, or a word with options; and what kind of data set a folder is."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ditkit.base.errors import UserError, unknown
from ditkit.base.files import expanded
from ditkit.data.layout import is_hidden, is_image

TABLES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
"""The names by which a table makes the folder that it lies in a data set."""

SHARDS = (".tar", ".tar.gz", ".tgz")
"""The endings of WebDataset's shards."""


def word_of(spec: str) -> str:
    """The word before the options: "shapes" of "shapes:size=64"."""
    return spec.split(":", 1)[0]


def options_of(spec: str, readers: Mapping[str, Callable[[str], Any]]) -> dict[str, Any]:
    """The options after the first colon, "size=64,seed=1", each read by its reader (which raises ValueError).

    Raises UserError for an option that has no reader, comes twice or does not read.
    """
    word, _, text = spec.partition(":")
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if name not in readers:
            raise unknown(f"option of data {word}", name, readers)
        if name in found:
            raise UserError(f"data {spec!r} gives {name} twice: expected it once; leave one out")
        try:
            found[name] = readers[name](value if equals else "")
        except ValueError as error:
            raise UserError(f"data {spec!r}: {name}={value} cannot be: expected {error}; change it") from error
    return found


def kind_of_folder(spec: str) -> str | None:
    """What a folder holds: a "table", a data set "saved" by Hugging Face datasets, "shards", or "images".

    None when ``spec`` is no folder. Looks at the names of its files only, and stops at the first loose image.
    """
    path = expanded(spec)
    if not spec or not path.is_dir():
        return None
    if any((path / name).is_file() for name in TABLES):
        return "table"
    if (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
        return "saved"
    return _by_endings(path)


def _by_endings(path: Path) -> str:
    shards = saved = folders = False
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if is_image(entry.name):
                    return "images"
                shards = shards or entry.name.lower().endswith(SHARDS)
                saved = saved or entry.name.endswith((".parquet", ".arrow"))
                folders = folders or (entry.is_dir() and entry.name != "data")
            saved = saved or any((path / "data").glob("*.parquet"))
    except OSError:
        return "images"  # which says what is wrong with it
    return "images" if folders else "shards" if shards else "saved" if saved else "images"
