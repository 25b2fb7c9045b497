"""Runs of autoencoders that did not come to their end, or to a record of their log: each can be named all the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from ditkit.app import reconstructing
from ditkit.app.kinds.autoencoder import AutoencoderRuns
from ditkit.app.recipe import AutoencoderRecipe
from ditkit.app.recipe_files import load_recipe
from ditkit.base.errors import UserError
from ditkit.base.files import alone
from ditkit.convert.autoencoder import load_autoencoder
from ditkit.train import trainer as loop
from ditkit.train.checkpoint import latest
from ditkit.train.trainer import Trainer
from tests.running import TINY, Trial, ditkit, losses, made, train
from tests.test_train_autoencoder import SMALL, train_autoencoder


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, act: Any) -> None:
    """Within the test, ``act`` is called at the end of a step of every training."""
    original = Trainer.one_step

    def one_step(self: Trainer[Any], *args: Any) -> Any:
        done = original(self, *args)
        if self.step == step:
            act()
        return done

    monkeypatch.setattr(Trainer, "one_step", one_step)


def test_a_run_that_a_signal_stopped_is_named_as_it_was_then(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole = tmp_path / "r", tmp_path / "whole"
    made(train_autoencoder(pets, whole, "--train.steps", 3))
    with monkeypatch.context() as patch:
        at_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        said = train_autoencoder(pets, run, "--train.steps", 9)
    assert said.code == 130
    assert latest(run).name == "step-0000003"  # an export of step 2 was there already
    assert load_autoencoder(run).identity == load_autoencoder(whole).identity
    made(ditkit("encode", "--data", pets, "--autoencoder", run, "--out", tmp_path / "s", "--device", "cpu"))


USES = {
    "encode": lambda run, pets, out: ditkit(
        "encode", "--data", pets, "--autoencoder", run, "--out", out, "--device", "cpu"
    ),
    "train": lambda run, pets, out: train(pets, out, "--data.autoencoder", run, "--model.patch-size", 1),
}


@pytest.mark.parametrize("use", USES)
def test_a_run_that_has_only_checkpoints_is_published_when_it_is_named(use: str, pets: Path, tmp_path: Path) -> None:
    """As training does it, to the bit: with the images that it learns from, the held-out ones left out."""
    run = tmp_path / "r"
    made(train_autoencoder(pets, run, "--data.heldout", 0.2, "--data.crop", "random"))
    identity = load_autoencoder(run).identity
    shutil.rmtree(run / "autoencoder")
    said = made(USES[use](run, pets, tmp_path / "out"))
    assert "has no autoencoder yet: it is made from its checkpoint of step 4" in said.out
    assert load_autoencoder(run).identity == identity
    again = made(USES[use](run, pets, tmp_path / "again"))
    assert "has no autoencoder yet" not in again.out


def test_killed_between_the_checkpoint_and_its_publication(trial: Trial, pets: Path, tmp_path: Path) -> None:
    run, whole = tmp_path / "r", tmp_path / "whole"
    made(train_autoencoder(pets, whole, "--train.steps", 2))
    command = ["train-autoencoder", "--data", pets, "--out", run, *SMALL]
    at = ["ditkit.app.kinds.autoencoder.save_autoencoder", 1]
    assert trial(command, at=at)["code"] == -signal.SIGKILL
    assert not (run / "autoencoder").exists()
    assert reconstructing.load(run, "cpu", 4).net.identity == load_autoencoder(whole).identity


def test_what_cannot_be_published_is_said(pets: Path, tmp_path: Path) -> None:
    run, data = tmp_path / "r", tmp_path / "data"
    shutil.copytree(pets, data)
    made(train_autoencoder(data, run))
    shutil.rmtree(run / "autoencoder")
    with alone(run, "busy"), pytest.raises(UserError, match="is being trained by another process"):
        AutoencoderRuns.publish(run)
    shutil.rmtree(data)
    said = ditkit("encode", "--data", pets, "--autoencoder", run, "--out", tmp_path / "s")
    assert (said.code, len(said.err)) == (2, 1)
    assert str(data) in said.err[0]
    shutil.rmtree(run / "checkpoints")
    said = ditkit("encode", "--data", pets, "--autoencoder", run, "--out", tmp_path / "s")
    assert "has no autoencoder: expected a run of ditkit train-autoencoder that has come to a checkpoint" in said.err[0]


def test_a_training_ended_by_its_minutes_says_its_steps_and_its_loss(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []

    class Bar(loop.tqdm):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs, mininterval=0)

        def refresh(self, *args: Any, **kwargs: Any) -> None:
            shown.append(str(self))

    monkeypatch.setattr(loop, "tqdm", Bar)
    monkeypatch.setattr(loop.time, "perf_counter", iter(range(0, 10**6, 10)).__next__)
    made(train_autoencoder(pets, tmp_path / "r", "--train.minutes", 0.5, "--train.log-every", 1000))
    steps = [step for step, _, _ in losses(tmp_path / "r")]
    assert steps == [int(latest(tmp_path / "r").name[5:])] != [4]
    assert any("step 1" in line for line in shown)


def test_a_checkpoint_is_looked_at_with_few_images(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    original = reconstructing.statistics

    def statistics(net: Any, images: Any, most: int) -> Any:
        looked.append(most)
        return original(net, images, most)

    monkeypatch.setattr(reconstructing, "statistics", statistics)
    made(train_autoencoder(pets, tmp_path / "r", "--train.steps", 1, "--train.batch-size", 20))
    (told,) = [r for r in map(json.loads, (tmp_path / "r" / "log.jsonl").read_text().splitlines()) if "psnr" in r]
    assert looked == [80]
    assert told["images"] == "40 images that it learns from"


def test_help_names_the_recipes_that_fit() -> None:
    ours, theirs = (" ".join(made(ditkit(command, "--help")).out.split()) for command in ("train-autoencoder", "train"))
    assert "ready ones: autoencoder_cifar10, autoencoder_mnist)" in ours.replace("│ │ ", "")
    assert "autoencoder_mnist" not in theirs
    with pytest.raises(UserError, match=r"expected a file or one of autoencoder_cifar10, autoencoder_mnist$"):
        load_recipe("mist_", AutoencoderRecipe)


def test_a_run_keeps_where_its_guide_is(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made(train(pets, "weak"))
    made(ditkit("train-classifier", "--data", pets, "--out", "led", *_CLASSIFIER))
    both = ["--sample.guidance-weak", "weak", "--sample.guidance-classifier", "led", "--sample.guidance", 1]
    made(train(pets, "r", *both))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    made(ditkit("sample", tmp_path / "r", "--num", 2, "--out", tmp_path / "drawn"))
    made(ditkit("train", "--resume", tmp_path / "r", "--train.steps", 5))


_CLASSIFIER = [word for pair in zip(TINY[::2], TINY[1::2], strict=True) if "sample" not in pair[0] for word in pair]
"""The options of ``TINY`` that a classifier's run takes."""


@pytest.mark.parametrize("kind", ["kl", "fast"])
def test_what_takes_a_processor_long_is_said_before_it_begins(kind: str, pets: Path, tmp_path: Path) -> None:
    options = ["--train.device", "cpu", "--network.autoencoder", kind, "--train.steps", 1]
    said = made(train_autoencoder(pets, tmp_path / "r", *options)).err
    assert any("takes seconds for a step; made for processors: --network.autoencoder fast" in s for s in said) == (
        kind == "kl"
    )
