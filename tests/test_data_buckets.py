"""Aspect-ratio buckets: shapes of one area, every picture once an epoch, batches of one shape, draws by key."""

import math

import pytest
import torch
from PIL import Image

from ditkit.app.run import open_run
from ditkit.app.stored import read_images
from ditkit.base.errors import UserError
from ditkit.base.pixels import to_uint8
from ditkit.data.buckets import assign, load_buckets, shapes
from ditkit.data.crops import Random
from ditkit.data.images import CENTRE
from ditkit.data.loader import batch
from ditkit.data.order import Groups
from ditkit.data.preprocess import prepare
from ditkit.data.source import open_source
from tests.running import assert_same_tensors, ditkit, losses, made, train, weights
from tests.test_data_preprocess import scene


@pytest.mark.parametrize(("side", "multiple"), [(64, 8), (256, 16), (512, 64), (100, 4), (32, 2), (8, 8)])
def test_all_shapes_have_the_wanted_area_and_the_square_is_one(side, multiple):
    found = shapes(side, multiple)
    assert any(height == width for height, width in found)
    assert found == sorted(set(found))
    for height, width in found:
        assert height % multiple == width % multiple == 0
        assert 0.95 * side**2 <= height * width <= 1.05 * side**2
        assert max(height / width, width / height) <= 4


def test_shapes_by_hand():
    # 64 x 64 = 4096 within 5% is 3892 to 4300: 48 x 80 = 3840 is too small, 48 x 96 = 4608 too large
    assert shapes(64, 16) == [(32, 128), (64, 64), (128, 32)]


def test_an_area_that_no_shape_has_is_refused():
    with pytest.raises(UserError, match="no shape with sides that are multiples of 16 has the area 24x24"):
        shapes(24, 16)


def test_each_picture_goes_where_it_is_cut_least():
    found = shapes(256, 16)
    sizes = [(100, 400), (300, 300), (1000, 50), (480, 640), (31, 30)]
    for size, bucket in zip(sizes, assign(sizes, found).tolist(), strict=True):
        ratio = math.log(size[0] / size[1])
        distances = [abs(ratio - math.log(height / width)) for height, width in found]
        assert distances[bucket] == min(distances)


def epoch_of(groups, epoch, **how):
    """The turns of an epoch."""
    steps = groups.steps(how["batch_size"])
    return [groups.turn(step=epoch * steps + k, **how) for k in range(steps)]


@pytest.mark.parametrize("batch_size", [1, 3, 4, 50])
def test_every_row_once_an_epoch_in_batches_of_one_group(batch_size):
    of = torch.arange(23) % 7 % 3
    for epoch in range(3):
        turns = epoch_of(Groups(of), epoch, batch_size=batch_size, seed=1)
        assert torch.cat([turn.index for turn in turns]).sort().values.tolist() == list(range(23))
        assert all(len(of[turn.index].unique()) == 1 for turn in turns)
        assert all((turn.epoch == epoch).all() and 1 <= len(turn.index) <= batch_size for turn in turns)
        for group in range(3):  # one batch that is not full at most
            assert sum(len(t.index) < batch_size for t in turns if of[t.index[0]] == group) <= 1


def test_the_order_follows_from_seed_and_step_alone():
    of = torch.arange(40) % 3
    steps = Groups(of).steps(4)

    def order(seed, numbers):
        groups = Groups(of.clone())
        return {k: groups.turn(step=k, batch_size=4, seed=seed).index.tolist() for k in numbers}

    whole = order(1, range(2 * steps))
    assert whole == order(1, reversed(range(2 * steps)))  # a resume at any step
    assert whole != order(2, range(2 * steps))
    assert [*whole.values()][:steps] != [*whole.values()][steps:]
    shown = [int(of[whole[k][0]]) for k in range(steps)]
    assert shown != sorted(shown)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_a_batch_without_changing_it(world):
    groups = Groups(torch.arange(23) % 3)
    for step in range(2 * groups.steps(6)):
        how = {"step": step, "batch_size": 6, "seed": 4}
        parts = [groups.turn(**how, rank=rank, world=world) for rank in range(world)]
        assert torch.equal(torch.cat([part.index for part in parts]), groups.turn(**how).index)
        assert max(len(part.index) for part in parts) - min(len(part.index) for part in parts) <= 1
    with pytest.raises(UserError, match=r"batch size 8 .* over 3 processes"):
        groups.turn(step=0, batch_size=8, seed=0, world=3)


@pytest.fixture
def mixed(tmp_path):
    sizes = [(40, 40), (80, 40), (40, 80), (44, 40), (90, 42), (30, 60), (50, 50)]
    for i, (width, height) in enumerate(sizes):
        path = tmp_path / "mixed" / ("a", "b")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(width, height, seed=i).save(path)
    return tmp_path / "mixed"


def load(path, **how):
    return load_buckets(open_source(path), 4, **({"size": 32, "progress": False} | how))


def batches(images, epochs=1, batch_size=2, seed=0, **how):
    steps = range(epochs * images.groups.steps(batch_size))
    return [batch(images, step=step, batch_size=batch_size, seed=seed, **how) for step in steps]


