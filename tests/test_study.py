"""Studies of a run: solvers compared at counted evaluations, kept point by point, told with their noise."""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from ditkit.app import build, checks, measuring
from ditkit.app.model import Model, load_model
from ditkit.app.recipe import Process, Sampling
from ditkit.app.report.svg import svg_chart
from ditkit.app.run import open_run
from ditkit.app.solver_study import pages
from ditkit.app.solver_study.choice import Choice, plan
from ditkit.app.solver_study.points import Judge, Point, Study
from ditkit.base import registry
from ditkit.base.errors import UserError
from ditkit.evaluate import classifier
from ditkit.evaluate.frechet import Gaussian, frechet_gaussian
from ditkit.evaluate.jackknife import GROUPS, left_out, standard_error
from ditkit.evaluate.measured import measure
from ditkit.evaluate.statistics import Moments
from ditkit.evaluate.strata import in_turn
from tests.running import ditkit, environment, made

ON_BUDGET = [
    name
    for name, method in build.known("solver").items()
    if "rtol" not in registry.options(method) and name != "predictor_corrector"
]


@pytest.mark.parametrize(
    "text", ["dpmpp_2m", "ddim:eta=0.5", "unipc:order=3,predict=eps@karras:rho=5", "heun@log_snr", "ddim:eta=0.1234567"]
)
def test_a_choice_is_written_as_it_is_read(text: str) -> None:
    assert str(Choice.parse(text)) == text


