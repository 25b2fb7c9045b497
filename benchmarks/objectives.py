"""Bias and variance of training targets against the exact posterior mean of a data set, by time and effort.

    python benchmarks/objectives.py                     # a mixture in two dimensions
    python benchmarks/objectives.py IMAGES.zip          # a folder or archive of images
    python benchmarks/objectives.py IMAGES.zip --plot targets.svg

At fixed x_t the three estimates of E[x0 | x_t] draw what is random in them, many times: the single sample draws the
image behind x_t (denoising score matching), STF its n - 1 other references too, KNN its n draws beyond the k nearest.
The exact mean is that over the whole set. All numbers are squares of a pixel's deviation, in units of the data's own
variance; the standard error of a squared bias is that of its mean over the queries, so that one that is smaller than
twice its error is none that was seen.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ditkit.base import rng
from ditkit.base.errors import UserError
from ditkit.data.loading import load_images
from ditkit.data.source import open_source
from ditkit.objectives.neighbours import BruteForce
from ditkit.objectives.targets import log_likelihood, neighbours_mean, posterior_mean
from ditkit.process.continuous import Linear
from ditkit.process.path import Path as NoisePath

LEAST_SHOWN = 1e-7
"""Variances below this are those of rounding."""


@dataclasses.dataclass(frozen=True)
class Row:
    """Squared bias, its standard error, and variance of one estimate at one time, over the data's variance."""

    estimate: str
    t: float
    n: int
    k: int
    bias: float
    bias_error: float
    variance: float


@dataclasses.dataclass(frozen=True)
class Remembered:
    """The index of fixed queries, asked once."""

    data: Tensor
    found: Tensor

    def nearest(self, queries: Tensor, k: int) -> Tensor:
        """The k first of the neighbours found, nearest first."""
        return self.found[:, :k]


def main() -> None:
    """Prints the table; writes it as JSON where told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="?", help="folder or archive of images; without: a mixture in 2 dimensions")
    parser.add_argument("--size", type=int, default=50_000, help="at most so many images of the set")
    parser.add_argument("--queries", type=int, default=16, help="x_t at which the estimates are compared")
    parser.add_argument("--repeats", type=int, default=32, help="draws of each estimate")
    parser.add_argument(
        "--times", type=float, nargs="+", default=[0.1, 0.3, 0.5, 0.7, 0.9], help="t of the linear path"
    )
    parser.add_argument("--references", type=int, nargs="+", default=[64, 256], help="n of STF and of KNN")
    parser.add_argument("--neighbours", type=int, nargs="+", default=[64, 256], help="k of KNN")
    parser.add_argument("--json", type=Path, help="write the rows there too")
    parser.add_argument("--plot", type=Path, help="draw the variances there (.svg, .png)")
    given = parser.parse_args()
    data = _images(given.images, given.size) if given.images else _mixture(given.size)
    rows = measure(data, given, Linear())
    print(table(rows, data))
    if given.plot:
        plot(rows, data, given.plot)
    if given.json:
        given.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))


def _images(spec: str, size: int) -> Tensor:
    images = load_images(open_source(spec))
    chosen = torch.randperm(len(images), generator=rng.generator(0, "subset"))[:size]
    return images.get(chosen).float() / 127.5 - 1


def _mixture(size: int) -> Tensor:
    draw = rng.generator(0, "mixture")
    centres = torch.tensor([[-1.0, 0.0], [0.6, 0.8], [0.7, -0.9]])
    return centres[torch.randint(3, (size,), generator=draw)] + 0.25 * torch.randn(size, 2, generator=draw)


def measure(data: Tensor, given: argparse.Namespace, path: NoisePath) -> list[Row]:
    """Every estimate at every time, n and k; data: (M, ...)."""
    index, unit = BruteForce(data), data.var(0).mean().item()
    rows: list[Row] = []
    settings = len(given.references) * (1 + len(given.neighbours)) + 1
    with tqdm(total=len(given.times) * settings, unit="estimate") as bar:
        for time in given.times:
            t = torch.tensor(time, dtype=torch.float64)
            x_t = path.mix(data[: given.queries], _normal(data[: given.queries]), t)
            posterior = log_likelihood(path, x_t, t, data).softmax(1)
            exact = (posterior @ data.flatten(1)).reshape(x_t.shape)
            near = Remembered(data, index.nearest(x_t / path.alpha(t).to(x_t), max(given.neighbours)))
            estimates = {("single", 1, 0): _single(data, posterior)}
            estimates |= {("STF", n, 0): _stf(path, data, posterior, x_t, t, n) for n in given.references}
            estimates |= {
                ("KNN", n, k): _knn(path, near, x_t, t, n, k)
                for n, k in itertools.product(given.references, given.neighbours)
            }
            for (name, n, k), estimate in estimates.items():
                rows.append(Row(name, time, n, k, *(v / unit for v in spread(estimate, exact, given.repeats))))
                bar.update()
    return rows


def _single(data: Tensor, posterior: Tensor):
    return lambda i: data[torch.multinomial(posterior, 1, generator=rng.generator(i, "behind"))[:, 0]]


def _stf(path: NoisePath, data: Tensor, posterior: Tensor, x_t: Tensor, t: Tensor, n: int):
    def estimate(i: int) -> Tensor:
        behind = torch.multinomial(posterior, 1, generator=rng.generator(i, "behind"))
        others = torch.randint(len(data), (len(x_t), n - 1), generator=rng.generator(i, "others", n))
        chosen = torch.cat([behind, others], 1)
        each = [posterior_mean(path, x_t[b : b + 1], t, data[chosen[b]]) for b in range(len(x_t))]
        return torch.cat(each)

    return estimate


def _knn(path: NoisePath, near: Remembered, x_t: Tensor, t: Tensor, n: int, k: int):
    def estimate(i: int) -> Tensor:
        uniform = torch.rand(len(x_t), n, generator=rng.generator(i, "draws", n, k), dtype=torch.float64)
        return neighbours_mean(path, x_t, t, near, k, uniform)

    return estimate


def spread(estimate: Callable[[int], Tensor], exact: Tensor, repeats: int) -> tuple[float, float, float]:
    """Squared bias (less what chance adds to it), its standard error, and variance: means over queries and pixels."""
    mean, squares = torch.zeros_like(exact), torch.zeros_like(exact)
    for i in range(repeats):
        off = estimate(i) - exact
        mean += off / repeats
        squares += off**2 / repeats
    variance = (squares - mean**2) * repeats / (repeats - 1)
    bias = (mean**2 - variance / repeats).flatten(1).mean(1)  # of each query
    return bias.mean().item(), bias.std().item() / len(bias) ** 0.5, variance.mean().item()


def _normal(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=rng.generator(0, "queries"))


def lines(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each estimate, single sample first, by time."""
    order = ("single", "STF", "KNN")
    found: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (order.index(row.estimate), row.n, row.k, row.t)):
        name = row.estimate + (f", n {row.n}" if row.n > 1 else "") + (f", k {row.k}" if row.k else "")
        found.setdefault(name, []).append(row)
    return found


