"""Remakes the cases of this folder: ``python -m tests.data.make``.

They hold what the adapters give today on small random inputs, so that a clone without the recorded cases of the public
reference codes notices a change. Remake them only when a change of results is meant.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ditkit.backbones.dit import DiT
from ditkit.base.files import atomic_file, write_json
from ditkit.base.rng import generator
from ditkit.convert.dit import FacebookDiT
from tests.conformance.adapters.dit import dit_arguments
from tests.conformance.harness import OWN, Case, adapter_of

SEED = 0
RTOL = 1e-5
MODEL = {
    "input_size": 6,
    "patch_size": 2,
    "in_channels": 3,
    "hidden_size": 8,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "class_dropout_prob": 0.1,
    "num_classes": 3,
    "learn_sigma": True,
}
WIDE = {"input_size": [4, 6], "patch_size": 2, "in_channels": 2, "width": 16, "depth": 2, "heads": 2, "num_classes": 3}


def normal(name: str, *shape: int, scale: float = 1.0) -> Tensor:
    """Normal numbers keyed by a name."""
    return scale * torch.randn(shape, generator=generator(SEED, f"tests/data {name}"))


def reference_weights() -> dict[str, Tensor]:
    """Random weights of MODEL under the key names of the reference code."""
    fresh = FacebookDiT.from_ditkit(DiT(**dit_arguments(MODEL)).state_dict())
    table = {"pos_embed": fresh.pop("pos_embed")}
    return table | {name: normal(name, *value.shape, scale=0.1) for name, value in fresh.items()}


def questions() -> dict[str, tuple[dict[str, Any], dict[str, Tensor]]]:
    """The cases without their answers: config, and the tensors ``in.*`` and ``weights.*``."""
    pixels, t = normal("x", 3, 3, 6, 6), torch.tensor([0, 17, 999])
    images = {"in.x": pixels, "in.t": t, "in.y": torch.tensor([0, 3, 2])}
    weights = {f"weights.{name}": value for name, value in reference_weights().items()}
    wide = {"in.x": normal("wide", 2, 2, 4, 6), "in.t": torch.tensor([3.5, 700.0]), "in.label": torch.tensor([2, -1])}
    variants = ("in_context", "cross_attention", "adaln", "adaln_zero")
    return {
        "dit_forward_p2": ({"model": MODEL}, images | weights),
        "dit_backward": (
            {"model": MODEL, "weights_from": "dit_forward_p2"},
            images | {"in.target": normal("target", 3, 6, 6, 6)},
        ),
        "dit_pos_embed": ({"grids": [[8, 3]]}, {"in.dummy": torch.zeros(1)}),
        "dit_timestep_embedding": (
            {"dims": [8, 5], "max_period": 10000, "max_period2": 1000},
            {"in.t": torch.tensor([0.25, 999.0]), "in.t_int": t},
        ),
        **{f"own_dit_{variant}": ({"model": WIDE | {"conditioning": variant}}, wide) for variant in variants},
    }


def spec(value: Tensor) -> dict[str, Any]:
    """The entry of an output in the index: room for another machine's rounding, and no more."""
    largest = value.abs().max().item()
    entry = {"dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
    if not value.is_floating_point():
        return entry | {"exact": True}
    near = {"rtol": RTOL, "atol": float(f"{RTOL * max(largest, 1e-3):.0e}"), "max_abs": largest}
    return entry | near | ({"float64_atol": 1e-11} if value.dtype == torch.float64 else {})


def kept(name: str) -> bool:
    """Leaves out the full gradients, which are many; their norms are there."""
    return not name.startswith("grad.")


def main() -> None:
    """Writes the index and one file per case."""
    entries: list[dict[str, Any]] = []
    asked = questions()
    # Adapters read the weights of another case through the index, so questions are written before answers are asked.
    for name, (config, tensors) in asked.items():
        write(name, tensors)
        entries.append({"case": name, "file": f"{name}.safetensors", "config": config, "outputs": {}})
    write_json(OWN / "index.json", {"format": "golden conformance data, version 1", "cases": entries})
    for entry in entries:
        adapter = adapter_of(entry["case"])
        assert adapter is not None
        found = adapter(Case(entry["case"], OWN, entry))
        answers = {f"out.{name}": value.detach() for name, value in found.items() if kept(name)}
        entry["outputs"] = {name: spec(value) for name, value in answers.items()}
        write(entry["case"], asked[entry["case"]][1] | answers)
    write_json(OWN / "index.json", {"format": "golden conformance data, version 1", "cases": entries})


def write(name: str, tensors: dict[str, Tensor]) -> None:
    """Writes the tensors of one case."""
    with atomic_file(OWN / f"{name}.safetensors") as path:
        save_file({key: value.contiguous() for key, value in tensors.items()}, path)


if __name__ == "__main__":
    main()
