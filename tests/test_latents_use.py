"""How latents are drawn, in what precision and by whose scale; embeddings of captions on their way into training."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ditkit.app import encoding, measuring, training
from ditkit.app.encoding import Job, encode
from ditkit.app.kinds.denoiser import DenoiserRuns
from ditkit.app.model import load_model
from ditkit.app.recipe import Data, Model, Recipe
from ditkit.app.references import Space, open_reference
from ditkit.app.run import open_run
from ditkit.app.samples import Plan, RunSamples
from ditkit.app.stored import read_images
from ditkit.base.errors import UserError
from ditkit.condition import Condition
from ditkit.convert.autoencoder import load_autoencoder, save_autoencoder
from ditkit.convert.autoencoder_diffusers import DiffusersAutoencoder
from ditkit.convert.autoencoder_scales import PUBLISHED, constants
from ditkit.data import latents as reading
from ditkit.data import loader
from ditkit.data.latents import LatentStore, open_latents
from ditkit.data.loading import load_images
from ditkit.data.source import open_source
from ditkit.encoders.autoencoder import LatentAutoencoder, encode_keyed
from ditkit.encoders.autoencoder_variants import VQModel
from ditkit.encoders.precision import in_precision
from ditkit.encoders.tiling import in_tiles
from ditkit.train.settings import TrainSettings
from tests.running import ditkit, losses, made
from tests.storing import PLAIN, Captioned, Lengths, encoded, normal, pixels, refused, tiny, train

PIXELS = Space("pixels", None, ("frechet_distance",))


def test_draws_are_the_same_for_any_number_of_processes(whole: Path, pets: Path, vae: Path) -> None:
    """Of the latents too: what the ranks take end to end is what one process takes, of a store and on the fly."""
    opened, images, net = LatentStore(whole), load_images(open_source(pets), progress=False), load_autoencoder(vae)
    rows = open_latents(opened, reading.published(opened.manifest))
    some = torch.arange(0, 120, 3)  # as after some were held out
    for step in (0, 1):  # 40 rows: step 1 is across two epochs
        how: dict[str, Any] = {"step": step, "batch_size": 24, "seed": 3, "flip": True}
        one = loader.batch(rows.subset(some), **how)
        ranks = [loader.batch(rows.subset(some), rank=rank, world=4, **how) for rank in range(4)]
        assert torch.equal(torch.cat([part.x0 for part in ranks]), one.x0)
        on_the_fly = [loader.batch(images.subset(some), rank=rank, world=2, **how) for rank in range(2)]
        made_here = torch.cat([encode_keyed(net, part.x0, 3, part.keys) for part in on_the_fly])
        torch.testing.assert_close(made_here, one.x0, atol=1e-5, rtol=1e-5)
    assert len(one.keys[:, 0].unique()) == 2


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().mean() / theirs.std())


@torch.no_grad()
@pytest.mark.parametrize("tile", [None, 32])
def test_bfloat16_is_close_to_float32_and_of_the_same_identity(tile: int | None) -> None:
    net = in_tiles(tiny(**PLAIN), tile)
    half = in_precision(net, "bfloat16")
    assert in_precision(net, "float32") is net
    assert half.identity == net.identity
    assert half.latent_shape((1, 80, 72)) == (4, 40, 36)
    x, z, noise = pixels(2, 1, 80, 72), normal(2, 4, 40, 36), normal(2, 4, 40, 36, seed=1)
    for ours, theirs in (
        (half.encode(x, noise), net.encode(x, noise)),
        (half.posterior(x).std, net.posterior(x).std),
        (half.decode(z), net.decode(z)),
    ):
        assert ours.dtype == torch.float32
        assert 1e-5 < relative(ours, theirs) < 0.02


@torch.no_grad()
def test_a_codebook_is_searched_in_full_precision() -> None:
    net = VQModel((8, 16), groups=4, latent_channels=4, codes=16)
    net.codebook.weight[:] = 1 + 0.01 * normal(16, 4)  # all alike in bfloat16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net.indices(net.codebook.weight.view(16, 4, 1, 1))
    assert found.flatten().tolist() == [*range(16)]


def test_the_precision_is_chosen_in_training_and_sampling(whole: Path, pets: Path, vae: Path, tmp_path: Path) -> None:
    half = ["--data.autoencoder-precision", "bfloat16"]
    made(train(pets, tmp_path / "full", "--data.autoencoder", vae))
    made(train(pets, tmp_path / "half", "--data.autoencoder", vae, *half))
    full, low = losses(tmp_path / "full"), losses(tmp_path / "half")
    assert full != low
    np.testing.assert_allclose(low, full, rtol=0.05)
    assert "autoencoder_precision: bfloat16" in (tmp_path / "half" / "recipe.yaml").read_text()
    made(ditkit("train", "--resume", tmp_path / "half", "--train.steps", 5))
    drawn = {}
    for name, run, given in [
        ("a", "full", []),
        ("b", "full", ["--autoencoder-precision", "bfloat16"]),
        ("c", "half", ["--autoencoder-precision", "float32"]),
    ]:
        made(ditkit("sample", tmp_path / run, "--num", 4, "--out", tmp_path / name, *given))
        drawn[name] = np.asarray(Image.open(tmp_path / name / "grid.png")).astype(int)
    assert 0 < np.abs(drawn["a"] - drawn["b"]).max() <= 12
    model = load_model(open_run(tmp_path / "half"))
    assert type(model.autoencoder).__name__ == "Autocast"
    refused(train(pets, tmp_path / "p", *half), "autoencoder_precision bfloat16 does nothing without an autoencoder")
    refused(train(pets, tmp_path / "p", "--data.autoencoder-scale", "sdxl"), "autoencoder_scale sdxl does nothing")
    made(train(whole, tmp_path / "kept", *half))
    z = torch.randn(2, 4, 4, 4)
    own = load_model(open_run(tmp_path / "kept")).autoencoder
    net = load_autoencoder(vae)
    assert own.identity == net.identity
    assert 1e-5 < relative(own.decode(z), net.decode(z)) < 0.02


def test_a_scale_that_is_not_the_stores_is_refused(whole: Path, tmp_path: Path) -> None:
    own = LatentStore(whole).plan.autoencoder
    said = train(whole, tmp_path / "r", "--data.autoencoder-scale", "0.5,0.1")
    refused(said, "scale 0.5 and shift 0.1", f"scale {own.scale:g} and shift {own.shift:g}", str(whole))
    made(train(whole, tmp_path / "same", "--data.autoencoder-scale", f"{own.scale!r},{own.shift!r}"))


def test_a_padded_stores_images_are_another_reference_than_the_same_cropped(
    pets: Path, vae: Path, whole: Path, tmp_path: Path
) -> None:
    made(encoded(pets, vae, tmp_path / "s", "--crop", "pad"))
    given: dict[str, Any] = {"shape": LatentStore(whole).plan.image_shape, "classes": None, "folder": tmp_path}
    given |= {"space": PIXELS, "device": torch.device("cpu")}
    cropped, whole_too, padded = (open_reference(str(s), **given) for s in (pets, whole, tmp_path / "s"))
    assert cropped.fingerprint == whole_too.fingerprint != padded.fingerprint
    assert cropped.resizing == whole_too.resizing == "to the samples' size: shorter side, then the centre, as ADM crops"
    assert "crop pad" in padded.resizing


@pytest.mark.parametrize("stored", [True, False])
def test_a_run_is_measured_against_what_it_was_trained_on_cropped_as_it_was(
    stored: bool, pets: Path, vae: Path, tmp_path: Path
) -> None:
    made(encoded(pets, vae, tmp_path / "s", "--crop", "pad"))
    padded = read_images(Data(source=str(tmp_path / "s"))).get(torch.arange(8))
    size = LatentStore(tmp_path / "s").plan.preprocessing.size
    pad = ["--data.crop", "pad", "--data.size", *size, "--data.autoencoder", vae]
    made(train(tmp_path / "s", tmp_path / "r") if stored else train(pets, tmp_path / "r", *pad))
    model = load_model(open_run(tmp_path / "r"))
    for source in (None, str(pets)):
        images = measuring.reference(model, source, PIXELS).images
        assert images is not None
        assert torch.equal(images.get(torch.arange(8)), padded)
    wide = measuring.reference(model.sized((8, 12)), str(tmp_path / "s"), PIXELS).images
    assert wide is not None
    assert wide.shape == (1, 8, 12)


def test_numbers_of_latents_say_how_they_were_decoded(whole: Path, tmp_path: Path) -> None:
    made(train(whole, tmp_path / "r", "--data.autoencoder-precision", "bfloat16"))
    model = load_model(open_run(tmp_path / "r"))
    said = RunSamples.of(model, Plan(model.run.recipe.sample, 8)).protocol
    assert said["decoding"] == {"dtype": "bfloat16", "tile": None}


def lone(place: Path, channels: int = 4) -> Path:
    """A file of weights without a config.json."""
    net = tiny(widths=(32, 32), groups=32, channels=1, latent_channels=channels)
    path = place / "sdxl_vae.safetensors"
    save_file({k: v.contiguous() for k, v in DiffusersAutoencoder.from_ditkit(net.state_dict()).items()}, path)
    return path


def test_an_assumed_scale_is_said_and_another_can_be_given(
    pets: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = lone(tmp_path)
    with caplog.at_level(logging.WARNING):
        loaded = load_autoencoder(file)
    assert isinstance(loaded, LatentAutoencoder)
    assert loaded.scale == PUBLISHED["sd"][0]
    (line,) = caplog.messages
    for words in (str(file), "0.18215", "Stable Diffusion 1 and 2", "--data.autoencoder-scale", "sdxl"):
        assert words in line
    caplog.clear()
    made(encoded(pets, file, tmp_path / "s", "--autoencoder-scale", "sdxl"))
    assert LatentStore(tmp_path / "s").plan.autoencoder.scale == 0.13025
    made(train(tmp_path / "s", tmp_path / "kept", "--data.autoencoder", file, "--data.autoencoder-scale", "sdxl"))
    made(train(pets, tmp_path / "fly", "--data.autoencoder", file, "--data.autoencoder-scale", "0.13025"))
    assert open_run(tmp_path / "fly").recipe.data.autoencoder_scale == "0.13025"
    np.testing.assert_allclose(losses(tmp_path / "fly"), losses(tmp_path / "kept"), rtol=1e-5, atol=1e-5)
    made(ditkit("sample", tmp_path / "fly", "--num", 1, "--out", tmp_path / "drawn"))
    assert not caplog.messages
    refused(train(tmp_path / "s", tmp_path / "r", "--data.autoencoder", file), "scale 0.18215", "scale 0.13025")
    refused(encoded(pets, file, tmp_path / "t", "--autoencoder-scale", "sd4"), "'sd4'", "sdxl", "0.13025")


def test_scales_that_can_be_said() -> None:
    assert constants(None) == (None, None)
    assert constants("flux") == (0.3611, 0.1159)
    assert constants("0.5") == (0.5, 0.0)
    assert constants("0.5,-0.1") == (0.5, -0.1)
    for odd in ("", "0", "-1", "nan", "inf", "1,2,3", "1,nan", "SDXL"):
        with pytest.raises(UserError, match="expected one of sd, sdxl"):
            constants(odd)


def test_sixteen_channels_need_a_scale(tmp_path: Path) -> None:
    file = lone(tmp_path, channels=16)
    with pytest.raises(UserError, match=r"16 latent channels: put its config\.json .* or give --data"):
        load_autoencoder(file)


def test_embeddings_reach_the_batch_and_go_with_their_rows(
    vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "open_source", Captioned)
    encode(Job("captioned", str(vae), device="cpu", shard=16), tmp_path / "s", Lengths())
    opened = LatentStore(tmp_path / "s")
    opened.verify(progress=False)
    rows = open_latents(opened, reading.published(opened.manifest))
    assert any("embeddings (2, 1) of their captions by lengths" in note for note in rows.notes)
    some = rows.subset(torch.arange(0, 199, 2))
    shown = loader.batch(some, step=3, batch_size=30, seed=1)
    assert shown.condition.text is not None
    expected = [float(len(Captioned.captions[place])) for place in shown.keys[:, 1].tolist()]
    assert shown.condition.text[:, 0, 0].tolist() == expected
    assert len({*expected}) > 1


def test_training_on_embeddings_resumes_and_drops_them(
    vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(encoding, "open_source", Captioned)
        encode(Job("captioned", str(vae), device="cpu", shard=16), tmp_path / "s", Lengths())
    seen: list[torch.Tensor] = []

    class Reader(torch.nn.Module):
        """A network that moves with the text that it is given."""

        def __init__(self, net: torch.nn.Module) -> None:
            super().__init__()
            self.net, self.scale = net, torch.nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor, t: torch.Tensor, condition: Condition, keep: Any = ()) -> Any:
            assert condition.text is not None
            seen.append(condition.text[:, 0, 0])
            out = self.net(x, t, condition, keep)
            moved = out.prediction + 0.01 * self.scale * condition.text.mean((1, 2))[:, None, None, None]
            return dataclasses.replace(out, prediction=moved)

    network = DenoiserRuns.network
    monkeypatch.setattr(DenoiserRuns, "network", staticmethod(lambda *args: Reader(network(*args))))
    recipe = Recipe(
        data=Data(source=str(tmp_path / "s")),
        model=Model(patch_size=2, width=8, depth=1, heads=2),
        train=TrainSettings(steps=4, batch_size=40, device="cpu", log_every=1, sample_every=None, label_dropout=0.5),
    )
    assert training.start(recipe, tmp_path / "whole") is None
    texts = torch.cat(seen)
    assert {float(len(words)) for words in Captioned.captions} >= {*texts.tolist()} > {0.0}
    short = dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=2))
    assert training.start(short, tmp_path / "parts") is None
    assert training.resume(tmp_path / "parts", {"steps": 4}) is None
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Condition, "drop", lambda self, dropped: self)
        assert training.start(recipe, tmp_path / "undropped") is None
    assert losses(tmp_path / "undropped") != losses(tmp_path / "whole")


def test_dropping_a_condition_drops_its_text() -> None:
    given = Condition(label=torch.tensor([1, 2]), text=torch.ones(2, 3, 4))
    some = given.drop(torch.tensor([True, False]))
    assert some.label is not None
    assert some.label.tolist() == [-1, 2]
    assert some.text is not None
    assert some.text.sum((1, 2)).tolist() == [0, 12]
    null = Condition(text=given.text).null()
    assert null.label is None
    assert null.text is not None
    assert not null.text.any()
    assert Condition().drop(torch.tensor([True])) == Condition()


def test_another_autoencoder_put_into_a_store_does_not_decode(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "s")
    made(train(tmp_path / "s", tmp_path / "r"))
    own, other = tiny(**PLAIN), tiny(**(PLAIN | {"seed": 1}))
    save_autoencoder(other, tmp_path / "s" / "autoencoder")  # of the same size, as the manifest says it
    said = ditkit("sample", tmp_path / "r", "--num", 1, "--out", tmp_path / "drawn")
    refused(said, tmp_path / "s", own.identity, other.identity)
    assert not (tmp_path / "drawn").exists()
