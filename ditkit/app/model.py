"""Floor 5: a run's trained model, ready to sample, and what guides it."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ditkit.app import build, checks, guiding
from ditkit.app.classes import turns
from ditkit.app.recipe import ClassifierRecipe, Recipe, Sampling
from ditkit.app.run import Run, check_autoencoder, located, open_checkpoint, open_run
from ditkit.base import registry
from ditkit.base.errors import UserError
from ditkit.base.files import sha256
from ditkit.base.pixels import to_uint8
from ditkit.condition import Condition
from ditkit.encoders.autoencoder import Autoencoder
from ditkit.process.denoiser import Denoiser
from ditkit.process.path import require_same
from ditkit.sample import sample
from ditkit.train import checkpoint
from ditkit.train.ema import MAIN

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

    def sized(self, size: int | tuple[int, int] | None) -> Model:
        """This model drawing images of so many pixels, (H, W) or one number for both; None: as it is.

        UserError where its autoencoder or network cannot.
        """
        if size is None:
            return self
        height, width = (size, size) if isinstance(size, int) else size
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
        self,
        seeds: Sequence[int],
        labels: torch.Tensor | None,
        sampling: Sampling,
        progress: str | None = None,
        each: Callable[[float], object] = lambda images: None,
    ) -> torch.Tensor:
        """Images, uint8 (len(seeds), C, H, W), one for each seed and label. progress, each: see ``ditkit.sample``."""
        x = sample(
            self.denoiser,
            Condition(label=labels),
            seeds,
            self.latent_shape,
            self.grid(sampling),
            batch_size=sampling.batch_size,
            progress=progress,
            each=each,
            **self.how(sampling),
        )
        return self.pixels(x, progress)

    @torch.inference_mode()
    def pixels(self, x: torch.Tensor, progress: str | None = None) -> torch.Tensor:
        """Images, uint8 (N, C, H, W) on the CPU, of what is diffused, (N, c, h, w)."""
        rows = max(1, DECODED_AT_ONCE // (self.size[0] * self.size[1]))
        parts = tqdm(x.split(rows), desc="decoding", delay=2, leave=False, disable=progress is None)
        return torch.cat([to_uint8(self.autoencoder.decode(part.to(self.device))).cpu() for part in parts])

    @property
    def start(self) -> float:
        """The time that its sampling begins at, where a grid has no other."""
        return self.denoiser.prediction.start(self.denoiser.path)

    def grid(self, sampling: Sampling) -> torch.Tensor:
        """The times that the settings mean for this model, (K + 1,) float64 from noise to data."""
        return build.grid(sampling, self.denoiser.path, self.start)

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


def described(sampling: Sampling) -> dict[str, Any]:
    """The settings as JSON values, as protocols have them: what guides by the SHA-256 of its weights, wherever it lies.

    UserError where it is not there.
    """
    said = json.loads(json.dumps(dataclasses.asdict(sampling)))
    if sampling.guidance_weak is not None:
        _, folder = located(sampling.guidance_weak)
        said["guidance_weak"] = sha256(checkpoint.weights_file(folder, sampling.guidance_weak_weights))
    if sampling.guidance_classifier is not None:
        folder = checkpoint.latest(open_run(sampling.guidance_classifier, ClassifierRecipe).folder)
        said["guidance_classifier"] = sha256(checkpoint.weights_file(folder, MAIN))
    return said


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
