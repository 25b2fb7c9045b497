"""Recipes: written out and read back strictly, overridden leaf by leaf, and all of them can be built."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ditkit.app import build, checks
from ditkit.app.commands.train import Options
from ditkit.app.recipe import AutoencoderRecipe, Recipe, Sampling
from ditkit.app.recipe_files import from_yaml, load_recipe, ready_recipes, to_yaml
from ditkit.app.run import open_run
from ditkit.base.errors import UserError
from tests.running import TINY, ditkit, made, train

KINDS = {name: AutoencoderRecipe if name.startswith("autoencoder_") else Recipe for name in sorted(ready_recipes())}
RECIPES = [name for name, kind in KINDS.items() if kind is Recipe]


@pytest.mark.parametrize("name", KINDS)
def test_ready_recipes_are_read_back_as_they_were(name: str) -> None:
    recipe = load_recipe(name, KINDS[name])
    assert from_yaml(to_yaml(recipe), name, KINDS[name]) == recipe
    assert ready_recipes()[name].read_text().startswith('"""')


@pytest.mark.parametrize("name", RECIPES)
def test_ready_recipes_can_be_built(name: str) -> None:
    recipe = load_recipe(name)
    checks.check_sampling(recipe.process, recipe.sample)
    build.objective(recipe.process)
    facts = {"input_size": [32, 32], "channels": 4, "classes": list("abc")}
    with torch.device("meta"):
        net = build.network(recipe.model, recipe.process, facts)
    build.denoiser(recipe, net)
    assert {p.device.type for p in net.parameters()} == {"meta"}


def test_there_are_ready_recipes() -> None:
    assert "digits" in RECIPES


def leaves(kind: Any, prefix: str = "") -> dict[str, dataclasses.Field[Any]]:
    """Every leaf of a recipe by the name that the command line and YAML give it."""
    found = {}
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.default_factory):
            found |= leaves(field.default_factory, f"{prefix}{field.name}.")
        else:
            found[prefix + field.name] = field
    return found


OTHERS = {
    "data.source": "digits", "data.size": 8, "data.channels": 3, "data.autoencoder": "vae",
    "data.autoencoder_scale": "sdxl", "data.autoencoder_precision": "bfloat16",
    "data.normalise": "measured", "data.tile": 64, "model.backbone": "unet",
    "model.preset": "DiT-S/2", "model.conditioning": "adaln", "process.path": "cosine",
    "process.path_options": {"steps": 100.0}, "process.prediction_options": {"sigma_data": 0.25},
    "process.density": "mode",
    "process.density_options": {"scale": 0.5}, "sample.grid": "karras", "sample.grid_options": {"rho": "5"},
    "process.prediction": "v", "process.objective": "hybrid",
    "process.objective_options": {"vb_weight": "0.5"}, "train.precision": "bfloat16", "train.device": "cpu",
    "train.betas": (0.5, 0.75), "train.ema_also": (0.5, 0.75), "sample.solver": "ddpm",
    "sample.solver_options": {"variance": "beta"},
    "sample.steps": "10,15", "sample.guidance_interval": (0.25, 0.5),
    "sample.guidance_negative": "cat", "sample.guidance_weak": "runs/weak",
    "sample.guidance_weak_weights": "weights",
    "sample.guidance_classifier": "runs/classifier",
    "evaluate.sweep": (1.0, 7.0), "evaluate.best": "recall",
    "data.crop": "random", "data.crop_options": {"least": 0.5},
}  # fmt: skip
"""Values other than the default for the leaves that are no numbers or switches."""


def other(leaf: str) -> Any:
    """A value for a leaf that is not its default."""
    if leaf in OTHERS:
        return OTHERS[leaf]
    default = leaves(Recipe)[leaf].default
    if isinstance(default, bool):
        return not default
    if isinstance(default, float):
        return 0.25
    return 5


def flag_of(leaf: str) -> str:
    """The option that sets a leaf."""
    return {"data.source": "--data", "evaluate.every": "--evaluate-every"}.get(leaf, f"--{leaf.replace('_', '-')}")


def words(leaf: str, value: Any) -> list[str]:
    """The command-line arguments that set a leaf."""
    flag = flag_of(leaf)
    if isinstance(value, bool):
        *path, last = flag.removeprefix("--").split(".")
        return [flag] if value else ["--" + ".".join([*path, f"no-{last}"])]
    if isinstance(value, dict):
        value = [word for pair in value.items() for word in pair]
    return [flag, *map(str, value)] if isinstance(value, list | tuple) else [flag, str(value)]


