"""Floor 5: the likelihood of real images under a run's model."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ditkit.app import build
from ditkit.app.model import Model
from ditkit.app.references import matched_labels
from ditkit.app.run import Run, environment
from ditkit.app.stored import read_images
from ditkit.app.training import split
from ditkit.base.errors import UserError
from ditkit.base.files import write_json
from ditkit.condition import NULL_LABEL, Condition
from ditkit.data.images import Images
from ditkit.data.loading import load_images
from ditkit.data.source import open_source
from ditkit.data.store import is_store
from ditkit.evaluate.bits import Bits, How, bits_per_dim, probes_for
from ditkit.evaluate.likelihood import default_times
from ditkit.evaluate.statistics import SPREAD

WRITTEN = "likelihood.json"


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Images to measure, the condition of each, and what is to be said of both: where from, which, labelled how."""

    images: Images
    condition: Condition
    about: dict[str, Any]


def check_pixels(run: Run) -> None:
    """Raises UserError for a run that diffuses latents, whose model has no density of pixels."""
    if run.recipe.data.autoencoder is not None or is_store(run.recipe.data.source):
        raise UserError(
            f"run {run.folder} diffuses latents, and its decoder gives images no density: bits per dimension need a "
            "run trained on pixels (without --data.autoencoder, not from a latent store)"
        )


def choose(model: Model, source: str | None, num: int) -> Chosen:
    """``num`` images, evenly spaced in a source, or all where it has fewer.

    source None: what the run was trained on, of that the held-out ones where there are. UserError: no such source; the
    run's own data that changed; classes that the model does not know.
    """
    images, about = _own(model) if source is None else _given(model, source)
    for note in images.notes:
        tqdm.write(note)
    rows = torch.linspace(0, len(images) - 1, min(num, len(images)), dtype=torch.float64).round().long()
    part = images.subset(rows)
    labels = matched_labels(part, model.classes, f"--data {about['source']}") if model.classes else None
    said = "none" if not model.classes else "of the data" if labels is not None else "none given: the learned null"
    return Chosen(part, Condition(label=_or_null(labels, model, len(part))), about | {"labels": said})


def _given(model: Model, source: str) -> tuple[Images, dict[str, Any]]:
    opened = open_source(source)
    images = load_images(opened, size=model.size, channels=model.shape[0])
    return images, {"source": source, "fingerprint": opened.fingerprint(), "which": "all", "notes": images.notes}


def _own(model: Model) -> tuple[Images, dict[str, Any]]:
    recipe = model.run.recipe
    source, fingerprint = recipe.data.source, open_source(recipe.data.source).fingerprint()
    if fingerprint != model.facts["fingerprint"]:
        raise UserError(
            f"data {source!r} changed since the run began, and with it which images are held out: give --data"
        )
    images = read_images(recipe.data, build.crop(recipe.data))
    learned, held = split(images, recipe)
    which = "trained on" if held is None else "held out"
    about = {"source": source, "fingerprint": fingerprint, "which": which, "notes": images.notes}
    return learned if held is None else held, about


def _or_null(labels: Tensor | None, model: Model, count: int) -> Tensor | None:
    """The labels; where the model has classes and the data none, the null, if it was ever trained."""
    if labels is not None or not model.classes:
        return labels
    if model.run.recipe.train.label_dropout == 0:
        raise UserError(
            "the data have no classes, and the model (train.label_dropout 0) never learned to do without: "
            f"give --data with one folder for each class, such as {model.classes[0]!r}"
        )
    return torch.full((count,), NULL_LABEL)


def measure(model: Model, chosen: Chosen, how: How) -> dict[str, Any]:
    """The content of likelihood.json: bits per dimension with their standard error, and the protocol."""
    start = time.perf_counter()
    found: Bits = bits_per_dim(
        model.denoiser, chosen.images, chosen.condition, how, device=model.device, progress="likelihood"
    )
    ends = default_times(model.denoiser.path)[[0, -1]].tolist()
    return {
        "bits_per_dim": found.summary(),
        "evaluations": {"value": found.evaluations, "unit": "evaluations of the model for each image"},
        "protocol": {
            "run": str(model.run.folder),
            "step": model.step,
            "weights": "ema",
            "data": chosen.about,
            "dequantisation": "uniform, one draw an image",
            "divergence": f"Hutchinson, {how.probes} Rademacher probes" if how.probes else "exact",
            "solver": {"name": "dopri5", "rtol": how.tolerance, "atol": how.tolerance, "batch_size": how.batch_size},
            "times": ends,
            "prior": "N(0, sigma^2 I) at the last time, which samples start from",
            "precision": "float32",
            "seed": how.seed,
            "seconds": time.perf_counter() - start,
            "environment": environment(model.device),
        },
    }


def entry(model: Model, num: int) -> dict[str, Any]:
    """Bits per dimension of ``num`` images of the run's own data, held-out ones where there are, as in metrics.json.

    Gives {"bits_per_dim": ..., "protocol": what it hangs on besides the model}. UserError as ``choose``.
    """
    how = How(probes_for(math.prod(model.shape)))
    measured = measure(model, choose(model, None, num), how)
    bits = {key: value for key, value in measured["bits_per_dim"].items() if value is not None}
    if "standard_error" in bits:
        bits["error_from"] = SPREAD
    said = {
        k: v for k, v in measured["protocol"].items() if k not in ("run", "step", "weights", "seconds", "environment")
    }
    said["data"] = {key: said["data"][key] for key in ("fingerprint", "which", "labels")}
    return {"bits_per_dim": {**bits, "note": f"{said['data']['which']} images"}, "protocol": said}


def write(run: Run, measured: dict[str, Any]) -> Path:
    """Writes the run's likelihood.json."""
    path = run.folder / WRITTEN
    write_json(path, measured)
    return path
