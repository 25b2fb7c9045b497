"""Write a run's report.html, one page that shows everything: ditkit report RUN."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.train.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Options:
    """Draw and measure what a report shows, and write report.html in the run's folder."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    device: str | None = None
    """auto, cpu, cuda, ...; None: the recipe's."""


def main(args: Sequence[str]) -> int:
    """The command."""
    options = parse(Options, "report", args)
    from ditkit.app.kind import own
    from ditkit.app.model import load_model
    from ditkit.app.reporting import report
    from ditkit.app.run import open_run
    from ditkit.base.files import check_file

    command, other = f"ditkit report {options.run}", own(options.run, "report")
    for name in ("report.html", "metrics.json"):
        check_file(options.run / name)
    if other is not None:
        print(f"report: {other(options.run, device=options.device, command=command)}")
        return 0
    model = load_model(open_run(options.run), device=options.device)
    print(f"report: {report(model, command=command)}")
    return 0
