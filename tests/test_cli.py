"""The command line from training to the report, called as a user calls it."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ditkit import __version__
from ditkit.app import build, measuring, training
from ditkit.app.cli import commands, load
from ditkit.app.model import load_model
from ditkit.app.recipe import Measuring, Sampling
from ditkit.app.recipe_files import load_recipe
from ditkit.app.run import open_run
from ditkit.app.samples import RunSamples
from ditkit.base import registry
from ditkit.base.errors import UserError
from ditkit.condition import Condition
from ditkit.process.grids import uniform as sampling_grid
from ditkit.sample import sample, trajectory
from ditkit.solvers.state import State
from tests.running import TINY, ditkit, draw_images, environment, made, root, train
from tests.test_refusals import assert_refused

COMMANDS = ["demo", "evaluate", "info", "likelihood", "report", "sample", "study", "train"]


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh process."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)


def test_the_commands_are_found() -> None:
    assert set(COMMANDS) <= commands().keys()
    assert all(line.endswith(".") for line in commands().values())


def test_help_answers_at_once_without_anything_heavy() -> None:
    heavy = ("torch", "tyro", "pydantic", "numpy", "yaml", "PIL")
    code = (
        "import sys, ditkit.app.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = python(code)
        seconds.append(time.perf_counter() - start)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert all(command in done.stdout for command in COMMANDS)
    assert min(seconds) < 0.5


HEAVY = ("torch._dynamo", "sympy", "sklearn", "scipy", "pandas", "matplotlib", "transformers", "datasets", "pyarrow")


def test_light_commands_import_nothing_heavy(run: Path, tmp_path: Path) -> None:
    code = (
        "import sys, ditkit.app.cli as cli\n"
        f"for args in (['info', 'solvers'], ['info', 'guidance'], ['sample', {str(run)!r}, '--num', '1', '--out', "
        f"{str(tmp_path / 'out')!r}]):\n"
        "    try: cli.main(args)\n"
        "    except SystemExit as stop: assert not stop.code\n"
        f"    assert not [name for name in {HEAVY} if name in sys.modules], args"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("seconds", [0, 0.5])
def test_a_long_wait_for_pytorch_is_told(
    seconds: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ditkit.app.cli._PATIENCE", 0.1)
    monkeypatch.setattr("ditkit.app.cli.importlib.import_module", lambda name: time.sleep(seconds))
    load("info")
    assert capsys.readouterr().err == ("ditkit info: loading PyTorch\n" if seconds else "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command_does_without_torch(command: str) -> None:
    code = (
        f"import sys, ditkit.app.cli as cli\ntry: cli.main([{command!r}, '--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\nassert 'torch' not in sys.modules"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert f"usage: ditkit {command}" in done.stdout
    options = done.stdout.split("--help", 1)[1]
    for option in re.findall(r"(?m)^│ (--[a-z].*)$", options):
        assert re.search(r" [A-Z{\[]|-no-|--no-|,", option), f"no type: {option}"
    assert options.count("(default: ") + options.count("(required)") >= len(re.findall(r"(?m)^│ --[a-z]", options)) - 1


def test_help_says_units_and_ranges() -> None:
    said = " ".join(re.sub(r"[│\n]", " ", made(ditkit("train", "--help")).out).split())
    for words in ("in pixels", "Optimiser steps in all", "after this many minutes", "Images per optimiser step"):
        assert words in said
    said = " ".join(re.sub(r"[│\n]", " ", made(ditkit("sample", "--help")).out).split())
    assert "(0 data, 1 noise)" in said


def test_version_and_no_command() -> None:
    assert ditkit("--version").out.strip() == f"ditkit {__version__}"
    nothing = ditkit()
    assert nothing.code == 2
    assert "usage: ditkit COMMAND" in nothing.out


def test_commands_that_share_no_work_are_refused_in_several_processes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for command in (["train", "digits", "--out", tmp_path / "r"], ["sample", run, "--out", tmp_path / "s"]):
        said = ditkit(*command)
        assert (said.code, len(said.err)) == (2, 1)
        assert "without torchrun" in said.err[0]
    assert "torchrun" not in ditkit("reproduce", "digitz").err[0]
    assert not list(tmp_path.iterdir())


def test_training_makes_the_run_folder(pets: Path, tmp_path: Path) -> None:
    made(train(pets, tmp_path / "r", "--train.sample-every", 2, "--data.heldout", 0.1))
    names = {str(p.relative_to(tmp_path / "r")) for p in (tmp_path / "r").rglob("*") if p.is_file()}
    step = {f"checkpoints/step-0000004/{name}" for name in ("manifest.json", "weights.safetensors", "ema.safetensors")}
    assert step | {"recipe.yaml", "log.jsonl", "samples/step-0000002.png", "samples/step-0000004.png"} <= names
    first, *records = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    assert first["event"] == "start"
    assert first["data"]["classes"] == ["cat", "dog"]
    assert first["data"]["images"] == 120
    assert [r["step"] for r in records] == [1, 2, 3, 4]
    assert {"loss", "mse", "lr", "grad_norm", "images_per_s", "seconds"} <= records[0].keys()
    with Image.open(tmp_path / "r" / "samples" / "step-0000004.png") as sheet:
        assert sheet.size == (2 * 8 + 2, 8 * 8 + 7 * 2)  # two classes in columns, eight rows


@pytest.mark.parametrize("command", [name for name in commands() if name.startswith("train")])
def test_a_training_ends_with_the_commands_that_come_next(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "start", lambda *_: None)
    said = made(ditkit(command, "--data", "digits", "--out", "my runs/first")).out
    assert len(said.splitlines()) == 1
    assert set(re.findall("ditkit ([a-z-]+)", said)) <= commands().keys() - {command}
    assert "'my runs/first'" in said


def test_sampling_during_training_changes_no_training(pets: Path, tmp_path: Path) -> None:
    made(train(pets, tmp_path / "a", "--train.sample-every", 1))
    made(train(pets, tmp_path / "b"))
    files = [tmp_path / r / "checkpoints" / "step-0000004" / "weights.safetensors" for r in ("a", "b")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_what_is_skipped_or_resized_is_said_and_logged(tmp_path: Path) -> None:
    data = draw_images(tmp_path / "data", [f"{i:03d}.png" for i in range(100)])
    draw_images(data, ["wide.png"], size=(8, 20))
    (data / "050.png").write_bytes(b"no picture")
    said = made(train(data, tmp_path / "r"))
    assert "1 of 100 images were resized and centre-cropped to 8x8" in said.out
    assert "1 of 101 images do not decode and were skipped: 050.png" in said.out
    records = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    assert records[0]["data"]["skipped"] == 1
    assert sum("resized" in r.get("note", "") for r in records) == 1
    skipped = [r["image"] for r in records if r.get("event") == "skipped"]
    assert skipped == ["050.png"]
    made(ditkit("train", "--resume", tmp_path / "r", "--train.steps", 6))
    records = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    assert [r["image"] for r in records if r.get("event") == "skipped"] == skipped  # named once


def pictures(folder: Path) -> dict[str, bytes]:
    """The pixels of every PNG in a folder."""
    found = {}
    for path in sorted(folder.glob("seed*.png")):
        with Image.open(path) as picture:
            found[path.name] = picture.tobytes()
    return found


@pytest.mark.parametrize("solver", [["ddim"], ["ddpm"], ["ddim", "--solver-options", "eta", "0.5"]], ids="-".join)
@pytest.mark.parametrize("model", ["run", "unconditional"])
def test_an_image_depends_on_its_seed_alone(
    model: str, solver: list[str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(model)
    led = ["--classes", "dog", "--guidance", 3] if model == "run" else []
    how = [*led, "--steps", 3, "--solver", *solver]
    drawn = {}
    for name, args in {
        "all": ["--num", 67, "--batch-size", 64],
        "three": ["--num", 10, "--batch-size", 3],
        "one": ["--num", 2, "--batch-size", 1],
        "later": ["--num", 3, "--batch-size", 64, "--seed", 60],
    }.items():
        made(ditkit("sample", folder, "--out", tmp_path / name, *how, *args))
        drawn[name] = pictures(tmp_path / name)
    assert len(drawn["all"]) == 67
    assert len(set(drawn["all"].values())) > 60  # and not the same image for all seeds
    for name in ("three", "one", "later"):
        assert drawn[name].items() <= drawn["all"].items()


def test_samples_are_equal_to_the_bit_before_they_are_rounded(run: Path, unconditional: Path) -> None:
    for folder in (run, unconditional):
        model = load_model(open_run(folder))
        # steps of adaptive solvers depend on the worst sample of a batch: their images agree within the tolerance
        fixed = [name for name, solver in build.known("solver").items() if "rtol" not in registry.options(solver)]
        assert {"ddpm", "ddim", "heun", "dpmpp_2m", "euler_maruyama"} <= set(fixed)
        for solver in fixed:
            how = model.how(Sampling(solver=solver, guidance=4.0))
            ts = sampling_grid(model.denoiser.path, "5")
            condition = Condition(label=model.labels(64))
            whole = sample(model.denoiser, condition, range(64), model.latent_shape, ts, batch_size=64, **how)
            last = (model.denoiser, condition[54:], range(54, 64), model.latent_shape, ts)
            for size in (1, 3):  # ten are three times 3 and one
                assert (sample(*last, batch_size=size, **how) == whole[54:]).all(), (solver, size)


def test_a_training_that_minutes_ended_says_so(pets: Path, tmp_path: Path) -> None:
    said = made(train(pets, tmp_path / "r", "--train.steps", 1000, "--train.minutes", 1e-4))
    assert "0.0001 minutes of --train.minutes ended the training at step 1 of 1,000" in "".join(said.err)
    assert "where the training ends: nothing is left" in made(ditkit("train", "--resume", tmp_path / "r")).out


def test_every_sample_has_noise_of_its_own_at_every_step(unconditional: Path) -> None:
    model = load_model(open_run(unconditional))
    drawn: dict[int, list[torch.Tensor]] = {}

    def solver(denoise: Any, x: torch.Tensor, ts: torch.Tensor, *, noise: Any) -> Iterator[State]:
        for i, seed in enumerate(seeds):
            drawn.setdefault(seed, []).extend([x[i], noise(0)[i], noise(1)[i]])
        yield State(x, ts[-1], denoise(x, ts[0]))

    ts = sampling_grid(model.denoiser.path, "2")
    for seeds in ([5, 6, 7], [7]):
        list(trajectory(model.denoiser, Condition(), seeds, model.latent_shape, ts, solver=solver))
    alone = [tensor.tolist() for tensor in drawn[7]]
    assert alone[:3] == alone[3:]
    every = [str(tensor.tolist()) for seed in (5, 6, 7) for tensor in drawn[seed][:3]]
    assert len(set(every)) == 9


def test_guidance_classes_and_weights_change_the_images(run: Path, tmp_path: Path) -> None:
    seen = set()
    for i, args in enumerate(
        [[], ["--guidance", 9], ["--classes", "dog,cat"], ["--weights", "weights"], ["--guidance", 9, "--clip", "True"]]
    ):
        how = ["--steps", 3, "--num", 2, "--guidance", 2]
        made(ditkit("sample", run, "--out", tmp_path / str(i), *how, *args))
        seen.add(b"".join(pictures(tmp_path / str(i)).values()))
    assert len(seen) == 5


def test_the_files_of_a_sampling(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "here"
    said = made(ditkit("sample", run, "--num", 5, "--classes", "1,cat", "--seed", 7, "--out", out, "--npz"))
    assert str(out) in said.out
    images = [f"seed{7 + i:06d}-class{label}.png" for i, label in enumerate([1, 0, 1, 0, 1])]
    assert sorted(p.name for p in out.iterdir()) == sorted([*images, "grid.png", "samples.npz"])
    with np.load(out / "samples.npz") as arrays:
        assert arrays["arr_0"].shape == (5, 8, 8, 3)
        assert arrays["arr_0"].dtype == np.uint8
        assert arrays["arr_1"].tolist() == [1, 0, 1, 0, 1]
        with Image.open(out / images[3]) as picture:
            assert np.array_equal(np.asarray(picture), arrays["arr_0"][3, :, :, 0])
    assert ditkit("sample", run, "--num", 1).code == 0
    assert (run / "samples" / "seed-0" / "grid.png").is_file()
    assert ditkit("sample", run, "--num", 1).code == 2  # the folder by default is not overwritten either


def test_how_a_foreign_checkpoint_is_read_is_not_silently_unused(run: Path) -> None:
    assert_refused(ditkit("info", run, "--heads", 3), "--heads 3", f"{run} is no file", "leave it out")
    assert_refused(ditkit("info", "solvers", "--input-size", 3, 4), "--input-size 3 4", "solvers is no file")


def test_info(run: Path, unconditional: Path) -> None:
    said = made(ditkit("info", run)).out
    for words in (
        "step-0000004",
        "120 images of 8x8x1",
        "2 (cat, dog)",
        "4 (2x2)",
        "per image and network call",
        "width: 8",
    ):
        assert words in said
    shorter = made(ditkit("info", run / "checkpoints" / "step-0000002", "--no-recipe")).out
    assert "step-0000002" in shorter
    assert "width: 8" not in shorter
    assert re.search(r"(?m)^classes +none$", made(ditkit("info", unconditional)).out)


METRICS = ["frechet_distance", "precision", "recall", "class_accuracy", "classifier_heldout_accuracy"]


class Page(HTMLParser):
    """What a page refers to, its ids and its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.words = " ".join(re.sub(r"<[^>]*>", " ", text).split()).lower()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collects."""
        given = dict(attrs)
        self.ids |= {given["id"]} if given.get("id") else set()
        self.links += [value for key in ("src", "href", "srcset", "data") if (value := given.get(key))]


def report_of(run: Path) -> Page:
    """The page of a run, after making sure that it needs nothing else."""
    text = (run / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not [link for link in page.links if not link.startswith(("data:", "#"))]
    assert not re.search(r"@import|url\((?!['\"]?(data:|#))", text)
    return page


@pytest.fixture(scope="module")
def measured(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run that was evaluated and reported on."""
    run = tmp_path_factory.mktemp("measured") / "r"
    sizes = ["--evaluate.num", 30, "--evaluate.sweep-num", 20, "--evaluate.sweep", 1, 3]
    sizes += ["--evaluate-every", 2, "--evaluate.every-num", 20]
    made(train(pets, run, "--data.heldout", 0.2, "--train.sample-every", 2, *sizes))
    made(ditkit("evaluate", run))
    made(ditkit("report", run))
    return run


