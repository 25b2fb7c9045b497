"""Draw from images with no training, by their nearest neighbours: ditkit sample-data DATA --out DIR."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import Field
from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.app.names import SOURCES
from ditkit.app.recipe import Noising, Sampling
from ditkit.train.settings import STRICT, Positive


@dataclass(frozen=True, config=STRICT)
class Options:
    """Draw from a data set with no network, which the mean of the images nearest to x_t replaces (Niedoba et al. 2024).

    With all images as neighbours it is the ideal denoiser, which draws the images of the data themselves.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=f"The images: {SOURCES}.")]
    out: Path
    """Folder for the images."""
    num: Positive = 64
    """How many images."""
    classes: str | None = None
    """Classes to draw in turn, by number or name: 3,7 or cat,dog; None: all."""
    conditional: bool = True
    """Draw each image from the images of one class, where the data have classes; else all from all of them."""
    k: Positive | None = None
    """Nearest neighbours that count; None: 256, or as many as the smallest class has."""
    n: Annotated[int, Field(ge=0)] = 0
    """Uniform draws from the other images, which stand for all of these."""
    size: int | tuple[int, int] | None = None
    """Height and width in pixels that images are brought to; None: what most of them have."""
    path: str = "cosine"
    """Name of a path: ddpm_linear, cosine, scaled_linear, vp, sub_vp, ve, edm, linear, gvp."""
    path_options: dict[str, float] | None = None
    """Options of the path, such as steps 1000."""
    solver: str = "ddim"
    """Name of a solver: ddpm, ddim, euler, heun, dpmpp_2m, ..."""
    solver_options: dict[str, str | float] | None = None
    """Options of the solver, such as eta 0.5."""
    grid: str = "uniform"
    """Name of a grid of times: uniform, quadratic, log_snr, karras, polyexponential, shifted, ..."""
    grid_options: dict[str, str | float] | None = None
    """Options of the grid, such as rho 7 or shift 3."""
    steps: str = "50"
    """Number of steps, or a respacing of the chain: 250, ddim50, 10,15,20."""
    seed: int = 0
    """Seed of the first image; the next ones count up."""
    batch_size: Positive = 64
    """Images drawn at a time."""
    npz: bool = False
    """Also write samples.npz with arr_0 (N, H, W, C) uint8, and labels arr_1, as ADM's evaluator reads it."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, mps."""

    def noising(self) -> Noising:
        """The path, as a recipe says it."""
        return Noising(path=self.path, path_options=self.path_options or {})

    def sampling(self) -> Sampling:
        """The solver and the grid, as a recipe says them."""
        return Sampling(
            solver=self.solver,
            solver_options=self.solver_options or {},
            grid=self.grid,
            grid_options=self.grid_options or {},
            steps=self.steps,
            batch_size=self.batch_size,
            guidance=1.0,
        )


def main(args: Sequence[str]) -> int:
    """The command."""
    options = parse(Options, "sample-data", args)
    from ditkit.app import build, checks
    from ditkit.app.drawn import save_samples
    from ditkit.app.neighbours import check_request, neighbours
    from ditkit.base.files import check_new_folder, claimed
    from ditkit.data.loading import load_images
    from ditkit.data.source import open_source

    check_new_folder(options.out)
    checks.check_solver(build.path(options.noising()), options.sampling())
    seeds = range(options.seed, options.seed + options.num)
    source = open_source(options.data)
    check_request(source, options.k, options.classes, options.conditional)
    images = load_images(source, size=options.size)
    if not options.conditional:
        images.labels, images.classes = None, ()
    model = neighbours(images, build.path(options.noising()), options.k, options.n, build.device(options.device))
    labels = model.labels(options.num, options.classes)
    with claimed(options.out):
        save_samples(options.out, model.draw(seeds, labels, options.sampling()), seeds, labels, npz=options.npz)
    print(f"{options.num} images in {options.out} (grid.png shows them all)")
    return 0
