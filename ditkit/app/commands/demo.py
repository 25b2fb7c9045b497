"""Train, sample, measure and report on the embedded digits, in a few minutes: what make demo runs."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.app.recipe_files import load_recipe
from ditkit.base.errors import UserError
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
    _clear(options.out)
    recipe = load_recipe("digits")
    stopped = training.start(recipe, options.out)
    if stopped:
        print(f"stopped by {stopped.signal}: run ditkit demo again to start afresh", file=sys.stderr)
        return 130
    model = load_model(open_run(options.out))
    against = measuring.reference(model, None)
    metrics = measuring.evaluate(model, against, Plan(recipe.sample, recipe.evaluate.num))
    assert metrics is not None  # this process is alone
    measuring.write_metrics(model.run, metrics)
    page = report(model, command="make demo")
    print(f"\n{table(metrics)}\n\n{(time.perf_counter() - began) / 60:.1f} minutes in all")
    print(f"report: {page.resolve()}")
    return 0


def _clear(out: Path) -> None:
    """Removes an earlier demo, and nothing else."""
    from ditkit.app.run import open_run

    if not out.exists():
        return
    is_run = (out / "recipe.yaml").is_file()
    is_demo = is_run and (out == Options.out or open_run(out).recipe == load_recipe("digits"))
    if not is_demo and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} exists and is not a demo: expected a new folder or an earlier demo's")
    shutil.rmtree(out)
