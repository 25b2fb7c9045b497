"""Floor 5: a protocol's published weights as a model, which samples and is measured as a run's is."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ditkit.app import build
from ditkit.app.model import Model
from ditkit.app.reproduction.protocol import File, Pinned
from ditkit.app.run import Run
from ditkit.base import registry
from ditkit.base.errors import UserError
from ditkit.convert import load_dit, recognise
from ditkit.convert.autoencoder import load_autoencoder
from ditkit.convert.files import read_state
from ditkit.process.prediction import Prediction


def load_published(pinned: Pinned, found: dict[File, Path], folder: Path, device: str | None) -> Model:
    """The model of a protocol, its files being ``found``. folder: of the results.

    Raises UserError for weights or an autoencoder that are not what the protocol says.
    """
    where = build.device(device or "auto")
    autoencoder = load_autoencoder(found[pinned.autoencoder[0]].parent if pinned.autoencoder else None, device=where)
    channels, *size = autoencoder.latent_shape(pinned.image)
    facts = {
        "input_size": size,
        "channels": channels,
        "image_shape": list(pinned.image),
        "autoencoder": autoencoder.identity,
        "classes": [str(number) for number in range(pinned.classes)],
    }
    net = _network(pinned, found[pinned.weights], facts).to(where).eval().requires_grad_(False)
    run = Run(folder, pinned.recipe)
    return Model(run, pinned.recipe.train.steps, facts, build.denoiser(pinned.recipe, net), autoencoder, where)


def _network(pinned: Pinned, path: Path, facts: dict[str, Any]) -> nn.Module:
    state = read_state(path)
    layout = recognise(state).name
    if layout != pinned.weights.layout:
        raise UserError(
            f"{path} has the layout {layout!r}, expected {pinned.weights.layout!r} as the protocol says: fetch it anew "
            f"from {pinned.weights.url}"
        )
    state = {name: value.float() for name, value in state.items()}  # published ones may be stored in half precision
    known = build.configuration(pinned.recipe.model)
    net = load_dit(state, **known, input_size=tuple(facts["input_size"]), num_classes=pinned.classes)
    return _read(net, pinned.weights.convention, build.prediction(pinned.recipe.process))


def _read(net: nn.Module, convention: str | None, row: Prediction) -> nn.Module:
    """The network as one in this project's convention of time and sign."""
    if convention is None:
        return net
    return registry.find("convention", "ditkit.convert", _is_convention, convention)(net, row)


def _is_convention(value: Any) -> bool:
    """Whether a value turns a network of another convention into one of ours."""
    named = inspect.isclass(value) and issubclass(value, torch.nn.Module)
    return named and isinstance(getattr(value, "name", None), str)
