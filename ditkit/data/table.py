"""A table of images: metadata.jsonl, .csv, .tsv or .parquet with a column of files, and of labels and captions."""

from __future__ import annotations

import collections
import csv
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from ditkit.base.errors import UserError
from ditkit.base.files import expanded
from ditkit.data.folder import open_file, size_and_time
from ditkit.data.labels import CAPTION, LABEL, Labels, read_json
from ditkit.data.layout import shown, some
from ditkit.data.listed import Plain, digest
from ditkit.data.packed import Computed, Packed, Packer
from ditkit.data.spec import TABLES, kind_of_folder

FILE = ("file_name", "filename", "file", "path", "file_path", "filepath", "image", "image_path", "img", "name")
"""What the column of files is called, in any case."""

_MAP_ENDINGS = ("_file_name", "_file", "_path", "_image")
_SHOWN = 10

Row = Mapping[str, Any]


class MissingFilesError(UserError):
    """A table names files that do not exist. files: every one of them."""

    def __init__(self, spec: str, files: Sequence[str], count: int) -> None:
        self.files = tuple(files)
        super().__init__(
            f"table {spec!r} names {len(files):,} of {count:,} files that do not exist ({some(files, _SHOWN)}): "
            "expected paths from the table's folder; add the files or remove their rows"
        )


class Table(Plain):
    """The images that a table names, in its order, as paths from its folder.

    Columns, in any case: file_name, file, path or image; label, class or category; caption, text or prompt; and maps
    such as mask_file_name, which are the picture's ``extras`` by that name ("mask").

    Raises UserError for a table that is empty, broken, not UTF-8 or has no column of files, when files do not exist,
    when only some rows have a label or a map, and when one row contradicts or repeats another. A row without a caption
    has none, whether its column is empty or, in JSON, not there.
    """

    words: ClassVar[tuple[str, ...]] = ()
    expects: ClassVar[str] = "a table (.jsonl, .csv, .parquet) of images, or a folder with metadata.jsonl"

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self._where = f"table {spec!r}"
        self._path = _table_of(expanded(spec))
        self._root = self._path.parent
        rows = tqdm(_rows(self._path, spec), desc=f"reading {spec}", unit=" rows", delay=2, leave=False)
        names, captions, maps, labels = Packer(), Packer(), dict[str, Packer](), Labels()
        columns = _Columns({}, self._where)
        captioned = False
        for number, row in enumerate(rows):
            columns = columns.of(row)  # a JSON row may have columns that the first lacks
            captioned = captioned or columns.caption is not None
            names.add(columns.file_of(row, number))
            labels.add(_value(row, columns.label))
            captions.add(_text(_value(row, columns.caption)))
            for name, column in columns.maps.items():
                maps.setdefault(name, Packer()).extend_to(number).add(_text(row.get(column)))
        if not len(names):
            raise UserError(f"{self._where} is empty: expected a row for each image; check the path")
        self.names = names.done()
        self.classes, self.labels = labels.done(self.name, self._where)
        self._captions = captions.done()
        self.captions: Sequence[str] | None = self._with_missing() if captioned else None
        self._maps = {name: packer.extend_to(len(self)).done() for name, packer in maps.items()}
        self.extras: Mapping[str, Callable[[int], Image.Image]] = {
            name: lambda i, files=files: open_file(self._root / files[i]) for name, files in self._maps.items()
        }
        self._check_maps()
        self._check_repeated()
        self._check_exist()

    @classmethod
    def recognise(cls, spec: str) -> bool:
        """Whether ``spec`` is a table, or a folder that holds one called metadata."""
        return kind_of_folder(spec) == "table" or (
            expanded(spec).suffix.lower() in _READERS and expanded(spec).is_file()
        )

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The file of picture i, as the table has it."""
        return shown(self.names[i])

    def open(self, i: int) -> Image.Image:
        """Picture i, not decoded yet. Raises OSError when the file cannot be read."""
        return open_file(self._root / self.names[i])

    def fingerprint(self) -> str:
        """Digest of the rows, and of the sizes and times of change of the files."""
        labels = [] if self.labels is None else [self.classes, self.labels.tobytes()]
        columns = [self.names, self._captions, *self._maps.values()]
        texts = ((bytes(column.text), column.ends.tobytes()) for column in columns)
        files = (size_and_time(self._root / name) for name in self.names)
        return digest(row for part in ([tuple(labels)], texts, files) for row in part)

    def _with_missing(self) -> Computed:
        missing = np.flatnonzero(np.diff(self._captions.ends, prepend=0) == 0)
        return Computed(len(self), self._captions.__getitem__, missing)

    def _check_maps(self) -> None:
        for name, files in self._maps.items():
            without = [self.name(i) for i, file in enumerate(files) if not file]
            if without:
                raise UserError(
                    f"{self._where} has no {name} for {len(without):,} of {len(self):,} images ({some(without)}): "
                    "expected one for each or none at all; add them, or remove that column"
                )

    def _check_repeated(self) -> None:
        """A file may come again with another caption, but neither with the same nor with another label."""
        hashes = np.fromiter(map(hash, self.names), np.int64, len(self))
        order = np.argsort(hashes, kind="stable")
        for k in np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]]).tolist():
            one, other = int(order[k]), int(order[k + 1])
            if self.labels is not None and self.labels[one] != self.labels[other]:
                what = f"as {self.classes[self.labels[one]]!r} and as {self.classes[self.labels[other]]!r}"
            elif self._captions[one] == self._captions[other]:
                what = "twice"
            else:
                continue
            raise UserError(
                f"{self._where} names {self.name(one)!r} {what} (rows {one + 1} and {other + 1}): expected each file "
                "once, or once for each caption; remove one of the rows"
            )

    def _check_exist(self) -> None:
        columns: list[Packed] = [self.names, *self._maps.values()]
        files = (file for column in columns for file in column)
        total = len(self) * len(columns)
        bar = tqdm(files, total=total, desc="looking for files", unit=" files", delay=2, leave=False)
        missing = [shown(file) for file in bar if not os.path.exists(self._root / file)]
        if missing:
            raise MissingFilesError(self.spec, missing, total)


class _Columns:
    """Which column of a row is which; None for one that it does not have."""

    def __init__(self, row: Row, where: str) -> None:
        self._where = where
        self._names = tuple(row)
        self.file = _called(row, FILE)
        self.label = _called(row, LABEL)
        self.caption = _called(row, CAPTION)
        self.maps = {
            column.removesuffix(ending): column
            for column in row
            for ending in _MAP_ENDINGS
            if column.lower().endswith(ending) and column != self.file and column.removesuffix(ending)
        }

    def of(self, row: Row) -> _Columns:
        """These columns, where the row has the same ones, else its own."""
        return self if tuple(row) == self._names else _Columns(row, self._where)

    def file_of(self, row: Row, number: int) -> str:
        """The file that row ``number`` (from 0) names. Raises UserError when there is none."""
        if self.file is None and not number:
            raise UserError(
                f"{self._where} has the columns {', '.join(map(repr, row)) or 'none'}: expected one of files, called "
                f"one of {', '.join(FILE)}; rename it"
            )
        value = _value(row, self.file)
        if not isinstance(value, str) or not value.strip():
            what = "holds the picture itself" if isinstance(value, (dict, bytes)) else f"has no file ({value!r})"
            raise UserError(
                f"{self._where}: row {number + 1} {what}: expected the name of a file; add it, "
                "or put a parquet file of pictures into a folder and give that"
            )
        return value.strip()


def _called(row: Row, names: Sequence[str]) -> str | None:
    """The row's column that has the first of these names; None when none has one."""
    lower = {column.strip().lower(): column for column in row}
    return next((lower[name] for name in names if name in lower), None)


