"""The classifier and the suite on small pictures that a classifier can tell apart."""

import json
import shutil

import pytest
import torch

from ditkit.base.errors import DivergedError, UserError
from ditkit.base.rng import generator
from ditkit.evaluate import classifier as classifiers
from ditkit.evaluate import fitting, scores, suite
from ditkit.evaluate.classifier import cached_classifier, default_steps, load_classifier, split, train_classifier
from ditkit.evaluate.features import accuracy
from ditkit.evaluate.suite import evaluate_samples

CLASSES = 3
DISTRIBUTION = {"frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage"}


def pictures(n: int, index: int = 0, shape: tuple[int, int, int] = (1, 8, 8)) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy bars: class 0 lies at the top, 1 in the middle, 2 at the left."""
    C, H, W = shape
    draws = generator(0, "test.bars", index)
    labels = torch.arange(n) % CLASSES
    bars = torch.zeros(CLASSES, C, H, W)
    bars[0, :, : H // 4] = bars[1, :, H // 2 : H // 2 + 2] = 1
    bars[2, :, :, : W // 4] = 1
    light = 0.5 + 0.5 * torch.rand(n, 1, 1, 1, generator=draws)
    noise = 0.2 * torch.randn(n, C, H, W, generator=draws)
    return (255 * (bars[labels] * light + noise)).clamp(0, 255).to(torch.uint8), labels


@pytest.fixture(scope="module")
def bars():
    return pictures(300)


@pytest.fixture(scope="module")
def trained(bars):
    return train_classifier(*bars, num_classes=CLASSES, seed=1, steps=30, progress=False)


def test_classifier_learns_and_is_measured_on_held_out_images(bars, trained):
    assert trained.heldout_accuracy >= 0.95
    assert trained.heldout_samples == 60
    new, labels = pictures(90, index=1)
    assert accuracy(trained.logits(new), labels) >= 0.95
    assert accuracy(trained.logits(new), (labels + 1) % CLASSES) <= 0.05


def test_same_seed_same_classifier_and_the_global_random_state_is_left_alone(bars, trained):
    before = torch.random.get_rng_state()
    again = train_classifier(*bars, num_classes=CLASSES, seed=1, steps=30, progress=False)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.protocol == trained.protocol
    other = train_classifier(*bars, num_classes=CLASSES, seed=2, steps=2, progress=False)
    assert other.hash != trained.hash


def test_features_do_not_depend_on_the_batch(bars, trained):
    features, logits = trained.measure(bars[0][:10], batch=3)
    torch.testing.assert_close(features, trained.features(bars[0][:10]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(logits, trained.logits(bars[0][:10]), rtol=1e-4, atol=1e-5)
    assert features.dtype == torch.float32
    assert features.shape == (10, trained.protocol.widths[-1])


def test_samples_that_come_class_by_class_have_the_errors_of_mixed_ones(bars, trained):
    images, labels = pictures(90, index=1)
    sort = labels.argsort(stable=True)

    def errors(rows, known):
        drawn_for = labels[rows] if known else None
        found = evaluate_samples(images[rows], drawn_for, *bars, trained, progress=False)
        return {key: found[key]["standard_error"] for key in ("frechet_distance", "recall", "coverage")}

    mixed = errors(torch.arange(90), known=True)
    assert errors(sort, known=True) == pytest.approx(mixed, rel=1e-2)
    # Where nothing is known of their classes, these are drawn with them.
    assert errors(sort, known=False)["frechet_distance"] > 2 * mixed["frechet_distance"]


@pytest.mark.parametrize(("shape", "task"), [((1, 8, 8), "rotation"), ((3, 9, 24), "reflection")])
def test_without_labels_a_pretext_is_learnt(shape, task):
    images, _ = pictures(120, shape=shape)
    found = train_classifier(images[::3], None, seed=0, steps=60, progress=False)
    assert found.protocol.task == task
    assert found.num_classes is None
    # A bar at the top tells top from bottom and, of a square, its four sides: far above the chance of 1/4.
    assert found.heldout_accuracy > 0.4
    result = evaluate_samples(images[1::3], None, images[::3], None, found, progress=False)
    assert set(result) == DISTRIBUTION


def test_few_images_of_noise_do_not_make_the_classifier_diverge():
    images = torch.randint(256, (8, 1, 7, 13), dtype=torch.uint8, generator=generator(0, "test.few"))
    found = train_classifier(images, None, seed=0, progress=False)
    assert found.features(images).isfinite().all()


def test_a_training_that_diverges_is_made_anew_at_a_lower_rate(tmp_path, monkeypatch):
    labels = torch.arange(40) % 2
    noise = torch.randint(50, (40, 1, 8, 8), dtype=torch.uint8, generator=generator(0, "test.flat"))
    images = (200 * labels).to(torch.uint8)[:, None, None, None] + noise  # at its own rate this diverges in 60 steps
    monkeypatch.setattr(classifiers, "default_steps", lambda samples, cost: 10)

    def cached():
        return cached_classifier(tmp_path / "c", images, labels, num_classes=2, progress=False)

    monkeypatch.setattr(fitting, "RATES", (1e6, 0.125))
    monkeypatch.setattr(classifiers, "RATES", (1e6, 0.125))
    found = cached()
    assert "rate 0.125" in found.protocol.recipe
    assert found.features(images).isfinite().all()
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    monkeypatch.setattr(classifiers, "fitted", None)  # training again would fail
    assert cached().protocol == found.protocol
    monkeypatch.setattr(fitting, "RATES", (1e6,))
    monkeypatch.setattr(classifiers, "fitted", fitting.fitted)
    with pytest.raises(DivergedError, match="diverged at every rate"):
        train_classifier(images, labels, num_classes=2, progress=False)


def test_saved_classifier_is_the_same_and_damage_is_seen(trained, bars, tmp_path):
    trained.save(tmp_path / "c")
    found = load_classifier(tmp_path / "c")
    assert found.protocol == trained.protocol
    assert torch.equal(found.logits(bars[0]), trained.logits(bars[0]))
    weights = tmp_path / "c" / "network.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(UserError, match="hash"):
        load_classifier(tmp_path / "c")
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="delete the folder"):
        load_classifier(tmp_path / "c")


def test_cache_is_used_for_the_same_data_only(bars, tmp_path, monkeypatch):
    monkeypatch.setattr(classifiers, "default_steps", lambda samples, cost: 2)
    images, labels = bars
    first = cached_classifier(tmp_path / "c", images, labels, num_classes=CLASSES, progress=False)
    monkeypatch.setattr(classifiers, "fitted", None)  # training again would fail
    for left in (".c.safetensors", ".c.old-4194305", "..c.safetensors.writing-4194305"):  # by kills; no such process
        (tmp_path / left).write_text("")
    again = cached_classifier(tmp_path / "c", images, labels, num_classes=CLASSES, progress=False)
    assert again.protocol == first.protocol
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    monkeypatch.undo()
    monkeypatch.setattr(classifiers, "default_steps", lambda samples, cost: 2)
    changed = images.clone()
    changed[0, 0, 0, 0] ^= 1
    other = cached_classifier(tmp_path / "c", changed, labels, num_classes=CLASSES, progress=False)
    assert other.protocol.data != first.protocol.data
    reseeded = cached_classifier(tmp_path / "c", images, labels, num_classes=CLASSES, seed=5, progress=False)
    assert reseeded.seed == 5


def test_a_classifier_that_was_killed_goes_on_to_the_same_weights(bars, tmp_path, monkeypatch):
    monkeypatch.setattr(classifiers, "default_steps", lambda samples, cost: 9)
    monkeypatch.setattr(fitting, "KEPT_EVERY", 0.0)
    shift, drawn = fitting.shift, []

    def stopped(*args):
        if len(drawn) == 6:
            raise KeyboardInterrupt
        drawn.append(1)
        return shift(*args)

    def cached(folder, seed=0):
        return cached_classifier(folder, *bars, num_classes=CLASSES, seed=seed, progress=False)

    expected = cached(tmp_path / "whole")
    monkeypatch.setattr(fitting, "shift", stopped)
    with pytest.raises(KeyboardInterrupt):
        cached(tmp_path / "c")
    (kept,) = tmp_path.glob(".*")
    content = kept.read_bytes()

    def steps_of(call):
        drawn[:] = [1] * 7  # past the one to stop at
        call()
        return len(drawn) - 7

    assert steps_of(lambda: cached(tmp_path / "c")) == 3
    assert load_classifier(tmp_path / "c").protocol == expected.protocol  # its hash is of the weights
    assert not kept.exists()
    for what, seed in ((content, 1), (content[:-9], 0), (b"", 0)):  # of another training, damaged, empty
        (tmp_path / ".d.safetensors").write_bytes(what)
        assert steps_of(lambda seed=seed: cached(tmp_path / "d", seed)) == 9
        shutil.rmtree(tmp_path / "d")


def test_split_gives_every_class_its_share_and_caps_the_held_out():
    labels = torch.arange(1000) % 10
    training, heldout = split(labels, 0.2, seed=0)
    assert sorted([*training.tolist(), *heldout.tolist()]) == list(range(1000))
    assert labels[heldout].bincount().tolist() == [20] * 10
    assert len(split(torch.zeros(60_000, dtype=torch.int64), 0.2, seed=0)[1]) == 10_000


def test_steps_follow_the_data_and_the_cost():
    assert default_steps(10, 10**6) == classifiers.FEWEST_STEPS
    assert default_steps(1_000, 10**6) < default_steps(10_000, 10**6)
    assert default_steps(10**6, 10**7) * classifiers.BATCH * 10**7 <= classifiers.WORK


def test_suite_tells_good_samples_from_bad(bars, trained):
    good, labels = pictures(150, index=2)
    result = evaluate_samples(good, labels, *bars, trained, progress=False)
    assert set(result) == DISTRIBUTION | {"class_accuracy", "classifier_heldout_accuracy", "classifier_score"}
    assert json.loads(json.dumps(result)) == result
    assert all(set(v) <= {"value", "samples", "note", "standard_error", "error_from"} for v in result.values())
    assert result["class_accuracy"]["value"] == pytest.approx(1, abs=0.05)
    assert result["class_accuracy"]["samples"] == 150
    assert 1 < result["classifier_score"]["value"] <= CLASSES
    assert result["classifier_heldout_accuracy"]["samples"] == 60
    assert "biased upwards" in result["frechet_distance"]["note"]
    noise = torch.randint(256, good.shape, generator=generator(0, "test.static"), dtype=torch.uint8)
    bad = evaluate_samples(noise, labels, *bars, trained, progress=False)
    one = evaluate_samples(good[labels == 1], labels[labels == 1], *bars, trained, progress=False)
    assert bad["frechet_distance"]["value"] > 5 * result["frechet_distance"]["value"]
    assert bad["precision"]["value"] < result["precision"]["value"] - 0.3
    assert one["recall"]["value"] < result["recall"]["value"] - 0.3
    assert one["frechet_distance"]["value"] > result["frechet_distance"]["value"]


def test_a_new_score_is_one_new_file(bars, trained, monkeypatch, tmp_path):
    (tmp_path / "brightness.py").write_text(
        "from ditkit.evaluate.measured import Measured, Score\n"
        "from ditkit.evaluate.requirements import score\n"
        "@score(samples=('images',))\n"
        "def brightness(measured: Measured) -> dict[str, Score]:\n"
        "    return {'brightness': Score(measured.generated.images.float().mean().item() / 255, 1)}\n"
        "def helper(value: float) -> float:\n"
        "    return value\n"
    )
    monkeypatch.setattr(scores, "__path__", [*scores.__path__, str(tmp_path)])
    half = torch.zeros_like(pictures(9)[0])
    half[:, :, :4] = 255
    result = evaluate_samples(half, None, *bars, trained, scores=["brightness"], progress=False)
    assert result == {"brightness": {"value": 0.5, "samples": 1}}
    assert "helper" not in suite.available()
    with pytest.raises(UserError, match="did you mean 'brightness'"):
        suite.chosen(["brightnes"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x.float() / 255, y), "float32"),
        (lambda x, y: (x[:3], y[:3]), "3 samples are too few"),
        (lambda x, y: (x[:, :, :7], y), "7x8"),
        (lambda x, y: (x.expand(-1, 3, -1, -1), y), "3 channels"),
        (lambda x, y: (x.permute(0, 2, 3, 1), y), r"\(30, 8, 8, 1\)"),
        (lambda x, y: (x, y + 1), "label 3 of samples is out of range"),
        (lambda x, y: (x, y[:5]), r"\(5,\)"),
    ],
)
def test_meaningless_input_gets_one_clear_line(bars, trained, change, message):
    samples, labels = change(*pictures(30, index=3))
    with pytest.raises(UserError, match=message) as caught:
        evaluate_samples(samples, labels, *bars, trained, progress=False)
    assert "\n" not in str(caught.value)


def test_training_refuses_what_it_cannot_learn_from(bars):
    images, labels = bars
    for arguments, message in [
        ({"images": images[:5], "labels": labels[:5], "num_classes": 3}, "5 real images are too few"),
        ({"images": images, "labels": labels}, "num_classes is None"),
        ({"images": images, "labels": labels, "num_classes": 2}, "label 2 of real images"),
        ({"images": images, "labels": labels, "num_classes": 3, "heldout": 1.5}, "1.5"),
    ]:
        with pytest.raises(UserError, match=message):
            train_classifier(**arguments)
