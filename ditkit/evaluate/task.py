"""What a classifier learns on the real data: the given classes or, without them, a pretext that the images supply."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Draw = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Task:
    """A classification task as data.

    name: stated in the protocol. outputs: how many answers there are. num_classes: the same where the answers are the
    data's own classes, else None. draw: (images (B, C, H, W), labels (B,), generator) to the images shown and their
    answers (B,) int64.
    """

    name: str
    outputs: int
    num_classes: int | None
    draw: Draw


def classes(num_classes: int) -> Task:
    """The data's own classes: images as they are, the labels are the answers."""
    return Task("classes", num_classes, num_classes, lambda images, labels, generator: (images, labels))


def pretext(height: int, width: int) -> Task:
    """Which of four turns was applied (Gidaris et al. 2018, arXiv:1803.07728): 0, 90, 180, 270 degrees.

    An image that is not square keeps its shape: as it is, turned by 180 degrees, mirrored left-right or top-bottom.
    """
    if height == width:
        return Task("rotation", 4, None, _which([_turn(quarter) for quarter in range(4)]))
    return Task("reflection", 4, None, _which([_flip(dims) for dims in ((), (2, 3), (3,), (2,))]))


def _turn(quarter: int) -> Callable[[Tensor], Tensor]:
    return lambda images: torch.rot90(images, quarter, dims=(2, 3))


def _flip(dims: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    return lambda images: images.flip(dims)


def _which(changes: list[Callable[[Tensor], Tensor]]) -> Draw:
    """The task of telling which of ``changes`` was applied to an image, one drawn for each image."""

    def draw(images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        answers = torch.randint(len(changes), (len(images),), generator=generator)
        shown = images.clone()
        for answer, change in enumerate(changes):
            shown[answers == answer] = change(images[answers == answer])
        return shown, answers

    return draw
