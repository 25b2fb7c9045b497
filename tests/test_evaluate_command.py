"""ditkit evaluate as a user calls it: sweeps, kills, processes, images as samples, protocols that must agree."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

from ditkit.app import likelihood, measuring, references, reporting
from ditkit.app.drawn import save_samples
from ditkit.app.evaluating import comparison
from ditkit.app.model import Model, load_model
from ditkit.app.references import Space, open_reference
from ditkit.app.run import open_run
from ditkit.app.samples import FileSamples, Plan, RunSamples
from ditkit.base.workers import Workers
from ditkit.evaluate import parts as parts_module
from ditkit.evaluate import points as points_module
from ditkit.evaluate.classifier import untrained
from ditkit.evaluate.copies import feature_copy_report
from ditkit.evaluate.neighbours import squared_neighbours
from ditkit.evaluate.npz import write_statistics
from ditkit.evaluate.parts import Store, collect, parts_of
from ditkit.evaluate.protocol import differences, protocol_hash
from tests.running import CALM, Trial, ditkit, draw_images, environment, made, train
from tests.test_refusals import assert_refused

NUM = 300
"""Three parts of 128."""


pytestmark = pytest.mark.usefixtures("quick_feature_space")


@pytest.fixture(scope="module")
def mine(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with classes, with its classifier and its statistics: they are made once."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(run, folder)
    made(ditkit("evaluate", folder, "--num", NUM))
    return folder


@pytest.fixture
def copied(mine: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(mine, tmp_path / "run")
    return tmp_path / "run"


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def numbers(found: dict[str, Any]) -> dict[str, Any]:
    """All that two runs of one protocol must agree in."""
    return {k: v for k, v in found.items() if k not in ("about", "seconds_per_sample")}


def test_numbers_carry_their_protocol_and_two_runs_of_it_agree(mine: Path, copied: Path) -> None:
    made(ditkit("evaluate", copied, "--num", NUM, "--batch-size", 50))
    found, again = read(mine), read(copied)
    assert numbers(found) == numbers(again)
    protocol = found["protocol"]
    assert found["protocol_hash"] == protocol_hash(protocol)
    assert {"samples", "sampling", "labels", "seeds", "weights", "ema_decay", "autoencoder", "dtype"} <= protocol.keys()
    assert {"feature_space", "reference", "standard_error", "versions"} <= protocol.keys()
    assert protocol["feature_space"]["hash"]
    assert protocol["samples"] == NUM
    speed = {"seconds_per_sample"}
    for name, entry in found.items():
        if "value" in entry and name not in speed:
            assert entry["standard_error"] >= 0, name
            assert entry["error_from"], name
    assert protocol["feature_space"].keys() >= {"architecture", "seed", "heldout_accuracy", "hash", "resizing", "dtype"}
    assert not (copied / ".evaluating").exists()


@pytest.mark.parametrize(
    ("option", "place"),
    [
        (["--guidance", 2], "sampling.guidance"),
        (["--steps", 3], "sampling.steps"),
        (["--labels", "random"], "labels"),
        (["--weights", "weights"], "weights"),
        (["--seed", 1], "seeds"),
    ],
)
def test_whatever_changes_the_numbers_changes_the_hash(mine: Path, copied: Path, option: list[Any], place: str) -> None:
    made(ditkit("evaluate", copied, "--num", NUM, *option))
    assert place in differences(read(mine)["protocol"], read(copied)["protocol"])
    comparable, said = comparison(mine, copied)
    assert not comparable
    assert place in said
    assert ditkit("evaluate", "--compare", mine, copied).code == 1


def test_results_of_one_protocol_are_compared_with_their_errors(mine: Path, copied: Path) -> None:
    said = made(ditkit("evaluate", "--compare", mine, copied / "metrics.json"))
    assert "comparable: both by protocol" in said.out
    assert "+0 ±" in said.out
    path = copied / "metrics.json"
    path.write_text(path.read_text().replace('"guidance": 1.5', '"guidance": 1.6'))
    assert_refused(ditkit("evaluate", "--compare", mine, copied), "protocol_hash", "delete it")
    assert_refused(ditkit("evaluate", "--compare", mine, copied / "nothing.json"), "nothing.json")


def test_a_kill_while_drawing_loses_one_part(
    copied: Path, mine: Path, trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw = Model.draw

    def counted(self: Model, seeds: range, *args: Any, **kwargs: Any) -> torch.Tensor:
        drawn.append(seeds[0])
        return draw(self, seeds, *args, **kwargs)

    (copied / "metrics.json").unlink()
    killed = trial(["evaluate", copied, "--num", NUM], at=["ditkit.evaluate.parts.atomic_file", 3])
    assert killed["code"] == -9
    monkeypatch.setattr(Model, "draw", counted)
    assert sorted(p.name for p in copied.glob(".evaluating/*/*")) == [
        "000000000-000000128.safetensors",
        "000000128-000000256.safetensors",
    ]
    made(ditkit("evaluate", copied, "--num", NUM))
    assert drawn == [256]
    assert numbers(read(copied)) == numbers(read(mine))


def test_two_processes_give_the_numbers_of_one(copied: Path, mine: Path) -> None:
    (copied / "metrics.json").unlink()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "--"]
    command += ["ditkit.app.cli", "evaluate", str(copied), "--num", str(NUM)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("written to") == 1
    assert numbers(read(copied)) == numbers(read(mine))


class Apart(Workers):
    """Two processes that do not wait for one another."""

    def wait(self) -> None:
        """Returns."""


def test_processes_share_the_parts(mine: Path, tmp_path: Path) -> None:
    model = load_model(open_run(mine))
    against = measuring.reference(model, None)
    samples, parts = RunSamples.of(model, Plan(model.run.recipe.sample, NUM)), parts_of(NUM)
    store = Store(tmp_path, "f")
    assert not list(collect(samples, against.network, parts, store=store, workers=Apart(1, 2), progress=None))
    assert [store.has(rows) for rows in parts] == [False, True, False]
    assert not Store(tmp_path, "other").has(parts[1])  # a stale one is not taken
    assert not store.has(parts[1], images=True)
    found = list(collect(samples, against.network, parts, store=store, workers=Apart(0, 2), progress=None))
    assert [part.rows for part in found] == parts


def test_the_bar_moves_while_a_part_is_drawn(mine: Path) -> None:
    model = load_model(open_run(mine))
    sampling = dataclasses.replace(model.run.recipe.sample, batch_size=4, steps=5)
    told: list[float] = []
    RunSamples.of(model, Plan(sampling, 6)).part(range(6), told.append)
    assert told == [pytest.approx(4 / 5)] * 5 + [pytest.approx(2 / 5)] * 5
    with tqdm(total=8, initial=2, disable=False, file=io.StringIO()) as bar:
        move, seen = parts_module._moving(bar, 6), []
        for share in [*told, 6]:  # the whole part at the end, whatever was told before
            move(share)
            seen.append(bar.n)
    assert seen == [2, 3, 4, 5, 6, 6, 6, 7, 7, 8, 8]


def test_a_sweep_measures_every_combination_and_its_reference_once(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(copied / "references")
    seen: list[int] = []
    measure: Callable[..., Any] = references._measure
    monkeypatch.setattr(references, "_measure", lambda *args: seen.append(1) or measure(*args))
    sweep = ["--sweep.guidance", 1, 3, "--sweep.solver", "ddim", "heun@quadratic", "--sweep.weights", "ema", "weights"]
    said = made(ditkit("evaluate", copied, "--num", 20, *sweep))
    results = json.loads((copied / "sweep" / "results.json").read_text())
    assert len(results) == len({r["protocol_hash"] for r in results}) == 8
    assert {r["protocol"]["sampling"]["grid"] for r in results} == {"uniform", "quadratic"}
    assert len(seen) == 1
    assert "guidance 3.0, solver heun" in said.out
    assert "guidance 3.0" in (copied / "sweep" / "table.md").read_text()
    assert (copied / "sweep" / "plot.svg").read_text().startswith("<svg")
    made(ditkit("evaluate", copied, "--num", 20, *sweep[:3]))
    assert len(seen) == 1  # the cache on disk


def test_the_balls_of_the_reference_are_computed_once(
    copied: Path, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are of all its pairs: the longest work of a measurement with few samples."""
    asked: list[int] = []

    def counted(points: torch.Tensor, k: int, **how: Any) -> torch.Tensor:
        asked.append(len(points))
        return squared_neighbours(points, k, **how)

    monkeypatch.setattr(points_module, "squared_neighbours", counted)
    shutil.rmtree(copied / "references", ignore_errors=True)
    made(ditkit("evaluate", copied, "--num", 20, "--scores", "kernel_distance"))  # needs the same of the reference
    assert asked == []
    made(ditkit("evaluate", copied, "--num", 20, "--sweep.guidance", 1, 2))
    made(ditkit("evaluate", copied, "--num", 24))
    assert asked == [120]


