"""Nearest neighbours and the copy rule."""

import json

import pytest
import torch

from ditkit.base.errors import UserError
from ditkit.base.rng import generator
from ditkit.evaluate import copies
from ditkit.evaluate.copies import copy_report, feature_copy_report, nearest


def pictures(n: int, index: int, shape: tuple[int, ...] = (1, 8, 6)) -> torch.Tensor:
    """Smooth random pictures of four kinds."""
    C, H, W = shape
    kinds = torch.randn(4, 4, C, H, W, generator=generator(0, "test.kinds"))
    draws = generator(0, "test.pictures", index)
    weights = torch.randn(n, 4, generator=draws)
    own = torch.randn(n, C, H, W, generator=draws)
    x = torch.einsum("nk,nkchw->nchw", weights, kinds[torch.arange(n) % 4]) + 0.7 * own
    return (128 + 40 * x).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 5, 9)])
def test_nearest_equals_brute_force_whatever_the_blocks(shape, monkeypatch):
    queries, references = pictures(13, 1, shape), pictures(60, 2, shape)
    every = torch.cdist(queries.flatten(1).double() / 127.5, references.flatten(1).double() / 127.5)
    expected, rows = every.sort(dim=1)
    for block in (copies.BLOCK_BYTES, 4 * 60 * 3):
        monkeypatch.setattr(copies, "BLOCK_BYTES", block)
        distances, found = nearest(queries, references, 4)
        torch.testing.assert_close(distances.double(), expected[:, :4], rtol=1e-6, atol=1e-6)
        assert torch.equal(found, rows[:, :4])


def test_an_image_is_its_own_nearest_at_distance_zero():
    images = pictures(50, 1)
    distances, rows = nearest(images, images, 1)
    assert torch.equal(rows[:, 0], torch.arange(50))
    assert torch.equal(distances, torch.zeros(50, 1))


def test_copies_are_found_and_fresh_images_are_not():
    training, heldout, fresh = pictures(400, 1), pictures(100, 2), pictures(100, 3)
    noise = 3 * torch.randn(training[:10].shape, generator=generator(0, "test.noise"))
    near = (training[:10].float() + noise).clamp(0, 255).to(torch.uint8)
    report = copy_report(torch.cat([fresh, training[20:25], near]), training, heldout)
    assert report.copies.tolist() == list(range(100, 115))
    assert report.rows[100:, 0].tolist() == [*range(20, 25), *range(10)]
    assert report.false_alarms < 0.02
    assert set(report.most_alike(15).tolist()) == set(range(100, 115))
    entry = json.loads(json.dumps(report.summary()))
    assert entry["copies"] == 15
    assert entry["value"] == pytest.approx(15 / 115)
    assert entry["standard_error"] == pytest.approx((15 / 115 * 100 / 115 / 115) ** 0.5, rel=1e-2)


def test_exact_copies_are_found_where_the_training_images_repeat():
    training = pictures(40, 1).repeat(60, 1, 1, 1)
    report = copy_report(training[:3], training, pictures(50, 2))
    assert len(report.copies) == 3


def test_altered_copies_are_found_where_the_training_images_repeat():
    training, heldout = pictures(100, 1), pictures(60, 2)
    noise = torch.randint(-8, 9, training[:20].shape, generator=generator(0, "test.altered"))
    near = (training[:20].int() + noise).clamp(0, 255).to(torch.uint8)
    samples = torch.cat([near, pictures(40, 3)])
    once, often = (copy_report(samples, known, heldout) for known in (training, training.repeat(60, 1, 1, 1)))
    assert often.copies.tolist() == once.copies.tolist() == list(range(20))
    assert (often.training, often.ratio_threshold) == (6000, once.ratio_threshold)
    assert torch.equal(often.rows, once.rows)  # the first of the equal ones
    seen = [images.flatten(1).float() for images in (samples, training.repeat(60, 1, 1, 1), heldout)]
    assert feature_copy_report(*seen).copies.tolist() == list(range(20))


def test_real_images_that_are_in_the_data_twice_do_not_hide_copies():
    training = pictures(400, 1)
    heldout = torch.cat([pictures(90, 2), training[:10]])
    near = training[20:30].clone()
    near[:, :, 0, 0] ^= 1
    report = copy_report(near, training, heldout)
    assert len(report.copies) == 10
    assert report.false_alarms == pytest.approx(0.1, abs=0.02)


def test_bland_samples_close_to_many_are_not_copies():
    training = pictures(400, 1)
    mean = training.float().mean(0, keepdim=True).to(torch.uint8)
    assert len(copy_report(mean, training, pictures(100, 2)).copies) == 0


def test_heldout_images_that_were_trained_on_are_refused():
    training = pictures(60, 1)
    with pytest.raises(UserError, match="among the training images"):
        copy_report(pictures(5, 3), training, training[:30])


def test_wrong_images_are_refused():
    images = pictures(30, 1)
    with pytest.raises(UserError, match="float32"):
        nearest(images.float(), images)
    with pytest.raises(UserError, match=r"8x6 .* 8x7"):
        nearest(images, pictures(30, 1, (1, 8, 7)))
    with pytest.raises(UserError, match="k is 31"):
        nearest(images, images, 31)
