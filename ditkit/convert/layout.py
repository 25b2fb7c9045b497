"""What a foreign checkpoint layout is, and what the DiT layouts share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from ditkit.backbones.dit import PRESETS
from ditkit.base.errors import UserError

State = dict[str, Tensor]


class Layout(ABC):
    """A checkpoint layout: key names and shapes of some other code, translated both ways.

    ``name``: what the layout is called. ``marks``: keys that every state dict of the layout has.
    """

    name: ClassVar[str]
    marks: ClassVar[tuple[str, ...]]

    @classmethod
    @abstractmethod
    def arguments(cls, state: State, **known: Any) -> dict[str, Any]:
        """Constructor arguments of the backbone, from shapes; ``known`` ones win and fill in what shapes do not say.

        Raises UserError that names an argument which can neither be inferred nor is known.
        """

    @classmethod
    @abstractmethod
    def to_ditkit(cls, state: State, **known: Any) -> State:
        """The state dict under this project's names; works on weights, gradients and averages alike."""

    @classmethod
    @abstractmethod
    def from_ditkit(cls, state: State) -> State:
        """The state dict under the layout's names; UserError for a network that the layout has no place for."""


def rename(state: State, names: dict[str, str]) -> State:
    """The state with every key's module prefix replaced by ``names``; UserError for a key that has no new name."""
    renamed: State = {}
    for key, value in state.items():
        prefix = max((old for old in names if key == old or key.startswith(f"{old}.")), key=len, default=None)
        if prefix is None:
            raise UserError(
                f"weight {key!r} has no place in this layout: expected names such as {', '.join([*names][:4])}"
            )
        renamed[names[prefix] + key.removeprefix(prefix)] = value
    return renamed


def count_blocks(state: State, prefix: str) -> int:
    """The number of blocks ``prefix.0``, ``prefix.1``, ... in a state dict."""
    numbers = [key.removeprefix(f"{prefix}.").split(".")[0] for key in state if key.startswith(f"{prefix}.")]
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def heads_of(width: int, depth: int) -> int:
    """The heads of the published model with that width and depth; shapes do not show them."""
    for preset in PRESETS.values():
        if (preset["width"], preset["depth"]) == (width, depth):
            return preset["heads"]
    raise UserError(
        f"the number of heads of a DiT of width {width} and depth {depth} is not in its weights: give heads="
    )


def square_side(tokens: int, patch_size: int) -> int:
    """The side of the square input that has this many patches."""
    side = math.isqrt(tokens)
    if side * side != tokens:
        raise UserError(f"{tokens} positions are no square grid: give input_size=(height, width)")
    return side * patch_size


def class_arguments(rows: int, known: dict[str, Any]) -> dict[str, Any]:
    """num_classes and null_class of a label table with so many rows; unless num_classes is known, the last is the null.

    Raises UserError when the known num_classes does not fit the table.
    """
    num_classes = known.get("num_classes", rows - 1)
    if num_classes not in (rows, rows - 1):
        raise UserError(f"num_classes={num_classes}: a label table of {rows} rows has {rows - 1} or {rows} classes")
    return {"num_classes": num_classes, "null_class": num_classes == rows - 1}
