"""Floor 5: pinned protocols: all that a published number hangs on, as data in protocols/NAME.yaml. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ditkit.app.recipe import Enough, Recipe
from ditkit.app.recipe_files import read_text
from ditkit.base.errors import UserError, unknown
from ditkit.evaluate.protocol import protocol_hash
from ditkit.train.settings import STRICT, Positive

LIKE = "like"
"""The key that names another protocol, which holds where this one says nothing."""
FOLDER = Path("protocols")
"""Where a protocol of one's own is looked for besides."""
Digest = Annotated[str, Field(pattern="^[0-9a-f]{8,64}$")]


@dataclass(frozen=True, config=STRICT)
class File:
    """A file that a protocol takes."""

    file: str
    """Its path below the folder of weights, ending in its published name."""
    url: str
    """Where it is published."""
    sha256: Digest | None = None
    """Its SHA-256, or the first digits of it; None: not published, what was found is written down."""
    variable: str | None = None
    """An environment variable that may name the file itself."""


@dataclass(frozen=True, config=STRICT)
class Weights(File):
    """The network's weights."""

    layout: str = "dit"
    """How they are named (ditkit/convert)."""
    convention: str | None = None
    """How time and sign of the output are meant (ditkit/convert), such as data_at_one; None: as here."""


@dataclass(frozen=True, config=STRICT)
class Value:
    """A published score, and how far from it a measured one may be."""

    value: float
    tolerance: Annotated[float, Field(gt=0)]


@dataclass(frozen=True, config=STRICT)
class Published:
    """What was published, and where."""

    paper: str
    where: str
    """The table and its row."""
    scores: dict[str, Value]
    """By their names in metrics.json."""


@dataclass(frozen=True, config=STRICT)
class Pinned:
    """Everything that is drawn and measured."""

    about: str
    """What it is, in one line."""
    weights: Weights
    image: tuple[Positive, Positive, Positive]
    """(C, H, W) of an image in pixels."""
    classes: Annotated[int, Field(ge=0)]
    """How many classes the model knows."""
    recipe: Recipe
    """Network, process, training as far as it matters (steps, ema_decay, precision) and sampling, as a run has them."""
    num: Enough
    """Samples."""
    labels: Literal["balanced", "random"]
    """As in ditkit evaluate."""
    reference: str | File
    """Real images: a data source that everybody has, or a file."""
    network: str
    """The feature network."""
    scores: tuple[str, ...]
    """What is computed, as in ditkit evaluate --scores."""
    published: Published
    seed: int = 0
    """Of the first sample; the next ones count up."""
    autoencoder: tuple[File, ...] = ()
    """The files of its folder; none: pixel space."""
    network_weights: File | None = None
    """The feature network's weights; None: it has none."""

    @property
    def files(self) -> list[File]:
        """Everything that has to be there."""
        given = [self.weights, *self.autoencoder, self.reference, self.network_weights]
        return [file for file in given if isinstance(file, File)]


@dataclasses.dataclass(frozen=True)
class Protocol:
    """A pinned protocol, as it was read.

    folder: where its file stands. said: its file's content, with that of those that it is like. hash: of ``said``.
    """

    name: str
    folder: Path
    pinned: Pinned
    said: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """SHA-256 of all that is pinned, 64 hexadecimal digits."""
        return protocol_hash(self.said)


def ready_protocols() -> dict[str, Path]:
    """The protocols that come with ditkit, by name."""
    package = Path(__file__).parents[2]
    for folder in (package / "protocols", package.parent / "protocols"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def load_protocol(name: str) -> Protocol:
    """A protocol by its name, or of a .yaml file of one's own, here or in the folder ``protocols``.

    UserError where there is none, or it does not fit.
    """
    path, ready = Path(name), ready_protocols()
    if path.suffix not in (".yaml", ".yml"):
        own = FOLDER / f"{name}.yaml"
        if name not in ready and not own.is_file():
            raise unknown("protocol", name, ready)
        path = ready.get(name, own)
    elif not path.is_file() and (FOLDER / path).is_file():
        path = FOLDER / path
    said = _read(path, ())
    try:
        pinned = TypeAdapter(Pinned).validate_python(said)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"protocol {path}: {place} is {first['input']!r}: {first['msg'].replace('Input should be', 'expected')}"
        ) from None
    return Protocol(path.stem, path.parent, pinned, said)


def _read(path: Path, below: tuple[Path, ...]) -> dict[str, Any]:
    """A file's content over that of the one which it is like. below: those that led here."""
    if not path.is_file():
        wanted = f", which {below[-1]} is like," if below else ""
        raise UserError(
            f"protocol {path}{wanted} does not exist: expected a .yaml file, there or in {FOLDER}/, or a ready "
            "protocol's name"
        )
    if path in below:
        raise UserError(f"protocol {path} is like itself: expected another one's name under {LIKE!r}")
    try:
        said = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"protocol {path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(said, dict):
        raise UserError(f"protocol {path} holds a {type(said).__name__}: expected keys and values")
    like = said.pop(LIKE, None)
    if like is None:
        return said
    base = path.with_name(f"{like}.yaml")
    if not base.is_file():
        base = ready_protocols().get(str(like), base)
    return _over(said, _read(base, (*below, path)), Pinned)


def _over(said: Mapping[str, Any], base: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """``said`` where it says something, else ``base``, leaf by leaf of a dataclass and its sections.

    Files are taken whole, so that no file has another's checksum, and options too: another solver's would not fit.
    """
    both = dict(said)
    for key, section in get_type_hints(kind).items():
        values = (said.get(key), base.get(key))
        if _is_section(section) and all(isinstance(value, Mapping) for value in values):
            both[key] = _over(said[key], base[key], section)
    return {**base, **both}


def _is_section(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind) and isinstance(kind, type) and not issubclass(kind, File)


def summaries() -> dict[str, str]:
    """What each ready protocol is, in a line, by name."""
    return {name: load_protocol(name).pinned.about for name in ready_protocols()}
