"""ditkit study scaling: runs that share images and reference, gone on with after a kill, and what is said of them."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from ditkit.app.model import load_model
from ditkit.app.recipe import Data, Measuring, Model, Process, Recipe, Sampling
from ditkit.app.report.svg import svg_chart
from ditkit.app.run import open_run
from ditkit.app.scaling_study import grid, pages, sampling
from ditkit.app.scaling_study.grid import Candidate, parse_budget
from ditkit.app.scaling_study.results import Entry, Findings
from ditkit.app.scaling_study.runs import Look
from ditkit.app.scaling_study.study import Wanted
from ditkit.app.solver_study.choice import Choice
from ditkit.base.errors import UserError
from ditkit.condition import Condition
from ditkit.evaluate import classifier, scaling
from ditkit.nn.cost import cost
from ditkit.sample import ROWS
from ditkit.train.settings import TrainSettings
from ditkit.train.trainer import Trainer
from tests.running import CALM, ditkit, environment, made

MODEL = Model(patch_size=2, width=8, depth=1, heads=2)
FACTS = {"input_size": [8, 8], "channels": 1, "classes": ["cat", "dog"]}
SMALL = ["--train.steps", 4, "--train.batch-size", 4, "--train.log-every", 1, "--train.sample-every", None]
SMALL += ["--train.checkpoint-every", 2, "--train.device", "cpu", "--evaluate-every", 2, "--evaluate.every-num", 20]
SMALL += ["--sample.steps", 2, "--sizes", "8x1", "16x1", "--patches", 4, 2, "--evaluations", 2, 3, *CALM]


def study(pets: Path, out: Path, *args: object):
    """A study of four tiny models; later arguments win."""
    return ditkit("study", "scaling", "--data", pets, "--out", out, *SMALL, *args)


def points(out: Path) -> dict[str, dict]:
    """The models in points.json by name."""
    return {m["name"]: m for m in json.loads((out / "points.json").read_text())["models"]}


@pytest.fixture(scope="module", autouse=True)
def hasty() -> Iterator[None]:
    """Feature networks of a few steps, few replicates: what a study does does not hang on how good they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "FEWEST_STEPS", 4)
        patch.setattr(classifier, "EPOCHS", 1)
        patch.setattr(scaling, "REPLICATES", 10)
        yield


