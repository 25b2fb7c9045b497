"""ADM's files: batches of samples (``arr_0``) and reference statistics (``mu``, ``sigma``, ``mu_s``, ``sigma_s``).

Batches are read and written in parts, whatever their size; the evaluator of guided-diffusion accepts what is written.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.base.files import atomic_file
from ditkit.evaluate.frechet import Gaussian
from ditkit.evaluate.measured import Side

IMAGES = "arr_0"
MOMENTS = {"moments": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}
ROUNDING = 1e-3
"""Of the largest: what rounding to few digits does to a covariance, at most."""


@dataclass(frozen=True)
class NpzImages:
    """The images of a batch file, read in parts. shape: (N, H, W, C) as stored."""

    path: Path
    shape: tuple[int, int, int, int]

    def __len__(self) -> int:
        return self.shape[0]

    def batches(self, size: int) -> Iterator[Tensor]:
        """Images uint8 (B, C, H, W), at most ``size`` at a time. Raises UserError when the file ends early."""
        N, H, W, C = self.shape
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{IMAGES}.npy") as file:
            _header(file, self.path)
            for start in range(0, N, size):
                count = min(size, N - start)
                try:
                    content = file.read(count * H * W * C)
                except (zipfile.BadZipFile, EOFError) as error:
                    raise _damaged(self.path, error) from error
                if len(content) < count * H * W * C:
                    raise _damaged(self.path, f"{IMAGES} ends at image {start + len(content) // (H * W * C)} of {N}")
                pixels = torch.frombuffer(bytearray(content), dtype=torch.uint8)
                yield pixels.view(count, H, W, C).permute(0, 3, 1, 2).contiguous()


def open_images(path: Path | str) -> NpzImages:
    """The images ``arr_0`` of a batch file, uint8 (N, H, W, C), C of 1 or 3.

    Raises UserError when there are none, or of another type or shape, or the file is damaged.
    """
    path = Path(path)
    with _archive(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if IMAGES not in names:
            raise UserError(
                f"{path} holds {', '.join(names) or 'nothing'}, expected images as {IMAGES}: give a batch file"
            )
        with archive.open(f"{IMAGES}.npy") as file:
            shape, kind = _header(file, path)
    if kind != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3) or not all(shape):
        raise UserError(
            f"{path} holds {IMAGES} of {kind} {shape}, expected uint8 (N, H, W, C) with C of 1 or 3 and values 0..255: "
            "scale floats to 0..255 before the cast"
        )
    return NpzImages(path, (shape[0], shape[1], shape[2], shape[3]))


@contextlib.contextmanager
def image_writer(
    path: Path | str,
    count: int,
    height: int,
    width: int,
    channels: int = 3,
    statistics: Mapping[str, np.ndarray] | None = None,
) -> Iterator[ImageWriter]:
    """Writes ``count`` images as a batch file, in parts; the file is there when all have been written.

    statistics: arrays that stand beside them (see ``statistics_of``). Raises UserError when there were more or fewer.
    """
    with atomic_file(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            # force_zip64: the size of a part is not known before it is written, and 50,000 images are over 4 GB.
            with archive.open(f"{IMAGES}.npy", "w", force_zip64=True) as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, height, width, channels)}
                np.lib.format.write_array_header_1_0(file, header)
                writer = ImageWriter(file, (channels, height, width))
                yield writer
            for name, array in (statistics or {}).items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, array, allow_pickle=False)
        if writer.count != count:
            raise UserError(f"{writer.count} images were written to {path}, expected the {count} that were announced")


class ImageWriter:
    """Takes images in parts; see ``image_writer``."""

    def __init__(self, file: IO[bytes], shape: tuple[int, int, int]) -> None:
        self.count = 0
        self._file = file
        self._shape = shape

    def write(self, images: Tensor) -> None:
        """Appends images uint8 (B, C, H, W). Raises UserError on another type or size."""
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != self._shape:
            raise UserError(
                f"images are {images.dtype} {tuple(images.shape[1:])}, expected torch.uint8 {self._shape} (C, H, W): "
                "convert them by ditkit.base.pixels.to_uint8, and resize"
            )
        self._file.write(images.permute(0, 2, 3, 1).contiguous().cpu().numpy().tobytes())
        self.count += len(images)


def read_statistics(path: Path | str) -> Side:
    """The statistics of a reference file as a side: "moments" and, where they are there, "spatial".

    Its count is that of the file's own images where it has some, else 0: the statistics do not say. Raises UserError
    when there are none, or the file is damaged, or they do not fit together, or no distribution has such ones.
    """
    path, held = Path(path), {}
    with _archive(path):
        pass
    count = 0
    with np.load(path, allow_pickle=False) as arrays:
        for quantity, (mean, covariance) in MOMENTS.items():
            if mean in arrays and covariance in arrays:
                held[quantity] = _gaussian(path, *(_numbers(path, arrays, name) for name in (mean, covariance)))
        if not held:
            found = ", ".join(arrays.files) or "nothing"
            pairs = " or ".join(f"{mean} with {covariance}" for mean, covariance in MOMENTS.values())
            raise UserError(
                f"{path} holds {found}, expected statistics as {pairs}, a mean with its covariance: save both, or give "
                "the images that they are of"
            )
        if IMAGES in arrays:
            count = len(open_images(path))
    return Side(count, count, held)


def statistics_of(side: Side) -> dict[str, Any]:
    """Mean and covariance (arrays) of a side's features and spatial features, by the names that ADM reads."""
    arrays = {}
    for quantity, (mean, covariance) in MOMENTS.items():
        if quantity in side.held:
            gaussian = side[quantity].gaussian()
            arrays |= {mean: gaussian.mean.numpy(), covariance: gaussian.covariance.numpy()}
    return arrays


