"""Data sets of Hugging Face ``datasets`` (an extra): saved on disk, a folder of parquet files, or by name."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from ditkit.base.errors import UserError, unknown
from ditkit.base.files import expanded
from ditkit.data.labels import CAPTION, LABEL, Labels
from ditkit.data.layout import natural_key
from ditkit.data.listed import Plain, digest
from ditkit.data.packed import Computed
from ditkit.data.spec import kind_of_folder, options_of, word_of

_IMAGE = ("image", "img", "jpg", "png", "picture", "pixel_values")
_SPLITS = ("train", "training")


class HuggingFace(Plain):
    """A data set of Hugging Face: a folder that ``save_to_disk`` wrote, a folder of parquet files, or ``hf:NAME``.

    By name with options: ``hf:NAME:split=test,config=C,image=COLUMN,label=COLUMN,caption=COLUMN``. Left out, the split
    is "train" or the only one, and the columns are those of fitting type and name; further image columns are
    ``extras``.

    Raises UserError when the extra is not installed, the data set cannot be read, or a column is not there.
    """

    words: ClassVar[tuple[str, ...]] = ("hf",)
    expects: ClassVar[str] = "a Hugging Face data set (hf:NAME, or its folder)"

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self._options = _options(spec)
        rows = _load(spec, self._options)
        features: Mapping[str, Any] = rows.features
        images = [column for column, feature in features.items() if type(feature).__name__ == "Image"]
        image = self._column("image", _IMAGE, features, images)
        if image not in images:
            raise self._unfit("image", features)
        self._rows = _undecoded(rows, images)
        self._image = image
        label, caption = self._named("label", LABEL, features), self._named("caption", CAPTION, features)
        self.classes, self.labels = self._classes(label, features) if label else ((), None)
        if caption:
            self.captions: Sequence[str] | None = Computed(len(self), lambda i: str(self._rows[i][caption] or ""))
        self.extras: Mapping[str, Callable[[int], Image.Image]] = {
            name: lambda i, name=name: self._open(i, name) for name in images if name != image
        }

    @classmethod
    def recognise(cls, spec: str) -> bool:
        """Whether ``spec`` begins with "hf:", or is a folder that ``datasets`` wrote."""
        return (word_of(spec) in cls.words and ":" in spec) or kind_of_folder(spec) == "saved"

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, i: int) -> str:
        """The number of the row, and the file that it came from where that is known."""
        path = self._rows[i][self._image].get("path")
        return f"row {i}" + (f" ({path})" if path else "")

    def open(self, i: int) -> Image.Image:
        """Picture i, not decoded yet. Raises OSError when it cannot be read."""
        return self._open(i, self._image)

    def fingerprint(self) -> str:
        """Digest of the data set's own fingerprint and its columns."""
        return digest([("hf", self._rows._fingerprint, len(self), self._image, self.classes)])

    def _open(self, i: int, column: str) -> Image.Image:
        stored = self._rows[i][column]
        if stored is None:
            raise OSError(f"it has no {column}")
        return Image.open(io.BytesIO(stored["bytes"]) if stored.get("bytes") else stored["path"])

    def _column(self, option: str, names: Iterable[str], features: Mapping[str, Any], fitting: list[str]) -> str:
        called = self._named(option, names, {name: features[name] for name in fitting}, features)
        if not called and not fitting:
            raise self._unfit(option, features)
        return called or fitting[0]

    def _named(
        self, option: str, names: Iterable[str], among: Mapping[str, Any], every: Mapping[str, Any] | None = None
    ) -> str:
        """The column that the user named for this, or else the first one that is called so; "" for none."""
        if option in self._options:
            column = self._options[option]
            if column not in (every or among):
                raise unknown(f"column of data {self.spec}", column, every or among)
            return column
        lower = {column.lower(): column for column in among}
        return next((lower[name] for name in names if name in lower), "")

    def _unfit(self, option: str, features: Mapping[str, Any]) -> UserError:
        columns = ", ".join(f"{name} ({type(feature).__name__})" for name, feature in features.items())
        return UserError(f"data {self.spec!r} has the columns {columns}: expected one of pictures (Image) as {option}")

    def _classes(self, column: str, features: Mapping[str, Any]) -> tuple[tuple[str, ...], np.ndarray | None]:
        values = self._rows[column]
        names = getattr(features[column], "names", None)
        if names and not any(value is None or value < 0 for value in values):
            return tuple(names), np.asarray(values, dtype=np.int64)
        labels = Labels()
        for value in tqdm(values, desc="reading labels", unit=" labels", delay=2, leave=False):
            labels.add(None if names and (value is None or value < 0) else value)
        return labels.done(lambda i: f"row {i}", f"data {self.spec!r}")


def _options(spec: str) -> dict[str, str]:
    """The options of "hf:NAME:options"; none for a folder."""
    if word_of(spec) not in HuggingFace.words or ":" not in spec:
        return {}
    name, _, options = spec.partition(":")[2].partition(":")
    if not name:
        raise UserError(f"data {spec!r} has no name: expected for example hf:ylecun/mnist")
    readers = {"split": str, "config": str, "image": str, "label": str, "caption": str}
    return {"name": name, **options_of(f"hf:{options}", readers)}


def _load(spec: str, options: Mapping[str, str]) -> Any:
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"data {spec!r} needs datasets: install it with pip install 'ditkit[hfdata]'") from error
    try:
        if "name" in options:
            found = datasets.load_dataset(options["name"], options.get("config"))
        elif _is_saved(expanded(spec)):
            found = datasets.load_from_disk(str(expanded(spec)))
        else:
            files = [str(path) for path in _tables(expanded(spec))]
            found = datasets.load_dataset(Path(files[0]).suffix[1:], data_files=files)
    except UserError:
        raise
    except Exception as error:  # of many kinds: the network's, the hub's, arrow's
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"data {spec!r} cannot be read ({reason}): expected a data set of Hugging Face; check the name or path"
        ) from error
    return _split(found, spec, options.get("split"))


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_info.json", "dataset_dict.json"))


def _tables(folder: Path) -> list[Path]:
    for pattern in ("*.parquet", "data/*.parquet", "*.arrow"):
        found = sorted(folder.glob(pattern), key=lambda path: natural_key(path.name))
        trained = [path for path in found if path.name.startswith(_SPLITS)]
        if found:
            return trained or found
    return []


def _split(found: Any, spec: str, wanted: str | None) -> Any:
    if not isinstance(found, dict):
        return found
    name = wanted or next((split for split in _SPLITS if split in found), None)
    if name is None and len(found) == 1:
        name = next(iter(found))
    if name not in found:
        raise unknown(f"split of data {spec}", name or "(none given)", found)
    return found[name]


def _undecoded(rows: Any, columns: Iterable[str]) -> Any:
    """The rows with pictures as they are stored, so that a broken one is found where it is opened."""
    import datasets  # pyright: ignore[reportMissingImports]

    for column in columns:
        rows = rows.cast_column(column, datasets.Image(decode=False))
    return rows
