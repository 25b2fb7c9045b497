"""Runs that are killed, interrupted or stopped go on from the last whole checkpoint as if nothing had happened."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ditkit.train import checkpoint
from tests.running import CALM, TINY, Trial, assert_same_tensors, ditkit, environment, losses, made, train, weights


def leftovers(run: Path) -> list[Path]:
    """Files that a killed writer left."""
    return sorted(run.rglob(".*"))


LONG = ["--train.steps", 40, "--train.checkpoint-every", 5, "--train.log-every", 4, "--data.flip"]


def test_killed_many_times_equals_uninterrupted(trial: Trial, pets: Path, tmp_path: Path) -> None:
    made(train(pets, tmp_path / "whole", *LONG))
    killed = tmp_path / "killed"
    start = ["train", "--data", pets, "--out", killed, *TINY, *LONG]
    go_on = ["train", "--resume", killed]
    delays = random.Random(0)
    outcomes = [
        trial(start, at=["ditkit.base.tensors.save_file", 2]),  # in the middle of the first checkpoint
        trial(go_on, at=["os.replace", 2]),  # whole, but without its name yet
        trial(go_on, at=["ditkit.train.trainer.update", 13]),  # between checkpoints and records
        trial(go_on, at=["shutil.rmtree", 2]),  # while an old checkpoint is removed
    ]
    assert [o["code"] for o in outcomes] == [-signal.SIGKILL] * 4, outcomes
    outcomes = [trial(go_on, after=delays.uniform(0.05, 0.4)) for _ in range(4)]
    assert {o["code"] for o in outcomes} <= {-signal.SIGKILL, 0}, outcomes
    made(ditkit("train", "--resume", killed))
    assert_same_tensors(weights(tmp_path / "whole"), weights(killed))
    assert losses(killed) == losses(tmp_path / "whole")
    assert [step for step, *_ in losses(killed)] == list(range(4, 41, 4))
    assert not leftovers(killed)


def test_half_written_checkpoint_is_none_and_is_cleared(trial: Trial, pets: Path, tmp_path: Path) -> None:
    start = ["train", "--data", pets, "--out", tmp_path / "r", *TINY]
    outcome = trial(start, at=["ditkit.base.tensors.save_file", 7])
    assert outcome["code"] == -signal.SIGKILL
    assert [p.name for p in checkpoint.steps(tmp_path / "r")] == ["step-0000002"]
    assert leftovers(tmp_path / "r")
    said = made(ditkit("train", "--resume", tmp_path / "r"))
    assert "resumed at step 2" in said.out
    assert [p.name for p in checkpoint.steps(tmp_path / "r")] == ["step-0000002", "step-0000004"]
    assert not leftovers(tmp_path / "r")


def test_killed_before_the_first_checkpoint_begins_anew(trial: Trial, pets: Path, tmp_path: Path) -> None:
    made(train(pets, tmp_path / "whole"))
    start = ["train", "--data", pets, "--out", tmp_path / "r", *TINY]
    trial(start, at=["ditkit.train.trainer.update", 2])
    made(ditkit("train", "--resume", tmp_path / "r"))
    assert losses(tmp_path / "r") == losses(tmp_path / "whole")
    assert_same_tensors(weights(tmp_path / "r"), weights(tmp_path / "whole"))


DRAWING = "ditkit.app.pictures.png_bytes"


LOOKS = ["--train.sample-every", 2, "--evaluate-every", 2, "--evaluate.every-num", 20]
LOOKS += ["--evaluate.best", "frechet_distance", *CALM]


@pytest.fixture(scope="module")
def looked_at(pets: Path, tmp_path_factory: pytest.TempPathFactory, quick_feature_space: None) -> Path:
    """A run that drew and measured while it trained."""
    folder = tmp_path_factory.mktemp("looked") / "r"
    made(train(pets, folder, *LOOKS))
    return folder


def all_but_times(run: Path) -> dict[str, Any]:
    """What a run's folder holds, but how long things took and that it was resumed."""
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    kept = [{k: v for k, v in r.items() if k not in ("seconds", "images_per_s")} for r in log]
    files = {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*.[ps][na]*") if p.is_file()}  # png, weights
    folders = sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_dir())
    return {"log": [r for r in kept if r.get("event") != "resume"], "folders": folders, **files}


@pytest.mark.parametrize(
    "at",
    [
        ["ditkit.app.training._begin", 1],  # it has its recipe, and no record yet
        [DRAWING, 1],  # between the checkpoint of step 2 and what is drawn of it
        ["ditkit.app.measuring.reference", 1],  # and what is measured of it
    ],
)
def test_what_was_due_with_a_checkpoint_is_made_up(
    trial: Trial, at: list[Any], looked_at: Path, pets: Path, tmp_path: Path
) -> None:
    start = ["train", "--data", pets, "--out", tmp_path / "r", *TINY, *LOOKS]
    assert trial(start, at=at)["code"] == -signal.SIGKILL
    made(ditkit("train", "--resume", tmp_path / "r"))
    assert all_but_times(tmp_path / "r") == all_but_times(looked_at)
    made(ditkit("train", "--resume", tmp_path / "r"))  # nothing to do
    assert all_but_times(tmp_path / "r") == all_but_times(looked_at)


