"""Floor 5: runs of classifiers on noisy images: ditkit train-classifier."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import torch
from torch import Tensor

from ditkit.app import build
from ditkit.app.recipe import ClassifierRecipe
from ditkit.app.run import Run, check_autoencoder, open_checkpoint, open_run
from ditkit.app.spending import BACKWARD, Item, Subject, Work, encoding, trained
from ditkit.backbones.classifier import NoisyClassifier
from ditkit.base.errors import UserError
from ditkit.data.images import Examples
from ditkit.process.path import Path, same_path, time_of
from ditkit.train import checkpoint
from ditkit.train.classifying import Classifying, network_input
from ditkit.train.trainer import Hook


class ClassifierRuns:
    """See ``Kind``: a backbone learns to tell the classes of noised images apart."""

    name = ClassifierRecipe.kind
    recipe = ClassifierRecipe
    knows_classes = True
    further = "guide a model of the same data with it: ditkit sample RUN --guidance-classifier {run}"

    def __init__(self, recipe: ClassifierRecipe) -> None:
        """Raises UserError for names and options that are none, and where the classes are left out."""
        if not recipe.data.classes:
            raise UserError("a classifier learns the classes: leave out --data.no-classes")
        self.path, self.density = build.path(recipe.process), build.density(recipe.process)
        self.density(torch.full((1,), 0.5), self.path)
        self.settings, self.device = recipe, build.device(recipe.train.device)
        self.autoencoder = build.autoencoder(recipe, self.device)

    @staticmethod
    def network(recipe: ClassifierRecipe, facts: dict[str, Any]) -> NoisyClassifier:
        """See ``Kind``."""
        return build.classifier(recipe, facts)

    @staticmethod
    def example(recipe: ClassifierRecipe, facts: dict[str, Any]) -> tuple[Any, ...]:
        """See ``Kind``."""
        return torch.zeros(1, facts["channels"], *facts["input_size"]), torch.zeros(1)

    @staticmethod
    def works(subject: Subject) -> list[Work]:
        """See ``Kind``: training. What guiding takes belongs to the model that is guided."""
        network = Item("network, forward and back", subject.network.multiply_adds, BACKWARD)
        return [trained("training", "", [network, *encoding(subject)], subject.recipe.train)]

    def task(self, facts: dict[str, Any], images: Examples) -> Classifying:
        """See ``Kind``. Raises UserError for data with fewer than two classes."""
        recipe = self.settings
        return Classifying(
            self.network(recipe, facts).to(self.device),
            self.path,
            recipe.seed,
            density=self.density,
            encode=build.encode(recipe, self.autoencoder),
            autocast=build.autocast(recipe.train.precision, self.device),
        )

    def pictures(self, run: Run[ClassifierRecipe], facts: dict[str, Any], held: Examples | None) -> list[Hook]:
        """None: a classifier draws nothing."""
        return []


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A run's trained classifier, ready to guide: ``classifier_gradient(classifier, label, classifier.path, scale)``.

    facts: what its data gave (see ``ditkit.app.run.Facts``).
    """

    run: Run[ClassifierRecipe]
    step: int
    facts: dict[str, Any]
    net: NoisyClassifier
    path: Path
    autocast: torch.dtype | None

    @property
    def classes(self) -> list[str]:
        """Names of the classes; their order is that of the logits."""
        return self.facts["classes"]

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        """Logits (B, K) float32 of x_t (B, C, H, W) at network time (B,); gradients go through to x."""
        with torch.autocast(x.device.type, dtype=self.autocast, enabled=self.autocast is not None):
            return self.net(network_input(self.path, x, time_of(self.path, time)), time).float()

    def check_guides(self, path: Path, facts: dict[str, Any]) -> None:
        """UserError unless it can guide a model of this path and these facts: same noise, same inputs, same classes."""
        if not same_path(self.path, path):
            raise UserError(
                f"classifier {self.run.folder} was trained on the path {self.path.name!r}, the model on "
                f"{path.name!r} (or with other options): train a classifier on the model's --process.path"
            )
        for fact, what in (("channels", "channels"), ("input_size", "size"), ("autoencoder", "latents")):
            if self.facts[fact] != facts[fact]:
                raise UserError(
                    f"classifier {self.run.folder} takes inputs of {what} {self.facts[fact]}, the model's are of "
                    f"{facts[fact]}: train a classifier on the model's data settings"
                )
        if facts["classes"] and facts["classes"] != self.classes:
            raise UserError(
                f"classifier {self.run.folder} knows the classes {', '.join(self.classes[:5])}, ..., the model "
                f"{', '.join(facts['classes'][:5])}, ...: expected the same ones in the same order"
            )


def load_classifier_run(
    folder: pathlib.Path | str, *, device: torch.device | str | None = None, weights: str = "ema"
) -> Classifier:
    """The classifier of the run's newest checkpoint, its moving average unless weights names another.

    UserError when the folder is no run, or a run of something else, and for weights that it does not have.
    """
    run = open_run(folder, ClassifierRecipe)
    found = open_checkpoint(checkpoint.latest(run.folder))
    where = build.device(str(device or run.recipe.train.device))
    check_autoencoder(run, build.autoencoder(run.recipe, where), found.about)
    net = build.classifier(run.recipe, found.about)
    checkpoint.load_weights(net, found.weights(weights), found.folder)
    net.to(where).eval().requires_grad_(False)
    path, autocast = build.path(run.recipe.process), build.autocast(run.recipe.train.precision, where)
    return Classifier(run, found.step, found.about, net, path, autocast)
