"""Every method that is found in the registries works on the command line: train a tiny model, draw an image with it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest

from ditkit.app import build, guiding, listing, names
from ditkit.app.recipe import AutoencoderRecipe, Recipe, Sampling
from ditkit.base import registry
from ditkit.process.langevin import FORMS
from ditkit.solvers.sde import LAST_STEPS
from tests.running import ditkit, draw_images, made, train
from tests.test_refusals import assert_refused

PATHS, ROWS, DENSITIES, SOLVERS, GRIDS = (
    sorted(build.known(kind)) for kind in ("path", "prediction", "density", "solver", "grid")
)
CHAIN_GRIDS = {"linspaced", "leading", "trailing"}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 8 grey images, 8x8, of the classes cat and dog."""
    return draw_images(tmp_path_factory.mktemp("few"), [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(4)])


def trained(data: Path, out: Path, *options: object) -> Path:
    made(train(data, out, "--train.steps", 2, "--train.checkpoint-every", 9, *options))
    return out


@pytest.fixture(scope="module")
def chain(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on DDPM's chain."""
    return trained(few, tmp_path_factory.mktemp("chain") / "r", "--process.path", "ddpm_linear")


@pytest.fixture(scope="module")
def flow(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of flow matching."""
    process = ["--process.path", "linear", "--process.prediction", "velocity"]
    return trained(few, tmp_path_factory.mktemp("flow") / "r", *process)


def draw(run: Path, out: Path, *options: object, steps: int = 4) -> None:
    """Draws one image, which is there."""
    made(ditkit("sample", run, "--num", 1, "--out", out, "--steps", steps, *options))
    assert (out / "grid.png").is_file()


@pytest.mark.parametrize("path", PATHS)
def test_every_path_and_row_trains_and_draws(path: str, few: Path, tmp_path: Path) -> None:
    for i, row in enumerate(ROWS):
        process = ["--process.path", path, "--process.prediction", row]
        run = trained(few, tmp_path / row, *process, "--sample.grid", "log_snr")  # from just below t = 1
        solver = ("dpmpp_2m", "euler", "unipc")[i % 3]
        draw(run, tmp_path / f"{row}-drawn", "--solver", solver, "--grid", ("karras", "log_snr")[i % 2])


@pytest.mark.parametrize("density", DENSITIES)
def test_every_density_trains_with_its_options(density: str, few: Path, tmp_path: Path) -> None:
    options = given(build.known("density")[density])
    trained(few, tmp_path / "r", "--process.density", density, *after("--process.density-options", options))


def given(method: Any) -> list[object]:
    """Every option of a method that text can give, with its default."""
    defaults = {p.name: p.default for p in registry.options(method).values()}
    fit = {k: v for k, v in defaults.items() if isinstance(v, str | int | float) and v not in ("", math.inf)}
    return [word for pair in fit.items() for word in pair]


def after(flag: str, words: list[object]) -> list[object]:
    return [flag, *words] if words else []


@pytest.mark.parametrize(("solver", "grid"), list(zip(SOLVERS, itertools.cycle(GRIDS), strict=False)))
def test_every_solver_draws_with_its_options(solver: str, grid: str, chain: Path, flow: Path, tmp_path: Path) -> None:
    options = after("--solver-options", given(build.known("solver")[solver]))
    draw(flow, tmp_path / "flow", "--solver", solver, *options)
    draw(chain, tmp_path / "chain", "--solver", solver, *options, "--grid", grid, *times(grid))


def times(grid: str) -> list[object]:
    return ["--grid-options", "times", "1,0.6,0.3,0.1,0"] if grid == "given" else []


@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_draws_or_says_why_not(grid: str, chain: Path, flow: Path, tmp_path: Path) -> None:
    own = given(build.known("grid")[grid])
    options = ["--solver", "dpmpp_2m", "--grid", grid, *(times(grid) or after("--grid-options", own))]
    draw(chain, tmp_path / "chain", *options)
    if grid in CHAIN_GRIDS:
        said = ditkit("sample", flow, "--out", tmp_path / "flow", *options)
        assert_refused(said, "'linear' is continuous", "expected a chain", "uniform")
    else:
        draw(flow, tmp_path / "flow", *options)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_sit_with_every_last_step(form: str, flow: Path, tmp_path: Path) -> None:
    # g^2 is infinite where nothing is left of the image
    start = ["--grid-options", "t_max", 0.98] if form == "sbdm" else []
    for last, solver in zip(LAST_STEPS, itertools.cycle(["euler_maruyama", "stochastic_heun", "platen"]), strict=False):
        options = ["--solver", solver, "--solver-options", "w", form, "last", last, *start]
        draw(flow, tmp_path / last, *options)
    if start:
        said = ditkit("sample", flow, "--out", tmp_path / "x", "--solver", "platen", "--solver-options", "w", form)
        assert_refused(said, "'sbdm'", "at t = 1", "choose another form")


# --- what there is to choose from ---


@pytest.mark.parametrize("kind", [*build.KINDS])
def test_names_in_the_help_are_those_of_the_registry(kind: str) -> None:
    assert set(names.names(kind)) == build.known(kind).keys()
    command = {"solver": "sample", "grid": "sample", "autoencoder": "train-autoencoder"}.get(kind, "train")
    said = re.sub(r"[│\s]", "", made(ditkit(command, "--help")).out)
    assert f"oneof:{','.join(names.names(kind))})" in said


@pytest.mark.parametrize("kind", [*build.KINDS])
def test_info_lists_every_method_with_its_options_and_defaults(kind: str) -> None:
    word = next(word for word in listing.LISTED if word.startswith(kind[:-1]))
    said = made(ditkit("info", word)).out
    assert made(ditkit("info", kind)).out == said
    for name, method in build.known(kind).items():
        assert re.search(rf"(?m)^{name}\n    \S.{{9,}}", said), name
        for option in registry.options(method).values():
            assert option.name in said or not isinstance(option.default, str | int | float)
    flag = re.search(r", for --(\S+) NAME", said)
    assert flag
    if "." in flag[1]:
        group, leaf = flag[1].split(".")
        assert any(hasattr(getattr(recipe, group, None), leaf) for recipe in (Recipe(), AutoencoderRecipe()))


def test_info_lists_every_way_to_guide_with_its_options() -> None:
    said = made(ditkit("info", "guidance")).out
    assert re.search(
        r"(?m)^guidance_interval\n    Guidance only at times .*\n    options: --guidance-interval 0.0 1.0$", said
    )
    asked = [f.name for f in dataclasses.fields(Sampling) if f.name.startswith("guidance")]
    taken = re.findall(r"--(guidance\S*) ", said)
    assert sorted(taken) == sorted(name.replace("_", "-") for name in asked)  # each once
    assert guiding.known().keys() <= set(asked)


def test_info_of_a_solver_says_its_defaults() -> None:
    said = made(ditkit("info", "solvers")).out
    assert re.search(r"(?m)^ddim\n    .*eta 0 is deterministic.*\n    options: eta 0.0$", said)
    assert "options: w sigma, scale 1.0, last mean" in said
    assert not re.search(r"(?m)^    options: (.*, )?noise ", said)
    assert "sbdm" in made(ditkit("info", "forms")).out
    assert "min_snr" in made(ditkit("info", "weights")).out


def test_info_of_nothing_says_what_there_is() -> None:
    assert_refused(ditkit("info", "solvrs"), "solvrs does not exist", "did you mean 'solvers'?", "a run's folder")