def test_a_checkpoint_that_is_one_too_many_is_removed(trial: Trial, pets: Path, tmp_path: Path) -> None:
    start = ["train", "--data", pets, "--out", tmp_path / "r", *TINY, "--train.steps", 6]
    assert trial(start, at=["ditkit.train.checkpoint.remove_folder", 1])["code"] == -signal.SIGKILL
    assert len(checkpoint.steps(tmp_path / "r")) == 3
    made(ditkit("train", "--resume", tmp_path / "r"))
    assert [p.name for p in checkpoint.steps(tmp_path / "r")] == ["step-0000004", "step-0000006"]


def test_killed_before_it_has_a_recipe_the_same_command_begins(trial: Trial, pets: Path, tmp_path: Path) -> None:
    start = ["train", "--data", pets, "--out", tmp_path / "r", *TINY]
    assert trial(start, at=["os.replace", 1])["code"] == -signal.SIGKILL
    assert leftovers(tmp_path / "r")
    made(ditkit(*start))
    assert not leftovers(tmp_path / "r")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_signals_stop_after_the_step_with_a_checkpoint(trial: Trial, name: str, pets: Path, tmp_path: Path) -> None:
    made(train(pets, tmp_path / "whole", *LONG))
    run = tmp_path / "stopped"
    start = ["train", "--data", pets, "--out", run, *TINY, *LONG]
    during = trial(start, at=["ditkit.train.trainer.update", 7], signal=name)
    saving = trial(["train", "--resume", run], at=["ditkit.base.tensors.save_file", 6], signal=name)
    assert during["code"] == saving["code"] == 130, (during, saving)
    assert f"stopped by {name}" in during["err"]
    assert f"ditkit train --resume {run}" in during["err"]
    assert [p.name for p in checkpoint.steps(run)] == ["step-0000010", "step-0000015"]  # 7 has gone: two are kept
    made(ditkit("train", "--resume", run))
    assert losses(run) == losses(tmp_path / "whole")
    assert_same_tensors(weights(run), weights(tmp_path / "whole"))


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_after_the_training_says_what_is_missing(trial: Trial, name: str, pets: Path, tmp_path: Path) -> None:
    run, last = tmp_path / "r", ["--train.sample-every", 9, "--sample.steps", 2]
    made(train(pets, tmp_path / "whole", *last))
    drawing = trial(["train", "--data", pets, "--out", run, *TINY, *last], at=[DRAWING, 1], signal=name)
    assert drawing["code"] == 130
    assert "training is complete; making the last samples" in drawing["err"]
    said = f"stopped by {name}; the training is complete, this makes the last samples: ditkit train --resume {run}\n"
    assert drawing["err"].endswith(said)
    assert not [*run.glob("samples/*")]
    made(ditkit("train", "--resume", run))
    picture = "samples/step-0000004.png"
    assert (run / picture).read_bytes() == (tmp_path / "whole" / picture).read_bytes()


def test_a_signal_in_the_last_step_stops_before_the_last_samples(trial: Trial, pets: Path, tmp_path: Path) -> None:
    start = ["train", "--data", pets, "--out", tmp_path / "r", *TINY]
    with_samples = trial([*start, "--train.sample-every", 9], at=["ditkit.train.trainer.update", 4], signal="SIGTERM")
    assert with_samples["code"] == 130
    assert "the training is complete, this makes the last samples: " in with_samples["err"]
    start[4] = tmp_path / "s"
    assert trial(start, at=["ditkit.train.trainer.update", 4], signal="SIGTERM")["code"] == 0  # nothing is missing


def test_a_real_process_is_stopped_and_goes_on(pets: Path, tmp_path: Path) -> None:
    run = tmp_path / "r"
    command = [sys.executable, "-m", "ditkit.app.cli", "train", "--data", str(pets), "--out", str(run), *TINY]
    command += ["--train.steps", "1000000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(), cwd=tmp_path) as process:
        try:
            end = time.monotonic() + 60
            while not checkpoint.steps(run) and process.poll() is None and time.monotonic() < end:
                time.sleep(0.05)
            busy = ditkit("train", "--resume", run)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert f"stopped by SIGTERM; nothing is lost, go on with: ditkit train --resume {run}" in err
    assert busy.code == 2
    assert "trained by another process" in busy.err[0]
    step = losses(run)[-1][0]
    made(ditkit("train", "--resume", run, "--train.steps", step + 3))
    assert [s for s, *_ in losses(run)] == list(range(1, step + 4))


def test_resume_of_a_finished_run_changes_nothing(pets: Path, tmp_path: Path) -> None:
    made(train(pets, tmp_path / "r", "--train.minutes", 1e-9))  # the minutes are used up by the first step
    before = weights(tmp_path / "r")
    assert [p.name for p in checkpoint.steps(tmp_path / "r")] == ["step-0000001"]
    made(ditkit("train", "--resume", tmp_path / "r"))
    assert_same_tensors(weights(tmp_path / "r"), before)
    assert [s for s, *_ in losses(tmp_path / "r")] == [1]
    made(ditkit("train", "--resume", tmp_path / "r", "--train.minutes", "None"))
    assert [s for s, *_ in losses(tmp_path / "r")] == [1, 2, 3, 4]


def test_stopping_does_not_change_the_length_that_a_recipe_says(pets: Path, tmp_path: Path) -> None:
    made(train(pets, tmp_path / "r", "--train.steps", 3))
    made(ditkit("train", "--resume", tmp_path / "r", "--train.steps=6"))
    made(train(pets, tmp_path / "whole", "--train.steps", 6))
    assert_same_tensors(weights(tmp_path / "r"), weights(tmp_path / "whole"))
    assert losses(tmp_path / "r") == losses(tmp_path / "whole")
    assert "steps: 6" in (tmp_path / "r" / "recipe.yaml").read_text()
