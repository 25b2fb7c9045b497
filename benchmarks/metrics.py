"""Speed, memory and error of the evaluation at the size of the published protocol: 50,000 images, 2,048 features.

    python benchmarks/metrics.py                     # features, neighbours, frechet
    python benchmarks/metrics.py --only frechet --json OUT.json

features: images/s through Inception v3 (weights by a rule: speed does not depend on them), alone and with everything
that the suite does beside it. neighbours: precision, recall, density and coverage of all pairs, from a fraction of the
tiles, with the largest memory of the process. frechet: seconds and error of the distance where it is known.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measure import interleaved
from torch import Tensor
from tqdm import tqdm

from ditkit.base.rng import generator
from ditkit.evaluate.features import check_features
from ditkit.evaluate.frechet import Gaussian, frechet_gaussian
from ditkit.evaluate.measured import Side, observe
from ditkit.evaluate.neighbours import TILE, reach, tiles
from ditkit.evaluate.networks.inception import Inception, InceptionV3
from ditkit.evaluate.statistics import Moments
from ditkit.evaluate.suite import needed

IMAGES, WIDTH = 50_000, 2048


def main() -> None:
    """Prints the tables; writes them as JSON where told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part of it")
    parser.add_argument("--device", default="cpu", help="of the feature network")
    parser.add_argument("--batch", type=int, default=16, help="images at a time through the network")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--rounds", type=int, default=5, help="calls of each variant")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    found = {name: part(options) for name, part in PARTS.items() if options.only in (None, name)}
    for name, rows in found.items():
        print(f"\n{name} (torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device})")
        for key, value in rows.items():
            print(f"  {key:<62} {value:>12.5g}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def features(options: argparse.Namespace) -> dict[str, float]:
    """Images/s of the network alone and of the suite around it."""
    device = torch.device(options.device)
    network = Inception(made_up_weights(), device)
    shape = (options.batch, 3, options.size, options.size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=normal_draws(0))
    x = torch.randn(options.batch, 3, 299, 299, generator=normal_draws(1)).to(device)
    side, index = Side(options.batch), torch.arange(options.batch)
    timings = interleaved(
        {
            "network": torch.no_grad()(lambda: network.net(x)),
            "suite": lambda: observe(side, network, images, index, needed()),
        },
        rounds=options.rounds,
        device=device,
    )
    extra = [b / a - 1 for a, b in zip(timings["network"].seconds, timings["suite"].seconds, strict=True)]
    factor = options.batch * seconds_per_row() / timings["network"].median
    return {
        "network alone, images/s (median)": options.batch / timings["network"].median,
        "network with resizing and statistics, images/s (median)": options.batch / timings["suite"].median,
        "the suite adds, % (median of pairs, factors not compressed)": 100 * statistics.median(extra),
        "compressing the factor of both covariances adds, %": 100 * 2 * factor,
    }


def seconds_per_row() -> float:
    """Seconds that ``Moments`` takes for each row of 2,048, its compressions included."""
    moments = Moments()
    rows = torch.randn(WIDTH, WIDTH, generator=normal_draws(2))
    start = time.perf_counter()
    parts = 7
    for _ in tqdm(range(parts), "moments"):
        moments.update(rows)
    return (time.perf_counter() - start) / (parts * WIDTH)


def neighbours(options: argparse.Namespace) -> dict[str, float]:
    """Seconds for all pairs of 50,000 by 50,000, from one row of tiles, and the largest memory while they are held."""
    real, generated = (torch.randn(IMAGES, WIDTH, generator=normal_draws(i)) for i in (3, 4))
    check_features(real, generated, fewest=6)
    centre = real.mean(0, dtype=torch.float64)
    rows, columns = 512, 8 * TILE
    start = time.perf_counter()
    for _, _, squared in tiles(generated[:rows], real[:columns], centre, "tiles", True):
        squared.topk(6, largest=False)
    tile_seconds = time.perf_counter() - start
    start = time.perf_counter()
    found = reach(real[:TILE], generated[:TILE], [3, 5], progress=True)
    whole_seconds = time.perf_counter() - start
    assert 0 <= found[0].precision_recall.precision <= 1
    return {
        "one pass over 50,000 x 50,000 from one row of tiles, s": tile_seconds * IMAGES**2 / (rows * columns),
        "all three passes from 2,048 x 2,048, s": whole_seconds * (IMAGES / TILE) ** 2,
        "GFLOP/s in float64": 2 * rows * columns * WIDTH / tile_seconds / 1e9,
        "memory, features of both sets included, GiB": peak_memory(),
    }


def peak_memory() -> float:
    """The largest memory that this process has held, GiB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2 ** (30 if sys.platform == "darwin" else 20)


def frechet(options: argparse.Namespace) -> dict[str, float]:
    """Seconds and relative error of the distance of normal distributions whose covariances have the same axes."""
    axes, turn = (orthogonal(WIDTH, i) for i in (5, 6))
    a, b = (torch.rand(WIDTH, dtype=torch.float64, generator=normal_draws(i)) * 2 for i in (7, 8))
    shift = torch.randn(WIDTH, dtype=torch.float64, generator=normal_draws(9)) / WIDTH**0.5
    zero, low = torch.zeros(WIDTH, dtype=torch.float64), torch.arange(WIDTH) < WIDTH // 2
    found: dict[str, float] = {}
    for name, keep in (("full rank", torch.ones(WIDTH)), ("half rank", low.double())):
        x, y = a * keep, b * keep
        # S = Q diag(x^2) Q^T: the trace of the root of the product is sum x y.
        expected = (shift.square().sum() + (x - y).square().sum()).item()
        factors = [turn @ (v[:, None] * axes.T) for v in (x, y)]
        gaussians = [Gaussian(mean, factor) for mean, factor in zip((zero, shift), factors, strict=True)]
        start = time.perf_counter()
        distance = frechet_gaussian(*gaussians)
        found[f"{name}, from factors, s"] = time.perf_counter() - start
        found[f"{name}, from factors, relative error"] = abs(distance / expected - 1)
        start = time.perf_counter()
        covariances = [Gaussian.of_moments(g.mean, g.covariance) for g in gaussians]
        distance = frechet_gaussian(*covariances)
        found[f"{name}, from covariances, s"] = time.perf_counter() - start
        found[f"{name}, from covariances, relative error"] = abs(distance / expected - 1)
    return found


def orthogonal(n: int, index: int) -> Tensor:
    """An orthogonal matrix (n, n) float64."""
    return torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=normal_draws(index))).Q


def normal_draws(index: int) -> torch.Generator:
    """The generator of one input."""
    return generator(0, "benchmark.metrics", index)


def made_up_weights() -> dict[str, Tensor]:
    """Weights of the standard FID's network that keep its activations near 1."""
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in InceptionV3().state_dict().items()}
    draws, state = normal_draws(10), {}
    for key, shape in shapes.items():
        fan_in = shape[1:].numel() if len(shape) > 1 else 1
        drawn = torch.randn(shape, generator=draws) * (2 / fan_in) ** 0.5
        state[key] = drawn if len(shape) > 1 else torch.ones(shape)
    return state


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "features": features,
    "neighbours": neighbours,
    "frechet": frechet,
}

if __name__ == "__main__":
    main()
