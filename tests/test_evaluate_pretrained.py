"""CLIP and DINOv2 in the library that they come through, tiny and with made-up weights, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.running import ditkit, draw_images, made

transformers = pytest.importorskip("transformers", reason="needs the extra ditkit[pretrained]")
LAYERS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
WORDS = ["grey", "picture", "a"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the hub has it, of another size of CLIP."""
    folder, side = tmp_path_factory.mktemp("clip"), tmp_path_factory.mktemp("vocabulary")
    letters = sorted({letter for word in WORDS for letter in word})
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (side / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (side / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(side / "vocab.json"), str(side / "merges.txt"))
    text = {"vocab_size": len(tokens), "eos_token_id": len(tokens) - 1, "bos_token_id": len(tokens) - 2}
    vision = {"image_size": 336, "patch_size": 112, "intermediate_size": 16}
    config = transformers.CLIPConfig(
        text_config={**LAYERS, **text, "intermediate_size": 16}, vision_config={**LAYERS, **vision}, projection_dim=8
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 images, each with a caption beside it."""
    folder = draw_images(tmp_path_factory.mktemp("captioned"), [f"{i:02d}.png" for i in range(21)])
    for i in range(21):
        (folder / f"{i:02d}.txt").write_text(" ".join([*WORDS * (1 + i % 3)]))
    return folder


def test_clip_by_the_command_line(clip: Path, captioned: Path, loose: Path, tmp_path: Path) -> None:
    how = ["--features", "clip", "--features-weights", clip, "--out", tmp_path / "out"]
    made(ditkit("evaluate", captioned, "--reference", loose, *how))
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {"clip_score", "cmmd", "fd_clip", "kd_clip"} <= found.keys()
    assert found["cmmd"]["value"] > 0
    for name in ("clip_score", "cmmd", "fd_clip", "kd_clip"):
        assert found[name]["standard_error"] > 0, name
    assert found["protocol"]["feature_space"]["library"] == f"transformers {transformers.__version__}"


def test_dinov2_by_the_command_line(
    captioned: Path, loose: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = transformers.Dinov2Config(**LAYERS, image_size=224, patch_size=56)
    torch.manual_seed(0)
    transformers.Dinov2Model(config).save_pretrained(tmp_path / "dinov2")
    monkeypatch.setenv("DITKIT_DINOV2", str(tmp_path / "dinov2"))
    made(ditkit("evaluate", captioned, "--reference", loose, "--features", "dinov2", "--out", tmp_path / "out"))
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {"fd_dinov2", "kd_dinov2", "precision"} <= found.keys()
    (tmp_path / "dinov2" / "model.safetensors").unlink()
    said = ditkit("evaluate", captioned, "--reference", loose, "--features", "dinov2", "--out", tmp_path / "out")
    assert said.code == 2
    assert "expected model.safetensors of facebook/dinov2-large" in said.err[-1]
