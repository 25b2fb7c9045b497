"""Multi-head attention: one operation, and the modules that make its queries, keys and values."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ditkit.base.errors import UserError

# Shapes: B batch, N query tokens, M key tokens, D width, H heads, d = D / H.

LARGEST_WRITTEN_OUT = 512
"""Key tokens up to which attention may keep all its N x M scores; beyond, they would take more memory than the rest."""


def attend(q_BND: Tensor, k_BMD: Tensor, v_BMD: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v per head, the heads side by side again: (B, N, D) in the dtype of the values.

    Vaswani et al. 2017, equation 1.
    """

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # B H N d

    product = _written_out if _half_on_cpu(q_BND, k_BMD) else F.scaled_dot_product_attention
    out_BHNd = product(split(q_BND), split(k_BMD), split(v_BMD))
    return out_BHNd.transpose(1, 2).flatten(2)  # B N D


def _written_out(q_BHNd: Tensor, k_BHMd: Tensor, v_BHMd: Tensor) -> Tensor:
    scores_BHNM = (q_BHNd * q_BHNd.shape[-1] ** -0.5) @ k_BHMd.mT
    return scores_BHNM.softmax(-1) @ v_BHMd


def _half_on_cpu(q_BND: Tensor, k_BMD: Tensor) -> bool:
    """There the fused kernel is slow (forward and backward take 7 times as long at 16 tokens, twice at 256)."""
    return q_BND.device.type == "cpu" and q_BND.dtype.itemsize == 2 and k_BMD.shape[1] <= LARGEST_WRITTEN_OUT


def check_heads(width: int, heads: int) -> None:
    """Raises UserError when the width cannot be split into the heads."""
    if heads < 1 or width % heads:
        raise UserError(f"width {width} cannot be split into {heads} heads: choose heads that divide the width")


class SelfAttention(nn.Module):
    """Tokens (B, N, D) attend to one another."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, N, D)."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out(attend(q, k, v, self.heads))


class CrossAttention(nn.Module):
    """Tokens (B, N, D) attend to a context (B, M, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        check_heads(width, heads)
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """(B, N, D) and (B, M, D) to (B, N, D)."""
        k, v = self.kv(context).chunk(2, dim=-1)
        return self.out(attend(self.q(x), k, v, self.heads))
