"""How fast a DiT trains and samples here: images/s, s/image, and the fraction of this machine's matrix-product rate.

    python benchmarks/dit.py [--preset DiT-S/2] [--batch 8] [--rounds 3] [--out FILE.json]

float32 and bfloat16, eager and compiled, take turns in one process with a large matrix product in the same dtypes: what
else the machine does meanwhile falls on all of them alike. The rate counts multiply-adds (``ditkit.nn.cost``): one
forward pass a denoised image, three a trained one, since the backward pass costs two.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
from collections.abc import Callable, Iterator

import torch
from measure import Timing, Work, interleaved, product
from torch import nn

from ditkit.app import build, guiding
from ditkit.app.recipe import Model, Process, Recipe, Sampling
from ditkit.base.files import write_json
from ditkit.base.rng import generator
from ditkit.condition import Condition
from ditkit.data.loader import Batch
from ditkit.nn.compiled import compiled
from ditkit.nn.cost import cost
from ditkit.process import grids
from ditkit.process.denoiser import Denoiser
from ditkit.sample import trajectory
from ditkit.train.denoising import Denoising
from ditkit.train.settings import TrainSettings
from ditkit.train.trainer import Trainer

CLASSES = 1000
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "eager": lambda net: net,
    "compiled": compiled,
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: what was timed, for how many images and multiply-adds a call."""

    task: str
    mode: str
    dtype: str
    images: float
    multiply_adds: float
    timing: Timing


def main() -> None:
    """Measures, prints the table, writes the JSON file."""
    given = arguments()
    device = build.device(given.device)
    rows = measure(given, device)
    print(table(rows, given, device))
    if given.out:
        write_json(given.out, as_json(rows, given, device))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Training and sampling speed of a DiT beside the machine's matrix-product rate.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--preset", default="DiT-S/2", help="a published configuration")
    parser.add_argument("--size", type=int, default=32, help="height and width of the latents")
    parser.add_argument("--channels", type=int, default=4, help="channels of the latents")
    parser.add_argument("--batch", type=int, default=8, help="images per training step and per sampling call")
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps of a sample")
    parser.add_argument("--rounds", type=int, default=3, help="timed calls of each variant")
    parser.add_argument("--product", type=int, default=0, help="rows of the matrix product; 0: 2048, on a GPU 8192")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=[*DTYPES], help="precisions to measure")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=[*MODES], help="ways to run the network")
    parser.add_argument("--out", help="also write the numbers to this JSON file")
    return parser.parse_args()


def measure(given: argparse.Namespace, device: torch.device) -> list[Row]:
    """Times every variant, in turns."""
    recipe = Recipe(
        model=Model(preset=given.preset),
        process=Process(learned_variance=True, objective="hybrid"),  # the paper's run
        train=TrainSettings(batch_size=given.batch),
        sample=Sampling(solver="ddim", steps=str(given.steps), guidance=4.0),
    )
    facts = {"input_size": [given.size] * 2, "channels": given.channels, "classes": [*range(CLASSES)]}
    net = build.network(recipe.model, recipe.process, facts).to(device)
    denoiser = build.denoiser(recipe, net)
    shape = (given.channels, given.size, given.size)
    label = torch.arange(given.batch) % CLASSES
    x0 = torch.randn(given.batch, *shape, generator=generator(0, "benchmark images"))
    index = torch.arange(given.batch)
    batch = Batch(x0, Condition(label=label), index, torch.stack([index, index], 1))
    one = Condition(label=label[:1])
    forward = cost(net, x0[:1], torch.zeros(1), one).multiply_adds * given.batch

    work: dict[tuple[str, str, str], Work] = {}
    amount: dict[str, tuple[float, float]] = {
        "training": (given.batch, 3 * forward),
        "sampling": (given.batch / given.steps, 2 * forward),  # a step denoises under the label and under the null
    }
    for dtype in given.dtypes:
        rows = given.product or (2048 if device.type == "cpu" else 8192)
        work["product", "", dtype], count = product(device, DTYPES[dtype], rows)
        amount["product"] = (0, count)
        cast = dataclasses.replace(denoiser, autocast=build.autocast(dtype, device))
        task = Denoising(cast, build.objective(recipe.process), 0, label_dropout=recipe.train.label_dropout)
        trainer = Trainer(task, recipe.train)
        for mode in given.modes:
            frozen = dataclasses.replace(cast, net=MODES[mode](trainer.ema.net))
            work["training", mode, dtype] = train_step(trainer, MODES[mode](net), batch)
            work["sampling", mode, dtype] = sampling_step(recipe.sample, frozen, label, shape, device)
    timings = interleaved({" ".join(key): call for key, call in work.items()}, rounds=given.rounds, device=device)
    return [Row(*key, *amount[key[0]], timings[" ".join(key)]) for key in work]


