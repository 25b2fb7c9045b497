"""Floor 4: bits per dimension of images under a model of pixels, batch by batch, with what they are uncertain by."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ditkit.base.errors import NotFiniteError, UserError, at_least_one
from ditkit.condition import Condition
from ditkit.data.images import Images
from ditkit.evaluate.likelihood import (
    Divergence,
    Exact,
    Hutchinson,
    Likelihood,
    default_times,
    dequantised,
    log_likelihood,
    rademacher,
)
from ditkit.process.denoiser import Denoiser
from ditkit.process.path import Path
from ditkit.solvers.dopri5 import dopri5

FEW_DIMENSIONS = 64
"""Up to here the exact divergence, one backward pass a dimension, is what ``probes`` None takes."""
PROBES = 4
"""Hutchinson's probes otherwise."""


@dataclasses.dataclass(frozen=True)
class How:
    """How exactly to measure.

    probes: of Hutchinson's estimate, 0 for the exact divergence. tolerance: relative and absolute, of a step of the
    adaptive solver. seed: of probes and dequantisation; an image's own depend on it and on its place in the source.
    batch_size: images at a time. The step lengths follow the batch's worst image: it moves results by the tolerance.
    UserError for a batch size below 1.
    """

    probes: int
    tolerance: float = 1e-4
    seed: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        at_least_one("batch_size", self.batch_size)

    def divergence(self, x: Tensor, rows: list[int]) -> Divergence:
        """That of a batch x (B, ...) of images with these numbers."""
        return Hutchinson(rademacher(x, self.probes, self.seed, rows)) if self.probes else Exact()


def probes_for(dimensions: int) -> int:
    """Probes enough for samples of so many numbers: none, that is exact, for few."""
    return 0 if dimensions <= FEW_DIMENSIONS else PROBES


@dataclasses.dataclass(frozen=True)
class Bits:
    """Of N images: bits per dimension (N,) float64, and the standard error of each that the probes leave (N,).

    evaluations: how often the model was asked about an image, a mean over the batches.
    """

    bits: Tensor
    of_probes: Tensor
    evaluations: float

    def summary(self) -> dict[str, Any]:
        """The mean; its standard error sqrt(Var / N) over images, which has that of the probes (and of dequantisation)
        in it; and that of the probes alone. None where one image, or one probe, does not say."""
        count = len(self.bits)
        over_images = float(self.bits.std()) / math.sqrt(count) if count > 1 else math.nan
        by_probes = float(self.of_probes.square().mean().sqrt()) / math.sqrt(count)
        return {
            "value": float(self.bits.mean()),
            "samples": count,
            "standard_error": _known(over_images),
            "standard_error_by_probes": _known(by_probes),
        }


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def bits_per_dim(
    denoiser: Denoiser,
    images: Images,
    condition: Condition,
    how: How,
    *,
    device: torch.device | str = "cpu",
    progress: str | None = None,
) -> Bits:
    """Bits per dimension of uniformly dequantised images, -log2 p of their 8-bit levels.

    An upper bound, in the mean, of the discrete model's (Theis et al. 2016). denoiser: a model of pixels in [-1, 1].
    condition: of the images, in order. progress: the progress bar's label, None for none. UserError: no images; a
    likelihood that is not finite, with the image's place in the source.
    """
    if len(images) == 0:
        raise UserError("0 images: expected at least one to measure")
    # bfloat16 would be noise that the adaptive solver follows in ever smaller steps
    denoiser = dataclasses.replace(denoiser, autocast=None)
    batches = torch.arange(len(images)).split(how.batch_size)
    found: list[Likelihood] = []
    with _bar(len(batches), progress) as bar:
        for k, rows in enumerate(batches):
            numbers = images.indices[rows].tolist()
            x = dequantised(images.get(rows), how.seed, numbers).to(device)
            each = _Shown(bar, denoiser.path, k)
            found.append(_measure(denoiser.given(condition[rows].to(device)), x, numbers, how, each))
            bar.update(k + 1 - bar.n)
    each = [likelihood.bits_per_dim() for likelihood in found]
    bits, of_probes = (torch.cat([pair[i].cpu() for pair in each]) for i in (0, 1))
    return Bits(bits, of_probes, sum(f.evaluations for f in found) / len(found))


def _bar(batches: int, label: str | None) -> tqdm:
    """A bar that may move at every evaluation, by whatever part of a batch: in percent, as that is no whole number."""
    shown = "{l_bar}{bar}| {elapsed}<{remaining}{postfix}"
    return tqdm(total=batches, desc=label, bar_format=shown, miniters=0, disable=label is None)


class _Shown:
    """Moves a bar at each evaluation of a batch, whose number it is, to how far on its way through log-SNR it is.

    An adaptive solver does not know how many evaluations it will take, but it knows where it is.
    """

    def __init__(self, bar: tqdm, path: Path, number: int) -> None:
        self.bar, self.path, self.number, self.evaluations = bar, path, number, 0
        self.start, self.end = path.log_snr(default_times(path)[[0, -1]]).tolist()

    def __call__(self, t: Tensor) -> None:
        self.evaluations += 1
        done = (self.start - float(self.path.log_snr(t))) / (self.start - self.end)
        self.bar.set_postfix_str(f"{self.evaluations:,} evaluations of batch {self.number + 1}", refresh=False)
        self.bar.update(max(0.0, self.number + done - self.bar.n))  # a step that is tried anew begins further back


def _measure(
    denoiser: Denoiser, x: Tensor, numbers: list[int], how: How, each: Callable[[Tensor], object]
) -> Likelihood:
    solver = functools.partial(dopri5, rtol=how.tolerance, atol=how.tolerance)
    divergence = how.divergence(x, numbers)
    try:
        return log_likelihood(denoiser, x, divergence=divergence, solver=solver, each=each)
    except NotFiniteError as error:
        raise UserError(f"image {numbers[error.row]} of the data {error.said}") from None
