"""The classifier on noisy images: trained as a denoiser is, kept as one, able to guide one that knows no classes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch

from ditkit.app.kinds.classifier import load_classifier_run
from ditkit.app.recipe import ClassifierRecipe
from ditkit.app.recipe_files import from_yaml, load_recipe, to_yaml
from ditkit.backbones.classifier import NoisyClassifier
from ditkit.backbones.dit import DiT
from ditkit.base.errors import UserError
from ditkit.base.pixels import from_uint8
from ditkit.base.rng import generator
from ditkit.condition import Condition
from ditkit.data.loader import batch
from ditkit.data.loading import load_images
from ditkit.data.source import open_source
from ditkit.guidance import ClassifierGuided, classifier_gradient
from ditkit.objectives.neighbours import BruteForce, References
from ditkit.objectives.targets import KNNDenoiser
from ditkit.process.continuous import Linear
from ditkit.process.density import LossHistory
from ditkit.process.grids import uniform
from ditkit.process.path import Path as NoisePath
from ditkit.process.path import time_of
from ditkit.sample import sample
from ditkit.solvers.ode import euler
from ditkit.train.classifying import Classifying, network_input
from ditkit.train.settings import LoopSettings
from ditkit.train.trainer import Trainer
from tests.exact import PATHS
from tests.running import TINY, assert_same_tensors, ditkit, losses, made, weights

OPTIONS = [*TINY[: TINY.index("--train.sample-every")], "--train.device", "cpu"]
"""A tiny classifier, as the command line takes it."""


def net_of(classes: int, *, width: int = 8, depth: int = 1, channels: int = 1) -> NoisyClassifier:
    """A classifier of 8x8 images."""
    return NoisyClassifier(DiT(8, 2, channels, width, depth, 2), classes)


@pytest.fixture(scope="module")
def classifier(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier's run. Not to be changed."""
    out = tmp_path_factory.mktemp("classifiers") / "c"
    made(ditkit("train-classifier", "--data", pets, "--out", out, *OPTIONS, "--process.path", "cosine"))
    return out


def test_a_run_has_what_every_run_has(classifier: Path, run: Path) -> None:
    assert {p.name for p in classifier.iterdir()} >= {"recipe.yaml", "log.jsonl", "checkpoints"}
    records = [json.loads(line) for line in (classifier / "log.jsonl").read_text().splitlines()]
    measured = [record for record in records if "loss" in record]
    assert [record["step"] for record in measured] == [1, 2, 3, 4]
    assert all(record["loss"] == record["cross_entropy"] for record in measured)
    assert all(0 <= record["accuracy"] <= 1 for record in measured)
    assert any("accuracy_t0.4" in record for record in measured)
    said = made(ditkit("info", classifier)).out
    assert "classifier" in said
    assert "2 (cat, dog)" in said
    assert "multiply-adds" in said


def test_a_stopped_run_goes_on_to_the_bit(classifier: Path, pets: Path, tmp_path: Path) -> None:
    parts, options = tmp_path / "parts", [*OPTIONS, "--process.path", "cosine"]
    made(ditkit("train-classifier", "--data", pets, "--out", parts, *options, "--train.steps", 3))
    made(ditkit("train", "--resume", parts, "--train.steps", 4))
    assert_same_tensors(weights(parts), weights(classifier))
    assert losses(parts) == losses(classifier)


def test_other_commands_say_what_it_is(classifier: Path, run: Path) -> None:
    for args in (["sample", classifier], ["report", classifier], ["evaluate", classifier, "--reference", "digits"]):
        said = ditkit(*args)
        assert said.code == 2
        assert "describes a classifier: expected a denoiser" in said.err[0]
    with pytest.raises(UserError, match="describes a denoiser: expected a classifier"):
        load_classifier_run(run)


def test_recipes_of_denoisers_say_what_they_say_of_a_classifier(tmp_path: Path) -> None:
    theirs, ours = load_recipe("digits"), load_recipe("digits", ClassifierRecipe)
    assert (ours.data, ours.model, ours.seed) == (theirs.data, theirs.model, theirs.seed)
    assert (ours.process.path, ours.train.lr) == (theirs.process.path, theirs.train.lr)
    (tmp_path / "c.yaml").write_text(to_yaml(ours))
    (tmp_path / "d.yaml").write_text(to_yaml(theirs))
    assert load_recipe(str(tmp_path / "c.yaml"), ClassifierRecipe) == ours
    assert load_recipe(str(tmp_path / "d.yaml"), ClassifierRecipe) == ours
    with pytest.raises(UserError, match="describes a classifier"):
        load_recipe(str(tmp_path / "c.yaml"))
    with pytest.raises(UserError, match=r"unknown key train\.sample_every"):
        from_yaml("kind: classifier\ntrain: {sample_every: 3}", "it", ClassifierRecipe)


