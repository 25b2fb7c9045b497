"""The layout of facebookresearch/DiT (models.py): adaLN-Zero, one embedding of time and label, square inputs."""

from __future__ import annotations

from typing import Any

from ditkit.convert.layout import (
    Layout,
    State,
    class_arguments,
    count_blocks,
    heads_of,
    rename,
    square_side,
)

OUTSIDE = {
    "x_embedder.proj": "patches.projection",
    "t_embedder.mlp.0": "conditioners.0.time.inner",
    "t_embedder.mlp.2": "conditioners.0.time.outer",
    "y_embedder.embedding_table": "conditioners.0.label.table",
    "pos_embed": "positions",
    "final_layer.adaLN_modulation.1": "final.modulation.linear",
    "final_layer.linear": "final.linear",
}
IN_BLOCK = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.out",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
    "adaLN_modulation.1": "modulation.linear",
}


def names(depth: int) -> dict[str, str]:
    """Module names of the layout to this project's, for so many blocks."""
    blocks = {f"blocks.{i}.{theirs}": f"blocks.{i}.{ours}" for i in range(depth) for theirs, ours in IN_BLOCK.items()}
    return OUTSIDE | blocks


class FacebookDiT(Layout):
    """facebookresearch/DiT."""

    name = "dit"
    marks = (
        "pos_embed",
        "x_embedder.proj.weight",
        "t_embedder.mlp.0.weight",
        "blocks.0.adaLN_modulation.1.weight",
        "blocks.0.mlp.fc1.weight",
        "final_layer.linear.weight",
    )

    @classmethod
    def arguments(cls, state: State, **known: Any) -> dict[str, Any]:
        """See ``Layout.arguments``: heads are those of the published model of that size, unless known."""
        width, in_channels, patch_size, _ = state["x_embedder.proj.weight"].shape
        depth = count_blocks(state, "blocks")
        table = state.get("y_embedder.embedding_table.weight")
        tokens = state["pos_embed"].shape[1]
        inferred = {
            "input_size": known.get("input_size") or square_side(tokens, patch_size),
            "patch_size": patch_size,
            "in_channels": in_channels,
            "width": width,
            "depth": depth,
            "heads": known.get("heads") or heads_of(width, depth),
            "mlp_ratio": state["blocks.0.mlp.fc1.weight"].shape[0] / width,
            "learned_variance": state["final_layer.linear.weight"].shape[0] == 2 * in_channels * patch_size**2,
        }
        return inferred | known | ({} if table is None else class_arguments(len(table), known))

    @classmethod
    def to_ditkit(cls, state: State, **known: Any) -> State:
        """See ``Layout.to_ditkit``."""
        ours = rename(state, names(count_blocks(state, "blocks")))
        if "positions" in ours:
            ours["positions"] = ours["positions"].squeeze(0)
        return ours

    @classmethod
    def from_ditkit(cls, state: State) -> State:
        """See ``Layout.from_ditkit``."""
        theirs = rename(state, {ours: theirs for theirs, ours in names(count_blocks(state, "blocks")).items()})
        if "pos_embed" in theirs:
            theirs["pos_embed"] = theirs["pos_embed"].unsqueeze(0)
        return theirs
