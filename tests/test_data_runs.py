"""Data in whole runs: what --data can be, where relative paths lead to, moved images, what is refused early."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ditkit.app.drawn import save_samples
from ditkit.app.names import SOURCES
from ditkit.app.pictures import grid
from ditkit.base.registry import members
from ditkit.data import source as sources
from ditkit.data.source import located, open_source
from ditkit.evaluate import classifier
from tests.running import CALM, ditkit, draw_images, losses, made, train
from tests.storing import tiny, write


def refused(said, *words):
    assert said.code == 2, said
    assert len(said.err) == 1, said.err
    assert not [word for word in words if str(word) not in said.err[0]], said.err[0]


def test_the_help_names_every_kind_of_source():
    for name, kind in members("ditkit.data", sources._is_source).items():
        signs = [*kind.words, *re.findall(r"(?<!\w)\.[a-z]+|folder|WebDataset", kind.expects)]
        assert signs, name
        assert not [sign for sign in signs if sign not in SOURCES], name
    for command in (["encode"], ["train"], ["sample-data"], ["likelihood"], ["study", "solvers"], ["data", "check"]):
        said = " ".join(made(ditkit(*command, "--help")).out.replace("│", " ").split())
        assert "x-{000..003}.tar" in said, command


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to stand in, with the folder of images "pets"."""
    (tmp_path / "here").mkdir()
    draw_images(tmp_path / "here/pets", [f"{kind}/{i}.png" for kind in "ab" for i in range(10)])
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def test_a_run_goes_on_from_another_folder(here, tmp_path, monkeypatch):
    made(train("pets", "run", "--train.steps", 2))
    assert yaml.safe_load((here / "run/recipe.yaml").read_text())["data"]["source"] == str(here / "pets")
    monkeypatch.chdir(tmp_path)
    made(ditkit("train", "--resume", "here/run", "--train.steps", 4))
    assert [step for step, *_ in losses(here / "run")] == [1, 2, 3, 4]


def test_images_that_moved(here, tmp_path):
    made(train("pets", "run", "--train.steps", 2))
    shutil.move(here / "pets", tmp_path / "moved")
    refused(ditkit("train", "--resume", "run"), here / "pets", "--resume run --data PLACE")
    draw_images(tmp_path / "others", [f"{kind}/{i}.png" for kind in "ab" for i in range(10)])
    before = (here / "run/recipe.yaml").read_text()
    refused(ditkit("train", "--resume", "run", "--data", "../others"), "changed since the run began")
    assert (here / "run/recipe.yaml").read_text() == before
    made(ditkit("train", "--resume", "run", "--data", "../moved", "--train.steps", 4))
    assert [step for step, *_ in losses(here / "run")] == [1, 2, 3, 4]
    made(ditkit("train", "--resume", "run", "--train.steps", 5))


def test_a_path_of_old_is_refused_with_the_folder_that_it_was_looked_for_in(here):
    made(train("pets", "run", "--train.steps", 2))
    recipe = (here / "run/recipe.yaml").read_text()
    (here / "run/recipe.yaml").write_text(recipe.replace(str(here / "pets"), "else/pets"))
    refused(ditkit("train", "--resume", "run"), "'else/pets'", f"in {here}:")
    refused(train("else/pets", "new"), "'else/pets'", f"in {here}:")


def test_words_stay_and_paths_become_absolute(here):
    for word in ("digits", "shapes:num=4", "hf:org/name", "nowhere"):
        assert located(word) == word
    (here / "digits").mkdir()
    assert located("digits") == "digits"
    assert located("./digits") == str(here / "digits")
    assert located("x-{00..03}.tar") == str(here / "x-{00..03}.tar")


