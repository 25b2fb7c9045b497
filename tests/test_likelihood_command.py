"""ditkit likelihood: bits per dimension of a run, their standard error and protocol, and what is refused."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ditkit.app import likelihood
from ditkit.app.model import load_model
from ditkit.app.run import open_run
from ditkit.base.errors import UserError
from ditkit.condition import NULL_LABEL, Condition
from ditkit.data.images import ImageSet
from ditkit.evaluate import bits
from ditkit.evaluate.bits import FEW_DIMENSIONS, How, bits_per_dim, probes_for
from ditkit.evaluate.likelihood import LEVEL
from ditkit.process.continuous import Linear
from ditkit.process.denoiser import Denoised
from ditkit.process.path import over
from tests.exact import GaussianData
from tests.running import Said, ditkit, draw_images, made, train

LOOSE = ["--num", 3, "--tolerance", 0.05, "--probes", 2]
"""Quick: an untrained network's ODE by large steps."""


def assert_refused(said: Said, *words: str) -> None:
    """Exit code 2 and one line with all these words."""
    assert said.code == 2, said
    assert len(said.err) == 1, said.err
    assert not [word for word in words if word not in said.err[0]], said.err[0]


@pytest.fixture
def mine(run: Path, tmp_path: Path) -> Path:
    """A copy of the trained run."""
    return Path(shutil.copytree(run, tmp_path / "mine"))


