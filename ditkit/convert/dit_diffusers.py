"""The layout of DiTTransformer2DModel in huggingface/diffusers.

It differs from the published model in three ways: every block holds its own embedding of time and label (the last layer
uses block 0's), the norm before the MLP has an eps of 1e-5, and the time sinusoids divide by one less.
"""

from __future__ import annotations

from typing import Any

import torch

from ditkit.base.errors import UserError
from ditkit.convert.layout import (
    Layout,
    State,
    class_arguments,
    count_blocks,
    heads_of,
    rename,
)
from ditkit.nn.embed import sincos_2d

BLOCKS = "transformer_blocks"
NORM_EPS = (1e-6, 1e-5)
# f_i = 10000^(-i / 127) of 128 frequencies is f_i = P^(-i / 128) with this P.
MAX_PERIOD = 10_000.0 ** (128 / 127)

OUTSIDE = {
    "pos_embed.proj": "patches.projection",
    "proj_out_1": "final.modulation.linear",
    "proj_out_2": "final.linear",
}
IN_BLOCK = {
    "norm1.emb.timestep_embedder.linear_1": "conditioners.{i}.time.inner",
    "norm1.emb.timestep_embedder.linear_2": "conditioners.{i}.time.outer",
    "norm1.emb.class_embedder.embedding_table": "conditioners.{i}.label.table",
    "norm1.linear": "blocks.{i}.modulation.linear",
    "attn1.to_qkv": "blocks.{i}.attention.qkv",
    "attn1.to_out.0": "blocks.{i}.attention.out",
    "ff.net.0.proj": "blocks.{i}.mlp.0",
    "ff.net.2": "blocks.{i}.mlp.2",
}
QKV = ("to_q", "to_k", "to_v")


def names(depth: int) -> dict[str, str]:
    """Module names of the layout (query, key and value fused) to this project's, for so many blocks."""
    blocks = {f"{BLOCKS}.{i}.{theirs}": ours.format(i=i) for i in range(depth) for theirs, ours in IN_BLOCK.items()}
    return OUTSIDE | blocks


def fuse(state: State) -> State:
    """Query, key and value of each attention as one, stacked in this order."""
    fused = {key: value for key, value in state.items() if not any(f".{part}." in key for part in QKV)}
    for key in state:
        if ".to_q." in key:
            fused[key.replace("to_q", "to_qkv")] = torch.cat([state[key.replace("to_q", part)] for part in QKV])
    return fused


def split(state: State) -> State:
    """The inverse of ``fuse``."""
    parts = {key: value for key, value in state.items() if ".to_qkv." not in key}
    for key in state:
        if ".to_qkv." in key:
            parts |= {key.replace("to_qkv", part): x.clone() for part, x in zip(QKV, state[key].chunk(3), strict=True)}
    return parts


class DiffusersDiT(Layout):
    """DiTTransformer2DModel of huggingface/diffusers."""

    name = "dit_diffusers"
    marks = (
        "pos_embed.proj.weight",
        f"{BLOCKS}.0.norm1.emb.timestep_embedder.linear_1.weight",
        f"{BLOCKS}.0.norm1.emb.class_embedder.embedding_table.weight",
        f"{BLOCKS}.0.ff.net.0.proj.weight",
        "proj_out_2.weight",
    )

    @classmethod
    def arguments(cls, state: State, **known: Any) -> dict[str, Any]:
        """See ``Layout.arguments``: ``input_size`` (their sample_size) must be known, heads too unless published."""
        if "input_size" not in known:
            raise UserError(
                "a diffusers DiT does not hold its input size: give input_size= (sample_size in its config)"
            )
        width, in_channels, patch_size, _ = state["pos_embed.proj.weight"].shape
        depth = count_blocks(state, BLOCKS)
        table = state[f"{BLOCKS}.0.norm1.emb.class_embedder.embedding_table.weight"]
        inferred = {
            "patch_size": patch_size,
            "in_channels": in_channels,
            "width": width,
            "depth": depth,
            "heads": known.get("heads") or heads_of(width, depth),
            "mlp_ratio": state[f"{BLOCKS}.0.ff.net.0.proj.weight"].shape[0] / width,
            "learned_variance": state["proj_out_2.weight"].shape[0] == 2 * in_channels * patch_size**2,
            "embedders": depth,
            "norm_eps": NORM_EPS,
            "max_period": MAX_PERIOD,
        }
        return inferred | known | class_arguments(len(table), known)

    @classmethod
    def to_ditkit(cls, state: State, **known: Any) -> State:
        """See ``Layout.to_ditkit``: positions are not in the layout; they are made when ``input_size`` is known."""
        weights = {key: value for key, value in state.items() if key != "pos_embed.pos_embed"}
        ours = rename(fuse(weights), names(count_blocks(state, BLOCKS)))
        if "input_size" in known:
            width, _, patch_size, _ = state["pos_embed.proj.weight"].shape
            size = known["input_size"]
            height, wide = (size, size) if isinstance(size, int) else size
            ours["positions"] = sincos_2d(width, height // patch_size, wide // patch_size).float()
        return ours

    @classmethod
    def from_ditkit(cls, state: State) -> State:
        """See ``Layout.from_ditkit``: positions are left out, as this layout makes them anew."""
        depth, embedders = count_blocks(state, "blocks"), count_blocks(state, "conditioners")
        if embedders != depth:
            raise UserError(
                f"a diffusers DiT embeds time and label in each of {depth} blocks; this one has {embedders}"
            )
        weights = {key: value for key, value in state.items() if key != "positions"}
        return split(rename(weights, {ours: theirs for theirs, ours in names(depth).items()}))
