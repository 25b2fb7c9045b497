"""Several processes at one piece of work, as torchrun starts them: who does which part, and waiting for one another.

They meet through gloo, on the CPU: what is exchanged here is files on a disk that all of them see.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

PATIENCE = datetime.timedelta(days=1)
"""How long a process waits for the others: one may be training a feature network meanwhile."""


@dataclass(frozen=True)
class Workers:
    """This process among ``world`` ones; rank: 0..world-1, and 0 is the one that speaks and writes results.

    local: its number on this machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

    @property
    def leads(self) -> bool:
        """Whether this is the one that speaks."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The name of this process's device: each has a GPU of its own where ``name`` leaves it open."""
        if self.world > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{self.local % torch.cuda.device_count()}"
        return name

    def wait(self) -> None:
        """Returns when all have come here."""
        if self.world > 1:
            dist.barrier()

    @contextlib.contextmanager
    def leader_first(self) -> Iterator[None]:
        """The body runs in process 0, then in the others, which find what it left on the disk."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()


ALONE = Workers()


@contextlib.contextmanager
def workers() -> Iterator[Workers]:
    """The processes that torchrun started (by RANK and WORLD_SIZE in the environment); alone without it."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield ALONE
        return
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Workers(rank, world, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()
