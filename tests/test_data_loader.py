"""Batches: each image once an epoch, the same from any start, flips that follow the image, prefetch, the split."""

import contextlib
import threading
import time

import pytest
import torch

from ditkit.base.errors import UserError
from ditkit.base.pixels import from_uint8, to_uint8
from ditkit.data.images import ImageSet
from ditkit.data.loader import batch, prefetch, split_heldout, turn


def make(count, classes=3):
    pixels = torch.randint(0, 256, (count, 2, 3, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    labels = torch.arange(count) % classes if classes else None
    return ImageSet(pixels, labels, tuple("abcdefgh"[:classes]), torch.arange(count))


def order(images, steps, batch_size, seed=1):
    return torch.cat([batch(images, step=k, batch_size=batch_size, seed=seed).index for k in steps])


def test_a_batch_holds_the_images_in_the_models_range_and_their_labels():
    images = make(10)
    b = batch(images, step=4, batch_size=7, seed=1)
    assert b.x0.dtype == torch.float32
    assert b.index.dtype == b.condition.label.dtype == torch.int64
    torch.testing.assert_close(b.x0, images.images[b.index] / 127.5 - 1)
    assert torch.equal(b.condition.label, images.labels[b.index])
    assert batch(make(4, classes=0), step=0, batch_size=2, seed=1).condition.label is None


@pytest.mark.parametrize("batch_size", [1, 3, 5, 11, 30])
def test_each_image_once_an_epoch_whatever_the_batch_size(batch_size):
    count, epochs = 11, 30
    indices = order(make(count), range(count * epochs // batch_size), batch_size)
    for epoch in indices.view(-1)[: len(indices) // count * count].view(-1, count):
        assert epoch.sort().values.tolist() == list(range(count))
    assert torch.equal(indices, order(make(count), range(count * epochs), 1)[: len(indices)])


def test_epochs_and_seeds_differ():
    images = make(50)
    first, second = order(images, range(2), 50).view(2, 50)
    assert not torch.equal(first, second)
    assert not torch.equal(first, order(images, range(1), 50, seed=2))
    assert first.tolist() != list(range(50))


def test_a_resume_goes_on_exactly():
    images = make(13)
    whole = [batch(images, step=k, batch_size=4, seed=3, flip=True) for k in range(20)]
    for k in (19, 7, 8):
        again = batch(images, step=k, batch_size=4, seed=3, flip=True)
        assert torch.equal(again.x0, whole[k].x0)
        assert torch.equal(again.index, whole[k].index)


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_processes_share_a_batch_without_changing_it(world):
    images = make(13)
    for step in (0, 1, 9):
        whole = batch(images, step=step, batch_size=6, seed=3, flip=True)
        parts = [
            batch(images, step=step, batch_size=6, seed=3, flip=True, rank=rank, world=world) for rank in range(world)
        ]
        assert torch.equal(torch.cat([part.index for part in parts]), whole.index)
        assert torch.equal(torch.cat([part.x0 for part in parts]), whole.x0)
        assert torch.equal(torch.cat([part.condition.label for part in parts]), whole.condition.label)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(UserError, match=r"batch size 8 .* over 3 processes: .* such as 9"):
        batch(make(13), step=0, batch_size=8, seed=0, rank=0, world=3)


def test_a_turn_says_the_epoch_of_each_row():
    shown = [turn(7, step=step, batch_size=4, seed=0) for step in range(7)]
    assert torch.cat([t.epoch for t in shown]).tolist() == [e for e in range(4) for _ in range(7)]


def test_global_random_state_is_neither_read_nor_moved():
    images = make(9)
    torch.manual_seed(0)
    one, state = batch(images, step=0, batch_size=9, seed=77, flip=True).x0, torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(one, batch(images, step=0, batch_size=9, seed=77, flip=True).x0)
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())


def test_flips_are_drawn_by_epoch_and_image_not_by_batch():
    images = make(40)

    def flips(batch_size, epoch):
        found = {}
        for k in range(epoch * 40 // batch_size, (epoch + 1) * 40 // batch_size):
            b = batch(images, step=k, batch_size=batch_size, seed=5, flip=True)
            for x, i in zip(b.x0, b.index.tolist(), strict=True):
                plain = from_uint8(images.images[i])
                found[i] = torch.equal(x, plain.flip(-1))
                assert found[i] or torch.equal(x, plain)
        return [found[i] for i in range(40)]

    first = flips(8, 0)
    assert first == flips(10, 0)
    assert first != flips(8, 1)
    assert 8 < sum(first) < 32


def test_uint8_survives_the_round_trip_and_rounds_half_up():
    every = torch.arange(256, dtype=torch.uint8)
    x = from_uint8(every)
    assert x[0] == -1
    assert x[255] == 1
    assert torch.equal(to_uint8(x), every)
    assert to_uint8(torch.tensor([-9.0, 9.0, 0.0, 0.5 / 127.5 - 1])).tolist() == [0, 255, 128, 1]
    assert torch.equal(to_uint8(x.double()), every)


def test_prefetch_keeps_the_order_and_ends():
    assert list(prefetch(lambda k: k * k, 3, 9)) == [9, 16, 25, 36, 49, 64]
    assert list(prefetch(lambda k: k, 5, 5)) == []
    with contextlib.closing(prefetch(lambda k: k)) as endless:
        assert [next(endless) for _ in range(4)] == [0, 1, 2, 3]


def test_prefetch_works_ahead_but_not_further_than_told():
    made = []
    with contextlib.closing(prefetch(lambda k: made.append(k) or k, ahead=3)) as steps:
        assert next(steps) == 0
        limit = time.monotonic() + 5
        while len(made) < 4 and time.monotonic() < limit:
            time.sleep(0.001)
        time.sleep(0.02)
        assert sorted(made) == [0, 1, 2, 3]


def test_one_slow_batch_does_not_keep_the_next_from_being_made():
    arrived, made = threading.Event(), []

    def slow(step):
        if step == 1:
            assert arrived.wait(10)
        made.append(step)
        if step == 3:
            arrived.set()  # only when a later one is made can the slow one go on
        return step

    assert list(prefetch(slow, 0, 6)) == list(range(6))
    assert made.index(3) < made.index(1)


def test_prefetch_raises_where_the_result_is_due():
    steps = prefetch(lambda k: 1 // (2 - k), 0, 9)
    assert next(steps) == 0
    assert next(steps) == 1
    with pytest.raises(ZeroDivisionError):
        next(steps)


def test_prefetch_leaves_no_thread_behind():
    def threads():
        return [t for t in threading.enumerate() if t.name.startswith("prefetch")]

    for step in prefetch(lambda k: time.sleep(0.02) or k, ahead=2):
        if step == 5:
            assert threads()
            break
    assert threads() == []  # nothing is being made any more, of files that may be deleted next


def test_the_split_takes_its_share_of_each_class():
    images = make(100, classes=4)
    train, held = split_heldout(images, 0.2, seed=0)
    assert sorted([*train.tolist(), *held.tolist()]) == list(range(100))
    assert images.labels[held].bincount().tolist() == [5, 5, 5, 5]
    assert torch.equal(held, split_heldout(images, 0.2, seed=0)[1])
    assert not torch.equal(held, split_heldout(images, 0.2, seed=1)[1])
    assert len(split_heldout(make(10, classes=0), 0.3, seed=0)[1]) == 3


def test_the_split_leaves_some_of_each_class_on_both_sides():
    images = make(6, classes=3)
    for fraction in (0.01, 0.99):
        train, held = split_heldout(images, fraction, seed=0)
        assert images.labels[train].bincount().tolist() == images.labels[held].bincount().tolist() == [1, 1, 1]
    with pytest.raises(UserError, match="class 'c' has 1 image"):
        split_heldout(make(5, classes=3), 0.5, seed=0)
    with pytest.raises(UserError, match=r"fraction 1\.5"):
        split_heldout(images, 1.5, seed=0)
