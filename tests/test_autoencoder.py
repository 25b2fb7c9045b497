"""Autoencoders: the network and its posterior, loading published files, training and sampling in a latent space."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ditkit.app import build, training
from ditkit.app.commands import info
from ditkit.app.drawn import save_samples
from ditkit.app.model import Model as TrainedModel
from ditkit.app.model import load_model
from ditkit.app.recipe import Data, Model, Recipe, Sampling
from ditkit.app.recipe_files import load_recipe
from ditkit.app.run import Run, open_run
from ditkit.base.errors import UserError
from ditkit.convert.autoencoder import build_autoencoder, load_autoencoder
from ditkit.convert.autoencoder_diffusers import DiffusersAutoencoder
from ditkit.convert.autoencoder_layout import AutoencoderLayout
from ditkit.convert.autoencoder_ldm import LDMAutoencoder
from ditkit.convert.autoencoder_places import CONFIG, WEIGHTS
from ditkit.data.loading import load_images
from ditkit.data.source import open_source
from ditkit.encoders import autoencoder as module
from ditkit.encoders.autoencoder import AutoencoderKL, Identity, Posterior, Whitened, encode_keyed, posterior_noise
from ditkit.encoders.autoencoder_blocks import Downsample
from ditkit.train.settings import TrainSettings
from tests.storing import GROUPS, normal, pixels, tiny, write


def test_identity_is_exact() -> None:
    autoencoder, x = load_autoencoder(None), pixels(2, 1, 5, 7)
    assert isinstance(autoencoder, Identity)
    assert autoencoder.latent_shape((1, 5, 7)) == (1, 5, 7)
    assert torch.equal(autoencoder.decode(autoencoder.encode(x, x)), x)
    recipe = Recipe()
    assert build.encode(recipe, autoencoder) is None  # pixel space costs nothing in training


@pytest.mark.parametrize(("changes", "factor"), [({}, 4), ({"widths": (8, 8), "latent_channels": 6, "channels": 1}, 2)])
@torch.no_grad()
def test_shapes_and_finite_round_trip(changes: dict[str, Any], factor: int) -> None:
    net = tiny(**changes)
    shape = (net.channels, 16, 24)
    latents = net.encode(pixels(3, *shape))
    assert latents.shape[1:] == net.latent_shape(shape) == (net.latent_channels, 16 // factor, 24 // factor)
    back = net.decode(latents)
    assert back.shape == (3, *shape)
    assert latents.isfinite().all()
    assert back.isfinite().all()
    assert back.std() > 0


def test_published_size() -> None:
    """Stable Diffusion's KL-f8 and Flux's autoencoder."""
    with torch.device("meta"):
        sd, flux = AutoencoderKL(), AutoencoderKL(latent_channels=16, quant_conv=False, scale=0.3611, shift=0.1159)
    assert sum(p.numel() for p in sd.parameters()) == 83_653_863
    assert sum(p.numel() for p in flux.parameters()) == 83_819_683
    assert sd.latent_shape((3, 256, 256)) == (4, 32, 32)


@torch.no_grad()
def test_latents_are_normalised_posterior_samples() -> None:
    net, x = tiny(scale=0.7, shift=0.3), pixels(2, 3, 8, 8)
    noise = normal(2, 4, 2, 2)
    q = net.posterior(x)
    torch.testing.assert_close(net.encode(x), (q.mean - 0.3) * 0.7)
    torch.testing.assert_close(net.encode(x, noise), (q.mean + torch.exp(q.log_var / 2) * noise - 0.3) * 0.7)
    torch.testing.assert_close(net.decode(net.encode(x)), net.reconstruct(q.mean))


@torch.no_grad()
def test_downsampling_pads_right_and_below() -> None:
    layer, x = Downsample(1), pixels(1, 1, 4, 6)
    for corner, taken in ((0, x[..., 0::2, 0::2]), (1, x[..., 1::2, 1::2])):
        for value in layer.parameters():
            value.zero_()
        layer.conv.weight[..., corner, corner] = 1
        assert torch.equal(layer(x), taken)


def test_posterior_divergence_and_likelihood() -> None:
    q = Posterior.of(torch.cat([normal(2, 3, 4, 4), 50 * normal(2, 3, 4, 4, seed=1)], dim=1))
    assert q.log_var.min() == -30
    assert q.log_var.max() == 20
    q = Posterior(q.mean, q.log_var.clamp(-3, 3))
    gaussian = torch.distributions.Normal(q.mean, q.std)
    z, standard = normal(2, 3, 4, 4, seed=2), torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    torch.testing.assert_close(q.nll(z), -gaussian.log_prob(z).sum((1, 2, 3)))
    torch.testing.assert_close(q.kl(), torch.distributions.kl_divergence(gaussian, standard).sum((1, 2, 3)))


@torch.no_grad()
def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, noise = tiny(), pixels(5, 3, 8, 8), normal(5, 4, 2, 2)
    whole, decoded = net.encode(x, noise), net.decode(noise)
    assert torch.equal(torch.cat([net.decode(noise[:2]), net.decode(noise[2:])]), decoded)
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 2 * 64)
    torch.testing.assert_close(net.encode(x, noise), whole)


@torch.no_grad()
def test_training_noise_is_keyed_by_seed_epoch_and_image() -> None:
    net, x = tiny(), pixels(1, 3, 8, 8).expand(4, -1, -1, -1)
    keys = torch.tensor([[0, 5], [0, 6], [1, 5], [5, 0]])
    first = encode_keyed(net, x, 7, keys)
    torch.manual_seed(0)
    assert torch.equal(encode_keyed(net, x, 7, keys), first)
    parts = [encode_keyed(net, x[:1], 7, key[None]) for key in keys]
    torch.testing.assert_close(torch.cat(parts), first)  # whatever they share a batch with
    drawn = [*first, *encode_keyed(net, x, 8, keys), net.encode(x[:1])[0]]
    assert not any(torch.allclose(a, b) for a, b in itertools.combinations(drawn, 2))
    assert posterior_noise((4, 2, 2), 7, keys[:0]).shape == (0, 4, 2, 2)


@pytest.mark.parametrize("layout", [DiffusersAutoencoder, LDMAutoencoder])
@pytest.mark.parametrize("quant_conv", [True, False])
def test_layouts_both_ways(layout: type[AutoencoderLayout], quant_conv: bool) -> None:
    net = tiny(quant_conv=quant_conv, latent_channels=2, blocks=2)
    theirs = layout.from_ditkit(net.state_dict())
    attention = [x.dim() for k, x in theirs.items() if "att" in k and k.endswith("weight") and "norm" not in k]
    assert attention == [2 if layout is DiffusersAutoencoder else 4] * 8
    loaded = build_autoencoder(theirs, "test", groups=GROUPS, scale=net.scale)
    x = pixels(1, 3, 8, 8)
    assert torch.equal(loaded.encode(x), net.encode(x))
    assert torch.equal(loaded.decode(loaded.encode(x)), net.decode(net.encode(x)))
    assert loaded.identity == net.identity


def test_decoder_stages_are_numbered_as_published() -> None:
    state = tiny().state_dict()
    diffusers, ldm = DiffusersAutoencoder.from_ditkit(state), LDMAutoencoder.from_ditkit(state)
    assert [i for i in range(3) if f"decoder.up_blocks.{i}.upsamplers.0.conv.bias" in diffusers] == [0, 1]
    assert [i for i in range(3) if f"decoder.up.{i}.upsample.conv.bias" in ldm] == [1, 2]


def test_names_of_older_diffusers_files() -> None:
    net = tiny()
    theirs = DiffusersAutoencoder.from_ditkit(net.state_dict())
    spelling = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for new, old in spelling.items():
        theirs = {k.replace(f".{new}.", f".{old}."): v for k, v in theirs.items()}
    assert "encoder.mid_block.attentions.0.query.weight" in theirs
    assert build_autoencoder(theirs, "test", groups=GROUPS).identity == net.identity


def test_identity_names_weights_and_statistics() -> None:
    net = tiny()
    other = tiny()
    next(other.decoder.conv_out.parameters())[0] += 1e-3
    assert net.identity == tiny().identity
    assert len({net.identity, other.identity, tiny(scale=0.2).identity, tiny(shift=0.2).identity}) == 4


def test_folder_and_file_are_loaded_frozen(tmp_path: Path) -> None:
    net = tiny(scale=0.5, shift=0.25)
    folder = write(tmp_path / "vae", net)
    for spec in (folder, str(folder / WEIGHTS)):
        loaded = load_autoencoder(spec)
        assert isinstance(loaded, AutoencoderKL)
        assert loaded.identity == net.identity
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
    lone = tmp_path / "half.safetensors"
    state = DiffusersAutoencoder.from_ditkit(tiny(groups=32, widths=(32, 32)).state_dict())
    save_file({k: v.half() for k, v in state.items()}, lone)
    loaded = load_autoencoder(lone)
    assert isinstance(loaded, AutoencoderKL)
    assert (loaded.scale, loaded.shift, loaded.factor) == (0.18215, 0.0, 2)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def drop(folder: Path, name: str) -> None:
    (folder / name).unlink()


def cut(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def change(folder: Path, **changes: Tensor | None) -> None:
    state = DiffusersAutoencoder.from_ditkit(tiny().state_dict())
    for name, value in changes.items():
        key = name.replace("__", ".")
        state.pop(key, None)
        if value is not None:
            state[key] = value
    save_file({k: v.contiguous() for k, v in state.items()}, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: drop(f, CONFIG), ["lacks config.json", "put the published config.json into"]),
        (lambda f: drop(f, WEIGHTS), [f"lacks {WEIGHTS}"]),
        (cut, [WEIGHTS, "cannot be read"]),
        (lambda f: (f / CONFIG).write_text("{"), [CONFIG, "cannot be read"]),
        (lambda f: write(f, tiny(), _class_name="VAE"), ["_class_name 'VAE'", "AutoencoderKL"]),
        (lambda f: write(f, tiny(), norm_num_groups=5), ["width 8", "5 norm groups"]),
        (lambda f: save_file({"a": torch.zeros(1)}, f / WEIGHTS), ["known layout", "keys: a"]),
        (lambda f: change(f, decoder__conv_out__bias=None), ["decoder.conv_out.bias is missing"]),
        (lambda f: change(f, decoder__conv_in__weight=None), ["decoder.conv_in.weight", "missing"]),
        (lambda f: change(f, encoder__conv_in__extra=torch.zeros(1)), ["encoder.conv_in.extra is one too many"]),
        (lambda f: change(f, encoder__new__weight=torch.zeros(1)), ["encoder.new.weight", "no place"]),
        (lambda f: change(f, decoder__conv_out__bias=torch.zeros(2)), ["decoder.conv_out.bias has shape (2,)"]),
        (lambda f: write(f, tiny(), scaling_factor="x"), ["scaling_factor 'x'", "a number above 0"]),
        (lambda f: write(f, tiny(), scaling_factor=0), ["scaling_factor 0", "a number above 0"]),
        (lambda f: write(f, tiny(), scaling_factor=float("nan")), ["scaling_factor nan", "a number above 0"]),
        (lambda f: write(f, tiny(), shift_factor=[1]), ["shift_factor [1]", "expected a number"]),
        (lambda f: write(f, tiny(), norm_num_groups="4"), ["norm_num_groups '4'", "whole number of 1 or more"]),
        (lambda f: write(f, tiny(), _class_name=["VAE"]), ["_class_name ['VAE']", "AutoencoderKL"]),
        (lambda f: write(f, tiny(), _class_name="PatchAutoencoderKL", patch_size=0), ["patch_size 0", "whole number"]),
        (lambda f: write(f, tiny(), _class_name="PatchAutoencoderKL", patch_size=4), ["patch_size 4", "take 3"]),
        (lambda f: change(f, encoder__conv_in__weight=torch.zeros(3)), ["do not fit together", "copy it anew"]),
        (lambda f: change(f, decoder__conv_in__weight=torch.zeros(())), ["do not fit together", "copy it anew"]),
        (
            lambda f: change(f, decoder__conv_out__bias=torch.full((3,), float("nan"))),
            ["decoder.conv_out.bias", "finite"],
        ),
        (lambda f: change(f, decoder__conv_out__bias=torch.zeros(3).long()), ["decoder.conv_out.bias", "torch.int64"]),
        (lambda f: write(f, tiny(latent_channels=6), scaling_factor=None), ["scale of its 6 latent", "scaling_factor"]),
    ],
)
def test_a_bad_folder_gets_one_line(tmp_path: Path, damage: Any, words: list[str]) -> None:
    folder = write(tmp_path / "vae", tiny())
    damage(folder)
    with pytest.raises(UserError) as error:
        load_autoencoder(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)
    for part in words:
        assert part in str(error.value)


def test_images_that_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"30x16 .* factor 4.* 32 16"):
        tiny().latent_shape((3, 30, 16))
    with pytest.raises(UserError, match=r"1 channels.*--data.channels 3"):
        tiny().latent_shape((1, 16, 16))


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A tiny run in latent space: 16x16 images of two classes, latents of 4x4x4."""
    for i in range(6):
        folder = tmp_path / "images" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image = (127.5 * (pixels(16, 16, 3, seed=i) + 1)).to(torch.uint8)
        Image.fromarray(image.numpy()).save(folder / f"{i}.png")
    autoencoder = write(tmp_path / "vae", tiny())
    return Recipe(
        data=Data(source=str(tmp_path / "images"), autoencoder=str(autoencoder), flip=True),
        model=Model(patch_size=2, width=16, depth=1, heads=2),
        train=TrainSettings(steps=3, batch_size=4, device="cpu", log_every=1, sample_every=2, checkpoint_every=2),
        sample=Sampling(steps="2"),
    )


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in open_run(run).records() if "loss" in record]


