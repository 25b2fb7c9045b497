"""Encode images once, into a latent store to train from: ditkit encode --data SOURCE --autoencoder A --out STORE."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.app.names import SOURCES, named
from ditkit.app.recipe import Tile
from ditkit.base.errors import UserError
from ditkit.train.settings import STRICT, Positive


@dataclass(frozen=True, config=STRICT)
class Options:
    """Encode images with an autoencoder: posterior means and deviations of each image and its mirror image, labels and
    captions, for ditkit train --data STORE. After an interruption the same command goes on where it was.
    """

    data: Annotated[str, tyro.conf.arg(help=f"The images: {SOURCES}.")] = ""
    autoencoder: str = ""
    """The autoencoder: a folder (also a run), a file of weights, or a name on the hub (OWNER/NAME[/FOLDER])."""
    autoencoder_scale: str | None = None
    """Its scale, where its files do not say it: sd, sdxl, sd3, flux, a number, or SCALE,SHIFT."""
    out: Path | None = None
    """The store's folder: new, or one that was begun with the same settings."""
    size: int | tuple[int, int] | None = None
    """Height and width in pixels that images are brought to; None: what most of them have."""
    channels: Literal[1, 2, 3, 4] | None = None
    """1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; None: what the autoencoder takes."""
    crop: Annotated[str, tyro.conf.arg(help_behavior_hint=named("crop"))] = "centre"
    """How images are brought to that size (ditkit info crops); not random, of which a store would keep one."""
    crop_options: dict[str, float] = dataclasses.field(default_factory=dict)
    """Options of the crop, such as margin 2."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """How the latents are kept; the halves take half the space."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """How the autoencoder computes; what is written is as dtype says."""
    tile: Tile | None = None
    """Take images of more latents a side than this apart, to encode them in less memory; None: none."""
    shard: Positive = 512
    """Images per file; what is lost at most when it is killed."""
    device: str = "auto"
    """auto, cpu, cuda, ...; auto: a GPU if there is one."""
    workers: Positive = 1
    """Processes that encode side by side."""
    verify: Path | None = None
    """Check every checksum of this finished store, and do nothing else."""


def main(args: Sequence[str]) -> int:
    """The command."""
    options = parse(Options, "encode", args)
    if options.verify is not None:
        return _verify(options.verify)
    for name in ("data", "autoencoder", "out"):
        if not getattr(options, name):
            raise UserError(f"--{name} is missing: expected ditkit encode --data SOURCE --autoencoder A --out STORE")
    assert options.out
    from ditkit.app.encoding import Job, encode

    job = Job(
        data=options.data,
        autoencoder=options.autoencoder,
        autoencoder_scale=options.autoencoder_scale,
        size=options.size,
        channels=options.channels,
        crop=options.crop,
        crop_options=options.crop_options,
        dtype=options.dtype,
        precision=options.precision,
        tile=options.tile,
        shard=options.shard,
        device=options.device,
        workers=options.workers,
    )
    _tell(encode(job, options.out), options.out)
    return 0


def _verify(store: Path) -> int:
    from ditkit.data.latents import LatentStore

    opened = LatentStore(store)
    opened.verify()
    print(f"{store}: {len(opened):,} images in {len(opened.manifest.rows)} shards, every checksum is right")
    return 0


def _tell(manifest, out: Path) -> None:
    plan, statistics = manifest.plan, manifest.statistics
    size = sum(file.bytes for file in manifest.files.values()) / 2**20
    print(f"{sum(manifest.rows):,} images as {plan.dtype} latents {plan.shape} in {out} ({size:.1f} MiB)")
    if manifest.skipped:
        named = "; ".join(f"{name} ({reason})" for name, reason in manifest.skipped[:10])
        print(f"{len(manifest.skipped)} images do not decode and were left out: {named}")
    encoder = plan.autoencoder
    print(f"published normalisation: (z - {encoder.shift:g}) * {encoder.scale:g}")
    print("measured, by channel: mean " + _row(statistics.mean) + "; standard deviation " + _row(statistics.std))
    print(f"train on it with: ditkit train --data {out}")


def _row(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)
