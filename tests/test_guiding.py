"""The settings' guidance: the maps alone and composed, against exact answers; and on the command line."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ditkit.app import guiding
from ditkit.app.guiding import Guides, Led, NoisyClassifier, guide
from ditkit.app.model import described, load_model
from ditkit.app.recipe import Sampling
from ditkit.app.run import open_run
from ditkit.backbones.output import Output
from ditkit.base.errors import UserError
from ditkit.condition import NULL_LABEL, Condition
from ditkit.process.continuous import VP
from ditkit.process.denoiser import Denoised, Denoiser
from ditkit.process.path import DDPMLinear
from ditkit.process.path import Path as GaussianPath
from ditkit.process.prediction import Eps
from tests.exact import PATHS, normal
from tests.mixtures import Mixture, mixture
from tests.running import CALM, ditkit, made, train
from tests.test_classifier import OPTIONS
from tests.test_refusals import assert_refused, contents

DATA = mixture(3)
CLASSES = ["left", "middle", "right"]
T = torch.tensor(0.4, dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 1, 0])
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def exact_model(path: GaussianPath, data: Mixture = DATA, *, conditional: bool = True) -> Denoiser:
    """The network that has learned the mixture, its classes the components, and the mixture itself for the null."""

    def net(x: Tensor, time: Tensor, condition: Condition) -> Output:
        assert (condition.label is not None) == conditional
        label = torch.full((len(x),), NULL_LABEL) if condition.label is None else condition.label
        of = {k: (data if k == NULL_LABEL else data.component(k)).on(path)(x, T).eps for k in set(label.tolist())}
        return Output(torch.stack([of[k][i] for i, k in enumerate(label.tolist())]), {})

    return Denoiser(net, path, Unscaled(), Condition(LABELS))


class Unscaled(Eps):
    """eps in the precision of x: the exact answers are float64."""


def said(
    sampling: Sampling, path: GaussianPath, guides: Guides | None = None, classes: list[str] = CLASSES
) -> Denoised:
    return guide(sampling, classes, guides)(exact_model(path, conditional=bool(classes)))(X, T)


X = normal(5, 3, dtype=torch.float32)


def plain(path: GaussianPath, k: int | None) -> Tensor:
    """eps of component k for all of X; None: of the mixture."""
    return (DATA if k is None else DATA.component(k)).on(path)(X, T).eps


def conditional(path: GaussianPath) -> Tensor:
    """eps of each row's own component."""
    return torch.stack([plain(path, k)[i] for i, k in enumerate(LABELS.tolist())])


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@every_path
def test_guidance_leads_away_from_the_null_or_from_a_negative_class(path: GaussianPath) -> None:
    cond = conditional(path)
    close(said(Sampling(guidance=1.0), path).eps, cond)
    close(said(Sampling(guidance=3.0), path).eps, plain(path, None) + 3 * (cond - plain(path, None)))
    for name in ("middle", "1"):
        led = said(Sampling(guidance=3.0, guidance_negative=name), path)
        close(led.eps, plain(path, 1) + 3 * (cond - plain(path, 1)))
        close(path.mix(led.x0, led.eps, T), X)


def test_without_guidance_the_network_is_asked_under_one_condition() -> None:
    asked: list[int] = []
    model = exact_model(VP())

    def net(x: Tensor, time: Tensor, condition: Condition) -> Output:
        asked.append(len(x))
        return model.net(x, time, condition)

    for scale in (1.0, 2.0):
        guide(Sampling(guidance=scale), CLASSES)(dataclasses.replace(model, net=net))(X, T)
    assert asked == [len(X), 2 * len(X)]


def exact_classifier(path: GaussianPath, order: list[int]) -> NoisyClassifier:
    """p(k | x_t), its classes in another order than the model's."""

    def logits(x: Tensor, time: Tensor) -> Tensor:
        return DATA.on(path).component_log_probability(x, T.expand(len(x)))[:, order]

    return NoisyClassifier(logits, path, [CLASSES[k] for k in order])


