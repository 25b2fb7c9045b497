"""What every feature network is: uint8 images to features, and the protocol of numbers measured with it."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.base.registry import find, members

PLACE = "ditkit.evaluate.networks"


@dataclass(frozen=True)
class Taps:
    """What a network says of B images, float32: features (B, D); logits (B, K) and spatial (B, S) where it has them."""

    features: Tensor
    logits: Tensor | None = None
    spatial: Tensor | None = None


@dataclass(frozen=True)
class NetworkProtocol:
    """What a number measured with a pretrained network depends on.

    weights: SHA-256 of the names, types and values of the weights. resizing: how images reach the network's size.
    values: what pixels 0..255 become. features: which layer.
    library: whose code runs the network.
    """

    network: str
    weights: str
    resizing: str
    values: str
    features: str
    dtype: str = "float32"
    library: str = "ditkit"


class FeatureNetwork(Protocol):
    """A frozen network; resizing and the range of values are part of it.

    aliases: the published names of scores in this feature space ("frechet_distance" to "fid").
    protocol: a dataclass of plain values, the same for the same numbers.
    num_classes: how many classes of the data its logits tell apart; None where they are not the data's.
    """

    @property
    def aliases(self) -> Mapping[str, str]: ...

    @property
    def protocol(self) -> Any: ...

    @property
    def num_classes(self) -> int | None: ...

    def look(self, images: Tensor) -> Taps:
        """Taps, on the CPU, of uint8 images (B, C, H, W), any size that the network takes; C of 1 or 3, or also with
        alpha. Raises UserError for others.
        """
        ...


def available() -> dict[str, Any]:
    """The pretrained networks by name."""
    return members(PLACE, _is_network)


def load_network(name: str, path: Path | str | None = None, device: torch.device | str = "cpu") -> FeatureNetwork:
    """The pretrained network of that name. path: its weights; None: where its ``load`` looks for them.

    Raises UserError on an unknown name, and on weights that are missing, naming the file and the places for it.
    """
    return find("feature network", PLACE, _is_network, name).load(path, device)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Convolutions and products of float32 inside are of float32 throughout, and the same each time.

    On a GPU they would otherwise be rounded to TF32's 10 bits, which moves features by a thousandth.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def as_rgb(images: Tensor) -> Tensor:
    """Images (B, C, H, W) of C = 1 with their channel three times, of 3 as they are. Raises UserError for others."""
    if images.shape[1] not in (1, 3):
        raise UserError(
            f"images of {images.shape[1]} channels, one of them alpha, are not for evaluators and networks that know "
            "RGB alone: expected 1 or 3 channels; measure them with --features self, which learns from them as they "
            "are, train with --data.channels 1 or 3, or save them without alpha"
        )
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def _is_network(value: Any) -> bool:
    return inspect.isclass(value) and isinstance(getattr(value, "name", None), str) and hasattr(value, "load")