def test_errors_over_sets_of_samples(copied: Path) -> None:
    made(ditkit("evaluate", copied, "--num", 20, "--repeats", 3))
    found = read(copied)
    entry = found["frechet_distance"]
    assert len(entry["values"]) == 3
    assert entry["value"] == pytest.approx(np.mean(entry["values"]))
    assert entry["standard_error"] == pytest.approx(np.std(entry["values"], ddof=1) / 3**0.5, rel=1e-2)
    assert found["protocol"]["seeds"] == [0, 59]
    assert "over 3 sets" in found["protocol"]["standard_error"]


def test_labels_are_balanced_or_drawn(mine: Path) -> None:
    model = load_model(open_run(mine))
    sampling = model.run.recipe.sample
    balanced = RunSamples.of(model, Plan(sampling, 400)).labels
    drawn = [RunSamples.of(model, Plan(sampling, n, labels="random")).labels for n in (400, 200)]
    assert balanced is not None
    assert drawn[0] is not None
    assert drawn[1] is not None
    assert balanced.bincount().tolist() == [200, 200]
    assert drawn[0].bincount().tolist() != [200, 200]
    assert drawn[0].bincount().min() > 160
    assert torch.equal(drawn[0][:200], drawn[1])


def test_written_samples_are_measured_to_the_same_numbers(copied: Path, pets: Path, tmp_path: Path) -> None:
    file = tmp_path / "samples.npz"
    made(ditkit("evaluate", copied, "--num", NUM, "--npz", file, "--features", "self"))
    with np.load(file) as arrays:
        assert arrays["arr_0"].shape == (NUM, 8, 8, 3)
        assert arrays["arr_0"].dtype == np.uint8
    folder = tmp_path / "folder"
    made(ditkit("sample", copied, "--num", NUM, "--out", folder / "all"))
    (folder / "all" / "grid.png").unlink()
    labels = {p.name: "cat" if "class0" in p.name else "dog" for p in (folder / "all").iterdir()}
    for name, label in labels.items():
        (folder / label).mkdir(exist_ok=True)
        (folder / "all" / name).rename(folder / label / name)
    (folder / "all").rmdir()
    said = made(ditkit("evaluate", folder, "--reference", pets, "--out", tmp_path / "out"))
    assert "frechet_distance" in said.out
    ours, files = read(copied), read(tmp_path / "out")
    for key in ("frechet_distance", "precision", "recall", "class_accuracy", "coverage"):
        assert files[key]["value"] == pytest.approx(ours[key]["value"], rel=1e-4, abs=1e-6), key
    made(ditkit("evaluate", file, "--reference", pets))
    assert read(tmp_path / "samples-evaluation")["frechet_distance"]["samples"] == NUM


