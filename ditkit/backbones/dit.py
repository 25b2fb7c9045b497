"""DiT: a transformer on the patches of a noised image (Peebles & Xie 2023, arXiv 2212.09748)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from ditkit.backbones.dit_blocks import block_class
from ditkit.backbones.output import Output
from ditkit.base.errors import UserError
from ditkit.condition import NULL_LABEL, Condition
from ditkit.nn.embed import LabelEmbedding, PatchEmbedding, TimeEmbedding, sincos_2d, unpatchify
from ditkit.nn.init import allocate, initialise

# Shapes: B batch, N tokens, D width, C channels, P patch, S condition vectors (1: time; 2: time and class).


class Conditioner(nn.Module):
    """Time and, where the model has classes, label to the condition vectors (B, S, D)."""

    def __init__(self, width: int, num_classes: int, null_class: bool, max_period: float) -> None:
        super().__init__()
        self.time = TimeEmbedding(width, max_period=max_period)
        self.label = LabelEmbedding(num_classes, width, null_class) if num_classes else None

    def forward(self, t: Tensor, condition: Condition) -> Tensor:
        """(B,) and the batch's condition to (B, S, D); a model with classes takes no label for the null label."""
        if self.label is None:
            return self.time(t)[:, None]
        label = condition.label
        if label is None:
            label = torch.full_like(t, NULL_LABEL, dtype=torch.int64)
        return torch.stack([self.time(t), self.label(label)], dim=1)


class DiT(nn.Module):
    """A diffusion transformer, for inputs whose sides are multiples of ``patch_size``.

    input_size: pixels (or latent pixels) per side, or (H, W), that it is made for, whose positions are kept with the
    weights; those of other sizes are of the same formula.
    in_channels: C of the input; ``learned_variance`` doubles it in the output.
    width, depth, heads, mlp_ratio: D, number of blocks, attention heads, hidden units of the MLP over D.
    num_classes: K, or 0 for a model without classes. ``null_class``: the label table has a row for NULL_LABEL.
    conditioning: "adaln_zero", "adaln", "cross_attention" or "in_context" (``dit_blocks``).
    embedders: 1 embedding of time and label for all blocks, or ``depth``: one per block (the last layer: block 0's).
    norm_eps: of the norms before attention and before the MLP. ``max_period``: of the time sinusoids.
    seed: of the initial weights; keyed by it and the parameter's name, never from global state.

    Raises UserError for sizes that do not fit together or an unknown conditioning.
    """

    name = "dit"

    @staticmethod
    def presets() -> dict[str, dict[str, Any]]:
        """Published configurations by name."""
        return PRESETS

    def __init__(
        self,
        input_size: int | tuple[int, int],
        patch_size: int,
        in_channels: int,
        width: int,
        depth: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        num_classes: int = 0,
        null_class: bool = True,
        conditioning: str = "adaln_zero",
        learned_variance: bool = False,
        embedders: int = 1,
        norm_eps: tuple[float, float] = (1e-6, 1e-6),
        max_period: float = 10_000.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        height, wide = (input_size, input_size) if isinstance(input_size, int) else input_size
        self.input_size = (height, wide)
        self.patch_size, self.in_channels, self.num_classes = patch_size, in_channels, num_classes
        self.learned_variance, self.width, self.depth = learned_variance, width, depth
        self.grid = grid_of(self.input_size, patch_size)
        if embedders not in (1, depth):
            raise UserError(f"embedders {embedders}: expected 1 (shared) or the depth {depth} (one per block)")
        self.variant = block = block_class(conditioning)
        out_channels = in_channels * (2 if learned_variance else 1)
        device = torch.empty(0).device
        with torch.device("meta"):  # so that nothing is drawn before initialise() draws it, once
            self.conditioners = nn.ModuleList(
                Conditioner(width, num_classes, null_class, max_period) for _ in range(embedders)
            )
            self.patches = PatchEmbedding(in_channels, patch_size, width)
            self.blocks = nn.ModuleList(block(width, heads, int(width * mlp_ratio), norm_eps) for _ in range(depth))
            self.final = block.final(width, patch_size**2 * out_channels)
        allocate(self, device)
        self.register_buffer("positions", sincos_2d(width, *self.grid).to(device, torch.get_default_dtype()))  # N D
        self._elsewhere: dict[tuple[object, ...], Tensor] = {}
        initialise(self, seed)

    def forward(self, x: Tensor, t: Tensor, condition: Condition, keep: Collection[int] = ()) -> Output:
        """Predicts from x (B, C, H, W), network time t (B,) and the condition; keeps the tokens after blocks ``keep``.

        Raises UserError for an input that the patches do not fit, or labels that the model cannot take.
        """
        self._check(x, condition, keep)
        grid = grid_of((x.shape[2], x.shape[3]), self.patch_size)
        vectors = [conditioner(t, condition) for conditioner in self.conditioners]  # B S D each
        first = vectors[0]
        h = self.variant.enter(self.patches(x) + self._positions(grid), first)
        kept: dict[int, Tensor] = {}
        for i, block in enumerate(self.blocks):
            h = block(h, vectors[i % len(vectors)])
            if i in keep:
                kept[i] = self.variant.leave(h, first)
        tokens = self.final(self.variant.leave(h, first), first)  # B N PPC
        return Output(unpatchify(tokens, grid, self.patch_size), kept)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Of the patches of a grid (h, w): (N, D)."""
        own = self.positions
        assert isinstance(own, Tensor)
        if grid == self.grid:
            return own
        key = (grid, own.device, own.dtype)
        if key not in self._elsewhere:
            self._elsewhere[key] = sincos_2d(self.width, *grid).to(own)
        return self._elsewhere[key]

    def _check(self, x: Tensor, condition: Condition, keep: Collection[int]) -> None:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            own = ", ".join(map(str, (self.in_channels, *self.input_size)))
            raise UserError(
                f"input of shape {tuple(x.shape)}: this model takes (batch, {own}), or another height and width"
            )
        if condition.label is not None and not self.num_classes:
            raise UserError("a class label was given to a model without classes: leave it out, or train with classes")
        for i in keep:
            if not 0 <= i < len(self.blocks):
                raise UserError(f"keep names block {i}: this model has blocks 0 to {len(self.blocks) - 1}")


def grid_of(input_size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """The grid (h, w) of patches of an input (H, W); UserError when the patch does not divide both sides."""
    for side in input_size:
        if side < 1 or patch_size < 1 or side % patch_size:
            near = max(1, round(side / max(1, patch_size))) * patch_size
            raise UserError(
                f"input size {input_size[0]}x{input_size[1]} is not divisible by the patch size {patch_size}: "
                f"use a multiple, such as {near}, or another patch size"
            )
    return input_size[0] // patch_size, input_size[1] // patch_size


SIZES: dict[str, dict[str, int]] = {
    "DiT-S": {"width": 384, "depth": 12, "heads": 6},
    "DiT-B": {"width": 768, "depth": 12, "heads": 12},
    "DiT-L": {"width": 1024, "depth": 24, "heads": 16},
    "DiT-XL": {"width": 1152, "depth": 28, "heads": 16},
}
"""Peebles & Xie 2023, table 1."""

PRESETS: dict[str, dict[str, Any]] = {
    f"{name}/{patch_size}": {"patch_size": patch_size, **size}
    for name, size in SIZES.items()
    for patch_size in (2, 4, 8)
}
"""The paper's twelve models: ``DiT(**PRESETS["DiT-XL/2"], input_size=32, in_channels=4, ...)``."""
