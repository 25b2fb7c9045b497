"""Image sets: one size and colour for all, broken pictures counted and named, the lazy set like the eager one."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from ditkit.base.errors import UserError
from ditkit.data import decode
from ditkit.data.images import ImageSet, LazyImageSet
from ditkit.data.loading import load_images
from ditkit.data.source import open_source


def save(path, shade=0, size=(6, 6), mode="L"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, shade if mode == "L" else (shade, 0, 0)).save(path)


def classed(root, per_class, classes=("cat", "dog"), **how):
    for k, name in enumerate(classes):
        for i in range(per_class):
            save(root / name / f"{i:04}.png", 100 * k + i % 100, **how)
    return root


def load(root, **options):
    return load_images(open_source(root), progress=False, **options)


@pytest.mark.parametrize("workers", [None, 1, 4])
def test_pixels_labels_and_classes(tmp_path, workers):
    images = load(classed(tmp_path, 70), workers=workers)
    assert isinstance(images, ImageSet)
    assert images.images.shape == (140, 1, 6, 6)
    assert images.images.dtype == torch.uint8
    assert images.shape == (1, 6, 6)
    assert images.classes == ("cat", "dog")
    assert images.labels.tolist() == [0] * 70 + [1] * 70
    assert images.indices.tolist() == list(range(140))
    assert images.images[:, 0, 3, 3].tolist() == [*range(70), *range(100, 170)]
    assert images.skipped == []
    assert images.notes == []


def test_without_classes_there_are_no_labels(tmp_path):
    save(tmp_path / "1.png", size=(8, 4))
    images = load(tmp_path)
    assert images.labels is None
    assert images.shape == (1, 4, 8)  # non-square: height, width


def test_one_class_only(tmp_path):
    images = load(classed(tmp_path, 3, classes=("cat",)))
    assert images.classes == ("cat",)
    assert images.labels.tolist() == [0, 0, 0]


def test_mixed_sizes_become_the_commonest_and_are_noted(tmp_path):
    for i, size in enumerate([(6, 6), (6, 6), (6, 6), (9, 7), (30, 20)]):
        save(tmp_path / f"{i}.png", 50, size=size)
    images = load(tmp_path)
    assert images.shape == (1, 6, 6)
    assert (images.images == 50).all()
    assert images.notes == ["2 of 5 images were resized and centre-cropped to 6x6"]
    wide = load(tmp_path, size=(4, 8))
    assert wide.shape == (1, 4, 8)
    assert wide.notes == ["5 of 5 images were resized and centre-cropped to 4x8 (height x width)"]
    assert load(tmp_path, size=3).shape == (1, 3, 3)


def test_of_equally_common_sizes_the_smallest_is_taken(tmp_path):
    for i, size in enumerate([(9, 9), (5, 5), (7, 7)]):
        save(tmp_path / f"{i}.png", size=size)
    assert load(tmp_path).shape == (1, 5, 5)


def test_grey_among_coloured_is_repeated(tmp_path):
    save(tmp_path / "1.png", 90)
    save(tmp_path / "2.png", 90, mode="RGB")
    images = load(tmp_path)
    assert images.shape == (3, 6, 6)
    assert images.images[:, :, 0, 0].tolist() == [[90, 90, 90], [90, 0, 0]]
    assert images.notes == ["1 of 2 images were grey and repeated to 3 channels"]
    grey = load(tmp_path, channels=1)
    assert grey.images[:, :, 0, 0].tolist() == [[90], [27]]
    assert torch.equal(load(tmp_path, memory=0).get(torch.arange(2)), images.images)
    assert grey.notes == ["1 of 2 images were coloured and turned to grey"]


def test_a_coloured_picture_that_the_survey_missed_keeps_its_colour(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "_SURVEYED", 2)
    for i in range(5):
        save(tmp_path / f"{i}.png", 90, mode="RGB" if i == 4 else "L")
    assert load(tmp_path).images[:, :, 0, 0].tolist() == [[90, 90, 90]] * 4 + [[90, 0, 0]]


def test_the_survey_is_spread_over_the_source(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, "_SURVEYED", 4)
    for i in range(10):
        save(tmp_path / f"{i}.png", size=(4 + i, 4 + i))
    assert sorted(decode.survey(open_source(tmp_path)).sizes) == [(4, 4), (6, 6), (9, 9), (11, 11)]


def spoil(path):
    """Cuts a picture short so that its header still opens."""
    Image.effect_noise((6, 6), 50).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 30])


def test_one_bad_picture_in_a_hundred_is_skipped_and_named(tmp_path):
    classed(tmp_path, 100)
    spoil(tmp_path / "cat/0003.png")
    (tmp_path / "dog/0050.png").write_text("no picture")
    images = load(tmp_path)
    assert len(images) == len(images.labels) == 198
    assert [name for name, _ in images.skipped] == ["cat/0003.png", "dog/0050.png"]
    assert all(reason for _, reason in images.skipped)
    assert images.indices.tolist() == [i for i in range(200) if i not in (3, 150)]
    assert images.images[:, 0, 0, 0].tolist() == [100 * (i // 100) + i % 100 for i in images.indices.tolist()]
    assert images.labels.tolist() == [0] * 99 + [1] * 99
    assert "2 of 200 images do not decode and were skipped: cat/0003.png (" in images.notes[0]


@pytest.mark.parametrize("memory", [0, 2**30])
@pytest.mark.parametrize(
    "spoiled", [spoil, lambda path: path.write_text("no picture"), lambda path: path.write_bytes(b"")]
)
def test_more_bad_pictures_are_an_error_that_names_them(tmp_path, spoiled, memory):
    classed(tmp_path, 50)
    for name in ("cat/0001.png", "dog/0002.png"):
        spoiled(tmp_path / name)
    with pytest.raises(
        UserError, match=r"at least 2 of 100 images .*cat/0001.png \(.+\); dog/0002.png \(.+\)"
    ) as caught:
        load(tmp_path, memory=memory).get(torch.arange(100))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_all_bad_is_an_error(tmp_path):
    (tmp_path / "1.png").write_text("no picture")
    with pytest.raises(UserError, match="1 of 1 images do not decode"):
        load(tmp_path)
    for i in range(2, 5):
        (tmp_path / f"{i}.png").write_text("no picture")
    with pytest.raises(UserError, match=r"4 of 4 images .*1\.png .*2\.png .*3\.png \([^)]*\); \.\.\.; replace"):
        load(tmp_path)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": (4, -1)}, {"channels": 5}])
def test_impossible_sizes_and_channels_are_refused(tmp_path, options):
    with pytest.raises(UserError, match="expected"):
        load(classed(tmp_path, 1), **options)


def test_the_lazy_set_gives_what_the_eager_one_gives(tmp_path):
    classed(tmp_path, 20)
    save(tmp_path / "dog/x.png", 200, size=(20, 14))
    eager, lazy = load(tmp_path), load(tmp_path, memory=0)
    assert isinstance(lazy, LazyImageSet)
    rows = torch.tensor([40, 3, 3, 25])
    for one, other in ((eager, lazy), (eager.subset(rows), lazy.subset(rows))):
        every = torch.arange(len(one)).flip(0)
        assert torch.equal(one.get(every), other.get(every))
        assert torch.equal(one.labels, other.labels)
        assert torch.equal(one.indices, other.indices)
        assert one.classes == other.classes
        assert one.shape == other.shape
    assert lazy.get(torch.arange(0)).shape == (0, 1, 6, 6)
    assert lazy.notes[1] == "1 of 41 images looked at are resized and centre-cropped to 6x6"


def test_a_bad_picture_found_late_is_replaced_by_the_next_of_its_class(tmp_path, caplog):
    classed(tmp_path, 150)
    for name in ("cat/0149.png", "dog/0003.png", "dog/0004.png"):
        spoil(tmp_path / name)
    lazy = load(tmp_path, memory=0)
    for _ in range(2):
        assert lazy.get(torch.tensor([149, 153, 154, 155]))[:, 0, 0, 0].tolist() == [0, 105, 105, 105]
    assert sorted(name for name, _ in lazy.skipped) == ["cat/0149.png", "dog/0003.png", "dog/0004.png"]
    assert len(caplog.records) == 3


def test_digits_load_as_they_are():
    images = load("digits")
    assert images.shape == (1, 8, 8)
    assert len(images) == 1797
    np.testing.assert_array_equal(images.images[7, 0].numpy(), np.asarray(open_source("digits").open(7)))


def test_one_slow_file_does_not_hold_up_the_others(tmp_path, monkeypatch):
    source = open_source(classed(tmp_path, 10))
    lazy = load_images(source, progress=False, memory=0, workers=1)
    others, opened, plain = threading.Event(), [], source.open

    def opening(i):
        if i == 0:
            assert others.wait(10)
        opened.append(i)
        if len(opened) == 19:
            others.set()
        return plain(i)

    monkeypatch.setattr(source, "open", opening)
    lazy.get(torch.arange(20))
    assert opened[-1] == 0
