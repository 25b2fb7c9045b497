"""Draw quality against network evaluations for solvers of one run: ditkit study solvers RUN."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field
from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.app.names import SOURCES
from ditkit.train.settings import STRICT, Positive

Several = Annotated[int, Field(ge=20, lt=2**31)]
"""Samples of which a tenth can be left out and enough remain."""


@dataclass(frozen=True, config=STRICT)
class Options:
    """Draw quality against network evaluations for chosen solvers, as a table and a plot in RUN/studies.

    Points are kept as they are made: the same command goes on where it was interrupted, and one with other solvers or
    budgets adds to the table. A point that cannot be drawn or measured is named with the reason, the others go on.
    Other samples, guidance, weights or images make another table.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    solvers: tuple[str, ...] = ("ddpm", "ddim", "heun", "dpmpp_2m", "unipc")
    """Solvers, each NAME[:OPTION=VALUE,...][@GRID[:OPTION=VALUE,...]], such as dpmpp_2m ddim:eta=0.5 heun@karras:rho=5;
    without a grid: uniform."""
    evaluations: tuple[Positive, ...] = (5, 10, 20, 50)
    """Budgets of network evaluations per sample (a guided pair counts once); a solver of two evaluations a step gets
    half the steps, one of adaptive steps takes what it needs."""
    num: Several = 1000
    """Samples per point."""
    seed: int = 0
    """Seed of the first sample; the next ones count up, the same for every point."""
    guidance: float | None = None
    """Classifier-free guidance scale; 1: none; None: the recipe's."""
    clip: bool | None = None
    """Keep the predicted image inside [-1, 1]; None: the recipe's."""
    batch_size: Positive | None = None
    """Images drawn at a time; None: the recipe's."""
    reference: Annotated[
        str | None, tyro.conf.arg(help=f"Real images: {SOURCES}; None: what the run was trained on.")
    ] = None
    device: str | None = None
    """auto, cpu, cuda, ...; None: the recipe's."""


def main(args: Sequence[str]) -> int:
    """The study."""
    options = parse(Options, "study solvers", args)
    from ditkit.app import measuring
    from ditkit.app.commands.sample import How
    from ditkit.app.model import load_model
    from ditkit.app.run import open_run
    from ditkit.app.solver_study import pages
    from ditkit.app.solver_study.choice import plan
    from ditkit.app.solver_study.points import Failure, Judge, Study, protocol
    from ditkit.base.errors import UserError
    from ditkit.base.files import check_writable

    run = open_run(options.run)
    how = How(guidance=options.guidance, clip=options.clip, batch_size=options.batch_size)
    sampling = how.over(run.recipe.sample)
    check_writable(run.folder / "studies")
    tasks = plan(run.recipe.process, sampling, options.solvers, options.evaluations)
    model = load_model(run, device=options.device)
    how.check_classes(sampling, model.classes)
    against = measuring.reference(model, options.reference)
    seeds = range(options.seed, options.seed + options.num)
    judge = Judge.of(model, against, seeds)
    with Study.open(run.folder / "studies", protocol(model, against, sampling, seeds)) as study:
        left = [task for task in tasks if not study.has(task)]
        for k, task in enumerate(left):
            said = f"{task.choice}, {task.steps} steps ({k + 1} of {len(left)})"
            try:
                study = study.with_point(judge.point(task, said))
            except UserError as error:  # of this point: the others may do well
                study = study.with_failure(Failure(str(task.choice), task.steps, str(error)))
            study.write(model.device)
            pages.write(study)
        if not study.points:
            raise UserError(f"no point could be drawn and measured; {'; '.join(pages.failures(study))}")
        pages.write(study)
    print("\n\n".join([pages.table_text(study), *pages.failures(study)]))
    print(f"\nwritten to {study.folder} (points.json, table.md, plot.svg, page.html)")
    return 0
