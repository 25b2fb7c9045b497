"""Floor 5: the settings' guidance, as a chain of maps from denoiser to denoiser, each one the identity where it is off.

    model -> classifier-free -> away from a weak model -> towards a classifier's label -> within an interval -> clipped

The weak model is led classifier-free just as the model is, so that a model led away from itself stays as it is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ditkit.app.classes import parse_classes
from ditkit.app.recipe import Sampling
from ditkit.base import registry
from ditkit.base.errors import UserError
from ditkit.condition import Condition
from ditkit.guidance import AutoGuided, ClassifierFree, ClassifierGuided, Interval, classifier_gradient
from ditkit.process.denoiser import Denoise, Denoiser, clipped
from ditkit.process.path import Path, require_same
from ditkit.sample import Guide

Lead = Callable[[Denoise], Denoise]


@dataclasses.dataclass(frozen=True)
class Led:
    """A denoiser and the names of the classes that it knows (none: unconditional)."""

    denoiser: Denoiser
    classes: Sequence[str] = ()

    def under(self, condition: Condition) -> Denoiser:
        """The denoiser under a condition, which an unconditional one does without."""
        return self.denoiser.given(condition if self.classes else Condition())


@dataclasses.dataclass(frozen=True)
class NoisyClassifier:
    """log p(y | x_t) up to a constant, of a network that was trained on noisy images of a path.

    logits: (x (B, C, H, W), network time (B,) float32) -> (B, K), the K ``classes`` in order.
    """

    logits: Callable[[Tensor, Tensor], Tensor]
    path: Path
    classes: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Guides:
    """What a model is guided by besides itself."""

    weak: Led | None = None
    classifier: NoisyClassifier | None = None


def known() -> dict[str, Any]:
    """Every way to guide, by the sampling setting that asks for it: guidance, guidance_weak, ..."""
    return registry.members("ditkit.guidance", lambda value: isinstance(value, type) and hasattr(value, "name"))


def settings(name: str) -> dict[str, Any]:
    """The sampling settings of a way to guide, and their defaults: those whose longest beginning is its name."""
    found = {f.name: f.default for f in dataclasses.fields(Sampling) if f.name.startswith("guidance")}
    return {k: v for k, v in found.items() if max((n for n in known() if k.startswith(n)), key=len) == name}


def names(classes: Sequence[str], guides: Guides) -> Sequence[str]:
    """The classes that labels number: the model's; of an unconditional model those of the classifier that guides it."""
    return classes or (guides.classifier.classes if guides.classifier else ())


def guide(sampling: Sampling, classes: Sequence[str], guides: Guides | None = None) -> Guide:
    """What turns a model of these classes into the denoiser that the solver sees.

    Raises UserError for guides that do not belong to the model, naming both sides.
    """
    guides = guides or Guides()
    negative = class_number(sampling.guidance_negative, classes)
    numbers = classifier_numbers(names(classes, guides), guides.classifier)

    def apply(model: Denoiser) -> Denoise:
        condition = model.condition
        plain = Led(model, classes).under(condition)
        free = _classifier_free(sampling, negative)
        chain: list[Lead] = [
            _away(guides.weak and free(guides.weak, condition), sampling.guidance_weak_scale),
            _towards(guides.classifier, numbers, condition, sampling.guidance_classifier_scale),
            _within(sampling.guidance_interval, plain),
            clipped if sampling.clip else _as_it_is,
        ]
        return functools.reduce(lambda denoise, lead: lead(denoise), chain, free(Led(model, classes), condition))

    return apply


def _as_it_is(denoise: Denoise) -> Denoise:
    return denoise


def _classifier_free(sampling: Sampling, negative: int | None) -> Callable[[Led, Condition], Denoise]:
    def lead(model: Led, condition: Condition) -> Denoise:
        denoiser = model.under(condition)
        if not model.classes or sampling.guidance == 1:
            return denoiser
        against = None if negative is None else condition.all_of(negative)
        return ClassifierFree(
            denoiser, sampling.guidance, sampling.guidance_channels, against, sampling.guidance_rescale
        )

    return lead


def _away(weak: Denoise | None, scale: float) -> Lead:
    return _as_it_is if weak is None else lambda strong: AutoGuided(strong, weak, scale)


def _towards(classifier: NoisyClassifier | None, numbers: Tensor | None, condition: Condition, scale: float) -> Lead:
    if classifier is None or numbers is None:
        return _as_it_is
    if condition.label is None:
        raise UserError("classifier guidance leads to a class: expected a label for each sample")
    label = numbers.to(condition.label.device)[condition.label]
    gradient = classifier_gradient(classifier.logits, label, classifier.path, scale)

    def lead(denoise: Denoise) -> Denoise:
        require_same("classifier guidance", denoise.path, classifier.path)
        return ClassifierGuided(denoise, gradient)

    return lead


def _within(interval: tuple[float, float], plain: Denoise) -> Lead:
    return _as_it_is if interval == (0.0, 1.0) else lambda guided: Interval(guided, plain, *interval)


def check_channels(sampling: Sampling, channels: int) -> None:
    """Raises UserError where more channels are to be guided than are diffused."""
    asked = sampling.guidance_channels
    if asked is not None and asked > channels:
        raise UserError(
            f"--guidance-channels {asked}: expected at most {channels}, the channels that the model diffuses; leave it "
            "out to guide all"
        )


def class_number(text: str | None, classes: Sequence[str]) -> int | None:
    """The number of the class to lead away from; UserError where the model lacks it, or where it is more than one."""
    if text is None:
        return None
    numbers = parse_classes(text, classes, "--guidance-negative")
    if len(numbers) > 1:
        raise UserError(f"--guidance-negative {text}: expected one class; several cannot be led away from at once")
    return numbers[0]


def classifier_numbers(drawn: Sequence[str], classifier: NoisyClassifier | None) -> Tensor | None:
    """(K,) int64: the classifier's number of each class that samples are drawn for, matched by name.

    Raises UserError for a class that the classifier does not know.
    """
    if classifier is None:
        return None
    missing = [name for name in drawn if name not in classifier.classes]
    if missing:
        known = ", ".join(classifier.classes[:10])
        raise UserError(
            f"--guidance-classifier: it does not know the class {missing[0]!r} of the model (it knows {known}); "
            "give one that was trained on the model's classes"
        )
    return torch.tensor([list(classifier.classes).index(name) for name in drawn])