def test_training_and_sampling_in_latent_space(recipe: Recipe, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "run"
    assert training.start(recipe, out) is None
    model = load_model(open_run(out))
    assert model.latent_shape == (4, 4, 4)
    assert model.shape == (3, 16, 16)
    assert model.facts["autoencoder"] == tiny().identity
    labels = model.labels(3)
    assert labels is not None
    images = model.draw(range(3), labels, recipe.sample)
    assert images.shape == (3, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert images.float().std() > 0
    alone = model.draw([2], labels[2:], recipe.sample)
    assert torch.equal(alone[0], images[2])
    with Image.open(out / "samples" / "step-0000003.png") as grid:
        assert grid.size == (2 * 18 - 2, 8 * 18 - 2)
    info.main([str(out)])
    said = capsys.readouterr().out
    assert "6 images of 16x16x3" in said
    assert tiny().identity in said


COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (1, 128, 254)]


@torch.no_grad()
def test_latents_of_pure_colours_become_pngs_of_these_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From picture files to PNG files through an autoencoder that moves pixels into channels, and nothing else."""
    net = tiny(widths=(8, 8), latent_channels=12, quant_conv=False, scale=0.7, shift=0.3)
    for half, name, function in (
        (net.encoder, "descend", lambda x: F.pixel_unshuffle(x, 2)),
        (net.encoder, "through_middle", lambda h: torch.cat([h, torch.full_like(h, -30)], 1)),
        (net.decoder, "through_middle", lambda h: h),
        (net.decoder, "ascend", lambda h: F.pixel_shuffle(1.5 * h, 2)),  # beyond [-1, 1], as decoders go at times
    ):
        monkeypatch.setattr(half, name, function)
    for i, colour in enumerate(COLOURS):
        Image.new("RGB", (8, 6), colour).save(tmp_path / f"{i}.png")
    images = load_images(open_source(str(tmp_path)), progress=False)
    x = images.draw(torch.arange(6), torch.zeros(6, dtype=torch.bool), 0)
    facts = {"image_shape": [3, 6, 8], "classes": []}
    whitened = Whitened(net, (0.5,) * 12, (2.0,) * 12)
    model = TrainedModel(Run(tmp_path, Recipe()), 0, facts, None, whitened, torch.device("cpu"))  # type: ignore[arg-type]
    made = model.pixels(whitened.encode(x, normal(6, 12, 3, 4)))
    save_samples(tmp_path / "out", made, range(6), None, npz=False)
    for i, colour in enumerate(COLOURS):
        expected = tuple(round(min(max(1.5 * (value - 127.5) + 127.5, 0), 255)) for value in colour)
        with Image.open(tmp_path / "out" / f"seed{i:06d}.png") as picture:
            assert (picture.mode, picture.size) == ("RGB", (8, 6))
            drawn = torch.from_numpy(np.array(picture)).flatten(0, 1).int()
        assert (drawn - torch.tensor(expected)).abs().max() <= 1, (colour, drawn[0])


def test_a_resumed_run_draws_the_same_latents(recipe: Recipe, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    training.start(recipe, whole)
    training.start(dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, steps=1)), parts)
    training.resume(parts, {"steps": 3})
    assert losses(parts) == losses(whole)


def test_another_autoencoder_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    out, other = tmp_path / "run", tiny(seed=1)
    training.start(recipe, out)
    before = (out / "log.jsonl").read_bytes()
    write(tmp_path / "vae", other)
    for use in (lambda: load_model(open_run(out)), lambda: training.resume(out, {})):
        with pytest.raises(UserError) as error:
            use()
        assert tiny().identity in str(error.value)
        assert other.identity in str(error.value)
    assert (out / "log.jsonl").read_bytes() == before


def test_a_missing_autoencoder_is_said_first(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "run"
    data = dataclasses.replace(recipe.data, autoencoder=str(tmp_path / "none"), source=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"none does not exist: put .* --data.autoencoder"):
        training.start(dataclasses.replace(recipe, data=data), out)
    assert not out.exists()


def test_the_recipe_of_the_paper() -> None:
    recipe = load_recipe("imagenet256_dit")
    with torch.device("meta"):
        channels, *size = AutoencoderKL().latent_shape((3, 256, 256))
        facts = {"input_size": size, "channels": channels, "classes": [""] * 1000}
        net: Any = build.network(recipe.model, recipe.process, facts)
    assert sum(p.numel() for p in net.parameters()) == 675_129_632 - 256 * 1152  # published, less the fixed positions
    assert (net.input_size, net.patch_size, net.learned_variance) == ((32, 32), 2, True)
    build.objective(recipe.process)
    build.solver(recipe.sample)
