"""Where the files of an autoencoder are: in a folder, as one file, or under a name of the hub, in its cache."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

from ditkit.base.errors import UserError
from ditkit.base.files import expanded

CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
FOLDER, PIPELINE = "autoencoder", "vae"
"""Where a run and a latent store keep theirs, and where a pipeline of diffusers does."""

_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(/\w[\w.-]*)*")


def files_of(spec: str | Path) -> tuple[Path, Path | None]:
    """The weights' file and the config's (None: there is none) of a folder, a file or a name of the hub.

    A name is OWNER/NAME, or OWNER/NAME/FOLDER for a folder in there; what exists here under that path comes first.
    Raises UserError that says which file belongs where.
    """
    place = expanded(spec)
    if not place.exists():
        place = _of_hub(str(spec))
    if place.is_dir():
        return _in_folder(place)
    beside = place.parent / CONFIG
    return place, beside if beside.is_file() else None


def _in_folder(folder: Path) -> tuple[Path, Path]:
    place = next((at for at in _places(folder) if (at / CONFIG).is_file()), folder)
    if place == folder and (folder / "recipe.yaml").is_file():
        raise UserError(
            f"run {folder} has no {FOLDER}: expected a run of ditkit train-autoencoder that has come to a checkpoint"
        )
    for name in (CONFIG, WEIGHTS):
        if not (place / name).is_file():
            raise UserError(f"autoencoder {place} lacks {name}: put the published {name} into this folder")
    return place / WEIGHTS, place / CONFIG


def _places(folder: Path) -> list[Path]:
    return [folder / FOLDER, folder, folder / PIPELINE]


def _of_hub(spec: str) -> Path:
    """The folder of a name in the hub's cache, fetched where it is not there yet."""
    if not _NAME.fullmatch(spec) or expanded(spec.split("/")[0]).exists():  # a path, then, that was misspelt
        raise UserError(
            f"autoencoder {spec} does not exist: put a folder with {CONFIG} and {WEIGHTS} there, or set "
            "--data.autoencoder to such a folder, to a file of weights, or to a name of the hub such as "
            "stabilityai/sd-vae-ft-ema"
        )
    owner, name, *inside = spec.split("/")
    repository = f"{owner}/{name}"
    held = _held(_cached(repository), inside)
    if held is None:
        held = _held(_fetched(repository, inside), inside)
    if held is None:
        raise _absent(repository, inside, "the hub has no such files under this name")
    return held


def _held(snapshot: Path | None, inside: list[str]) -> Path | None:
    """The folder in a copy of a repository, if an autoencoder is there."""
    folder = snapshot.joinpath(*inside) if snapshot else None
    whole = folder and any((at / CONFIG).is_file() and (at / WEIGHTS).is_file() for at in _places(folder))
    return folder if whole else None


def _cached(repository: str) -> Path | None:
    """The copy of a repository that the hub's own programs keep; None where there is none."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    cache = expanded(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub"))
    kept = cache / f"models--{repository.replace('/', '--')}"
    try:
        return kept / "snapshots" / (kept / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None


def _fetched(repository: str, inside: list[str]) -> Path:
    """The same, from the hub (extra: pretrained)."""
    try:
        hub = importlib.import_module("huggingface_hub")
    except ImportError:
        reason = "to fetch it takes huggingface_hub: pip install 'ditkit[pretrained]'"
        raise _absent(repository, inside, reason) from None
    try:
        return Path(hub.snapshot_download(repository, allow_patterns=_wanted(inside)))
    except Exception as error:  # of many kinds: the network's, the hub's, its licences'
        raise _absent(repository, inside, " ".join(str(error).split())[:120]) from None


def _wanted(inside: list[str]) -> list[str]:
    """The files of a repository that make an autoencoder; without a folder also those of a pipeline's."""
    places = [inside] if inside else [[], [PIPELINE]]
    return ["/".join([*place, name]) for place in places for name in (CONFIG, WEIGHTS)]


def _absent(repository: str, inside: list[str], reason: str) -> UserError:
    of = "/".join([repository, *inside])
    first, second, *pipeline = _wanted(inside)
    also = f" (of a pipeline {' and '.join(pipeline)})" if pipeline else ""
    return UserError(
        f"autoencoder {of} is neither here nor in the hub's cache ({reason}): put {first} and {second}{also} there "
        f"with hf download {repository}, or into a folder and set --data.autoencoder to that"
    )
