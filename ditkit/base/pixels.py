"""The one place where pixels 0..255 and the model's range [-1, 1] meet."""

from __future__ import annotations

import torch
from torch import Tensor


def from_uint8(pixels: Tensor) -> Tensor:
    """Pixels uint8 0..255 of any shape as float32 in [-1, 1]: x = p / 127.5 - 1."""
    return pixels.to(torch.float32).div_(127.5).sub_(1.0)


def to_uint8(x: Tensor) -> Tensor:
    """Values in [-1, 1] of any shape as uint8 0..255: rounded half up, clamped. Undoes ``from_uint8`` exactly."""
    return ((x.to(torch.float32) + 1.0) * 127.5 + 0.5).floor_().clamp_(0, 255).to(torch.uint8)
