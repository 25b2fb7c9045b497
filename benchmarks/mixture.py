"""What each objective learns in 2,000 steps: a small network on a mixture in two dimensions, by sliced Wasserstein.

    python benchmarks/mixture.py                        # every table, a quarter of an hour on one core
    python benchmarks/mixture.py --only objectives      # one of them: objectives, weights, densities, pairs
    python benchmarks/mixture.py --keep FILE.json       # keeps every result there, and goes on from what it has

Everything but the network and the data is the library's: trainer, objectives, rows, paths, densities, solver, found by
their modules. Several networks train at once, side by side, each with its own initial weights and its own rows of the
batch; the standard error is that of their mean.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ditkit.app import build, checks
from ditkit.app.recipe import Process
from ditkit.backbones.output import Output
from ditkit.base import rng
from ditkit.base.errors import UserError
from ditkit.base.files import write_json
from ditkit.condition import Condition
from ditkit.nn.embed import timestep_embedding
from ditkit.objectives import weights
from ditkit.objectives.neighbours import References
from ditkit.objectives.targets import KNNDenoiser
from ditkit.process.denoiser import Denoise, Denoiser
from ditkit.process.grids import log_snr
from ditkit.process.path import over
from ditkit.solvers.dpm_multistep import dpmpp_2m
from ditkit.train.denoising import Denoising, Objective
from ditkit.train.settings import LoopSettings
from ditkit.train.trainer import Trainer

# Shapes: S networks side by side, B rows of each, D width.

MODES, RADIUS, STD = 8, 0.65, 0.08
"""Eight narrow Gaussians on a circle: the data's own deviation is 0.47 along each axis."""
NETWORKS, ROWS, WIDTH, FREQUENCIES = 4, 128, 64, 64
SAMPLES, SAMPLING_STEPS, DIRECTIONS = 4096, 40, 64
REFERENCES = 4096


Fields = dict[str, Any]
"""Of a Process, by name."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Processes to compare: the fields that a line sets together with those that a column sets."""

    lines: dict[str, Fields]
    columns: dict[str, Fields]

    def process(self, line: str, column: str) -> Process:
        """The process of a cell, with learned variance where its objective needs it."""
        plain = Process(**self.lines[line] | self.columns[column])
        learned = dataclasses.replace(plain, learned_variance=True)
        return learned if refusal(plain) and not refusal(learned) else plain


BASES: dict[str, Fields] = {
    "ddpm_linear, eps": {"path": "ddpm_linear", "prediction": "eps"},
    "linear, velocity": {"path": "linear", "prediction": "velocity"},
    "vp, score": {"path": "vp", "prediction": "score"},
    "edm, edm": {"path": "edm", "prediction": "edm"},
}


def tables() -> dict[str, Table]:
    """What is worth comparing, by its title; every name is found by its module."""
    paths: dict[str, Fields] = {name: {"path": name} for name in build.known("path")}
    paths["edm, log_normal_sigma"] = {"path": "edm", "density": "log_normal_sigma"}
    return {
        "objectives": Table(
            {name: {"objective": name} for name in build.known("objective")},
            {name: BASES[name] for name in ("ddpm_linear, eps", "linear, velocity")},
        ),
        "weights": Table(
            {name: {"objective_options": {"weight": name}} for name in weights.known()},
            {name: BASES[name] for name in ("ddpm_linear, eps", "linear, velocity", "vp, score")},
        ),
        "densities": Table(
            {name: {"density": name} for name in build.known("density")},
            {name: BASES[name] for name in ("linear, velocity", "edm, edm")},
        ),
        "pairs": Table(paths, {name: {"prediction": name} for name in build.known("prediction")}),
    }


@dataclasses.dataclass(frozen=True)
class Result:
    """The mean distance of a process's networks and its standard error; or why the process has no meaning."""

    distance: float = math.nan
    error: float = math.nan
    refused: str = ""

    def __str__(self) -> str:
        return "none" if self.refused else f"{1000 * self.distance:.0f} ± {1000 * self.error:.0f}"


