"""Frozen autoencoders from the files in which they are published."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ditkit.base.errors import UserError
from ditkit.base.files import atomic_folder, write_json
from ditkit.base.registry import members
from ditkit.base.tensors import save_tensors
from ditkit.convert.autoencoder_diffusers import DiffusersAutoencoder
from ditkit.convert.autoencoder_layout import AutoencoderLayout, arguments
from ditkit.convert.autoencoder_places import CONFIG, WEIGHTS, files_of
from ditkit.convert.autoencoder_scales import PUBLISHED
from ditkit.convert.files import read_state
from ditkit.convert.layout import State
from ditkit.encoders.autoencoder import Autoencoder, AutoencoderKL, Identity, LatentAutoencoder
from ditkit.encoders.autoencoder_blocks import Stage

SCALE_OF_SD = PUBLISHED["sd"][0]
"""What diffusers assumes where a config.json does not say."""

_WHOLE = ("a whole number of 1 or more", lambda value: isinstance(value, int) and value > 0)
NUMBERS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "scaling_factor": ("a number above 0", lambda value: value > 0),
    "shift_factor": ("a number", lambda value: True),
    "norm_num_groups": _WHOLE,
    "patch_size": _WHOLE,
    "num_vq_embeddings": _WHOLE,
}
"""What a config.json may say in numbers: what is expected, in words and as a test."""

_log = logging.getLogger(__name__)

EXPECTED: dict[str, Any] = {
    "act_fn": "silu",
    "mid_block_add_attention": True,
    "latents_mean": None,
    "latents_std": None,
}
"""What a config.json may say, or leave out, for a ``LatentAutoencoder`` to be its network."""


def load_autoencoder(
    spec: str | Path | None,
    *,
    scale: float | None = None,
    shift: float | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Autoencoder:
    """The autoencoder of a file, a folder or a name of the hub, frozen; pixel space for None.

    spec: a folder with config.json and diffusion_pytorch_model.safetensors; the run that trained one, a latent store,
    or a pipeline of diffusers; a file of weights in any known layout, alone or among those of a whole checkpoint,
    whose config.json may lie beside it; or OWNER/NAME of the hub, or OWNER/NAME/FOLDER.
    scale, shift: win over those of config.json. dtype: of the weights, in which it computes (see
    ``LatentAutoencoder.dtype``); bfloat16 takes half the memory.
    Raises UserError for files that are missing, cut short or of something else, and when nothing says the scale.
    """
    if spec is None:
        return Identity()
    weights, config = files_of(spec)
    said = _read_config(config) if config else {}
    net = build_autoencoder(
        read_state(weights),
        weights,
        kind=_kind(said, config),
        config=said,
        groups=said.get("norm_num_groups") or 32,
        scale=said.get("scaling_factor") if scale is None else scale,
        shift=said.get("shift_factor") if shift is None else shift,
    )
    return net.to(device, dtype)


def _kind(said: Mapping[str, Any], config: Path | None) -> type[LatentAutoencoder]:
    kinds = {kind.__name__: kind for kind in members("ditkit.encoders", is_autoencoder).values()}
    name = said.get("_class_name", AutoencoderKL.__name__)
    if not isinstance(name, str) or name not in kinds:
        raise UserError(f"autoencoder config {config} says _class_name {name!r}: expected {' or '.join(sorted(kinds))}")
    return kinds[name]


def is_autoencoder(value: Any) -> bool:
    """Whether a value is an autoencoder that can be trained and loaded."""
    return isinstance(value, type) and issubclass(value, LatentAutoencoder) and value is not LatentAutoencoder


def save_autoencoder(net: LatentAutoencoder, folder: Path) -> None:
    """Writes an autoencoder as it is published, config.json and weights in diffusers' layout: ``load_autoencoder``
    reads it back with the same identity. The folder is made, or replaced as a whole.
    """
    theirs = DiffusersAutoencoder.from_ditkit(net.state_dict())
    with atomic_folder(folder) as temporary:
        save_tensors(theirs, temporary / WEIGHTS)
        write_json(temporary / CONFIG, config_of(net))


def config_of(net: LatentAutoencoder) -> dict[str, Any]:
    """The config.json of an autoencoder, as diffusers reads it."""
    stages = [stage for stage in net.encoder.stages if isinstance(stage, Stage)]
    quant_conv = isinstance(net.quant_conv, nn.Conv2d)
    return {
        "_class_name": type(net).__name__,
        "act_fn": "silu",
        "in_channels": net.channels,
        "out_channels": net.channels,
        "latent_channels": net.latent_channels,
        "block_out_channels": [stage.width for stage in stages],
        "layers_per_block": len(stages[0].blocks),
        "down_block_types": ["DownEncoderBlock2D"] * len(stages),
        "up_block_types": ["UpDecoderBlock2D"] * len(stages),
        "norm_num_groups": net.encoder.norm_out.num_groups,
        "use_quant_conv": quant_conv,
        "use_post_quant_conv": quant_conv,
        "scaling_factor": net.scale,
        "shift_factor": net.shift or None,
        **net.own_config(),
    }


def build_autoencoder(
    state: State,
    origin: object,
    *,
    kind: type[LatentAutoencoder] = AutoencoderKL,
    config: Mapping[str, Any] | None = None,
    groups: int = 32,
    scale: float | None = None,
    shift: float | None = None,
) -> LatentAutoencoder:
    """The frozen network of a state dict of any known layout, or of a checkpoint that it is a part of; float32.

    origin: what errors call it. kind: of the network; config: what its config.json says. scale, shift: None are those
    of the checkpoint that it is a part of, else 0.18215 and 0 for 4 latent channels. Raises UserError for an unknown
    layout, for weights that do not fit together or with the config, and where nothing says the scale.
    """
    try:
        layout, own = recognise(state)
        ours = layout.to_ditkit(own)
        known = kind.arguments(arguments(ours), config or {})
        usual = (scale, 0.0) if scale else layout.statistics(state) or _usual(known, origin)
        with torch.device("meta"):
            net = kind(**known, groups=groups, scale=usual[0], shift=usual[1] if shift is None else shift)
        _check_fit(net, ours)
        _check_said(net, config or {})
    except UserError as error:
        raise UserError(f"autoencoder {origin}: {error}") from None
    except KeyError as error:
        raise UserError(f"autoencoder {origin}: its {CONFIG} does not say {error}: copy it anew") from None
    except (ValueError, TypeError, IndexError, RuntimeError) as error:  # what no published file does
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"autoencoder {origin}: its weights do not fit together ({reason}): copy it anew") from None
    net.load_state_dict({name: value.float() for name, value in ours.items()}, assign=True)
    return net.eval().requires_grad_(False)


def recognise(state: State) -> tuple[type[AutoencoderLayout], State]:
    """The layout whose marks are all among the keys, and what is the autoencoder's of the state.

    UserError that names a few keys when there is none.
    """
    known = members("ditkit.convert", _is_layout)
    for layout in known.values():
        if (own := layout.own(state)) is not None:
            return layout, own
    few = ", ".join(sorted(state)[:3]) or "none at all"
    raise UserError(f"not an autoencoder of a known layout (keys: {few} ...): expected {' or '.join(sorted(known))}")


def _is_layout(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, AutoencoderLayout) and value is not AutoencoderLayout


def _usual(known: Mapping[str, Any], origin: object) -> tuple[float, float]:
    ways = f"--data.autoencoder-scale (ditkit encode: --autoencoder-scale) {', '.join(PUBLISHED)} or a number"
    if known["latent_channels"] != 4:
        raise UserError(
            f"nothing says the scale of its {known['latent_channels']} latent channels: "
            f"put its {CONFIG} (scaling_factor, shift_factor) beside the weights, or give {ways}"
        )
    scale, shift = PUBLISHED["sd"]
    _log.warning(
        "autoencoder %s does not say its scale: taken to be %g, Stable Diffusion 1 and 2's; for another one give %s",
        *(origin, scale, ways),
    )
    return scale, shift


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"a {type(config).__name__}, not an object")
    except (OSError, ValueError) as error:
        raise UserError(f"autoencoder config {path} cannot be read ({error}): copy it anew") from None
    for key, expected in EXPECTED.items():
        if config.get(key, expected) != expected:
            raise UserError(
                f"autoencoder config {path} says {key} {config[key]!r}: expected {expected!r}, as in an AutoencoderKL"
            )
    for key, (expected, fits) in NUMBERS.items():
        if config.get(key) is not None and not (_is_number(config[key]) and fits(config[key])):
            raise UserError(f"autoencoder config {path} says {key} {config[key]!r}: expected {expected}; copy it anew")
    return {"scaling_factor": SCALE_OF_SD} | config


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_fit(net: LatentAutoencoder, state: State) -> None:
    own = net.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    odd = [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if missing or extra:
        raise UserError(f"weight {(missing or extra)[0]} is {'missing' if missing else 'one too many'}: copy it anew")
    if odd:
        raise UserError(f"weight {odd[0]} has shape {tuple(state[odd[0]].shape)}, expected {tuple(own[odd[0]].shape)}")
    for name, value in state.items():
        if not (value.is_floating_point() and value.isfinite().all()):
            found = "numbers that are not finite" if value.is_floating_point() else f"numbers of {value.dtype}"
            raise UserError(f"weight {name} has {found}: expected finite floating-point ones; copy it anew")


def _check_said(net: LatentAutoencoder, said: Mapping[str, Any]) -> None:
    """Raises UserError for a config.json that belongs to other weights: it may say another scale than theirs."""
    for key, value in config_of(net).items():
        if key in _OF_SHAPES and said.get(key, value) != value:
            raise UserError(
                f"its {CONFIG} says {key} {said[key]}, the weights have {value}: put the {CONFIG} of these there"
            )


_OF_SHAPES = ("in_channels", "out_channels", "latent_channels", "block_out_channels", "layers_per_block")
"""What a config.json says that the weights' shapes say too."""
