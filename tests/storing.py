"""What the tests of autoencoders and latent stores share: tiny networks, their published files, a store of pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ditkit.base.rng import generator
from ditkit.convert.autoencoder_diffusers import DiffusersAutoencoder
from ditkit.convert.autoencoder_layout import AutoencoderLayout
from ditkit.convert.autoencoder_places import CONFIG, WEIGHTS
from ditkit.encoders.autoencoder import AutoencoderKL
from tests.running import TINY, Said, ditkit, made

GROUPS = 4


def tiny(**changes: Any) -> AutoencoderKL:
    """A network of factor 4 whose widths all differ, and whose every weight is its own number."""
    arguments: dict[str, Any] = {"widths": (8, 12, 16), "blocks": 1, "latent_channels": 4, "groups": GROUPS}
    net = AutoencoderKL(**(arguments | changes)).eval().requires_grad_(False)
    for i, (name, value) in enumerate(net.named_parameters()):
        if name.endswith("bias"):
            value.copy_(0.1 * torch.randn(value.shape, generator=generator(i, "bias")))
    return net


def write(
    folder: Path, net: AutoencoderKL, layout: type[AutoencoderLayout] = DiffusersAutoencoder, **said: Any
) -> Path:
    """The files in which diffusers publishes an autoencoder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in layout.from_ditkit(net.state_dict()).items()}, folder / WEIGHTS)
    statistics = {"scaling_factor": net.scale, "shift_factor": net.shift or None}
    config = {"_class_name": "AutoencoderKL", "act_fn": "silu", "norm_num_groups": GROUPS, **statistics, **said}
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def pixels(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=generator(seed, "pixels")) * 2 - 1


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed, "normal"))


PLAIN = {"widths": (8, 16), "channels": 1, "scale": 0.7, "shift": 0.2}
LATENT = [*TINY, "--model.patch-size", "2", "--data.flip", "--train.precision", "float32"]
"""A training on latents of 4x4."""


def encoded(data: object, vae: object, out: object, *args: object) -> Said:
    """``ditkit encode`` in shards of 16 images."""
    arguments = ["--data", data, "--autoencoder", vae, "--out", out, "--device", "cpu", "--shard", 16]
    return ditkit("encode", *arguments, *args)


def train(data: object, out: object, *args: object) -> Said:
    return ditkit("train", "--data", data, "--out", out, *LATENT, *args)


def refused(said: Said, *words: object) -> None:
    """Exit code 2 and one line with all these words."""
    lines = [line for line in said.err if not line.startswith("encoding:")]
    assert (said.code, len(lines)) == (2, 1), said
    assert not [word for word in words if str(word) not in lines[0]], lines[0]


@pytest.fixture(scope="session")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder of factor 2 for grey images. Not to be changed."""
    return write(tmp_path_factory.mktemp("vae"), tiny(**PLAIN))


@pytest.fixture(scope="session")
def whole(pets: Path, vae: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of ``pets`` in 8 shards. Not to be changed: copy it for that."""
    out = tmp_path_factory.mktemp("stores") / "pets"
    made(encoded(pets, vae, out))
    return out


class Captioned:
    """Pictures with captions, of which one does not decode."""

    words = ()
    expects = "a test"
    classes: tuple[str, ...] = ()
    labels = None
    captions = tuple(f"picture {i} é" if i % 2 else "" for i in range(200))

    def __init__(self, spec: str) -> None:
        self.spec = spec

    def __len__(self) -> int:
        return 200

    def name(self, i: int) -> str:
        return f"{i}.png"

    def open(self, i: int) -> Image.Image:
        if i == 5:
            raise OSError("cut short")
        return Image.fromarray(np.full((8, 8), i, dtype=np.uint8))

    def fingerprint(self) -> str:
        return "0"


class Lengths:
    """A text encoder: a caption's length in characters and in bytes."""

    identity, shape = "lengths", (2, 1)

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[[float(len(text))], [float(len(text.encode()))]] for text in captions])
