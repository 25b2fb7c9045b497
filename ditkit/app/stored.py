"""Floor 5: a run that trains from a latent store: what belongs to it, and the autoencoder that the store brings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ditkit.app.recipe import Data
from ditkit.base.errors import UserError
from ditkit.convert.autoencoder import load_autoencoder
from ditkit.convert.autoencoder_scales import constants
from ditkit.data import latents
from ditkit.data.crops import Crop
from ditkit.data.images import CENTRE, Images
from ditkit.data.latents import Latents, LatentStore, Normalisation
from ditkit.data.loading import load_images
from ditkit.data.source import open_source
from ditkit.data.store import AUTOENCODER, Manifest, is_store
from ditkit.encoders.autoencoder import Autoencoder, Identity, LatentAutoencoder, Shape, Whitened
from ditkit.encoders.precision import in_precision
from ditkit.encoders.tiling import in_tiles

NORMALISATIONS: Mapping[str, Callable[[Manifest], Normalisation]] = {
    "published": latents.published,
    "measured": latents.measured,
}
"""What data.normalise can be."""


@dataclasses.dataclass
class Deferred:
    """An autoencoder whose identity is known and whose weights are read when it first decodes or encodes.

    spec: its folder. image_shape: (C, H, W) of the images that it was used on, shape: (c, h, w) of their latents.
    tile: see ``ditkit.encoders.tiling.in_tiles``; precision: see ``ditkit.encoders.precision``.
    A copy of one that has not read them yet lets them go with itself.
    """

    spec: str
    identity: str
    image_shape: Shape
    shape: Shape
    device: torch.device
    tile: int | None = None
    precision: str = "float32"
    net: Autoencoder | None = None

    def read(self) -> Autoencoder:
        """The network. UserError where the files are missing, damaged or of another autoencoder."""
        if self.net is None:
            net = load_autoencoder(self.spec, device=self.device)
            assert isinstance(net, LatentAutoencoder)
            if net.identity != self.identity:
                raise UserError(
                    f"autoencoder {self.spec} is {net.identity}, the latents are of {self.identity}: put that one there"
                )
            self.net = in_precision(in_tiles(net, self.tile), self.precision)
        return self.net

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """See ``Autoencoder``."""
        return self.read().encode(pixels, noise)

    def decode(self, latents: Tensor) -> Tensor:
        """See ``Autoencoder``."""
        return self.read().decode(latents)

    def latent_shape(self, shape: Shape) -> Shape:
        """See ``Autoencoder``."""
        return self.shape if shape == self.image_shape else self.read().latent_shape(shape)


def autoencoder_of(data: Data, where: torch.device) -> Autoencoder:
    """The autoencoder of a recipe's data: a store's own, with its normalisation, or the one that the recipe names.

    Raises UserError where the recipe says another autoencoder than the store, and for measured statistics without one.
    """
    if not is_store(data.source):
        if data.normalise != "published":
            raise UserError(
                f"--data.normalise {data.normalise} needs the statistics of a latent store, and --data {data.source} "
                "is none: encode it with ditkit encode, or leave the option out"
            )
        if data.autoencoder is None:
            _check_unused(data)
            return Identity()
        net = load_autoencoder(data.autoencoder, **_constants(data), device=where)
        assert isinstance(net, LatentAutoencoder)
        return in_precision(in_tiles(net, data.tile), data.autoencoder_precision)
    store = LatentStore(data.source)
    plan = store.plan
    own = Deferred(
        spec=str(store.folder / AUTOENCODER),
        identity=plan.autoencoder.identity,
        image_shape=plan.image_shape,
        shape=plan.shape,
        device=where,
        tile=data.tile,
        precision=data.autoencoder_precision,
    )
    _check_belongs(data, store)
    if data.normalise == "published":
        return own
    return Whitened(own, *latents.whitening(store.manifest))


def _constants(data: Data) -> dict[str, Any]:
    """Scale and shift that the recipe says, as arguments."""
    scale, shift = constants(data.autoencoder_scale)
    return {"scale": scale, "shift": shift}


def _check_unused(data: Data) -> None:
    """Raises UserError for what is said of an autoencoder where there is none."""
    usual = Data()
    for name in ("tile", "autoencoder_scale", "autoencoder_precision"):
        if (value := getattr(data, name)) != getattr(usual, name):
            raise UserError(f"{name} {value} does nothing without an autoencoder: leave the option out")


def _check_belongs(data: Data, store: LatentStore) -> None:
    """Raises UserError where the recipe asks for something else than the store has, naming both."""
    own = store.plan.autoencoder.identity
    if data.autoencoder is not None and (asked := _identity(data)) != own:
        raise UserError(
            f"--data.autoencoder {data.autoencoder} is {asked}, but the latents in {data.source} are of {own}: leave "
            "the option out, or encode the images with it"
        )
    if data.autoencoder is None:
        _check_scale(data, store)
    made = store.plan.preprocessing
    if data.crop != "centre":
        raise UserError(
            f"--data.crop {data.crop} cannot be had of the latent store {data.source}, whose images were cropped when "
            f"it was made (crop {made.crop}): leave the option out, encode the images anew with --crop, or train on "
            "them with --data.autoencoder"
        )
    if data.buckets is not None:
        raise UserError(
            f"--data.buckets {data.buckets} cannot be had of the latent store {data.source}, whose images all have one "
            "shape: leave the option out, or train on the images with --data.autoencoder"
        )
    size = (data.size, data.size) if isinstance(data.size, int) else data.size
    for key, asked, has in (("size", size, made.size), ("channels", data.channels, made.channels)):
        if asked is not None and asked != has:
            raise UserError(
                f"--data.{key} {asked} does not fit the latent store {data.source}, which was made with {key} {has}: "
                "leave the option out, or encode the images anew"
            )


def _check_scale(data: Data, store: LatentStore) -> None:
    """Raises UserError where the recipe says another scale than the store's own autoencoder has."""
    scale, shift = constants(data.autoencoder_scale)
    own = store.plan.autoencoder
    if scale is not None and (scale, shift) != (own.scale, own.shift):
        raise UserError(
            f"--data.autoencoder-scale {data.autoencoder_scale} is scale {scale:g} and shift {shift:g}, but the latent "
            f"store {data.source} was made with scale {own.scale:g} and shift {own.shift:g}: leave the option out, or "
            "encode the images anew with --autoencoder-scale"
        )


