"""Floor 5: the command line. ``ditkit COMMAND ...`` runs the module of that name in ditkit/app/commands.

Nothing heavy is imported before a command is known, so that ``ditkit --help`` answers at once.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from ditkit import __version__
from ditkit.base.errors import UserError, nearest

T = TypeVar("T")


def commands() -> dict[str, str]:
    """Each command's name and what it does: the first line of its module's docstring, read without importing it."""
    found = {}
    for path in sorted((Path(__file__).parent / "commands").glob("*.py")):
        if path.stem != "__init__":
            doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found[path.stem.replace("_", "-")] = doc.splitlines()[0]
    return found


def usage() -> str:
    """The text of ``ditkit --help``."""
    known = commands()
    width = max(map(len, known))
    rows = "\n".join(f"  {name:<{width}}  {line}" for name, line in known.items())
    return (
        "usage: ditkit COMMAND ...\n\nTrain, sample and measure diffusion transformers.\n\ncommands:\n"
        f"{rows}\n\n`ditkit COMMAND --help` says what a command takes, with types, defaults and units."
    )


def parse(kind: type[T], command: str, args: Sequence[str], *, default: Any = None) -> T:
    """The command's arguments as a typed object; UserError in one line when they do not fit."""
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=f"ditkit {command}", args=list(args), default=default)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{_one_line(said.getvalue())} (see ditkit {command} --help)") from None


def _one_line(boxed: str) -> str:
    """What is said in the first part of one of tyro's boxes, as one line, with the nearest option if it knows one."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", boxed)
    rows = [row.strip("│╭╮╰╯─ ") for row in plain.splitlines()]
    words = " ".join(row for row in rows[1:] if row)
    said = " ".join(words.split(" For full helptext")[0].split())
    close = re.search(r"Perhaps you meant: (--\S+?),? ", said + " ")
    said = re.split(r" Perhaps you meant:| Argument helptext:| For further information", said)[0]
    said = re.sub(r"Error parsing \w+: \d+ validation errors? for \w+ ", "", said)
    said = re.sub(r" \[type=\w+, input_value=(.*?), input_type=\w+\]", r", got \1", said)
    said = said.replace("Unrecognized options:", "unknown option")
    return said + (f"; did you mean {close[1]}?" if close else "")


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command; exits with 2 and one line for what the user can mend, with 130 when interrupted."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        raise SystemExit(0 if args else 2)
    if args[0] == "--version":
        print(f"ditkit {__version__}")
        raise SystemExit(0)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")  # progress in a log file: a line now and then
    try:
        raise SystemExit(_run(args[0], args[1:]))
    except UserError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except BrokenPipeError:
        # the reader of our output went away (head, a closed pager): nothing is wrong
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        if os.environ.get("DITKIT_DEBUG"):
            raise
        _fail(f"{error.filename or 'the system'}: {error.strerror or error}", 2)


def _run(command: str, args: Sequence[str]) -> int:
    import importlib

    if command not in commands():
        close = nearest(command, commands())
        hint = f"; did you mean {close!r}?" if close else ""
        raise UserError(f"unknown command {command!r}: expected one of {', '.join(commands())}{hint}")
    module: Any = importlib.import_module(f"ditkit.app.commands.{command.replace('-', '_')}")
    return module.main(args) or 0


def _fail(line: str, code: int) -> None:
    print(f"ditkit: {' '.join(line.split())}", file=sys.stderr)
    raise SystemExit(code)