def table(rows: list[Row], data: Tensor) -> str:
    """Two Markdown tables, a line for each estimate and a column for each time: variance; squared bias."""
    heads = " | ".join(f"t = {t:g}" for t in sorted({row.t for row in rows}))
    rule = "|---" * (1 + len({row.t for row in rows})) + "|"
    parts = [f"{len(data)} x {list(data.shape[1:])}, over the data's variance", "", f"| variance | {heads} |", rule]
    for name, of_one in lines(rows).items():
        parts.append(f"| {name} | " + " | ".join(f"{row.variance:.1e}" for row in of_one) + " |")
    parts += ["", f"| squared bias ± standard error | {heads} |", rule]
    for name, of_one in lines(rows).items():
        parts.append(f"| {name} | " + " | ".join(f"{row.bias:.0e} ± {row.bias_error:.0e}" for row in of_one) + " |")
    return "\n".join(parts)


def plot(rows: list[Row], data: Tensor, file: Path) -> None:
    """Variance over time, a line for each estimate, as an image of the file's suffix."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("--plot: matplotlib is not installed; pip install 'ditkit[plot]'") from None
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    style = {"single": ("black", "-"), "STF": ("C0", "-"), "KNN": ("C3", "--")}
    for name, of_one in lines(rows).items():
        colour, dash = style[of_one[0].estimate]
        seen = [row for row in of_one if row.variance > LEAST_SHOWN]
        size = sum(row.n + row.k for row in seen[:1])  # paler, the fewer
        strength = min(1.0, 0.25 + 0.09 * math.log2(max(size, 1))) if size > 1 else 1.0
        axes.plot(
            [r.t for r in seen], [r.variance for r in seen], dash, c=colour, alpha=strength, marker=".", label=name
        )
    axes.set(xlabel="t of the linear path", ylabel="variance of the target / variance of the data", yscale="log")
    axes.set_title(f"Targets of x0: {len(data):,} points of {data[0].numel():,} dimensions", fontsize=10)
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "ditkit"}):  # small, and the same for the same numbers
        figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


if __name__ == "__main__":
    main()
