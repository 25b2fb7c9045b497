"""Errors that a user can mend, worded so that one line is enough."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable
from typing import Any


class UserError(ValueError):
    """A mistake in what the user gave: one line naming the value, what was expected and the remedy.

    The command line prints the line and exits with code 2; from Python it is an ordinary ``ValueError``.
    """


class DivergedError(UserError):
    """A training or what a model draws became infinite or NaN: others of the same kind may do well."""


class NotFiniteError(UserError):
    """A number of a batch's sample became infinite or NaN.

    row: of the sample in its batch, which whoever knows what the rows are may name better. said: when and where.
    """

    def __init__(self, row: int, said: str) -> None:
        super().__init__(f"sample {row} of the batch {said}")
        self.row, self.said = row, said


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name most like ``name``, or None when none is alike."""
    return next(iter(nearest_few(name, allowed, 1)), None)


def nearest_few(name: str, allowed: Iterable[str], most: int = 3) -> list[str]:
    """The allowed names that are like ``name``, the likest first, at most so many."""
    return difflib.get_close_matches(name, list(allowed), n=most, cutoff=0.5)


def unknown(kind: str, name: str, allowed: Iterable[str]) -> UserError:
    """The error for a name that is not among ``allowed``: says which are, and the nearest one."""
    allowed = sorted(allowed)
    close = nearest(name, allowed)
    hint = f"; did you mean {close!r}?" if close else ""
    return UserError(f"unknown {kind} {name!r}: expected one of {', '.join(allowed)}{hint}")


def at_least_one(name: str, value: Any) -> int:
    """The value as a count, of what ``name`` says; UserError unless it is a whole number of 1 or more."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise UserError(f"{name} {value!r}: expected a whole number, at least 1")
    return count
