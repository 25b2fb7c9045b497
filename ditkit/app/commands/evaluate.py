"""Measure a run's samples against real images: ditkit evaluate RUN --reference DATA."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.app.commands.sample import How
from ditkit.app.recipe import Enough
from ditkit.base.errors import UserError
from ditkit.train.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Options:
    """Draw samples from a run and measure them against real images; writes metrics.json in the run's folder."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    reference: str | None = None
    """Real images: digits, a folder or a .zip; None: what the run was trained on."""
    num: Enough | None = None
    """Samples to draw; None: the recipe's evaluate.num."""
    seed: int = 0
    """Seed of the first sample; the next ones count up."""
    device: str | None = None
    """auto, cpu, cuda, ...; None: the recipe's."""
    how: Annotated[How, tyro.conf.arg(name="")] = dataclasses.field(default_factory=How)


def main(args: Sequence[str]) -> int:
    """The command."""
    options = parse(Options, "evaluate", args)
    from ditkit.app import measuring
    from ditkit.app.kind import own
    from ditkit.app.run import check_sampling, load_model, open_run

    if (other := own(options.run, "evaluate")) is not None:
        if options.reference is not None:
            raise UserError(f"--reference {options.reference}: this run is measured on its own data; leave it out")
        print(table(other(options.run, num=options.num, device=options.device)))
        print(f"\nwritten to {options.run / 'metrics.json'}")
        return 0
    run = open_run(options.run)
    sampling = options.how.over(run.recipe.sample)
    check_sampling(run.recipe, sampling)
    model = load_model(run, device=options.device)
    against = measuring.reference(model, options.reference)
    drawn = measuring.draw(model, sampling, options.num or run.recipe.evaluate.num, options.seed, "sampling")
    metrics = measuring.evaluate(model, against, sampling, drawn)
    path = measuring.write_metrics(run, metrics)
    print(table(metrics))
    print(f"\nwritten to {path}")
    return 0


def table(metrics: dict[str, Any]) -> str:
    """The metrics as lines of text: name, value, samples."""
    rows = {name: entry for name, entry in metrics.items() if "value" in entry}
    width = max(map(len, rows))
    return "\n".join(f"{n:<{width}}  {e['value']:>10.4g}   ({e['samples']:,} samples)" for n, e in rows.items())
