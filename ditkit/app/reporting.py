"""Floor 5: what a run's report shows, drawn and measured; the page itself is made by ditkit.app.report."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ditkit.app import looking, measuring
from ditkit.app.model import Model
from ditkit.app.pictures import cells
from ditkit.app.recipe_files import to_yaml
from ditkit.app.report import GuidancePoint, Metric, Neighbours, ReportData, Trajectory, write_report
from ditkit.app.run import Run, environment
from ditkit.app.samples import Plan, RunSamples
from ditkit.base.files import sha256
from ditkit.condition import Condition
from ditkit.evaluate.copies import FEWEST_HELDOUT, CopyReport
from ditkit.evaluate.networks.network import FeatureNetwork
from ditkit.evaluate.parts import Store
from ditkit.evaluate.protocol import leaves, protocol_hash
from ditkit.sample import trajectory
from ditkit.train import checkpoint
from ditkit.train.ema import MAIN

PER_CLASS = 10
"""Samples of a class on the page."""
MOST_CLASSES = 20
"""Classes on the page, at most."""
MOST_GRIDS = 12
"""Sample grids over training on the page, at most."""
SWEPT = "report"
"""Where a run keeps what its report's guidance sweep saw."""
FILM = 9
"""Times at which a sample on its way from noise to image is shown."""


def report(model: Model, *, command: str) -> Path:
    """Draws, measures and writes report.html; gives its path. metrics.json is used where it is of this checkpoint."""
    run, recipe = model.run, model.run.recipe
    _tell_work(model)
    against = measuring.reference(model, _evaluated_against(run))
    metrics = _metrics(model, against)
    sampling = dataclasses.replace(recipe.sample, guidance=metrics["protocol"]["sampling"]["guidance"])
    shown = measuring.draw(model, sampling, _shown(model), 0, "samples for the report")
    names = model.classes[:MOST_CLASSES] or [""]
    labels = shown.labels if shown.labels is not None else torch.zeros(len(shown.images), dtype=torch.int64)
    records = run.records()
    trained = [r for r in records if "loss" in r]
    data = ReportData(
        name=run.folder.name,
        model=_model_words(model),
        parameters=sum(p.numel() for p in model.denoiser.net.parameters()),
        data=f"{model.facts['source']} ({model.facts['images']:,} images)",
        step=model.step,
        guidance=sampling.guidance if model.classes else None,
        training_seconds=model.facts["seconds"],
        seconds_per_sample=metrics["seconds_per_sample"]["value"],
        metrics={k: Metric.read(v) for k, v in _plain(metrics).items()},
        samples={
            name: shown.images[labels == i][: PER_CLASS if model.classes else None] for i, name in enumerate(names)
        },
        classes=len(model.classes),
        log=trained,
        progress=_progress(model),
        sweep=_sweep(model, against) if model.classes else None,
        trajectory=_trajectory(model, sampling),
        **_near(model, shown.images, against.network),
        evaluations=[r for r in records if r.get("event") == looking.EVENT],
        protocol={"protocol hash": metrics["protocol_hash"], **dict(leaves(metrics["protocol"]))},
        recipe=to_yaml(recipe),
        environment=environment(model.device),
        command=command,
        missing=_missing(model),
    )
    path = run.folder / "report.html"
    write_report(path, data)
    return path


def _tell_work(model: Model) -> None:
    """Says what will be drawn and measured, which may take long, and what makes it less."""
    run, wanted = model.run, model.run.recipe.evaluate
    work = []
    if _measured(model) is None:
        work.append(
            f"{wanted.num:,} samples, as the run was not evaluated at step {model.step:,} (fewer by ditkit evaluate "
            f"{run.folder} --num N before)"
        )
    if model.classes and wanted.sweep:
        scales = f"{len(wanted.sweep)} guidance scales" if len(wanted.sweep) > 1 else "a guidance scale"
        work.append(
            f"{wanted.sweep_num:,} samples for each of {scales}, unless they are there from a report before (fewer by "
            "evaluate.sweep and sweep_num in recipe.yaml)"
        )
    if work:
        tqdm.write(f"the report draws and measures {' and '.join(work)}", file=sys.stderr)


def _missing(model: Model) -> dict[str, str]:
    few = f"fewer than {FEWEST_HELDOUT} images were held out: too few to compare distances with"
    return {
        "neighbours": few,
        "feature_neighbours": few,
        "sweep": "the model is unconditional: there is nothing to guide to",
    }


def _shown(model: Model) -> int:
    return PER_CLASS * max(1, len(model.classes[:MOST_CLASSES])) if model.classes else 8 * PER_CLASS


def _evaluated_against(run: Run) -> str | None:
    found = measuring.read_metrics(run)
    return found["about"]["reference"] if found else None


def _measured(model: Model) -> dict[str, Any] | None:
    """The run's metrics, where they are of this checkpoint and of images of this size."""
    found = measuring.read_metrics(model.run)
    same = found and found["about"]["step"] == model.step and found["protocol"].get("size") == list(model.size)
    return found if same else None


