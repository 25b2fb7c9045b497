"""Measure bits per dimension of images under a run's model: ditkit likelihood RUN --data DATA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import Field
from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.app.names import SOURCES
from ditkit.train.settings import STRICT, Positive


@dataclass(frozen=True, config=STRICT)
class Options:
    """Bits per dimension of uniformly dequantised images, by the probability-flow ODE; writes likelihood.json in the
    run's folder.

    It is the density of the samples, which start from N(0, sigma(1)^2). Where the path keeps some of the image at
    t = 1, the noised data are not quite distributed so, and even an exact model's value is off from the density of the
    data: on Gaussian mixtures by at most 0.015 bits per dimension (ddpm_linear, vp, sub_vp, edm), 0.03 (ve) or 0.15
    (scaled_linear). linear, gvp and cosine keep nothing of the image.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder; of a model of pixels, not latents."""
    data: Annotated[
        str | None,
        tyro.conf.arg(help=f"Real images: {SOURCES}; None: what the run was trained on, the held-out ones if any."),
    ] = None
    num: Positive = 128
    """Images to measure, evenly spaced in the data."""
    probes: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Probes of Hutchinson's estimate of the divergence; 0: exact, a backward pass for each of an image's numbers;
    None: exact for images of up to 64 numbers, else 4."""
    tolerance: Annotated[float, Field(ge=1e-12, lt=1)] = 1e-4
    """Relative and absolute tolerance of a step of the adaptive ODE solver; at least 5e-7, as fine as the network."""
    seed: int = 0
    """Seed of the probes and of the dequantisation."""
    batch_size: Positive = 32
    """Images measured at a time; moves results by no more than the tolerance."""
    device: str | None = None
    """auto, cpu, cuda, ...; None: the recipe's."""


def main(args: Sequence[str]) -> int:
    """The command."""
    options = parse(Options, "likelihood", args)
    import math

    import torch

    from ditkit.app import likelihood
    from ditkit.app.model import load_model
    from ditkit.app.run import open_run
    from ditkit.base.files import check_file
    from ditkit.evaluate.bits import How, probes_for
    from ditkit.solvers.dopri5 import check_tolerances

    run = open_run(options.run)
    likelihood.check_pixels(run)
    check_file(run.folder / likelihood.WRITTEN)
    check_tolerances(options.tolerance, options.tolerance, torch.float32)  # of the network
    model = load_model(run, device=options.device)
    chosen = likelihood.choose(model, options.data, options.num)
    probes = probes_for(math.prod(model.shape)) if options.probes is None else options.probes
    how = How(probes, options.tolerance, options.seed, options.batch_size)
    measured = likelihood.measure(model, chosen, how)
    path = likelihood.write(run, measured)
    print(lines(measured))
    print(f"\nwritten to {path}")
    return 0


def lines(measured: dict[str, Any]) -> str:
    """What was measured as lines of text."""
    bits, protocol = measured["bits_per_dim"], measured["protocol"]
    error, by_probes = (
        "unknown" if bits[name] is None else f"{bits[name]:.4f}"
        for name in ("standard_error", "standard_error_by_probes")
    )
    data = protocol["data"]
    return (
        f"bits per dimension  {bits['value']:.4f}   standard error {error}, of that {by_probes} by the divergence\n"
        f"images              {bits['samples']:,} of {data['source']} ({data['which']}; labels: {data['labels']})\n"
        f"divergence          {protocol['divergence']}\n"
        f"evaluations         {measured['evaluations']['value']:.0f} of the model for each image"
    )
