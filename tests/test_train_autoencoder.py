"""Training autoencoders: the losses and the game, the codebook, and runs that are named wherever one is."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ditkit.app import reconstructing
from ditkit.app.kinds.autoencoder import autoencoder, settled
from ditkit.app.recipe import AutoencoderNetwork, AutoencoderRecipe
from ditkit.app.recipe_files import load_recipe
from ditkit.app.run import open_run
from ditkit.base.errors import UserError
from ditkit.base.pixels import from_uint8
from ditkit.base.rng import generator
from ditkit.condition import Condition
from ditkit.convert.autoencoder import load_autoencoder, save_autoencoder
from ditkit.data.loader import Batch, batch
from ditkit.data.loading import load_images
from ditkit.data.source import open_source
from ditkit.encoders.autoencoder import LatentAutoencoder, Posterior
from ditkit.encoders.autoencoder_variants import VQModel, perplexity
from ditkit.encoders.discriminator import PatchDiscriminator, smallest
from ditkit.evaluate.features import frechet_distance
from ditkit.evaluate.fidelity import psnr
from ditkit.evaluate.measured import Side
from ditkit.evaluate.networks import weights as published
from ditkit.evaluate.networks.lpips import HEADS, VGG
from ditkit.evaluate.statistics import Rows
from ditkit.objectives.reconstruction import adaptive_weight, hinge_discriminator, hinge_generator, laplacian
from ditkit.train.autoencoding import Autoencoding, Opponents
from ditkit.train.settings import LoopSettings
from ditkit.train.trainer import Trainer
from tests.running import TINY, assert_same_tensors, ditkit, draw_images, losses, made, train, weights
from tests.test_evaluate_networks import made_up_lpips

KINDS = ["kl", "vq", "fast"]
PENALTIES = {"kl": 1e-6, "codebook": 1.0, "commitment": 0.25}
_SETTINGS = {
    "network.width": 8,
    "network.blocks": 1,
    "factor": 4,
    "channels": 4,
    "loss.game-from": 2,
    "loss.discriminator-width": 4,
    "loss.discriminator-layers": 1,
    "train.batch-size": 4,
    "train.steps": 4,
    "train.lr": 0.01,
    "train.log-every": 1,
    "train.checkpoint-every": 2,
    "train.device": "cpu",
}
SMALL = [word for key, value in _SETTINGS.items() for word in (f"--{key}", str(value))]


def normal(*shape: int, key: str = "x") -> Tensor:
    return torch.randn(shape, generator=generator(0, key))


def net_of(kind: str, **changes: Any) -> LatentAutoencoder:
    network = AutoencoderNetwork(**{"autoencoder": kind, "factor": 4, "width": 8, "blocks": 1, **changes})
    return autoencoder(network, channels=3, seed=0)


def game_of(kind: str = "kl", **settings: Any) -> Autoencoding:
    return Autoencoding(Opponents(net_of(kind), PatchDiscriminator(3, 4, 2)), 0, PENALTIES, laplacian, **settings)


def batch_of(size: int = 2) -> Batch:
    index = torch.arange(size)
    return Batch(normal(size, 3, 16, 16).clamp(-1, 1), Condition(), index, torch.stack([index, index], 1))


def train_autoencoder(data: object, out: object, *args: object):
    return ditkit("train-autoencoder", "--data", data, "--out", out, *SMALL, *args)


@pytest.fixture(scope="module")
def run(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder's run with a discriminator from step 2 on. Not to be changed."""
    out = tmp_path_factory.mktemp("autoencoders") / "a"
    made(train_autoencoder(pets, out, "--data.heldout", 0.2))
    return out


def test_laplacian_is_a_distance_that_sees_every_scale() -> None:
    x, y = normal(2, 3, 28, 20), normal(2, 3, 28, 20, key="y")
    assert laplacian(x, x).tolist() == [0, 0]
    torch.testing.assert_close(laplacian(x, y), laplacian(y, x))
    torch.testing.assert_close(laplacian(x, x + 1), torch.ones(2), atol=1e-5, rtol=0)  # of a constant, the last alone
    sharp = (-1.0) ** torch.arange(20).expand(1, 1, 28, 20)
    assert laplacian(sharp, 0 * sharp).item() == pytest.approx(1, abs=1e-5)  # all of it in the finest band


