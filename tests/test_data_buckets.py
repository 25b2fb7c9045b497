"""Aspect-ratio buckets: shapes of one area, every picture once an epoch, batches of one shape, draws by key."""

import math

import pytest
import torch
from PIL import Image

from ditkit.base.errors import UserError
from ditkit.data.buckets import Buckets, BucketSet, assign, shapes
from ditkit.data.source import open_source
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


@pytest.mark.parametrize("batch_size", [1, 3, 4, 50])
def test_every_row_once_an_epoch_in_batches_of_one_bucket(batch_size):
    of = torch.arange(23) % 7 % 3
    buckets = Buckets(of, batch_size, seed=1)
    for epoch in range(3):
        groups = [buckets.group(epoch * buckets.steps + k) for k in range(buckets.steps)]
        assert torch.cat([group.index for group in groups]).sort().values.tolist() == list(range(23))
        assert all((of[group.index] == group.bucket).all() for group in groups)
        assert all(group.epoch == epoch and 1 <= len(group.index) <= batch_size for group in groups)
        for bucket in range(3):  # one batch that is not full at most
            assert sum(len(g.index) < batch_size for g in groups if g.bucket == bucket) <= 1


def test_the_order_follows_from_seed_and_step_alone():
    of = torch.arange(40) % 3
    one, same, other = Buckets(of, 4, 1), Buckets(of.clone(), 4, 1), Buckets(of, 4, 2)
    steps = list(range(2 * one.steps))
    first = [one.group(step).index.tolist() for step in steps]
    assert first == [same.group(step).index.tolist() for step in reversed(steps)][::-1]
    assert first != [other.group(step).index.tolist() for step in steps]
    assert first[: one.steps] != first[one.steps :]
    assert [one.group(step).bucket for step in steps[: one.steps]] != sorted(
        one.group(s).bucket for s in steps[: one.steps]
    )


@pytest.fixture
def mixed(tmp_path):
    sizes = [(40, 40), (80, 40), (40, 80), (44, 40), (90, 42), (30, 60), (50, 50)]
    for i, (width, height) in enumerate(sizes):
        path = tmp_path / "mixed" / ("a", "b")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(width, height, seed=i).save(path)
    return tmp_path / "mixed"


def test_batches_have_the_shape_of_their_bucket_and_the_labels_of_their_pictures(mixed):
    images = BucketSet(open_source(mixed), 32, 4, 3, progress=False)
    buckets = Buckets(images.of, 2, seed=0)
    seen, found = [], set()
    for step in range(buckets.steps):
        made = images.batch(buckets, step)
        assert made.x0.shape[2:] == images.shapes[buckets.group(step).bucket]
        assert made.x0.shape[1] == 3
        assert made.condition.label.tolist() == images.labels[made.index].tolist()
        seen += images.indices[made.index].tolist()
        found.add(tuple(made.x0.shape[2:]))
    assert sorted(seen) == list(range(7))
    assert len(found) >= 3
    tall = images.batch(buckets, next(s for s in range(99) if images.shapes[buckets.group(s).bucket][0] > 40)).x0
    assert tall.shape[2] > tall.shape[3]


def test_flips_are_drawn_by_epoch_and_row(mixed):
    images = BucketSet(open_source(mixed), 32, 4, 3, progress=False)

    def flipped(batch_size, epoch):
        buckets = Buckets(images.of, batch_size, seed=3)
        found = {}
        for step in range(epoch * buckets.steps, (epoch + 1) * buckets.steps):
            plain, turned = images.batch(buckets, step), images.batch(buckets, step, flip=True)
            for row, x, y in zip(plain.index.tolist(), plain.x0, turned.x0, strict=True):
                found[row] = not torch.equal(x, y)
                assert torch.equal(y, x.flip(-1) if found[row] else x)
        return found

    assert flipped(1, 0) == flipped(3, 0)
    assert set(flipped(1, 0).values()) == {True, False}
    assert any(flipped(1, 0) != flipped(1, epoch) for epoch in (1, 2))


def test_pictures_that_do_not_decode_take_no_part_and_are_named_once(mixed):
    (mixed / "a/x.png").write_text("no picture")
    Image.new("RGB", (40, 40)).save(mixed / "b/y.png")
    content = (mixed / "b/1.png").read_bytes()
    (mixed / "b/y.png").write_bytes(content[: len(content) // 2])
    images = BucketSet(open_source(mixed), 32, 4, 3, progress=False)
    buckets = Buckets(images.of, 3, seed=0)
    shown = [int(row) for step in range(2 * buckets.steps) for row in images.batch(buckets, step).index]
    assert len(shown) == 14
    assert [name for name, _ in images.skipped] == ["a/x.png", "b/y.png"]
