"""Crops by name, from the command line to the log of the run."""

import torch

from ditkit.app import build
from ditkit.app.run import open_run
from ditkit.app.stored import read_images
from tests.running import ditkit, made, train


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