def test_the_hinge_game_has_its_signs() -> None:
    real, fake = torch.tensor([[[[2.0, 0.5]]]]), torch.tensor([[[[-3.0, 0.5]]]])
    assert hinge_discriminator(real, fake).item() == pytest.approx(0.5 * (0.25 + 0.75))
    assert hinge_generator(fake).item() == pytest.approx(1.25)  # lower where it is taken for real
    assert hinge_discriminator(torch.full_like(real, 1), torch.full_like(real, -1)).item() == 0


def test_the_adaptive_weight_is_the_ratio_of_the_pulls() -> None:
    last, h = torch.tensor([3.0, 4.0], requires_grad=True), torch.tensor([1.0, 2.0])
    reconstruction, adversarial = (last * h).sum() * 6, (last**2).sum() / 2  # gradients 6 h and last
    weight = adaptive_weight(reconstruction, adversarial, last)
    assert weight.item() == pytest.approx(6 * 5**0.5 / (5 + 1e-6))
    assert not weight.requires_grad
    assert adaptive_weight(reconstruction, adversarial * 0, last).item() == 1e4
    assert adaptive_weight(reconstruction * 0, adversarial, last).item() == 0


@pytest.mark.parametrize("part", ["adversarial", "discriminator"])
def test_neither_opponent_learns_from_the_others_part(part: str) -> None:
    task = game_of()
    loss = task.loss(task.net, task.work(batch_of(), 0))
    loss.parts[part].mean().backward()
    moved = {name.split(".")[0] for name, p in task.net.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"autoencoder" if part == "adversarial" else "discriminator"}


def test_the_game_begins_at_its_step_and_pulls_as_hard_as_the_likeness() -> None:
    task = game_of(game_from=3, adversarial=0.5)
    assert task.net.discriminator is not None
    before, after = (task.loss(task.net, task.work(batch_of(), step)) for step in (2, 3))
    assert before.parts.keys() == {"l1", "perceptual", "kl"}
    assert after.parts.keys() == {"l1", "perceptual", "kl", "adversarial", "discriminator"}
    last = task.net.autoencoder.decoder.conv_out.weight
    likeness = (after.parts["l1"] + after.parts["perceptual"]).mean()
    pulls = [
        torch.autograd.grad(p, last, retain_graph=True)[0].norm() for p in (likeness, after.parts["adversarial"].mean())
    ]
    torch.testing.assert_close(pulls[1], 0.5 * pulls[0], rtol=1e-3, atol=0)


def test_the_kl_is_beside_a_mean_what_it_is_beside_a_sum() -> None:
    net, x, noise = net_of("kl"), batch_of().x0, normal(2, 4, 4, 4)
    made, q = net.autoencode(x, noise), net.posterior(x)
    torch.testing.assert_close(made.penalties["kl"], q.kl() / (3 * 16 * 16))
    torch.testing.assert_close(made.pixels, net.reconstruct(q.sample(noise)))