def _identity(data: Data) -> str:
    return load_autoencoder(data.autoencoder, **_constants(data)).identity


def read_latents(data: Data) -> tuple[Latents, dict[str, Any]]:
    """The recipe's latents, and the facts about them (see ``ditkit.app.run.Facts``)."""
    store = LatentStore(data.source)
    plan, normalisation = store.plan, NORMALISATIONS[data.normalise](store.manifest)
    examples = latents.open_latents(store, normalisation)
    if not data.classes:
        examples.labels, examples.classes = None, ()
    channels, height, width = plan.shape
    return examples, {
        "input_size": [height, width],
        "channels": channels,
        "image_shape": list(plan.image_shape),
        "autoencoder": normalisation.identity,
        "classes": list(examples.classes),
        "images": len(examples),
        "skipped": len(examples.skipped),
        "source": plan.source.spec,
        "store": data.source,
        "fingerprint": store.fingerprint(),
    }


def read_images(data: Data, crop: Crop = CENTRE, size: tuple[int, int] | None = None) -> Images:
    """The images of a recipe's data, nothing drawn; of a store, those that it was made from.

    crop: the recipe's. Where it is drawn anew each time, its still form is taken. size: (H, W) that they are brought
    to; None: the recipe's, or the store's.
    """
    if not is_store(data.source):
        still = CENTRE if crop.drawn else crop
        images = load_images(open_source(data.source), size=size or data.size, channels=data.channels, crop=still)
        return _without_classes(images, data)
    plan = LatentStore(data.source).plan
    made = plan.preprocessing
    source = open_source(plan.source.spec)
    if source.fingerprint() != plan.source.fingerprint:
        raise UserError(
            f"data {plan.source.spec!r} changed since the latent store {data.source} was made from it: put the same "
            "images there, or encode them anew"
        )
    return _without_classes(load_images(source, size=size or made.size, channels=made.channels, crop=made.made()), data)


def _without_classes(images: Images, data: Data) -> Images:
    if not data.classes:
        images.labels, images.classes = None, ()
    return images
