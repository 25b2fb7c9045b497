"""What a user can get wrong is answered with one line and exit code 2, before long work, and leaves nothing behind."""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
from pathlib import Path

import pytest
import torch

from ditkit.backbones.output import Output
from ditkit.process.denoiser import Denoiser
from tests.running import TINY, Said, ditkit, draw_images, made, train


def assert_refused(said: Said, *words: str) -> None:
    """Exit code 2 and one line with all these words."""
    assert said.code == 2, said
    assert len(said.err) == 1, said.err
    assert not [word for word in words if word not in said.err[0]], said.err[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder with what is in it, and every folder."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


BAD_TRAINING = {
    "--trian.steps 3": ["--trian.steps", "did you mean --train.steps?"],
    "--train.steps 0": ["--train.steps 0", "expected greater than 0"],
    "--train.steps -3": ["--train.steps -3", "greater than 0"],
    "--train.batch-size 99999999999999999999": ["--train.batch-size", "less than 2147483648"],
    "--model.width 1000000000": ["not enough memory", "smaller model"],
    "--model.mlp-ratio 1e300": ["--model.mlp-ratio", "less than 1000"],
    "--train.ema-also abc": ["--train.ema-also 'abc': expected [FLOAT [FLOAT ...]]"],
    "--train.betas a 0.9": ["--train.betas 'a', '0.9': expected FLOAT FLOAT"],
    "--train.betas 0.9": ["--train.betas lacks a value: expected 2 in all"],
    "--process.objective-options weight": ["--process.objective-options: expected [STR STR|FLOAT"],
    "--train.steps many": ["--train.steps 'many'", "expected a whole number"],
    "--train.steps 1.5": ["--train.steps '1.5'", "expected a whole number"],
    "--train.lr nan": ["--train.lr nan", "finite"],
    "--train.lr inf": ["--train.lr inf", "finite"],
    "--train.lr 0": ["--train.lr 0", "greater than 0"],
    "--train.betas 0.9 1": ["--train.betas 1", "less than 1"],
    "--train.label-dropout 1.2": ["--train.label-dropout 1.2", "less than or equal to 1"],
    "--train.precision float16": ["--train.precision 'float16'", "'bfloat16'", "'float32'"],
    "--train.device gpu": ["'gpu'", "expected auto, cpu, cuda"],
    "--train.device meta": ["'meta'", "expected auto, cpu, cuda"],
    "--train.device cuda:99": ["'cuda:99'", "expected auto, cpu, cuda"],
    "--model.backbone ditt": ["unknown backbone 'ditt'", "did you mean 'dit'?"],
    "--model.preset DiT-S/3": ["unknown preset 'DiT-S/3'", "DiT-S/2"],
    "--model.conditioning adaln_one": ["unknown conditioning 'adaln_one'", "did you mean 'adaln_zero'?"],
    "--model.heads 3": ["width 8", "3 heads", "divide the width"],
    "--model.width 10": ["width 10", "multiple of 4"],
    "--model.patch-size 3": ["8x8", "not divisible", "patch size 3"],
    "--data.size 9": ["9x9", "patch size 4", "such as 8"],
    "--data.size 0": ["size 0", "at least 1"],
    "--data.size 1000000000000": ["size 1000000000000", "at most 65536"],
    "--data.heldout 1": ["--data.heldout 1", "less than 1"],
    "--data.channels 5": ["--data.channels '5'", "'1'", "'4'"],
    "--data.autoencoder nowhere": ["nowhere"],
    "--process.path cosin": ["unknown path 'cosin'", "did you mean 'cosine'?"],
    "--process.path-options stepz 50": ["'stepz'", "did you mean 'steps'?"],
    "--process.path-options steps 50.5": ["steps", "50.5", "integer"],
    "--process.path-options steps 5": ["steps 5", "at least 20"],
    "--process.path cosine --process.path-options steps -5": ["path cosine", "-5"],
    "--process.path vp --process.path-options beta_max 0.2": ["t = 1", "too little noise", "--process.path-options"],
    "--process.prediction epsi": ["unknown prediction 'epsi'", "did you mean 'eps'?"],
    "--process.objective simpl": ["unknown objective 'simpl'", "did you mean 'simple'?"],
    "--process.objective hybrid": ["hybrid", "--process.learned-variance"],
    "--process.objective-options vb 1": ["'vb'", "weight"],
    "--process.objective-options weight min_snr gama 5": ["'gama'", "weight min_snr", "did you mean 'gamma'?"],
    "--process.objective-options gamma 5": ["'gamma'", "objective simple with weight none"],
    "--process.objective-options weight min_snr gamma much": ["gamma", "'much'", "number", "5.0"],
    "--process.objective-options weight min_snr gamma 0": ["gamma 0", "expected above 0"],
    "--process.prediction edm --process.prediction-options sigma_data 0": ["sigma_data 0", "expected above 0"],
    "--process.objective knn --process.objective-options k 5 n -1": ["n -1", "expected at least 0"],
    "--process.learned-variance --process.objective hybrid --process.objective-options vb 1": ["'vb'", "vb_weight"],
    "--process.learned-variance": ["--process.learned-variance", "simple as it is set teaches no", "hybrid or vlb"],
    "--process.learned-variance --process.objective vlb --process.objective-options variance beta": [
        "vlb",
        "teaches no",
    ],
    "--process.learned-variance --process.objective hybrid --process.objective-options vb_weight 0": ["teaches no"],
    "--process.learned-variance --process.objective hybrid --process.objective-options vb_weight -1": [
        "vb_weight -1",
        "expected at least 0",
    ],
    "--process.density-options high 1.5": ["training times from 0", "to 1.5", "low < high <= 1"],
    "--process.density-options low 0.8 high 0.2": ["training times from 0.8 to 0.2", "low < high"],
    "--sample.solver ddimm": ["unknown solver 'ddimm'", "did you mean 'ddim'?"],
    "--sample.solver-options etta 1": ["'etta'", "did you mean 'eta'?"],
    "--sample.solver-options noise 1": ["'noise'", "expected one of eta"],
    "--sample.solver-options eta lots": ["eta", "'lots'", "number"],
    "--sample.solver-options eta 7": ["eta 7", "expected 0", "1"],
    "--sample.solver-options eta nan": ["eta", "finite"],
    "--sample.solver ddpm --sample.solver-options variance any": ["'any'", "posterior"],
    "--sample.solver ddpm --sample.solver-options variance learned": ["'learned'", "use 'posterior' or 'beta'"],
    "--sample.steps 0": ["steps 0", "expected 1 to"],
    "--sample.steps 1001": ["steps 1001", "expected 1 to 1000"],
    "--sample.steps lots": ["'lots'", "expected a number"],
    "--sample.steps ddim300": ["'ddim300'", "try 300"],
    "--sample.guidance-interval 0.8 0.2": ["0.8 to 0.2", "low <= high"],
    "--sample.steps ddim-5": ["'ddim-5'", "ddim1 to ddim1000"],
    "--evaluate.num 3": ["--evaluate.num 3", "greater than or equal to 4"],
    "--sample.guidance nan": ["--sample.guidance nan", "finite"],
    "--sample.guidance-channels 0": ["--sample.guidance-channels 0", "greater than 0"],
    "--sample.guidance-channels 5": ["--guidance-channels 5", "expected at most 1", "that the model diffuses"],
}


@pytest.mark.parametrize("options", BAD_TRAINING)
def test_training_is_refused_before_a_folder_is_made(options: str, pets: Path, tmp_path: Path) -> None:
    assert_refused(train(pets, tmp_path / "runs" / "new", *options.split()), *BAD_TRAINING[options])
    assert not contents(tmp_path)


def test_steps_of_samples_that_the_chain_lacks_are_named_as_training_calls_them(tmp_path: Path) -> None:
    said = ditkit("train", "digits", "--out", tmp_path / "r", "--process.path-options", "steps", 20)
    assert_refused(said, "expected 1 to 20", "--sample.steps 30")


def test_arguments_that_are_missing(pets: Path, tmp_path: Path) -> None:
    assert_refused(ditkit("train", "--out", tmp_path / "r"), "--data is missing", "digits")
    assert_refused(ditkit("train", "--data", pets), "--out is missing", "runs/")
    assert_refused(ditkit("train", "--data", pets, "--out", tmp_path / "r"), "patch_size", "--model.preset")
    assert_refused(ditkit("sample"), "PATH")
    assert_refused(ditkit("trainn"), "'trainn'", "did you mean 'train'?")
    assert_refused(train(pets, tmp_path / "r", "digitz"), "unknown recipe 'digitz'", "did you mean 'digits'?")
    assert_refused(train(pets, tmp_path / "r", "my.yaml"), "my.yaml does not exist")
    assert not contents(tmp_path)


def test_bad_data(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a")
    before = contents(tmp_path)
    assert_refused(train(tmp_path / "nowhere", tmp_path / "r"), "nowhere", "does not exist", "a folder of images")
    assert_refused(train(tmp_path / "emty", tmp_path / "r"), "does not exist", "did you mean", "empty")
    assert_refused(train(tmp_path / "empty", tmp_path / "r"), "empty", "expected images")
    assert_refused(train(tmp_path / "text", tmp_path / "r"), "no images", "a.txt")
    assert_refused(train("~nobody-of-this-name/x", tmp_path / "r"), "~nobody-of-this-name/x", "does not exist")
    assert contents(tmp_path) == before


def test_a_run_inside_its_data(pets: Path, tmp_path: Path) -> None:
    shutil.copytree(pets, tmp_path / "pets")
    (tmp_path / "link").symlink_to(tmp_path / "pets")
    before = contents(tmp_path)
    for out in ("pets/run", "pets/cat/run", "link/run"):
        assert_refused(train(tmp_path / "pets", tmp_path / out), out, "inside the data", "elsewhere")
    assert contents(tmp_path) == before


def test_more_than_a_percent_of_broken_images(tmp_path: Path) -> None:
    data = draw_images(tmp_path / "data", [f"{i}.png" for i in range(20)])
    (data / "3.png").write_bytes(b"no picture")
    assert_refused(train(data, tmp_path / "r"), "3.png", "1%", "replace or remove")
    assert not (tmp_path / "r").exists()


def test_folders_that_cannot_be_written(run: Path, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    before = contents(tmp_path)
    for out, word in (("file", "not empty"), ("file/x", "is a file"), ("full", "not empty")):
        assert_refused(train(pets, tmp_path / out), f"--out {tmp_path / out}", word, "choose another")
        assert_refused(ditkit("sample", run, "--out", tmp_path / out), f"--out {tmp_path / out}", word)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert_refused(train(pets, tmp_path / "new"), "not writable", "choose another")
    assert_refused(ditkit("sample", run, "--out", tmp_path / "new"), "not writable")
    assert_refused(ditkit("report", run), f"{run} is not writable", "make it writable")
    for options in (["--sheet", tmp_path / "new"], ["--sheet", "None", "--json", tmp_path / "new"]):
        assert_refused(ditkit("data", "check", pets, *options), f"results go to {tmp_path}")
    assert contents(tmp_path) == before


def test_what_is_known_to_be_wrong_is_said_before_data_or_model_are_read(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("long work began")

    monkeypatch.setattr("ditkit.app.training.open_source", never)
    monkeypatch.setattr("ditkit.train.checkpoint.open_checkpoint", never)
    monkeypatch.setattr("ditkit.app.measuring.draw", never)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for option in ("solver ddimm", "steps 0", "guidance-interval 0.8 0.2", "solver-options eta 7"):
        assert_refused(train("digits", tmp_path / "r", *f"--sample.{option}".split()))
        assert_refused(ditkit("sample", run, "--out", tmp_path / "s", *f"--{option}".split()))
        assert_refused(ditkit("evaluate", run, *f"--{option}".split()))
    assert_refused(train("digits", tmp_path / "full"))
    assert_refused(train("digits", tmp_path / "r", "--process.objective", "hybrid"))
    assert_refused(ditkit("sample", run, "--out", tmp_path / "full"))
    assert not (tmp_path / "r").exists()


BAD_SAMPLING = {
    "--grid given --grid-options times 0.9,0.2,0.5,0 --steps 3": ["grid times 0.2, 0.5", "smaller than the one before"],
    "--grid given --grid-options times 1,1,0 --steps 2": ["grid times 1, 1", "smaller than the one before"],
    "--grid given --grid-options times 1000,500,0 --steps 2": ["time 1000", "expected 0 (data) to 1 (noise)"],
    "--grid given --grid-options times 0.5,-1 --steps 1": ["time -1", "expected 0 (data) to 1 (noise)"],
    "--grid given --grid-options times 1,nan,0 --steps 2": ["time nan", "expected 0 (data) to 1 (noise)"],
    "--grid-options t_max 1.5": ["times from 1.5 to 0", "expected 1 >= t_max > t_min >= 0"],
    "--grid-options t_min 1": ["times from 1 to 1", "expected 1 >= t_max > t_min >= 0"],
    "--grid given --grid-options times 0.3,0.1,0 --steps 2": ["t = 0.3", "expected 3 or more", "times that begin"],
    "--grid-options t_max 0.3": ["the grid begins at t = 0.3", "too little noise", "t_max"],
    "--grid karras --grid-options sigma_max 1": ["noise level (sigma / alpha) 1", "too little noise", "sigma_max"],
    "--grid given --grid-options times 1, --steps 1": ["'1,'", "expected numbers"],
    "--grid given --steps 1": ["times ''", "expected numbers", "such as 1,0.6,0.3,0"],
    "--grid given --grid-options times 1,0.5,0 --steps 5": ["steps 5", "3 times make 2 steps"],
    "--solver dpmpp_3m --grid karras --steps 0": ["steps 0", "at least 1"],
    "--solver dpmpp_3m --solver-options order 4": ["'order'", "expected one of"],
    "--solver unipc --solver-options order 9": ["order 9", "expected 1 to 5"],
    "--classes 2": ["--classes 2", "0 to 1"],
    "--classes -1": ["--classes -1", "0 to 1"],
    "--classes=--3": ["unknown class '--3'", "cat, dog"],
    "--classes cat,dgo": ["unknown class 'dgo'", "did you mean 'dog'?"],
    "--classes 0,": ["unknown class ''", "cat, dog"],
    "--solver ddimm": ["did you mean 'ddim'?"],
    "--solver-options eta": ["--solver-options 'eta'", "STR"],
    "--solver-options eta 2": ["eta 2", "expected 0"],
    "--steps 0": ["steps 0", "expected 1 to"],
    "--steps 2000": ["steps 2000", "1 to 1000"],
    "--steps x": ["'x'", "expected a number"],
    "--num 0": ["--num 0", "greater than 0"],
    "--num x": ["--num 'x'", "whole number"],
    "--num nan": ["--num 'nan'", "whole number"],
    "--guidance nan": ["--guidance nan", "finite"],
    "--guidance x": ["--guidance 'x'", "FLOAT"],
    "--guidance-channels 0": ["--guidance-channels 0", "greater than 0"],
    "--guidance-channels 5": ["--guidance-channels 5", "expected at most 1", "that the model diffuses"],
    "--steps=": ["steps ''", "expected a number", "ddim50"],
    "--solver edm --solver-options s_min 5 s_max 1": ["s_min 5, s_max 1", "expected s_min <= s_max"],
    "--guidance-interval .5 .1": ["0.5 to 0.1", "low <= high"],
    "--guidance-interval .5": ["--guidance-interval '.5'", "FLOAT FLOAT"],
    "--batch-size 0": ["--batch-size 0", "greater than 0"],
    "--weights mine": ["has no weights 'mine'", "expected one of ema, weights"],
    "--device cuda:99": ["'cuda:99'", "expected auto, cpu"],
    "--numm 3": ["--numm", "did you mean --num?"],
    "--guidance-weak-scale 3": ["--guidance-weak-scale 3.0 does nothing without --guidance-weak", "leave the option"],
    "--guidance-weak-weights ema": ["--guidance-weak-weights ema does nothing without --guidance-weak"],
    "--guidance-classifier-scale 3": ["--guidance-classifier-scale 3.0", "without --guidance-classifier"],
    "--guidance 1 --guidance-negative cat": ["--guidance-negative cat does nothing", "--guidance other than 1"],
    "--guidance 1 --guidance-rescale 0.5": ["--guidance-rescale 0.5 does nothing", "--guidance other than 1"],
    "--guidance 1 --guidance-interval 0 0.5": ["--guidance-interval 0.0 0.5 does nothing", "--guidance-classifier"],
}


@pytest.mark.parametrize("options", BAD_SAMPLING)
def test_sampling_is_refused(options: str, run: Path, tmp_path: Path) -> None:
    assert_refused(ditkit("sample", run, "--out", tmp_path / "s", *options.split()), *BAD_SAMPLING[options])
    assert not contents(tmp_path)


def test_a_pair_that_is_singular_at_the_noise_begins_below_it_unless_it_is_told_not_to(
    pets: Path, tmp_path: Path
) -> None:
    pair = ["--process.path", "linear", "--process.prediction", "eps"]
    words = ["'eps'", "'linear'", "singular at t = 1", "start the grid below it"]
    assert_refused(train(pets, tmp_path / "r", *pair, "--sample.grid-options", "t_max", 1), *words)
    assert not contents(tmp_path)
    made(train(pets, tmp_path / "r", *pair, "--train.sample-every", 4))
    made(ditkit("sample", tmp_path / "r", "--out", tmp_path / "s", "--num", 2))
    for grid in (["--grid-options", "t_max", 1], ["--grid", "given", "--grid-options", "times", "1,0.5,0"]):
        assert_refused(ditkit("sample", tmp_path / "r", "--out", tmp_path / "t", *grid, "--num", 2), *words)
    assert not (tmp_path / "t").exists()


def test_samples_that_are_not_finite_are_named_and_not_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(net: torch.nn.Module, *args: object) -> None:
        for p in net.parameters():
            p.data.fill_(math.nan)

    monkeypatch.setattr("ditkit.train.checkpoint.load_weights", spoilt)
    for solver in ("ddim", "ddpm", "dopri5", "dpm_adaptive"):
        said = ditkit("sample", run, "--out", tmp_path / "s", "--num", 3, "--seed", 5, "--solver", solver)
        assert_refused(said, "step 1", "the sample of seed 5 is not finite at t = ", "is the model trained?")
    assert not contents(tmp_path)


def test_clipping_does_not_hide_what_is_infinite(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = Denoiser.output

    def infinite(self: Denoiser, *args: object) -> Output:
        said = output(self, *args)  # type: ignore[arg-type]
        return dataclasses.replace(said, prediction=torch.full_like(said.prediction, -math.inf))

    monkeypatch.setattr(Denoiser, "output", infinite)
    said = ditkit("sample", run, "--out", tmp_path / "s", "--num", 3, "--seed", 5, "--clip", "True")
    assert_refused(said, "step 1: the sample of seed 5 is not finite at t = ", "is the model trained?")
    assert not contents(tmp_path)


def test_times_of_ones_own(run: Path, tmp_path: Path) -> None:
    grid = ["--grid", "given", "--grid-options", "times", "1,0.9,0.15,0"]
    made(ditkit("sample", run, "--out", tmp_path / "s", "--num", 2, *grid, "--steps", 3))


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("solver", ["dpmpp_3m", "unipc", "dpm_fast", "lms"])
def test_fewer_steps_than_a_solvers_order_lower_the_order(solver: str, steps: int, run: Path, tmp_path: Path) -> None:
    how = ["--solver", solver, "--grid", "karras", "--steps", steps]
    made(ditkit("sample", run, "--out", tmp_path / "s", "--num", 2, *how))


@pytest.mark.parametrize(
    "option", ["--guidance 3", "--guidance-rescale 0.5", "--guidance-channels 1", "--guidance-interval 0.2 0.5"]
)
def test_guidance_of_an_unconditional_model_is_not_silently_unused(
    option: str, unconditional: Path, tmp_path: Path
) -> None:
    words = [option.split()[0], "does nothing", "unconditional", "leave the option out"]
    for command in (["sample", unconditional, "--out", tmp_path / "s"], ["evaluate", unconditional]):
        assert_refused(ditkit(*command, *option.split()), *words)
    assert_refused(ditkit("evaluate", unconditional, "--sweep.guidance", 1, 3), "--guidance 3", *words[1:])
    assert not contents(tmp_path)


def test_an_unconditional_model_may_be_told_to_go_without(unconditional: Path, tmp_path: Path) -> None:
    made(ditkit("sample", unconditional, "--out", tmp_path / "s", "--num", 2, "--guidance", 1))
    itself = ["--guidance-weak", unconditional, "--guidance-interval", 0.2, 0.5]
    made(ditkit("sample", unconditional, "--out", tmp_path / "t", "--num", 2, *itself))


def test_classes_of_an_unconditional_model(unconditional: Path, tmp_path: Path) -> None:
    said = ditkit("sample", unconditional, "--classes", "0", "--out", tmp_path / "s")
    assert_refused(said, "--classes 0", "unconditional", "leave the option out")
    assert not contents(tmp_path)


@pytest.mark.parametrize("command", ["sample", "evaluate", "report", "info", "train"])
def test_a_folder_that_is_no_run(command: str, tmp_path: Path) -> None:
    args = ["train", "--resume"] if command == "train" else [command]
    assert_refused(ditkit(*args, tmp_path / "nowhere"), "nowhere", "does not exist")
    assert_refused(ditkit(*args, tmp_path), str(tmp_path), "is not a run", "recipe.yaml")
    assert not contents(tmp_path)


def test_a_run_that_exists_stays(run: Path, pets: Path) -> None:
    before = contents(run)
    assert_refused(train(pets, run), f"run {run} exists", f"--resume {run}")
    assert contents(run) == before


def test_resume_with_what_may_not_change(run: Path, pets: Path) -> None:
    before = contents(run)
    for options in (
        ["--train.lr", 1],
        ["--data.size", 4],
        ["--out", "x"],
        ["--model.width", 16],
        ["--train.batch_size=8"],
    ):
        assert_refused(ditkit("train", "--resume", run, *options), str(options[0]).split("=")[0].replace("_", "-"))
    assert_refused(ditkit("train", "--resume", run, "digits"), "leave out digits")
    assert_refused(ditkit("train", "digits", "--resume", run), "leave out digits")
    assert_refused(ditkit("train", "--resume", run, "--train.steps", 3), "--train.steps 3", "at step 4")
    assert_refused(ditkit("train", "--resume", run, "--train.steps", 0), "--train.steps 0")
    assert contents(run) == before


def test_resume_with_other_images(pets: Path, tmp_path: Path) -> None:
    shutil.copytree(pets, tmp_path / "pets")
    made(train(tmp_path / "pets", tmp_path / "r"))
    (tmp_path / "pets" / "cat" / "00.png").unlink()
    before = contents(tmp_path / "r")
    said = ditkit("train", "--resume", tmp_path / "r", "--train.steps", 9)
    assert_refused(said, "changed since the run began", "same images")
    assert contents(tmp_path / "r") == before


def test_a_damaged_recipe(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(run, mine)
    text = (mine / "recipe.yaml").read_text()
    for old, new, *words in [
        ("  width: 8", "  widht: 8", "model.widht", "did you mean 'width'?"),
        ("  width: 8", "  width: wide", "model.width", "'wide'", "integer"),
        ("  width: 8", "  width: -8", "model.width", "-8", "greater than 0"),
        ("  lr: 0.1", "  lr: .nan", "train.lr", "finite"),
        ("data:", "data: [", "not YAML"),
        ("seed: 0", "seed: 0\nsead: 1", "sead", "did you mean 'seed'?"),
    ]:
        assert old in text
        (mine / "recipe.yaml").write_text(text.replace(old, new))
        for args in (["sample", mine, "--out", tmp_path / "s"], ["info", mine], ["train", "--resume", mine]):
            assert_refused(ditkit(*args), "recipe.yaml", *words)
    (mine / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    assert_refused(ditkit("info", mine), "recipe.yaml", "not a text file")
    assert not (tmp_path / "s").exists()


def test_recipes_that_cannot_be_read(pets: Path, tmp_path: Path) -> None:
    for name, text, *words in [
        ("a.yaml", "model: {widht: 3}", "model.widht", "did you mean 'width'?"),
        ("b.py", "x = 1", "sets no `recipe`"),
        ("c.py", "recipe = 1 / 0", "ZeroDivisionError"),
        ("e.py", "raise SystemExit(3)", "SystemExit"),
        ("d.py", "from ditkit.app.recipe import Model\nModel(width=-1)", "width", "-1", "greater than 0"),
    ]:
        (tmp_path / name).write_text(text)
        assert_refused(ditkit("train", tmp_path / name, "--data", pets, "--out", tmp_path / "r", *TINY), name, *words)
    assert not (tmp_path / "r").exists()


def test_a_reference_that_is_missing_is_said_before_sampling(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("sampling began")

    monkeypatch.setattr("ditkit.app.measuring.draw", never)
    assert_refused(ditkit("evaluate", run, "--reference", tmp_path / "nowhere"), "nowhere", "does not exist")
    others = draw_images(tmp_path / "birds", [f"bird/{i}.png" for i in range(9)])
    assert_refused(ditkit("evaluate", run, "--reference", others), "'bird'", "cat, dog")
    assert not (run / "metrics.json").exists()


def test_a_manifest_that_lacks_or_twists_what_is_known_of_the_data(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(run, mine)
    path = mine / "checkpoints" / "step-0000004" / "manifest.json"
    text = path.read_text()
    for old, new, *words in [
        ('"classes"', '"clazzes"', "about.classes", "required"),
        ('"seconds": ', '"seconds": "x", "was": ', "about.seconds", "valid number"),
        ('"channels": 1', '"channels": 0', "about.channels", "greater than 0"),
    ]:
        assert old in text
        path.write_text(text.replace(old, new))
        for args in (["sample", mine, "--out", tmp_path / "s"], ["info", mine], ["train", "--resume", mine]):
            assert_refused(ditkit(*args), "manifest.json", "delete this checkpoint", *words)
    assert not (tmp_path / "s").exists()


def test_damaged_metrics(run: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(run, mine)
    protocol = '"protocol": {"step": 4, "reference": {"source": "digits"}, "sampling": {"guidance": 1}}'
    seconds = '"seconds_per_sample": {"value": 1}'
    for text in (
        "{",
        "[]",
        "{}",
        '{"protocol": {"step": 4}}',
        '{"protocol": 3}',
        f'{{{protocol}, {seconds}, "precision": 3}}',
        f'{{{protocol}, {seconds}, "precision": {{"value": "high"}}}}',
    ):
        (mine / "metrics.json").write_text(text)
        assert_refused(ditkit("report", mine), "metrics.json", "delete it", "ditkit evaluate")
    assert not (mine / "report.html").exists()


def test_a_demo_does_not_remove_what_is_no_demo(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ditkit.app.training.start", lambda recipe, out: pytest.fail("the demo began"))
    mine = tmp_path / "mine"
    shutil.copytree(run, mine)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").write_text("mine")
    before = contents(tmp_path)
    assert_refused(ditkit("demo", "--out", mine), str(mine), "not a demo")
    assert_refused(ditkit("demo", "--out", tmp_path / "full"), "not a demo")
    assert contents(tmp_path) == before