def test_metrics_have_values_and_samples(measured: Path) -> None:
    metrics: dict[str, Any] = json.loads((measured / "metrics.json").read_text())
    for name in METRICS:
        assert isinstance(metrics[name]["value"], float), name
        assert metrics[name]["samples"] >= (30 if name != "classifier_heldout_accuracy" else 1)
    protocol = metrics["protocol"]
    assert metrics["about"]["step"] == 4
    assert protocol["sampling"]["guidance"] == 1.5
    assert protocol["reference"]["images"] == 120
    assert protocol["versions"]["torch"]
    assert metrics["copy_rate"]["samples"] == 30


def test_the_report_shows_everything(measured: Path) -> None:
    page = report_of(measured)
    sections = {"samples", "log", "progress", "sweep", "trajectory", "neighbours", "metrics", "recipe", "environment"}
    assert sections <= page.ids
    assert "not shown:" not in page.words
    for words in ("class_accuracy", "cat", "dog", "width: 8", "torch"):
        assert words in page.words.replace(" accuracy", "_accuracy"), words
    assert sum(link.startswith("data:image") for link in page.links) >= 5


def test_a_second_report_draws_no_sweep_again_and_is_the_same(
    measured: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copied = shutil.copytree(measured, tmp_path / measured.name)
    scales: list[float] = []
    part = RunSamples.part
    spy = lambda self, *args: scales.append(self.plan.sampling.guidance) or part(self, *args)  # noqa: E731
    monkeypatch.setattr(RunSamples, "part", spy)
    made(ditkit("report", copied))
    assert scales == []
    assert _sweep_of(copied) == _sweep_of(measured)
    (copied / "report" / "guidance-3" / "000000000-000000020.safetensors").write_bytes(b"damaged")
    made(ditkit("report", copied))
    assert scales == [3]
    assert _sweep_of(copied) == _sweep_of(measured)


def _sweep_of(run: Path) -> str:
    page = (run / "report.html").read_text()
    return page[page.index('id="sweep"') : page.index('id="trajectory"')]


def test_measuring_again_gives_the_same_numbers(measured: Path) -> None:
    before = json.loads((measured / "metrics.json").read_text())
    said = made(ditkit("evaluate", measured, "--reference", before["about"]["reference"]))
    after = json.loads((measured / "metrics.json").read_text())
    assert {k: after[k]["value"] for k in METRICS} == {k: before[k]["value"] for k in METRICS}
    assert all(name in said.out for name in METRICS)


def test_a_report_says_beforehand_what_it_measures(measured: Path, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begun(*_: object) -> None:
        raise UserError("the work has begun")

    monkeypatch.setattr(measuring, "reference", begun)
    said, also = ditkit("report", measured).err, ditkit("report", run).err
    assert "measures 20 samples for each of 2 guidance scales" in said[0]
    assert "not evaluated" not in said[0]
    assert "measures 1,000 samples, as the run was not evaluated at step 4" in also[0]
    assert f"ditkit evaluate {run} --num N" in also[0]
    assert [len(said), len(also)] == [2, 2]
    assert "the work has begun" in also[1]


def test_an_unconditional_run_is_measured_and_reported(unconditional: Path) -> None:
    made(ditkit("evaluate", unconditional, "--num", 20))
    metrics = json.loads((unconditional / "metrics.json").read_text())
    assert {"frechet_distance", "precision", "recall"} <= metrics.keys()
    assert "class_accuracy" not in metrics
    made(ditkit("report", unconditional))
    page = report_of(unconditional)
    assert "fewer than 20 images were held out" in page.words
    assert "unconditional" in page.words


def test_a_run_of_one_class_is_measured_and_reported(tmp_path: Path) -> None:
    data = draw_images(tmp_path / "data", [f"cat/{i}.png" for i in range(12)])
    made(train(data, tmp_path / "r", "--evaluate.num", 8, "--evaluate.sweep-num", 8))
    made(ditkit("evaluate", tmp_path / "r"))
    assert "class_accuracy" not in json.loads((tmp_path / "r" / "metrics.json").read_text())
    made(ditkit("report", tmp_path / "r"))


def test_a_log_with_lines_that_are_no_records(unconditional: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(unconditional, mine)
    before = open_run(mine).records()
    with open(mine / "log.jsonl", "ab") as log:
        log.write(b'3\nnull\n[1]\n{"step": "x"}\n{"loss": 1}\n\xff\xfe\n{"step": 1, "lo')
    assert open_run(mine).records() == before
    made(ditkit("train", "--resume", mine, "--train.steps", 5))


def test_the_images_that_are_held_out_stay_so_when_classes_are_not_used(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    split = training.split
    for place in (training, measuring):
        monkeypatch.setattr(place, "split", lambda *args: seen.append(split(*args)) or seen[-1])
    made(train(pets, tmp_path / "r", "--data.heldout", 0.3, "--data.no-classes"))
    model = load_model(open_run(tmp_path / "r"))
    network = measuring.reference(model, None).network
    measuring.copies(model, model.draw(range(2), None, model.run.recipe.sample), network)
    trained, measured = seen[0][1], seen[-1][1]
    assert len(seen) >= 2
    assert trained.indices.tolist() == measured.indices.tolist()


def test_demo_trains_measures_reports_and_begins_anew(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = load_recipe("digits")
    tiny = dataclasses.replace(
        tiny,
        data=dataclasses.replace(tiny.data, source=str(pets), heldout=0.2),
        model=dataclasses.replace(tiny.model, patch_size=4, width=8, depth=1, heads=2),
        train=dataclasses.replace(tiny.train, steps=3, batch_size=4, minutes=None, sample_every=2),
        sample=dataclasses.replace(tiny.sample, steps="2"),
        evaluate=Measuring(num=20, sweep=(1.0, 2.0), sweep_num=10),
    )
    monkeypatch.setattr("ditkit.app.commands.demo.load_recipe", lambda name: tiny)
    for _ in range(2):
        said = made(ditkit("demo", "--out", tmp_path / "demo"))
        assert all(name in said.out for name in METRICS)
        assert f"report: {tmp_path / 'demo' / 'report.html'}" in said.out
    for name in ("recipe.yaml", "log.jsonl", "metrics.json", "report.html", "samples/step-0000003.png"):
        assert (tmp_path / "demo" / name).is_file()


def test_the_module_can_be_run_and_a_closed_pipe_is_no_error(run: Path) -> None:
    command = [sys.executable, "-m", "ditkit.app.cli", "info", str(run)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), cwd=root()
    ) as process:
        assert process.stdout
        process.stdout.close()
        assert process.stderr
        assert "Traceback" not in process.stderr.read()


def test_names_that_the_terminal_cannot_show_and_outputs_that_are_closed_or_full(tmp_path: Path) -> None:
    data = draw_images(tmp_path / "data", [f"{kind}/{i}.png" for kind in ("née", "日本") for i in range(2)])
    made(train(data, tmp_path / "r"))

    def shell(command: str) -> subprocess.CompletedProcess[str]:
        command = command.replace("ditkit", f"{sys.executable} -m ditkit.app.cli")
        own = environment() | {"PYTHONIOENCODING": "ascii"}
        return subprocess.run(command, shell=True, capture_output=True, text=True, env=own, cwd=tmp_path, timeout=60)

    shown = shell("ditkit info r")
    assert shown.returncode == 0
    assert "Error" not in shown.stderr
    assert "n\\xe9e" in shown.stdout
    assert shell("ditkit info nowhere 2>&-").returncode == 2
    for command in ("--help", "--version"):
        full = shell(f"ditkit {command} > /dev/full")
        assert full.returncode == 2
        assert [line for line in full.stderr.splitlines() if "No space left" in line]
        assert "Traceback" not in full.stderr


def test_bars_within_bars_move_no_cursor_in_a_file() -> None:
    said = python(
        "from ditkit.app import cli; cli._prepare_streams()\n"
        "from tqdm import tqdm\n"
        "for _ in tqdm(range(2), 'outer'):\n"
        "    for _ in tqdm(range(2), 'inner'): pass\n"
    ).stderr
    assert "outer: 100%" in said
    assert "inner: 100%" in said
    assert "\x1b" not in said


def test_an_archive_and_a_size_that_is_not_square(pets: Path, tmp_path: Path) -> None:
    archive = shutil.make_archive(str(tmp_path / "pets"), "zip", pets)
    options = [*TINY, "--data.size", 12, 8, "--data.channels", 3, "--data.no-classes"]
    made(ditkit("train", "--data", archive, "--out", tmp_path / "r", *options))
    made(ditkit("sample", tmp_path / "r", "--num", 1, "--out", tmp_path / "s"))
    with Image.open(tmp_path / "s" / "seed000000.png") as picture:
        assert (picture.mode, picture.size) == ("RGB", (8, 12))
