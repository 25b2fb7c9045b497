"""Floor 5: drawn images as files: one PNG each, a grid of all, and an .npz as evaluators read it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ditkit.app.pictures import enlarged, grid
from ditkit.base.files import atomic_folder

SHEET = "grid.png"
"""Of all images of a folder, beside them."""


def save_samples(out: Path, images: Tensor, seeds: Sequence[int], labels: Tensor | None, *, npz: bool = False) -> None:
    """Writes the folder ``out``: images (N, C, H, W) uint8 as PNG files named by seed and label, and grid.png,
    which shows all, small ones enlarged (see ``enlarged``).

    npz: also samples.npz with arr_0 (N, H, W, C) uint8 and labels arr_1, as ADM's evaluator reads it.
    """
    names = [f"seed{seed:06d}" for seed in seeds]
    classes = 0
    if labels is not None:
        names = [f"{name}-class{label}" for name, label in zip(names, labels.tolist(), strict=True)]
        classes = len(labels.unique())
    with atomic_folder(out.absolute()) as folder:
        for name, image in zip(names, images, strict=True):
            grid(image[None], 1, background=0).save(folder / f"{name}.png")
        every = grid(images, _columns(len(images), classes), background=255)
        enlarged(every, max(images.shape[2:])).save(folder / SHEET)
        if npz:
            _write_npz(folder / "samples.npz", images, labels)


def _columns(num: int, classes: int) -> int:
    """Columns of the grid: one per class where there are 2 to 16, else a square."""
    return classes if 2 <= classes <= 16 else max(1, round(num**0.5))


def _write_npz(path: Path, images: Tensor, labels: Tensor | None) -> None:
    arrays = [images.permute(0, 2, 3, 1).numpy()]  # N H W C
    if images.shape[1] == 1:
        arrays[0] = arrays[0].repeat(3, axis=3)  # the evaluator knows RGB only
    if labels is not None:
        arrays.append(labels.numpy())
    np.savez(path, *arrays)
