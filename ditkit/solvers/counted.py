"""Floor 1: counting how often a denoiser is asked, the cost of sampling."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from ditkit.process.denoiser import Denoise, Denoised
from ditkit.process.path import Path


@dataclasses.dataclass
class Counted:
    """A denoiser that counts its evaluations: one a call, whatever the batch."""

    denoise: Denoise
    evaluations: int = 0

    @property
    def path(self) -> Path:
        """The path of the denoiser within."""
        return self.denoise.path

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        self.evaluations += 1
        return self.denoise(x, t)
