"""Several processes at one piece of work, as torchrun starts them: who does which part, and waiting for one another.

They meet through gloo, on the CPU: what is exchanged here is files on a disk that all of them see.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from ditkit.base.errors import UserError

PATIENCE = datetime.timedelta(days=1)
"""How long a process waits for the others: one may be training a feature network meanwhile."""

_PAUSE = 0.02
"""Seconds between two looks whether the others have come."""


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
        """Returns when all have come here, and hears signals meanwhile. UserError where another process has ended."""
        if self.world == 1:
            return
        try:
            all_here: Any = dist.barrier(async_op=True)
            while not all_here.is_completed():
                time.sleep(_PAUSE)
            all_here.wait()
        except RuntimeError as error:
            said = " ".join(str(error).split())
            raise UserError(
                f"process {self.rank} of {self.world} lost another one ({said[:120]}): see what "
                "that one said; the same command again goes on with what is done"
            ) from None

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