def train_step(trainer: Trainer[Denoising], net: nn.Module, batch: Batch) -> Work:
    """The trainer's own step: draws, forward, backward, clipping, AdamW, moving average."""
    return lambda: trainer.one_step(net, batch)


def sampling_step(
    sampling: Sampling, denoiser: Denoiser, label: torch.Tensor, shape: tuple[int, ...], device: torch.device
) -> Work:
    """One step of a guided trajectory of the whole batch; begins a new one when it is over."""

    def endless() -> Iterator[object]:
        ts, seeds = grids.uniform(denoiser.path, sampling.steps), range(len(label))
        how = {"solver": build.solver(sampling), "guide": guiding.guide(sampling, ["any"]), "device": device}
        while True:
            yield from trajectory(denoiser, Condition(label=label), seeds, shape, ts, **how)

    states = endless()

    def step() -> None:
        with torch.inference_mode():
            next(states)

    return step


def table(rows: list[Row], given: argparse.Namespace, device: torch.device) -> str:
    """The numbers as a Markdown table; rates by the fastest call, the median's in parentheses."""
    lines = [
        f"{given.preset} on {given.size}x{given.size}x{given.channels}, batch {given.batch}, DDIM {given.steps} steps, "
        f"guided; {machine(device)}",
        "",
        f"| {'task':8} | {'mode':8} | {'dtype':8} | {'speed':25} | {'GMAC/s':15} | of product |",
        f"|{'-' * 10}|{'-' * 10}|{'-' * 10}|{'-' * 27}|{'-' * 17}|{'-' * 12}|",
    ]
    yardstick = {r.dtype: r.multiply_adds / r.timing.least for r in rows if r.task == "product"}
    for r in rows:
        head = f"| {r.task:8} | {r.mode:8} | {r.dtype:8} |"
        if r.timing.failure:
            lines.append(f"{head} unavailable: {r.timing.failure} |  |  |")
            continue
        least, median = r.timing.least, r.timing.median
        rate, usual = r.multiply_adds / least, r.multiply_adds / median
        part = "" if r.task == "product" else f"{rate / yardstick[r.dtype]:.0%}"
        rates = f"{rate / 1e9:.1f} ({usual / 1e9:.1f})"
        lines.append(f"{head} {SPEED[r.task](r, least, median):25} | {rates:15} | {part:10} |")
    return "\n".join(lines)


SPEED: dict[str, Callable[[Row, float, float], str]] = {
    "product": lambda row, least, median: "",
    "training": lambda row, least, median: f"{row.images / least:.2f} ({row.images / median:.2f}) images/s",
    "sampling": lambda row, least, median: f"{least / row.images:.3f} ({median / row.images:.3f}) s/image",
}


def machine(device: torch.device) -> str:
    """The device and the library, in words."""
    where = f"{torch.get_num_threads()} threads" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return f"{device.type}, {where}, torch {torch.__version__}, {platform.machine()}"


def as_json(rows: list[Row], given: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """The settings, the machine and every timing, in seconds."""
    return {"settings": vars(given), "machine": machine(device), "rows": [dataclasses.asdict(row) for row in rows]}


if __name__ == "__main__":
    main()
