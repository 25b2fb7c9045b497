"""Floor 5: measuring samples against real images; the numbers with all that they hang on, as metrics.json has them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import PIL
import torch
from torch import Tensor

import ditkit
from ditkit.app import build
from ditkit.app.model import Model
from ditkit.app.recipe import Data, Sampling
from ditkit.app.references import MOST, Reference, Space, evenly, open_reference
from ditkit.app.run import Run, environment
from ditkit.app.samples import Plan, RunSamples
from ditkit.app.stored import read_images
from ditkit.app.training import split
from ditkit.base.errors import UserError
from ditkit.base.files import write_json
from ditkit.base.workers import ALONE, Workers
from ditkit.data.crops import Crop
from ditkit.data.images import CENTRE, Images
from ditkit.data.latents import LatentStore
from ditkit.data.store import is_store
from ditkit.evaluate.copies import FEWEST_HELDOUT, CopyReport, copy_report, feature_copy_report, first_equal
from ditkit.evaluate.measured import BATCH, Side
from ditkit.evaluate.networks.network import FeatureNetwork, as_rgb
from ditkit.evaluate.npz import image_writer
from ditkit.evaluate.parts import Each, Given, Samples, Store, add, collect, parts_of
from ditkit.evaluate.protocol import protocol_hash

CHECKED = 2_000
"""Samples that are looked at for copies of training images, at most: the first ones."""
ONE_SET = (
    "of one set of samples, in their classes' shares: influence of each sample (Fréchet distance, less its second "
    "order; MMD), jackknife of groups (recall, coverage; Fréchet distance of few samples), binomial (other fractions), "
    "of the mean, over splits (Inception Score)"
)


class Subject(Samples, Protocol):
    """Samples, with what their protocol says of how they came to be.

    shape: (C, H, W). labels: (N,), and captions, one each; None where they have none. strata: see ``measured.Side``.
    """

    @property
    def protocol(self) -> dict[str, Any]: ...

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def labels(self) -> Tensor | None: ...

    @property
    def captions(self) -> Sequence[str] | None: ...

    @property
    def strata(self) -> Tensor | None: ...


def reference(model: Model, source: str | None, space: Space | None = None) -> Reference:
    """The real images to measure a model against; None: what it was trained on (the held-out ones too).

    What it was trained on is cropped as for the training, in the crop's still form, also where it is named.
    A classifier of them and their statistics are made once and kept in the run's folder, by their size where it is not
    that of the training.
    """
    folder, trained = model.run.folder, list(model.shape) == list(model.facts["image_shape"])
    own = model.facts.get("source")  # published weights have none
    return open_reference(
        source or model.facts["source"],
        shape=model.shape,
        classes=model.classes,
        space=space or Space(),
        folder=folder if trained else folder / "sizes" / "{}x{}".format(*model.size),
        device=model.device,
        crop=_crop(model.run.recipe.data) if source in (None, own) else CENTRE,
        captioned=False,  # a run's samples are drawn for classes or for nothing
    )


def _crop(data: Data) -> Crop:
    return LatentStore(data.source).plan.preprocessing.made() if is_store(data.source) else build.crop(data)


def protocol(subject: Subject, against: Reference) -> dict[str, Any]:
    """All that the numbers hang on besides the model: equal protocols make two results comparable."""
    return json.loads(
        json.dumps(
            {
                "samples": len(subject),
                **subject.protocol,
                "reference": {
                    "fingerprint": against.fingerprint,
                    "images": against.side.count,
                    "resizing": against.resizing,
                },
                "feature_space": dataclasses.asdict(against.network.protocol),
                "scores": against.space.scores,
                "standard_error": ONE_SET,
                "versions": {
                    "ditkit": ditkit.__version__,
                    "torch": torch.__version__,
                    "numpy": np.__version__,
                    "pillow": PIL.__version__,
                },
            }
        )
    )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """scores: as in metrics.json. left_out: scores that were not measured, and why. first: the first samples.

    There are ``CHECKED`` of these, at most. seconds: that the samples took to be made.
    """

    scores: dict[str, dict[str, Any]]
    left_out: dict[str, str]
    first: Tensor
    seconds: float


def measure(
    subject: Subject,
    against: Reference,
    *,
    together: int = 1,
    store: Store | None = None,
    workers: Workers = ALONE,
    npz: Path | None = None,
    progress: str | None = "samples",
) -> Outcome | None:
    """Draws (or reads) all samples and scores them; None in processes that do not lead.

    together: samples that are best made at once. store: keeps what is done. npz: a file for the images, as ADM's arr_0.
    Raises UserError before anything is drawn where a score that was asked for by name cannot be had.
    """
    labelled, captioned = subject.labels is not None, subject.captions is not None
    against.check(subject.shape, len(subject), labelled=labelled, captioned=captioned)
    quantities = against.quantities
    side, first, seconds = Side(len(subject), strata=subject.strata), [], 0.0
    every = "images" in quantities or npz is not None
    parts = collect(
        _Judged(subject, against.labelled),
        against.network,
        parts_of(len(subject), together),
        keep=lambda rows: every or rows.start < CHECKED,
        store=store,
        workers=workers,
        progress=progress,
    )
    with contextlib.ExitStack() as stack:
        write: Callable[[Tensor], None] | None = None
        for part in parts:
            add(side, part, quantities)
            seconds += part.seconds
            if part.images is None:
                continue
            if part.rows.start < CHECKED:
                first.append(part.images)
            if npz is not None:
                _, _, height, width = part.images.shape
                write = write or stack.enter_context(image_writer(npz, len(subject), height, width)).write
                write(as_rgb(part.images))
    if not workers.leads:
        return None
    return Outcome(against.scores(side), against.left_out(side), torch.cat(first)[:CHECKED], seconds)


@dataclasses.dataclass(frozen=True)
class _Judged:
    """Samples whose labels are left out where the network cannot judge them."""

    samples: Samples
    labelled: bool

    def __len__(self) -> int:
        return len(self.samples)

    def part(self, rows: range, each: Each) -> Given:
        given = self.samples.part(rows, each)
        return given if self.labelled else given._replace(labels=None)


@dataclasses.dataclass(frozen=True)
class Copies:
    """How near samples come to training images: in pixels, and in the features of the reference's network."""

    training: Tensor
    pixels: CopyReport
    features: CopyReport


