"""Floor 1: what a solver yields."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ditkit.process.denoiser import Denoised


@dataclasses.dataclass(frozen=True)
class State:
    """The state after a step.

    x: (B, C, ...), the sample at time t. t: (), float64. said: what the denoiser said at the step's start.
    """

    x: Tensor
    t: Tensor
    said: Denoised
