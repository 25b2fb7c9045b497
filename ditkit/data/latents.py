"""The latent store as a data set: examples drawn anew from the stored posteriors, without an autoencoder in memory.

Rombach et al. 2022, section 3.1, with the encoder's work done once (see ``ditkit.data.store`` for what is stored).
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from ditkit.base.errors import UserError
from ditkit.base.files import expanded
from ditkit.data import store as files
from ditkit.data.images import keys
from ditkit.data.order import Groups, labels_by_place
from ditkit.data.store import Manifest, Plan
from ditkit.encoders.autoencoder import per_channel, posterior_noise, whitened_identity


@dataclasses.dataclass(frozen=True)
class Normalisation:
    """Latents for diffusion are (z - shift) scale, one number for each channel, (c,).

    identity: of the autoencoder whose latents these are.
    """

    shift: tuple[float, ...]
    scale: tuple[float, ...]
    identity: str

    def __call__(self, z: Tensor) -> Tensor:
        """Normalised latents (B, c, h, w)."""
        return (z - per_channel(self.shift, z)) * per_channel(self.scale, z)


def published(manifest: Manifest) -> Normalisation:
    """By the constants that were published with the autoencoder."""
    encoder, channels = manifest.plan.autoencoder, manifest.plan.shape[0]
    return Normalisation((encoder.shift,) * channels, (encoder.scale,) * channels, encoder.identity)


def measured(manifest: Manifest) -> Normalisation:
    """By the statistics of the store: mean 0 and standard deviation 1 in each channel."""
    statistics = manifest.statistics
    flat = [channel for channel, std in enumerate(statistics.std) if not std > 0]
    if flat:
        raise UserError(
            f"channel {flat[0]} of the latents is constant and cannot be brought to standard deviation 1: "
            "set --data.normalise published"
        )
    identity = whitened_identity(manifest.plan.autoencoder.identity, *whitening(manifest))
    return Normalisation(statistics.mean, tuple(1 / std for std in statistics.std), identity)


def whitening(manifest: Manifest) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of the latents that the published constants normalised."""
    encoder, statistics = manifest.plan.autoencoder, manifest.statistics
    mean = tuple((value - encoder.shift) * encoder.scale for value in statistics.mean)
    return mean, tuple(value * encoder.scale for value in statistics.std)


