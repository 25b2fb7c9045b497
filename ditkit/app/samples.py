"""Floor 5: what is measured: samples that a run draws as they are asked for, or images that are there already."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ditkit.app import build
from ditkit.app.classes import parse_classes
from ditkit.app.drawn import SHEET
from ditkit.app.model import Model, described
from ditkit.app.recipe import Sampling
from ditkit.base.errors import UserError
from ditkit.base.rng import generator
from ditkit.data.decode import Survey, attempt, survey
from ditkit.data.images import Images
from ditkit.data.loading import load_images
from ditkit.data.preprocess import has_alpha, upright_size
from ditkit.data.source import Source, open_source
from ditkit.encoders.autoencoder import Identity
from ditkit.evaluate.images import check_values, looked_at
from ditkit.evaluate.parts import Each, Given
from ditkit.evaluate.strata import equal_shares
from ditkit.evaluate.suite import FEWEST
from ditkit.train.ema import MAIN, decays


@dataclasses.dataclass(frozen=True)
class Plan:
    """How samples are drawn. seed: of the first; the next ones count up. labels: a key of LABELS.

    weights: "ema", or others of the checkpoint: "ema-0.99", "weights".
    """

    sampling: Sampling
    num: int
    seed: int = 0
    labels: str = "balanced"
    weights: str = "ema"


@dataclasses.dataclass(frozen=True)
class RunSamples:
    """A run's samples by a plan (see ``parts.Samples``); labels: (num,) or None."""

    model: Model
    plan: Plan
    labels: Tensor | None

    @classmethod
    def of(cls, model: Model, plan: Plan) -> RunSamples:
        """The samples, their labels drawn."""
        classes = len(model.names(plan.sampling))
        return cls(model, plan, LABELS[plan.labels].choose(classes, plan) if classes else None)

    def __len__(self) -> int:
        return self.plan.num

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.model.shape

    @property
    def captions(self) -> None:
        """None: a run's samples are drawn for classes or for nothing."""

    @property
    def strata(self) -> Tensor | None:
        """See ``measured.Side``: labels, where they are not drawn with the samples."""
        return self.labels if LABELS[self.plan.labels].shares else None

    def part(self, rows: range, each: Each) -> Given:
        """See ``parts.Samples``."""
        labels = None if self.labels is None else self.labels[rows.start : rows.stop]
        first = self.plan.seed
        images = self.model.draw(range(first + rows.start, first + rows.stop), labels, self.plan.sampling, each=each)
        return Given(images, labels)

    @property
    def protocol(self) -> dict[str, Any]:
        """What the samples hang on besides the model."""
        plan, recipe = self.plan, self.model.run.recipe
        sampling = described(build.plain(plan.sampling, self.model.start))
        if not build.adaptive(plan.sampling.solver):
            del sampling["batch_size"]  # changes no image
        decay = decays(recipe.train).get(plan.weights)
        half = build.autocast(recipe.train.precision, self.model.device)
        return {
            "sampling": sampling,
            "size": list(self.model.size),
            "labels": "none" if self.labels is None else LABELS[plan.labels].words,
            "seeds": [plan.seed, plan.seed + plan.num - 1],
            "weights": plan.weights if decay is None else MAIN,  # the same length by either name is one protocol
            "ema_decay": decay,
            "autoencoder": self.model.autoencoder.identity,
            **self._decoding(),
            "dtype": str(half or torch.float32).removeprefix("torch."),
        }

    def _decoding(self) -> dict[str, Any]:
        """How latents are decoded; in pixel space nothing."""
        data = self.model.run.recipe.data
        if isinstance(self.model.autoencoder, Identity):
            return {}
        return {"decoding": {"dtype": data.autoencoder_precision, "tile": data.tile}}


def _balanced(classes: int, plan: Plan) -> Tensor:
    return torch.arange(plan.num) % classes


def _random(classes: int, plan: Plan) -> Tensor:
    draws = generator(plan.seed, "evaluate.labels")
    return (torch.rand(plan.num, dtype=torch.float64, generator=draws) * classes).long()


class LabelRule(NamedTuple):
    """How samples' classes are chosen. words: in the protocol. choose: labels (num,) of so many classes by a plan.

    shares: whether every class has its share of the samples.
    """

    words: str
    choose: Callable[[int, Plan], Tensor]
    shares: bool


