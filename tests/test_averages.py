"""Several lengths of the moving average: each is what its formula says, is kept, resumed, drawn from and measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor

from ditkit.app import training
from ditkit.evaluate.protocol import differences
from ditkit.train.trainer import Hook
from tests.running import CALM, TINY, Trial, assert_same_tensors, ditkit, made, train, weights
from tests.test_refusals import assert_refused
from tests.test_train import recipe, trainer_of
from tests.test_train import train as train_trainer

LENGTHS = ["--train.ema-decay", 0.25, "--train.ema-also", 0.05, 0.15]
"""Below what the first four steps are warmed up to, so that all three differ."""


pytestmark = pytest.mark.usefixtures("quick_feature_space")


@pytest.fixture(scope="module")
def several(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three averages. Not to be changed."""
    folder = tmp_path_factory.mktemp("several") / "run"
    made(train(pets, folder, *CALM, *LENGTHS))
    return folder


def test_each_average_is_the_weighted_sum_of_all_weights_so_far() -> None:
    trainer = trainer_of(recipe(steps=12, lr=1e-2, ema_decay=0.5, ema_also=(0.1, 0.3, 0.99)))
    seen: list[list[Tensor]] = [[p.detach().clone() for p in trainer.net.parameters()]]
    keep = Hook(1, lambda trainer: seen.append([p.detach().clone() for p in trainer.net.parameters()]))
    train_trainer(trainer, [keep])
    seen.append([*trainer.net.parameters()])  # hooks are not called after the last step
    assert [*trainer.averages] == ["ema", "ema-0.1", "ema-0.3", "ema-0.99"]
    for decay, average in zip((0.5, 0.1, 0.3, 0.99), trainer.averages.values(), strict=True):
        decays = torch.tensor([min(decay, (1 + k) / (10 + k)) for k in range(12)], dtype=torch.float64)
        shares = torch.cat([torch.ones(1), 1 - decays]) * torch.cat([decays.flip(0).cumprod(0).flip(0), torch.ones(1)])
        assert shares.sum().item() == pytest.approx(1)
        for own, *history in zip(average.net.parameters(), *seen, strict=True):
            expected = torch.einsum("k,k...->...", shares, torch.stack(history).double())
            torch.testing.assert_close(own.double(), expected, rtol=0, atol=1e-6)


def test_the_main_average_does_not_hang_on_the_others(several: Path, pets: Path, tmp_path: Path) -> None:
    made(train(pets, tmp_path / "one", *CALM, *LENGTHS[:2]))
    alone, among = weights(tmp_path / "one"), weights(several)
    kinds = {name.partition("/")[0] for name in among}
    assert kinds == {"ema", "ema-0.05", "ema-0.15", "weights", "optimizer"}
    assert_same_tensors(alone, {name: value for name, value in among.items() if name in alone})
    assert not torch.equal(among["ema-0.05/final.linear.bias"], among["ema-0.15/final.linear.bias"])


def test_a_killed_run_goes_on_with_every_average(several: Path, pets: Path, tmp_path: Path, trial: Trial) -> None:
    mine = tmp_path / "r"
    start = ["train", "--data", pets, "--out", mine, *TINY, *CALM, *LENGTHS]
    killed = trial(start, at=["ditkit.base.tensors.save_file", 9])  # within the second checkpoint
    assert killed["code"] == -9
    assert "resumed at step 2" in made(ditkit("train", "--resume", mine)).out
    assert_same_tensors(weights(mine), weights(several))


def test_every_length_is_drawn_from(several: Path, tmp_path: Path) -> None:
    drawn = set()
    for name in ("ema", "ema-0.05", "ema-0.15", "weights"):
        out = tmp_path / name
        made(ditkit("sample", several, "--num", 4, "--weights", name, "--out", out))
        drawn.add((out / "grid.png").read_bytes())
    assert len(drawn) == 4


