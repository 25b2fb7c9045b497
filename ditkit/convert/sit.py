"""SiT's convention of time: data at t = 1, noise at t = 0, t given to the network as it is (Ma et al. 2024).

Its weights are a DiT's (``load_dit``); only the time and the sign of a velocity are read differently.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor, nn

from ditkit.condition import Condition
from ditkit.process.prediction import Prediction, Velocity

NETWORK_TIMES = 1000
"""A continuous path's network_time at t = 1."""


class DataAtOne(nn.Module):
    """A network trained with data at t = 1, called as one with data at t = 0.

    net: called with 1 - t in [0, 1]. prediction: the row that it was trained on; a velocity, being a derivative by t,
    changes its sign, the other rows do not. A second half of channels (SiT's unused learned variance) is left out.
    """

    name = "data_at_one"

    def __init__(self, net: nn.Module, prediction: Prediction) -> None:
        super().__init__()
        self.net = net
        self.sign = -1 if isinstance(prediction, Velocity) else 1

    def forward(self, x: Tensor, time: Tensor, condition: Condition, **options: Any) -> Any:
        """x (B, C, ...), time (B,) as a continuous path's network_time says it: 1000 t."""
        output = self.net(x, 1 - time / NETWORK_TIMES, condition, **options)
        return dataclasses.replace(output, prediction=self.sign * output.prediction[:, : x.shape[1]])
