"""A process that runs commands in children and kills them: ``python -m tests.killing`` with a JSON list of trials.

Each trial: args, and when the child gets its signal: ``after`` seconds, or ``at`` a call, [function, count]. A fresh
process forks the children, so that torch is imported once and not by a process that has threads. Prints the exit codes
(negative for a signal) and what was said, as JSON.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import tempfile
import threading
from typing import Any

import ditkit.app.commands.train
import ditkit.app.training  # noqa: F401  (what the children need is imported before they are made)
from ditkit.app.cli import main


def kill_at(function: str, count: int, number: int) -> None:
    """This process gets the signal when it begins the count-th call of a function, such as os.replace."""
    place, _, name = function.rpartition(".")
    owner: Any = importlib.import_module(place)
    original, calls = getattr(owner, name), 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def child(trial: dict[str, Any], err: int) -> None:
    """Runs the command and never returns."""
    os.dup2(err, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    number = getattr(signal, trial.get("signal", "SIGKILL"))
    if "at" in trial:
        kill_at(*trial["at"], number)
    if "after" in trial:
        timer = threading.Timer(trial["after"], os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()
    code = 1
    try:
        main(trial["args"])
    except SystemExit as stop:
        code = int(stop.code or 0)
    finally:
        sys.stderr.flush()
        os._exit(code)


def run(trial: dict[str, Any]) -> dict[str, Any]:
    """The outcome of a trial: code and err."""
    with tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            child(trial, err.fileno())
        _, status = os.waitpid(pid, 0)
        err.seek(0)
        return {"code": os.waitstatus_to_exitcode(status), "err": err.read().decode()}


if __name__ == "__main__":
    print(json.dumps([run(trial) for trial in json.load(sys.stdin)]))
