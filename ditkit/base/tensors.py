"""Tensors in a safetensors file, written so that whoever may read the folder may read the file."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ditkit.base.files import system_errors


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes tensors of any device and layout. Raises OSError, also where safetensors hides it in its own error."""
    path.touch()
    allowed = stat.S_IMODE(path.stat().st_mode)  # safetensors puts a file for its owner alone in its place
    with system_errors(path):
        save_file({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, path, metadata)
    path.chmod(allowed)
