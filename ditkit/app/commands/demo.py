"""Train, sample, measure and report on the embedded digits, in a few minutes: what make demo runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.app.recipe_files import load_recipe
from ditkit.base.errors import UserError
from ditkit.base.files import alone, clear_beside, remove_folder, untouched
from ditkit.train.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Options:
    """Train a small DiT on scikit-learn's digits, draw samples of every class, measure them, write the report."""

    out: Path = Path("runs/demo")
    """The run's folder. A demo that is there already is made anew."""


def main(args: Sequence[str]) -> int:
    """The command."""
    options = parse(Options, "demo", args)
    from ditkit.app import measuring, training
    from ditkit.app.commands.evaluate import table
    from ditkit.app.model import load_model
    from ditkit.app.reporting import report
    from ditkit.app.run import open_run
    from ditkit.app.samples import Plan

    began = time.perf_counter()
    busy = f"demo {options.out} is being made by another process: wait for it, or choose another --out"
    _clear(options.out, busy)
    recipe = load_recipe("digits")
    stopped = training.start(recipe, options.out)
    if stopped:
        print(f"stopped by {stopped.signal}: run ditkit demo again to start afresh", file=sys.stderr)
        return 130
    with alone(options.out, busy):
        model = load_model(open_run(options.out))
        against = measuring.reference(model, None)
        metrics = measuring.evaluate(model, against, Plan(recipe.sample, recipe.evaluate.num))
        assert metrics is not None  # this process is alone
        measuring.write_metrics(model.run, metrics)
        page = report(model, command="make demo")
    print(f"\n{table(metrics)}\n\n{(time.perf_counter() - began) / 60:.1f} minutes in all")
    print(f"report: {page.resolve()}")
    return 0


def _clear(out: Path, busy: str) -> None:
    """Removes an earlier demo, and nothing else. UserError, saying ``busy``, where another process is at it."""
    from ditkit.app.run import open_run

    clear_beside(out)  # one that was being removed
    if (out / "recipe.yaml").is_file():
        if out != Options.out and open_run(out).recipe != load_recipe("digits"):
            raise _no_demo(out)
        with alone(out, busy):
            remove_folder(out)
    elif out.exists() and not (out.is_dir() and untouched(out)):
        raise _no_demo(out)


def _no_demo(out: Path) -> UserError:
    return UserError(f"--out {out} exists and is not a demo: expected a new folder or an earlier demo's")
