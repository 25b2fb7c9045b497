"""The embedded data set: 1,797 scans of handwritten digits, 8x8, that come with scikit-learn."""

from __future__ import annotations

import hashlib
from typing import ClassVar

import numpy as np
from PIL import Image

from ditkit.base.errors import UserError
from ditkit.data.listed import Plain


class Digits(Plain):
    """The test part of the UCI "Optical Recognition of Handwritten Digits" set (Alpaydin & Kaynak 1998).

    Grey, 8x8; the scans' values 0..16 are scaled to 0..255. Raises UserError when scikit-learn is not installed.
    """

    words: ClassVar[tuple[str, ...]] = ("digits",)
    expects: ClassVar[str] = "the word digits (embedded, 8x8 handwriting)"

    def __init__(self, spec: str = "digits") -> None:
        self.spec = spec
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise UserError(f"data {spec!r} needs scikit-learn: install it with pip install 'ditkit[data]'") from error
        scans, labels = load_digits(return_X_y=True)
        self._pixels = np.floor(np.reshape(scans, (-1, 8, 8)) * (255 / 16) + 0.5).astype(np.uint8)  # NHW
        self.labels: np.ndarray | None = np.asarray(labels, dtype=np.int64)
        self.classes = tuple("0123456789")

    @classmethod
    def recognise(cls, spec: str) -> bool:
        """Whether ``spec`` is the word "digits"."""
        return spec in cls.words

    def __len__(self) -> int:
        return len(self._pixels)

    def name(self, i: int) -> str:
        """The number of the scan."""
        return f"digits[{i}]"

    def open(self, i: int) -> Image.Image:
        """Scan i as a grey picture."""
        return Image.fromarray(self._pixels[i])

    def fingerprint(self) -> str:
        """Digest of the pixels."""
        return hashlib.sha256(self._pixels.tobytes()).hexdigest()
