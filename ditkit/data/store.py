"""What stands in a latent store: a manifest that describes it, shards of encoded images, the autoencoder.

    manifest.json                what it is: the plan, statistics, and size and SHA-256 of each file
    shard-00000.safetensors      mean, std (n, 2, c, h, w) of q(z | x) before normalisation, of the image as it is and
                                 mirrored; index (n,) int64, its place in the source; label (n,) int64, and
                                 caption.bytes (m,) uint8 UTF-8 with caption.end (n,) int64, where the source has them;
                                 text (n, ...), what a text encoder made of the captions, where one was given;
                                 skipped.index, skipped.label (k,) int64, of labelled images that did not decode
    autoencoder/                 what it was encoded with, as diffusers publishes one: nothing else is needed to decode
    progress/                    only until it is whole: plan.json, and a record of each finished shard

Every file is written beside and renamed. A shard is finished when its record is there; the manifest comes last.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import Tensor

import ditkit
from ditkit.base.errors import UserError
from ditkit.base.files import atomic_file, expanded, remove_folder, sha256, write_json
from ditkit.base.tensors import save_tensors
from ditkit.data.crops import Crop, find

FORMAT = "ditkit-latents-1"
MANIFEST, PROGRESS, AUTOENCODER = "manifest.json", "progress", "autoencoder"
PLAN = f"{PROGRESS}/plan.json"

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""How latents can be kept."""

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Count = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, config=_STRICT)
class Encoder:
    """The autoencoder: its identity (see ``Autoencoder``), its published normalisation (z - shift) scale, where it was
    and the precision of its weights; the side in latents of the tiles that it took large images in (None: whole).
    """

    identity: str
    scale: Annotated[float, Field(gt=0)]
    shift: float
    spec: str
    precision: str
    tile: Count | None = None


@dataclass(frozen=True, config=_STRICT)
class Origin:
    """The images' source: what it was called, its fingerprint, how many images it listed."""

    spec: str
    fingerprint: str
    images: Count


@dataclass(frozen=True, config=_STRICT)
class Preprocessing:
    """How pixels were made: the size (H, W) that images were brought to, the way, channels, range, and the crop by its
    name and options (see ``ditkit.data.crops``).
    """

    size: tuple[Count, Count]
    channels: Count
    resize: str = "shrunk to cover (ADM), then cropped"
    range: tuple[float, float] = (-1.0, 1.0)
    crop: str = "centre"
    crop_options: dict[str, float] = Field(default_factory=dict)

    def made(self) -> Crop:
        """The crop."""
        return find(self.crop)(**self.crop_options)


@dataclass(frozen=True, config=_STRICT)
class Text:
    """The text encoder: its identity, and the shape of what it makes of a caption."""

    identity: str
    shape: tuple[Count, ...]


