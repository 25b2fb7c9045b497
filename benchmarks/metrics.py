"""Speed, memory and error of the evaluation at the size of the published protocol: 50,000 images, 2,048 features.

    python benchmarks/metrics.py                                            # all three, exits with 1 over a limit
    python benchmarks/metrics.py --only features --rounds 20                # images/s, and what the suite adds
    python benchmarks/metrics.py --only neighbours --json neighbours.json   # all pairs: half an hour on two cores
    python benchmarks/metrics.py --only frechet

features: images/s through Inception v3 (weights by a rule: speed does not depend on them), and with everything that
the suite does beside it. neighbours: precision, recall, density and coverage of all pairs, with the largest memory
that the process has held (run it alone: memory of the other parts would count). frechet: seconds and error of the
distance where it is known. Smaller, for a trial: --images 4096 --width 256 --batch 2 --rounds 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ditkit.base.files import write_json
from ditkit.base.rng import generator
from ditkit.evaluate.frechet import Gaussian, frechet_gaussian
from ditkit.evaluate.measured import Side, observe
from ditkit.evaluate.neighbours import reach
from ditkit.evaluate.networks.inception import Inception, InceptionV3
from ditkit.evaluate.statistics import Moments
from ditkit.evaluate.suite import needed

IMAGES, WIDTH = 50_000, 2048
ADDED, MEMORY = 5.0, 4.0
"""What the suite may add to the network's own time, %; the memory that all pairs may take, GiB."""

EXACT = 1e-9
"""The relative error that the Fréchet distance of known factors may have."""


@dataclasses.dataclass(frozen=True)
class Row:
    """What was measured, in words with its unit; the number; the largest that it may be (None: any)."""

    what: str
    value: float
    allowed: float | None = None

    @property
    def over(self) -> bool:
        """Whether it is more than allowed, or no number."""
        return self.allowed is not None and not self.value <= self.allowed


def main() -> None:
    """Prints the tables; writes them as JSON where told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, help="one part of it")
    parser.add_argument("--device", default="cpu", help="of the feature network")
    parser.add_argument("--batch", type=int, default=16, help="images at a time through the network")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--rounds", type=int, default=5, help="timed calls")
    parser.add_argument("--images", type=int, default=IMAGES, help="rows of each set of neighbours; fewer for a trial")
    parser.add_argument("--width", type=int, default=WIDTH, help="features of neighbours and frechet")
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args()
    found = {name: part(options) for name, part in PARTS.items() if options.only in (None, name)}
    for name, rows in found.items():
        print(f"\n{name} (torch {torch.__version__}, {torch.get_num_threads()} threads, {options.device})")
        for row in rows:
            limit = "" if row.allowed is None else f"  allowed {row.allowed:g}{': OVER' if row.over else ''}"
            print(f"  {row.what:<62} {row.value:>12.5g}{limit}")
    if options.json:
        write_json(options.json, {name: [dataclasses.asdict(row) for row in rows] for name, rows in found.items()})
    raise SystemExit(any(row.over for rows in found.values() for row in rows))


def features(options: argparse.Namespace) -> list[Row]:
    """Images/s of the network and of the suite around it, and what the suite does beside the network.

    Both are timed in the same calls: one network by itself, twice, differs from itself by more than the suite adds.
    """
    device = torch.device(options.device)
    network = Inception(made_up_weights(), device)
    inside = Watch(device)
    network.net.register_forward_pre_hook(lambda *given: inside.start())
    network.net.register_forward_hook(lambda *given: inside.stop())
    shape = (options.batch, 3, options.size, options.size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=normal_draws(0))
    side, index = Side(options.batch), torch.arange(options.batch)
    around = Watch(device)
    for _ in tqdm(range(options.rounds + 1), "features", unit="batch"):
        around.start()
        observe(side, network, images, index, needed())
        around.stop()
    pairs = list(zip(inside.seconds, around.seconds, strict=True))[1:]  # the first call warms up
    network_alone, suite = (statistics.median(each) for each in zip(*pairs, strict=True))
    added = statistics.median(b / a - 1 for a, b in pairs)
    factor = options.batch * seconds_per_row() / network_alone
    return [
        Row("network, images/s (median)", options.batch / network_alone),
        Row("network with resizing and statistics, images/s (median)", options.batch / suite),
        Row("resizing, statistics and copies add, % (median of calls)", 100 * added),
        Row("compressing the factors of both covariances adds, %", 100 * 2 * factor),
        Row("the suite adds, %", 100 * (added + 2 * factor), ADDED),
    ]


class Watch:
    """Seconds between each start and stop, the device's work included."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: list[float] = []
        self._start = 0.0

    def start(self) -> None:
        self._start = self._now()

    def stop(self) -> None:
        self.seconds.append(self._now() - self._start)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def seconds_per_row() -> float:
    """Seconds that ``Moments`` takes for each row of 2,048, its compressions included."""
    moments = Moments()
    rows = torch.randn(WIDTH, WIDTH, generator=normal_draws(2))
    start = time.perf_counter()
    parts = 7
    for _ in tqdm(range(parts), "moments"):
        moments.update(rows)
    return (time.perf_counter() - start) / (parts * WIDTH)