LABELS = {
    "balanced": LabelRule("balanced: each class in turn", _balanced, shares=True),
    "random": LabelRule("random: each class as likely, drawn from the seed", _random, shares=False),
}
"""By the names of ``evaluate --labels``."""


def _channels(opened: Source, seen: Survey) -> int | None:
    """The channels that samples have: 2 or 4 where one is alpha, None: 1 or 3. UserError where only some have alpha."""
    if seen.alpha not in (0, seen.total):
        few = seen.alpha <= seen.total / 2  # one of the fewer is named
        counted = f"{seen.alpha:,} of {seen.total:,} looked at have it"
        one = next(opened.name(i) for i in range(len(opened)) if attempt(opened, i, has_alpha) is few)
        has = "it" if few else "none"
        raise UserError(
            f"images of {opened.spec} differ in whether they have alpha ({counted}, {one} has {has}), expected all or "
            "none: samples are measured as they are; save all of them with it, or all without"
        )
    return seen.most_channels + 1 if seen.alpha else None


def _without_sheet(opened: Source, images: Images, seen: Survey) -> Images:
    """The images but a sheet of all of them. Raises UserError where the others are not of one size."""
    sizes = seen.sizes
    if len(sizes) == 1:
        return images
    sheets = [i for i in images.indices.tolist() if PurePath(opened.name(i)).name == SHEET]
    sizes.subtract([upright_size(opened.open(i)) for i in sheets])
    if len(said := {f"{h}x{w}": count for (h, w), count in sizes.items() if count > 0}) > 1:
        counted = ", ".join(f"{count} of {size}" for size, count in said.items())
        raise UserError(
            f"images of {opened.spec} have different sizes (of those looked at, {counted}; height x width), expected "
            "one: samples are measured as they are; take out what is none, or bring them to one size"
        )
    tqdm.write(f"{opened.spec}: {SHEET}, which shows all the others, is no sample and is left out")
    return images.subset(torch.tensor([k for k, i in enumerate(images.indices.tolist()) if i not in sheets]))


@dataclasses.dataclass(frozen=True)
class FileSamples:
    """The images of a folder, an .npz or any other source (see ``parts.Samples``).

    labels: (N,) or None. captions: one each, or None.
    """

    images: Images
    labels: Tensor | None
    captions: tuple[str, ...] | None
    fingerprint: str

    @classmethod
    def open(cls, source: str) -> FileSamples:
        """The samples in a source, in the channels that they have, without the sheet that ``ditkit sample`` lays beside
        them.

        Raises UserError where there are too few to be measured, of different sizes, some of them with alpha and others
        without, or floats cast to uint8.
        """
        opened = open_source(source)
        seen = survey(opened)
        images = _without_sheet(opened, load_images(opened, channels=_channels(opened, seen)), seen)
        if len(images) < FEWEST:
            raise UserError(f"{source} has {len(images)} images, expected at least {FEWEST} (better 1,000): add some")
        check_values(f"images of {source}", images.get(looked_at(len(images))))
        captions = None if opened.captions is None else tuple(str(opened.captions[i]) for i in images.indices.tolist())
        return cls(images, images.labels, captions, opened.fingerprint())

    def numbered(self, classes: Sequence[str]) -> FileSamples:
        """The samples with labels that number ``classes``, matched by name or, as in ADM's files, by number.

        Without classes there are no labels. Raises UserError on a class that is none of them.
        """
        if self.labels is None or not classes:
            return dataclasses.replace(self, labels=None)
        names = ",".join(self.images.classes)
        places = torch.tensor(parse_classes(names, classes, "the samples' class"))
        return dataclasses.replace(self, labels=places[self.labels])

    def __len__(self) -> int:
        return len(self.images)

    @property
    def strata(self) -> Tensor | None:
        """See ``measured.Side``: by all classes that they have, also those that the reference has not."""
        return equal_shares(self.images.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.images.shape

    def part(self, rows: range, each: Each) -> Given:
        """See ``parts.Samples``."""
        chosen = torch.arange(rows.start, rows.stop)
        labels = None if self.labels is None else self.labels[chosen]
        captions = None if self.captions is None else self.captions[rows.start : rows.stop]
        return Given(self.images.get(chosen), labels, captions)

    @property
    def protocol(self) -> dict[str, Any]:
        """What is known of them: their classes, where their folders tell."""
        return {"labels": "as their folders or labels say" if self.labels is not None else "none"}
