"""Floor 0: the times of shorter chains (all grids to sample at: grids; times to train at: density)."""

from __future__ import annotations

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.process.chain import Chain
from ditkit.process.path import DiscretePath, Path


def respaced_indices(steps: int, spec: str | list[int]) -> list[int]:
    """The ascending indices of a chain of ``steps`` that a shorter chain visits (Nichol & Dhariwal 2021).

    spec: "" all; "ddimN" a whole stride that gives exactly N; "N" or "N1,N2,..." (or a list) that many from each of
    as many equal sections, ends included. UserError where the spec does not fit.
    """
    if isinstance(spec, str) and spec.startswith("ddim"):
        return _strided(steps, spec)
    if spec == "":
        return list(range(steps))
    try:
        counts = [int(part) for part in spec.split(",")] if isinstance(spec, str) else list(spec)
    except ValueError:
        raise UserError(f"steps {spec!r}: expected a number (50), sections (10,15,20) or a stride (ddim50)") from None
    indices: list[int] = []
    for i, count in enumerate(counts):
        # the first sections take the remainder
        size = steps // len(counts) + (i < steps % len(counts))
        start = sum(steps // len(counts) + (j < steps % len(counts)) for j in range(i))
        if not 1 <= count <= size:
            raise UserError(f"steps {spec!r}: cannot take {count} of {size} steps; expected 1 to {size}")
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        position = 0.0
        for _ in range(count):
            indices.append(start + round(position))
            position += stride
    return sorted(set(indices))


def _strided(steps: int, spec: str) -> list[int]:
    try:
        wanted = int(spec.removeprefix("ddim"))
    except ValueError:
        raise UserError(f"steps {spec!r}: expected ddim followed by a number, such as ddim50") from None
    for stride in range(1, steps):
        if len(range(0, steps, stride)) == wanted:
            return list(range(0, steps, stride))
    if not 1 <= wanted <= steps:
        raise UserError(f"steps {spec!r}: expected ddim1 to ddim{steps}, the steps that the model was trained with")
    raise UserError(f"steps {spec!r}: no whole stride takes exactly {wanted} of {steps} steps; try {wanted} alone")


def chain_grid(path: Path, indices: list[int]) -> Tensor:
    """The grid through the chain's ascending ``indices``, from the noisiest down to t = 0."""
    assert path.steps is not None
    times = (torch.tensor(indices, dtype=torch.float64) + 1) / path.steps
    return torch.cat([times.flip(0), torch.zeros(1, dtype=torch.float64)])


class Respaced(DiscretePath):
    """The chain that visits some indices of another as a path of its own, to train on or to bound likelihoods by.

    The network still sees the indices of the chain that it was trained on (Nichol & Dhariwal 2021, section 4).
    """

    name = "respaced"

    def __init__(self, path: DiscretePath, indices: list[int]) -> None:
        """indices: ascending, of ``path`` (see respaced_indices)."""
        super().__init__(Chain(path, chain_grid(path, indices)).beta.flip(0))
        self.indices = torch.tensor(indices, dtype=torch.float64)

    def network_time(self, t: Tensor) -> Tensor:
        """The other chain's index, linear between the visited ones."""
        n, table = super().network_time(t), self.indices.to(t.device)
        return torch.lerp(table[n.floor().long()], table[n.ceil().long()], n - n.floor())