@every_path
def test_the_exact_classifier_makes_an_unconditional_model_conditional(path: GaussianPath) -> None:
    guides = Guides(classifier=exact_classifier(path, [0, 1, 2]))
    with torch.inference_mode():
        led = said(Sampling(guidance=4.0), path, guides, classes=[])
    close(led.eps, conditional(path))
    close(path.mix(led.x0, led.eps, T), X)


def test_classes_of_a_classifier_are_matched_by_name() -> None:
    path = VP()
    guides = Guides(classifier=exact_classifier(path, [2, 0, 1]))
    # p(x | y) p(y | x)^w: the model is conditional already, the classifier sharpens it by its own gradient
    sharper = said(Sampling(guidance=1.0, guidance_classifier_scale=1.0), path, guides).eps
    close(sharper, 2 * conditional(path) - plain(path, None))
    assert list(guiding.names([], guides)) == ["right", "left", "middle"]
    assert list(guiding.names(CLASSES, guides)) == CLASSES


@every_path
def test_a_model_led_away_from_itself_is_itself_whatever_else_guides_it(path: GaussianPath) -> None:
    strong = exact_model(path)
    for settings in (
        Sampling(guidance=1.0, guidance_weak_scale=3.0),
        Sampling(guidance=2.5, guidance_weak_scale=3.0),
        Sampling(guidance=2.5, guidance_weak_scale=3.0, guidance_negative="left", guidance_rescale=0.7),
    ):
        close(said(settings, path, Guides(weak=Led(strong, CLASSES))).eps, said(settings, path).eps)


def test_autoguidance_leads_away_from_the_weak_model() -> None:
    path, worse = VP(), mixture(3, std=0.9)
    weak = Led(exact_model(path, worse), CLASSES)
    led = said(Sampling(guidance=1.0, guidance_weak_scale=2.5), path, Guides(weak)).eps
    there = torch.stack([worse.component(k).on(path)(X, T).eps[i] for i, k in enumerate(LABELS.tolist())])
    close(led, there + 2.5 * (conditional(path) - there))
    both = said(Sampling(guidance=2.0, guidance_weak_scale=2.5), path, Guides(weak)).eps
    there = 2 * there - worse.on(path)(X, T).eps
    close(both, there + 2.5 * (2 * conditional(path) - plain(path, None) - there))


def test_an_unconditional_weak_model_is_what_the_null_would_be() -> None:
    path = VP()
    weak = Guides(Led(exact_model(path, conditional=False)))
    led = said(Sampling(guidance=1.0, guidance_weak_scale=2.0), path, weak).eps
    close(led, said(Sampling(guidance=2.0), path).eps)
    both = said(Sampling(guidance=3.0, guidance_weak_scale=2.0), path, weak).eps
    close(both, said(Sampling(guidance=6.0), path).eps)  # null + 2 (null + 3 (c - null) - null)


def test_outside_its_interval_nothing_guides() -> None:
    path = VP()
    guides = Guides(Led(exact_model(path, mixture(3, std=0.9)), CLASSES), exact_classifier(path, [0, 1, 2]))
    settings = Sampling(guidance=3.0, guidance_negative="left", guidance_interval=(0.5, 1.0))
    close(said(settings, path, guides).eps, conditional(path))
    inside = said(dataclasses.replace(settings, guidance_interval=(0.3, 0.5)), path, guides).eps
    close(inside, said(dataclasses.replace(settings, guidance_interval=(0.0, 1.0)), path, guides).eps)
    assert (inside - conditional(path)).abs().max() > 0.1


def test_guides_of_another_kind_are_refused() -> None:
    with pytest.raises(UserError, match=r"'vp' and 'ddpm_linear'"):
        said(Sampling(), VP(), Guides(Led(exact_model(DDPMLinear()), CLASSES)))
    with pytest.raises(UserError, match=r"classifier guidance between the paths 'vp' and 'ddpm_linear'"):
        said(Sampling(), VP(), Guides(classifier=exact_classifier(DDPMLinear(), [0, 1, 2])))
    with pytest.raises(UserError, match=r"does not know the class 'left'"):
        said(Sampling(), VP(), Guides(classifier=exact_classifier(VP(), [1, 2])))
    with pytest.raises(UserError, match=r"expected one class"):
        said(Sampling(guidance_negative="left,right"), VP())


# --- on the command line ---