class LatentStore:
    """A whole store, opened: its manifest, and its shards mapped into memory as they are asked for.

    Raises UserError where the store is not whole, a file is missing or has another size, or the manifest is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = expanded(folder)
        self.manifest = files.read_manifest(self.folder)
        files.check_sizes(self.folder, self.manifest)
        ends = torch.tensor(self.manifest.rows, dtype=torch.int64).cumsum(0)
        self.ends: list[int] = ends.tolist()
        self._shards: dict[int, dict[str, Tensor]] = {}

    @property
    def plan(self) -> Plan:
        """What it was made of."""
        return self.manifest.plan

    def __len__(self) -> int:
        return self.ends[-1]

    def fingerprint(self) -> str:
        """A hexadecimal digest that changes when the content does; from the manifest's checksums."""
        return hashlib.sha256((self.folder / files.MANIFEST).read_bytes()).hexdigest()

    def verify(self, progress: bool = True) -> None:
        """Reads every file and checks it against the manifest. UserError for the first that was altered."""
        total = sum(file.bytes for file in self.manifest.files.values())
        bar = tqdm(total=total, desc="verifying", unit="B", unit_scale=True, delay=1, disable=not progress)
        with bar:
            for name, file in self.manifest.files.items():
                files.check_sum(self.folder, name, file)
                bar.update(file.bytes)
        self.column("index")

    def shard(self, number: int) -> dict[str, Tensor]:
        """The tensors of a shard, mapped: only what is read of them takes memory."""
        if number not in self._shards:
            path = self.folder / files.shard_name(number)
            try:
                tensors = load_file(path)
            except (OSError, SafetensorError) as error:
                raise UserError(f"latent store file {path} cannot be read ({error}): copy it anew") from None
            files.check_shard(path, self.plan, self.manifest.rows[number], tensors)
            self._shards[number] = tensors
        return self._shards[number]

    def column(self, name: str) -> Tensor:
        """A small tensor of every row, such as label or index, (N,)."""
        return torch.cat([self.shard(number)[name] for number in range(len(self.ends))])

    def source_labels(self) -> Tensor:
        """The label of every image of the source, also of those that did not decode, (M,) int64; 0 without classes."""
        shards = [self.shard(number) for number in range(len(self.ends))]
        places = [shard[name] for shard in shards for name in ("index", "skipped.index") if name in shard]
        labels = [shard[name] for shard in shards for name in ("label", "skipped.label") if name in shard]
        return labels_by_place(self.plan.source.images, torch.cat(places), torch.cat(labels) if labels else None)

    def place(self, row: int) -> tuple[int, int]:
        """The shard of a row, and its row in there."""
        number = bisect.bisect_right(self.ends, row)
        return number, row - (self.ends[number - 1] if number else 0)

    def posterior(self, rows: Tensor, mirrored: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of q(z | x) before normalisation, float32 (B, c, h, w) each.

        rows: (B,) int64. mirrored: (B,) bool, of the image or of its mirror image.
        """
        flips = [int(flip) for flip in mirrored]
        places = [self.place(row) for row in rows.tolist()]
        return tuple(  # type: ignore[return-value]
            torch.stack([self.shard(n)[name][row, flip] for (n, row), flip in zip(places, flips, strict=True)]).float()
            for name in ("mean", "std")
        )

    def text(self, rows: Tensor) -> Tensor | None:
        """The embeddings of the captions of rows (B,) int64, float32 (B, ...); None where the store has none."""
        if self.plan.text is None:
            return None
        places = [self.place(row) for row in rows.tolist()]
        return torch.stack([self.shard(n)["text"][row] for n, row in places]).float()

    def caption(self, row: int) -> str | None:
        """The caption of a row; None where the source had none."""
        number, row = self.place(row)
        shard = self.shard(number)
        return files.unpacked(shard["caption.bytes"], shard["caption.end"], row) if self.plan.captions else None


@dataclasses.dataclass
class Latents:
    """Rows of a store as a data set for training; see ``ditkit.data.images.Examples``.

    rows: (N,) int64, into the store. labels: (N,) int64, or None without classes. classes: (K,) names.
    indices: (N,) int64, the place of each row in the images' source.
    """

    store: LatentStore
    normalisation: Normalisation
    rows: Tensor
    labels: Tensor | None
    classes: tuple[str, ...]
    indices: Tensor
    groups: Groups | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of the latents."""
        return self.store.plan.shape

    @property
    def source_labels(self) -> Tensor:
        """(M,) int64, the label of every image of the source (see ``ditkit.data.images.Examples``)."""
        return self.store.source_labels()

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """The pictures that did not decode when the store was made, as (name, reason)."""
        return list(self.store.manifest.skipped)

    @property
    def notes(self) -> list[str]:
        """What the store is, for the log."""
        plan = self.store.plan
        told = [
            f"{len(self.store):,} encoded images from {self.store.folder} ({plan.dtype}, {plan.autoencoder.identity})"
        ]
        if plan.text:
            told.append(
                f"embeddings {plan.text.shape} of their captions by {plan.text.identity}: a network finds them in its "
                "condition's text; one that takes no text leaves them"
            )
        return told

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, rows: Tensor) -> Latents:
        """The set of some of its rows (M,) int64, in that order, with the same classes."""
        labels = None if self.labels is None else self.labels[rows]
        return dataclasses.replace(self, rows=self.rows[rows], labels=labels, indices=self.indices[rows])

    def captions(self, rows: Sequence[int]) -> list[str | None]:
        """The captions of some of its rows."""
        return [self.store.caption(int(self.rows[row])) for row in rows]

    def text(self, rows: Tensor) -> Tensor | None:
        """The embeddings of the captions of some of its rows (B,), float32 (B, ...); None where there are none."""
        return self.store.text(self.rows[rows])

    def draw(self, rows: Tensor, mirrored: Tensor, seed: int, epoch: Tensor | None = None) -> Tensor:
        """Normalised latents (B, c, h, w) float32 of rows (B,), drawn from the posterior of the image, or where
        ``mirrored`` (B,) of its mirror image, with the noise of ``ditkit.encoders.autoencoder.posterior_noise``.
        """
        noise = posterior_noise(self.shape, seed, keys(self.indices, rows, epoch))
        mean, std = self.store.posterior(self.rows[rows], mirrored)
        drawn = self.normalisation(mean + std * noise)
        if not drawn.isfinite().all():
            raise UserError(
                f"latent store {self.store.folder} holds latents that are not finite: expected finite numbers; find "
                f"what was altered with ditkit encode --verify {self.store.folder}, and copy that anew"
            )
        return drawn


def open_latents(store: LatentStore, normalisation: Normalisation) -> Latents:
    """All rows of a store."""
    labels = store.column("label") if store.plan.labels else None
    rows, indices = torch.arange(len(store)), store.column("index")
    if (odd := indices[(indices < 0) | (indices >= store.plan.source.images)]).numel():
        raise UserError(
            f"latent store {store.folder} holds image {odd[0]} of {store.plan.source.images}: expected places from 0; "
            f"find what was altered with ditkit encode --verify {store.folder}, and copy that anew"
        )
    return Latents(store, normalisation, rows, labels, store.plan.classes, indices)