@dataclass(frozen=True, config=_STRICT)
class Plan:
    """What a store is made of. A store goes on being encoded only where its plan is the same.

    classes: names; empty without. labels, captions: whether there are any. shape: (c, h, w) of the latents.
    rows: images of the source per shard (those that do not decode are left out). text: of the captions' embeddings;
    None without.
    """

    format: Literal["ditkit-latents-1"]
    autoencoder: Encoder
    source: Origin
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    labels: bool
    captions: bool
    shape: tuple[Count, Count, Count]
    dtype: Literal["float32", "bfloat16", "float16"]
    rows: Count
    text: Text | None = None

    @property
    def shards(self) -> int:
        """How many shards there will be."""
        return -(-self.source.images // self.rows)

    def indices(self, number: int) -> range:
        """The images of the source that a shard takes."""
        return range(number * self.rows, min((number + 1) * self.rows, self.source.images))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images."""
        return (self.preprocessing.channels, *self.preprocessing.size)


@dataclass(frozen=True, config=_STRICT)
class File:
    """A file's size in bytes and SHA-256."""

    bytes: int
    sha256: str


@dataclass(frozen=True, config=_STRICT)
class Record:
    """A finished shard: its file, its rows, and for each channel the sums of z and z^2 over q(z | x), both flips and
    all places; the images that did not decode, as (name, reason).
    """

    file: File
    rows: int
    sums: tuple[float, ...]
    squares: tuple[float, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True, config=_STRICT)
class Statistics:
    """Mean and standard deviation of each channel of the latents, drawn from q(z | x), before normalisation."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, config=_STRICT)
class Manifest:
    """A whole store. rows: of each shard. files: by their path in the store. ditkit: the version that finished it."""

    plan: Plan
    ditkit: str
    statistics: Statistics
    skipped: tuple[tuple[str, str], ...]
    rows: tuple[int, ...]
    files: dict[str, File]


_MANIFEST, _PLAN, _RECORD = TypeAdapter(Manifest), TypeAdapter(Plan), TypeAdapter(Record)


def shard_name(number: int) -> str:
    """The name of a shard's file."""
    return f"shard-{number:05d}.safetensors"


def is_store(spec: str | Path) -> bool:
    """Whether a folder is a latent store, whole or begun."""
    if not str(spec):
        return False
    folder = expanded(spec)
    begun = (folder / PLAN).is_file() or any(folder.glob("shard-?????.safetensors"))
    return begun or _says_so(folder / MANIFEST)


def _says_so(path: Path) -> bool:
    try:
        return '"ditkit-latents-' in path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def _read(adapter: TypeAdapter[Any], path: Path, remedy: str) -> Any:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        form = said.get("plan", said).get("format", FORMAT)
        if form != FORMAT:
            raise UserError(f"latent store {path.parent} has format {form!r}; this version reads {FORMAT!r}: {remedy}")
        return adapter.validate_python(said, strict=False)
    except ValidationError as error:
        first = error.errors()[0]
        reason = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    except UserError:
        raise
    except (OSError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
    raise UserError(f"latent store file {path} is damaged ({reason}): {remedy}") from None


def read_plan(store: Path) -> Plan | None:
    """The plan of a store that is whole or begun; None where there is none. UserError where it is damaged."""
    if (store / MANIFEST).is_file():
        return read_manifest(store).plan
    path = store / PLAN
    return _read(_PLAN, path, "delete the folder and encode anew") if path.is_file() else None


def read_manifest(store: Path) -> Manifest:
    """A whole store's manifest. UserError where it is damaged, of another version, or the store is not whole."""
    path = store / MANIFEST
    if path.is_file():
        return _read(_MANIFEST, path, "copy the store anew, or encode it again into another folder")
    if (store / PLAN).is_file():
        plan = _read(_PLAN, store / PLAN, "delete the folder and encode anew")
        done = sum(read_record(store, number) is not None for number in range(plan.shards))
        raise UserError(
            f"latent store {store} is not whole ({done} of {plan.shards} shards): "
            f"go on with the ditkit encode that began it, --out {store}"
        )
    raise UserError(f"{store} is not a latent store: expected a folder with a {MANIFEST}, as ditkit encode makes it")


def begin(store: Path, plan: Plan) -> None:
    """Writes down what the store will be."""
    write_json(store / PLAN, _PLAN.dump_python(plan, mode="json"))


def differences(old: Plan, new: Plan) -> list[tuple[str, object, object]]:
    """Where two plans differ: the key, and either's value."""
    return list(_differences("", _PLAN.dump_python(old, mode="json"), _PLAN.dump_python(new, mode="json")))


def _differences(prefix: str, old: dict[str, Any], new: dict[str, Any]) -> Any:
    for key in {**old, **new}:  # a crop has options that another has not
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            yield from _differences(f"{prefix}{key}.", before, now)
        elif before != now:
            yield f"{prefix}{key}", before, now


def _record_path(store: Path, number: int) -> Path:
    return store / PROGRESS / f"shard-{number:05d}.json"


def read_record(store: Path, number: int) -> Record | None:
    """The record of a finished shard; None where it is not finished."""
    path = _record_path(store, number)
    return _read(_RECORD, path, "delete this file, its shard is encoded again") if path.is_file() else None


def is_as_recorded(store: Path, number: int, record: Record) -> bool:
    """Whether a finished shard is what its record says, to its content."""
    path = store / shard_name(number)
    return path.is_file() and file_of(path) == record.file


def write_shard(store: Path, number: int, tensors: dict[str, Tensor], skipped: Sequence[tuple[str, str]]) -> Record:
    """Writes a shard (see the module) and then its record."""
    path = store / shard_name(number)
    with atomic_file(path) as temporary:
        save_tensors(tensors, temporary)
    mean, std = (tensors[name].double() for name in ("mean", "std"))  # n 2 c h w
    record = Record(
        file=file_of(path),
        rows=len(mean),
        sums=tuple(mean.sum((0, 1, 3, 4)).tolist()),
        squares=tuple((mean.square() + std.square()).sum((0, 1, 3, 4)).tolist()),
        skipped=tuple(skipped),
    )
    write_json(_record_path(store, number), _RECORD.dump_python(record, mode="json"))
    return record


def file_of(path: Path) -> File:
    """What a manifest says of a file."""
    return File(path.stat().st_size, sha256(path))


def finish(store: Path, plan: Plan, records: Sequence[Record]) -> Manifest:
    """Makes the store whole: writes the manifest, removes the records."""
    files = {shard_name(number): record.file for number, record in enumerate(records)}
    files |= {f"{AUTOENCODER}/{path.name}": file_of(path) for path in sorted((store / AUTOENCODER).iterdir())}
    manifest = Manifest(
        plan=plan,
        ditkit=ditkit.__version__,
        statistics=_statistics(plan, records),
        skipped=tuple(bad for record in records for bad in record.skipped),
        rows=tuple(record.rows for record in records),
        files=files,
    )
    write_json(store / MANIFEST, _MANIFEST.dump_python(manifest, mode="json"))
    clear_progress(store)
    return manifest


def clear_progress(store: Path) -> None:
    """Removes the records of a store that is whole."""
    if (store / PROGRESS).is_dir():
        remove_folder(store / PROGRESS)


def _statistics(plan: Plan, records: Sequence[Record]) -> Statistics:
    places = 2 * plan.shape[1] * plan.shape[2] * sum(record.rows for record in records)
    sums = torch.tensor([record.sums for record in records], dtype=torch.float64).sum(0)  # c
    squares = torch.tensor([record.squares for record in records], dtype=torch.float64).sum(0)  # c
    mean = sums / places
    return Statistics(tuple(mean.tolist()), tuple((squares / places - mean.square()).clamp_min(0).sqrt().tolist()))


def check_sizes(store: Path, manifest: Manifest) -> None:
    """Raises UserError for a file that is missing or has another size than the manifest says. Reads no content."""
    plan, statistics = manifest.plan, manifest.statistics
    shards = {shard_name(number) for number in range(len(manifest.rows))}
    for found, expected, what in (
        (len(manifest.rows), plan.shards, "entries in rows"),
        (len(statistics.mean), plan.shape[0], "means in statistics"),
        (len(statistics.std), plan.shape[0], "deviations in statistics"),
        (len(shards & manifest.files.keys()), plan.shards, "shards in files"),
    ):
        if found != expected:
            raise UserError(
                f"latent store file {store / MANIFEST} is damaged ({found} {what}, expected {expected}): {_REMEDY}"
            )
    for name, file in manifest.files.items():
        path = store / name
        size = path.stat().st_size if path.is_file() else None
        if size != file.bytes:
            found = "is missing" if size is None else f"has {size:,} bytes, expected {file.bytes:,}"
            raise UserError(f"latent store file {path} {found}: {_REMEDY}")


def check_shard(path: Path, plan: Plan, rows: int, tensors: dict[str, Tensor]) -> None:
    """Raises UserError where a shard's tensors are not those of the plan, or of other rows than the manifest says."""
    dtype = DTYPES[plan.dtype]
    moments, column = ((rows, 2, *plan.shape), dtype), ((rows,), torch.int64)
    wanted: dict[str, tuple[tuple[int, ...], torch.dtype]] = {"mean": moments, "std": moments, "index": column}
    if plan.labels:
        wanted["label"] = column
    if plan.captions:
        wanted["caption.end"] = column
    if plan.text:
        wanted["text"] = ((rows, *plan.text.shape), dtype)
    for name, (shape, kept) in wanted.items():
        found = (tuple(tensors[name].shape), tensors[name].dtype) if name in tensors else None
        if found != (shape, kept):
            said = "missing" if found is None else f"{found[0]} in {found[1]}"
            raise UserError(
                f"latent store file {path} is damaged ({name} is {said}, expected {shape} in {kept}): {_REMEDY}"
            )


def check_sum(store: Path, name: str, file: File) -> None:
    """Raises UserError where a file's content is not what the manifest says."""
    found = sha256(store / name)
    if found != file.sha256:
        raise UserError(
            f"latent store file {store / name} was altered (SHA-256 {found[:16]}..., expected {file.sha256[:16]}...): "
            f"{_REMEDY}"
        )


_REMEDY = "copy it anew, or encode the store again into another folder"


def packed(captions: Sequence[str]) -> dict[str, Tensor]:
    """Captions as tensors: their UTF-8 bytes one after another, and where each ends."""
    encoded = [caption.encode("utf-8", "surrogateescape") for caption in captions]
    ends = torch.tensor([len(text) for text in encoded], dtype=torch.int64).cumsum(0)
    joined = bytearray(b"".join(encoded))
    content = torch.frombuffer(joined, dtype=torch.uint8) if joined else torch.empty(0, dtype=torch.uint8)
    return {"caption.bytes": content, "caption.end": ends}


def unpacked(content: Tensor, ends: Tensor, row: int) -> str:
    """The caption of a row of a shard."""
    start = int(ends[row - 1]) if row else 0
    return bytes(content[start : int(ends[row])].numpy()).decode("utf-8", "surrogateescape")