def test_batches_have_the_shape_of_their_bucket_and_the_labels_of_their_pictures(mixed):
    images = load(mixed)
    seen, found = [], set()
    for shown in batches(images):
        bucket = int(images.groups.of[shown.index].unique())
        assert shown.x0.shape[1:] == (3, *images.shapes[bucket])
        assert shown.condition.label.tolist() == images.labels[shown.index].tolist()
        for x, row in zip(shown.x0, shown.index.tolist(), strict=True):
            picture = open_source(mixed).open(int(images.indices[row]))
            assert to_uint8(x).tolist() == prepare(picture, images.shapes[bucket], 3).tolist()
        seen += images.indices[shown.index].tolist()
        found.add(tuple(shown.x0.shape[2:]))
    assert sorted(seen) == list(range(7))
    assert len(found) >= 3
    assert set(images.used) == found
    assert any(height > width for height, width in found)
    assert any(height < width for height, width in found)


def test_a_subset_keeps_the_buckets(mixed):
    images = load(mixed)
    rows = torch.tensor([4, 1, 2])
    some = images.subset(rows)
    assert some.groups.of.tolist() == images.groups.of[rows].tolist()
    assert some.indices.tolist() == images.indices[rows].tolist()
    for row in range(3):
        one, none = torch.tensor([row]), torch.zeros(1, dtype=torch.bool)
        assert torch.equal(some.draw(one, none, 0), images.draw(rows[one], none, 0))


def drawn_in(images, epoch, batch_size, **how):
    """What is shown of each row in an epoch."""
    steps = images.groups.steps(batch_size)
    numbers = range(epoch * steps, (epoch + 1) * steps)
    parts = [batch(images, step=step, batch_size=batch_size, seed=3, **how) for step in numbers]
    return {row: x for part in parts for row, x in zip(part.index.tolist(), part.x0, strict=True)}


def test_flips_and_crops_are_drawn_by_epoch_and_row(mixed):
    for crop, how in ((CENTRE, {"flip": True}), (Random(0.5, 0.8), {})):
        images = load(mixed, crop=crop)
        first, again, later = (drawn_in(images, epoch, size, **how) for epoch, size in ((0, 1), (0, 3), (1, 1)))
        assert all(torch.equal(first[row], again[row]) for row in range(7))
        assert not all(torch.equal(first[row], later[row]) for row in range(7))


def test_pictures_that_do_not_decode_are_named_once_and_others_take_their_place(mixed, monkeypatch):
    monkeypatch.setattr("ditkit.data.buckets.MOST_BAD", 0.3)
    monkeypatch.setattr("ditkit.data.images.MOST_BAD", 0.3)
    (mixed / "a/x.png").write_text("no picture")
    content = (mixed / "b/1.png").read_bytes()
    (mixed / "b/y.png").write_bytes(content[: len(content) // 2])
    images = load(mixed, channels=3)
    assert len(images) == 8
    made = batches(images, epochs=2)
    assert sum(len(part.x0) for part in made) == 16
    assert [name for name, _ in images.skipped] == ["a/x.png", "b/y.png"]
    monkeypatch.setattr("ditkit.data.buckets.MOST_BAD", 0.01)
    with pytest.raises(UserError, match=r"at least 1 of 9 images do not decode.*a/x\.png"):
        load(mixed, channels=3)


BUCKETED = ["--data.buckets", 4, "--data.size", 16, "--data.flip"]


def test_training_on_buckets_resumes_in_the_middle_of_an_epoch(mixed, tmp_path):
    made(train(mixed, tmp_path / "whole", *BUCKETED, "--train.steps", 6))
    made(train(mixed, tmp_path / "parts", *BUCKETED, "--train.steps", 3))
    made(ditkit("train", "--resume", tmp_path / "parts", "--train.steps", 6))
    assert len(losses(tmp_path / "whole")) == 6
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert_same_tensors(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert "aspect-ratio buckets" in (tmp_path / "whole/log.jsonl").read_text()
    made(ditkit("sample", tmp_path / "whole", "--num", 1, "--out", tmp_path / "drawn"))
    assert Image.open(tmp_path / "drawn/seed000000-class0.png").size == (16, 16)
    draw = ["sample", tmp_path / "whole", "--num", 2, "--seed", 4]
    made(ditkit(*draw, "--size", 12, 20, "--out", tmp_path / "wide"))
    assert sorted({Image.open(path).size for path in (tmp_path / "wide").glob("seed*.png")}) == [(20, 12)]
    made(ditkit(*draw, "--size", 12, 20, "--guidance-weak", tmp_path / "parts", "--out", tmp_path / "weak"))
    made(ditkit(*draw, "--size", 16, "--out", tmp_path / "square"))
    made(ditkit(*draw, "--out", tmp_path / "plain"))
    name = "seed000004-class0.png"
    assert (tmp_path / "square" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    refused = ditkit(*draw, "--size", 12, 18, "--out", tmp_path / "odd")
    assert "--size 12 18: input size 12x18 is not divisible by the patch size 4" in refused.err[-1]
    data = open_run(tmp_path / "whole").recipe.data
    assert read_images(data).shape == (3, 16, 16)  # what it is measured against


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--data.buckets", 6, "--data.size", 18], "--data.buckets 6: input size"),
        (["--data.buckets", 4, "--data.size", 17], "--data.buckets 4: input size"),
        (["--data.buckets", 4, "--data.size", 16, 32], "size (16, 32) with buckets: expected one number"),
        (["--data.buckets", 4], "size None with buckets: expected one number"),
        (["--data.buckets", 64, "--data.size", 16], "no shape with sides that are multiples of 64"),
        ([*BUCKETED, "--process.objective", "knn"], "leave out --data.buckets"),
    ],
)
def test_buckets_that_cannot_be_trained_on(mixed, tmp_path, args, expected):
    said = train(mixed, tmp_path / "r", *args)
    assert (said.code, len(said.err)) == (2, 1), said
    assert expected in said.err[0]
    assert not (tmp_path / "r").exists()
