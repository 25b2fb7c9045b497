"""Encoding a source's images into the shards of a latent store (see ``ditkit.data.store``)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.base.pixels import from_uint8
from ditkit.data import store as files
from ditkit.data.decode import Bad, Decoded, Decoder, default_workers
from ditkit.data.loader import prefetch
from ditkit.data.source import Source
from ditkit.data.store import Plan, Record
from ditkit.encoders.autoencoder import Posterior

PIXELS_AT_ONCE = 2**18
"""Pixels of a batch that is encoded at once (4 images of 256x256), on a GPU 16 times as many."""


class PosteriorOf(Protocol):
    """An autoencoder's encoder."""

    def posterior(self, pixels: Tensor) -> Posterior:
        """q(z | x) of pixels (B, C, H, W), before normalisation."""
        ...


class Interrupted(Exception):  # noqa: N818  (no error: somebody asked to stop)
    """Encoding was asked to stop between two batches."""


def captions_of(source: Source) -> Sequence[str] | None:
    """The captions of a source, one for each image; None where it has none."""
    return source.captions


def encode_shard(
    store: Path,
    plan: Plan,
    number: int,
    source: Source,
    autoencoder: PosteriorOf,
    *,
    device: torch.device,
    check: Callable[[], None] = lambda: None,
) -> Record:
    """Encodes and writes one shard.

    check: called between batches; may raise to stop. Raises UserError for latents that the dtype cannot hold.
    """
    indices: list[int] = []
    skipped: list[tuple[str, str]] = []
    parts: list[dict[str, Tensor]] = []
    with contextlib.closing(_decoded(plan, number, source, device)) as batches:
        for batch in batches:
            check()
            good = [(i, picture.pixels) for i, picture in batch if isinstance(picture, Decoded)]
            skipped += [(bad.name, bad.reason) for _, bad in batch if isinstance(bad, Bad)]
            indices += [i for i, _ in good]
            if good:
                pixels = torch.from_numpy(np.stack([picture for _, picture in good]))
                parts.append(_moments(pixels, plan, autoencoder, device))
    return files.write_shard(store, number, _tensors(plan, source, indices, parts), skipped)


def _decoded(plan: Plan, number: int, source: Source, device: torch.device) -> Any:
    """Batches of (index, picture) of a shard, the next one being decoded in threads while one is encoded."""
    indices, size = plan.indices(number), plan.preprocessing.size
    decode = Decoder(source, size, plan.preprocessing.channels)
    at_once = PIXELS_AT_ONCE * (1 if device.type == "cpu" else 16) // (size[0] * size[1])
    step = max(1, at_once)

    def make(part: int) -> list[tuple[int, Decoded | Bad]]:
        rows = indices[part * step : (part + 1) * step]
        return list(zip(rows, pool.map(decode, rows), strict=True))

    with ThreadPoolExecutor(default_workers(size), thread_name_prefix="decode") as pool:
        yield from prefetch(make, 0, -(-len(indices) // step))


@torch.inference_mode()
def _moments(pixels: Tensor, plan: Plan, autoencoder: PosteriorOf, device: torch.device) -> dict[str, Tensor]:
    """mean and std (B, 2, c, h, w) of images uint8 (B, C, H, W) as they are and mirrored, in the store's dtype."""
    x = from_uint8(pixels).to(device)
    flips = [autoencoder.posterior(x), autoencoder.posterior(x.flip(-1))]
    moments = {"mean": torch.stack([q.mean for q in flips], 1), "std": torch.stack([q.std for q in flips], 1)}
    moments = {name: value.to(files.DTYPES[plan.dtype]).cpu() for name, value in moments.items()}
    for name, value in moments.items():
        if not value.isfinite().all():
            raise UserError(
                f"the posterior's {name} is not finite in {plan.dtype}: expected finite latents; use --dtype float32 "
                "or check the autoencoder"
            )
    return moments


def _tensors(plan: Plan, source: Source, indices: list[int], parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What stands in a shard's file."""
    empty = torch.empty((0, 2, *plan.shape), dtype=files.DTYPES[plan.dtype])
    tensors = {name: torch.cat([empty, *(part[name] for part in parts)]) for name in ("mean", "std")}
    index = torch.tensor(indices, dtype=torch.int64)
    tensors["index"] = index
    if source.labels is not None:
        tensors["label"] = torch.from_numpy(np.asarray(source.labels)[indices]).long()
    captions = captions_of(source)
    if captions is not None:
        tensors |= files.packed([captions[i] for i in indices])
    return tensors


def unfinished(store: Path, plan: Plan) -> Iterator[int]:
    """The shards that are still to be encoded."""
    return (number for number in range(plan.shards) if files.read_record(store, number) is None)
