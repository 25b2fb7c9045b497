"""Floor 4: what the trainer knows of what it trains."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from ditkit.objectives.loss import Loss

W = TypeVar("W", bound="Work")


class Work(Protocol):
    """A batch on the trainer's device, with all that was drawn for its step."""

    def __len__(self) -> int:
        """B, the samples of the batch."""
        ...

    def __getitem__(self: W, rows: slice, /) -> W:
        """Some of the samples, with their draws."""
        ...


class Task(Protocol[W]):
    """A network and what it learns: a denoiser, a classifier on noisy images, an autoencoder.

    Every random number of a step is drawn in ``work``, from (seed, purpose, step): a step is the same whether or not
    the run was stopped before it, and into however many passes its batch is split.
    """

    @property
    def net(self) -> nn.Module:
        """The network: it is optimised, averaged and kept in checkpoints as a whole, its sub-networks included."""
        ...

    def work(self, batch: Any, step: int) -> W:
        """The batch of a step (0, 1, ...) with the step's draws, on the network's device."""
        ...

    def loss(self, net: nn.Module, work: W) -> Loss:
        """The loss of some of a step's samples; net: the network, or its compiled twin with the same parameters."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs besides the network; empty where the step's number says it all."""
        ...

    def load(self, state: dict[str, Tensor]) -> None:
        """Puts back what ``state`` gave."""
        ...
