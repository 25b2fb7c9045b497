"""Every objective, weight, density and path on the command line, collected from the modules; KNN with and without a
network; the history of losses through a resume.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ditkit.app import build, checks
from ditkit.app.recipe import Process
from ditkit.base import registry
from ditkit.base.errors import UserError
from ditkit.base.pixels import from_uint8
from ditkit.data.loading import load_images
from ditkit.data.source import open_source
from ditkit.objectives import weights as weights_module
from ditkit.objectives.neighbours import BruteForce
from ditkit.process.continuous import VP
from ditkit.process.prediction import Eps
from ditkit.train import checkpoint
from tests.running import assert_same_tensors, ditkit, losses, made, train, weights

OBJECTIVES = build.known("objective")
WEIGHTS = registry.members("ditkit.objectives.weights", weights_module._accept)
FEW = ["--train.steps", 3, "--train.checkpoint-every", 3]


def options(process: Process) -> list[str]:
    """The process as the command line takes it."""
    words = []
    for name in ("path", "density", "objective"):
        words += [f"--process.{name}", getattr(process, name)]
    given = [str(word) for pair in process.objective_options.items() for word in pair]
    words += ["--process.objective-options", *given] if given else []
    return [*words, *(["--process.learned-variance"] if process.learned_variance else [])]


def pairs() -> list[Process]:
    """Each objective, and each weight, density and path, with others in turn: every one at least once, and most pairs
    of neighbours in the lists.
    """
    paths, densities = itertools.cycle(build.known("path")), itertools.cycle(build.known("density"))
    found = [
        Process(objective=name, learned_variance=name == "hybrid", objective_options=_few(name)) for name in OBJECTIVES
    ]
    weighed = [name for name, method in OBJECTIVES.items() if "weight" in registry.options(method)]
    turns = zip(WEIGHTS, itertools.cycle(weighed), strict=False)
    found += [
        Process(
            objective=name,
            objective_options={"weight": weight, **_few(name)},
            path=next(paths),
            density=next(densities),
        )
        for weight, name in turns
    ]
    rest = max(len(build.known("path")), len(build.known("density")))
    found += [Process(path=next(paths), density=next(densities)) for _ in range(rest)]
    return found


def _few(objective: str) -> dict[str, str | float]:
    return {"k": 4, "n": 4} if objective == "knn" else {}


def _name(process: Process) -> str:
    weight = process.objective_options.get("weight", "-")
    return f"{process.objective}-{weight}-{process.path}-{process.density}"


def test_all_are_among_the_pairs() -> None:
    said = pairs()
    assert {p.objective for p in said} == set(OBJECTIVES)
    assert {p.objective_options.get("weight") for p in said} >= set(WEIGHTS)
    assert {p.density for p in said} == set(build.known("density"))
    assert {p.path for p in said} == set(build.known("path"))


@pytest.mark.parametrize("process", pairs(), ids=_name)
def test_every_part_trains_on_the_command_line(process: Process, tmp_path: Path) -> None:
    out = tmp_path / "r"
    said = train("digits", out, *FEW, *options(process))
    if said.code:  # a pair without meaning says so before there is a run
        with pytest.raises(UserError):
            checks.check_training(process)
        assert not out.exists()
        return
    assert [step for step, *_ in losses(out)] == [1, 2, 3]
    assert np.isfinite([value for _, *values in losses(out) for value in values]).all()


def test_a_weights_options_are_set_beside_it(pets: Path, tmp_path: Path) -> None:
    def weighed(name: str, *words: object) -> list[tuple[int, float, float]]:
        process = ["--process.path", "vp", "--process.objective-options", *words]
        made(train(pets, tmp_path / name, *process, "--train.steps", 2))
        return losses(tmp_path / name)

    plain = weighed("plain", "weight", "min_snr")
    assert weighed("same", "weight", "min_snr", "gamma", 5) == plain
    low = weighed("low", "gamma", 1e-9, "weight", "min_snr")
    # with so low a gamma the loss is proportional to it
    assert 0 < low[0][1] < 1e-3 * plain[0][1]
    made(ditkit("train", "--resume", tmp_path / "low", "--train.steps", 3))
    assert losses(tmp_path / "low")[:2] == low


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if "weight" in registry.options(OBJECTIVES[name])])
def test_every_objective_hands_its_weight_its_options(objective: str) -> None:
    options = {"weight": "edm", "sigma_data": 2.0, **_few(objective)}
    made_of = build.objective(Process(objective=objective, objective_options=options), checks.STANDINS)
    weight = made_of.keywords["weight"]  # type: ignore[attr-defined]
    t = torch.tensor([0.3, 0.8], dtype=torch.float64)
    at = VP(), Eps(), t
    torch.testing.assert_close(weight(*at), weights_module.edm(*at, sigma_data=2.0))
    assert not torch.allclose(weight(*at), weights_module.edm(*at))


# --- the history of losses ---


def test_a_history_of_losses_is_kept_through_a_resume(pets: Path, tmp_path: Path) -> None:
    history = ["--process.density", "loss_history", "--process.density-options", "bins", 2, "memory", 2]
    whole, parts, flat = tmp_path / "whole", tmp_path / "parts", tmp_path / "flat"
    made(train(pets, whole, *history, "--train.steps", 12))
    made(train(pets, parts, *history, "--train.steps", 7))
    made(ditkit("train", "--resume", parts, "--train.steps", 12))
    assert_same_tensors(weights(parts), weights(whole))
    assert losses(parts) == losses(whole)
    kept = load_file(checkpoint.latest(whole) / "task.safetensors")
    assert kept["counts"].sum() == 12 * 4
    made(train(pets, flat, "--train.steps", 12))
    assert losses(flat)[0] == losses(whole)[0]  # uniform until every bin is full
    assert losses(flat)[-1] != losses(whole)[-1]


def test_bins_that_cut_through_the_times_of_a_chain_are_refused(pets: Path, tmp_path: Path) -> None:
    bins = ["--process.density", "loss_history", "--process.density-options", "bins", 7]
    said = train(pets, tmp_path / "r", *bins)
    assert said.code == 2
    assert "bins 7" in said.err[0]
    assert "1000" in said.err[0]


# --- neighbours ---


def test_neighbours_are_those_of_the_training_images(pets: Path, loose: Path, tmp_path: Path) -> None:
    knn = ["--process.objective", "knn", "--process.objective-options"]
    made(train(pets, tmp_path / "a", *knn, "k", 5, "n", 3, "--data.flip", "--train.steps", 4))
    made(train(pets, tmp_path / "b", *knn, "k", 5, "n", 3, "--data.flip", "--train.steps", 2))
    made(ditkit("train", "--resume", tmp_path / "b", "--train.steps", 4))
    assert_same_tensors(weights(tmp_path / "a"), weights(tmp_path / "b"))
    for data, k, most in ((pets, 61, 60), (loose, 21, 20)):
        said = train(data, tmp_path / "c", *knn, "k", k)
        assert said.code == 2
        assert f"k {k}: expected 1 to {most}" in said.err[0]
        assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("flip", [False, True])
def test_the_references_are_what_the_network_sees(pets: Path, flip: bool) -> None:
    images = load_images(open_source(str(pets)), progress=False)
    found = build.references(images, lambda x, step: 2 * x, flip, torch.device("cpu"), seed=0)
    x0 = 2 * from_uint8(images.get(torch.arange(120)))
    expected = torch.cat([x0, x0.flip(-1)]) if flip else x0
    assert len(found.whole.data) == len(expected)
    assert BruteForce(found.whole.data).nearest(expected, 1).unique().numel() == len(expected.flatten(1).unique(dim=0))
    assert [len(index.data) for index in found.classes] == [60 * (1 + flip)] * 2


def read(folder: Path) -> dict[str, np.ndarray]:
    """The images of a folder by name, without the grid."""
    return {p.stem: np.asarray(Image.open(p)) for p in folder.glob("seed*.png")}


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_a_data_set_is_drawn_from_without_training(pets: Path, tmp_path: Path, solver: str) -> None:
    args = ["--num", 6, "--solver", solver, "--steps", 12, "--path", "linear", "--grid", "log_snr", "--npz"]
    made(ditkit("sample-data", pets, "--out", tmp_path / "s", *args, "--classes", "dog"))
    drawn = read(tmp_path / "s")
    assert sorted(drawn) == [f"seed{i:06d}-class1" for i in range(6)]
    dogs = np.stack([np.asarray(Image.open(p)) for p in sorted((pets / "dog").glob("*.png"))]).astype(float)
    assert max(np.abs(dogs - image).max((1, 2)).min() for image in drawn.values()) < 8  # all neighbours: an image
    assert np.load(tmp_path / "s" / "samples.npz")["arr_1"].tolist() == [1] * 6


def test_what_cannot_be_drawn_without_training_is_refused(pets: Path, loose: Path, tmp_path: Path) -> None:
    for data, args, reason in (
        (pets, ["--k", 61], "k 61: expected 1 to 60"),
        (loose, ["--classes", "3"], "knows no classes"),
        (pets, ["--classes", "horse"], "unknown class 'horse'"),
        (pets, ["--path", "liner"], "did you mean 'linear'"),
        (pets, ["--solver", "ddpm", "--solver-options", "variance", "learned"], "variance"),
        (tmp_path / "none", [], "none"),
    ):
        said = ditkit("sample-data", data, "--out", tmp_path / "s", *args)
        assert said.code == 2, args
        assert reason in said.err[0], said.err
        assert not (tmp_path / "s").exists()
    made(ditkit("sample-data", loose, "--out", tmp_path / "s", "--num", 2, "--steps", 2))
    made(ditkit("sample-data", pets, "--out", tmp_path / "t", "--num", 2, "--steps", 2, "--no-conditional", "--k", 100))
    assert sorted(read(tmp_path / "t")) == ["seed000000", "seed000001"]
