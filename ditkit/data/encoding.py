"""Encoding a source's images into the shards of a latent store (see ``ditkit.data.store``)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
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


_CAPTIONS_AT_ONCE = 64


class PosteriorOf(Protocol):
    """An autoencoder's encoder."""

    def posterior(self, pixels: Tensor) -> Posterior:
        """q(z | x) of pixels (B, C, H, W), before normalisation."""
        ...


class TextEncoder(Protocol):
    """What makes embeddings of captions: identity names it and its weights; shape is that of one embedding."""

    identity: str
    shape: tuple[int, ...]

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """The embeddings of some captions, "" among them: (B, *shape)."""
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
    text: TextEncoder | None = None,
    check: Callable[[], None] = lambda: None,
) -> Record:
    """Encodes and writes one shard.

    text: the plan's text encoder, for a source with captions. check: called between batches; may raise to stop. Raises
    UserError for latents and embeddings that the dtype cannot hold.
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
    tensors = _tensors(plan, source, indices, parts) | _left_out(plan.indices(number), source, indices)
    if text is not None:
        tensors["text"] = _embedded(plan, source, indices, text)
    return files.write_shard(store, number, tensors, skipped)


def _decoded(plan: Plan, number: int, source: Source, device: torch.device) -> Any:
    """Batches of (index, picture) of a shard, the next one being decoded in threads while one is encoded."""
    indices, size = plan.indices(number), plan.preprocessing.size
    decode = Decoder(source, size, plan.preprocessing.channels, plan.preprocessing.made().still(size))
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
    return {name: _kept(value, plan, f"the posterior's {name}") for name, value in moments.items()}


def _kept(value: Tensor, plan: Plan, what: str) -> Tensor:
    """The value in the store's dtype on the CPU. Raises UserError where that cannot hold it."""
    kept = value.to(files.DTYPES[plan.dtype]).cpu()
    if not kept.isfinite().all():
        half = "" if plan.dtype == "float32" else f" (or beyond what {plan.dtype} holds: take --dtype float32)"
        raise UserError(f"{what} is not finite{half}: expected finite numbers; check the encoder's weights")
    return kept


@torch.inference_mode()
def _embedded(plan: Plan, source: Source, indices: list[int], text: TextEncoder) -> Tensor:
    """The embeddings (n, *shape) of the captions of some images."""
    captions = captions_of(source)
    assert captions is not None  # the plan says so
    parts = [indices[start : start + _CAPTIONS_AT_ONCE] for start in range(0, len(indices), _CAPTIONS_AT_ONCE)]
    empty = torch.empty((0, *text.shape), dtype=files.DTYPES[plan.dtype])
    made = (_kept(text([captions[i] for i in part]), plan, "a caption's embedding") for part in parts)
    return torch.cat([empty, *made])


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


def _left_out(every: range, source: Source, indices: list[int]) -> dict[str, Tensor]:
    """Place and label of the images of a shard that did not decode: what is held out hangs on them too."""
    places = torch.tensor(sorted({*every} - {*indices}), dtype=torch.int64)
    if source.labels is None or not len(places):
        return {}
    return {"skipped.index": places, "skipped.label": torch.from_numpy(source.labels)[places].long()}