def copies(model: Model, samples: Tensor, network: FeatureNetwork) -> Copies | None:
    """How near samples come to training images beside held-out ones; None where too few were held out to tell."""
    recipe = model.run.recipe
    if not recipe.data.heldout:
        return None
    learned, held = split(read_images(recipe.data, build.crop(recipe.data), model.sides), recipe)
    if held is None or len(held) < FEWEST_HELDOUT:
        return None
    training, heldout = _all(learned), _all(held)
    seen = [_features(images, network) for images in (samples, training, heldout)]
    seen[1] = seen[1][first_equal(training)]  # those of equal images may differ by a rounding
    return Copies(training, copy_report(samples, training, heldout), feature_copy_report(*seen))


def _all(images: Images) -> Tensor:
    images = evenly(images, MOST)
    return images.get(torch.arange(len(images)))


def _features(images: Tensor, network: FeatureNetwork) -> Tensor:
    return torch.cat([network.look(part).features for part in images.split(BATCH)])


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Samples (uint8), the labels and seeds that they were drawn for."""

    images: Tensor
    labels: Tensor | None
    seeds: Sequence[int]


def draw(model: Model, sampling: Sampling, num: int, seed: int, progress: str) -> Drawn:
    """``num`` samples to be shown, classes in turn (so as balanced as can be), seeds counting up from ``seed``."""
    labels, seeds = RunSamples.of(model, Plan(sampling, num, seed)).labels, range(seed, seed + num)
    return Drawn(model.draw(seeds, labels, sampling, progress=progress), labels, seeds)


def evaluate(
    model: Model,
    against: Reference,
    plan: Plan,
    *,
    store: Store | None = None,
    workers: Workers = ALONE,
    npz: Path | None = None,
    progress: str | None = "samples",
) -> dict[str, Any] | None:
    """The content of metrics.json for a run; None in processes that do not lead. See ``measure`` for the options."""
    samples = RunSamples.of(model, plan)
    said = protocol(samples, against)
    found = measure(
        samples,
        against,
        together=plan.sampling.batch_size,
        store=store,
        workers=workers,
        npz=npz,
        progress=progress,
    )
    if found is None:
        return None
    speed = {"seconds_per_sample": {"value": found.seconds / plan.num, "samples": plan.num}}
    checked = _copy_scores(copies(model, found.first, against.network))
    about = {
        "samples": str(model.run.folder),
        "step": model.step,
        "reference": against.source,
        "left_out": found.left_out,
        "environment": environment(model.device),
    }
    return result({**found.scores, **speed, **checked}, said, about)


def _copy_scores(found: Copies | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {"copy_rate": found.pixels.summary(), "copy_rate_in_features": found.features.summary()}


def result(scores: dict[str, Any], said: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """The content of metrics.json. about: what was measured against what, where and when."""
    return {**scores, "protocol": said, "protocol_hash": protocol_hash(said), "about": about}


def read_metrics(run: Run) -> dict[str, Any] | None:
    """The run's metrics.json; None where there is none. UserError where it is damaged."""
    path = run.folder / "metrics.json"
    if not path.is_file():
        return None
    found = read_result(path, f"make it anew with ditkit evaluate {run.folder}")
    try:
        _ = found["about"]["step"], found["about"]["reference"], float(found["protocol"]["sampling"]["guidance"])
        _ = found["seconds_per_sample"]["value"]
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise _unreadable(path, error, f"make it anew with ditkit evaluate {run.folder}") from None
    return found


def read_result(path: Path, remedy: str = "make it anew with ditkit evaluate") -> dict[str, Any]:
    """What ``ditkit evaluate`` wrote. UserError where it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"no {path}: expected what ditkit evaluate writes; {remedy}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        values = [float(e["value"]) for e in found.values() if "value" in e and not isinstance(e, str)]
        if not values or found["protocol_hash"] != protocol_hash(found["protocol"]):
            raise ValueError("its protocol_hash is not that of its protocol")
        return found
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise _unreadable(path, error, remedy) from None


def _unreadable(path: Path, error: Exception, remedy: str) -> UserError:
    return UserError(
        f"{path} cannot be read ({type(error).__name__}: {error}): expected what ditkit evaluate writes; "
        f"delete it, or {remedy}"
    )


def write_metrics(run: Run, metrics: dict[str, Any]) -> Path:
    """Writes the run's metrics.json."""
    path = run.folder / "metrics.json"
    write_json(path, metrics)
    return path
