"""What a network costs: parameters and multiply-adds of one forward pass, counted without computing anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Parameters, and the multiply-adds of one forward pass.

    parameters: trained numbers; buffers (fixed position tables) are not among them.
    multiply_adds: of all matrix products, attention products and convolutions.
    norms: elements that pass a normalisation. The "Gflops" of the DiT paper are ``multiply_adds + norms``.
    by_module: multiply_adds under each module's name ("blocks.0.attention"), those of its parts included.
    """

    parameters: int
    multiply_adds: int
    norms: int
    by_module: dict[str, int] = field(repr=False)


def cost(net: nn.Module, *inputs: Any) -> Cost:
    """The cost of ``net(*inputs)``; multiply-adds scale with the batch, so give a batch of 1 for the cost per image.

    Runs on the meta device: nothing is computed, ``net`` is not changed. Inputs are tensors, or have ``.to(device)``.
    """
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    meta = {name: tensor.detach().to("meta") for name, tensor in tensors.items()}
    arguments = tuple(value.to("meta") if hasattr(value, "to") else value for value in inputs)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), _norm_count(net) as norms, counter:
        torch.func.functional_call(net, meta, arguments)
    root = f"{type(net).__name__}."
    flops = {name: sum(by_op.values()) for name, by_op in counter.get_flop_counts().items() if name.startswith(root)}
    return Cost(
        parameters=sum(parameter.numel() for parameter in net.parameters()),
        multiply_adds=counter.get_total_flops() // 2,
        norms=sum(norms),
        by_module={name.removeprefix(root): count // 2 for name, count in flops.items()},
    )


@contextmanager
def _norm_count(net: nn.Module) -> Iterator[list[int]]:
    counts: list[int] = []

    def count(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        counts.append(output.numel())

    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, nn.LayerNorm | nn.GroupNorm)]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
