"""Where the weights of a pretrained feature network are looked for, and what is said when they are nowhere."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.base.files import expanded
from ditkit.evaluate.images import fingerprint

WITHOUT = (
    "frechet_distance, kernel_distance, precision, recall, density, coverage and class_accuracy run without it in the "
    "feature space 'self'"
)
"""Which scores need no pretrained network, for the message of one's absence."""


@dataclass(frozen=True)
class Published:
    """Published weights. network: its name. file: the published name. url: its source. variable: of the environment.

    gives: scores that need this network, for the message of their absence.
    """

    network: str
    file: str
    url: str
    variable: str
    gives: str

    def find(self, path: Path | str | None = None) -> Path:
        """The weights: ``path``, else what the variable names, else the file in torch's hub cache.

        A folder stands for the published file in it. Raises UserError where there is none.
        """
        given = path or os.environ.get(self.variable)
        if not given:
            cached = hub_checkpoints() / self.file
            if cached.is_file():
                return cached
            raise UserError(
                f"no weights for the feature network {self.network!r}: expected the file {self.file} in "
                f"{hub_checkpoints()}, or its path in {self.variable}; get it from {self.url} ({self.gives} need it; "
                f"{WITHOUT})"
            )
        found = expanded(given)
        found = found / self.file if found.is_dir() else found
        if not found.is_file():
            raise UserError(
                f"weights of the feature network {self.network!r} are not at {found} "
                f"({'given path' if path else self.variable}): expected the file {self.file} from {self.url}"
            )
        return found


def hub_checkpoints() -> Path:
    """The folder in which torch.hub keeps downloaded weights: below TORCH_HOME, XDG_CACHE_HOME or ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = os.environ.get("TORCH_HOME") or os.path.join(cache, "torch")
    return expanded(home) / "hub" / "checkpoints"


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, of weights by name: types, shapes and values."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} {fingerprint(value)};".encode())
    return digest.hexdigest()