def test_a_store_says_where_its_images_are(here):
    write(here / "vae", tiny(widths=(8, 16), channels=1))
    args = ["--autoencoder", "vae", "--out", "store", "--device", "cpu"]
    made(ditkit("encode", "--data", "pets", *args))
    assert json.loads((here / "store/manifest.json").read_text())["plan"]["source"]["spec"] == str(here / "pets")
    assert made(ditkit("encode", "--data", here / "pets", *args)).code == 0  # the same by another name


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--k", 11], "k 11: expected 1 to 10"),
        (["--k", 21, "--no-conditional"], "k 21: expected 1 to 20"),
        (["--classes", "horse"], "unknown class 'horse'"),
        (["--classes", "a", "--no-conditional"], "knows no classes"),
    ],
)
def test_sample_data_refuses_before_it_reads(here, args, words, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the images were read")

    monkeypatch.setattr("ditkit.data.loading.load_images", never)
    refused(ditkit("sample-data", "pets", "--out", "drawn", *args), words)
    assert len(open_source("pets")) == 20


@pytest.mark.parametrize("how", [[], ["--data.crop", "random"], ["--data.buckets", 4, "--data.size", 8]])
def test_images_that_do_not_decode_are_named_once_and_at_the_end(how, tmp_path):
    data = draw_images(tmp_path / "set", [f"{i:03}.png" for i in range(150)])
    content = (data / "007.png").read_bytes()
    (data / "007.png").write_bytes(content[:50])  # the header is whole, the pixels are cut short
    said = made(train(data, tmp_path / "run", *how, "--train.batch-size", 50, "--train.steps", 4))
    records = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [r["image"] for r in records if r.get("event") == "skipped"] == ["007.png"]
    assert said.out.splitlines()[-2].startswith("images that do not decode and were skipped: 1, 007.png ("), said.out


def test_captions_that_are_missing_for_some_are_said(here):
    (here / "pets/a/0.txt").write_text("the first")
    expected = "19 of 20 images have no caption, theirs is empty: 'a/1.png', 'a/2.png', 'a/3.png', ..."
    made(train("pets", "run", "--train.steps", 1))
    assert expected in (here / "run/log.jsonl").read_text()
    write(here / "vae", tiny(widths=(8, 16), channels=1))
    said = made(ditkit("encode", "--data", "pets", "--autoencoder", "vae", "--out", "store", "--device", "cpu"))
    assert expected in said.out


@pytest.mark.parametrize(("channels", "mode"), [(2, "LA"), (4, "RGBA")])
def test_images_with_alpha_are_trained_on_and_drawn(channels, mode, tmp_path):
    for i in range(8):
        path = tmp_path / f"set/{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGBA", (8, 8), (i * 30, 0, 255 - i * 30, i * 36)).save(path)
    made(train(tmp_path / "set", tmp_path / "run", "--data.channels", channels, "--train.sample-every", 2))
    assert Image.open(tmp_path / "run/samples/step-0000004.png").mode == mode
    made(ditkit("sample", tmp_path / "run", "--num", 2, "--out", tmp_path / "drawn"))
    assert {Image.open(path).mode for path in (tmp_path / "drawn").glob("*.png")} == {mode}


@pytest.mark.parametrize("channels", [2, 4])
def test_images_with_alpha_are_measured_by_what_learns_from_them(channels, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "default_steps", lambda samples, cost: 5)
    (tmp_path / "set").mkdir()
    for i in range(24):
        Image.new("RGBA", (8, 8), (i * 10, 0, 255 - i * 10, i * 10)).save(tmp_path / f"set/{i}.png")
    run = tmp_path / "run"
    made(train(tmp_path / "set", run, "--data.channels", channels, *CALM, "--evaluate-every", 2))
    made(ditkit("evaluate", run, "--num", 8))
    said = json.loads((run / "metrics.json").read_text())
    assert said["frechet_distance"]["value"] > 0
    assert said["protocol"]["feature_space"]["channels"] == channels
    made(ditkit("evaluate", run, "--num", 8, "--features", "pixels", "--scores", "frechet_distance"))
    (run / "metrics.json").unlink()
    for option in ("--npz", "--reference-npz"):
        refused(ditkit("evaluate", run, "--num", 8, option, tmp_path / "x.npz"), f"{channels} channels", "alpha")
    assert not (tmp_path / "x.npz").exists()
    assert not (run / "metrics.json").exists()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")])
@pytest.mark.parametrize("background", [None, 7])
def test_sheets_of_any_channels(channels, mode, background):
    images = np.arange(3 * channels * 4, dtype=np.uint8).reshape(3, channels, 2, 2) + 10
    sheet = grid(images, 2, padding=1, background=background)
    alpha = channels % 2 == 0 or background is None
    assert sheet.mode == (mode if channels % 2 == 0 or not alpha else {"L": "LA", "RGB": "RGBA"}[mode])
    pixels = np.atleast_3d(np.asarray(sheet))
    np.testing.assert_array_equal(pixels[3:5, 0:2, :channels], images[2].transpose(1, 2, 0))
    if channels % 2 and alpha:
        assert (pixels[3:5, 0:2, -1] == 255).all()
    colours = pixels.shape[2] - alpha
    assert (pixels[2, :, :colours] == (background or 0)).all()
    assert not alpha or (pixels[2, :, -1] == (0 if background is None else 255)).all()


@pytest.mark.parametrize(("size", "factor"), [((8, 8), 6), ((1, 1), 48), ((20, 30), 2), ((4, 48), 1), ((64, 64), 1)])
def test_a_grid_of_small_images_is_enlarged_and_the_images_are_not(tmp_path, size, factor):
    images = torch.arange(3 * size[0] * size[1]).reshape(3, 1, *size).to(torch.uint8)
    save_samples(tmp_path / "out", images, range(3), None)
    for i in range(3):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"out/seed{i:06d}.png")), images[i, 0])
    plain = np.asarray(grid(images, 2, background=255))
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out/grid.png")), plain.repeat(factor, 0).repeat(factor, 1)
    )
