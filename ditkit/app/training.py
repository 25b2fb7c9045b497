"""Floor 5: a training run from its recipe: data, task, loop, log, pictures, checkpoints; alike for all kinds."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from tqdm import tqdm

from ditkit.app import build
from ditkit.app.keeping import BEST, save
from ditkit.app.kind import Kind, find_kind, publish
from ditkit.app.recipe import AnyRecipe, Recipe
from ditkit.app.recipe_files import to_yaml
from ditkit.app.run import Run, check_autoencoder, check_new, create, kind_of_run, open_checkpoint, open_run
from ditkit.app.stored import read_latents
from ditkit.base.errors import UserError
from ditkit.base.files import clear_leftovers, expanded, write_text
from ditkit.base.signals import Interrupted, interrupted_by_signals
from ditkit.data.buckets import BucketSet, load_buckets
from ditkit.data.images import Examples
from ditkit.data.loader import batch, prefetch, split_heldout
from ditkit.data.loading import load_images
from ditkit.data.source import located, open_source, recognised
from ditkit.data.store import is_store
from ditkit.encoders.autoencoder import Autoencoder
from ditkit.train import checkpoint
from ditkit.train.ema import decays
from ditkit.train.trainer import Hook, Trainer, stop_on_signals

E = TypeVar("E", bound=Examples)
T = TypeVar("T", bound=Any)

_NAMED = 10
"""Images that are named at the end of a training."""


def read_data(recipe: AnyRecipe, autoencoder: Autoencoder) -> tuple[Examples, dict[str, Any]]:
    """The recipe's examples, and the facts about them that the model and later readers need, as JSON values.

    input_size and channels are those of what is diffused: of the latents, or in pixel space of the images.
    """
    if is_store(recipe.data.source):
        return read_latents(recipe.data)
    source = open_source(recipe.data.source)
    how = {"size": recipe.data.size, "channels": recipe.data.channels, "crop": build.crop(recipe.data)}
    multiple = recipe.data.buckets
    images = load_images(source, **how) if multiple is None else load_buckets(source, multiple, **how)
    if not recipe.data.classes:
        images.labels, images.classes = None, ()
    channels, height, width = autoencoder.latent_shape(images.shape)
    facts = {
        "input_size": [height, width],
        "channels": channels,
        "image_shape": list(images.shape),
        "autoencoder": autoencoder.identity,
        "classes": list(images.classes),
        "images": len(images),
        "skipped": len(images.skipped),
        "source": recipe.data.source,
        "fingerprint": source.fingerprint(),
    }
    return images, facts


def split(images: E, recipe: AnyRecipe) -> tuple[E, E | None]:
    """What is trained on, and what is held out (None: nothing), by the recipe's share and seed."""
    if not recipe.data.heldout:
        return images, None
    learned, held = split_heldout(images, recipe.data.heldout, recipe.seed)
    return images.subset(learned), images.subset(held)


def check_apart(out: Path, source: str) -> None:
    """Raises UserError for a run inside its data: its pictures would become images of the set."""
    data = expanded(source)
    if data.is_dir() and out.resolve().is_relative_to(data.resolve()):
        raise UserError(f"--out {out} lies inside the data {source}, which it would change: choose a folder elsewhere")


@dataclasses.dataclass(frozen=True)
class Means:
    """What a run is made with besides its recipe, so that several runs can share what takes time to read or measure.

    kind: from the recipe to its kind of run. data: from the recipe and its autoencoder to examples and facts.
    """

    kind: Callable[[Any], Kind]
    data: Callable[[AnyRecipe, Autoencoder], tuple[Examples, dict[str, Any]]] = read_data


@dataclasses.dataclass(frozen=True)
class Stopped:
    """What stopped a run. signal: its name.

    missing: what is yet to be drawn or measured of a training that is complete, in words; "": it is not complete.
    """

    signal: str
    missing: str = ""


def start(recipe: AnyRecipe, out: Path, means: Means | None = None) -> Stopped | None:
    """A new run; None when it is trained, else what stopped it. Raises before any folder is made.

    means: None: of its own.
    """
    check_new(out)
    check_apart(out, recipe.data.source)
    decays(recipe.train)  # one that is kept twice is said before the data are read
    publish(recipe.data.autoencoder)
    recipe = _findable(recipe)
    means = means or Means(find_kind(recipe.kind))
    kind = means.kind(recipe)
    images, facts = means.data(recipe, kind.autoencoder)
    _check_shapes(kind, images, facts)
    learned, held = split(images, recipe)
    trainer = Trainer(kind.task(facts, learned), recipe.train)
    out.mkdir(parents=True, exist_ok=True)
    with Run(out, kind.settings).alone():
        run = create(out, kind.settings)
        _begin(run, images, facts)
        return _train(run, kind, trainer, (learned, held), facts)


