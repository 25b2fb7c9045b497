"""WebDataset: tar archives in which the files of a sample share a key: 0001.jpg, 0001.cls, 0001.txt, 0001.json."""

from __future__ import annotations

import dataclasses
import io
import math
import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from tqdm import tqdm

from ditkit.base.errors import UserError
from ditkit.base.files import expanded
from ditkit.data.archive import plain
from ditkit.data.folder import size_and_time
from ditkit.data.labels import CAPTION, LABEL, Labels, read_json
from ditkit.data.layout import EXTENSIONS, is_hidden, natural_key, shown, some
from ditkit.data.listed import Plain, digest
from ditkit.data.packed import Computed, Packer, integers
from ditkit.data.spec import SHARDS, kind_of_folder
from ditkit.data.tarball import Members, is_shard, is_tar, is_tar_name, keyed

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_NONE = -1
_LOOKED_AT = 64
_MOST = 10**6


@dataclasses.dataclass
class _Column:
    """The member of its shard that holds one kind of file of each sample; -1 where there is none."""

    members: array[int] = dataclasses.field(default_factory=lambda: array("q"))

    def put(self, sample: int, member: int) -> None:
        self.members.extend([_NONE] * (sample - len(self.members)))
        self.members.append(member)

    def done(self, count: int) -> np.ndarray:
        self.members.extend([_NONE] * (count - len(self.members)))
        return integers(self.members)