def test_the_codebook_gives_the_nearest_code_and_passes_gradients_straight_through() -> None:
    net = net_of("vq", codes=11)
    assert isinstance(net, VQModel)
    with torch.no_grad():
        net.codebook.weight.copy_(normal(11, 4, key="codes"))
    x = batch_of().x0
    z = net.posterior(x).mean
    e = net.nearest(z)
    rows = z.movedim(1, -1).reshape(-1, 4)
    nearest = net.codebook.weight[torch.cdist(rows, net.codebook.weight).argmin(1)]
    torch.testing.assert_close(e.movedim(1, -1).reshape(-1, 4), nearest)
    made = net.autoencode(x, torch.zeros(2, 4, 4, 4))
    torch.testing.assert_close(made.pixels, net.reconstruct(z))
    for name in ("codebook", "commitment"):
        torch.testing.assert_close(made.penalties[name], (z - e).square().flatten(1).mean(1))
    encoder, codes = net.encoder.conv_in.weight, net.codebook.weight

    def moves(loss: Tensor) -> list[bool]:
        return [
            g is not None for g in torch.autograd.grad(loss, [encoder, codes], retain_graph=True, allow_unused=True)
        ]

    assert moves(made.penalties["codebook"].sum()) == [False, True]
    assert moves(made.penalties["commitment"].sum()) == [True, False]
    assert moves(made.pixels.sum()) == [True, False]
    leaf = e.detach().requires_grad_()
    expected = torch.autograd.grad(LatentAutoencoder.reconstruct(net, leaf).square().sum(), leaf)[0]
    bias = net.encoder.conv_out.bias
    assert bias is not None
    at_z = torch.autograd.grad(made.pixels.square().sum(), bias)[0]
    through_conv = F.conv2d(expected, net.quant_conv.weight.transpose(0, 1))  # type: ignore[arg-type]
    torch.testing.assert_close(at_z, through_conv.sum((0, 2, 3)), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_written_and_read_back_as_it_was(kind: str, tmp_path: Path) -> None:
    net = net_of(kind, channels=5).requires_grad_(False).eval()
    net.scale, net.shift = 0.7, 0.2
    save_autoencoder(net, tmp_path / "a")
    loaded, x = load_autoencoder(tmp_path / "a"), batch_of().x0
    assert loaded.identity == net.identity
    assert type(loaded) is type(net)
    assert loaded.latent_shape((3, 16, 16)) == (5, 4, 4)
    assert torch.equal(loaded.decode(loaded.encode(x)), net.decode(net.encode(x)))


def test_a_config_that_lacks_its_kinds_number_is_refused(tmp_path: Path) -> None:
    save_autoencoder(net_of("fast"), tmp_path / "a")
    config = tmp_path / "a" / "config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "patch_size"}))
    with pytest.raises(UserError, match=r"config\.json does not say 'patch_size'"):
        load_autoencoder(tmp_path / "a")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns(kind: str) -> None:
    images = load_images(open_source("digits"), progress=False)
    net = autoencoder(AutoencoderNetwork(kind, 4, 4, 16, 1, 64 if kind == "vq" else None), channels=1, seed=0)
    task = Autoencoding(Opponents(net, None), 0, PENALTIES, laplacian)
    records: list[dict[str, float]] = []
    settings = LoopSettings(steps=60, batch_size=16, lr=5e-3, warmup=5, log_every=10)
    steps = (batch(images, step=i, batch_size=16, seed=0) for i in itertools.count())
    Trainer(task, settings).run(steps, records.append, [])
    assert records[-1]["l1"] < 0.75 * records[0]["l1"]


def test_latents_are_brought_to_mean_0_and_deviation_1() -> None:
    images, net = load_images(open_source("digits"), progress=False), net_of("kl")
    net = autoencoder(AutoencoderNetwork("kl", 4, 4, 8, 1), channels=1, seed=0).requires_grad_(False)
    reconstructing.normalise(net, images)
    rows = reconstructing.spaced(len(images), reconstructing.MEASURED)
    x = images.draw(rows, torch.zeros_like(rows, dtype=torch.bool), 0)
    z = net.encode(x, normal(len(rows), 4, 2, 2))
    assert abs(z.mean().item()) < 0.05
    assert abs(z.std().item() - 1) < 0.05
    assert isinstance(net.posterior(x), Posterior)


def test_a_stopped_run_goes_on_to_the_bit(run: Path, pets: Path, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    made(train_autoencoder(pets, parts, "--data.heldout", 0.2, "--train.steps", 3))
    made(ditkit("train", "--resume", parts, "--train.steps", 4))
    assert_same_tensors(weights(parts), weights(run))
    assert losses(parts) == losses(run)
    assert load_autoencoder(parts).identity == load_autoencoder(run).identity


def test_a_run_has_what_every_run_has_and_is_told_and_measured(run: Path) -> None:
    assert {p.name for p in run.iterdir()} >= {"recipe.yaml", "log.jsonl", "checkpoints", "autoencoder", "samples"}
    said = made(ditkit("info", run)).out
    assert "kind           autoencoder" in said
    said = made(ditkit("report", run)).out
    page = (run / "report.html").read_text()
    for word in ("Reconstructions", "24 held-out images", "Latents by channel", "perceptual term: laplacian"):
        assert word in page
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"psnr", "rfrechet_distance", "latents", "protocol"} <= metrics.keys()
    assert metrics["psnr"]["samples"] == 24
    assert len(metrics["latents"]["mean"]) == len(metrics["latents"]["std"]) == 4
    assert metrics["protocol"]["perceptual"] == "laplacian"
    assert "psnr" in made(ditkit("evaluate", run, "--num", 8)).out
    said = ditkit("evaluate", run, "--reference", "digits")
    assert said.code == 2
    assert "--reference digits" in said.err[0]


def test_a_report_shows_reconstructions_of_all_classes(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(reconstructing, "metrics_of", lambda *_: {"latents": {"mean": [], "std": []}})
    monkeypatch.setattr(reconstructing, "write_json", lambda *_: None)
    monkeypatch.setattr(reconstructing, "write_report", lambda path, data, sections: shown.append(data))
    monkeypatch.setattr(reconstructing, "SHOWN", 3)
    reconstructing.report(run, device=None, command="")
    images, made_of = reconstructing.load(run, None).images, shown[0].pairs
    assert torch.equal(made_of[0], images[[0, 11, 23]])  # of 24, which come class by class
    assert len(made_of[1]) == 3


def test_lpips_and_the_other_metrics_of_reconstructions_have_errors(tmp_path: Path, monkeypatch: Any) -> None:
    folder = draw_images(tmp_path / "wide", [f"{i}.png" for i in range(30)], size=(16, 16))
    made(train_autoencoder(folder, tmp_path / "r", "--train.steps", 2))
    monkeypatch.setattr(published, "hub_checkpoints", lambda: tmp_path)
    for variable in (VGG.variable, HEADS.variable):
        monkeypatch.delenv(variable, raising=False)
    said = made(ditkit("evaluate", tmp_path / "r")).out
    assert f"not measured: lpips: no weights for the feature network 'lpips': expected the file {VGG.file}" in said
    vgg, heads = made_up_lpips()
    torch.save(vgg, tmp_path / VGG.file)
    torch.save(heads, tmp_path / HEADS.file)
    said = made(ditkit("evaluate", tmp_path / "r")).out
    metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
    assert "not measured" not in said
    assert metrics["lpips"]["value"] > 0
    for name in ("psnr", "ssim", "lpips", "rfrechet_distance"):
        assert metrics[name]["standard_error"] > 0, name
        assert metrics[name]["error_from"], name


def test_training_says_how_like_the_reconstructions_are(run: Path, pets: Path, tmp_path: Path) -> None:
    told = [r for r in open_run(run, AutoencoderRecipe).records() if r.get("event") == "reconstructed"]
    assert [r["step"] for r in told] == [2, 4]
    assert {r["images"] for r in told} == {"24 held-out images"}
    measured = reconstructing.load(run, "cpu")
    assert told[-1]["psnr"] == pytest.approx(psnr(measured.images, measured.made).mean().item(), abs=1e-4)
    said = made(train_autoencoder(pets, tmp_path / "r", "--train.steps", 1)).out
    assert re.search(r"^step 1: PSNR \d+\.\d\d dB of 32 images that it learns from$", said, re.MULTILINE)
    assert f"ditkit report {tmp_path / 'r'}" in said


@torch.no_grad()
def test_the_use_of_a_codebook_is_told() -> None:
    assert perplexity(torch.tensor([5, 5, 0, 5, 5])).item() == pytest.approx(4)
    assert perplexity(torch.tensor([0, 9])).item() == pytest.approx(1)
    net = net_of("vq", codes=6)
    assert isinstance(net, VQModel)
    net.codebook.weight[:] = torch.arange(6)[:, None] * 100.0 + 1000  # far away but for two codes
    net.codebook.weight[1], net.codebook.weight[4] = -1e-3, 1e-3
    pixels = (255 * torch.rand((70, 3, 16, 16), generator=generator(0, "pixels"))).to(torch.uint8)
    indices = net.indices(net.posterior(from_uint8(pixels)).mean)
    assert set(indices.unique().tolist()) == {1, 4}
    share = (indices == 1).double().mean()
    said = reconstructing.codebook(net, pixels)
    assert said["codebook_dead"] == pytest.approx(4 / 6)
    expected = torch.exp(-share * share.log() - (1 - share) * (1 - share).log())
    assert said["codebook_perplexity"] == pytest.approx(expected.item(), rel=1e-5)
    assert reconstructing.codebook(net_of("kl"), pixels) == {}


def test_the_log_names_the_perplexity_of_a_codebook() -> None:
    for task in (game_of("vq"), game_of("vq", game_from=9)):
        notes = task.loss(task.net, task.work(batch_of(), 0)).notes
        assert 1 <= notes["codebook_perplexity"].item() <= 2 * 4 * 4
    assert "codebook_perplexity" not in (kl := game_of()).loss(kl.net, kl.work(batch_of(), 0)).notes


def test_the_run_is_named_wherever_an_autoencoder_is(run: Path, pets: Path, tmp_path: Path) -> None:
    identity = load_autoencoder(run).identity
    made(ditkit("encode", "--data", pets, "--autoencoder", run, "--out", tmp_path / "store", "--device", "cpu"))
    assert load_autoencoder(tmp_path / "store").identity == identity
    patch = ["--model.patch-size", 1]
    made(train(tmp_path / "store", tmp_path / "of-store", *patch))
    made(train(pets, tmp_path / "of-pixels", "--data.autoencoder", run, *patch))
    for folder in ("of-store", "of-pixels"):
        assert identity in made(ditkit("info", tmp_path / folder)).out


def test_of_auto_lpips_is_taken_where_its_weights_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "hub_checkpoints", lambda: tmp_path)
    for name in (VGG.variable, HEADS.variable):
        monkeypatch.delenv(name, raising=False)
    assert settled("auto") == "laplacian"
    for name in (VGG.file, HEADS.file):
        (tmp_path / name).write_bytes(b"")
    assert settled("auto") == "lpips"
    assert settled("none") == "none"


def test_the_recipe_says_which_perceptual_term_it_was(run: Path) -> None:
    assert "perceptual: laplacian" in (run / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--factor", 3], "factor 3 of an autoencoder is no power of 2"),
        (["--factor", 16], "not divisible by the autoencoder's factor 16"),
        (["--network.autoencoder", "kk"], "unknown autoencoder 'kk'"),
        (["--network.codes", 8], "codes"),
        (["--data.autoencoder", "x"], "learns from images"),
        (["--train.compile"], "--train.compile"),
        (["--loss.perceptual", "lpips"], "no weights for the feature network 'lpips'"),
        (["--loss.discriminator-layers", 3], "images of 8x8 are too small"),
    ],
)
def test_bad_input_is_refused_before_a_folder_is_made(
    args: list[object], reason: str, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "hub_checkpoints", lambda: tmp_path)
    said = train_autoencoder(pets, tmp_path / "r", *args)
    assert said.code == 2
    assert reason in said.err[-1]
    assert not (tmp_path / "r").exists()