def test_a_folder_of_samples_is_measured_without_its_sheet(copied: Path, pets: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "drawn", tmp_path / "out"
    made(ditkit("sample", copied, "--num", 30, "--out", folder))
    said = made(ditkit("evaluate", folder, "--reference", pets, "--out", out))
    assert "grid.png" in said.out
    assert read(out)["protocol"]["samples"] == 30
    Image.new("L", (9, 8)).save(folder / "other.png")
    refused = ditkit("evaluate", folder, "--reference", pets, "--out", out)
    assert_refused(refused, "different sizes", "30 of 8x8", "1 of 8x9")


def test_classes_that_the_run_does_not_know_are_said_before_anything_is_measured(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "reference", None)
    assert_refused(ditkit("evaluate", copied, "--guidance-negative", "cow", "--guidance", 2), "unknown class 'cow'")


def test_statistics_and_images_in_one_file_as_adm_has_them(
    mine: Path, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(open_run(mine))
    against = measuring.reference(model, None)
    monkeypatch.setattr(references, "load_network", lambda *args: against.network)
    write_statistics(tmp_path / "statistics.npz", against.side)
    how = {"shape": model.shape, "classes": model.classes, "folder": tmp_path, "device": model.device}
    only = open_reference(str(tmp_path / "statistics.npz"), space=Space("pixels"), **how)
    samples = RunSamples.of(model, Plan(model.run.recipe.sample, NUM))
    ours, theirs = (measuring.measure(samples, each, progress=None) for each in (against, only))
    assert ours is not None
    assert theirs is not None
    assert "recall" not in theirs.scores
    assert theirs.scores["frechet_distance"]["value"] == pytest.approx(ours.scores["frechet_distance"]["value"])
    assert_refused(ditkit("evaluate", mine, "--reference", tmp_path / "statistics.npz"), "self", "inception")
    images = np.zeros((9, 8, 8, 1), np.uint8)
    images[:, :4] = np.arange(9)[:, None, None, None] * 25
    with np.load(tmp_path / "statistics.npz") as arrays:
        np.savez(tmp_path / "both.npz", arr_0=images, **arrays)
    both = open_reference(str(tmp_path / "both.npz"), space=Space("pixels"), **how)
    scores = measuring.measure(samples, both, progress=None)
    assert scores is not None
    assert "recall" in scores.scores
    assert scores.scores["frechet_distance"]["value"] == pytest.approx(theirs.scores["frechet_distance"]["value"])


def test_what_cannot_be_measured_is_refused_in_one_line(mine: Path, pets: Path, tmp_path: Path) -> None:
    few = draw_images(tmp_path / "few", ["a.png", "b.png"])
    wide = draw_images(tmp_path / "wide", [f"{i}.png" for i in range(9)], size=(8, 9))
    bird = draw_images(tmp_path / "birds", [f"bird/{i}.png" for i in range(9)])
    np.savez(tmp_path / "nan.npz", arr_0=np.full((9, 8, 8, 3), np.nan, np.float32))
    np.savez(tmp_path / "floats.npz", arr_0=np.full((9, 8, 8, 3), 0.25, np.float32))
    np.savez(tmp_path / "cast.npz", arr_0=np.tile(np.arange(2, dtype=np.uint8), 9 * 96).reshape(9, 8, 8, 3))
    np.savez(tmp_path / "black.npz", arr_0=np.zeros((9, 8, 8, 3), np.uint8))
    np.savez(tmp_path / "grey.npz", arr_0=np.arange(9 * 192, dtype=np.uint8).reshape(9, 8, 8, 3))
    for args, *words in [
        ([few, "--reference", pets], "2 images", "at least 4"),
        ([tmp_path / "black.npz", "--reference", pets], "black.npz are all of one value, 0", "before the cast"),
        ([tmp_path / "grey.npz", "--reference", tmp_path / "black.npz"], "--reference", "all of one value, 0"),
        ([mine, "--reference", few], "2 images", "at least 4"),
        ([wide, "--reference", pets], "8x9", "8x8"),
        ([pets, "--reference", pets], "to be measured", "give other ones"),
        ([bird, "--reference", pets], "unknown class 'bird'"),
        ([tmp_path / "nan.npz", "--reference", pets], "float32", "NaN", "uint8"),
        ([tmp_path / "floats.npz", "--reference", pets], "float32", "0.25..0.25", "uint8"),
        ([tmp_path / "cast.npz", "--reference", pets], "no values but [0, 1]", "look like floats"),
        ([pets], "--reference"),
        ([pets, "--reference", wide, "--num", 9], "no run"),
        ([], "what to measure"),
        ([mine, "--scores", "fidd"], "unknown score 'fidd'"),
        ([mine, "--features", "inceptionn"], "unknown feature network", "inception"),
        ([mine, "--weights", "optimizer"], "no weights 'optimizer'", "ema"),
        ([mine, "--sweep.solver", "ddimm"], "ddimm", "ddim"),
        ([mine, "--sweep.guidance", 1, 2, "--npz", tmp_path / "s.npz"], "2 sets"),
        ([tmp_path / "nowhere", "--reference", pets], "nowhere"),
    ]:
        assert_refused(ditkit("evaluate", *args), *words)
    assert not list(mine.glob(".evaluating/*"))


def test_a_sweep_is_not_compared_as_one_result(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "table.md").write_text("| |")
    assert_refused(ditkit("evaluate", "--compare", mine, tmp_path), "holds a sweep", "table.md", "without --sweep")


def test_what_a_sweep_takes_the_place_of_is_not_silently_unused(mine: Path, tmp_path: Path) -> None:
    for given, swept, remedy in [
        (["--weights", "weights"], ["--sweep.weights", "ema", "weights"], "leave it out"),
        (["--steps", "3"], ["--sweep.steps", "1", "2"], "leave it out"),
        (["--guidance", "4.0"], ["--sweep.guidance", "1.0", "2.0"], "leave it out"),
        (["--solver", "heun"], ["--sweep.solver", "ddim"], "add what it says to the sweep"),
        (["--solver-options", "eta", "0.5"], ["--sweep.solver", "ddim"], "add what it says to the sweep"),
        (["--grid", "karras"], ["--sweep.solver", "ddim@uniform"], "leave it out"),
        (["--grid-options", "rho", "3.0"], ["--sweep.solver", "ddim@karras"], "add what it says to the sweep"),
    ]:
        words = [" ".join(given), "does nothing", " ".join(swept), remedy]
        assert_refused(ditkit("evaluate", mine, *given, *swept), *words)
    shaped = ["--guidance-interval", 0.1, 0.2, "--sweep.guidance", 1, 2, "--sweep.steps", 1]
    made(ditkit("evaluate", mine, "--num", 20, *shaped, "--out", tmp_path))
    assert_refused(ditkit("evaluate", mine, *shaped[:4], 1), "--guidance-interval 0.1 0.2 does nothing")


def test_a_grid_is_for_the_solvers_of_a_sweep_that_name_none(copied: Path, tmp_path: Path) -> None:
    sweep = ["--grid", "quadratic", "--sweep.solver", "ddim", "heun@uniform"]
    made(ditkit("evaluate", copied, "--num", 20, "--out", tmp_path / "o", *sweep))
    results = json.loads((tmp_path / "o" / "sweep" / "results.json").read_text())
    assert [r["protocol"]["sampling"]["grid"] for r in results] == ["quadratic", "uniform"]


def test_two_words_for_one_drawing_are_no_sweep(mine: Path, tmp_path: Path) -> None:
    said = ditkit("evaluate", mine, "--num", 20, "--out", tmp_path / "o", "--sweep.solver", "ddim", "ddim:eta=0")
    assert_refused(said, "variant 2 of 2 (solver ddim", "as variant 1", "name each way of drawing once")


def test_samples_are_read_with_the_channels_that_they_have(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 4), dtype=np.uint8)
    save_samples(tmp_path / "s", torch.from_numpy(pixels), range(30), None)  # as ditkit sample writes them
    found = FileSamples.open(str(tmp_path / "s"))
    assert torch.equal(found.images.get(torch.arange(30)), torch.from_numpy(pixels))
    draw_images(tmp_path / "real", [f"{i}.png" for i in range(20)], size=(4, 4))
    measured = ["evaluate", tmp_path / "s", "--reference", tmp_path / "real"]
    file = ["--reference-npz", tmp_path / "r.npz"]
    assert_refused(ditkit(*measured, "--features", "pixels", *file), "4 channels, one of them alpha", "save them w")
    draw_images(tmp_path / "s", ["seed000003.png"], size=(4, 4))
    assert_refused(ditkit(*measured), "30 of 31 looked at have it", "seed000003.png has none", "all or")


def test_a_run_is_measured_in_another_size_than_trainings(copied: Path, mine: Path, tmp_path: Path) -> None:
    wide = ["--features", "pixels", "--num", 20, "--size", 12, 16, "--npz", tmp_path / "s.npz"]
    made(ditkit("evaluate", copied, *wide))
    assert np.load(tmp_path / "s.npz")["arr_0"].shape == (20, 12, 16, 3)
    found = read(copied)
    assert found["protocol"]["size"] == [12, 16]
    assert found["copy_rate"]["samples"] == 20
    classifier = (copied / "classifier" / "network.safetensors").read_bytes()
    made(ditkit("evaluate", copied, "--num", 20, "--size", 12, 16))
    assert (copied / "sizes" / "12x16" / "classifier").is_dir()
    assert (copied / "classifier" / "network.safetensors").read_bytes() == classifier
    assert reporting._measured(load_model(open_run(copied))) is None
    assert reporting._measured(load_model(open_run(copied)).sized((12, 16))) == read(copied)
    assert_refused(ditkit("evaluate", mine, "--size", 9), "--size 9 9", "patch size 4")
    assert_refused(ditkit("evaluate", mine, "--size", 12, "--likelihood", 2), "--likelihood 2 beside --size 12")
    assert_refused(ditkit("evaluate", tmp_path, "--reference", mine, "--size", 12, 16), "leave out --size 12 16")


def test_no_two_sizes_share_a_protocol(mine: Path) -> None:
    model = load_model(open_run(mine))
    against = measuring.reference(model, None)  # for all of them: statistics do not tell what they are held against
    plain, same, other = (
        protocol_hash(measuring.protocol(RunSamples.of(each, Plan(model.run.recipe.sample, NUM)), against))
        for each in (model, model.sized(8), model.sized((8, 12)))
    )
    assert plain == same != other


@pytest.mark.parametrize(
    ("score", "why"),
    [
        ("cmmd", "feature network clip"),
        ("classifier_heldout_accuracy", "classifier of the reference"),
        ("class_accuracy", "labels of classes"),
        ("inception_score", "logits"),
        ("spatial_frechet_distance", "spatial features"),
        ("clip_score", "captions"),
    ],
)
def test_a_score_that_the_feature_space_cannot_give_is_refused_before_long_work(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: str, why: str
) -> None:
    monkeypatch.setattr(references, "_measure", _never)
    monkeypatch.setattr(Model, "draw", _never)
    asked = ["--features", "pixels", "--scores", "frechet_distance", score, "--out", tmp_path / "out"]
    assert_refused(ditkit("evaluate", mine, *asked), f"score '{score}' cannot be computed", why, "leave it out")


@pytest.mark.parametrize(
    ("score", "why"), [("cmmd", "feature network clip"), ("clip_score", "captions"), ("spatial_frechet_distance", "sp")]
)
def test_a_score_that_a_classifier_cannot_give_is_refused_before_one_is_trained(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: str, why: str
) -> None:
    monkeypatch.setattr(references, "cached_classifier", _never)
    refused = ditkit("evaluate", mine, "--scores", "frechet_distance", score, "--out", tmp_path / "out")
    assert_refused(refused, f"score '{score}' cannot be computed", why, "leave it out")
    assert not (tmp_path / "out").exists()


def test_an_untrained_classifier_gives_what_a_trained_one_does(mine: Path) -> None:
    trained = measuring.reference(load_model(open_run(mine)), None).classifier
    taps = [each.look(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)) for each in (trained, untrained((1, 8, 8), 2))]
    assert taps[0].features.shape == taps[1].features.shape
    assert taps[0].logits is not None
    assert taps[1].logits is not None
    assert taps[0].logits.shape == taps[1].logits.shape
    assert untrained((1, 8, 8), None).look(torch.zeros(1, 1, 8, 8, dtype=torch.uint8)).logits is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"mu": 16, "sigma": 16}, ["16 numbers", "expected 64", "--features"]),
        ({"arr_0": 9, "mu": 16, "sigma": 16}, ["16 numbers", "expected 64", "--features"]),
        ({"mu_s": 64, "sigma_s": 64}, ["statistics alone (spatial features)", "none such", "--features"]),
        ({"mu_s": 64}, ["holds mu_s, expected", "mu with sigma or mu_s with sigma_s", "save both"]),
        ({"mu": 64, "sigma_s": 64}, ["holds mu, sigma_s, expected", "save both"]),
    ],
)
def test_statistics_that_are_not_the_networks_are_refused_before_drawing(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays: dict[str, int], words: list[str]
) -> None:
    made_of = {
        "arr_0": lambda n: np.arange(n * 64, dtype=np.uint8).reshape(n, 8, 8, 1),
        "mu": np.zeros,
        "sigma": np.eye,
    }
    held: Any = {name: (made_of.get(name) or made_of[name[:-2]])(n) for name, n in arrays.items()}
    np.savez(tmp_path / "other.npz", **held)
    for place in ("ditkit.app.references._measure", "ditkit.app.model.Model.draw"):
        monkeypatch.setattr(place, _never)
    refused = ditkit("evaluate", mine, "--features", "pixels", "--reference", tmp_path / "other.npz")
    assert_refused(refused, "other.npz", *words)


