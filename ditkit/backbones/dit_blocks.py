"""The four ways in which a DiT block takes its condition (Peebles & Xie 2023, section 3.2 and figure 3).

A condition is a short sequence of vectors (B, S, D): time, then class where there is one. A variant is a subclass of
``Block``, found by its ``name``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from ditkit.base.registry import find
from ditkit.nn.attention import CrossAttention, SelfAttention
from ditkit.nn.layers import MLP, Modulation, ZeroLinear, layer_norm, modulate

# Shapes: B batch, N tokens, D width, S condition vectors.


class PlainFinal(nn.Module):
    """LayerNorm and a linear layer that starts at zero: tokens (B, N, D) to (B, N, out)."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm = layer_norm(width)
        self.linear = ZeroLinear(width, out)

    def forward(self, x: Tensor, c_BSD: Tensor) -> Tensor:
        """(B, N, D) to (B, N, out); the condition is not used."""
        return self.linear(self.norm(x))


class AdaptiveFinal(nn.Module):
    """The same with shift and scale regressed from the condition."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm = layer_norm(width, affine=False)
        self.modulation = Modulation(width, 2)
        self.linear = ZeroLinear(width, out)

    def forward(self, x: Tensor, c_BSD: Tensor) -> Tensor:
        """(B, N, D) and (B, S, D) to (B, N, out)."""
        shift, scale = self.modulation(c_BSD.sum(1))
        return self.linear(modulate(self.norm(x), shift, scale))


class Block(nn.Module, ABC):
    """A transformer block on tokens (B, N, D) and a condition (B, S, D).

    norm_eps: the eps of the norm before the attention, and of the norm before the MLP.
    """

    name: ClassVar[str]
    affine: ClassVar[bool]
    final: ClassVar[type[PlainFinal] | type[AdaptiveFinal]]

    def __init__(self, width: int, heads: int, hidden: int, norm_eps: tuple[float, float]) -> None:
        super().__init__()
        self.norm1 = layer_norm(width, norm_eps[0], self.affine)
        self.attention = SelfAttention(width, heads)
        self.norm2 = layer_norm(width, norm_eps[1], self.affine)
        self.mlp = MLP(width, hidden)

    @abstractmethod
    def forward(self, x: Tensor, c_BSD: Tensor) -> Tensor:
        """(B, N, D) and (B, S, D) to (B, N, D)."""

    @staticmethod
    def enter(x: Tensor, c_BSD: Tensor) -> Tensor:
        """What the first block is given: the image tokens."""
        return x

    @staticmethod
    def leave(x: Tensor, c_BSD: Tensor) -> Tensor:
        """The image tokens in what a block returned."""
        return x


class InContextBlock(Block):
    """A plain block; the condition vectors stand before the image tokens as tokens of their own."""

    name = "in_context"
    affine = True
    final = PlainFinal

    def forward(self, x: Tensor, c_BSD: Tensor) -> Tensor:
        """(B, S + N, D) to (B, S + N, D)."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))

    @staticmethod
    def enter(x: Tensor, c_BSD: Tensor) -> Tensor:
        """The condition vectors, then the image tokens: (B, S + N, D)."""
        return torch.cat([c_BSD, x], dim=1)

    @staticmethod
    def leave(x: Tensor, c_BSD: Tensor) -> Tensor:
        """The image tokens (B, N, D) of (B, S + N, D)."""
        return x[:, c_BSD.shape[1] :]


class CrossAttentionBlock(Block):
    """Between self-attention and MLP, a cross-attention to the condition vectors.

    Without classes there is one vector, time, and every token takes it whole: the queries then change nothing.
    """

    name = "cross_attention"
    affine = True
    final = PlainFinal

    def __init__(self, width: int, heads: int, hidden: int, norm_eps: tuple[float, float]) -> None:
        super().__init__(width, heads, hidden, norm_eps)
        self.cross_norm = layer_norm(width, norm_eps[0])
        self.cross_attention = CrossAttention(width, heads)

    def forward(self, x: Tensor, c_BSD: Tensor) -> Tensor:
        """(B, N, D) and (B, S, D) to (B, N, D)."""
        x = x + self.attention(self.norm1(x))
        x = x + self.cross_attention(self.cross_norm(x), c_BSD)
        return x + self.mlp(self.norm2(x))


class AdaLNBlock(Block):
    """Adaptive layer norm: shift and scale of both norms are regressed from the sum of the condition vectors."""

    name = "adaln"
    affine = False
    final = AdaptiveFinal

    def __init__(self, width: int, heads: int, hidden: int, norm_eps: tuple[float, float]) -> None:
        super().__init__(width, heads, hidden, norm_eps)
        self.modulation = Modulation(width, 4)

    def forward(self, x: Tensor, c_BSD: Tensor) -> Tensor:
        """(B, N, D) and (B, S, D) to (B, N, D)."""
        shift1, scale1, shift2, scale2 = self.modulation(c_BSD.sum(1))
        x = x + self.attention(modulate(self.norm1(x), shift1, scale1))
        return x + self.mlp(modulate(self.norm2(x), shift2, scale2))


class AdaLNZeroBlock(Block):
    """AdaLN with a gate on both residuals, regressed too; all start at zero, so the block starts as the identity."""

    name = "adaln_zero"
    affine = False
    final = AdaptiveFinal

    def __init__(self, width: int, heads: int, hidden: int, norm_eps: tuple[float, float]) -> None:
        super().__init__(width, heads, hidden, norm_eps)
        self.modulation = Modulation(width, 6)

    def forward(self, x: Tensor, c_BSD: Tensor) -> Tensor:
        """(B, N, D) and (B, S, D) to (B, N, D)."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c_BSD.sum(1))
        x = x + gate1[:, None] * self.attention(modulate(self.norm1(x), shift1, scale1))
        return x + gate2[:, None] * self.mlp(modulate(self.norm2(x), shift2, scale2))


def block_class(name: str) -> type[Block]:
    """The variant of that name; UserError that names the nearest one when there is none."""
    return find(
        "conditioning",
        __name__,
        lambda value: isinstance(value, type) and issubclass(value, Block) and value is not Block,
        name,
    )
