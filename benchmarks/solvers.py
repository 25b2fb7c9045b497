"""What a solver costs beside the network: all time of a sampling run outside it, for each evaluation.

    python benchmarks/solvers.py [--preset DiT-S/2] [--batch 8] [--steps 20] [--rounds 9] [--out FILE.json]

Every solver that the command line finds draws a batch through the same code as ``ditkit sample`` (noise by seed, grid,
solver, row and learned variance read as x0 and eps) with a network that answers at once, always the same. The time of
the run over its counted evaluations stands beside that of one evaluation of the real network. All take turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
from collections import deque

import torch
from measure import Timing, Work, interleaved

from ditkit.app import build
from ditkit.app.recipe import Model, Process, Sampling
from ditkit.backbones.output import Output
from ditkit.base.files import write_json
from ditkit.condition import Condition
from ditkit.process.denoiser import Denoise, Denoiser
from ditkit.sample import trajectory
from ditkit.solvers.counted import Counted

CLASSES = 1000
NETWORK = "one evaluation of the network"
ALLOWED = 0.01
"""Of an evaluation."""


def main() -> None:
    """Measures, prints the table, writes the JSON file; exits with 1 where a solver costs more than is allowed."""
    given = arguments()
    device = build.device(given.device)
    rows, network = measure(given, device)
    print(table(rows, network, given, device))
    if given.out:
        write_json(given.out, {"network": network.seconds, "solvers": [dataclasses.asdict(row) for row in rows]})
    raise SystemExit(any(row.timing.seconds and row.cost > ALLOWED * network.median for row in rows))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Time outside the network, for each evaluation, of every solver.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--preset", default="DiT-S/2", help="a published configuration")
    parser.add_argument("--size", type=int, default=32, help="height and width of the latents")
    parser.add_argument("--channels", type=int, default=4, help="channels of the latents")
    parser.add_argument("--batch", type=int, default=8, help="images drawn at a time")
    parser.add_argument("--steps", type=int, default=20, help="steps of the grid")
    parser.add_argument("--rounds", type=int, default=9, help="timed runs of each solver")
    parser.add_argument("--precision", default="auto", help="auto, float32, bfloat16: of the network")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--out", help="also write the numbers to this JSON file")
    return parser.parse_args()


@dataclasses.dataclass(frozen=True)
class Row:
    """A solver: its runs without a network, and the evaluations of one."""

    solver: str
    evaluations: int
    timing: Timing

    @property
    def cost(self) -> float:
        """Median seconds outside the network, for each evaluation."""
        return self.timing.median / self.evaluations


@torch.inference_mode()
def measure(given: argparse.Namespace, device: torch.device) -> tuple[list[Row], Timing]:
    """A row for each solver, and the timing of the network's evaluation."""
    process = Process(learned_variance=True)
    shape = (given.channels, given.size, given.size)
    facts = {"input_size": shape[1:], "channels": given.channels, "classes": [str(c) for c in range(CLASSES)]}
    net = build.network(Model(preset=given.preset), process, facts).to(device).eval()
    path, row = build.path(process), build.prediction(process)
    condition = Condition(label=torch.arange(given.batch) % CLASSES)
    denoiser = Denoiser(net, path, row, condition.to(device), build.autocast(given.precision, device))
    x = torch.randn(given.batch, *shape, device=device)
    answer = Output(denoiser.output(x, torch.tensor(0.5)).prediction, {})
    silent = Denoiser(lambda x, time, condition: answer, path, row)
    runs = {name: Run(name, silent, condition, shape, given, device) for name in build.known("solver")}
    works: dict[str, Work] = {NETWORK: lambda: denoiser.output(x, torch.tensor(0.5)), **runs}
    timings = interleaved(works, rounds=given.rounds, device=device)
    return [Row(name, run.evaluations, timings[name]) for name, run in runs.items()], timings[NETWORK]


class Run:
    """Draws a batch by a solver, once a call; knows its evaluations afterwards."""

    def __init__(
        self,
        solver: str,
        denoiser: Denoiser,
        condition: Condition,
        shape: tuple[int, ...],
        given: argparse.Namespace,
        device: torch.device,
    ) -> None:
        self.sampling = Sampling(solver=solver, steps=str(given.steps))
        self.denoiser, self.condition, self.shape, self.device = denoiser, condition, shape, device
        self.seeds, self.evaluations = range(given.batch), 0

    def __call__(self) -> None:
        counted = []

        def guide(denoiser: Denoiser) -> Denoise:
            counted.append(Counted(denoiser))
            return counted[0]

        states = trajectory(
            self.denoiser,
            self.condition,
            self.seeds,
            self.shape,
            build.grid(self.sampling, self.denoiser.path),
            solver=build.solver(self.sampling),
            guide=guide,
            device=self.device,
        )
        deque(states, maxlen=0)
        self.evaluations = counted[0].evaluations


def table(rows: list[Row], network: Timing, given: argparse.Namespace, device: torch.device) -> str:
    """The rows as Markdown, dearest first."""
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    lines = [
        f"{given.preset}, {given.channels}x{given.size}x{given.size}, batch {given.batch}, {given.steps} steps, "
        f"{given.rounds} rounds; {where}, torch {torch.__version__}, python {platform.python_version()}.",
        f"One evaluation of the network: median {1000 * network.median:.1f} ms, least {1000 * network.least:.1f} ms.",
        "",
        "| solver | evaluations | outside the network, each: median | least | of an evaluation |",
        "|--------|-------------|-----------------------------------|-------|------------------|",
    ]
    measured = [row for row in rows if row.timing.seconds]
    for row in sorted(measured, key=lambda row: -row.cost):
        least = row.timing.least / row.evaluations
        share = f"{row.cost / network.median:.2%} ({least / network.least:.2%})"
        lines.append(
            f"| {row.solver} | {row.evaluations} | {1000 * row.cost:.2f} ms | {1000 * least:.2f} ms | {share} |"
        )
    lines += [f"| {row.solver} | – | {row.timing.failure} | – | – |" for row in rows if not row.timing.seconds]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