def write_statistics(path: Path | str, side: Side) -> None:
    """Writes ``statistics_of`` a side. Raises UserError where there are none."""
    arrays = statistics_of(side)
    if not arrays:
        raise UserError(f"no statistics for {path}: measure images with a score that needs their moments")
    with atomic_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def _gaussian(path: Path, mean: np.ndarray, covariance: np.ndarray) -> Gaussian:
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise UserError(
            f"{path} has a mean of {mean.shape} and a covariance of {covariance.shape}, expected (D,) and (D, D)"
        )
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError(f"{path} has statistics that are not finite: make them again from the images")
    apart, largest = np.abs(covariance - covariance.T).max(initial=0), np.abs(covariance).max(initial=0)
    if apart > ROUNDING * largest:
        raise UserError(
            f"{path} has a covariance (sigma) that is not symmetric: entries that should be equal are {apart:.3g} "
            f"apart, the largest being {largest:.3g}; make it again from the images"
        )
    found = Gaussian.of_moments(torch.from_numpy(mean), torch.from_numpy(covariance))
    # The factor leaves negative eigenvalues out: what it has more than the trace is their sum.
    variance = found.factor.square().sum().item()
    negative = variance - np.trace(covariance)
    if negative > ROUNDING * max(variance, negative):
        raise UserError(
            f"{path} has a covariance (sigma) with negative variances (-{negative:.3g} in sum, beside {variance:.3g}), "
            "expected none below 0: make it again from the images"
        )
    return found


def _numbers(path: Path, arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """One of the file's arrays as float64. Raises UserError where it cannot be read or holds no real numbers."""
    try:
        array = arrays[name]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        if "pickle" not in str(error):
            raise _damaged(path, error) from error
        kind = "objects"
    else:
        if not isinstance(array, np.ndarray):  # numpy gives the bytes of what it does not know
            raise _damaged(path, f"{name} is no array")
        if array.dtype.kind in "fiu":
            return array.astype(np.float64)
        kind = array.dtype.str.lstrip("|") if array.dtype.kind in "US" else str(array.dtype)
    raise UserError(f"{path} holds {name} of {kind}, expected real numbers: save them by numpy.savez as float64")


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except FileNotFoundError:
        raise UserError(f"no file {path}: expected an .npz of images (arr_0) or statistics (mu, sigma)") from None
    except (OSError, zipfile.BadZipFile) as error:
        raise _damaged(path, error) from error


def _header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, kind = read(file)
    except ValueError as error:
        raise _damaged(path, error) from error
    if fortran:
        raise UserError(f"{path} holds {IMAGES} in Fortran's order, expected C's: save numpy.ascontiguousarray of it")
    return shape, kind


def _damaged(path: Path, reason: object) -> UserError:
    return UserError(f"{path} cannot be read as .npz ({reason}): expected a whole file as numpy.savez writes it")
