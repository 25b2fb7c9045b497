"""The published initialisation of a diffusion transformer (Peebles & Xie 2023; facebookresearch/DiT, models.py)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ditkit.base.rng import generator
from ditkit.nn.embed import TimeEmbedding
from ditkit.nn.layers import ZeroLinear

EMBEDDING_STD = 0.02

Fill = Callable[[Tensor, torch.Generator], object]


def zeros(value: Tensor, _: torch.Generator) -> None:
    """All zero."""
    value.zero_()


def ones(value: Tensor, _: torch.Generator) -> None:
    """All one."""
    value.fill_(1)


def normal(value: Tensor, draws: torch.Generator) -> None:
    """Normal with standard deviation 0.02."""
    value.normal_(std=EMBEDDING_STD, generator=draws)


def xavier(value: Tensor, draws: torch.Generator) -> None:
    """Uniform within sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010); a patch counts as one long input."""
    nn.init.xavier_uniform_(value.flatten(1), generator=draws)


WEIGHTS: dict[type[nn.Module], Fill] = {
    nn.Linear: xavier,
    nn.Conv2d: xavier,
    nn.Embedding: normal,
    nn.LayerNorm: ones,
    nn.GroupNorm: ones,
    ZeroLinear: zeros,
}


def initialise(net: nn.Module, seed: int) -> None:
    """Sets every parameter of ``net`` in place from draws keyed by (seed, its name); buffers are left alone.

    Weights by the kind of layer (``WEIGHTS``), but normal in a time embedding; biases zero. On the meta device nothing
    happens. Raises TypeError for a layer of a kind that has no rule.
    """
    of_time = {layer for module in net.modules() if isinstance(module, TimeEmbedding) for layer in module.children()}
    for prefix, module in net.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if type(module) not in WEIGHTS:
                raise TypeError(f"no initialisation for {type(module).__name__} at {prefix}")
            weight = normal if module in of_time else WEIGHTS[type(module)]
            _fill(parameter, zeros if name == "bias" else weight, generator(seed, f"init {prefix}.{name}"))


@torch.no_grad()
def _fill(parameter: Tensor, fill: Fill, draws: torch.Generator) -> None:
    if parameter.device.type == "cpu":
        fill(parameter, draws)
    elif parameter.device.type != "meta":  # drawn on the CPU, so that every device starts from the same numbers
        value = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
        fill(value, draws)
        parameter.copy_(value)


def allocate(net: nn.Module, device: torch.device | str) -> None:
    """Gives a network from the meta device memory on another, its numbers yet to be drawn; nothing on meta itself.

    As ``net.to_empty(device=...)``, which imports torch.fx and sympy: 2 s of processor time before a first sample.
    """
    if torch.device(device).type == "meta":
        return
    for module in net.modules():
        for name, parameter in [*module.named_parameters(recurse=False)]:
            new = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            setattr(module, name, nn.Parameter(new, requires_grad=parameter.requires_grad))
        for name, buffer in [*module.named_buffers(recurse=False)]:
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))