def _begin(run: Run[Any], images: Examples, facts: dict[str, Any]) -> None:
    """Begins the log with what is known of the data."""
    records = [{"event": "start", "step": 0, "data": facts}]
    run.append(*records, *({"event": "data", "step": 0, "note": note} for note in images.notes))
    for note in images.notes:
        tqdm.write(note)


def _check_shapes(kind: Kind, images: Examples, facts: dict[str, Any]) -> None:
    """Raises UserError where the network does not take every shape of the images."""
    if not isinstance(images, BucketSet):
        return
    try:
        with torch.device("meta"):
            net = kind.network(kind.settings, facts)
            for size in images.used:
                shape = kind.autoencoder.latent_shape((images.shape[0], *size))
                net(*kind.example(kind.settings, facts | {"input_size": list(shape[1:])}))
    except UserError as error:
        raise UserError(f"--data.buckets {kind.settings.data.buckets}: {error}") from error


def _findable(recipe: T) -> T:
    """The recipe with absolute paths of its data and of other runs, so that the run goes on from any folder."""
    data = dataclasses.replace(
        recipe.data, source=located(recipe.data.source), autoencoder=_absolute(recipe.data.autoencoder)
    )
    found = dataclasses.replace(recipe, data=data)
    if not isinstance(found, Recipe):
        return found
    sample = dataclasses.replace(
        found.sample,
        guidance_weak=_absolute(found.sample.guidance_weak),
        guidance_classifier=_absolute(found.sample.guidance_classifier),
    )
    return dataclasses.replace(found, sample=sample)  # type: ignore[return-value]  (of its own class)


def _absolute(place: str | None) -> str | None:
    """The absolute path of what is there; other names, such as those of the hub, stay."""
    return os.path.abspath(expanded(place)) if place is not None and expanded(place).exists() else place


def resume(
    folder: Path, limits: dict[str, Any], source: str | None = None, means: Means | None = None
) -> Stopped | None:
    """Goes on with a run from its newest checkpoint; gives what ``start`` gives.

    limits: new values of train.steps and train.minutes. source: where the same images are now; None: where they were.
    means: see ``start``.
    """
    found = find_kind(kind_of_run(folder))
    run = open_run(folder, found.recipe)
    with run.alone():
        for place in (run.folder, run.folder / checkpoint.FOLDER, run.folder / BEST, run.samples):
            clear_leftovers(place)
        return _go_on(run, limits, source, means or Means(found))


def _go_on(run: Run[Any], limits: dict[str, Any], source: str | None, means: Means) -> Stopped | None:
    recipe = dataclasses.replace(run.recipe, train=dataclasses.replace(run.recipe.train, **limits))
    if source is not None:
        recipe = _findable(dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, source=source)))
    folder, run = run.folder, Run(run.folder, recipe)
    _check_there(run)
    found = open_checkpoint(checkpoint.latest(folder)) if checkpoint.steps(folder) else None
    kind = means.kind(recipe)
    if found:
        check_autoencoder(run, kind.autoencoder, found.about)
    images, facts = means.data(recipe, kind.autoencoder)
    if found and found.about["fingerprint"] != facts["fingerprint"]:
        raise UserError(f"data {facts['source']!r} changed since the run began: a resumed run needs the same images")
    learned, held = split(images, recipe)
    trainer = Trainer(kind.task(facts, learned), recipe.train)
    if found:
        _restore(trainer, found)
    if limits or source is not None:
        write_text(folder / "recipe.yaml", to_yaml(recipe))
    dropped = run.forget_after(trainer.step)
    if not run.records():  # killed before it had begun
        _begin(run, images, facts)
    note = f"resumed at step {trainer.step}" + (f"; {dropped} later log records are made anew" if dropped else "")
    if trainer.finished:
        note += ", where the training ends: nothing is left of it (more by --train.steps or --train.minutes)"
    run.append({"event": "resume", "step": trainer.step, "note": note})
    tqdm.write(note)
    return _train(run, kind, trainer, (learned, held), facts)


def _check_there(run: Run[Any]) -> None:
    """Raises UserError where a run's data are not where its recipe says."""
    source = run.recipe.data.source
    if recognised(source) is None and not expanded(source).exists():
        where = "" if os.path.isabs(expanded(source)) else f" in {os.getcwd()}"
        raise UserError(
            f"data {source!r} of run {run.folder} does not exist{where}: put the images back, or say where they are "
            f"now: ditkit train --resume {run.folder} --data PLACE"
        )


