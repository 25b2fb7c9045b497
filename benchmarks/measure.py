"""Timing on a machine that does other things too: variants take turns, and minimum and median are told."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from tqdm import tqdm

Work = Callable[[], object]


@dataclass(frozen=True)
class Timing:
    """Seconds of each call of one variant; ``failure`` says why there are none."""

    seconds: tuple[float, ...] = ()
    failure: str | None = None

    @property
    def least(self) -> float:
        """The fastest call, s: what the machine can do when nothing else runs."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The middle one, s: what it did."""
        return statistics.median(self.seconds)


def interleaved(variants: Mapping[str, Work], *, rounds: int, device: torch.device) -> dict[str, Timing]:
    """Times each variant ``rounds`` times, in turns A B C A B C, after one untimed call of each.

    A variant whose first call raises is left out, its failure kept in one line.
    """
    bar = tqdm(total=len(variants) * (rounds + 1), unit="call", dynamic_ncols=True)
    seconds: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    with bar:
        for name, work in variants.items():
            bar.set_postfix_str(f"warming up {name}")
            try:
                _seconds(work, device)
                seconds[name] = []
            except Exception as error:  # whatever a compiler can raise; the table says so, the rest is still measured
                failures[name] = _first_line(error)
            bar.update()
        for _ in range(rounds):
            for name in seconds:
                bar.set_postfix_str(name)
                seconds[name].append(_seconds(variants[name], device))
                bar.update()
    return {name: Timing(tuple(seconds.get(name, ())), failures.get(name)) for name in variants}


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _seconds(work: Work, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def product(device: torch.device, dtype: torch.dtype, size: int) -> tuple[Work, int]:
    """The machine's yardstick, a square matrix product of that many rows, and its multiply-adds."""
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    return lambda: a @ b, size**3
