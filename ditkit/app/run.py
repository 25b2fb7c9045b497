"""Floor 5: a run's folder: what stands where in it, how it is made, opened, and what its checkpoints hold."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Generic

import pydantic
import torch
from pydantic import TypeAdapter, ValidationError

import ditkit
from ditkit.app.recipe import Recipe
from ditkit.app.recipe_files import R, from_yaml, kind_of, read_text, to_yaml
from ditkit.base.errors import UserError
from ditkit.base.files import alone, check_new_folder, explained, write_text
from ditkit.data.store import is_store
from ditkit.encoders.autoencoder import Autoencoder
from ditkit.train import checkpoint
from ditkit.train.settings import Positive


@dataclasses.dataclass(frozen=True)
class Run(Generic[R]):
    """A run's folder and its recipe.

    recipe.yaml, log.jsonl, checkpoints/step-NNNNNNN/, samples/, metrics.json, report.html.
    """

    folder: Path
    recipe: R

    @property
    def log(self) -> Path:
        """One JSON record a line."""
        return self.folder / "log.jsonl"

    @property
    def samples(self) -> Path:
        """Sample grids of the training, and what the metrics were measured on."""
        return self.folder / "samples"

    def picture(self, step: int) -> Path:
        """What was drawn at a step of the training."""
        return self.samples / f"step-{step:07d}.png"

    def records(self) -> list[dict[str, Any]]:
        """The log's records; lines that are none, such as a last one that a crash cut short, are left out."""
        if not self.log.is_file():
            return []
        records = []
        for line in self.log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                records.append(record)
        return records

    def append(self, *records: dict[str, Any]) -> None:
        """Adds records to the log, at once."""
        with explained(self.log), open(self.log, "a", encoding="utf-8") as file:
            file.write("".join(json.dumps(record) + "\n" for record in records))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Within it, no other process trains this run. UserError where one does already."""
        with alone(self.folder, f"run {self.folder} is being trained by another process: wait for it, or stop it"):
            yield

    def forget_after(self, step: int) -> int:
        """Drops the log's records of later steps than ``step`` (their work is done anew); how many they were."""
        records = self.records()
        kept = [r for r in records if r.get("step", 0) <= step]
        write_text(self.log, "".join(json.dumps(r) + "\n" for r in kept))
        return len(records) - len(kept)


def check_new(folder: Path) -> None:
    """Raises UserError unless a new run can be made in this folder."""
    if (folder / "recipe.yaml").exists():
        raise UserError(f"run {folder} exists: choose another --out, or go on with ditkit train --resume {folder}")
    check_new_folder(folder)


def create(folder: Path | str, recipe: R) -> Run[R]:
    """Makes a new run's folder with its recipe. UserError when there is something already."""
    folder = Path(folder)
    check_new(folder)
    write_text(folder / "recipe.yaml", to_yaml(recipe))
    return Run(folder, recipe)


def open_run(folder: Path | str, recipe: type[R] = Recipe) -> Run[R]:
    """The run in a folder. UserError when it is none or of another kind than ``recipe``, or when its recipe has keys
    that this version does not know.
    """
    path = _recipe_file(folder)
    return Run(path.parent, from_yaml(read_text(path), path, recipe))


def kind_of_run(folder: Path | str) -> str:
    """What the run in a folder trains. UserError when it is none."""
    path = _recipe_file(folder)
    return kind_of(read_text(path), path)


def _recipe_file(folder: Path | str) -> Path:
    folder = Path(folder)
    path = folder / "recipe.yaml"
    if not path.is_file():
        what = "is not a run" if folder.is_dir() else "does not exist"
        raise UserError(f"run {folder} {what}: expected a folder with a recipe.yaml, as ditkit train makes it")
    return path


@pydantic.dataclasses.dataclass(frozen=True)
class Facts:
    """What the data gave: input_size (h, w) and channels of what is diffused, image_shape (C, H, W), the identity of
    the autoencoder, classes (names); and for how many seconds it was trained on.
    """

    input_size: tuple[Positive, Positive]
    channels: Positive
    image_shape: tuple[Positive, Positive, Positive]
    autoencoder: str
    classes: list[str]
    images: Positive
    skipped: int
    source: str
    fingerprint: str
    seconds: float


_FACTS = TypeAdapter(Facts)


def open_checkpoint(folder: Path) -> checkpoint.Checkpoint:
    """A run's checkpoint, checked. UserError also where its manifest lacks what training says of the data."""
    found = checkpoint.open_checkpoint(folder)
    try:
        _FACTS.validate_python(found.about)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise checkpoint.unreadable(folder, f"about.{place}: {first['msg']}") from None
    return found


def located(place: str) -> tuple[Run[Recipe], Path]:
    """The run and the checkpoint's folder that a run's folder (its newest) or a checkpoint's own names."""
    folder = Path(place)
    if (folder / "manifest.json").is_file():
        return open_run(folder.resolve().parent.parent), folder.resolve()
    run = open_run(folder)
    return run, checkpoint.latest(run.folder)


def check_autoencoder(run: Run[Any], autoencoder: Autoencoder, about: dict[str, Any]) -> None:
    """Raises UserError naming both when the autoencoder is not the one that the run's checkpoint was trained with."""
    place = run.recipe.data.source
    if autoencoder.identity != about["autoencoder"] and about.get("store") and not is_store(place):
        raise UserError(
            f"latent store {place}, by which run {run.folder} decodes, is not there: put it back, or say where it is "
            f"now: ditkit train --resume {run.folder} --data PLACE"
        )
    if autoencoder.identity != about["autoencoder"]:
        raise UserError(
            f"run {run.folder} was trained in the latents of {about['autoencoder']}, but its data.autoencoder "
            f"{run.recipe.data.autoencoder} is {autoencoder.identity}: put the one that it was trained with there"
        )


def environment(device: torch.device) -> dict[str, str]:
    """What the numbers depend on besides the recipe: versions, processor, threads, device."""
    cuda = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    return {
        "ditkit": ditkit.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "device": str(device),
        "gpu": cuda,
        "time": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }
