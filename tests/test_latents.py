"""The latent store: what is in it, training from it, kills, faults, and what does not belong together."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ditkit.app import encoding, stored
from ditkit.app.encoding import Job, encode
from ditkit.app.model import load_model
from ditkit.app.references import check_apart, origin
from ditkit.app.run import open_run
from ditkit.base import tensors as tensor_files
from ditkit.base.errors import UserError
from ditkit.base.files import alone
from ditkit.base.pixels import from_uint8
from ditkit.convert.autoencoder import load_autoencoder
from ditkit.data import latents as reading
from ditkit.data import loader, store
from ditkit.data.latents import LatentStore, open_latents
from ditkit.data.loading import load_images
from ditkit.data.source import open_source
from ditkit.encoders import tiling
from ditkit.encoders.autoencoder import AutoencoderKL, encode_keyed
from tests.running import Said, Trial, ditkit, draw_images, losses, made
from tests.storing import PLAIN, Captioned, Lengths, encoded, refused, tiny, train, write


def test_a_store_as_reference_is_the_images_that_it_was_made_from(whole: Path, pets: Path, loose: Path) -> None:
    """So other images in its place have another fingerprint, and its own images are no samples to measure by it."""
    assert origin(str(whole)) == origin(str(pets)) != origin(str(loose))
    check_apart(str(loose), str(whole))
    with pytest.raises(UserError, match="is what is to be measured"):
        check_apart(str(pets), str(whole))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_store_holds_the_posteriors_of_images_and_mirror_images(whole: Path, pets: Path, vae: Path) -> None:
    opened, images = LatentStore(whole), load_images(open_source(pets), progress=False)
    net = load_autoencoder(vae)
    assert isinstance(net, AutoencoderKL)
    rows = torch.tensor([0, 15, 16, 119])
    x = from_uint8(images.get(rows))
    for mirrored in (False, True):
        q = net.posterior(x.flip(-1) if mirrored else x)
        mean, std = opened.posterior(rows, torch.full((4,), mirrored))
        torch.testing.assert_close(mean, q.mean, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(std, q.std, atol=1e-6, rtol=1e-5)
    assert images.labels is not None
    assert torch.equal(opened.column("label"), images.labels)
    assert torch.equal(opened.column("index"), images.indices)
    assert opened.plan.classes == ("cat", "dog")
    assert opened.manifest.rows == (16,) * 7 + (8,)
    assert opened.plan.autoencoder.identity == net.identity == load_autoencoder(whole / "autoencoder").identity
    assert (opened.plan.autoencoder.scale, opened.plan.autoencoder.shift) == (0.7, 0.2)
    assert opened.plan.source.fingerprint == open_source(pets).fingerprint()
    assert not (whole / "progress").exists()
    assert "every checksum is right" in made(ditkit("encode", "--verify", whole)).out


def test_info_says_what_a_store_is(whole: Path, tmp_path: Path) -> None:
    said = made(ditkit("info", whole)).out
    plan = LatentStore(whole).plan
    for words in ("120 of 8x8x1", "4x4x4 in float32, 8 shards", plan.autoencoder.identity, "(z - 0.2) * 0.7"):
        assert words in said
    for words in ("labels", "2 (cat, dog)", plan.source.spec, "0 images that do not decode"):
        assert words in said
    shutil.copytree(whole, tmp_path / "s")
    (tmp_path / "s" / "shard-00001.safetensors").unlink()
    refused(ditkit("info", tmp_path / "s"), "shard-00001", "is missing")


def test_statistics_are_those_of_drawn_latents(whole: Path) -> None:
    opened = LatentStore(whole)
    moments = [opened.posterior(torch.arange(120), torch.full((120,), flip)) for flip in (False, True)]
    mean, std = (torch.cat(parts).double() for parts in zip(*moments, strict=True))
    expected = mean.mean((0, 2, 3))
    deviation = ((mean - expected[:, None, None]).square() + std.square()).mean((0, 2, 3)).sqrt()
    statistics = opened.manifest.statistics
    torch.testing.assert_close(torch.tensor(statistics.mean, dtype=torch.float64), expected)
    torch.testing.assert_close(torch.tensor(statistics.std, dtype=torch.float64), deviation)


@pytest.mark.parametrize("flip", [False, True])
def test_batches_are_those_of_encoding_on_the_fly(flip: bool, whole: Path, pets: Path, vae: Path) -> None:
    opened, images, net = LatentStore(whole), load_images(open_source(pets), progress=False), load_autoencoder(vae)
    stored_rows = open_latents(opened, reading.published(opened.manifest))
    for step in (0, 7, 8, 31):  # 7: across two epochs
        how = {"step": step, "batch_size": 17, "seed": 3, "flip": flip}
        fly, kept = loader.batch(images, **how), loader.batch(stored_rows, **how)
        assert torch.equal(fly.index, kept.index)
        assert torch.equal(fly.keys, kept.keys)
        assert fly.condition.label is not None
        assert kept.condition.label is not None
        assert torch.equal(fly.condition.label, kept.condition.label)
        torch.testing.assert_close(kept.x0, encode_keyed(net, fly.x0, 3, fly.keys), atol=1e-5, rtol=1e-5)
    again = loader.batch(stored_rows, step=40, batch_size=120, seed=3).x0
    assert not torch.allclose(again, loader.batch(stored_rows, step=41, batch_size=120, seed=3).x0)


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 1e-2), ("float16", 1e-3)])
def test_halves_take_half_the_space(
    dtype: str, tolerance: float, whole: Path, pets: Path, vae: Path, tmp_path: Path
) -> None:
    made(encoded(pets, vae, tmp_path / "s", "--dtype", dtype))
    half, full = LatentStore(tmp_path / "s"), LatentStore(whole)
    assert half.shard(0)["mean"].element_size() == 2
    rows, mirrored = torch.arange(120), torch.arange(120) % 2 == 0
    for ours, theirs in zip(half.posterior(rows, mirrored), full.posterior(rows, mirrored), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_an_autoencoder_in_bfloat16(whole: Path, pets: Path, vae: Path, tmp_path: Path) -> None:
    made(encoded(pets, vae, tmp_path / "s", "--precision", "bfloat16"))
    half, full = LatentStore(tmp_path / "s"), LatentStore(whole)
    own = load_autoencoder(half.folder / "autoencoder")
    assert half.plan.autoencoder.identity == own.identity == full.plan.autoencoder.identity
    assert half.plan.autoencoder.precision == "bfloat16"
    ours, theirs = (opened.posterior(torch.arange(120), torch.zeros(120).bool())[0] for opened in (half, full))
    assert 1e-4 < (ours - theirs).abs().mean() / theirs.std() < 0.03
    x = torch.randn(2, 4, 4, 4)
    decoded = load_autoencoder(vae, dtype=torch.bfloat16).decode(x)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, own.decode(x), atol=0.1, rtol=0.1)


def test_large_images_go_in_tiles_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of 40x36 latents: encoded for a store and on the fly, and decoded, in tiles of 32."""
    taken: list[int] = []
    original = tiling.blended

    def blended(network: Any, x: Any, tiles: list[Any], zoom: float) -> Any:
        taken.append(len(tiles))
        return original(network, x, tiles, zoom)

    monkeypatch.setattr(tiling, "blended", blended)
    vae, data = write(tmp_path / "vae", tiny(**PLAIN)), draw_images(tmp_path / "d", ["0.png", "1.png"], size=(80, 72))
    made(encoded(data, vae, tmp_path / "s", "--tile", 32))
    assert taken == [4] * 4  # of two images and their mirror images
    assert json.loads((tmp_path / "s" / "manifest.json").read_text())["plan"]["autoencoder"]["tile"] == 32
    refused(encoded(data, vae, tmp_path / "s"), "autoencoder.tile 32, now it is None")
    learned = ["--data.tile", 32, "--model.patch-size", 4, "--train.steps", 1, "--train.batch-size", 2]
    made(train(data, tmp_path / "fly", "--data.autoencoder", vae, *learned))
    assert taken[4:] == [4, 4]
    taken.clear()
    drawn = ["--num", 1, "--steps", 1]
    made(ditkit("sample", tmp_path / "fly", *drawn, "--out", tmp_path / "a"))
    assert taken == [4]  # as the recipe says
    made(train(tmp_path / "s", tmp_path / "kept", *learned[2:]))
    made(ditkit("sample", tmp_path / "kept", *drawn, "--out", tmp_path / "b"))
    assert taken == [4]
    made(ditkit("sample", tmp_path / "kept", *drawn, "--out", tmp_path / "c", "--tile", 32))
    assert taken == [4, 4]
    refused(encoded(data, vae, tmp_path / "t", "--tile", 16), "--tile", "16", "32")
    refused(train(data, tmp_path / "p", "--data.tile", 32), "tile 32 does nothing without an autoencoder")