@pytest.mark.parametrize("args", [[], ["--data.no-classes"]])
def test_data_without_classes_are_refused(loose: Path, tmp_path: Path, args: list[str]) -> None:
    said = ditkit("train-classifier", "--data", loose, "--out", tmp_path / "r", *OPTIONS, *args)
    assert said.code == 2
    assert "classes" in said.err[0]
    assert not (tmp_path / "r").exists()


def test_a_classifier_guides_only_models_of_its_kind(classifier: Path, run: Path) -> None:
    loaded, facts = load_classifier_run(classifier), load_classifier_run(classifier).facts
    loaded.check_guides(loaded.path, facts)
    loaded.check_guides(loaded.path, {**facts, "classes": []})
    refused: list[tuple[NoisePath, dict, str]] = [
        (Linear(), facts, "'cosine', the model on 'linear'"),
        (loaded.path, {**facts, "input_size": [4, 4]}, "size"),
        (loaded.path, {**facts, "autoencoder": "other"}, "latents"),
        (loaded.path, {**facts, "classes": ["dog", "cat"]}, "knows the classes cat, dog"),
    ]
    for path, theirs, reason in refused:
        with pytest.raises(UserError, match=reason):
            loaded.check_guides(path, theirs)
    logits = loaded(torch.zeros(3, 1, 8, 8), torch.full((3,), 500.0))
    assert logits.shape == (3, 2)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_the_network_sees_an_image_whatever_the_noise(path: NoisePath) -> None:
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    x0, eps = (torch.randn(20, 1, 8, 8, generator=generator(0, name)) for name in ("x", "eps"))
    seen = network_input(path, path.mix(x0, eps, t), t)
    assert seen.flatten(1).std(1).max() < 1.5
    torch.testing.assert_close(time_of(path, path.network_time(t)), t)


def test_where_there_is_no_signal_there_is_no_gradient(classifier: Path) -> None:
    loaded = load_classifier_run(classifier)
    x, label = torch.randn(8, 1, 8, 8, generator=generator(0, "x")), torch.zeros(8, dtype=torch.int64)
    low, high = torch.tensor(0.5, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    gradient = classifier_gradient(loaded, label, loaded.path)
    shift = [(g / loaded.path.alpha(t)).abs().max() for t in (low, high) for g in [gradient(x, t)]]
    assert shift[1] < 3 * shift[0]


def test_a_history_of_losses_weighs_what_it_draws_often() -> None:
    history = LossHistory(bins=2, memory=1, uniform=0.1)
    task = Classifying(net_of(10), Linear(), 0, density=history)
    images = load_images(open_source("digits"), progress=False)
    work = task.work(batch(images, step=0, batch_size=64, seed=0), 0)
    assert torch.equal(work.weight, torch.ones(64))
    task.loss(task.net, work)
    assert history.counts.tolist() == [(work.t <= 0.5).sum(), (work.t > 0.5).sum()]
    again = task.work(batch(images, step=1, batch_size=64, seed=0), 1)
    torch.testing.assert_close(again.weight.double(), 1 / history.pdf(again.t, task.path))
    assert again.weight.unique().numel() == 2


def test_its_gradient_leads_samples_of_a_model_without_classes_to_the_class() -> None:
    """The model is the exact denoiser of the digits 0 and 1: without guidance it draws both."""
    images, path = load_images(open_source("digits"), progress=False), Linear()
    assert images.labels is not None
    images = images.subset((images.labels < 2).nonzero()[:, 0])
    x0, labels = from_uint8(images.get(torch.arange(len(images)))), images.labels
    assert labels is not None
    task = Classifying(net_of(2, width=32, depth=2), path, 0)
    trainer = Trainer(task, LoopSettings(steps=200, batch_size=32, lr=3e-3, warmup=20, ema_decay=0.9))
    trainer.run((batch(images, step=i, batch_size=32, seed=0) for i in itertools.count()), lambda record: None, [])
    model, wanted = KNNDenoiser(path, References.among(x0), k=len(x0)), torch.arange(24) % 2

    def seeing(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return trainer.ema.net(network_input(path, x, time_of(path, time)), time)

    def accuracy(scale: float) -> float:
        gradient = classifier_gradient(seeing, wanted, path, scale)
        drawn = sample(
            model, Condition(), range(24), (1, 8, 8), uniform(path, 20),
            solver=euler, guide=lambda denoiser: ClassifierGuided(denoiser, gradient),
        )  # fmt: skip
        found = labels[BruteForce(x0).nearest(drawn, 1)[:, 0]]
        return (found == wanted).double().mean().item()

    assert accuracy(0.0) < 0.75
    assert accuracy(4.0) > 0.9
