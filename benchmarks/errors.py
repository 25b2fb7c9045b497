"""Standard errors against the spread over repeated draws, on features of real images.

    python benchmarks/errors.py IMAGES [--draws 100] [--samples 400 1000 3000] [--folder runs/errors]

Half of the images (50,000 at most, in the feature space "self", whose classifier is kept in the folder) are the
reference. "Samples" are drawn from the other half with classes in turn: as they are, with features shifted
(1.1 x + 0.02) and pulled to their mean (0.8 x + 0.2 mean). For each, the spread of the Fréchet distance over the draws,
and its standard error in parts of the spread (root mean square): with the classes' shares, as ditkit states it, and as
if the classes had been drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ditkit.app.references import MOST, Space, evenly, network_of
from ditkit.base.rng import generator
from ditkit.data.loading import load_images
from ditkit.data.source import open_source
from ditkit.evaluate.features import gaussian_of
from ditkit.evaluate.frechet import Gaussian, frechet_gaussian, frechet_standard_error
from ditkit.evaluate.measured import measure

KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "as they are": lambda x: x,
    "shifted": lambda x: 1.1 * x + 0.02,
    "pulled": lambda x: 0.8 * x + 0.2 * x.mean(0),
}


def features_of(source: str, folder: Path) -> tuple[Tensor, Tensor, int]:
    """Features (N, D) float64 of the images, their labels (N,) and the number of classes."""
    images = evenly(load_images(open_source(source)), MOST)
    if images.labels is None:
        raise SystemExit(f"{source} has no classes: expected images with classes, which are drawn in turn")
    classes = len(images.classes)
    network = network_of(Space(), images, images.labels, classes, folder, torch.device("cpu"))
    side = measure("images", images.get(torch.arange(len(images))), None, network, quantities=["features"])
    return side.features.double(), images.labels, classes


def drawn(by_class: list[Tensor], count: int, number: int) -> tuple[Tensor, Tensor]:
    """Rows (count, D) with classes in turn, and their classes; the number-th draw."""
    labels = torch.arange(count) % len(by_class)
    draws = generator(0, "benchmark.errors", number)
    rows = torch.empty(count, by_class[0].shape[1], dtype=torch.float64)
    for k, some in enumerate(by_class):
        of_class = labels == k
        rows[of_class] = some[torch.randint(len(some), (int(of_class.sum()),), generator=draws)]
    return rows, labels


def ratios(reference: Gaussian, samples: list[tuple[Tensor, Tensor]]) -> tuple[float, float, float, float]:
    """Mean distance, its spread, and the two errors in parts of the spread."""
    made = [(gaussian_of(x), x, labels) for x, labels in tqdm(samples, leave=False)]
    distances = torch.tensor([frechet_gaussian(reference, g) for g, _, _ in made])
    shares = torch.tensor([frechet_standard_error(reference, g, x, labels) for g, x, labels in made])
    plain = torch.tensor([frechet_standard_error(reference, g, x) for g, x, _ in made])
    spread = distances.std().item()
    in_shares, of_drawn = (errors.square().mean().sqrt().item() / spread for errors in (shares, plain))
    return distances.mean().item(), spread, in_shares, of_drawn


def main() -> None:
    """Draws the sets and prints the table, a line as each set of draws is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--samples", type=int, nargs="+", default=[400, 1000, 3000])
    parser.add_argument("--folder", type=Path, default=Path("runs/errors"))
    options = parser.parse_args()
    features, labels, classes = features_of(options.images, options.folder)
    reference, pool, of_pool = gaussian_of(features[::2]), features[1::2], labels[1::2]
    by_class = [pool[of_pool == k] for k in range(classes)]
    print(
        "| samples | number | distance | spread | error in shares | error, classes drawn |\n|---|---|---|---|---|---|"
    )
    for kind, change in KINDS.items():
        for count in options.samples:
            samples = [(change(x), k) for x, k in (drawn(by_class, count, i) for i in range(options.draws))]
            distance, spread, shares, plain = ratios(reference, samples)
            print(f"| {kind} | {count:,} | {distance:.4f} | {spread:.5f} | {shares:.2f} | {plain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