def neighbours(options: argparse.Namespace) -> list[Row]:
    """Seconds of precision, recall, density and coverage of all pairs, and the largest memory while they are found."""
    n, width = options.images, options.width
    before = peak_memory()
    real, generated = (torch.randn(n, width, generator=normal_draws(i)) for i in (3, 4))
    start = time.perf_counter()
    found = reach(real, generated, [3, 5], progress=True)
    seconds = time.perf_counter() - start
    assert 0 <= found[0].precision_recall.precision <= 1
    passes = 3  # neighbours of the real, of the generated, and the pairs
    rows = [
        Row(f"{n:,} x {n:,} x {width:,}, s", seconds),
        Row("GFLOP/s in float64", 2 * passes * n**2 * width / seconds / 1e9),
        Row("memory before, GiB", before),
        Row("memory, features of both sets included, GiB", peak_memory(), MEMORY),
    ]
    if n < IMAGES:
        rows.append(Row(f"extrapolated, not measured: {IMAGES:,} x {IMAGES:,}, s", seconds * (IMAGES / n) ** 2))
    return rows


def peak_memory() -> float:
    """The largest memory that this process has held, GiB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 2 ** (30 if sys.platform == "darwin" else 20)


def frechet(options: argparse.Namespace) -> list[Row]:
    """Seconds and relative error of the distance of normal distributions whose covariances have the same axes."""
    width = options.width
    axes, turn = (orthogonal(width, i) for i in (5, 6))
    a, b = (torch.rand(width, dtype=torch.float64, generator=normal_draws(i)) * 2 for i in (7, 8))
    shift = torch.randn(width, dtype=torch.float64, generator=normal_draws(9)) / width**0.5
    zero, low = torch.zeros(width, dtype=torch.float64), torch.arange(width) < width // 2
    found = [Row("features of each distribution", width)]
    for name, keep in (("full rank", torch.ones(width)), ("half rank", low.double())):
        x, y = a * keep, b * keep
        # S = Q diag(x^2) Q^T: the trace of the root of the product is sum x y.
        expected = (shift.square().sum() + (x - y).square().sum()).item()
        factors = [turn @ (v[:, None] * axes.T) for v in (x, y)]
        gaussians = [Gaussian(mean, factor) for mean, factor in zip((zero, shift), factors, strict=True)]
        found += judged(f"{name}, from factors", lambda g=gaussians: frechet_gaussian(*g), expected, EXACT)
        moments = [(g.mean, g.covariance) for g in gaussians]
        found += judged(
            f"{name}, from covariances",
            lambda m=moments: frechet_gaussian(*(Gaussian.of_moments(*each) for each in m)),
            expected,
        )
    return found


def judged(name: str, distance: Callable[[], float], expected: float, exact: float | None = None) -> list[Row]:
    """Seconds that a distance takes, and how far it is from what it should be."""
    start = time.perf_counter()
    value = distance()
    seconds = time.perf_counter() - start
    return [Row(f"{name}, s", seconds), Row(f"{name}, relative error", abs(value / expected - 1), exact)]


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


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "features": features,
    "neighbours": neighbours,
    "frechet": frechet,
}

if __name__ == "__main__":
    main()
