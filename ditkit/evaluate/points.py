"""Features of all images as points of a space, whose distances to one another are computed once and kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from torch import Tensor

from ditkit.evaluate.neighbours import squared_neighbours
from ditkit.evaluate.statistics import Rows


class Points(Rows):
    """Rows (N, D) float, with the squared distances among them once these were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._around: Tensor | None = None

    def update(self, rows: Tensor, index: Tensor) -> None:
        """Adds rows (B, D) with their numbers (B,) int64 in the whole set. Raises UserError if not finite."""
        super().update(rows, index)
        self._around = None

    def merge(self, other: Rows) -> None:
        """Adds what another one has seen."""
        super().merge(other)
        self._around = None

    def around(self, k: int, *, progress: bool = False) -> Tensor:
        """Squared distances (N, k) float64, rising, of every point to its k nearest, itself not counted."""
        if self._around is None or self._around.shape[1] < k:
            self._around = squared_neighbours(self.rows, k, progress=progress)
        return self._around[:, :k]

    @property
    def state(self) -> dict[str, Tensor]:
        """As that of ``Rows``, and around (N, k) where it was asked for."""
        return super().state | ({} if self._around is None else {"around": self._around})

    @classmethod
    def of_state(cls, state: Mapping[str, Tensor]) -> Self:
        """The points whose state this is."""
        found = super().of_state(state)
        found._around = state.get("around")
        return found