def drawn(run: Path, out: Path, *options: object) -> bytes:
    """The grid that ditkit sample draws with these options, all else as in the run."""
    made(ditkit("sample", run, "--num", 4, "--steps", 3, "--guidance", 3, "--out", out, *options))
    return (out / "grid.png").read_bytes()


@pytest.fixture(scope="module")
def longer(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run like ``run`` that was trained for longer."""
    folder = tmp_path_factory.mktemp("longer") / "r"
    made(train(pets, folder, "--data.heldout", 0.2, *CALM, "--train.steps", 8, "--train.keep-checkpoints", 9))
    return folder


WAYS = {
    "rescale": ["--guidance-rescale", 0.7],
    "negative": ["--guidance-negative", "cat"],
    "weak": ["--guidance-weak-scale", 3, "--guidance-weak"],
    "interval": ["--guidance-interval", 0.3, 0.9],
}


def test_every_way_changes_the_images_and_all_go_together(run: Path, longer: Path, tmp_path: Path) -> None:
    step = longer / "checkpoints" / "step-0000002"
    ways = [[], *WAYS.values(), [w for way in WAYS.values() for w in way]]
    seen = [
        drawn(longer, tmp_path / str(i), *(w for x in way for w in ([x, run] if x == "--guidance-weak" else [x])))
        for i, way in enumerate(ways)
    ]
    seen += [drawn(longer, tmp_path / name, "--guidance-weak", place, *more) for name, place, more in [
        ("earlier", step, []),
        ("plain", longer, ["--guidance-weak-weights", "weights"]),
    ]]  # fmt: skip
    assert len(set(seen)) == len(seen)
    itself = drawn(longer, tmp_path / "itself", "--guidance-weak", longer)
    assert itself == seen[0]
    one = drawn(longer, tmp_path / "one", "--guidance-weak", run, "--guidance-weak-scale", 1)
    assert one == seen[0]


def test_a_recipe_can_hold_them(run: Path, pets: Path, tmp_path: Path) -> None:
    ways = ["--sample.guidance-weak", run, "--sample.guidance-rescale", 0.5, "--sample.guidance-negative", "dog"]
    made(train(pets, tmp_path / "r", *CALM, *ways, "--train.sample-every", 2, "--data.heldout", 0.2))
    assert (tmp_path / "r" / "samples" / "step-0000004.png").is_file()
    held = open_run(tmp_path / "r").recipe.sample
    assert (held.guidance_weak, held.guidance_rescale, held.guidance_negative) == (str(run), 0.5, "dog")
    off = ["--guidance-weak-scale", 1, "--guidance-rescale", 0]
    assert drawn(tmp_path / "r", tmp_path / "a") != drawn(tmp_path / "r", tmp_path / "b", *off)


def test_a_classifier_leads_conditional_and_unconditional_models(
    run: Path, unconditional: Path, pets: Path, tmp_path: Path
) -> None:
    made(ditkit("train-classifier", "--data", pets, "--out", tmp_path / "c", *OPTIONS, "--process.path", "cosine"))
    by = ["--guidance-classifier", tmp_path / "c"]
    strong = [*by, "--guidance-classifier-scale", 50]
    images = [drawn(run, tmp_path / str(i), *way) for i, way in enumerate(([], by, strong))]
    assert len(set(images)) == 3
    assert drawn(run, tmp_path / "off", *by, "--guidance-classifier-scale", 0) == images[0]
    drawn(unconditional, tmp_path / "led", "--guidance", 1, *strong, "--classes", "dog")
    assert (tmp_path / "led" / "seed000003-class1.png").is_file()
    made(train(pets, tmp_path / "vp", "--process.path", "vp"))
    said = ditkit("sample", tmp_path / "vp", "--out", tmp_path / "s", *by)
    assert_refused(said, "--guidance-classifier", "'vp' and 'cosine'")
    assert_refused(ditkit("sample", run, "--out", tmp_path / "s", "--guidance-classifier", run), str(run), "classifier")


def test_a_protocol_knows_what_guides_by_its_weights(run: Path, longer: Path, pets: Path, tmp_path: Path) -> None:
    judge, seen = tmp_path / "judge", []
    for seed in (0, 1):
        made(ditkit("train-classifier", "--data", pets, "--out", judge, *OPTIONS, "--seed", seed))
        seen.append(described(Sampling(guidance_weak=str((run, longer)[seed]), guidance_classifier=str(judge))))
        judge = judge.rename(tmp_path / f"judge-{seed}").with_name("judge")  # the next one lies where it lay
    assert all(seen[0][name] != seen[1][name] for name in ("guidance_weak", "guidance_classifier"))
    shutil.copytree(run, tmp_path / "elsewhere")
    moved = Sampling(guidance_weak=str(tmp_path / "elsewhere"), guidance_classifier=str(tmp_path / "judge-0"))
    assert described(moved) == seen[0]


REFUSED = {
    "--guidance-rescale 1.5": ["--guidance-rescale 1.5", "less than or equal to 1"],
    "--guidance-rescale nan": ["--guidance-rescale nan"],
    "--guidance-negative bird": ["unknown class 'bird'", "cat, dog"],
    "--guidance-negative 2": ["--guidance-negative 2", "0 to 1"],
    "--guidance-negative cat,dog": ["--guidance-negative cat,dog", "expected one class"],
    "--guidance-weak nowhere": ["nowhere", "does not exist"],
    "--guidance-weak-scale inf": ["--guidance-weak-scale inf", "finite"],
    "--guidance-weak-weights mine": ["--guidance-weak-weights mine does nothing without --guidance-weak"],
}


@pytest.mark.parametrize("options", REFUSED)
def test_what_cannot_be_is_refused(options: str, run: Path, tmp_path: Path) -> None:
    assert_refused(ditkit("sample", run, "--out", tmp_path / "s", *options.split()), *REFUSED[options])
    assert not contents(tmp_path)


def test_weak_models_that_do_not_belong_are_refused(
    run: Path, unconditional: Path, pets: Path, loose: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(train(pets, tmp_path / "vp", "--process.path", "vp"))
    made(train(pets, tmp_path / "large", *CALM, "--data.size", 16))
    shutil.copytree(pets / "cat", tmp_path / "more" / "bird")
    shutil.copytree(pets / "dog", tmp_path / "more" / "dog")
    made(train(tmp_path / "more", tmp_path / "birds", *CALM))
    refused = [
        ("large", "(1, 16, 16)", "(1, 8, 8)"),
        ("birds", "['bird', 'dog']", "['cat', 'dog']"),
    ]
    for weak, *words in refused:
        said = ditkit("sample", run, "--out", tmp_path / "s", "--guidance-weak", tmp_path / weak)
        assert_refused(said, "--guidance-weak", weak, *words)
    said = ditkit("sample", unconditional, "--out", tmp_path / "s", "--guidance-negative", "cat")
    assert_refused(said, "--guidance-negative cat", "unconditional")
    monkeypatch.setattr("ditkit.app.build.network", lambda *args, **kwargs: pytest.fail("long work began"))
    for command in (["sample", run, "--out", tmp_path / "s"], ["evaluate", run]):
        assert_refused(ditkit(*command, "--guidance-weak", tmp_path / "vp"), "--guidance-weak", "'cosine' and 'vp'")
    assert not (tmp_path / "s").exists()


def test_guides_that_do_not_fit_the_data_are_refused_before_training(run: Path, pets: Path, tmp_path: Path) -> None:
    for negative, *words in (("bird", "unknown class 'bird'", "cat, dog"), ("2", "--guidance-negative 2", "0 to 1")):
        assert_refused(train(pets, tmp_path / "r", *CALM, "--sample.guidance-negative", negative), *words)
    weak = ["--sample.guidance-weak", run, "--data.size", 16]
    assert_refused(train(pets, tmp_path / "r", *CALM, *weak), "--guidance-weak", "(1, 8, 8)", "(1, 16, 16)")
    assert not contents(tmp_path)


def test_a_model_is_read_once_however_often_it_guides(run: Path, longer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(open_run(longer))
    settings = Sampling(guidance_weak=str(run), steps="2")
    first = model.guides(settings).weak
    monkeypatch.setattr("ditkit.app.build.network", lambda *args, **kwargs: pytest.fail("read again"))
    assert model.guides(settings).weak == first
