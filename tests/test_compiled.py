"""A compiled network is the same network: its parameters are shared, its repeated blocks compiled."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ditkit.backbones.dit import DiT
from ditkit.condition import Condition
from ditkit.nn.compiled import compiled


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """The modules that are asked to compile themselves; none does, which would take a C++ compiler and seconds."""
    modules: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, **how: modules.append(self))
    return modules


def test_repeated_blocks_are_compiled_and_parameters_shared(asked: list[nn.Module]) -> None:
    net = DiT(8, 2, 1, width=16, depth=3, heads=2, num_classes=4)
    twin = compiled(net)
    assert asked == [*twin.blocks]
    x, t, condition = torch.ones(2, 1, 8, 8), torch.tensor([0.0, 9.0]), Condition(label=torch.tensor([1, 3]))
    twin(x, t, condition).prediction.sum().backward()
    assert net.final.linear.weight.grad is not None
    with torch.no_grad():
        net.final.linear.weight.normal_(generator=torch.Generator().manual_seed(0))
    assert torch.equal(twin(x, t, condition).prediction, net(x, t, condition).prediction)
    assert {id(v) for v in (*net.parameters(), *net.buffers())} == {
        id(v) for v in (*twin.parameters(), *twin.buffers())
    }


def test_a_network_without_repetition_is_compiled_whole(asked: list[nn.Module]) -> None:
    twin = compiled(nn.Sequential(nn.Linear(2, 2)))
    assert asked == [twin]