@pytest.mark.parametrize("leaf", leaves(Recipe))
def test_every_leaf_can_be_overridden_and_is_kept(leaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Recipe] = []
    monkeypatch.setattr("ditkit.app.training.start", lambda recipe, out: seen.append(recipe))
    value = other(leaf)
    made(ditkit("train", "digits", "--out", "unused", *words(leaf, value)))
    changed, expected = yaml.safe_load(to_yaml(seen[0])), yaml.safe_load(to_yaml(load_recipe("digits")))
    *path, last = leaf.split(".")
    place, place_expected = changed, expected
    for part in path:
        place, place_expected = place[part], place_expected[part]
    as_kept = list(value) if isinstance(value, tuple) else value
    assert place[last] == as_kept
    place_expected[last] = as_kept
    assert changed == expected  # and nothing else
    assert from_yaml(to_yaml(seen[0]), "it") == seen[0]


def test_help_names_every_leaf_with_its_type_default_and_meaning() -> None:
    said = made(ditkit("train", "digits", "--help")).out
    for leaf in leaves(Recipe):
        assert re.search(re.escape(flag_of(leaf)) + "[ ,]", said), leaf
    assert "--train.lr FLOAT" in said
    assert load_recipe("digits").train.batch_size != Recipe().train.batch_size
    assert f"Images per optimiser step. (default: {load_recipe('digits').train.batch_size})" in said


@pytest.mark.parametrize("place", ["first", "last"])
def test_a_recipe_may_stand_before_or_behind_the_options(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Recipe] = []
    monkeypatch.setattr("ditkit.app.training.start", lambda recipe, out: seen.append(recipe))
    options = ["--out", "unused", "--train.steps", "7"]
    made(ditkit("train", *(["digits", *options] if place == "first" else [*options, "digits"])))
    expected = load_recipe("digits")
    assert seen == [dataclasses.replace(expected, train=dataclasses.replace(expected.train, steps=7))]


def test_a_runs_recipe_makes_the_same_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_run(run).recipe == from_yaml((run / "recipe.yaml").read_text(), run)
    seen: list[Recipe] = []
    monkeypatch.setattr("ditkit.app.training.start", lambda recipe, out: seen.append(recipe))
    made(ditkit("train", run / "recipe.yaml", "--out", tmp_path / "again"))
    assert seen == [open_run(run).recipe]


def test_recipes_from_files(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("sample: {steps: 2, solver_options: {eta: 0.5}}\nseed: 3\n")
    code = "from ditkit.app.recipe import Recipe, Sampling\nrecipe = Recipe(sample=Sampling(steps=2), seed=3)\n"
    (tmp_path / "mine.py").write_text(code.replace("steps=2", "steps='2', solver_options={'eta': 0.5}"))
    assert load_recipe(str(tmp_path / "mine.yaml")) == load_recipe(str(tmp_path / "mine.py"))
    said = ditkit("train", tmp_path / "mine.yaml", "--data", pets, "--out", tmp_path / "r", *TINY[:-2])
    assert made(said)
    assert open_run(tmp_path / "r").recipe.sample == Sampling(steps="2", solver_options={"eta": 0.5})


def test_options_are_fitted_to_what_a_method_declares() -> None:
    for value in ("0.5", 0.5):
        assert build.solver(Sampling(solver_options={"eta": value})).keywords == {"eta": 0.5}  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="option eta of solver ddim is 'half': expected a valid number"):
        build.solver(Sampling(solver_options={"eta": "half"}))


@settings(max_examples=40, deadline=None)
@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=4), lambda s: st.lists(s) | st.dictionaries(st.text(max_size=6), s)
    )
)
def test_no_text_breaks_the_reader(value: Any) -> None:
    try:
        recipe = from_yaml(yaml.safe_dump({"model": value, "train": {"steps": value}}), "it")
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert isinstance(recipe, Recipe)


def test_options_are_a_recipe_and_more() -> None:
    more = {f.name for f in dataclasses.fields(Options)} - {f.name for f in dataclasses.fields(Recipe)}
    assert more == {"recipe", "out", "resume"}


def test_a_flag_is_kept_in_the_run(pets: Path, tmp_path: Path) -> None:
    made(train(pets, tmp_path / "r", "--train.ema-decay", 0.5))
    assert open_run(tmp_path / "r").recipe.train.ema_decay == 0.5