@pytest.mark.parametrize("name", ["classifier", "references", "metrics.json", "samples.npz", "reference.npz", "out"])
def test_what_is_in_the_way_of_the_results_stays_and_is_named_before_long_work(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    place = copied / name if (copied / name).exists() else tmp_path / name
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    if place.suffix:
        place.mkdir()
    else:
        place.write_text("mine")
    for work in ("ditkit.evaluate.classifier.train_classifier", "ditkit.app.model.Model.draw"):
        monkeypatch.setattr(work, _never)
    told = {"samples.npz": ["--npz", place], "reference.npz": ["--reference-npz", place], "out": ["--out", place]}
    assert_refused(ditkit("evaluate", copied, *told.get(name, [])), f"{place} is a")
    assert place.is_dir() if place.suffix else place.read_text() == "mine"


def test_options_that_would_do_nothing_are_refused(mine: Path, unconditional: Path, tmp_path: Path) -> None:
    for args, *words in [
        (["--compare", mine, mine, "--num", 30], "--compare measures nothing", "leave out --num 30"),
        ([mine, "--compare", mine, mine], f"leave out {mine}; expected no options but --compare"),
        ([mine, "--features-weights", "w.pth"], "--features-weights w.pth does nothing", "--features self"),
        (
            [unconditional, "--labels", "random"],
            "--labels random does nothing",
            "unconditional",
            "leave the option out",
        ),
    ]:
        assert_refused(ditkit("evaluate", *args), *words)
    plain = draw_images(tmp_path / "plain", [f"{i}.png" for i in range(9)])
    refused = ditkit("evaluate", plain, "--reference", unconditional, "--scores", "class_accuracy")
    assert refused.code == 2
    assert [p.name for p in tmp_path.iterdir()] == ["plain"]


def _never(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("this would be long work")


def test_a_score_that_the_samples_cannot_have_is_refused_before_they_are_measured(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = draw_images(tmp_path / "plain", [f"{i}.png" for i in range(9)])
    monkeypatch.setattr(references, "cached_classifier", _never)
    asked = ["--scores", "class_accuracy", "--out", tmp_path / "out"]
    refused = ditkit("evaluate", plain, "--reference", pets, *asked)
    assert_refused(refused, "'class_accuracy' cannot be computed", "labels of classes")
    assert not (tmp_path / "out").exists()


def test_other_words_for_the_same_drawing_are_one_protocol(mine: Path) -> None:
    model = load_model(open_run(mine))
    usual = dataclasses.replace(model.run.recipe.sample, solver="ddim", solver_options={}, grid="uniform")

    def said(**changes: Any) -> dict[str, Any]:
        return RunSamples.of(model, Plan(dataclasses.replace(usual, **changes), 8)).protocol["sampling"]

    plain, steps = said(), usual.steps
    assert plain["steps"] == steps
    for same in (
        {"steps": f"00{steps}"},
        {"steps": f" {steps} "},
        {"solver_options": {"eta": 0}},
        {"solver_options": {"eta": "0.0"}},
        {"grid_options": {"to_zero": "true", "t_max": 1.0}},
    ):
        assert said(**same) == plain, same
    for other in ({"steps": "3"}, {"solver_options": {"eta": 0.5}}, {"grid_options": {"t_max": 0.9}}):
        assert said(**other) == plain | other, other


def test_a_damaged_reference_is_measured_again(copied: Path, mine: Path) -> None:
    for path in (copied / "references").iterdir():
        path.write_bytes(b"damaged")
    made(ditkit("evaluate", copied, "--num", NUM))
    assert numbers(read(copied)) == numbers(read(mine))


def test_a_reference_that_changed_in_its_place_is_not_taken_from_before(tmp_path: Path) -> None:
    samples = draw_images(tmp_path / "samples", [f"{i}.png" for i in range(25)])
    real = draw_images(tmp_path / "real", [f"{i}.png" for i in range(24)])
    out = tmp_path / "out"
    measured = ["evaluate", samples, "--reference", real, "--out", out]
    made(ditkit(*measured))
    before = read(out)
    shutil.rmtree(real)
    draw_images(tmp_path / "others", [f"{i}.png" for i in range(23)]).rename(real)
    shutil.copy(samples / "0.png", real / "23.png")  # as many images as before, by the same names
    made(ditkit(*measured))
    assert read(out)["protocol"]["reference"]["fingerprint"] != before["protocol"]["reference"]["fingerprint"]
    assert read(out)["frechet_distance"]["value"] != before["frechet_distance"]["value"]
    assert "not measured: " not in made(ditkit(*measured, "--scores", "frechet_distance")).out


def test_too_few_images_are_warned_of_and_scores_without_meaning_are_left_out(pets: Path, tmp_path: Path) -> None:
    few = draw_images(tmp_path / "few", [f"{'cat' if i < 9 else 'dog'}/{i}.png" for i in range(18)])
    said = made(ditkit("evaluate", few, "--reference", pets, "--out", tmp_path / "out")).out
    assert "not measured: kernel_distance: 18 images are too few, expected at least 20" in said
    assert "not measured: classifier_score: 18 images are too few, expected at least 100" in said
    assert "note on frechet_distance: few images (18): the distance is biased upwards below about" in said
    assert "compare only sets of equal size" in said
    assert set(read(tmp_path / "out")["about"]["left_out"]) == {"kernel_distance", "classifier_score"}
    asked = ["--scores", "kernel_distance", "--out", tmp_path / "asked"]
    assert_refused(ditkit("evaluate", few, "--reference", pets, *asked), "18 samples are too few", "at least 20")
    assert not (tmp_path / "asked").exists()


def test_the_same_pictures_under_other_names_are_told(pets: Path, tmp_path: Path) -> None:
    shutil.copytree(pets, tmp_path / "again")
    (tmp_path / "again" / "cat" / "00.png").rename(tmp_path / "again" / "cat" / "x.png")
    said = made(ditkit("evaluate", tmp_path / "again", "--reference", pets, "--out", tmp_path / "out")).out
    assert "samples and reference are the same images" in said


def test_samples_that_are_a_part_of_the_reference_are_told(pets: Path, tmp_path: Path) -> None:
    new = draw_images(tmp_path / "new", [f"cat/new{i}.png" for i in range(5)])
    for path in sorted((pets / "cat").iterdir())[3:9]:
        shutil.copy(path, new / "cat")
    said = made(ditkit("evaluate", new, "--reference", pets, "--out", tmp_path / "out")).out
    assert "6 of 11 samples are images of the reference" in said
    entry = read(tmp_path / "out")
    assert "images of the reference" in entry["frechet_distance"]["note"]
    assert "note" not in entry["class_accuracy"]


def test_bits_per_dimension_stand_beside_the_scores_of_each_file_of_weights(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    measure: Callable[..., Any] = likelihood.measure
    monkeypatch.setattr(likelihood, "measure", lambda *args: calls.append(1) or measure(*args))
    monkeypatch.setattr(likelihood, "probes_for", lambda dimensions: 1)  # exact is slow
    sweep = ["--sweep.weights", "ema", "weights", "--sweep.guidance", 1, 2]
    said = made(ditkit("evaluate", copied, "--num", 20, "--likelihood", 2, *sweep))
    assert "Bits per dimension" in said.out
    results = json.loads((copied / "sweep" / "results.json").read_text())
    bits = [found["bits_per_dim"] for found in results]
    assert len(calls) == 2
    assert bits[0] == bits[1] != bits[2] == bits[3]
    assert bits[0]["samples"] == 2
    assert bits[0]["standard_error"] > 0
    assert results[0]["protocol"]["likelihood"]["data"]["which"] == "held out"
    assert results[0]["protocol_hash"] == protocol_hash(results[0]["protocol"])


def test_references_are_written_as_adm_has_them(copied: Path, pets: Path, tmp_path: Path) -> None:
    file = tmp_path / "reference.npz"
    made(ditkit("evaluate", copied, "--num", 20, "--reference-npz", file))
    with np.load(file) as arrays:
        assert arrays.files == ["arr_0"]  # statistics of own features are not FID's
        assert arrays["arr_0"].shape == (120, 8, 8, 3)
    ours = read(copied)
    made(ditkit("evaluate", copied, "--num", 20, "--reference", file))
    theirs = read(copied)
    assert theirs["protocol"]["reference"]["images"] == ours["protocol"]["reference"]["images"] == 120
    assert theirs["recall"]["samples"] == 20


def test_parts_do_not_depend_on_what_is_drawn_at_once() -> None:
    assert parts_of(300) == [range(0, 128), range(128, 256), range(256, 300)]
    assert parts_of(300, 50) == parts_of(300)
    assert parts_of(300, 200) == [range(0, 256), range(256, 300)]
    assert parts_module.PART == 128


def test_copies_are_found_in_features_too() -> None:
    draws = torch.Generator().manual_seed(0)
    training, heldout, new = (torch.randn(n, 8, generator=draws) for n in (400, 60, 30))
    found = feature_copy_report(torch.cat([new, training[:5] + 1e-3]), training, heldout, progress=False)
    assert {30, 31, 32, 33, 34} <= set(found.copies.tolist())
    assert len(found.copies) <= 6
    assert found.rows[30:, 0].tolist() == list(range(5))


LOOK = ["--evaluate-every", 2, "--evaluate.every-num", 20, "--evaluate.best", "frechet_distance", "--data.heldout", 0.2]


def test_training_measures_itself_and_keeps_the_best(pets: Path, tmp_path: Path) -> None:
    made(train(pets, tmp_path / "a", *LOOK, *CALM, "--train.steps", 6))
    made(train(pets, tmp_path / "b", *CALM, "--train.steps", 6, "--data.heldout", 0.2))
    files = [tmp_path / r / "checkpoints" / "step-0000006" / "weights.safetensors" for r in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()  # looking changes no training
    records = [r for r in open_run(tmp_path / "a").records() if r.get("event") == "evaluate"]
    assert [r["step"] for r in records] == [2, 4, 6]
    values = {r["step"]: r["metrics"]["frechet_distance"]["value"] for r in records}
    best = min(values, key=values.__getitem__)
    assert [p.name for p in (tmp_path / "a" / "best").iterdir()] == [f"step-{best:07d}"]
    made(ditkit("evaluate", tmp_path / "a" / "best" / f"step-{best:07d}", "--num", 20))
    found = read(tmp_path / "a")
    assert found["about"]["step"] == best
    assert found["frechet_distance"]["value"] == values[best]  # the same code, seeds and labels
    made(ditkit("report", tmp_path / "a"))  # of the newest checkpoint, which is measured if the best is another
    page, shown = (tmp_path / "a" / "report.html").read_text(), read(tmp_path / "a")["protocol_hash"]
    for words in ("Metrics over training", "Measured during training with few samples", shown):
        assert words in page
    assert page.count("Left in each strip a sample") == 2


def test_a_resumed_training_measures_as_one_that_was_not_stopped(pets: Path, tmp_path: Path) -> None:
    made(train(pets, tmp_path / "r", *LOOK, *CALM))
    made(ditkit("train", "--resume", tmp_path / "r", "--train.steps", 6))
    made(train(pets, tmp_path / "whole", *LOOK, *CALM, "--train.steps", 6))
    folders = [tmp_path / "r", tmp_path / "whole"]
    resumed, whole = ([r for r in open_run(f).records() if r.get("event") == "evaluate"] for f in folders)
    assert resumed == whole
    best = [[p.name for p in (f / "best").iterdir()] for f in folders]
    assert best[0] == best[1]


def test_a_best_metric_that_cannot_be_is_refused(pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "r"
    assert_refused(train(pets, out, "--evaluate-every", 2, "--evaluate.best", "fidd"), "fidd", "frechet_distance")
    assert_refused(train(pets, out, "--evaluate.best", "recall"), "--evaluate-every")
    assert not out.exists()
