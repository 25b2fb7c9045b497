"""The small layers that a transformer block is made of."""

from __future__ import annotations

from torch import Tensor, nn


class ZeroLinear(nn.Linear):
    """A linear layer whose weight and bias start at zero (see ``nn.init``)."""


class MLP(nn.Sequential):
    """Linear, GELU (tanh approximation), linear: (..., D) to (..., D) with ``hidden`` units between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))


def layer_norm(width: int, eps: float = 1e-6, affine: bool = True) -> nn.LayerNorm:
    """A LayerNorm over the width; without ``affine`` its shift and scale come from a modulation."""
    return nn.LayerNorm(width, eps=eps, elementwise_affine=affine)


def modulate(x_BND: Tensor, shift_BD: Tensor, scale_BD: Tensor) -> Tensor:
    """x (1 + scale) + shift, the same for all tokens of a sample (Perez et al. 2018, FiLM)."""
    return x_BND * (1 + scale_BD[:, None]) + shift_BD[:, None]


class Modulation(nn.Module):
    """Regresses ``count`` vectors (B, D) from a condition vector (B, D): SiLU, then a linear layer that starts at zero.

    Peebles & Xie 2023, section 3.2 (adaLN and adaLN-Zero).
    """

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = ZeroLinear(width, count * width)

    def forward(self, c_BD: Tensor) -> tuple[Tensor, ...]:
        """The vectors, (B, D) each."""
        return self.linear(nn.functional.silu(c_BD)).chunk(self.count, dim=-1)
