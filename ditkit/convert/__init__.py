"""Floor 3: one file per foreign checkpoint layout, both ways. A layout is a subclass of ``Layout``."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from ditkit.backbones.dit import DiT
from ditkit.base.errors import UserError
from ditkit.base.registry import members
from ditkit.convert.layout import Layout, State


def layouts() -> dict[str, type[Layout]]:
    """Every known layout by its name."""
    return members(__name__, lambda v: isinstance(v, type) and issubclass(v, Layout) and v is not Layout)


def recognise(keys: Collection[str]) -> type[Layout]:
    """The layout whose marks are all among the keys; UserError that names a few keys when there is none."""
    known = layouts()
    for layout in known.values():
        if all(mark in keys for mark in layout.marks):
            return layout
    few = ", ".join(sorted(keys)[:3]) or "none at all"
    raise UserError(f"checkpoint of an unknown layout (keys: {few} ...): expected one of {', '.join(sorted(known))}")


def load_dit(state: State, **known: Any) -> DiT:
    """A DiT with the weights of a foreign state dict of any known layout.

    known: constructor arguments that shapes do not say (``heads``, ``input_size``) or that should win.
    Raises UserError for an unknown layout, an argument that is missing, or weights that do not fit.
    """
    layout = recognise(state)
    arguments = layout.arguments(state, **known)
    with torch.device("meta"):
        net = DiT(**arguments)
    weights = layout.to_ditkit(state, input_size=arguments["input_size"])
    try:
        net.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise UserError(
            f"weights of layout {layout.name!r} do not fit the network that their shapes say: {problem}"
        ) from error
    return net
