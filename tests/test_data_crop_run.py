"""Crops by name, from the command line to the log of the run."""

import json

import pytest
import torch

from ditkit.app import build
from ditkit.app.recipe import Data
from ditkit.app.run import open_run
from ditkit.app.stored import read_images
from ditkit.base.pixels import from_uint8
from ditkit.convert.autoencoder import load_autoencoder
from ditkit.data.crops import Pad
from ditkit.data.latents import LatentStore
from ditkit.data.loading import load_images
from ditkit.data.source import open_source
from tests.running import ditkit, made, train
from tests.test_autoencoder import tiny, write


def test_a_run_takes_random_crops_by_name(pets, tmp_path):
    made(train(pets, tmp_path / "run", "--data.crop", "random", "--data.crop-options", "least", "0.5"))
    assert "crop random takes another part each time" in (tmp_path / "run/log.jsonl").read_text()
    said = train(pets, tmp_path / "other", "--data.crop", "randon")
    assert "did you mean 'random'" in said.err[-1]
    said = train(pets, tmp_path / "other", "--data.crop", "random", "--data.crop-options", "least", "2")
    assert "0 < least <= most <= 1" in said.err[-1]
    assert "least 0.8" in ditkit("info", "crops").out


def test_a_run_of_padded_images_is_measured_on_padded_images(pets, tmp_path):
    made(train(pets, tmp_path / "run", "--data.crop", "pad", "--data.crop-options", "margin", "1"))
    run = open_run(tmp_path / "run")
    images = read_images(run.recipe.data, build.crop(run.recipe.data)).get(torch.arange(4))
    assert images[..., 0, :].sum() == images[..., :, -1].sum() == 0 < images[..., 1:-1, 1:-1].sum()


PADDED = ["--size", "12", "--crop", "pad", "--crop-options", "margin", "2"]


def encoded(data, folder, *args):
    if not (folder / "vae").exists():
        write(folder / "vae", tiny(widths=(8, 16), channels=1))
    how = ["--autoencoder", folder / "vae", "--out", folder / "store", "--device", "cpu"]
    return ditkit("encode", "--data", data, *how, *args)


def test_a_store_is_made_of_padded_images_and_measured_on_them(loose, tmp_path):
    made(encoded(loose, tmp_path, *PADDED))
    store = LatentStore(tmp_path / "store")
    padded = load_images(open_source(loose), size=12, crop=Pad(2), progress=False).images
    assert not padded[..., :2, :].any()
    expected = load_autoencoder(tmp_path / "vae").posterior(from_uint8(padded)).mean
    torch.testing.assert_close(store.posterior(torch.arange(20), torch.zeros(20, dtype=torch.bool))[0], expected)
    said = json.loads((tmp_path / "store/manifest.json").read_text())["plan"]["preprocessing"]
    assert (said["size"], said["crop"], said["crop_options"]) == ([12, 12], "pad", {"margin": 2})
    assert torch.equal(read_images(Data(source=str(tmp_path / "store"))).get(torch.arange(20)), padded)
    assert "20 of 12x12x1 (crop pad margin 2)" in ditkit("info", tmp_path / "store").out
    assert "crop pad" in train(tmp_path / "store", tmp_path / "run", "--data.crop", "random").err[-1]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--crop", "random"], "--crop random takes another part of an image each time"),
        (["--crop", "padd"], "did you mean 'pad'"),
        (["--crop", "pad", "--crop-options", "marge", "2"], "did you mean 'margin'"),
        (["--crop", "pad", "--crop-options", "margin", "4"], "leaves nothing of 8x8"),
    ],
)
def test_crops_that_a_store_cannot_have(loose, tmp_path, args, expected):
    said = encoded(loose, tmp_path, *args)
    assert (said.code, len(said.err)) == (2, 1), said
    assert expected in said.err[0]
    assert not (tmp_path / "store").exists()


def test_a_store_that_was_begun_with_another_crop_is_refused(loose, tmp_path):
    made(encoded(loose, tmp_path, *PADDED))
    assert "was begun with preprocessing.crop pad, now it is centre" in encoded(loose, tmp_path, *PADDED[:2]).err[0]