class Networks(nn.Module):
    """Small networks side by side, each of which sees its own rows of the batch: (S B, 2, 1, 1) to (S B, 2 or 4, 1, 1).

    Linear layers of (x, sinusoids of the network's time) with SiLU between; the last one starts at zero.
    """

    def __init__(self, outputs: int, seed: int) -> None:
        super().__init__()
        draw = rng.generator(seed, "networks")
        sizes = [2 + FREQUENCIES, WIDTH, WIDTH, WIDTH, outputs]
        shapes = list(itertools.pairwise(sizes))
        last = len(shapes) - 1
        self.weights = nn.ParameterList(
            torch.randn(NETWORKS, *shape, generator=draw) * (i < last) / math.sqrt(shape[0])
            for i, shape in enumerate(shapes)
        )
        self.biases = nn.ParameterList(torch.zeros(NETWORKS, 1, size) for size in sizes[1:])

    def forward(self, x: Tensor, time: Tensor, condition: Condition) -> Output:
        seen = torch.cat([x.flatten(1), timestep_embedding(time, FREQUENCIES)], 1)
        h = seen.unflatten(0, (NETWORKS, -1))  # S B D
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, nn.functional.silu(h) if i else h, weight)
        return Output(h.flatten(0, 1)[:, :, None, None], {})


def exact(count: int, *key: int) -> Tensor:
    """Samples of the mixture, (count, 2, 1, 1) float32: images of one pixel and two channels."""
    draw = rng.generator(0, "mixture", *key)
    angle = torch.randint(MODES, (count,), generator=draw) * (2 * math.pi / MODES)
    centre = RADIUS * torch.stack([angle.cos(), angle.sin()], 1)
    return (centre + STD * torch.randn(count, 2, generator=draw))[:, :, None, None]


def sliced_wasserstein(x: Tensor, y: Tensor) -> float:
    """Wasserstein-2 distance of the projections on a line, mean square over even directions (Bonneel et al. 2015).

    x, y: (N, 2, ...), as many of each.
    """
    angle = math.pi * torch.arange(DIRECTIONS) / DIRECTIONS
    lines = torch.stack([angle.cos(), angle.sin()])  # 2 x DIRECTIONS
    along_x, along_y = ((points.flatten(1) @ lines).sort(0).values for points in (x, y))
    return (along_x - along_y).square().mean().sqrt().item()


@dataclasses.dataclass
class Batch:
    """What the trainer takes."""

    x0: Tensor
    condition: Condition


def train(process: Process, objective: Objective, steps: int, seed: int = 0) -> Denoiser:
    """Networks trained on fresh samples, their moving average."""
    net = Networks(4 if process.learned_variance else 2, seed)
    denoiser = Denoiser(net, build.path(process), build.prediction(process))
    settings = LoopSettings(
        steps=steps, batch_size=NETWORKS * ROWS, lr=3e-3, warmup=100, cooldown=0.5, ema_decay=0.99, clip=10.0,
        log_every=steps,
    )  # fmt: skip
    trainer = Trainer(Denoising(denoiser, objective, seed=seed, density=build.density(process)), settings)
    batches = (Batch(exact(NETWORKS * ROWS, 1, seed, step), Condition()) for step in itertools.count())
    trainer.run(batches, log=lambda record: None, hooks=[])
    return dataclasses.replace(denoiser, net=trainer.ema.net)


@torch.inference_mode()
def distances(denoise: Denoise, networks: int = NETWORKS) -> Tensor:
    """Of the samples of each network to fresh exact ones, (S,); infinite where samples are not finite."""
    noise = torch.randn(networks * SAMPLES, 2, 1, 1, generator=rng.generator(0, "start"))
    ts = log_snr(denoise.path, SAMPLING_STEPS)
    *_, last = dpmpp_2m(denoise, over(denoise.path.sigma(ts[0]), noise) * noise, ts)
    return torch.tensor(
        [sliced_wasserstein(x, exact(SAMPLES, 2, s)) for s, x in enumerate(last.x.split(SAMPLES))]
    ).nan_to_num(nan=math.inf)


