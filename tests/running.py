"""What the tests of whole runs share: tiny images, tiny models, the command line called as a user calls it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ditkit.app.cli import main
from ditkit.evaluate import classifier
from ditkit.train import checkpoint

_SETTINGS = {
    "model.patch-size": 4,
    "model.width": 8,
    "model.depth": 1,
    "model.heads": 2,
    "train.batch-size": 4,
    "train.steps": 4,
    "train.lr": 0.01,
    "train.log-every": 1,
    "train.checkpoint-every": 2,
    "train.sample-every": None,
    "train.device": "cpu",
    "sample.steps": 2,
}
TINY = [word for key, value in _SETTINGS.items() for word in (f"--{key}", str(value))]
"""A model and a training that take milliseconds."""


CALM = ["--process.path", "cosine", "--process.prediction", "v", "--train.lr", "0.1", "--train.label-dropout", "0.5"]
"""Parts with which samples of a model that has learned nothing are grey, not black and white."""


@dataclasses.dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code. err: the lines that are no progress bars."""

    code: int
    out: str
    err: list[str]


_BAR = re.compile(r"step/s|^training:|^likelihood:")
"""Lines of progress bars, which are not messages."""


def ditkit(*args: object) -> Said:
    """Calls the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        main([str(arg) for arg in args])
    assert isinstance(stop.value.code, int)
    lines = [line.rpartition("\r")[2] for line in err.getvalue().splitlines()]
    return Said(stop.value.code, out.getvalue(), [line for line in lines if line.strip() and not _BAR.search(line)])


def train(data: object, out: object, *args: object) -> Said:
    """``ditkit train`` of a tiny model; later arguments win."""
    return ditkit("train", "--data", data, "--out", out, *TINY, *args)


def made(said: Said) -> Said:
    """The same, after making sure that the command did what it was told."""
    assert said.code == 0, said.err
    return said


def draw_images(folder: Path, names: list[str], *, size: tuple[int, int] = (8, 8)) -> Path:
    """Grey PNG files of ``size`` (H, W) with smooth random content, one for each name."""
    random = np.random.default_rng(len(names))
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small = random.integers(0, 256, (2, 2), dtype=np.uint8)
        Image.fromarray(small).resize(size[::-1], Image.Resampling.BILINEAR).save(path)
    return folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's newest checkpoint: weights, moving average, optimiser and meter."""
    folder = checkpoint.latest(run)
    return {f"{p.stem}/{k}": v for p in sorted(folder.glob("*.safetensors")) for k, v in load_file(p).items()}


def losses(run: Path) -> list[tuple[int, float, float]]:
    """(step, loss, gradient norm) of every record in the log, in its order."""
    records = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"], r["grad_norm"]) for r in records if "loss" in r]


def assert_same_tensors(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    """Equal to the bit."""
    assert a.keys() == b.keys()
    assert not [name for name in a if not torch.equal(a[name], b[name])]


@pytest.fixture(scope="session")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 120 grey images, 8x8, of the classes cat and dog."""
    names = [f"{kind}/{i:02d}.png" for kind in ("cat", "dog") for i in range(60)]
    return draw_images(tmp_path_factory.mktemp("pets"), names)


@pytest.fixture(scope="session")
def loose(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 grey images, 8x8, without classes."""
    return draw_images(tmp_path_factory.mktemp("loose"), [f"{i:02d}.png" for i in range(20)])


@pytest.fixture(scope="session")
def run(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with classes. Not to be changed: copy it for that."""
    folder = tmp_path_factory.mktemp("runs") / "pets"
    made(train(pets, folder, "--data.heldout", 0.2, *CALM))
    return folder


@pytest.fixture(scope="session")
def unconditional(loose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run without classes. Not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "loose"
    made(train(loose, folder, *CALM))
    return folder


def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """The environment of a subprocess that finds this checkout's package and tests."""
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}  # as most users' is
    return buffered | {"PYTHONPATH": os.pathsep.join([str(root()), os.environ.get("PYTHONPATH", "")])}


Trial = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    """trial(args, at=..., after=..., signal=...): the outcome of a command that is killed (see tests/killing.py)."""
    command = [sys.executable, "-m", "tests.killing"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root(), env=environment()
    ) as process:
        assert process.stdin
        assert process.stdout

        def ask(args: list[Any], **when: Any) -> dict[str, Any]:
            print(json.dumps({"args": [str(arg) for arg in args], **when}), file=process.stdin, flush=True)
            return json.loads(process.stdout.readline())

        yield ask
        process.stdin.close()


@pytest.fixture(scope="module")
def quick_feature_space() -> Iterator[None]:
    """The feature space "self" is trained for a few steps: for tests that do not hang on how good it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "default_steps", lambda samples, cost: 20)
        yield
