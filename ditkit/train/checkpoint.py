"""Floor 4: checkpoints, folders that describe themselves: safetensors and a manifest with checksums.

    step-0001000/
        weights.safetensors     the network
        ema.safetensors         its moving average, the one to sample from
        ema-0.99.safetensors    ... of another decay, where the run keeps several
        optimizer.safetensors   AdamW's moments, by parameter name
        meter.safetensors       what was measured since the log's last record
        manifest.json           step, what the model is, and size and SHA-256 of each file

A checkpoint is written beside and renamed: what has its final name is whole.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ditkit.base.errors import UserError
from ditkit.base.files import atomic_folder, remove_folder, sha256
from ditkit.base.tensors import save_tensors

FORMAT = "ditkit-checkpoint-1"
FOLDER = "checkpoints"
"""Where a run's checkpoints are, in its folder."""
_FOLDER = re.compile(r"step-(\d{7,})$")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been checked. ``about`` is what its writer said of the model, as JSON values."""

    folder: Path
    step: int
    about: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one of its files ("weights", "ema", "optimizer"), on the CPU."""
        path = self.folder / f"{name}.safetensors"
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"checkpoint file {path} cannot be read ({error}): {_REMEDY}") from None

    def weights(self, name: str) -> dict[str, Tensor]:
        """The tensors of the network or of one of its averages, on the CPU. UserError, naming them, if it is none."""
        return self.tensors(weights_file(self.folder, name).stem)


OTHER_FILES = {"optimizer", "meter", "task"}
"""Of a checkpoint: they hold no weights."""


def weights_file(folder: Path, name: str) -> Path:
    """The file of a checkpoint's weights. UserError, naming those that there are, where it has none of this name."""
    known = {p.stem: p for p in folder.glob("*.safetensors") if p.stem not in OTHER_FILES}
    if name not in known:
        raise UserError(f"checkpoint {folder} has no weights {name!r}: expected one of {', '.join(sorted(known))}")
    return known[name]


_REMEDY = "delete this checkpoint's folder to go on from the one before, or copy it anew"


def save(
    run: Path,
    step: int,
    tensors: dict[str, dict[str, Tensor]],
    about: dict[str, Any],
    *,
    keep: int = 2,
    within: str = FOLDER,
) -> Checkpoint:
    """Writes checkpoints/step-NNNNNNN (``within`` the run's folder), then deletes all but the ``keep`` newest there."""
    folder = _folder(run, step, within)
    with atomic_folder(folder) as temporary:
        for name, values in tensors.items():
            save_tensors(values, temporary / f"{name}.safetensors")
        files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in sorted(temporary.iterdir())}
        manifest = {"format": FORMAT, "step": step, "about": about, "files": files}
        (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for old in [path for path in steps(run, within) if path != folder][: -(keep - 1) or None]:
        remove_folder(old)
    return Checkpoint(folder, step, about)


def keep_newest(run: Path, keep: int) -> None:
    """Deletes all but the ``keep`` newest checkpoints."""
    for old in steps(run)[:-keep]:
        remove_folder(old)


def _folder(run: Path, step: int, within: str = FOLDER) -> Path:
    return run / within / f"step-{step:07d}"


def steps(run: Path, within: str = FOLDER) -> list[Path]:
    """The run's checkpoint folders, oldest first."""
    found = [p for p in (run / within).glob("step-*") if _FOLDER.match(p.name)]
    return sorted(found, key=lambda p: int(p.name.split("-")[1]))


def at(run: Path, step: int) -> bool:
    """Whether the run has a checkpoint of this step."""
    return _folder(run, step).is_dir()


def latest(run: Path) -> Path:
    """The newest checkpoint folder of a run; UserError when it has none."""
    found = steps(run)
    if not found:
        raise UserError(f"run {run} has no checkpoint yet: expected {run}/checkpoints/step-*; train it first")
    return found[-1]


def open_checkpoint(folder: Path | str) -> Checkpoint:
    """Reads the manifest and checks every file's size and checksum. UserError if truncated, altered or foreign."""
    folder = Path(folder)
    path = folder / "manifest.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a ditkit checkpoint: expected a manifest.json in it")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise UserError(f"checkpoint {folder} has format {manifest['format']!r}; this version reads {FORMAT!r}")
        files = {name: (int(file["bytes"]), str(file["sha256"])) for name, file in manifest["files"].items()}
        step, about = int(manifest["step"]), dict(manifest["about"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise unreadable(folder, repr(error)) from None
    for name, (expected, checksum) in files.items():
        file = folder / name
        size = file.stat().st_size if file.is_file() else 0
        if size != expected:
            raise UserError(f"checkpoint file {file} has {size} bytes, expected {expected}: {_REMEDY}")
        if sha256(file) != checksum:
            raise UserError(f"checkpoint file {file} was altered (its SHA-256 is not the manifest's): {_REMEDY}")
    return Checkpoint(folder, step, about)


def unreadable(folder: Path, reason: str) -> UserError:
    """The error for a checkpoint whose manifest does not say what it should."""
    return UserError(f"checkpoint {folder} has an unreadable manifest.json ({reason}): {_REMEDY}")


def load_weights(net: nn.Module, tensors: dict[str, Tensor], origin: object) -> None:
    """Puts tensors into net; UserError that names what is missing, left over or of another shape."""
    own = net.state_dict()
    missing, foreign = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape]
    if missing or foreign or shapes:
        parts = []
        if missing:
            parts.append(f"{len(missing)} tensors missing ({missing[0]}, ...)")
        if foreign:
            parts.append(f"{len(foreign)} unknown ({foreign[0]}, ...)")
        if shapes:
            k = shapes[0]
            parts.append(f"{k} has shape {tuple(tensors[k].shape)}, the model {tuple(own[k].shape)}")
        raise UserError(f"weights of {origin} do not fit the model: {'; '.join(parts)}; use the recipe they came with")
    net.load_state_dict(tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer, net: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as flat tensors named "<state>/<parameter name>"."""
    names = {id(p): name for name, p in net.named_parameters()}
    return {
        f"{key}/{names[id(p)]}": value if isinstance(value, Tensor) else torch.tensor(value)
        for p, state in optimizer.state.items()
        for key, value in state.items()
    }


def load_optimizer(optimizer: torch.optim.Optimizer, net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Puts back what optimizer_tensors gave."""
    parameters = dict(net.named_parameters())
    for flat, value in tensors.items():
        key, _, name = flat.partition("/")
        if name not in parameters or (value.dim() and value.shape != parameters[name].shape):
            raise UserError(f"the optimiser's {flat} {tuple(value.shape)} does not fit the model: {_REMEDY}")
        p = parameters[name]
        # AdamW's step counters live on the CPU unless fused, its moments beside the parameter
        optimizer.state[p][key] = value.to(p.device) if value.dim() or optimizer.defaults.get("fused") else value
