"""Floor 5: a latent store from images and an autoencoder, over several processes, and on after an interruption."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ditkit.app import build
from ditkit.app.kind import publish
from ditkit.app.recipe import Data
from ditkit.base.errors import UserError
from ditkit.base.files import alone, check_new_folder, clear_leftovers, expanded
from ditkit.base.signals import deaf_children
from ditkit.convert.autoencoder import load_autoencoder, save_autoencoder
from ditkit.convert.autoencoder_scales import constants
from ditkit.data import store as files
from ditkit.data.decode import MOST_BAD, Bad, survey, too_many_bad
from ditkit.data.encoding import Interrupted, PosteriorOf, TextEncoder, captions_of, encode_shard
from ditkit.data.loading import check_size
from ditkit.data.source import Source, caption_notes, located, open_source
from ditkit.data.store import Manifest, Plan, Record
from ditkit.encoders.autoencoder import LatentAutoencoder
from ditkit.encoders.precision import in_precision
from ditkit.encoders.tiling import in_tiles


@dataclasses.dataclass(frozen=True)
class Job:
    """What is to be encoded, and how fast: see ``ditkit.app.commands.encode.Options``."""

    data: str
    autoencoder: str
    autoencoder_scale: str | None = None
    size: int | tuple[int, int] | None = None
    channels: int | None = None
    crop: str = "centre"
    crop_options: dict[str, float] = dataclasses.field(default_factory=dict)
    dtype: str = "float32"
    precision: str = "float32"
    tile: int | None = None
    shard: int = 512
    device: str = "auto"
    workers: int = 1


def encode(job: Job, out: Path, text: TextEncoder | None = None) -> Manifest:
    """Encodes ``job`` into the folder ``out``, or goes on with what was begun there; its manifest.

    text: makes the embeddings of the captions that are kept beside the latents; it must go through pickle for several
    workers.

    Raises UserError, before anything is encoded, for what does not fit together, and where ``out`` holds a store of
    something else; for a full device and for more than 1% of broken images, after which it can be gone on with.
    """
    job = dataclasses.replace(job, data=located(job.data))
    source = open_source(job.data)
    _check_out(out, job.data)
    publish(job.autoencoder)
    autoencoder = _load(job.autoencoder, job, job.autoencoder_scale)
    plan = make_plan(job, source, autoencoder, text)
    for note in caption_notes(source):
        tqdm.write(note)
    out.mkdir(parents=True, exist_ok=True)
    busy = f"latent store {out} is being encoded by another process: wait for it, or stop it"
    with alone(out, busy):
        for place in (out, out / files.PROGRESS):
            clear_leftovers(place)
        old = files.read_plan(out)
        if old:
            _check_same(out, old, plan)
        else:
            files.begin(out, plan)
        if (out / files.MANIFEST).is_file():
            files.clear_progress(out)
            return files.read_manifest(out)
        _own_autoencoder(out, autoencoder)
        return _encode(job, out, plan, source, Encoders(_computing(autoencoder, job), text))


@dataclasses.dataclass(frozen=True)
class Encoders:
    """What encodes: images, and captions where there are any to encode."""

    images: PosteriorOf
    text: TextEncoder | None


def make_plan(job: Job, source: Source, autoencoder: LatentAutoencoder, text: TextEncoder | None = None) -> Plan:
    """What the store will be. Raises UserError for images that the autoencoder cannot encode, and for a text encoder
    without captions.
    """
    if text is not None and captions_of(source) is None:
        raise UserError(
            f"data {job.data!r} has no captions for the text encoder {text.identity}: leave it out, or add captions"
        )
    check_size(job.size)
    size = job.size if job.size is not None else survey(source).commonest_size
    height, width = (size, size) if isinstance(size, int) else size
    channels = job.channels or autoencoder.channels
    preprocessing = files.Preprocessing((height, width), channels, crop=job.crop, crop_options=job.crop_options)
    _check_crop(job, preprocessing)
    return Plan(
        format=files.FORMAT,
        autoencoder=files.Encoder(
            identity=autoencoder.identity,
            scale=autoencoder.scale,
            shift=autoencoder.shift,
            spec=job.autoencoder,
            precision=job.precision,
            tile=job.tile,
        ),
        source=files.Origin(spec=job.data, fingerprint=source.fingerprint(), images=len(source)),
        preprocessing=preprocessing,
        classes=source.classes,
        labels=source.labels is not None,
        captions=captions_of(source) is not None,
        shape=autoencoder.latent_shape((channels, height, width)),
        dtype=job.dtype,  # type: ignore[arg-type]  (checked when the plan is made)
        rows=job.shard,
        text=None if text is None else files.Text(text.identity, text.shape),
    )


def _check_crop(job: Job, preprocessing: files.Preprocessing) -> None:
    """Raises UserError for a crop that a store cannot have, or that has nothing left of the images."""
    crop = build.crop(Data(crop=job.crop, crop_options=job.crop_options))
    if crop.drawn:
        kept = " or ".join(name for name, kind in build.known("crop").items() if not kind.drawn)
        raise UserError(
            f"--crop {job.crop} takes another part of an image each time, of which a latent store would keep one: "
            f"expected {kept}; for {job.crop}, train on the images with --data.autoencoder"
        )
    crop.still(preprocessing.size)


def _load(spec: str | Path, job: Job, said: str | None = None) -> LatentAutoencoder:
    scale, shift = constants(said)
    autoencoder = load_autoencoder(spec, scale=scale, shift=shift, device=build.device(job.device))
    assert isinstance(autoencoder, LatentAutoencoder)
    return autoencoder


def _computing(net: LatentAutoencoder, job: Job) -> PosteriorOf:
    return in_precision(in_tiles(net, job.tile), job.precision)


def _check_out(out: Path, data: str) -> None:
    source = expanded(data)
    if source.is_dir() and out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--out {out} lies inside the data {data}, which it would change: choose a folder elsewhere")
    if not files.is_store(out) and not (out / files.PROGRESS).is_dir():
        check_new_folder(out)


def _check_same(out: Path, old: Plan, new: Plan) -> None:
    for key, before, now in files.differences(old, new):
        if key in ("source.spec", "autoencoder.spec"):  # the same under another name
            continue
        what = "the data changed since then" if key.startswith("source.") else "it was begun with other settings"
        raise UserError(
            f"latent store {out} was begun with {key} {before}, now it is {now}: {what}; give what it was begun with, "
            "or choose another --out"
        )


def _encode(job: Job, out: Path, plan: Plan, source: Source, encoders: Encoders) -> Manifest:
    done = _finished(out, plan)
    todo = [n for n in range(plan.shards) if n not in done]
    finished = sum(len(plan.indices(n)) for n in done)
    bar = tqdm(total=plan.source.images, initial=finished, desc="encoding", unit="img", dynamic_ncols=True)
    with bar, contextlib.closing(_shards(job, out, plan, todo, source, encoders)) as shards:
        for number, record in shards:
            done[number] = record
            bar.update(len(plan.indices(number)))
            _check_bad(source, done.values())
    _check_bad(source, done.values())
    if not any(record.rows for record in done.values()):
        raise too_many_bad(source, _bad(done.values()))
    return files.finish(out, plan, [done[n] for n in range(plan.shards)])


def _finished(out: Path, plan: Plan) -> dict[int, Record]:
    """The records of the finished shards, whose content is read again: a damaged one is to be encoded anew."""
    said = {n: record for n in range(plan.shards) if (record := files.read_record(out, n))}
    damaged = []
    for n, record in tqdm(said.items(), "checking finished shards", unit="shard", delay=2, leave=False):
        if not files.is_as_recorded(out, n, record):
            tqdm.write(f"{out / files.shard_name(n)} is not what was written: it is encoded anew")
            damaged.append(n)
    return {n: record for n, record in said.items() if n not in damaged}


def _own_autoencoder(out: Path, autoencoder: LatentAutoencoder) -> None:
    """Writes the store's own autoencoder, unless it is there already and is the same."""
    place = out / files.AUTOENCODER
    with contextlib.suppress(UserError):
        if place.is_dir() and load_autoencoder(place).identity == autoencoder.identity:
            return
    if place.is_dir():
        tqdm.write(f"{place} is not what was written: it is written anew")
    save_autoencoder(autoencoder, place)


