"""torch.compile for networks of repeated blocks."""

from __future__ import annotations

import copy

from torch import nn


def compiled(net: nn.Module) -> nn.Module:
    """The same network with its repeated blocks compiled: a twin that shares all its parameters and buffers.

    Repeated blocks are those of a ModuleList with more than one. One kind of block is compiled once, however deep the
    network is; a network without any is compiled as a whole. Compiling happens at the first call, for each input shape.
    """
    shared = {id(tensor): tensor for tensor in (*net.parameters(), *net.buffers())}
    twin = copy.deepcopy(net, shared)
    lists = [module for module in twin.modules() if isinstance(module, nn.ModuleList) and len(module) > 1]
    for block in [block for blocks in lists for block in blocks] or [twin]:
        block.compile(dynamic=False)
    return twin