def test_a_sweep_over_lengths_names_them_in_table_plot_and_protocol(several: Path, tmp_path: Path) -> None:
    sweep = ["--sweep.weights", "weights", "ema", "ema-0.05", "ema-0.15"]
    said = made(ditkit("evaluate", several, "--num", 20, *sweep, "--out", tmp_path))
    results = json.loads((tmp_path / "sweep" / "results.json").read_text())
    assert [r["protocol"]["ema_decay"] for r in results] == [None, 0.25, 0.05, 0.15]
    assert len({r["frechet_distance"]["value"] for r in results}) == 4
    for name in ("weights weights", "weights ema 0.25", "weights ema 0.05"):
        assert name in said.out
        assert name in (tmp_path / "sweep" / "table.md").read_text()
    plot = (tmp_path / "sweep" / "plot.svg").read_text()
    assert "length of the moving average" in plot
    assert "Fréchet distance of the variants" in plot


def test_one_length_under_two_names_is_one_protocol(several: Path, pets: Path, tmp_path: Path) -> None:
    made(train(pets, tmp_path / "other", *CALM, "--train.ema-decay", 0.05))
    found = []
    for run, name in ((several, "ema-0.05"), (tmp_path / "other", "ema")):
        made(ditkit("evaluate", run, "--num", 20, "--weights", name, "--out", tmp_path / name))
        found.append(json.loads((tmp_path / name / "metrics.json").read_text()))
    assert not differences(*(f["protocol"] for f in found))
    keys = ("frechet_distance", "class_accuracy")
    assert [found[0][k] for k in keys] == [found[1][k] for k in keys]  # nothing else of the training differs


def test_a_weak_model_may_be_another_length(several: Path, tmp_path: Path) -> None:
    weak = ["--guidance-weak", several, "--guidance-weak-weights"]
    made(ditkit("sample", several, "--num", 2, *weak, "ema-0.05", "--out", tmp_path / "led"))
    assert_refused(
        ditkit("sample", several, *weak, "ema-0.5", "--out", tmp_path / "s"), "no weights 'ema-0.5'", "ema-0.15"
    )


@pytest.mark.parametrize("name", ["ema-0.5", "optimizer", "../ema", "manifest"])
def test_a_length_that_was_not_kept_is_refused(name: str, several: Path, run: Path, tmp_path: Path) -> None:
    for command in (
        ["sample", several, "--weights", name, "--out", tmp_path / "s"],
        ["evaluate", several, "--weights", name],
        ["evaluate", several, "--sweep.weights", "ema", name],
    ):
        assert_refused(ditkit(*command), f"no weights {name!r}", "expected one of ema, ema-0.05, ema-0.15, weights")
    assert_refused(ditkit("sample", run, "--weights", name, "--out", tmp_path / "s"), "expected one of ema, weights")


@pytest.mark.parametrize(
    ("also", "word"),
    [
        ([0.25], "by --train.ema-decay 0.25"),
        ([0.1, "1e-1"], "by this option itself"),
        ([0], "--train.ema-also 0.0: expected greater than 0"),
        ([0.1, 1], "--train.ema-also 1.0: expected less than 1"),
        ([-0.1], "-0.1: expected greater than 0"),
        (["nan"], "nan: expected a finite number"),
    ],
)
def test_a_length_twice_or_out_of_range_is_refused(
    also: list[object], word: str, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "load_images", lambda *_, **__: pytest.fail("the data are read before the refusal"))
    said = train(pets, tmp_path / "r", "--train.ema-decay", 0.25, "--train.ema-also", *also)
    assert_refused(said, "ema-also", word)
    assert not (tmp_path / "r").exists()


def test_a_run_from_before_there_were_several_goes_on(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(run, mine)
    recipe = yaml.safe_load((mine / "recipe.yaml").read_text())
    assert recipe["train"].pop("ema_also") == []
    (mine / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    made(ditkit("train", "--resume", mine))
    made(ditkit("sample", mine, "--num", 2))
    recipe["train"]["ema_also"] = [0.5]  # its checkpoints know nothing of it
    (mine / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert_refused(ditkit("train", "--resume", mine), "no weights 'ema-0.5'", "expected one of ema, weights")