def scale() -> str:
    """What distances are to be held against: two exact sets, and a Gaussian with the data's moments."""
    sets = [(exact(SAMPLES, 2, i), exact(SAMPLES, 3, i)) for i in range(16)]
    pairs = torch.tensor([sliced_wasserstein(x, y) for x, y in sets])
    x, y = sets[0]
    noise = torch.randn(x.shape, generator=rng.generator(0, "gaussian"))
    gaussian = sliced_wasserstein(x, y.std() * noise)
    return (
        f"two exact sets are {1000 * pairs.mean():.0f} apart (standard deviation {1000 * pairs.std():.0f}), "
        f"a Gaussian of the same moments {1000 * gaussian:.0f}"
    )


def refusal(process: Process) -> str:
    """Why the process has no meaning; empty where it has one."""
    try:
        checks.check_training(process)
    except UserError as error:
        return str(error)
    return ""


def objective(process: Process) -> Objective:
    """The one that the process names; where it needs references, they are a set of the data."""
    return build.objective(process, {References: lambda: References.among(exact(REFERENCES, 4))})


def measure(process: Process, steps: int) -> Result:
    """Trains and samples."""
    if why := refusal(process):
        return Result(refused=why)
    try:
        of_each = distances(train(process, objective(process), steps))
    except UserError as error:
        return Result(refused=str(error))
    return Result(of_each.mean().item(), of_each.std().item() / math.sqrt(len(of_each)))


def denoiser_of_neighbours() -> Result:
    """What the posterior mean over a set samples with no network: the set itself, so the solver's own error."""
    references = References.among(exact(REFERENCES, 4))
    alone = KNNDenoiser(build.path(Process(**BASES["linear, velocity"])), references, k=REFERENCES)
    return Result(distances(alone, networks=1).item(), 0.0)


class Kept:
    """Results by what they are of, in memory and in a file that is written after each."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        old = json.loads(file.read_text()) if file and file.exists() else {}
        self.results = {key: Result(**fields) for key, fields in old.items()}

    def of(self, key: str, make: Callable[[], Result]) -> Result:
        """The result of a key; made where there is none."""
        if key not in self.results:
            self.results[key] = make()
            if self.file:
                write_json(self.file, {key: dataclasses.asdict(result) for key, result in self.results.items()})
        return self.results[key]


def markdown(title: str, table: Table, results: Mapping[tuple[str, str], Result]) -> str:
    """A table of distances in thousandths, and what was refused."""
    rows = ["| " + " | ".join([title, *table.columns]) + " |", "|---" * (1 + len(table.columns)) + "|"]
    for line in table.lines:
        rows.append("| " + " | ".join([line, *(str(results[line, column]) for column in table.columns)]) + " |")
    refused = [f"- {line}, {column}: {r.refused}" for (line, column), r in results.items() if r.refused]
    return "\n".join([*rows, *([""] if refused else []), *refused, ""])


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--only", choices=list(tables()), help="one table")
    parser.add_argument("--keep", type=Path, help="results as JSON; those that are there are not made again")
    given = parser.parse_args()
    print(f"Sliced Wasserstein-2 distance in thousandths after {given.steps} steps; {scale()}.\n")
    wanted = {title: table for title, table in tables().items() if given.only in (None, title)}
    kept = Kept(given.keep)
    with tqdm(total=sum(len(t.lines) * len(t.columns) for t in wanted.values()), unit="process") as bar:
        for title, table in wanted.items():
            found: dict[tuple[str, str], Result] = {}
            for line, column in itertools.product(table.lines, table.columns):
                process = table.process(line, column)
                make = functools.partial(measure, process, given.steps)
                found[line, column] = kept.of(f"{given.steps} steps of {process}", make)  # the tables overlap
                bar.update()
            print(markdown(title, table, found), flush=True)
    print(f"- {REFERENCES} exact samples as a denoiser, no network: {kept.of('neighbours', denoiser_of_neighbours)}")


if __name__ == "__main__":
    main()