def test_a_discriminator_that_never_plays_asks_for_no_larger_images(pets: Path, tmp_path: Path) -> None:
    large = ["--loss.discriminator-layers", 2]  # sees 12 pixels, of 8
    made(train_autoencoder(pets, tmp_path / "r", *large, "--train.steps", 2, "--loss.game-from", 2))
    said = ditkit("train-autoencoder", "--resume", tmp_path / "r", "--train.steps", 3)
    assert said.code == 2
    assert "images of 8x8 are too small" in said.err[-1]
    made(ditkit("train-autoencoder", "--resume", tmp_path / "r"))  # as it was


def test_runs_and_recipes_of_other_kinds_are_refused(run: Path, pets: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="describes an autoencoder: expected a denoiser"):
        load_recipe("autoencoder_mnist")
    assert load_recipe("digits", AutoencoderRecipe).data == load_recipe("digits").data
    said = ditkit("sample", run)
    assert said.code == 2
    assert "describes an autoencoder: expected a denoiser" in said.err[0]
    made(train(pets, tmp_path / "dit", *TINY))
    with pytest.raises(UserError, match="has no autoencoder"):
        load_autoencoder(tmp_path / "dit")


def test_a_discriminator_judges_the_least_size_it_says() -> None:
    for layers in (1, 2, 3):
        side = smallest(layers)
        assert PatchDiscriminator(1, 4, layers)(torch.zeros(1, 1, side, side)).numel() > 0


def test_the_error_of_a_distance_of_reconstructions_is_that_of_drawing_other_pairs() -> None:
    def drawn(seed: int, n: int = 200) -> tuple[Side, Side]:
        x = torch.randn(n, 4, generator=generator(seed, "test.pairs"))
        sides = Side(n), Side(n)
        for side, features in zip(sides, (x, 1.5 * x), strict=True):
            side.held["features"] = Rows()
            side["features"].update(features, torch.arange(n))
        return sides

    distances = [frechet_distance(*(side["features"].rows for side in drawn(seed))) for seed in range(200)]
    spread = torch.tensor(distances).std().item()
    stated = [reconstructing._error_of_pairs(*drawn(seed))["standard_error"] for seed in range(40)]
    assert 0.75 < sum(stated) / len(stated) / spread < 1.3
    assert reconstructing._error_of_pairs(*drawn(0, 19)) == {}