class Shards(Plain):
    """A folder of WebDataset shards, a pattern of them (images-{000..003}.tar), or one of them (see ``is_shard``).

    A sample's key is its path up to the first dot of the file's name. ``.cls`` or "label" in ``.json`` is its class,
    ``.txt`` or "caption" in ``.json`` its caption; a further image (``.mask.png``) is a map by that name. The order is
    that of the shards' names, then of each shard.

    Raises UserError for shards that are missing, broken or hold no images, for samples with two images, and when only
    some samples have a class.
    """

    words: ClassVar[tuple[str, ...]] = ()
    expects: ClassVar[str] = "a folder (or pattern x-{000..003}.tar) of WebDataset shards"

    def __init__(self, spec: str) -> None:
        self.spec = spec
        self._where = f"data {spec!r}"
        self._paths = _shards(spec)
        self._shards: list[Members] = []
        self._shard_of, self._names, self._columns = array("l"), Packer(), {"": _Column()}
        for path in tqdm(self._paths, desc=f"listing {spec}", unit=" shards", delay=2, leave=False):
            self._add(path)
        self.names = self._names.done()
        if not len(self.names):
            raise UserError(
                f"{self._where} holds no images: expected shards with members such as 0001.jpg and 0001.cls; "
                "check the path"
            )
        self._places = {ending: column.done(len(self)) for ending, column in self._columns.items()}
        self.classes, self.labels = self._classes()
        self.captions = self._captions()
        self.extras: Mapping[str, Callable[[int], Image.Image]] = {
            ending.rpartition(".")[0]: lambda i, ending=ending: self._image(i, ending)
            for ending in self._places
            if "." in ending and f".{ending.rpartition('.')[2]}" in EXTENSIONS
        }

    @classmethod
    def recognise(cls, spec: str) -> bool:
        """Whether ``spec`` is a folder of shards, a pattern of such, or a tar archive that is one."""
        path = expanded(spec)
        pattern = bool(_RANGE.search(spec)) and is_tar_name(spec) and not path.exists()
        return pattern or kind_of_folder(spec) == "shards" or (is_tar(path) and is_shard(path))

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The shard and the member of picture i."""
        return f"{self._paths[self._shard_of[i]].name}/{shown(self.names[i])}"

    def open(self, i: int) -> Image.Image:
        """Picture i, not decoded yet. Raises OSError when it cannot be read."""
        return self._image(i, "")

    def fingerprint(self) -> str:
        """Digest of the names, sizes and times of change of the shards."""
        return digest((path.name, *size_and_time(path)) for path in self._paths)

    def _add(self, path: Path) -> None:
        members = Members(path, f"shard {str(path)!r}")
        for key, files in _samples(members):
            images = [e for e in files if "." not in e and f".{e.lower()}" in EXTENSIONS]
            if not images:
                continue
            if len(images) > 1:
                raise UserError(
                    f"shard {str(path)!r} has {len(images)} images under the key {shown(key)!r} ({', '.join(images)}): "
                    "expected one; give the others a longer ending such as mask.png"
                )
            sample = len(self._shard_of)
            self._shard_of.append(len(self._shards))
            self._names.add(f"{key}.{images[0]}")
            self._columns[""].put(sample, files.pop(images[0]))
            for ending, member in files.items():
                self._columns.setdefault(ending, _Column()).put(sample, member)
        self._shards.append(members)

    def _content(self, i: int, ending: str) -> bytes:
        member = int(self._places[ending][i])
        if member == _NONE:
            raise OSError(f"it has no .{ending}")
        return self._shards[self._shard_of[i]].content(member)

    def _image(self, i: int, ending: str) -> Image.Image:
        return Image.open(io.BytesIO(self._content(i, ending)))

    def _record(self, i: int) -> Mapping[str, Any]:
        try:
            record = read_json(self._content(i, "json"))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self._where}: the .json of {self.name(i)} cannot be read ({error}); mend or remove it"
            ) from error
        return {str(k).lower(): v for k, v in record.items()} if isinstance(record, dict) else {}

    def _has(self, i: int, ending: str) -> bool:
        return ending in self._places and self._places[ending][i] != _NONE

    def _classes(self) -> tuple[tuple[str, ...], np.ndarray | None]:
        """From .cls, else from .json where some do say a label."""
        labels = Labels()
        if "cls" in self._places:
            read = lambda i: self._content(i, "cls").decode("utf-8", "surrogateescape") if self._has(i, "cls") else None  # noqa: E731
        elif key := self._said(LABEL):
            read = lambda i: self._record(i).get(key) if self._has(i, "json") else None  # noqa: E731
        else:
            return (), None
        for i in tqdm(range(len(self)), desc="reading labels", unit=" labels", delay=2, leave=False):
            labels.add(read(i))
        return labels.done(self.name, self._where)

    def _captions(self) -> Computed | None:
        if "txt" in self._places:
            missing = np.flatnonzero(self._places["txt"] == _NONE)
            return Computed(len(self), self._text, missing)
        if key := self._said(CAPTION):
            missing = np.flatnonzero(self._places["json"] == _NONE)
            return Computed(
                len(self), lambda i: str(self._record(i).get(key) or "") if self._has(i, "json") else "", missing
            )
        return None

    def _said(self, names: Sequence[str]) -> str | None:
        """The first of these names that a .json says, of samples that are spread over the shards."""
        if "json" not in self._places:
            return None
        having = np.flatnonzero(self._places["json"] != _NONE)
        spread = having[np.linspace(0, len(having) - 1, min(_LOOKED_AT, len(having)), dtype=np.int64)].tolist()
        said = set[str]().union(*(self._record(i) for i in spread))
        return next(filter(said.__contains__, names), None)

    def _text(self, i: int) -> str:
        return self._content(i, "txt").decode("utf-8-sig", "replace").strip() if self._has(i, "txt") else ""


def _samples(members: Members) -> Iterator[tuple[str, dict[str, int]]]:
    """The samples of a shard: the key, and the member for each ending. Raises UserError for a name that comes twice."""
    samples: dict[str, dict[str, int]] = {}
    for member, name in enumerate(plain(members.names())):
        if is_hidden(name) or name.endswith("/"):
            continue
        key, ending = keyed(name)
        files = samples.setdefault(key, {})
        if ending in files:
            raise UserError(f"{members.where} holds {shown(name)!r} twice: expected every member once; pack it again")
        files[ending] = member
    yield from samples.items()


def _shards(spec: str) -> list[Path]:
    path = expanded(spec)
    if path.is_dir():
        found = [p for p in path.iterdir() if p.name.lower().endswith(SHARDS) and not is_hidden(p.name)]
        return sorted(found, key=lambda p: natural_key(p.name))
    count = math.prod(int(last) - int(first) + 1 for first, last in _RANGE.findall(spec))
    if not 1 <= count <= _MOST:
        raise UserError(
            f"data {spec!r} names {max(count, 0):,} shards: expected a range from low to high, such as "
            f"x-{{000..003}}.tar, of at most {_MOST:,}; check it"
        )
    paths = [expanded(name) for name in _spelled(spec)]
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"data {spec!r} names {len(missing)} of {len(paths)} shards that do not exist ({some(missing, 10)}): "
            "expected every one; check the range"
        )
    return paths


def _spelled(pattern: str) -> Iterator[str]:
    """The names that a pattern such as x-{000..003}.tar stands for, zeros kept; several ranges multiply."""
    found = _RANGE.search(pattern)
    if not found:
        yield pattern
        return
    first, last = found.groups()
    for number in range(int(first), int(last) + 1):
        yield from _spelled(f"{pattern[: found.start()]}{number:0{len(first)}d}{pattern[found.end() :]}")