def _restore(trainer: Trainer, found: checkpoint.Checkpoint) -> None:
    """Brings a new trainer to where it was when ``save`` wrote the checkpoint."""
    if found.step > trainer.settings.steps:
        run = found.folder.parent.parent
        raise UserError(f"--train.steps {trainer.settings.steps}: run {run} is at step {found.step:,} already")
    trainer.step, trainer.seconds = found.step, float(found.about["seconds"])
    checkpoint.load_weights(trainer.net, found.weights("weights"), found.folder)
    for name, average in trainer.averages.items():
        checkpoint.load_weights(average.net, found.weights(name), found.folder)
    checkpoint.load_optimizer(trainer.optimizer, trainer.net, found.tensors("optimizer"))
    trainer.meter.load(found.tensors("meter"), trainer.device)
    trainer.task.load(found.tensors("task") if trainer.task.state() else {})


def _train(
    run: Run[Any], kind: Kind, trainer: Trainer, data: tuple[Examples, Examples | None], facts: dict[str, Any]
) -> Stopped | None:
    """data: what is learned from, and what is held out."""
    recipe, settings, (images, held) = run.recipe, trainer.settings, data

    def make(step: int) -> Any:
        return batch(images, step=step, batch_size=settings.batch_size, seed=recipe.seed, flip=recipe.data.flip)

    shown = kind.pictures(run, facts, held)
    hooks = [Hook(settings.checkpoint_every, lambda trainer: save(run, trainer, facts)), *shown]
    _log_skipped(run, trainer.step, images)
    with stop_on_signals(trainer):
        _make_up(trainer, shown)
        with _logging(run) as log, contextlib.closing(prefetch(make, trainer.step)) as batches:
            trainer.run(batches, log, hooks)
        if trainer.finished and trainer.step < settings.steps:
            tqdm.write(
                f"the {settings.minutes:g} minutes of --train.minutes ended the training at step {trainer.step:,} of "
                f"{settings.steps:,}; with more of them, --resume {run.folder} goes on",
                file=sys.stderr,
            )
        save(run, trainer, facts)
        _log_skipped(run, trainer.step, images)
        stopped = _finish(trainer, shown)
    if images.skipped:
        named = "; ".join(f"{name} ({reason})" for name, reason in images.skipped[:_NAMED])
        more = "; ..." if len(images.skipped) > _NAMED else ""
        tqdm.write(f"images that do not decode and were skipped: {len(images.skipped):,}, {named}{more}")
    return stopped


def _make_up(trainer: Trainer, shown: Sequence[Hook]) -> None:
    """Does what was due with the checkpoint that is gone on from, where a kill came between the two."""
    for hook in shown:
        if trainer.step and not trainer.finished and trainer.step % hook.every == 0 and not hook.made(trainer):
            hook.call(trainer)


def _finish(trainer: Trainer, shown: Sequence[Hook]) -> Stopped | None:
    """Draws and measures once more at the end of a training; a signal ends that at once."""
    if not trainer.finished:
        for hook in shown:
            if hook.when_stopped:
                hook.call(trainer)
        return Stopped(trainer.stopping or "")
    left = [hook for hook in shown if not hook.made(trainer)]
    try:
        with interrupted_by_signals():
            while left:
                if trainer.stopping:
                    raise Interrupted(trainer.stopping)
                tqdm.write(f"training is complete; making the last {left[0].makes}", file=sys.stderr)
                left[0].call(trainer)
                left.pop(0)
    except Interrupted as stop:
        return Stopped(stop.signal, " and ".join(hook.makes for hook in left))
    return None


def _log_skipped(run: Run[Any], step: int, images: Examples) -> None:
    """Names the images that do not decode in the log, each once."""
    named = {r["image"] for r in run.records() if r.get("event") == "skipped"}
    for name, reason in images.skipped:
        if name not in named:
            run.append({"event": "skipped", "step": step, "image": name, "reason": reason})


@contextlib.contextmanager
def _logging(run: Run[Any]) -> Any:
    """Gives what takes the records of the log: log.jsonl, and TensorBoard where its extra is installed."""
    board = _tensorboard(run.folder)

    def log(record: dict[str, float]) -> None:
        run.append(record)
        if board:
            for name in record.keys() - {"step"}:
                board.add_scalar(name, record[name], int(record["step"]))

    try:
        yield log
    finally:
        if board:
            board.close()


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