def _bad(records: Iterable[Record]) -> list[Bad]:
    return [Bad(*skipped) for record in records for skipped in record.skipped]


def _check_bad(source: Source, records: Iterable[Record]) -> None:
    bad = _bad(records)
    if len(bad) > MOST_BAD * len(source):
        raise too_many_bad(source, bad)


def _shards(
    job: Job, out: Path, plan: Plan, todo: list[int], source: Source, encoders: Encoders
) -> Generator[tuple[int, Record]]:
    """Encodes shards, here or in several processes; yields each one's number and record when it is finished."""
    if job.workers == 1 or len(todo) < 2:
        for number in todo:
            device = build.device(job.device)
            yield number, encode_shard(out, plan, number, source, encoders.images, device=device, text=encoders.text)
        return
    spawn = multiprocessing.get_context("spawn")
    stop = spawn.Event()
    workers = min(job.workers, len(todo))
    pool = ProcessPoolExecutor(workers, spawn, _begin_worker, (job, out, plan, encoders.text, workers, stop))
    try:
        with deaf_children():
            waiting = {pool.submit(_work, number): number for number in todo}
        for future in as_completed(waiting):
            yield waiting[future], future.result()
    except BrokenProcessPool:
        raise UserError(
            f"a process of --workers {workers} died (killed for want of memory?): nothing finished is lost; give the "
            "same command with fewer --workers"
        ) from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


_worker: dict[str, Any] = {}
"""What a worker process needs for every shard; set once, in the worker alone."""


def _begin_worker(job: Job, out: Path, plan: Plan, text: TextEncoder | None, workers: int, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where children are not deaf; the parent hears it and says stop
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    encoders = Encoders(_computing(_load(out / files.AUTOENCODER, job), job), text)
    _worker.update(job=job, out=out, plan=plan, stop=stop, source=open_source(job.data), encoders=encoders)


def _end_with_parent() -> None:
    """Ends this process when its parent was killed: else it would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)


def _check_stop() -> None:
    if _worker["stop"].is_set():
        raise Interrupted


def _work(number: int) -> Record:
    w = _worker
    device, by = build.device(w["job"].device), w["encoders"]
    return encode_shard(
        w["out"], w["plan"], number, w["source"], by.images, device=device, text=by.text, check=_check_stop
    )
