"""Data in whole runs: what --data can be, where relative paths lead to, moved images, what is refused early."""

import json
import re
import shutil

import pytest
import yaml

from ditkit.app.names import SOURCES
from ditkit.base.registry import members
from ditkit.data import source as sources
from ditkit.data.source import located, open_source
from tests.running import ditkit, draw_images, losses, made, train
from tests.test_autoencoder import tiny, write


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

    monkeypatch.setattr("ditkit.data.images.load_images", never)
    refused(ditkit("sample-data", "pets", "--out", "drawn", *args), words)
    assert len(open_source("pets")) == 20
