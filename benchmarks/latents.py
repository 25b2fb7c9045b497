"""Training from a latent store beside encoding on the fly: python benchmarks/latents.py [--images 64] [--size 256]

The autoencoder has Stable Diffusion's shape and random weights; the network is a DiT of a published configuration. Both
ways take turns in one process. Reading the store is timed by itself, with the system's cache warm.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from measure import Timing, interleaved
from PIL import Image

from ditkit.app import build, stored
from ditkit.app.encoding import Job, encode
from ditkit.app.kinds.denoiser import DenoiserRuns
from ditkit.app.recipe import Data, Model, Process, Recipe
from ditkit.app.training import read_data
from ditkit.base.files import write_json
from ditkit.base.rng import generator
from ditkit.convert.autoencoder import save_autoencoder
from ditkit.data.loader import batch
from ditkit.encoders.autoencoder import AutoencoderKL
from ditkit.train.settings import TrainSettings
from ditkit.train.trainer import Trainer


def main() -> None:
    """Measures, prints the table, writes the JSON file."""
    given = arguments()
    timings = measure(given)
    print(table(timings, given))
    if given.out:
        write_json(given.out, {name: dataclasses.asdict(timing) for name, timing in timings.items()})


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Training from a latent store beside encoding on the fly.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--preset", default="DiT-S/2", help="a published configuration")
    parser.add_argument("--size", type=int, default=256, help="height and width of the images")
    parser.add_argument("--images", type=int, default=64, help="images in the set")
    parser.add_argument("--batch", type=int, default=8, help="images per step")
    parser.add_argument("--widths", type=int, nargs="+", default=[128, 256, 512, 512], help="the autoencoder's")
    parser.add_argument("--dtype", default="float32", help="of the store: float32, bfloat16, float16")
    parser.add_argument("--rounds", type=int, default=3, help="timed calls of each variant")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1")
    parser.add_argument("--out", help="also write the numbers to this JSON file")
    return parser.parse_args()


@contextlib.contextmanager
def prepared(given: argparse.Namespace) -> Iterator[tuple[Path, Path, Path]]:
    """A folder of random images, an autoencoder and a store of the two."""
    with tempfile.TemporaryDirectory() as place:
        data, vae, out = (Path(place) / name for name in ("images", "vae", "store"))
        data.mkdir()
        for i in range(given.images):
            pixels = torch.randint(0, 256, (given.size, given.size, 3), generator=generator(i, "picture"))
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(data / f"{i:05d}.png")
        save_autoencoder(AutoencoderKL(tuple(given.widths)).eval().requires_grad_(False), vae)
        encode(Job(str(data), str(vae), dtype=given.dtype, device=given.device), out)
        yield data, vae, out


def measure(given: argparse.Namespace) -> dict[str, Timing]:
    """Times a step of either way, and reading alone."""
    device = build.device(given.device)
    with prepared(given) as (data, vae, store):
        ways = {"on the fly": Data(source=str(data), autoencoder=str(vae)), "store": Data(source=str(store))}
        work: dict[str, Any] = {name: step_of(where, given) for name, where in ways.items()}
        latents, _ = stored.read_latents(ways["store"])
        steps = iter(range(10**9))
        work["reading the store"] = lambda: batch(latents, step=next(steps), batch_size=given.batch, seed=0, flip=True)
        return interleaved(work, rounds=given.rounds, device=device)


def step_of(data: Data, given: argparse.Namespace) -> Any:
    """A step of training as ``ditkit train`` takes it: the batch, encoding where there is any, the optimiser."""
    recipe = Recipe(
        data=dataclasses.replace(data, flip=True),
        model=Model(preset=given.preset),
        process=Process(learned_variance=True, objective="hybrid"),
        train=TrainSettings(batch_size=given.batch, device=given.device),
    )
    kind = DenoiserRuns(recipe)
    examples, facts = read_data(recipe, kind.autoencoder)
    trainer = Trainer(kind.task(facts, examples), recipe.train)

    def step() -> None:
        trainer.one_step(trainer.net, batch(examples, step=trainer.step, batch_size=given.batch, seed=0, flip=True))

    return step


def table(timings: dict[str, Timing], given: argparse.Namespace) -> str:
    """The numbers as a Markdown table; by the fastest call, the median's in parentheses."""
    lines = [
        f"{given.preset}, images of {given.size}x{given.size}, batch {given.batch}, store in {given.dtype}; "
        f"torch {torch.__version__}, {torch.get_num_threads()} threads",
        "",
        "| way               | ms a step           | steps/s |",
        "|-------------------|---------------------|---------|",
    ]
    for name, timing in timings.items():
        took = f"{1e3 * timing.least:.2f} ({1e3 * timing.median:.2f})"
        lines.append(f"| {name:17} | {took:19} | {1 / timing.least:7.2f} |")
    share = timings["reading the store"].least / timings["store"].least
    gain = timings["on the fly"].least / timings["store"].least
    lines += ["", f"From the store {gain:.1f} times as fast; reading it is {100 * share:.2g}% of a step."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
