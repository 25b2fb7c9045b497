"""Compare what a run can do: ditkit study solvers RUN."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from ditkit.app.cli import described
from ditkit.base.errors import UserError, unknown


def studies() -> dict[str, str]:
    """Each study's name and what it does: a module with ``main(args)`` in ditkit/app/studies."""
    return described("studies")


def main(args: Sequence[str]) -> int:
    """The command: runs the study that the first argument names."""
    known = studies()
    if args and args[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:<10}  {line}" for name, line in known.items())
        print(f"usage: ditkit study STUDY ...\n\n{rows}\n\n`ditkit study STUDY --help` says what a study takes.")
        return 0
    if not args:
        raise UserError(f"no study is named: expected ditkit study followed by one of {', '.join(known)}")
    if args[0] not in known:
        raise unknown("study", args[0], known)
    module: Any = importlib.import_module(f"ditkit.app.studies.{args[0].replace('-', '_')}")
    return module.main(args[1:])
