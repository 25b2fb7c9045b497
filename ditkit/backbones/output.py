"""What every backbone returns."""

from __future__ import annotations

import dataclasses

from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Output:
    """The result of ``net(x, t, condition, keep)``.

    prediction: (B, C, H, W), or (B, 2C, H, W) with learned variance: the prediction first, then the variance.
    kept: for each block named in ``keep``, the image tokens (B, N, D) after it.
    """

    prediction: Tensor
    kept: dict[int, Tensor] = dataclasses.field(default_factory=dict)
