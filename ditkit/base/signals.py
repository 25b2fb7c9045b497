"""SIGINT and SIGTERM: who hears them, and what becomes of the work at hand."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

HEARD = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """A signal ended what was being made. signal: its name."""

    def __init__(self, signal: str) -> None:
        super().__init__(signal)
        self.signal = signal


@contextlib.contextmanager
def on_signals(act: Callable[[str], None]) -> Iterator[None]:
    """Within it, SIGINT and SIGTERM call ``act`` with their name."""
    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread: whoever is there handles signals
        for number in HEARD:
            before[number] = signal.signal(number, lambda number, _: act(signal.Signals(number).name))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Within it, SIGINT and SIGTERM raise Interrupted: for work that is not worth waiting for."""

    def interrupt(name: str) -> None:
        raise Interrupted(name)

    with on_signals(interrupt):
        yield


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are begun within it do not hear SIGINT and SIGTERM, from their first instruction on: a terminal
    sends them to all, and it is the parent who answers. Those that come meanwhile reach the parent.
    """
    if not hasattr(signal, "pthread_sigmask"):  # a system without it
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
