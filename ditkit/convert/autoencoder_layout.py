"""What a foreign layout of AutoencoderKL is: the network is always the same, only names and the attention differ."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from ditkit.base.errors import UserError
from ditkit.convert.layout import State, count_blocks, rename

SIDES = ("encoder", "decoder")


class AutoencoderLayout(ABC):
    """Module names of some other code, translated both ways. A layout is these names and nothing else.

    name: what it is called. marks: keys that every state dict of it has.
    stages, resamples: of the encoder and of the decoder; block, shortcut: inside a stage and inside a block.
    finest_first: whether the decoder's stages count from full resolution, not in the order that they run in.
    mid: the modules in the middle; outside: further ones of both halves; older: names that it had before, read only.
    linear: whether the attention's weights are matrices, not 1x1 convolutions.
    prefixes: of all keys, in files of its own and in checkpoints of a whole pipeline. training: how keys begin that
    its training keeps beside it, and that are left behind.
    pipelines: scale and shift that belong to it in a whole pipeline, by how keys begin that only this one has.
    """

    name: ClassVar[str]
    marks: ClassVar[tuple[str, ...]]
    stages: ClassVar[tuple[str, str]]
    resamples: ClassVar[tuple[str, str]]
    block: ClassVar[str]
    shortcut: ClassVar[str]
    finest_first: ClassVar[bool]
    mid: ClassVar[dict[str, str]]
    outside: ClassVar[dict[str, str]]
    older: ClassVar[dict[str, str]] = {}
    linear: ClassVar[bool]
    prefixes: ClassVar[tuple[str, ...]] = ("",)
    training: ClassVar[tuple[str, ...]] = ()
    pipelines: ClassVar[Mapping[str, tuple[float, float]]] = {}

    @classmethod
    def own(cls, state: State) -> State | None:
        """The autoencoder's part of a state dict, without its prefix; None where the marks are not there."""
        for prefix in cls.prefixes:
            if all(prefix + mark in state for mark in cls.marks):
                named = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
                return {key: value for key, value in named.items() if not key.startswith(cls.training)}
        return None

    @classmethod
    def statistics(cls, state: State) -> tuple[float, float] | None:
        """Scale and shift, where the rest of the state dict says whose they are."""
        said = (known for mark, known in cls.pipelines.items() if any(key.startswith(mark) for key in state))
        return next(said, None)

    @classmethod
    def names(cls, stages: int, blocks: int) -> dict[str, str]:
        """The layout's module names to this project's, for so many stages and blocks of the encoder."""
        found = {"quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"}
        found["quantize.embedding"] = "codebook"
        for up, side in enumerate(SIDES):
            found |= {f"{side}.{theirs}": f"{side}.{ours}" for theirs, ours in (cls.outside | cls.mid).items()}
            for i in range(stages):
                number = stages - 1 - i if up and cls.finest_first else i
                theirs, ours = f"{side}.{cls.stages[up]}.{number}", f"{side}.stages.{i}"
                found[f"{theirs}.{cls.resamples[up]}"] = f"{ours}.resample.conv"
                for j in range(blocks + up):
                    found[f"{theirs}.{cls.block}.{j}.{cls.shortcut}"] = f"{ours}.blocks.{j}.shortcut"
                    found[f"{theirs}.{cls.block}.{j}"] = f"{ours}.blocks.{j}"
        return found

    @classmethod
    def to_ditkit(cls, state: State) -> State:
        """The state dict under this project's names; UserError for a key that has no place in the layout."""
        prefix = f"encoder.{cls.stages[0]}"
        names = cls.names(count_blocks(state, prefix), count_blocks(state, f"{prefix}.0.{cls.block}"))
        for old, ours in cls.older.items():
            names |= {f"{side}.{old}": f"{side}.{ours}" for side in SIDES}
        return fuse(rename(state, names))

    @classmethod
    def from_ditkit(cls, state: State) -> State:
        """The state dict under the layout's names."""
        names = cls.names(count_blocks(state, "encoder.stages"), count_blocks(state, "encoder.stages.0.blocks"))
        parts = split(state)
        if not cls.linear:
            parts = {k: x[..., None, None] if ".attention." in k and x.dim() == 2 else x for k, x in parts.items()}
        return rename(parts, {ours: theirs for theirs, ours in names.items()})


def fuse(state: State) -> State:
    """Query, key and value as one, stacked in this order; the attention's weights as matrices."""
    fused = {k: x.flatten(1) if ".attention." in k and x.dim() > 1 else x for k, x in state.items()}
    for side in SIDES:
        at = f"{side}.mid.1.attention"
        for kind in ("weight", "bias"):
            parts = [fused.pop(f"{at}.{part}.{kind}", None) for part in "qkv"]
            present = [part for part in parts if part is not None]
            if len(present) == len(parts):
                fused[f"{at}.qkv.{kind}"] = torch.cat(present)
    return fused


def split(state: State) -> State:
    """The inverse of ``fuse``, but that the weights stay matrices."""
    parts = {key: value for key, value in state.items() if ".qkv." not in key}
    for key in state.keys() - parts.keys():
        for part, value in zip("qkv", state[key].chunk(3), strict=True):
            parts[key.replace(".qkv.", f".{part}.")] = value.clone()
    return parts


def arguments(state: State) -> dict[str, Any]:
    """The constructor arguments of AutoencoderKL that shapes say, from a state dict under this project's names.

    Raises UserError naming a key without which they cannot be told.
    """
    stages, blocks = count_blocks(state, "encoder.stages"), count_blocks(state, "encoder.stages.0.blocks")
    try:
        return {
            "widths": tuple(len(state[f"encoder.stages.{i}.blocks.0.conv1.weight"]) for i in range(stages)),
            "blocks": blocks,
            "channels": state["encoder.conv_in.weight"].shape[1],
            "latent_channels": state["decoder.conv_in.weight"].shape[1],
            "quant_conv": "quant_conv.weight" in state,
        }
    except KeyError as error:
        raise UserError(f"the autoencoder's weight {error} is missing: expected all of its weights") from None
