"""Floor 3: data indices, which find the images of a data set that are nearest to others."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.condition import NULL_LABEL

CHUNK = 1 << 24
"""Numbers held at a time by a search: 64 MiB of float32."""


class Index(Protocol):
    """A data set that can be searched."""

    @property
    def data(self) -> Tensor:
        """The images, (M, ...)."""
        ...

    def nearest(self, queries: Tensor, k: int) -> Tensor:
        """The k images nearest to each query (B, ...) in Euclidean distance, nearest first: (B, k) int64."""
        ...


def check_k(k: int, size: int) -> None:
    """UserError unless 1 <= k <= size."""
    if not 1 <= k <= size:
        raise UserError(f"k {k}: expected 1 to {size}, the number of images (of the smallest class)")


class BruteForce:
    """Every distance, by matrix products; up to some 100,000 images. Runs where the data are."""

    def __init__(self, data: Tensor) -> None:
        """data: (M, ...) float."""
        if len(data) == 0:
            raise UserError("an index of 0 images: expected at least one")
        self.data = data
        self._flat = data.flatten(1)
        self._half_norm = (self._flat**2).sum(1) / 2

    def nearest(self, queries: Tensor, k: int) -> Tensor:
        check_k(k, len(self.data))
        rows = max(1, CHUNK // len(self.data))
        # |q - x|^2 / 2 = |q|^2 / 2 - (q . x - |x|^2 / 2): the query's own norm does not change the order
        found = [
            (part @ self._flat.T - self._half_norm).topk(k).indices
            for part in queries.flatten(1).to(self._flat).split(rows)
        ]
        return torch.cat(found)


class Faiss:
    """An index of the faiss library, for larger sets (the extra ``knn``).

    factory: faiss's description of the index: "Flat" is exact; "HNSW32" and "IVF1024,Flat" are fast and approximate.
    Raises UserError where faiss is not installed or the description is none.
    """

    def __init__(self, data: Tensor, *, factory: str = "Flat") -> None:
        """data: (M, ...) float32, on the CPU."""
        faiss = _faiss()
        self.data = data
        flat = data.flatten(1).float().contiguous().numpy()
        try:
            self._index = faiss.index_factory(flat.shape[1], factory)
        except RuntimeError:
            raise UserError(
                f"faiss index {factory!r}: expected a description such as Flat, HNSW32, IVF1024,Flat"
            ) from None
        self._index.train(flat)
        self._index.add(flat)

    def nearest(self, queries: Tensor, k: int) -> Tensor:
        check_k(k, len(self.data))
        _, found = self._index.search(queries.flatten(1).float().cpu().contiguous().numpy(), k)
        if (found < 0).any():
            raise UserError(f"k {k}: the approximate index found fewer; use a smaller k or the factory Flat")
        return torch.from_numpy(found).to(queries.device)


def _faiss() -> Any:
    try:
        import faiss  # type: ignore[import-not-found]
    except ImportError:
        raise UserError("an index by faiss: the library is not installed; pip install 'ditkit[knn]'") from None
    return faiss


EXACT = 2**28
"""Numbers of a data set (images times the numbers of each) up to which it is searched by brute force."""


def index_of(data: Tensor) -> Index:
    """An exact index of data (M, ...): brute force where they are, or for larger sets faiss on the CPU (extra knn)."""
    return BruteForce(data) if data.numel() <= EXACT else Faiss(data.cpu())


@dataclasses.dataclass(frozen=True)
class References:
    """A data set that can be searched, as a whole and within each of its classes.

    whole: every image. classes: an index of the images of each class; empty for a set without classes.
    """

    whole: Index
    classes: tuple[Index, ...] = ()

    @staticmethod
    def among(data: Tensor, labels: Tensor | None = None, count: int = 0) -> References:
        """Of data (M, ...) float, with labels (M,) int64, 0..count-1, or None. UserError for a class without images."""
        if labels is None:
            return References(index_of(data))
        order = labels.argsort(stable=True)
        data = data[order.to(data.device)]  # so that a class is a slice, no copy
        parts = data.split(labels.bincount(minlength=count).tolist())
        return References(index_of(data), tuple(map(index_of, parts)))

    def check(self, k: int) -> None:
        """UserError unless the whole and every class have k images."""
        check_k(k, min(len(index.data) for index in (self.whole, *self.classes)))

    def of(self, label: int) -> Index:
        """The index of a class; of the whole for NULL_LABEL. UserError for a class that is not there."""
        if label >= len(self.classes):
            raise UserError(f"class {label}: the references have {len(self.classes)} classes; train without classes")
        return self.whole if label == NULL_LABEL else self.classes[label]
