"""Checkpoints are whole or not there, are checked when read, and survive a full device."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from ditkit.base import tensors as tensor_files
from ditkit.base.errors import UserError
from ditkit.base.files import atomic_folder, clear_leftovers
from ditkit.train import checkpoint
from ditkit.train.optim import adamw, update
from ditkit.train.settings import TrainSettings
from tests.running import assert_same_tensors, ditkit, losses, made, train, weights

TENSORS = {"weights": {"a": torch.arange(6.0).reshape(2, 3)}, "ema": {"a": torch.zeros(2, 3)}}


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    saved = checkpoint.save(tmp_path, 12, TENSORS, {"classes": ["é"]})
    assert saved.folder.name == "step-0000012"
    found = checkpoint.open_checkpoint(checkpoint.latest(tmp_path))
    assert (found.step, found.about) == (12, {"classes": ["é"]})
    assert_same_tensors(found.tensors("weights"), TENSORS["weights"])
    manifest = json.loads((saved.folder / "manifest.json").read_text())
    assert manifest["files"].keys() == {"weights.safetensors", "ema.safetensors"}


def test_the_newest_are_kept_by_step_not_by_name(tmp_path: Path) -> None:
    for step in (9_999_998, 9_999_999, 10_000_000):
        checkpoint.save(tmp_path, step, TENSORS, {}, keep=2)
    assert [p.name for p in checkpoint.steps(tmp_path)] == ["step-9999999", "step-10000000"]
    assert checkpoint.latest(tmp_path).name == "step-10000000"
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def _truncate(folder: Path) -> None:
    path = folder / "ema.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _flip_a_bit(folder: Path) -> None:
    path = folder / "ema.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _manifest(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


DAMAGE = {
    "truncated": (_truncate, ["ema.safetensors", "bytes, expected", "delete this checkpoint"]),
    "altered": (_flip_a_bit, ["ema.safetensors", "was altered", "delete this checkpoint"]),
    "incomplete": (lambda f: (f / "ema.safetensors").unlink(), ["ema.safetensors", "0 bytes"]),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), ["not a ditkit checkpoint", "manifest.json"]),
    "half a manifest": (lambda f: (f / "manifest.json").write_text('{"format"'), ["unreadable manifest.json"]),
    "another format": (_manifest(format="other-7"), ["'other-7'", "this version reads"]),
    "a list of files": (_manifest(files=["ema"]), ["unreadable manifest.json"]),
    "no sizes": (_manifest(files={"ema.safetensors": {}}), ["unreadable manifest.json"]),
    "no facts": (_manifest(about=3), ["unreadable manifest.json"]),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_serves(kind: str, run: Path, tmp_path: Path) -> None:
    damage, words = DAMAGE[kind]
    mine = tmp_path / "mine"
    shutil.copytree(run, mine)
    newest = checkpoint.latest(mine)
    damage(newest)
    log = (mine / "log.jsonl").read_text()
    for args in (["sample", mine, "--out", tmp_path / "s"], ["info", mine], ["train", "--resume", mine]):
        said = ditkit(*args)
        assert said.code == 2
        assert len(said.err) == 1
        assert not [word for word in words if word not in said.err[0]], said.err
    assert (mine / "log.jsonl").read_text() == log
    assert not (tmp_path / "s").exists()
    shutil.rmtree(newest)
    made(ditkit("train", "--resume", mine))
    assert_same_tensors(weights(mine), weights(run))
    assert losses(mine) == losses(run)


def test_weights_of_another_model(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(run, mine)
    text = (mine / "recipe.yaml").read_text()
    for old, new, words in [
        ("width: 8", "width: 12", "has shape"),
        ("depth: 1", "depth: 2", "tensors missing (blocks.1."),
        ("learned_variance: false", "learned_variance: true", "has shape"),
    ]:
        (mine / "recipe.yaml").write_text(text.replace(old, new))
        said = ditkit("sample", mine, "--out", tmp_path / "s")
        assert (said.code, len(said.err)) == (2, 1)
        assert "do not fit the model" in said.err[0]
        assert words in said.err[0]
    assert not (tmp_path / "s").exists()


def test_weights_must_fit_by_name_and_shape() -> None:
    net = nn.Linear(2, 1)
    state = net.state_dict()
    for wrong, words in [
        ({"weight": state["weight"]}, "1 tensors missing (bias"),
        ({**state, "more": torch.ones(1)}, "1 unknown (more"),
        ({**state, "bias": torch.ones(2)}, r"bias has shape \(2,\), the model \(1,\)"),
    ]:
        with pytest.raises(
            UserError,
            match=words.replace("tensors missing (", r"tensors missing \(").replace("unknown (", r"unknown \("),
        ):
            checkpoint.load_weights(net, wrong, "there")


def test_the_optimiser_goes_on_to_the_bit() -> None:
    def steps(net: nn.Module, optimizer: torch.optim.Optimizer, *values: float) -> None:
        for value in values:
            net(torch.full((1, 2), value)).sum().backward()
            update(optimizer, 0.01, 1.0)

    settings = TrainSettings(weight_decay=0.1)
    one = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    other = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    first, second = adamw(one, settings), adamw(other, settings)
    steps(one, first, 1.0, -2.0)
    checkpoint.load_weights(other, one.state_dict(), "one")
    state = checkpoint.optimizer_tensors(first, one)
    checkpoint.load_optimizer(second, other, {name: value.clone() for name, value in state.items()})
    steps(one, first, 0.5, 3.0)
    steps(other, second, 0.5, 3.0)
    assert_same_tensors(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("name", ["exp_avg", "exp_avg/other", "exp_avg/bias"])
def test_moments_of_another_model_are_refused(name: str) -> None:
    net = nn.Linear(2, 3)
    with pytest.raises(UserError, match=f"{name} .* does not fit the model"):
        checkpoint.load_optimizer(adamw(net, TrainSettings()), net, {name: torch.zeros(7)})


def test_leftovers_are_cleared_and_what_was_being_replaced_comes_back(tmp_path: Path) -> None:
    for name in ("a", ".a.old-1", ".b.old-1", ".c.writing-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "content").write_text(name)
    (tmp_path / ".d.png.writing-1").write_text("half")
    (tmp_path / "e.txt").write_text("mine")
    clear_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "e.txt"]
    assert (tmp_path / "b" / "content").read_text() == ".b.old-1"
    assert (tmp_path / "a" / "content").read_text() == "a"


def test_a_folder_that_fails_to_be_filled_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("old")

    def fill() -> None:
        with atomic_folder(tmp_path / "a") as folder:
            (folder / "new").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill()
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "old"]


# No space left on the device: simulated everywhere, real where a small file system may be mounted.


def _full(*args: Any, **kwargs: Any) -> None:
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


def assert_full(code: int, err: list[str], place: str) -> None:
    """The one line that a full device is answered with."""
    assert (code, len(err)) == (2, 1), err
    for word in ("no space left on the device", place, "MiB free", "free some space", "resume"):
        assert word in err[0]


def test_no_space_for_a_checkpoint(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, calls = tmp_path / "r", []

    def sometimes(tensors: Any, path: Path, *metadata: Any) -> None:
        calls.append(path)
        if len(calls) == 7:  # in the middle of the second checkpoint
            _full()
        save_file(tensors, path, *metadata)

    monkeypatch.setattr(tensor_files, "save_file", sometimes)
    said = train(pets, run)
    assert_full(said.code, said.err, "step-0000004")
    assert [p.name for p in (run / "checkpoints").iterdir()] == ["step-0000002"]
    made(ditkit("train", "--resume", run))
    made(train(pets, tmp_path / "whole"))
    assert_same_tensors(weights(run), weights(tmp_path / "whole"))
    assert losses(run) == losses(tmp_path / "whole")


def test_other_errors_of_the_library_are_not_taken_for_a_full_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise SafetensorError("something else")

    monkeypatch.setattr(tensor_files, "save_file", fail)
    with pytest.raises(SafetensorError, match="something else"):
        checkpoint.save(tmp_path, 1, TENSORS, {})
    assert not checkpoint.steps(tmp_path)


def test_no_space_for_samples(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("PIL.Image.Image.save", full)
    said = ditkit("sample", run, "--num", 2, "--out", tmp_path / "s")
    assert_full(said.code, said.err, str(tmp_path / "s"))
    assert not list(tmp_path.iterdir())


@pytest.fixture
def small_device(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("no mount command to make a small file system with")
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("left", [0, 4096, 30_000])
def test_a_device_that_is_really_full(left: int, small_device: Path, pets: Path, tmp_path: Path) -> None:
    run = small_device / "r"
    made(train(pets, run, "--train.steps", 2))
    before = weights(run)
    stuffing = small_device / "stuffing"
    with open(stuffing, "wb") as file:
        file.write(b"x" * (shutil.disk_usage(small_device).free - left))
    for _ in range(2):  # and again
        said = ditkit("train", "--resume", run, "--train.steps", 40)
        assert (said.code, len(said.err)) == (2, 1), said.err
        assert "no space left on the device" in said.err[0]
        assert_same_tensors(weights(run), before)
        assert checkpoint.open_checkpoint(checkpoint.latest(run)).step == 2
    stuffing.unlink()
    made(ditkit("train", "--resume", run, "--train.steps", 6))
    made(train(pets, tmp_path / "whole", "--train.steps", 6))
    assert_same_tensors(weights(run), weights(tmp_path / "whole"))
    assert losses(run) == losses(tmp_path / "whole")


def test_who_may_read_the_folder_may_read_the_weights(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        checkpoint.save(tmp_path, 1, TENSORS, {})
    finally:
        os.umask(before)
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in checkpoint.latest(tmp_path).iterdir()}
    assert modes == {".safetensors": 0o640, ".json": 0o640}
