"""Floor 5: the files that a protocol takes: where they are, whether they are the right ones, what is to be fetched."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from ditkit.app.reproduction.protocol import File, Protocol, ready_protocols
from ditkit.app.reproduction.sizes import sizes, words
from ditkit.base.errors import UserError
from ditkit.base.files import expanded
from ditkit.evaluate.networks.weights import hub_checkpoints

VARIABLE = "DITKIT_WEIGHTS"
"""The environment variable that names the folder of weights where --weights does not."""
CHUNK = 2**24


class MissingFilesError(UserError):
    """Files that a protocol takes are not there.

    missing: all of them. places: where they were looked for. sizes: bytes of the files for which that is known.
    """

    def __init__(self, name: str, missing: Sequence[File], places: Sequence[Path], sizes: Mapping[File, int]) -> None:
        self.missing, self.places, self.sizes = tuple(missing), tuple(places), sizes
        self.title = f"{name} needs {len(missing)} file{'s' * (len(missing) > 1)} that {_are(missing)} not there"
        self.remedy = f"put them into one folder under these names and give it as --weights or in {VARIABLE}"
        listed = ", ".join(f"{file.file} from {file.url}" for file in missing)
        super().__init__(f"{self.title}: {listed}; {self.remedy} (looked in {', '.join(map(str, places))})")

    @property
    def lines(self) -> str:
        """The same, a line for each file."""
        width = max(len(file.file) for file in self.missing)
        rows = [f"  {file.file:<{width}}  {file.url}{self._size(file)}" for file in self.missing]
        own = [f"{file.variable} may name {file.file} itself; " for file in self.missing if file.variable]
        looked = f"{''.join(own)}looked in {', '.join(map(str, self.places))}"
        return "\n".join([f"{self.title}:", *rows, self.remedy, looked])

    def _size(self, file: File) -> str:
        return f" (about {words(self.sizes[file])})" if file in self.sizes else ""


def _are(files: Sequence[File]) -> str:
    return "are" if len(files) > 1 else "is"


def places(protocol: Protocol, given: Path | None) -> list[Path]:
    """The folders to look in, in order: given, of the variable, the protocol, the ready ones, torch's cache."""
    named = [given, os.environ.get(VARIABLE)]
    beside = dict.fromkeys([protocol.folder, *(path.parent for path in ready_protocols().values())])
    return [*(expanded(place) for place in named if place), *beside, hub_checkpoints()]


def absent(protocol: Protocol, given: Path | None) -> list[File]:
    """The files that are not there."""
    return [file for file in protocol.pinned.files if _find(file, places(protocol, given)) is None]


def locate(protocol: Protocol, given: Path | None) -> dict[File, Path]:
    """Where each file is. MissingFilesError names all that are not there, at once."""
    missing, where = absent(protocol, given), places(protocol, given)
    if missing:
        raise MissingFilesError(protocol.name, missing, where, sizes(protocol.pinned))
    return {file: found for file in protocol.pinned.files if (found := _find(file, where)) is not None}


def _find(file: File, where: Sequence[Path]) -> Path | None:
    own = os.environ.get(file.variable) if file.variable else None
    candidates = [*([expanded(own)] if own else []), *(place / file.file for place in where)]
    return next((path for path in candidates if path.is_file()), None)


def check(found: dict[File, Path], *, progress: bool = True) -> dict[File, str]:
    """The SHA-256 of each file. UserError, naming both, where it is another than the protocol's."""
    digests = {}
    for file, path in found.items():
        digests[file] = _sha256(path, progress)
        if file.sha256 is not None and not digests[file].startswith(file.sha256):
            raise UserError(
                f"{path} is not the file of the protocol: its SHA-256 is {digests[file]}, expected {file.sha256}; "
                f"fetch it anew from {file.url}, or pin it in a protocol of your own (ditkit reproduce FILE.yaml)"
            )
    return digests


def _sha256(path: Path, progress: bool) -> str:
    digest, size = hashlib.sha256(), path.stat().st_size
    bar = tqdm(total=size, desc=f"checking {path.name}", unit="B", unit_scale=True, delay=2, disable=not progress)
    with bar, open(path, "rb") as opened:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return digest.hexdigest()
