"""Feature networks that come through transformers (extra: pretrained), from a folder or the hub's cache."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.base.files import expanded
from ditkit.evaluate.networks.network import as_rgb
from ditkit.evaluate.networks.resize import bicubic
from ditkit.evaluate.networks.weights import WITHOUT


@dataclass(frozen=True)
class HubModel:
    """A model of the hub. network: the feature network's name. repository: "owner/name". variable: of the environment.

    gives: scores that need it, for the message of its absence.
    """

    network: str
    repository: str
    variable: str
    gives: str

    def load(self, kind: str, path: Path | str | None = None) -> Any:
        """What ``transformers.<kind>`` makes of ``path``, else of the folder in the variable, else of the hub's cache.

        Nothing is downloaded. Raises UserError where transformers or the weights are missing.
        """
        transformers = self.package()
        given = path or os.environ.get(self.variable)
        if given and not expanded(given).is_dir():
            raise UserError(
                f"no folder of the feature network {self.network!r} at {expanded(given)} "
                f"({'given path' if path else self.variable}): expected a copy of the hub's {self.repository} "
                "with config.json and model.safetensors"
            )
        try:
            return getattr(transformers, kind).from_pretrained(
                str(expanded(given)) if given else self.repository, local_files_only=True
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(
                f"no usable weights for the feature network {self.network!r} ({' '.join(str(error).split())[:80]}): "
                f"expected model.safetensors of {self.repository} in the hub's cache (hf download {self.repository}), "
                f"or a folder with it and config.json in {self.variable}; {self.gives} need it, {WITHOUT}"
            ) from None

    def package(self) -> Any:
        """The package transformers. UserError where it is not installed."""
        try:
            return importlib.import_module("transformers")
        except ImportError:
            raise UserError(
                f"the feature network {self.network!r} needs the package transformers: "
                "install it with pip install 'ditkit[pretrained]'"
            ) from None


def library() -> str:
    """The library that the models run in, with its version, for the protocol."""
    return f"transformers {importlib.import_module('transformers').__version__}"


def normalised(images: Tensor, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 images (B, C, H, W) as float32 (B, 3, size, size), channel by channel (x / 255 - mean) / std."""
    x = bicubic(as_rgb(images), size) / 255
    centre, scale = (torch.tensor(v, device=x.device)[:, None, None] for v in (mean, std))
    return (x - centre) / scale
