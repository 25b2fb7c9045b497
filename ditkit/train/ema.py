"""Floor 4: the exponential moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def warmed(decay: float, step: int) -> float:
    """The decay at a step (0, 1, ...): min(decay, (1 + step) / (10 + step)), so that early weights are forgotten."""
    return min(decay, (1 + step) / (10 + step))


class EMA:
    """A float32 copy of a network that follows it: ema = decay ema + (1 - decay) net after every step."""

    def __init__(self, net: nn.Module) -> None:
        """Starts as a copy of net, on its device."""
        self.net = copy.deepcopy(net).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, net: nn.Module, decay: float) -> None:
        """Follows the parameters of ``net`` by one step; buffers are copied."""
        mine: list[Tensor] = [*self.net.parameters()]
        theirs: list[Tensor] = [*net.parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for own, new in zip(self.net.buffers(), net.buffers(), strict=True):
            own.copy_(new)
