"""Reading foreign weight files. Nothing is unpickled but tensors."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, serialization

from ditkit.base.errors import UserError

NESTED = ("ema", "state_dict", "model")
"""Keys under which training scripts keep the weights, the ones to sample from first."""


def read_state(path: Path | str) -> dict[str, Tensor]:
    """The state dict of a .safetensors file, or of a torch file (.pt, .pth, .ckpt, .bin).

    Objects of other programs in it, such as what a trainer kept beside the weights, are passed over; none of their code
    runs. UserError when it cannot be read (truncated, or something else) or holds no tensors.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            loaded = load_file(path)
        else:
            loaded = _load_torch(path)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path} cannot be read as weights ({reason}): expected a whole .safetensors or .pt file of tensors"
        ) from None
    state = _tensors(loaded)
    if not state:
        raise UserError(f"{path} holds no tensors: expected a state dict, alone or under {', '.join(NESTED)}")
    return state


def _load_torch(path: Path) -> Any:
    if not zipfile.is_zipfile(path):  # from before torch 1.6: cannot be mapped, nor looked through beforehand
        return torch.load(path, "cpu", weights_only=True)
    unknown = serialization.get_unsafe_globals_in_checkpoint(path)
    with serialization.safe_globals([(_Inert, name) for name in unknown]):
        return torch.load(path, "cpu", weights_only=True, mmap=True)


class _Inert:
    """Stands for an object of another program: takes what would have made it, and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _tensors(loaded: Any) -> dict[str, Tensor]:
    if not isinstance(loaded, Mapping):
        return {}
    for key in NESTED:
        if isinstance(loaded.get(key), Mapping):
            return _tensors(loaded[key])
    return {key: value for key, value in loaded.items() if isinstance(value, Tensor)}