def test_what_is_known_to_be_wrong_is_refused_before_the_model_is_read(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(mine / "checkpoints")
    said = ditkit("likelihood", mine, "--tolerance", "1e-12")
    assert_refused(said, "rtol 1e-12", "expected rtol of 5e-07 (torch.float32) or more")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert_refused(ditkit("likelihood", mine), str(mine), "not writable")
    assert_refused(ditkit("study", "solvers", mine), str(mine), "not writable")
    monkeypatch.undo()
    for command, name in (("likelihood", "likelihood.json"), ("report", "report.html"), ("report", "metrics.json")):
        (mine / name).mkdir()
        assert_refused(ditkit(command, mine), f"{mine / name} is a folder, expected a file", "move it away")
        (mine / name).rmdir()


def test_no_data_are_not_the_runs_own(mine: Path) -> None:
    assert_refused(ditkit("likelihood", mine, "--data", "", *LOOSE), "data ''", "expected one of", "check the path")


def read(run: Path) -> dict[str, Any]:
    return json.loads((run / "likelihood.json").read_text())


@dataclasses.dataclass(frozen=True)
class Known:
    """A denoiser of Gaussian data, as a run's: it takes a condition, whose label moves the data's mean."""

    path: Linear = dataclasses.field(default_factory=Linear)
    condition: Condition = dataclasses.field(default_factory=Condition)
    autocast: torch.dtype | None = torch.bfloat16

    def given(self, condition: Condition) -> Known:
        return dataclasses.replace(self, condition=condition)

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> Denoised:
        assert self.autocast is None, "the likelihood is measured in full precision"
        mean = 0.0 if self.condition.label is None else over(0.5 * self.condition.label.double(), x)
        shift = over(self.path.alpha(t), x) * mean
        said = GaussianData(self.path, 0.0, 0.6)(x - shift, t)
        return Denoised(said.x0 + mean, said.eps)


def pictures(count: int, indices: list[int] | None = None) -> ImageSet:
    random = torch.Generator().manual_seed(count)
    images = torch.randint(0, 256, (count, 1, 2, 3), generator=random, dtype=torch.uint8)
    return ImageSet(images, None, (), torch.tensor(indices or list(range(count))))


def closed_form(images: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """Bits per dimension of N(mean, 0.6^2) where dequantisation stands still (its variance is below 1e-5)."""
    x = images.double() * LEVEL - 1
    nats = -(((x - mean[:, None, None, None]) / 0.6) ** 2) / 2 - math.log(0.6 * math.sqrt(2 * math.pi))
    return -nats.flatten(1).mean(1) / math.log(2) - math.log2(LEVEL)


def test_bits_of_a_known_density_are_right_for_each_images_condition() -> None:
    images, labels = pictures(5), torch.tensor([0, 1, 0, 1, 1])
    found = bits_per_dim(Known(), images, Condition(label=labels), How(0, 1e-5, batch_size=2))  # type: ignore[arg-type]
    exact = closed_form(images.images, 0.5 * labels.double())
    torch.testing.assert_close(found.bits, exact, atol=0.02, rtol=0)  # dequantised: a level of 1 / 127.5
    assert found.of_probes.tolist() == [0] * 5
    summary = found.summary()
    assert summary["value"] == pytest.approx(found.bits.mean().item())
    assert summary["standard_error"] == pytest.approx(found.bits.std().item() / 5**0.5)
    assert summary["standard_error_by_probes"] == 0


def test_the_bar_moves_at_every_evaluation(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bits, "tqdm", functools.partial(bits.tqdm, mininterval=0))
    given: Any = (Known(), pictures(3), Condition(), How(2, 1e-5, batch_size=2))
    quiet, shown = bits_per_dim(*given), bits_per_dim(*given, progress="likelihood")
    assert torch.equal(quiet.bits, shown.bits)
    parts = capsys.readouterr().err.split("\r")
    percents = [int(part.split("%")[0].split()[-1]) for part in parts if "%" in part]
    assert percents == sorted(percents)
    assert (percents[0], percents[-1]) == (0, 100)
    assert len(set(percents)) > 20
    assert "evaluations of batch 2" in parts[-1]


@pytest.mark.parametrize("probes", [0, 3])
def test_an_image_keeps_its_bits_in_any_batch_and_selection(probes: int) -> None:
    images, part = pictures(6), pictures(6).subset(torch.tensor([4, 1]))
    of_all = bits_per_dim(Known(), images, Condition(), How(probes, 1e-6, batch_size=6)).bits  # type: ignore[arg-type]
    of_two = bits_per_dim(Known(), part, Condition(), How(probes, 1e-6, batch_size=1)).bits  # type: ignore[arg-type]
    torch.testing.assert_close(of_two, of_all[[4, 1]], atol=1e-4, rtol=0)
    others = bits_per_dim(Known(), part, Condition(), How(probes, 1e-6, seed=1)).bits  # type: ignore[arg-type]
    assert (others - of_two).abs().max() > 1e-4


def test_what_one_image_or_one_probe_cannot_say_is_null() -> None:
    summary = bits_per_dim(Known(), pictures(1), Condition(), How(1, 1e-3)).summary()  # type: ignore[arg-type]
    assert summary["standard_error"] is None
    assert summary["standard_error_by_probes"] is None
    assert math.isfinite(summary["value"])


def test_few_dimensions_are_measured_exactly() -> None:
    assert probes_for(FEW_DIMENSIONS) == 0
    assert probes_for(FEW_DIMENSIONS + 1) > 1


def test_no_images_and_images_that_are_not_finite_are_named() -> None:
    with pytest.raises(UserError, match="0 images"):
        bits_per_dim(Known(), pictures(3).subset(torch.tensor([], dtype=torch.int64)), Condition(), How(0))  # type: ignore[arg-type]
    broken = Condition(label=torch.tensor([0.0, math.nan]))
    with pytest.raises(UserError, match="image 17 of the data has no finite velocity at t ="):
        bits_per_dim(Known(), pictures(2, [5, 17]), broken, How(2))  # type: ignore[arg-type]


def test_the_command_measures_the_held_out_images_and_writes_its_protocol(mine: Path) -> None:
    said = made(ditkit("likelihood", mine, *LOOSE))
    found = read(mine)
    bits, protocol = found["bits_per_dim"], found["protocol"]
    assert f"{bits['value']:.4f}" in said.out
    assert "likelihood.json" in said.out
    assert bits["samples"] == 3
    assert bits["standard_error_by_probes"] > 0
    assert bits["standard_error"] > 0
    assert found["evaluations"]["value"] >= 8
    assert protocol["data"]["which"] == "held out"
    assert protocol["data"]["labels"] == "of the data"
    assert protocol["divergence"] == "Hutchinson, 2 Rademacher probes"
    assert protocol["step"] == 4
    again = made(ditkit("likelihood", mine, *LOOSE))
    assert read(mine)["bits_per_dim"] == bits, again


def test_given_images_are_matched_by_class_name_and_brought_to_size(mine: Path, tmp_path: Path) -> None:
    data = draw_images(tmp_path / "dogs", [f"dog/{i}.png" for i in range(4)], size=(12, 10))
    said = made(ditkit("likelihood", mine, "--data", data, *LOOSE))
    assert "resized" in said.out
    protocol = read(mine)["protocol"]
    assert protocol["data"]["notes"] == ["4 of 4 images were resized and centre-cropped to 8x8"]
    assert protocol["data"]["source"] == str(data)
    chosen = likelihood.choose(load_model(open_run(mine)), str(data), 4)
    assert chosen.condition.label is not None
    assert chosen.condition.label.tolist() == [1] * 4  # the model's dog, the data's first class


def test_data_without_classes_are_measured_under_the_null(mine: Path, loose: Path) -> None:
    chosen = likelihood.choose(load_model(open_run(mine)), str(loose), 5)
    assert chosen.condition.label is not None
    assert chosen.condition.label.tolist() == [NULL_LABEL] * 5
    assert chosen.images.indices.tolist() == [0, 5, 10, 14, 19]
    assert "null" in chosen.about["labels"]


def test_an_unconditional_run(unconditional: Path, pets: Path) -> None:
    chosen = likelihood.choose(load_model(open_run(unconditional)), None, 999)
    assert chosen.condition.label is None
    assert len(chosen.images) == 20
    assert chosen.about["which"] == "trained on"
    assert likelihood.choose(load_model(open_run(unconditional)), str(pets), 3).condition.label is None


def test_bad_input_is_refused(mine: Path, loose: Path, tmp_path: Path) -> None:
    assert_refused(ditkit("likelihood", tmp_path / "nowhere"), "nowhere", "does not exist")
    assert_refused(ditkit("likelihood", tmp_path), "is not a run")
    assert_refused(ditkit("likelihood", mine, "--data", tmp_path / "none"), "none", "does not exist")
    (tmp_path / "empty").mkdir()
    assert_refused(ditkit("likelihood", mine, "--data", tmp_path / "empty"), "empty", "expected images")
    birds = draw_images(tmp_path / "birds", ["bird/1.png"])
    assert_refused(ditkit("likelihood", mine, "--data", birds), "--data", "'bird'", "cat, dog")
    for option in ("--num 0", "--probes -1", "--tolerance 1e-17", "--tolerance nan", "--batch-size 0"):
        assert_refused(ditkit("likelihood", mine, *option.split()), option)
    assert not (mine / "likelihood.json").exists()
    text = (mine / "recipe.yaml").read_text()
    (mine / "recipe.yaml").write_text(text.replace("label_dropout: 0.5", "label_dropout: 0"))
    assert_refused(ditkit("likelihood", mine, "--data", loose), "no classes", "label_dropout", "'cat'")
    (mine / "recipe.yaml").write_text(text.replace("autoencoder: null", "autoencoder: some"))
    assert_refused(ditkit("likelihood", mine), "diffuses latents", "trained on pixels")
    (mine / "recipe.yaml").write_text(text)
    shutil.rmtree(mine / "checkpoints")
    assert_refused(ditkit("likelihood", mine), "checkpoint")


def test_data_that_changed_since_the_run_began(pets: Path, tmp_path: Path) -> None:
    shutil.copytree(pets, tmp_path / "pets")
    made(train(tmp_path / "pets", tmp_path / "r"))
    (tmp_path / "pets" / "cat" / "00.png").unlink()
    assert_refused(ditkit("likelihood", tmp_path / "r"), "changed since the run began", "--data")


def test_weights_that_are_not_finite(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(net: torch.nn.Module, *args: object) -> None:
        for p in net.parameters():
            p.data.fill_(math.nan)

    monkeypatch.setattr("ditkit.train.checkpoint.load_weights", spoilt)
    assert_refused(ditkit("likelihood", mine, *LOOSE), "image ", "has no finite velocity", "model is trained")
    assert not (mine / "likelihood.json").exists()
