"""Floor 5: the command line. ``ditkit COMMAND ...`` runs the module of that name in ditkit/app/commands.

Nothing heavy is imported before a command is known, so that ``ditkit --help`` answers at once.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import itertools
import os
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from ditkit import __version__
from ditkit.base.errors import UserError, nearest
from ditkit.base.signals import Interrupted, on_signals

T = TypeVar("T")


def commands() -> dict[str, str]:
    """Each command's name and what it does."""
    return described("commands")


def described(folder: str) -> dict[str, str]:
    """The modules of a folder of this package, by name: the first lines of their docstrings, read without importing."""
    found = {}
    for path in sorted((Path(__file__).parent / folder).glob("*.py")):
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
    """The command's arguments as a typed object; UserError in one line when they do not fit.

    Where they do, PyTorch is loaded, which every command works with: the wait is told here, before any work begins.
    """
    import tyro
    from pydantic import ValidationError

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = tyro.cli(kind, prog=f"ditkit {command}", args=list(args), default=default)
        load(command)
        return options
    except SystemExit as stop:
        if not stop.code:
            raise
        wrong = _one_line(said.getvalue(), args)
    except ValidationError as error:
        first = error.errors()[0]
        wrong = f"{_flag(str(first['loc'][0]), args)} {first['input']!r}: {first['msg']}"
    raise UserError(f"{wrong.replace('Input should be', 'expected')} (see ditkit {command} --help)")


_PATIENCE = 1.0
"""Seconds that pass without a word."""


def load(command: str) -> None:
    """Loads PyTorch, with a word where that takes long."""
    with telling(f"ditkit {command}: loading PyTorch"), on_signals(_end_at_once):
        importlib.import_module("torch")


