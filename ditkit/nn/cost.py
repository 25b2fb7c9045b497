"""What a network costs, module by module, counted without computing anything."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from ditkit.base.errors import UserError

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _BatchNorm)


@dataclasses.dataclass(frozen=True)
class Cost:
    """A module and all within it: its size, and what one call of the network takes in it.

    name: "blocks.0.attention", "" of the network itself. kind: the class's name.
    parameters: trained numbers; buffers (fixed position tables) are not among them. Shared ones count where they
    stand first.
    multiply_adds: of all matrix products, attention products and convolutions: half of PyTorch's "flops".
    norms: elements that come out of normalisations. The "Gflops" of the DiT paper are ``multiply_adds + norms``.
    activations: numbers that its layers (modules without parts) return, as in Radosavovic et al. 2020, section 4.
    parts: the modules in it; a module minus its parts is what it does itself.
    """

    name: str
    kind: str
    parameters: int
    multiply_adds: int
    norms: int
    activations: int
    parts: tuple[Cost, ...] = dataclasses.field(default=(), repr=False)

    @property
    def by_module(self) -> dict[str, int]:
        """Multiply-adds under each module's name, those of its parts included."""
        return {module.name: module.multiply_adds for module in self.walk()}

    def walk(self) -> Iterator[Cost]:
        """The module, then all within it, in the order in which they were built."""
        yield self
        for part in self.parts:
            yield from part.walk()


def cost(net: nn.Module, *inputs: Any, call: Callable[..., Any] | None = None) -> Cost:
    """The cost of ``call(net, *inputs)``, by default ``net(*inputs)``; give a batch of 1 for the cost per image.

    Nothing is computed and ``net`` is not changed: a twin of it runs on the meta device, where tensors have a shape
    and no numbers. Inputs are tensors or have ``.to(device)``; a torch.Size stands for a float32 tensor of that shape.
    Attention counts its two products in full, fused or written out, masked or not.
    Raises UserError for a network that looks at the numbers in its tensors.
    """
    twin = _on_meta(net)
    ledger = _Ledger(twin)
    arguments = [_meta_input(value) for value in inputs]
    with ledger.kept():
        _called(lambda: (call or type(twin).__call__)(twin, *arguments), type(net).__name__)
    return _tree("", twin, ledger.own)


def multiply_adds(work: Callable[[], Any]) -> int:
    """Multiply-adds of anything that runs on meta tensors, its backward pass included where it makes one.

    Raises UserError for work that looks at the numbers in its tensors.
    """
    with FlopCounterMode(display=False) as counter:
        _called(work, "this work")
    return counter.get_total_flops() // 2


def _called(work: Callable[[], Any], what: str) -> None:
    try:
        work()
    except (RuntimeError, NotImplementedError) as error:
        said = " ".join(str(error).split())[:200]
        raise UserError(
            f"{what} cannot be counted on the meta device ({said}): expected inputs that it takes, all tensors as "
            "parameters or buffers, and no step that depends on their numbers"
        ) from error


def _meta_input(value: Any) -> Any:
    if isinstance(value, torch.Size):
        return torch.empty(value, device="meta")
    return value.to("meta") if hasattr(value, "to") else value


def _on_meta(net: nn.Module) -> nn.Module:
    """A twin of the network without numbers; no memory is taken for them."""
    twins: dict[int, Any] = {id(buffer): buffer.detach().to("meta") for buffer in net.buffers()}
    for parameter in net.parameters():
        twins[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    return copy.deepcopy(net, twins)


@dataclasses.dataclass
class _Own:
    """What a module has and does itself, without its parts."""

    parameters: int = 0
    multiply_adds: int = 0
    norms: int = 0
    activations: int = 0


class _Ledger:
    """Gives what is counted between two moments to the innermost module that runs then."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.running, self.seen = net, [net], 0
        self.own = {module: _Own() for module in net.modules()}
        told: set[int] = set()
        for module, own in self.own.items():
            new = [p for p in module.parameters(recurse=False) if id(p) not in told]
            told.update(map(id, new))
            own.parameters = sum(p.numel() for p in new)

    @contextmanager
    def kept(self) -> Iterator[None]:
        self.counter = FlopCounterMode(display=False)
        hooks = [m.register_forward_pre_hook(self._enter) for m in self.own]
        hooks += [m.register_forward_hook(self._leave) for m in self.own]
        try:
            with torch.no_grad(), self.counter:
                yield
            self._settle()
        finally:
            for hook in hooks:
                hook.remove()

    def _settle(self) -> None:
        total = self.counter.get_total_flops() // 2
        self.own[self.running[-1]].multiply_adds += total - self.seen
        self.seen = total

    def _enter(self, module: nn.Module, _inputs: Any) -> None:
        self._settle()
        self.running.append(module)

    def _leave(self, module: nn.Module, _inputs: Any, output: Any) -> None:
        self._settle()
        self.running.pop()
        if isinstance(output, Tensor) and not any(True for _ in module.children()):
            self.own[module].activations += output.numel()
            self.own[module].norms += output.numel() * isinstance(module, NORMS)


def _tree(name: str, module: nn.Module, own: dict[nn.Module, _Own]) -> Cost:
    """The module's costs; takes what it tells out of ``own``, so that a module with two names is told once."""
    total = dataclasses.asdict(own.pop(module))
    parts = []
    for called, child in module.named_children():
        if child in own:
            parts.append(_tree(f"{name}.{called}" if name else called, child, own))
    for part in parts:
        for what in total:
            total[what] += getattr(part, what)
    return Cost(name, type(module).__name__, **total, parts=tuple(parts))
