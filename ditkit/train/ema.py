"""Floor 4: exponential moving averages of the weights, one or several lengths of them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ditkit.base.errors import UserError
from ditkit.train.settings import LoopSettings

MAIN = "ema"
"""The name of the average that is sampled from unless another is asked for."""


def decays(settings: LoopSettings) -> dict[str, float]:
    """The decays of a run's moving averages by name: ema, and ema-0.99 and so on for those kept beside it.

    Raises UserError for a decay that is kept twice.
    """
    main, also = settings.ema_decay, settings.ema_also
    twice = [decay for k, decay in enumerate(also) if decay in (main, *also[:k])]
    if twice:
        where = f"by --train.ema-decay {main}" if twice[0] == main else "by this option itself"
        raise UserError(
            f"--train.ema-also {' '.join(map(str, also))}: the average of decay {twice[0]} is kept already ({where}); "
            "name each decay once"
        )
    return {MAIN: main, **{f"{MAIN}-{decay}": decay for decay in also}}


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