@pytest.fixture(scope="module")
def pristine(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study. Not to be changed."""
    out = tmp_path_factory.mktemp("scaling") / "study"
    made(study(pets, out, "--budget", "1e9"))
    return out


@pytest.fixture
def done(pristine: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(pristine, tmp_path / "study"))


def test_every_model_is_trained_measured_and_drawn(pristine: Path) -> None:
    found = points(pristine)
    assert list(found) == ["8x1/4", "8x1/2", "16x1/4", "16x1/2"]  # cheapest first
    for one in found.values():
        assert [look["step"] for look in one["curve"]] == [2, 4]
        assert [p["evaluations"] for p in one["sampling"]] == [2, 3]
        assert one["failed"] is None
        spent = one["curve"][-1]["multiply_adds"]
        assert spent == 3 * one["multiply_adds"] * 4 * 4
        assert one["sampling"][0]["multiply_adds"] == 2 * 2 * one["multiply_adds"]  # guided: a pair at each evaluation
    folders = {path.name for path in (pristine / "runs").iterdir()}
    assert folders == {"8x1-p4", "16x1-p4", "8x1-p2", "16x1-p2"}


def test_the_pages_have_every_model_and_figure(pristine: Path) -> None:
    table = (pristine / "table.md").read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:6]] == list(points(pristine))
    assert "correlation of log Gmac" in table
    assert {path.stem for path in pristine.glob("*.svg")} == {"steps", "model", "training", "sampling"}
    for path in pristine.glob("*.svg"):
        ElementTree.parse(path)
    assert (pristine / "page.html").read_text().count("<svg") >= 4


def test_runs_share_one_reference_and_are_normal_runs(pristine: Path) -> None:
    assert {path.name for path in (pristine / "runs" / "8x1-p4").iterdir()} >= {"recipe.yaml", "checkpoints"}
    assert not list(pristine.glob("runs/*/classifier"))
    assert len(list(pristine.glob("classifier"))) == 1
    assert load_model(open_run(pristine / "runs" / "8x1-p4")).step == 4


def test_a_finished_study_is_left_alone(pets: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in (done / "runs").rglob("*") if path.is_file()}
    monkeypatch.setattr(Trainer, "one_step", None)
    monkeypatch.setattr(sampling, "_draw", None)
    monkeypatch.setattr(classifier, "train_classifier", None)
    made(study(pets, done))
    assert {path: path.read_bytes() for path in (done / "runs").rglob("*") if path.is_file()} == before


def test_a_killed_study_goes_on_and_trains_nothing_twice(
    pets: Path, pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    step = Trainer.one_step

    def killed(self, net, batch):
        if len(steps) == 7:  # the second model's last step
            raise KeyboardInterrupt
        steps.append(self.step)
        return step(self, net, batch)

    monkeypatch.setattr(Trainer, "one_step", killed)
    assert study(pets, tmp_path / "study").code == 130
    assert points(tmp_path / "study")["8x1/4"]["curve"]
    monkeypatch.setattr(
        Trainer, "one_step", lambda self, net, batch: (steps.append(self.step), step(self, net, batch))[1]
    )
    made(study(pets, tmp_path / "study"))
    assert steps == [0, 1, 2, 3, 0, 1, 2, 2, 3, *[0, 1, 2, 3] * 2]
    once, again = points(pristine), points(tmp_path / "study")
    for name, one in once.items():
        assert again[name]["curve"] == one["curve"]
        assert again[name]["sampling"] == one["sampling"]


def test_what_a_killed_study_drew_is_shown(pets: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in done.glob("runs/*/sampling.json"):
        path.unlink()
    drawn, original = [], sampling._draw

    def killed(*args):
        if len(drawn) == 3:  # the second model's second budget
            raise KeyboardInterrupt
        drawn.append(args)
        return original(*args)

    monkeypatch.setattr(sampling, "_draw", killed)
    assert study(pets, done).code == 130
    shown = [[p["evaluations"] for p in one["sampling"]] for one in points(done).values()]
    assert shown == [[2, 3], [2], [], []]


def test_a_run_that_was_killed_before_it_had_a_recipe_is_begun_anew(pets: Path, tmp_path: Path) -> None:
    half = tmp_path / "study" / "runs" / "8x1-p4" / ".recipe.yaml.writing-1"
    half.parent.mkdir(parents=True)
    half.touch()
    made(study(pets, tmp_path / "study", "--sizes", "8x1", "--patches", 4, "--evaluations"))
    assert [look["step"] for look in points(tmp_path / "study")["8x1/4"]["curve"]] == [2, 4]
    assert not half.exists()


def test_drawn_points_are_kept_one_by_one(pets: Path, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, draw = [], sampling._draw
    monkeypatch.setattr(sampling, "_draw", lambda *args: drawn.append(args[1].evaluations) or draw(*args))
    (done / "runs" / "16x1-p2" / "sampling.json").unlink()
    made(study(pets, done, "--evaluations", 2, 3, 4, "--sizes", "16x1", "--patches", 2))
    assert drawn == [2, 3, 4]
    assert [p["evaluations"] for p in points(done)["16x1/2"]["sampling"]] == [2, 3, 4]


def test_a_model_that_fails_is_listed_and_stops_no_other(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.one_step

    def broken(self, net, batch):
        totals, norm = step(self, net, batch)
        return totals, torch.tensor(torch.nan) if self.net.width == 16 else norm

    monkeypatch.setattr(Trainer, "one_step", broken)
    said = made(study(pets, tmp_path / "study", "--patches", 4, "--sizes", "16x1", "8x1", "8x2", "--evaluations"))
    found = points(tmp_path / "study")
    assert "grad_norm became nan" in found["16x1/4"]["failed"]
    assert found["8x1/4"]["failed"] is found["8x2/4"]["failed"] is None
    assert "failed: grad_norm became nan" in said.out
    assert "2 models are measured, expected at least 3" in said.out
    monkeypatch.setattr(Trainer, "one_step", None)  # and is not tried again
    made(study(pets, tmp_path / "study", "--patches", 4, "--sizes", "16x1", "8x1", "8x2", "--evaluations"))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--sizes"], "--sizes names none"),
        (["--patches"], "--patches names none"),
        (["--patches", 3], "model 8x1/3 of --sizes and --patches: input size 8x8 is not divisible by the patch size 3"),
        (["--sizes", "Q"], "--sizes Q: expected WIDTHxDEPTH or WIDTHxDEPTHxHEADS"),
        (["--sizes", "0x3"], "--sizes 0x3: expected positive numbers"),
        (["--sizes", "9x1x2"], "model 9x1x2/4 of --sizes and --patches: "),
        (["--sizes", "8x1", "8x1x1"], "8x1x1/4 is the same model as 8x1/4"),
        (["--patches", 2, 2], "8x1/2 is the same model as 8x1/2"),
        (["--budget", "much"], "--budget much: expected a positive number of multiply-adds"),
        (["--budget", "-1"], "--budget"),
        (["--metric", "frechet"], "did you mean 'frechet_distance'?"),
        (["--train.minutes", 1, "--evaluate-every", None], "add --evaluate-every N"),
        (["--sample.solver", "dopri5"], "solver dopri5 chooses its own steps"),
        (["--sample.solver", "heun", "--evaluations", 0], "--evaluations 0"),
        (["--features-weights", "w.pth"], "--features-weights w.pth does nothing with --features self"),
        (["--out", __file__], f"{__file__} is a file, and results go to"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_training(
    pets: Path, tmp_path: Path, args: list[object], said: str
) -> None:
    done = study(pets, tmp_path / "study", *args)
    assert done.code == 2
    assert said in done.err[-1]
    assert not (tmp_path / "study" / "runs").exists()


@pytest.mark.parametrize(("classes", "features"), [(True, "pixels"), (False, "self")])
def test_without_a_judge_of_classes_the_metric_alone_is_measured(
    pets: Path, tmp_path: Path, classes: bool, features: str
) -> None:
    small = ["--sizes", "8x1", "--patches", 4, "--evaluations", 2, "--looks", 1, "--evaluate-every", None]
    out = tmp_path / "study"
    made(study(pets, out, *small, "--features", features, "--data.classes" if classes else "--data.no-classes"))
    assert points(out)["8x1/4"]["sampling"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--train.lr", 0.5], "train.lr 0.1, this study 0.5"),
        (["--evaluate.every-num", 24], "evaluate.every_num 20, this study 24"),
        (["--data.heldout", 0.2], "data.heldout 0.0, this study 0.2"),
    ],
)
def test_a_folder_with_other_settings_is_refused(pets: Path, pristine: Path, args: list[object], said: str) -> None:
    done = study(pets, pristine, *args)
    assert done.code == 2
    assert said in done.err[-1]


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("96x4/2", Model(patch_size=2, width=96, depth=4, heads=3)),
        ("48x2x1/2", Model(patch_size=2, width=48, depth=2, heads=1)),
        ("B/2", Model(patch_size=2, preset="DiT-B/2")),
    ],
)
def test_a_size_is_a_published_letter_or_width_and_depth(name: str, model: Model) -> None:
    assert grid.models(MODEL, [name.split("/")[0]], [2]) == {name: model}


def test_a_published_size_is_its_numbers() -> None:
    with pytest.raises(UserError, match="384x12x6/4 is the same model as S/4"):
        grid.models(MODEL, ["S", "384x12x6"], [4])


def test_multiply_adds_are_those_of_the_network() -> None:
    recipe = Recipe(model=MODEL)
    (found,) = grid.candidates(recipe, grid.models(MODEL, ["8x1"], [2]), FACTS)
    net = grid.DenoiserRuns.network(found.recipe, FACTS)
    said = cost(net, torch.zeros(1, 1, 8, 8), torch.zeros(1), Condition(label=torch.zeros(1, dtype=torch.int64)))
    assert (found.multiply_adds, found.parameters, found.tokens) == (said.multiply_adds, said.parameters, 16)
    assert found.training_multiply_adds(10) == 3 * said.multiply_adds * recipe.train.batch_size * 10


@pytest.mark.parametrize(("text", "value"), [("3e15", 3e15), ("6PFs", 3e15), ("0.5PFs", 2.5e14)])
def test_a_budget_is_in_multiply_adds_or_petaflops_seconds(text: str, value: float) -> None:
    assert parse_budget(text) == value


@pytest.mark.parametrize(("guidance", "interval", "passes"), [(1.0, (0, 1), 4), (2.0, (0, 1), 8), (2.0, (0, 0.6), 6)])
def test_passes_of_the_network_are_counted(
    pristine: Path, guidance: float, interval: tuple[float, float], passes: float
) -> None:
    model = load_model(open_run(pristine / "runs" / "8x1-p4"))
    settings = Choice.parse("ddim").over(model.run.recipe.sample, 4)
    settings = dataclasses.replace(settings, guidance=guidance, guidance_interval=interval)
    assert sampling.passes(model, settings) == passes
    assert ROWS > 1


def test_minutes_of_the_recipe_are_left_out_unless_they_are_asked_for() -> None:
    recipe = Recipe(data=Data("x"), process=Process(), train=TrainSettings(steps=50, minutes=3), sample=Sampling())
    wanted = Wanted.of(recipe, sizes=["8x1"], patches=[2])
    assert (wanted.recipe.train.minutes, wanted.recipe.evaluate.every) == (None, 10)
    timed = dataclasses.replace(recipe, evaluate=Measuring(every=20))
    assert Wanted.of(timed, sizes=["8x1"], patches=[2], timed=True).recipe.train.minutes == 3


def test_help_does_without_torch() -> None:
    code = (
        "import sys, ditkit.app.cli as cli\ntry: cli.main(['study', 'scaling', '--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--patches" in done.stdout


def told(values: dict[str, list[float]]) -> Findings:
    """Findings of models with these values of their looks; each costs ten times the one before."""
    protocol = {"samples": 20, "sampling": {"solver": "ddim", "steps": "2", "guidance": 1.0}, "network": "self"}
    protocol |= {"reference": {"images": 9, "fingerprint": ""}}
    entries = [
        Entry(
            Candidate(name, Recipe(), 10 ** (6 + k), 5, 4), tuple(Look(10 * (i + 1), v, 0.1) for i, v in enumerate(vs))
        )
        for k, (name, vs) in enumerate(values.items())
    ]
    return Findings(Path("unused"), "frechet_distance", "lower", protocol, tuple(entries), (1e12,))


@pytest.mark.parametrize("values", [{"a": []}, {"a": [0.0]}, {"a": [2.0, 1.0], "b": [-1.0, 1.0], "c": [3.0]}])
def test_pages_can_be_made_of_whatever_is_there(values: dict[str, list[float]]) -> None:
    found = told(values)
    assert "nan" not in "".join(map(svg_chart, pages.figures(found).values()))
    assert pages.text(found)
    assert "<table" in pages.html(found, pages.figures(found))


def test_pages_say_what_is_measured_in_words() -> None:
    found = told({name: [4.0 - k, 3.0 - k] for k, name in enumerate("abc")})
    page = pages.html(found, pages.figures(found))
    assert "correlation of log Gmac and Fréchet distance over 3 models" in page
    assert "frechet_distance" not in page + pages.text(found)
    assert "<h1>Scaling of a, b, c</h1>" in page
    many = told({name: [2.0, 1.0] for name in "abcd"})
    assert "<h1>Scaling study of 4 models</h1>" in pages.html(many, pages.figures(many))
    rising = dataclasses.replace(found, metric="class_accuracy", better="higher")
    assert "more is better for Class accuracy" in pages.text(rising)


def test_a_model_looks_the_same_in_all_figures_and_is_named_in_the_scatter() -> None:
    found = told({"a": [3.0, 2.0], "b": [2.0, 1.0], "c": [2.5, 1.5]})
    failed = dataclasses.replace(found.entries[0], failed="the loss became infinite")
    figures = pages.figures(dataclasses.replace(found, entries=(failed, *found.entries[1:])))
    scatter = figures["model"]
    assert [(label.text, label.x, label.y) for label in scatter.labels] == [("b", 0.01, 1.0), ("c", 0.1, 1.5)]
    assert not scatter.legend
    looks = {mark.css for mark in scatter.marks}
    assert looks == {css for css, name in figures["steps"].legend if name in "bc"}
    assert [text for _, text in figures["steps"].legend] == ["a", "b", "c"]


def test_pages_escape_what_users_wrote() -> None:
    nasty = "<script>alert('1')</script>"
    found = told({nasty: [3.0, 2.0], "b": [2.0, 1.0]})
    assert nasty not in pages.html(found, pages.figures(found))
