"""Cases that only this project's own code has recorded: the conditionings that no public code publishes weights for."""

from __future__ import annotations

import torch
from torch import Tensor

from ditkit.backbones.dit import DiT
from ditkit.condition import Condition
from tests.conformance.harness import Case, covers


@torch.no_grad()
def wave_weights(net: DiT) -> DiT:
    """Fills every parameter with 0.2 sin(k), a rule that needs no file; fresh weights would give an output of zero."""
    start = 0
    for parameter in net.parameters():
        wave = 0.2 * torch.arange(start, start + parameter.numel(), dtype=torch.float64).sin()
        parameter.copy_(wave.view_as(parameter))
        start += parameter.numel()
    return net.eval()


@covers("own_dit_*")
def conditioning(case: Case) -> dict[str, Tensor]:
    net, inputs = wave_weights(DiT(**case.config["model"])), case.inputs
    with torch.no_grad():
        output = net(inputs["x"], inputs["t"], Condition(inputs.get("label")), keep=(0,))
    return {"prediction": output.prediction, "block0": output.kept[0]}