@contextlib.contextmanager
def telling(said: str) -> Iterator[None]:
    """Says on stderr what is done within it, where it takes long and has no steps to show."""
    timer = threading.Timer(_PATIENCE, lambda: print(said, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


_HELP = "Argument helptext:"
_BEHIND = f"Perhaps you meant:|{_HELP}|For further information|For full helptext"
_PLAINER = {
    r"Error parsing .*? validation errors? for \w+ (\S+) (.*?) \[type=\w+, input_value=(.*?), input.*": r"<\1> \3: \2",
    r"Error parsing (\S+): invalid literal for int\(\) with base 10: (.*)": r"\1 \2: expected a whole number",
    r"Error parsing (\S+): could not convert string to float: (.*)": r"\1 \2: expected a number",
    r"Error parsing (\S+): Could not (?:find valid parse for|parse) arguments:? \[(.*?)\].*": r"\1 \2: expected {form}",
    r"Error parsing (\S+): Failed to parse key-value pairs!": r"\1: expected {form}",
    r"Error parsing (\S+): no type matching (.*) could be instantiated from \[(.*?)\].*": r"\1 \3: expected \2",
    r"invalid choice (\S+) for argument '(\S+)'\. Expected one of \((.*)\)\.": r"\2 \1: expected one of \3",
    r"Missing value for argument '(\S+)'\. Expected (\d+) values\.": r"\1 lacks a value: expected \2 in all",
    r"Unrecognized options: (-[^\s,]*).*": r"unknown option \1",
    r"Unrecognized options: ([^\s,]*).*": r"unexpected argument \1",
}
"""What the parser says, and the same with the option first, then the value, then what was expected; form: as the help
has it."""


def _one_line(boxed: str, args: Sequence[str]) -> str:
    """What is said in the first part of one of tyro's boxes, as one line, with the nearest option if it knows one."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", boxed)
    rows = [row.strip("│╭╮╰╯|+ ") for row in plain.splitlines()[1:]]
    words = " ".join(row for row in rows if row.strip("─-"))
    close = re.search(r"Perhaps you meant: (--\S+)", words)
    said = re.split(_BEHIND, words)[0].strip()
    # the first row of an option's help is the option and the form of its values
    form = next((row.partition(" ")[2] for above, row in itertools.pairwise(rows) if above == _HELP), "another")
    for pattern, plainer in _PLAINER.items():
        said = re.sub(pattern, plainer.replace("{form}", form), said)
    said = re.sub("^<(.*?)>", lambda found: _flag(found[1], args), said)
    return said + (f"; did you mean {close[1]}?" if close else "")


def _flag(field: str, args: Sequence[str]) -> str:
    """The option among the arguments that sets a field, such as --train.steps for steps."""
    flags = [arg.split("=")[0] for arg in args if arg.startswith("--")]
    names = {re.split(r"[.]|^--", flag)[-1].replace("-", "_"): flag for flag in flags}
    return names.get(field.split(".")[0], field)


def main(args: Sequence[str] | None = None) -> None:
    """Runs a command; exits with 2 and one line for what the user can mend, with 130 when a signal stopped it."""
    args = list(sys.argv[1:] if args is None else args)
    _prepare_streams()
    warnings.filterwarnings("ignore", module="PIL")  # of sizes, EXIF and palettes: what fails is named anyway
    try:
        with on_signals(_interrupting()):
            code = _run(args)
        if sys.stdout:
            sys.stdout.flush()  # here, where it can still be said that it failed
        raise SystemExit(code)
    except UserError as error:
        _fail(str(error), 2)
    except (Interrupted, KeyboardInterrupt) as stop:
        _fail(_stopped(stop.signal if isinstance(stop, Interrupted) else "SIGINT"), 130)
    except BrokenPipeError:
        # the reader of our output went away (head, a closed pager): nothing is wrong
        _drop_output()
        raise SystemExit(1) from None
    except (MemoryError, RuntimeError) as error:
        # torch says it in words: for a processor's memory its error has no type of its own
        if not re.search("MemoryError|allocate memory|out of memory|size calculation overflowed", repr(error)):
            raise
        _fail("not enough memory: choose a smaller model, image size, batch or number of samples", 2)
    except OSError as error:
        if os.environ.get("DITKIT_DEBUG"):
            raise
        reason = error.strerror or error
        _drop_output()
        _fail(f"{error.filename or 'the system'}: {reason}; check the path, its permissions and the free space", 2)


_ONE_WISH = 1.0
"""Seconds within which signals are one: a terminal sends it to all processes, and some parents pass it on again."""


def _interrupting() -> Callable[[str], None]:
    """What the first signal does, raising Interrupted, and a later one: it ends the process."""
    first: list[float] = []

    def act(name: str) -> None:
        if not first:
            first.append(time.monotonic())
            raise Interrupted(name)
        if time.monotonic() - first[0] > _ONE_WISH:
            _end_at_once(name)

    return act


def _end_at_once(name: str) -> None:
    """Ends the process: where an exception would be lost, such as in C++ that imports NumPy, or was raised already."""
    with contextlib.suppress(OSError):
        print(f"ditkit: {_stopped(name)}", file=sys.stderr, flush=True)
    os._exit(130)


def _stopped(name: str) -> str:
    return f"stopped by {name}; nothing is half-written: the same command goes on with what is done, or begins anew"


def _prepare_streams() -> None:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal's encoding lacks
    if sys.stderr is None:  # closed by the caller: then messages and progress go nowhere
        sys.stderr = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")  # progress in a log file: a line now and then,
        os.environ.setdefault("TQDM_POSITION", "0")  # and for a bar within a bar no cursor is moved up


def _run(args: Sequence[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0 if args else 2
    if args[0] == "--version":
        print(f"ditkit {__version__}")
        return 0
    command = args[0]
    if command not in commands():
        close = nearest(command, commands())
        hint = f"; did you mean {close!r}?" if close else ""
        raise UserError(f"unknown command {command!r}: expected one of {', '.join(commands())}{hint}")
    module: Any = importlib.import_module(f"ditkit.app.commands.{command.replace('-', '_')}")
    if not getattr(module, "SHARED", False) and not {"-h", "--help"} & set(args):
        _check_one_process(command)
    return module.main(args[1:]) or 0


def _check_one_process(command: str) -> None:
    """Raises UserError where torchrun started several processes of a command that does not share its work."""
    world = os.environ.get("WORLD_SIZE") or "1"
    if world != "1":
        raise UserError(
            f"WORLD_SIZE is {world}: ditkit {command} works in one process, expected 1; start it without torchrun "
            "(or unset WORLD_SIZE)"
        )


def _drop_output() -> None:
    """What standard output holds back and cannot write is let go: Python would try again at exit, and fail with 120."""
    try:
        if sys.stdout:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(line: str, code: int) -> None:
    print(f"ditkit: {' '.join(line.split())}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
