"""Floor 5: what there is to choose from: every method of a kind with what it is, its options and their defaults."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ditkit.app import build, costing, guiding
from ditkit.app.reproduction.protocol import summaries
from ditkit.base import registry
from ditkit.base.errors import nearest
from ditkit.objectives import weights
from ditkit.process import langevin

_PLURALS = {kind: f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s" for kind in build.KINDS}
_GROUPS = {"backbone": "model.", "autoencoder": "network.", "solver": "", "grid": "", "crop": "data."}


@dataclasses.dataclass(frozen=True)
class Listed:
    """The methods of a kind by name, what takes their names, and what the options of one are, by name and method."""

    methods: Callable[[], Mapping[str, Any]]
    taken_by: str
    options: Callable[[str, Any], str] = lambda _, method: _options(method)


LISTED: dict[str, Listed] = {
    **{
        _PLURALS[k]: Listed(functools.partial(build.known, k), f"--{_GROUPS.get(k, 'process.')}{k} NAME")
        for k in build.KINDS
    },
    "costs": Listed(costing.counted, "ditkit cost NAME"),
    "guidance": Listed(guiding.known, "ditkit sample, under the options", lambda name, _: _flags(name)),
    "protocols": Listed(summaries, "ditkit reproduce NAME"),
    "weights": Listed(weights.known, "--process.objective-options weight NAME"),
    "forms": Listed(lambda: langevin.FORMS, "--solver euler_maruyama --solver-options w NAME"),
}
"""What ``ditkit info`` lists, by its name."""


def is_listed(word: str) -> bool:
    """Whether a word names a kind of methods: solvers, or solver."""
    return _kind(word) in LISTED


def _kind(word: str) -> str:
    return _PLURALS.get(word, word if word in LISTED else f"{word}s")


def hint(word: str) -> str:
    """What can be listed, for messages, with what is nearest to a word."""
    close = nearest(word, LISTED)
    return f"one of {', '.join(LISTED)}" + (f" (did you mean {close!r}?)" if close else "")


def listing(word: str) -> str:
    """The methods of a kind as lines of text: name, the first line of its docstring, options with their defaults.

    word: as for ``is_listed``.
    """
    kind = LISTED[_kind(word)]
    lines = [f"{_kind(word)}, for {kind.taken_by}:"]
    for name, method in kind.methods().items():
        lines += ["", name, *(f"    {line}" for line in (_summary(method), kind.options(name, method)) if line)]
    return "\n".join(lines)


def _summary(method: Any) -> str:
    """What it says of itself, or the first paragraph of the docstring."""
    said = method if isinstance(method, str) else inspect.cleandoc(method.__doc__ or "")
    return " ".join(said.split("\n\n")[0].split())


def _options(method: Any) -> str:
    options = registry.options(method).values() if callable(method) else []
    given = [f"{p.name} {_shown(p.default)}" for p in options if isinstance(p.default, _PLAIN)]
    return f"options: {', '.join(given)}" if given else ""


def _flags(guidance: str) -> str:
    given = {name.replace("_", "-"): default for name, default in guiding.settings(guidance).items()}
    return f"options: {', '.join(f'--{name} {_shown(default)}' for name, default in given.items())}"


_PLAIN = (str, int, float, type(None))
"""What an option may be given as on the command line; others are for Python."""


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return " ".join(map(_shown, default))
    return "(none)" if default is None else repr(default) if default == "" else str(default)
