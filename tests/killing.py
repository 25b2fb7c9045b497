"""A process that runs commands in children and kills them: ``python -m tests.killing``, a trial (JSON) a line.

A trial: args, and when the child gets its signal: ``after`` seconds, or ``at`` a call, [function, count]. A fresh
process forks the children, so that torch is imported once and not by a process that has threads. Answers each
with a line: the exit code (negative for a signal) and what was said.
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

import torch

import ditkit.app.commands.train
import ditkit.app.encoding
import ditkit.app.training  # noqa: F401  (what the children need is imported before they are made)
from ditkit.app.cli import main
from ditkit.train.optim import adamw, update
from ditkit.train.settings import TrainSettings


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


def warm_up() -> None:
    """Takes one optimiser step, so that what torch imports at the first one is not imported by every child."""
    net = torch.nn.Linear(1, 1)
    net(torch.ones(1, 1)).sum().backward()
    update(adamw(net, TrainSettings()), 1e-3, clip=1.0)


if __name__ == "__main__":
    warm_up()
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