def _value(row: Row, column: str | None) -> object:
    # A column may be called "", as that of pandas' index is.
    return None if column is None else row.get(column)


def _text(value: object) -> str:
    return "" if value is None else str(value).strip()


def _table_of(path: Path) -> Path:
    return next(path / name for name in TABLES if (path / name).is_file()) if path.is_dir() else path


def _rows(path: Path, spec: str) -> Iterator[Row]:
    """The rows of a table. Raises UserError for one that cannot be read, naming the line."""
    try:
        yield from _READERS[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise UserError(
            f"table {spec!r} is not UTF-8 (byte 0x{error.object[error.start]:02x}): save it as UTF-8"
        ) from error
    except (ValueError, OSError, csv.Error) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"table {spec!r} cannot be read ({error}): expected {_EXPECTED}; mend it") from error


_EXPECTED = "a JSON object a line, or comma-separated values under a line of column names"


def _jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = read_json(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is no object but {line.strip()[:40]!r}")
            yield row


def _csv(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as lines:
        table = csv.DictReader(lines, strict=True, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        twice = [name for name, count in collections.Counter(table.fieldnames or ()).items() if count > 1]
        if twice:
            raise ValueError(f"the first line names the column {twice[0]!r} twice")
        for row in table:
            if None in row or None in row.values():
                found = len(row) - 1 + len(row[None]) if None in row else sum(v is not None for v in row.values())
                raise ValueError(
                    f"line {table.line_num} has {found} values, the first line {len(table.fieldnames or ())}"
                )
            yield row


def _parquet(path: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowInvalid, parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"table {str(path)!r} needs pyarrow: install it with pip install 'ditkit[hfdata]'") from error
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches():
                yield from batch.to_pylist()
    except ArrowInvalid as error:
        raise ValueError(" ".join(str(error).split())) from error


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