def test_latents_that_the_dtype_cannot_hold(pets: Path, tmp_path: Path) -> None:
    net = tiny(**PLAIN)
    net.quant_conv.bias += 1e6  # type: ignore[operator]
    write(tmp_path / "vae", net)
    refused(encoded(pets, tmp_path / "vae", tmp_path / "s", "--dtype", "float16"), "mean", "float16", "--dtype float32")


def test_captions_and_images_that_do_not_decode(vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "open_source", Captioned)
    manifest = encode(Job("captioned", str(vae), device="cpu", shard=16), tmp_path / "s")
    assert manifest.skipped == (("5.png", "cut short"),)
    opened = LatentStore(tmp_path / "s")
    rows = open_latents(opened, reading.published(manifest))
    indices = rows.indices.tolist()
    assert indices == [i for i in range(200) if i != 5]
    assert rows.captions(range(199)) == [Captioned.captions[i] for i in indices]
    some = rows.subset(torch.tensor([198, 4, 5]))
    assert some.captions([0, 1, 2]) == ["picture 199 é", "", ""]
    assert rows.labels is None


def test_embeddings_of_captions(vae: Path, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("captioned", str(vae), device="cpu", shard=16)
    with pytest.raises(UserError, match="has no captions for the text encoder lengths"):
        encode(dataclasses.replace(job, data=str(pets)), tmp_path / "s", Lengths())
    monkeypatch.setattr(encoding, "open_source", Captioned)
    manifest = encode(job, tmp_path / "s", Lengths())
    rows = open_latents(LatentStore(tmp_path / "s"), reading.published(manifest)).subset(torch.tensor([198, 5, 4]))
    said = rows.captions([0, 1, 2])
    assert said == ["picture 199 é", "", ""]
    found = rows.text(torch.tensor([0, 2]))
    assert found is not None
    assert found.tolist() == [[[13.0], [14.0]], [[0.0], [0.0]]]
    with pytest.raises(UserError, match=r"text \{'identity': 'lengths', 'shape': \[2, 1\]\}, now it is None"):
        encode(job, tmp_path / "s")
    plain = encode(job, tmp_path / "plain")
    assert open_latents(LatentStore(tmp_path / "plain"), reading.published(plain)).text(torch.tensor([0])) is None


def test_too_many_broken_images(vae: Path, pets: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(pets, data)
    for i in range(3):
        (data / "cat" / f"{i:02d}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    refused(encoded(data, vae, tmp_path / "s", "--size", 8), "3 of 120 images do not decode", "cat/00.png")
    assert not (tmp_path / "s" / "manifest.json").exists()


def test_training_from_a_store_is_training_on_the_fly(whole: Path, pets: Path, vae: Path, tmp_path: Path) -> None:
    made(train(pets, tmp_path / "fly", "--data.autoencoder", vae, "--data.heldout", 0.2))
    made(train(whole, tmp_path / "kept", "--data.heldout", 0.2))
    fly, kept = losses(tmp_path / "fly"), losses(tmp_path / "kept")
    assert len(fly) == 4
    np.testing.assert_allclose(kept, fly, rtol=1e-5, atol=1e-5)
    for run in ("fly", "kept"):
        made(ditkit("sample", tmp_path / run, "--num", 2, "--out", tmp_path / run / "drawn"))
    pictures = [np.asarray(Image.open(tmp_path / run / "drawn" / "grid.png")) for run in ("fly", "kept")]
    assert np.abs(pictures[0].astype(int) - pictures[1]).max() <= 1
    assert pictures[0].std() > 0


def test_objectives_that_look_at_other_examples(whole: Path, tmp_path: Path) -> None:
    made(train(whole, tmp_path / "r", "--process.objective", "knn", "--train.steps", 1))
    assert np.isfinite(losses(tmp_path / "r")).all()


def test_latents_of_a_store_have_no_likelihood_of_pixels(whole: Path, tmp_path: Path) -> None:
    made(train(whole, tmp_path / "r", "--train.steps", 1))
    refused(ditkit("likelihood", tmp_path / "r", "--num", 1), "diffuses latents", "latent store")


def test_training_from_a_store_resumes(whole: Path, tmp_path: Path) -> None:
    made(train(whole, tmp_path / "whole"))
    made(train(whole, tmp_path / "parts", "--train.steps", 2))
    made(ditkit("train", "--resume", tmp_path / "parts", "--train.steps", 4))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_training_needs_no_autoencoder_and_sampling_the_store_s_own(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "vae", tiny(**PLAIN))
    made(encoded(pets, tmp_path / "vae", tmp_path / "s"))
    shutil.rmtree(tmp_path / "vae")
    original = stored.load_autoencoder

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("an autoencoder was read")

    monkeypatch.setattr(stored, "load_autoencoder", never)
    made(train(tmp_path / "s", tmp_path / "r"))
    monkeypatch.setattr(stored, "load_autoencoder", original)
    model = load_model(open_run(tmp_path / "r"))
    assert model.facts["autoencoder"] == tiny(**PLAIN).identity
    assert model.shape == (1, 8, 8)
    assert model.latent_shape == (4, 4, 4)
    x = torch.randn(2, 4, 4, 4)
    assert torch.equal(model.autoencoder.decode(x), tiny(**PLAIN).decode(x))
    made(train(tmp_path / "s", tmp_path / "drawn", "--train.sample-every", 2))
    assert (tmp_path / "drawn" / "samples" / "step-0000004.png").is_file()


def test_measured_statistics_whiten(whole: Path, pets: Path, tmp_path: Path) -> None:
    made(train(whole, tmp_path / "r", "--data.normalise", "measured"))
    assert "normalise: measured" in (tmp_path / "r" / "recipe.yaml").read_text()
    opened = LatentStore(whole)
    rows = open_latents(opened, reading.measured(opened.manifest))
    parts = [rows.draw(torch.arange(120), torch.full((120,), i % 2 == 0), 0, torch.full((120,), i)) for i in range(20)]
    drawn = torch.cat(parts)
    torch.testing.assert_close(drawn.mean((0, 2, 3)), torch.zeros(4), atol=0.03, rtol=0)
    torch.testing.assert_close(drawn.std((0, 2, 3)), torch.ones(4), atol=0.03, rtol=0)
    autoencoder = load_model(open_run(tmp_path / "r")).autoencoder
    assert autoencoder.identity == rows.normalisation.identity != opened.plan.autoencoder.identity
    mean, _ = opened.posterior(torch.tensor([3]), torch.tensor([False]))
    x = from_uint8(load_images(open_source(pets), progress=False).get(torch.tensor([3])))
    torch.testing.assert_close(rows.normalisation(mean), autoencoder.encode(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        autoencoder.decode(rows.normalisation(mean)), tiny(**PLAIN).reconstruct(mean), atol=1e-5, rtol=1e-5
    )
    refused(train(pets, tmp_path / "p", "--data.normalise", "measured"), "measured", "latent store", "ditkit encode")


def test_what_does_not_belong_together(whole: Path, vae: Path, tmp_path: Path) -> None:
    net = tiny(**PLAIN)
    for changes in ({"seed": 1}, {"scale": 0.5}, {"shift": 0.1}):
        other = tiny(**(PLAIN | changes))
        folder = write(tmp_path / "other", other)
        refused(
            train(whole, tmp_path / "r", "--data.autoencoder", folder),
            "--data.autoencoder",
            other.identity,
            net.identity,
        )
    refused(train(whole, tmp_path / "r", "--data.size", 16), "--data.size (16, 16)", "(8, 8)")
    refused(train(whole, tmp_path / "r", "--data.channels", 3), "--data.channels 3", "channels 1")
    assert not (tmp_path / "r").exists()
    made(train(whole, tmp_path / "r", "--data.autoencoder", vae, "--data.size", 8))
    shutil.copytree(whole, tmp_path / "s")
    made(train(tmp_path / "s", tmp_path / "r2"))
    shutil.rmtree(tmp_path / "s")
    shutil.copytree(tmp_path / "other", tmp_path / "v")
    pictures = open_run(tmp_path / "r").recipe
    assert pictures.data.autoencoder == str(vae)
    made(encoded(load_manifest_source(whole), tmp_path / "v", tmp_path / "s"))
    for command in (["train", "--resume"], ["sample"]):
        refused(ditkit(*command, tmp_path / "r2"), net.identity, tiny(**(PLAIN | {"shift": 0.1})).identity)


def load_manifest_source(folder: Path) -> str:
    return json.loads((folder / "manifest.json").read_text())["plan"]["source"]["spec"]


def test_several_processes_write_the_same(whole: Path, pets: Path, vae: Path, tmp_path: Path) -> None:
    made(encoded(pets, vae, tmp_path / "s", "--workers", 2))
    assert contents(tmp_path / "s") == contents(whole)


def test_killed_many_times_equals_uninterrupted(
    trial: Trial, whole: Path, pets: Path, vae: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s"
    command = ["encode", "--data", pets, "--autoencoder", vae, "--out", out, "--device", "cpu", "--shard", "16"]
    delays, codes = random.Random(0), []
    finished: dict[str, int] = {}

    def kill(**when: Any) -> None:
        codes.append(trial(command, **when)["code"])
        for record in out.glob("progress/shard-*.json"):
            number = (out / f"{record.stem}.safetensors").stat().st_ino
            assert finished.setdefault(record.stem, number) == number  # what was finished is not written again

    for k in (1, 2, 3, 4, 5, 6, 7, 8, 4, 6):  # whole, but without its name yet
        kill(at=["os.replace", k])
    kill(at=["ditkit.base.tensors.save_file", 2])
    kill(at=["ditkit.data.store.sha256", 2])
    kill(at=["os.fsync", 3])
    assert codes == [-signal.SIGKILL] * 13
    assert 3 <= len(finished) < 8
    refused(train(out, tmp_path / "r"), "is not whole", "of 8 shards", "ditkit encode")
    for _ in range(6):
        kill(after=delays.uniform(0.01, 0.25))
    assert set(codes) <= {-signal.SIGKILL, 0}
    made(encoded(pets, vae, out))
    assert contents(out) == contents(whole)
    assert not list(out.rglob(".*"))


def test_killed_between_the_manifest_and_the_last_clearing(
    trial: Trial, whole: Path, pets: Path, vae: Path, tmp_path: Path
) -> None:
    out = tmp_path / "s"
    command = ["encode", "--data", pets, "--autoencoder", vae, "--out", out, "--device", "cpu", "--shard", "16"]
    assert trial(command, at=["ditkit.data.store.clear_progress", 1])["code"] == -signal.SIGKILL
    assert (out / "progress").is_dir()
    made(encoded(pets, vae, out))
    assert contents(out) == contents(whole)
    made(encoded(pets, vae, out))  # nothing to do
    assert contents(out) == contents(whole)


def begun(pets: Path, vae: Path, out: Path, monkeypatch: pytest.MonkeyPatch, shards: int = 3) -> Said:
    """A store in which the device was full after so many shards."""
    calls: list[Path] = []

    def sometimes(tensors: Any, path: Path, *metadata: Any) -> None:
        calls.append(path)
        if len(calls) > shards + 1:  # the autoencoder is the first
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(tensors, path, *metadata)

    with monkeypatch.context() as patch:
        patch.setattr(tensor_files, "save_file", sometimes)
        return encoded(pets, vae, out)


def test_a_full_device(whole: Path, pets: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "s"
    refused(begun(pets, vae, out, monkeypatch), "no space left on the device", "shard-00003", "MiB free", "resume")
    assert sorted(p.name for p in out.glob("shard*")) == [f"shard-0000{i}.safetensors" for i in range(3)]

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_json", full)  # also for the records
        said = encoded(pets, vae, out)
        assert said.code == 2
    made(encoded(pets, vae, out))
    assert contents(out) == contents(whole)


def test_what_was_damaged_meanwhile_is_encoded_anew(
    whole: Path, pets: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "s"
    begun(pets, vae, out, monkeypatch)
    shards = [out / f"shard-0000{k}.safetensors" for k in range(3)]
    weights = out / "autoencoder" / "diffusion_pytorch_model.safetensors"
    for path in (shards[1], weights):
        raw = bytearray(path.read_bytes())
        raw[-1] ^= 1  # a bit of the content: name and size stay
        path.write_bytes(raw)
    shards[2].write_bytes(shards[2].read_bytes()[:-1])
    kept = shards[0].stat().st_ino
    said = made(encoded(pets, vae, out))
    assert sorted(line.split()[0] for line in said.out.splitlines() if "not what was written" in line) == sorted(
        map(str, (out / "autoencoder", *shards[1:]))
    )
    assert shards[0].stat().st_ino == kept
    assert contents(out) == contents(whole)


def test_other_settings_and_changed_data_are_refused(
    pets: Path, vae: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = tmp_path / "data", tmp_path / "s"
    shutil.copytree(pets, data)
    begun(data, vae, out, monkeypatch)
    before = contents(out)
    other = write(tmp_path / "other", tiny(**(PLAIN | {"seed": 1})))
    refused(encoded(data, vae, out, "--dtype", "float16"), "dtype float32, now it is float16", "--out")
    refused(encoded(data, vae, out, "--size", 16), "size", "[8, 8]", "[16, 16]")
    refused(encoded(data, other, out), tiny(**PLAIN).identity, tiny(**(PLAIN | {"seed": 1})).identity)
    Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(data / "dog" / "00.png")
    refused(encoded(data, vae, out), "source.fingerprint", "the data changed")
    assert contents(out) == before


def test_places_where_a_store_cannot_be(pets: Path, vae: Path, whole: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(pets, data)
    refused(encoded(data, vae, data / "cat" / "s"), "inside the data")
    refused(encoded(data, vae, tmp_path), "not empty")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]
    shutil.copytree(whole, tmp_path / "s")
    with alone(tmp_path / "s", "busy"):
        refused(encoded(pets, vae, tmp_path / "s"), "another process")
    refused(encoded(tmp_path / "s", vae, tmp_path / "t"), tmp_path / "s")


def test_options_that_are_missing_or_wrong(pets: Path, vae: Path, tmp_path: Path) -> None:
    refused(ditkit("encode", "--data", pets, "--out", tmp_path / "s"), "--autoencoder is missing")
    refused(ditkit("encode", "--autoencoder", vae, "--out", tmp_path / "s"), "--data is missing")
    refused(encoded(pets, vae, tmp_path / "s", "--dtype", "float8"), "float8", "bfloat16")
    refused(encoded(pets, vae, tmp_path / "s", "--size", 9), "9x9", "factor 2")
    for size in (0, -8, 10**7):
        refused(encoded(pets, vae, tmp_path / "s", "--size", size), f"size {size} is no image size", "at most 65536")
    refused(encoded(pets, vae, tmp_path / "s", "--channels", 3), "3 channels", "takes 1")
    refused(encoded(pets, tmp_path / "none", tmp_path / "s"), "does not exist")
    refused(ditkit("encode", "--verify", pets), "is not a latent store")
    assert not (tmp_path / "s").exists()


def _truncate(folder: Path) -> None:
    path = folder / "shard-00002.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _flip_a_bit(folder: Path) -> None:
    path = folder / "shard-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _manifest(change: Any) -> Any:
    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        said = json.loads(path.read_text())
        change(said)
        path.write_text(json.dumps(said))

    return damage


def _shard(change: Any) -> Any:
    """Changes a shard and what the manifest says of its size and content, as whoever means to deceive would."""

    def damage(folder: Path) -> None:
        path = folder / "shard-00001.safetensors"
        tensors = {name: value.clone() for name, value in load_file(path).items()}
        change(tensors)
        path.unlink()
        save_file(tensors, path)
        _manifest(lambda said: said["files"].update({path.name: dataclasses.asdict(store.file_of(path))}))(folder)

    return damage


DAMAGE = {
    "truncated": (_truncate, ["shard-00002", "bytes, expected", "copy it anew"]),
    "missing": (lambda f: (f / "shard-00000.safetensors").unlink(), ["shard-00000", "is missing"]),
    "no autoencoder": (lambda f: shutil.rmtree(f / "autoencoder"), ["autoencoder", "is missing"]),
    "half a manifest": (lambda f: (f / "manifest.json").write_text('{"plan"'), ["manifest.json", "is damaged"]),
    "a list": (lambda f: (f / "manifest.json").write_text("[]"), ["manifest.json", "is damaged"]),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), ["manifest.json", "not a latent store"]),
    "version": (_manifest(lambda m: m["plan"].update(format="ditkit-latents-9")), ["'ditkit-latents-9'", "reads"]),
    "a key less": (_manifest(lambda m: m["plan"].pop("dtype")), ["plan.dtype", "is damaged"]),
    "a key more": (_manifest(lambda m: m.update(more=1)), ["more", "is damaged"]),
    "other rows": (_manifest(lambda m: m.update(rows=[1] * 8)), ["shard-00000", "is damaged", "(16, 2, 4, 4, 4)"]),
    "other dtype": (
        _shard(lambda t: t.update(mean=t["mean"].half())),
        ["shard-00001", "torch.float16", "torch.float32"],
    ),
    "labels in float": (_shard(lambda t: t.update(label=t["label"].float())), ["shard-00001", "label", "torch.int64"]),
    "scale 0": (_manifest(lambda m: m["plan"]["autoencoder"].update(scale=0)), ["plan.autoencoder.scale", "greater"]),
    "fewer means": (_manifest(lambda m: m["statistics"].update(mean=[0.0])), ["1 means in statistics, expected 4"]),
    "no files": (_manifest(lambda m: m.update(files={})), ["0 shards in files, expected 8"]),
    "fewer rows": (_manifest(lambda m: m.update(rows=[16])), ["manifest.json", "rows", "is damaged"]),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_store_gets_one_line(kind: str, whole: Path, tmp_path: Path) -> None:
    damage, words = DAMAGE[kind]
    shutil.copytree(whole, tmp_path / "s")
    damage(tmp_path / "s")
    for said in (train(tmp_path / "s", tmp_path / "r"), ditkit("encode", "--verify", tmp_path / "s")):
        refused(said, tmp_path / "s", *words)
    assert not (tmp_path / "r").exists()


def test_latents_that_are_not_finite_are_not_trained_on(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "s")
    _shard(lambda tensors: tensors["std"].fill_(float("nan")))(tmp_path / "s")
    said = train(tmp_path / "s", tmp_path / "r", "--train.batch-size", 120)
    assert (said.code, len(said.err)) == (2, 1)
    assert f"{tmp_path / 's'} holds latents that are not finite" in said.err[0]
    assert "--verify" in said.err[0]


def test_a_store_that_moved_is_said_with_the_remedy(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "s")
    made(train(tmp_path / "s", tmp_path / "r"))
    (tmp_path / "s").rename(tmp_path / "moved")
    sample = ["sample", tmp_path / "r", "--num", 1, "--out", tmp_path / "drawn"]
    refused(ditkit(*sample), tmp_path / "s", "is not there", f"ditkit train --resume {tmp_path / 'r'} --data PLACE")
    made(ditkit("train", "--resume", tmp_path / "r", "--data", tmp_path / "moved"))
    made(ditkit(*sample))


def test_an_altered_byte_is_found_on_demand(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "s")
    _flip_a_bit(tmp_path / "s")
    LatentStore(tmp_path / "s")
    with pytest.raises(UserError, match=r"shard-00002.* was altered"):
        LatentStore(tmp_path / "s").verify(progress=False)


def test_shards_are_mapped(whole: Path) -> None:
    """Reading a store takes no memory but what is asked for: its tensors lie in the file itself."""
    mean = LatentStore(whole).shard(0)["mean"]
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not tell what is mapped")
    ranges = [line.split() for line in maps.read_text().splitlines() if "shard-00000.safetensors" in line]
    spans = [tuple(int(end, 16) for end in words[0].split("-")) for words in ranges]
    assert any(start <= mean.data_ptr() < end for start, end in spans)
    assert load_file(whole / "shard-00000.safetensors")["mean"].shape == (16, 2, 4, 4, 4)
