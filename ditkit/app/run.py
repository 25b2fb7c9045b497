"""Floor 5: a run's folder: what stands where in it, how it is made and how its model is read back."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Generic

import pydantic
import torch
from pydantic import TypeAdapter, ValidationError
from tqdm import tqdm

import ditkit
from ditkit.app import build, checks, guiding
from ditkit.app.classes import turns
from ditkit.app.recipe import ClassifierRecipe, Recipe, Sampling
from ditkit.app.recipe_files import R, from_yaml, kind_of, read_text, to_yaml
from ditkit.base import registry
from ditkit.base.errors import UserError
from ditkit.base.files import alone, check_new_folder, explained, write_text
from ditkit.base.pixels import to_uint8
from ditkit.condition import Condition
from ditkit.data.store import is_store
from ditkit.encoders.autoencoder import Autoencoder
from ditkit.process.denoiser import Denoiser
from ditkit.process.path import require_same
from ditkit.sample import sample
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

    def append(self, record: dict[str, Any]) -> None:
        """Adds a record to the log."""
        with explained(self.log), open(self.log, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

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


DECODED_AT_ONCE = 2**16
"""Pixels between two movements of the progress bar of decoding (an image of 256x256); changes no image."""


@dataclasses.dataclass(frozen=True)
class Model:
    """A run's trained model, ready to sample.

    facts: what the data gave (see ``Facts``). sides: height and width in pixels that images are drawn in; None: those
    that it was trained on.
    """

    run: Run[Recipe]
    step: int
    facts: dict[str, Any]
    denoiser: Denoiser
    autoencoder: Autoencoder
    device: torch.device
    sides: tuple[int, int] | None = None

    @property
    def classes(self) -> list[str]:
        """Names of the classes; empty for an unconditional model."""
        return self.facts["classes"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image in pixels."""
        channels, height, width = self.facts["image_shape"]
        return (channels, *self.sides) if self.sides else (channels, height, width)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w) of what is diffused; in pixel space the image's."""
        if self.sides:
            return self.autoencoder.latent_shape(self.shape)
        return (self.facts["channels"], *self.facts["input_size"])

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of an image in pixels."""
        return (self.shape[1], self.shape[2])

    def sized(self, height: int, width: int) -> Model:
        """This model drawing images of so many pixels. UserError where its autoencoder or network cannot."""
        model = dataclasses.replace(self, sides=(height, width))
        try:
            shape = model.latent_shape
            with torch.device("meta"):  # what the network says of the shape, without its work
                label = torch.zeros(1, dtype=torch.int64) if self.classes else None
                net = build.network(self.run.recipe.model, self.run.recipe.process, self.facts)
                net(torch.zeros(1, *shape), torch.zeros(1), Condition(label=label))
        except UserError as error:
            raise UserError(f"--size {height} {width}: {error}") from error
        return model

    def names(self, sampling: Sampling) -> Sequence[str]:
        """The classes that samples can be drawn for: the model's, or those of a classifier that guides it."""
        return guiding.names(self.classes, self.guides(sampling))

    def labels(self, num: int, classes: Sequence[int] | None = None) -> torch.Tensor | None:
        """Labels of ``num`` samples, the given classes (the model's by default) in turn; None where there are none."""
        chosen = range(len(self.classes)) if classes is None else classes
        return turns(num, chosen) if len(chosen) else None

    def draw(
        self, seeds: Sequence[int], labels: torch.Tensor | None, sampling: Sampling, progress: str | None = None
    ) -> torch.Tensor:
        """Images, uint8 (len(seeds), C, H, W), one for each seed and label."""
        x = sample(
            self.denoiser,
            Condition(label=labels),
            seeds,
            self.latent_shape,
            self.grid(sampling),
            batch_size=sampling.batch_size,
            progress=progress,
            **self.how(sampling),
        )
        return self.pixels(x, progress)

    @torch.inference_mode()
    def pixels(self, x: torch.Tensor, progress: str | None = None) -> torch.Tensor:
        """Images, uint8 (N, C, H, W) on the CPU, of what is diffused, (N, c, h, w)."""
        rows = max(1, DECODED_AT_ONCE // (self.size[0] * self.size[1]))
        parts = tqdm(x.split(rows), desc="decoding", delay=2, leave=False, disable=progress is None)
        return torch.cat([to_uint8(self.autoencoder.decode(part.to(self.device))).cpu() for part in parts])

    def grid(self, sampling: Sampling) -> torch.Tensor:
        """The times that the settings mean for this model, (K + 1,) float64 from noise to data."""
        path, row = self.denoiser.path, self.denoiser.prediction
        return build.grid(sampling, path, row.start(path))

    def how(self, sampling: Sampling) -> dict[str, Any]:
        """What the settings mean to ditkit.sample: solver, guide, device."""
        guiding.check_channels(sampling, self.latent_shape[0])
        return {
            "solver": build.solver(sampling),
            "guide": guiding.guide(sampling, self.classes, self.guides(sampling)),
            "device": self.device,
        }

    def guides(self, sampling: Sampling) -> guiding.Guides:
        """What guides the model besides itself, read once. UserError where it does not belong to this model."""
        weak = None
        if sampling.guidance_weak is not None:
            run, folder = located(sampling.guidance_weak)
            other = _loaded(run.folder, folder, str(self.device), sampling.guidance_weak_weights)
            check_alike("--guidance-weak", dataclasses.replace(self, sides=None), other)
            weak = guiding.Led(other.denoiser, other.classes)
        return guiding.Guides(weak, self._classifier(sampling))

    def _classifier(self, sampling: Sampling) -> guiding.NoisyClassifier | None:
        if sampling.guidance_classifier is None:
            return None
        folder = Path(sampling.guidance_classifier)
        step = checkpoint.latest(open_run(folder, ClassifierRecipe).folder)
        found = _loaded_classifier(folder, step, str(self.device))
        found.check_guides(self.denoiser.path, {**self.facts, "classes": []})  # these are matched by name
        return guiding.NoisyClassifier(found, found.path, found.classes)


def check_alike(option: str, ours: Model, theirs: Model) -> None:
    """Raises UserError unless two models diffuse the same things, of the same classes where both know classes."""
    place = theirs.run.folder
    for what, a, b in [
        ("diffuses", ours.latent_shape, theirs.latent_shape),
        ("works in", ours.facts["autoencoder"], theirs.facts["autoencoder"]),
        ("knows the classes", ours.classes, theirs.classes or ours.classes),
    ]:
        if a != b:
            raise UserError(f"{option} {place} {what} {b}, the model {a}: expected a run of the same kind of data")
    require_same(option, ours.denoiser.path, theirs.denoiser.path)


def check_sampling(recipe: Recipe, sampling: Sampling) -> None:
    """Raises UserError for settings that cannot be drawn with, as far as can be told before long work."""
    checks.check_sampling(recipe.process, sampling)
    if sampling.guidance_weak is not None:
        weak, step = located(sampling.guidance_weak)
        checkpoint.weights_file(step, sampling.guidance_weak_weights)
        require_same("--guidance-weak", build.path(recipe.process), build.path(weak.recipe.process))
    if sampling.guidance_classifier is not None:
        classifier = open_run(sampling.guidance_classifier, ClassifierRecipe).recipe
        require_same("--guidance-classifier", build.path(recipe.process), build.path(classifier.process))


def located(place: str) -> tuple[Run[Recipe], Path]:
    """The run and the checkpoint's folder that a run's folder (its newest) or a checkpoint's own names."""
    folder = Path(place)
    if (folder / "manifest.json").is_file():
        return open_run(folder.resolve().parent.parent), folder.resolve()
    run = open_run(folder)
    return run, checkpoint.latest(run.folder)


@functools.lru_cache(maxsize=2)
def _loaded(folder: Path, step: Path, device: str, weights: str) -> Model:
    return load_model(open_run(folder), step, device=device, weights=weights)


@functools.lru_cache(maxsize=2)
def _loaded_classifier(folder: Path, step: Path, device: str) -> Any:
    # kinds stand on this file, so it finds them as the command line does
    load = registry.find("loader", "ditkit.app.kinds", inspect.isfunction, "load_classifier_run")
    return load(folder, device=device)


def load_model(run: Run[Recipe], step: Path | None = None, *, device: str | None = None, weights: str = "ema") -> Model:
    """The model of a run's checkpoint, the newest by default, its moving average unless weights names another.

    weights: "ema", "ema-0.99", "weights". UserError, naming what there is, where the checkpoint has none such.
    """
    found = open_checkpoint(step or checkpoint.latest(run.folder))
    where = build.device(device or run.recipe.train.device)
    autoencoder = build.autoencoder(run.recipe, where)
    check_autoencoder(run, autoencoder, found.about)
    net = build.network(run.recipe.model, run.recipe.process, found.about)
    checkpoint.load_weights(net, found.weights(weights), found.folder)
    net.to(where).eval().requires_grad_(False)
    return Model(run, found.step, found.about, build.denoiser(run.recipe, net), autoencoder, where)


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