def test_a_choice_says_solver_grid_and_options() -> None:
    chosen = Choice.parse(" ddim:eta=0.5 @ karras:rho=5").over(Sampling(guidance=3.0), 7)
    assert (chosen.solver, chosen.solver_options, chosen.guidance) == ("ddim", {"eta": 0.5}, 3.0)
    assert (chosen.grid, chosen.grid_options, chosen.steps) == ("karras", {"rho": 5.0}, "7")
    recipes = Sampling(solver="ddim", solver_options={"eta": 1.0}, grid="karras")
    assert Choice.parse("ddim").over(recipes, 7) == Sampling(solver="ddim", steps="7")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dpmpp2m", "unknown solver 'dpmpp2m'.*did you mean 'dpmpp_2m'"),
        ("ddim@karas", "unknown grid 'karas'.*did you mean 'karras'"),
        ("ddim:eta", "cannot read 'eta'; expected OPTION=VALUE"),
        ("ddim:eta=", "expected OPTION=VALUE"),
        ("ddim:etta=1", "unknown option of solver ddim 'etta'.*did you mean 'eta'"),
        ("ddim:eta=2", "eta 2.0: expected 0"),
        ("ddim@karras:rho=0", "rho 0"),
        ("ddim@given:times=1,0.5,0", "grid given are listed.*expected a grid of any number"),
        ("ddim@given:times=1", "grid given are listed"),
        ("dopri5:rtol=x", "option rtol of solver dopri5 is 'x'"),
    ],
)
def test_what_cannot_be_drawn_with_is_refused_before_any_work(text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plan(Process(), Sampling(), ["ddpm", text], [5])


@pytest.mark.parametrize("name", ON_BUDGET)
def test_a_budget_buys_as_many_steps_as_it_pays_for(name: str) -> None:
    (task,) = plan(Process(), Sampling(), [name], [11])
    assert task.evaluations == checks.evaluations(Process(), task.sampling) <= 11
    assert checks.evaluations(Process(), task.choice.over(Sampling(), task.steps + 1)) > 11


@pytest.mark.parametrize(("name", "steps", "evaluations"), [("ddim", 20, 20), ("heun", 10, 19), ("rk4", 5, 17)])
def test_a_solver_of_several_evaluations_a_step_gets_fewer_steps(name: str, steps: int, evaluations: int) -> None:
    (task,) = plan(Process(), Sampling(), [name], [20])
    assert (task.steps, task.evaluations) == (steps, evaluations)


def test_budgets_that_buy_the_same_are_one_point_and_the_cheapest_come_first() -> None:
    tasks = plan(Process(), Sampling(), ["heun", "ddim"], [6, 5])
    assert [(str(task.choice), task.evaluations) for task in tasks] == [("heun", 5), ("ddim", 5), ("ddim", 6)]


def test_choices_that_differ_in_the_last_digit_are_two_points() -> None:
    tasks = plan(Process(), Sampling(), ["ddim:eta=0.1234567", "ddim:eta=0.1234568"], [3])
    assert len({str(task.choice) for task in tasks}) == len(tasks) == 2


def test_a_budget_below_a_single_step_is_refused() -> None:
    with pytest.raises(UserError, match="evaluations 1: solver predictor_corrector takes at least 2"):
        plan(Process(), Sampling(), ["predictor_corrector"], [1])


@pytest.mark.parametrize(("name", "most"), [("ddim", 1000), ("heun", 1999)])
def test_a_budget_that_the_chain_cannot_spend_is_named(name: str, most: int) -> None:
    with pytest.raises(UserError, match=f"^evaluations 5000: solver {name} takes at most {most}, in 1000 steps"):
        plan(Process(), Sampling(), [name], [5000])


@pytest.mark.parametrize(("solvers", "budgets", "option"), [([], [2], "--solvers"), (["dopri5"], [], "--evaluations")])
def test_no_solvers_or_budgets_are_refused(solvers: list[str], budgets: list[int], option: str) -> None:
    with pytest.raises(UserError, match=f"{option} names none: expected one or more, such as {option}"):
        plan(Process(), Sampling(), solvers, budgets)


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    rows = torch.randn(40, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    without = left_out(lambda kept: float(kept.mean()), rows, groups=40)
    assert standard_error(without) == pytest.approx(float(rows.std()) / math.sqrt(40))


def test_every_group_left_out_has_all_classes() -> None:
    labels = torch.arange(200) % 10
    without = left_out(lambda kept: float(kept.bincount(minlength=10).amin()), labels)
    assert without.tolist() == [18.0] * GROUPS


def test_rows_in_turn_have_all_classes_in_every_run() -> None:
    turns = torch.arange(200) % 10
    assert torch.equal(in_turn(turns, 200), torch.arange(200))
    few_and_many = torch.tensor([1] * 20 + [7] * 180)
    groups = few_and_many[in_turn(few_and_many, 200)].view(GROUPS, 20)
    assert (groups == 1).sum(1).tolist() == [2] * GROUPS
    many = torch.arange(200) % 100  # of which a group holds a fifth: not always the same one
    groups = many[in_turn(many, 200)].view(GROUPS, 20)
    assert many[in_turn(many, 200)][:100].unique().tolist() == list(range(100))
    assert (groups < 50).sum(1).tolist() != [20, 20, 10, 0, 0] * 2
    assert 4 < (groups < 50).sum(1).float().mean() < 16
    assert int((groups < 50).sum(1).max()) < 20
    unknown = in_turn(None, 200)
    assert torch.equal(unknown.sort().values, torch.arange(200))
    assert turns.sort().values[unknown].view(GROUPS, 20).unique(dim=1).shape[1] > 5
    assert in_turn(torch.zeros(0, dtype=torch.int64), 0).tolist() == []


def test_the_jackknife_of_a_frechet_distance_is_what_new_samples_would_show() -> None:
    draws = torch.randn(60, 400, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    real = Gaussian.of_moments(torch.full((4,), 0.5), torch.eye(4))

    def distance(rows: torch.Tensor) -> float:
        generated = Moments()
        generated.update(rows)
        return frechet_gaussian(real, generated.gaussian())

    spread = float(torch.tensor([distance(rows) for rows in draws]).std())
    told = torch.tensor([standard_error(left_out(distance, rows)) for rows in draws]).mean()
    assert float(told) == pytest.approx(spread, rel=0.25)


def study(run: Path, *args: object):
    return ditkit("study", "solvers", run, "--num", 24, *args)


def points(run: Path) -> dict[tuple[str, int], dict]:
    """The points of the run's only study."""
    (path,) = (run / "studies").glob("*/points.json")
    return {(p["solver"], p["steps"]): p for p in json.loads(path.read_text())["points"]}


@pytest.fixture(scope="module", autouse=True)
def hasty() -> Iterator[None]:
    """Feature networks of a few steps: what a study does with them does not hang on how good they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "FEWEST_STEPS", 4)
        patch.setattr(classifier, "EPOCHS", 1)
        yield


@pytest.fixture(scope="module")
def pristine(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a study of ddim and heun at 3 and 4 evaluations. Not to be changed."""
    folder = tmp_path_factory.mktemp("studied") / "pets"
    shutil.copytree(run, folder)
    made(study(folder, "--solvers", "ddim", "heun", "--evaluations", 3, 4))
    return folder


@pytest.fixture
def studied(pristine: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(pristine, tmp_path / "pets"))


def test_a_study_has_a_point_for_every_budget_and_its_pages(studied: Path) -> None:
    made_points = points(studied)
    assert set(made_points) == {("ddim", 3), ("ddim", 4), ("heun", 2)}
    assert [p["evaluations"] for p in made_points.values()] == [3, 3, 4]
    assert all(p["seconds_per_sample"] > 0 and 0 <= p["class_accuracy"] <= 1 for p in made_points.values())
    (folder,) = (studied / "studies").iterdir()
    assert {path.name for path in folder.iterdir()} == {"points.json", "table.md", "plot.svg", "page.html"}
    assert "| ddim" in (folder / "table.md").read_text()
    assert "<table" in (folder / "page.html").read_text()
    ElementTree.parse(folder / "plot.svg")


def test_a_point_is_measured_as_evaluate_measures(studied: Path) -> None:
    model = load_model(open_run(studied))
    against = measuring.reference(model, None)
    settings = Choice.parse("ddim").over(model.run.recipe.sample, 4)
    drawn = measuring.draw(model, settings, 24, 0, "")
    scores = against.scores(measure("samples", drawn.images, drawn.labels, against.network))
    point = points(studied)["ddim", 4]
    assert point["frechet_distance"] == pytest.approx(scores["frechet_distance"]["value"])
    assert point["class_accuracy"] == pytest.approx(scores["class_accuracy"]["value"])
    assert len(point["left_out"]) == GROUPS


def test_points_that_were_made_are_not_made_again_and_others_join_them(
    studied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, drawn, draw = points(studied), [], Judge.point
    monkeypatch.setattr(Judge, "point", lambda self, task, progress: drawn.append(task) or draw(self, task, progress))
    said = made(study(studied, "--solvers", "ddim", "euler", "--evaluations", 3))
    assert [str(task.choice) for task in drawn] == ["euler"]
    assert points(studied) == before | {("euler", 3): points(studied)["euler", 3]}
    assert said.out.count("ddim") == 2
    assert said.out.count("best") == 2  # the column, and the best point


def test_an_interrupted_study_keeps_its_points(studied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, draw = points(studied), Judge.point

    def stopped(self: Judge, task, progress: str) -> Point:
        if task.evaluations == 3:
            raise KeyboardInterrupt
        return draw(self, task, progress)

    monkeypatch.setattr(Judge, "point", stopped)
    assert study(studied, "--solvers", "lms", "--evaluations", 2, 3).code == 130
    assert set(points(studied)) == {*before, ("lms", 2)}
    monkeypatch.undo()
    made(study(studied, "--solvers", "lms", "--evaluations", 2, 3))
    assert set(points(studied)) == {*before, ("lms", 2), ("lms", 3)}


def test_a_point_that_cannot_be_had_is_told_and_the_others_go_on(
    studied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, draw = points(studied), Judge.point

    def failing(self: Judge, task, progress: str) -> Point:
        if task.evaluations == 2:
            raise UserError("no luck")
        return draw(self, task, progress)

    monkeypatch.setattr(Judge, "point", failing)
    said = made(study(studied, "--solvers", "lms", "--evaluations", 2, 3))
    assert "No point for lms in 2 steps: no luck" in said.out
    assert set(points(studied)) == {*before, ("lms", 3)}
    (folder,) = (studied / "studies").iterdir()
    assert all("no luck" in (folder / name).read_text() for name in ("points.json", "table.md", "page.html"))
    monkeypatch.undo()
    assert "no luck" not in made(study(studied, "--solvers", "lms", "--evaluations", 2, 3)).out
    assert set(points(studied)) == {*before, ("lms", 2), ("lms", 3)}


def test_samples_of_two_levels_are_measured(studied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Model.pixels
    monkeypatch.setattr(Model, "pixels", lambda *args: draw(*args).gt(99).byte())
    made(study(studied, "--solvers", "euler", "--evaluations", 3))
    assert ("euler", 3) in points(studied)


def test_another_protocol_is_another_study(studied: Path) -> None:
    made(study(studied, "--solvers", "ddim", "--evaluations", 2, "--guidance", 1, "--seed", 5))
    found = [json.loads(path.read_text()) for path in (studied / "studies").glob("*/points.json")]
    assert sorted(len(one["points"]) for one in found) == [1, 3]
    assert {tuple(one["protocol"]["seeds"]) for one in found} == {(0, 23), (5, 28)}


def test_adaptive_steps_are_counted_while_drawing(studied: Path) -> None:
    made(study(studied, "--solvers", "dpm_adaptive:rtol=0.5", "--evaluations", 2, 3, "--batch-size", 20))
    found = [p for path in (studied / "studies").glob("*/points.json") for p in json.loads(path.read_text())["points"]]
    (point,) = (p for p in found if p["solver"] == "dpm_adaptive:rtol=0.5")
    assert point["evaluations"] > 3


def test_a_run_without_classes_is_studied_too(unconditional: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(unconditional, tmp_path / "loose"))
    said = made(study(folder, "--solvers", "ddim", "--evaluations", 2))
    assert points(folder)["ddim", 2]["class_accuracy"] is None
    assert "best" in said.out


@pytest.mark.parametrize("content", ["{", '{"points": [{"solver": "ddim"}]}', "[]"])
def test_a_damaged_study_is_named(studied: Path, content: str) -> None:
    (path,) = (studied / "studies").glob("*/points.json")
    path.write_text(content)
    said = study(studied, "--solvers", "ddim", "--evaluations", 3)
    assert said.code == 2
    assert str(path) in said.err[-1]
    assert "delete it" in said.err[-1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "expected ditkit study followed by one of"),
        (["solver"], "did you mean 'solvers'?"),
        (["solvers"], "The run's folder. (required)"),
        (["solvers", "nowhere"], "run nowhere does not exist"),
        (["solvers", "nowhere", "--num", "3"], "--num 3: expected greater than or equal to 20"),
        (["solvers", "nowhere", "--evaluations", "0"], "--evaluations 0"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(args: list[str], said: str) -> None:
    done = ditkit("study", *args)
    assert done.code == 2
    assert len(done.err) == 1
    assert said in done.err[0]


def test_an_unknown_solver_is_refused_before_the_model_is_read(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "pets", ignore=shutil.ignore_patterns("checkpoints")))
    done = study(folder, "--solvers", "dpmpp2m")
    assert done.code == 2
    assert "did you mean 'dpmpp_2m'?" in done.err[-1]


def test_help_lists_the_studies_and_does_without_torch() -> None:
    assert "solvers" in made(ditkit("study", "--help")).out
    code = (
        "import sys, ditkit.app.cli as cli\ntry: cli.main(['study', 'solvers', '--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    assert done.returncode == 0, done.stderr
    assert "usage: ditkit study solvers" in done.stdout


def told(name: str, distances: list[float]) -> Study:
    """A study of one solver, ``name`` wherever a user's text can stand."""
    protocol = {
        "run": name,
        "step": 1,
        "seeds": [0, 23],
        "sampling": {"guidance": 2.0, "clip": True, "batch_size": 8},
        "reference": {"images": 120},
        "device": "cpu",
    }
    made_points = (
        Point(name, k + 1, k + 1.0, 0.1, d, tuple(d + g / 1000 for g in range(GROUPS)), 0.5)
        for k, d in enumerate(distances)
    )
    return Study(Path("unused"), protocol, tuple(made_points))


def test_pages_escape_what_users_wrote() -> None:
    nasty = "<script>alert('1')</script>"
    assert nasty not in pages.html(told(nasty, [1.0, 0.5]))
    ElementTree.fromstring(svg_chart(pages.plot(told(nasty, [1.0, 0.5]))))


@pytest.mark.parametrize("distances", [[0.0], [0.3], [0.3, 0.3], [5.0, 1e-3]])
def test_a_plot_can_be_made_of_any_distances(distances: list[float]) -> None:
    assert "nan" not in svg_chart(pages.plot(told("ddim", distances)))


def test_a_difference_of_the_same_seeds_has_an_error_of_its_own() -> None:
    near, far = told("ddim", [1.0, 0.5]).points
    assert near.behind(far) == (0.5, pytest.approx(0.0))
    assert near.standard_error > 0