def _metrics(model: Model, against: measuring.Reference) -> dict[str, Any]:
    found = _measured(model)
    if found is not None:
        return found
    recipe = model.run.recipe
    found = measuring.evaluate(model, against, Plan(recipe.sample, recipe.evaluate.num))
    assert found is not None  # this process is alone
    measuring.write_metrics(model.run, found)
    return found


def _plain(metrics: dict[str, Any]) -> dict[str, Any]:
    """The metrics without the protocol, and without the long lists that the page draws elsewhere."""
    rows = {k: v for k, v in metrics.items() if isinstance(v, dict) and "value" in v}
    return {k: {n: x for n, x in v.items() if not isinstance(x, list)} for k, v in rows.items()}


def _model_words(model: Model) -> str:
    m = model.run.recipe.model
    net: Any = model.denoiser.net
    size = m.preset or f"{m.backbone}, width {m.width}, depth {m.depth}, {m.heads} heads, patch {net.patch_size}"
    process = model.run.recipe.process
    return f"{size}; predicts {process.prediction} on the {process.path} path"


def _progress(model: Model) -> dict[int, np.ndarray]:
    _, height, width = model.shape
    found = sorted(model.run.samples.glob("step-" + "[0-9]" * 7 + ".png"), key=_step)
    if len(found) > MOST_GRIDS:
        found = [found[i] for i in np.linspace(0, len(found) - 1, MOST_GRIDS).round().astype(int)]
    grids = {}
    for path in found:
        with Image.open(path) as picture:
            grids[_step(path)] = cells(picture, height, width)[: 2 * max(10, len(model.classes[:10]))]
    return grids


def _step(path: Path) -> int:
    return int(re.sub(r"\D", "", path.stem))


def _sweep(model: Model, against: measuring.Reference) -> list[GuidancePoint]:
    """The scales of the recipe; what was drawn for them is kept, so that the next report of this checkpoint has it."""
    recipe, folder = model.run.recipe, model.run.folder
    weights = sha256(checkpoint.weights_file(checkpoint.latest(folder), MAIN))
    points = []
    for guidance in tqdm(recipe.evaluate.sweep, "guidance sweep"):
        sampling = dataclasses.replace(recipe.sample, guidance=guidance)
        samples = RunSamples.of(model, Plan(sampling, recipe.evaluate.sweep_num))
        said = protocol_hash(measuring.protocol(samples, against))
        found = measuring.measure(
            samples,
            against,
            together=sampling.batch_size,
            store=Store(folder / SWEPT / f"guidance-{guidance:g}", f"{said} {weights}"),
            progress=f"guidance {guidance:g}",
        )
        assert found is not None  # this process is alone
        chosen = {k: Metric.read(v) for k, v in found.scores.items() if k != "classifier_heldout_accuracy"}
        points.append(GuidancePoint(guidance, chosen, found.first[:10]))
    return points


@torch.inference_mode()
def _trajectory(model: Model, sampling: Any) -> Trajectory:
    known = model.names(sampling)
    labels = model.labels(5, range(len(known)))
    ts = model.grid(sampling)
    seeds = range(5)
    states = list(
        trajectory(model.denoiser, Condition(label=labels), seeds, model.latent_shape, ts, **model.how(sampling))
    )
    kept = [states[i] for i in np.unique(np.linspace(0, len(states) - 1, FILM).round().astype(int))]
    names = [f"seed {s}" if labels is None else f"{known[int(labels[i])]}, seed {s}" for i, s in enumerate(seeds)]
    return Trajectory(
        t=[float(s.t) for s in kept],
        states=_films([model.pixels(s.x) for s in kept]),
        predictions=_films([model.pixels(s.said.x0) for s in kept]),
        names=names,
    )


def _films(frames: list[torch.Tensor]) -> list[torch.Tensor]:
    """Frames (N, C, H, W) of N samples, in order, as one film (frames, C, H, W) for each sample."""
    return list(torch.stack(frames, dim=1))


def _near(model: Model, samples: torch.Tensor, network: FeatureNetwork) -> dict[str, Neighbours]:
    """The nearest training images by the fields of the page's data; none where too few images were held out."""
    found = measuring.copies(model, samples, network)
    if found is None:
        return {}
    pixels = "Euclidean distance over pixels in [-1, 1]"
    features = "Euclidean distance over the features that the metrics are measured in"
    return {
        "neighbours": _neighbours(samples, found.training, found.pixels, pixels),
        "feature_neighbours": _neighbours(samples, found.training, found.features, features),
    }


def _neighbours(samples: torch.Tensor, training: torch.Tensor, said: CopyReport, space: str) -> Neighbours:
    rows = said.most_alike(8)
    return Neighbours(
        samples=samples[rows],
        nearest=torch.stack([training[said.rows[i]] for i in rows]),
        distances=said.distances[rows].numpy(),
        sample_distances=said.distances[:, 0].numpy(),
        heldout_distances=said.nearest_heldout.numpy(),
        copies=len(said.copies),
        threshold=said.distance_threshold,
        space=space,
        rule=said.rule,
    )
