"""Floor 5: drawing from a data set without a network, by its nearest neighbours: ditkit sample-data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ditkit.app import build
from ditkit.app.classes import parse_classes, turns
from ditkit.app.recipe import Sampling
from ditkit.base.pixels import to_uint8
from ditkit.condition import Condition
from ditkit.data.images import Images
from ditkit.data.source import Source
from ditkit.objectives.neighbours import check_k
from ditkit.objectives.targets import KNNDenoiser
from ditkit.process.path import Path
from ditkit.sample import sample

NEIGHBOURS = 256
"""k where it is not given and the data have so many."""


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """A data set as a model, ready to sample. shape: (C, H, W) of an image. classes: names; empty without classes."""

    denoiser: KNNDenoiser
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    device: torch.device

    def labels(self, num: int, classes: str | None) -> Tensor | None:
        """Labels (num,) of the classes named in "3,7" or "cat,dog" (None: all) in turn; None without classes."""
        if classes is not None:
            return turns(num, parse_classes(classes, self.classes))
        return turns(num, range(len(self.classes))) if self.classes else None

    def draw(self, seeds: Sequence[int], labels: Tensor | None, sampling: Sampling) -> Tensor:
        """Images, uint8 (len(seeds), C, H, W), one for each seed and label."""
        x = sample(
            self.denoiser,
            Condition(label=labels),
            seeds,
            self.shape,
            build.grid(sampling, self.denoiser.path),
            batch_size=sampling.batch_size,
            progress="sampling",
            solver=build.solver(sampling),
            device=self.device,
        )
        return to_uint8(x)


def check_request(source: Source, k: int | None, classes: str | None, conditional: bool) -> None:
    """Raises UserError for classes that a source has not, and more neighbours than its smallest class has images:
    before the images are read.
    """
    labels = source.labels if conditional else None
    if classes is not None:
        parse_classes(classes, source.classes if conditional else ())
    if k is not None:
        check_k(k, len(source) if labels is None else int(np.bincount(labels, minlength=len(source.classes)).min()))


def neighbours(images: Images, path: Path, k: int | None, n: int, where: torch.device) -> Neighbours:
    """The images as a model of a path, on a device; k, n: see KNNDenoiser (k None: NEIGHBOURS, or what a class has)."""
    references = build.references(images, None, flip=False, where=where, seed=0)  # pictures: nothing is drawn
    smallest = min(len(index.data) for index in (references.whole, *references.classes))
    denoiser = KNNDenoiser(path, references, min(NEIGHBOURS, smallest) if k is None else k, n)
    return Neighbours(denoiser, images.shape, images.classes, where)
