"""Published autoencoders: names of the hub, folders of pipelines, whole checkpoints, and each its own scale."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.convert.autoencoder import load_autoencoder
from ditkit.convert.autoencoder_diffusers import DiffusersAutoencoder
from ditkit.convert.autoencoder_layout import AutoencoderLayout
from ditkit.convert.autoencoder_ldm import LDMAutoencoder
from ditkit.convert.autoencoder_places import CONFIG, WEIGHTS
from ditkit.convert.files import read_state
from ditkit.encoders.autoencoder import AutoencoderKL, LatentAutoencoder
from tests.running import TINY, ditkit, made
from tests.storing import GROUPS, tiny, write

NAME = "maker/vae-ft"
_OLDER = {"_class_name": "AutoencoderKL", "act_fn": "silu", "sample_size": 256, "layers_per_block": 1}
_NEWER = {**_OLDER, "force_upcast": True, "latents_mean": None, "latents_std": None, "mid_block_add_attention": True}
_BARE = {"use_quant_conv": False, "use_post_quant_conv": False}
PUBLISHED: dict[str, tuple[dict[str, Any], int, float, float]] = {
    "SD 1 and 2": (_OLDER, 4, 0.18215, 0.0),  # its config.json does not say the scale
    "SDXL": ({**_NEWER, "scaling_factor": 0.13025}, 4, 0.13025, 0.0),
    "SD 3": ({**_NEWER, **_BARE, "scaling_factor": 1.5305, "shift_factor": 0.0609}, 16, 1.5305, 0.0609),
    "Flux": ({**_NEWER, **_BARE, "scaling_factor": 0.3611, "shift_factor": 0.1159}, 16, 0.3611, 0.1159),
}
"""What config.json says of each but the widths; channels of the latents, scale, shift."""


def loaded(spec: object) -> LatentAutoencoder:
    net = load_autoencoder(str(spec))
    assert isinstance(net, LatentAutoencoder)
    return net


@pytest.mark.parametrize("layout", [DiffusersAutoencoder, LDMAutoencoder])
@pytest.mark.parametrize("model", PUBLISHED)
@torch.no_grad()
def test_published_kinds_have_their_channels_and_statistics(
    model: str, layout: type[AutoencoderLayout], tmp_path: Path
) -> None:
    config, channels, scale, shift = PUBLISHED[model]
    net = tiny(latent_channels=channels, quant_conv=channels == 4, scale=scale, shift=shift)
    folder = write(tmp_path / "vae", net, layout, **config, latent_channels=channels, norm_num_groups=GROUPS)
    if "scaling_factor" not in config:
        text = (folder / CONFIG).read_text()
        (folder / CONFIG).write_text(text.replace(f'"scaling_factor": {scale}, "shift_factor": null, ', ""))
        assert "scaling_factor" not in (folder / CONFIG).read_text()
    read, x = loaded(folder), torch.linspace(-1, 1, 3 * 16 * 8).view(1, 3, 16, 8)
    assert (read.latent_channels, read.scale, read.shift) == (channels, scale, shift)
    assert read.latent_shape((3, 16, 8)) == (channels, 4, 2)
    assert read.identity == net.identity
    assert torch.equal(read.decode(read.encode(x)), net.decode(net.encode(x)))


def whole_checkpoint(net: AutoencoderKL, rest: str) -> dict[str, Tensor]:
    """A checkpoint of a pipeline: the autoencoder as its first stage, and a key of the rest."""
    first = {f"first_stage_model.{k}": v.contiguous() for k, v in LDMAutoencoder.from_ditkit(net.state_dict()).items()}
    return {**first, rest: torch.ones(1), "model.diffusion_model.out.2.bias": torch.ones(1)}


@pytest.mark.parametrize(
    ("rest", "model"),
    [
        ("cond_stage_model.transformer.text_model.embeddings.position_ids", "SD 1 and 2"),
        ("conditioner.embedders.1.model.logit_scale", "SDXL"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.bias", "SD 3"),
    ],
)
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_the_first_stage_of_a_whole_checkpoint(rest: str, model: str, suffix: str, tmp_path: Path) -> None:
    _, channels, scale, shift = PUBLISHED[model]
    net = tiny(widths=(32, 32), latent_channels=channels, quant_conv=channels == 4, groups=32, scale=scale, shift=shift)
    state, path = whole_checkpoint(net, rest), tmp_path / f"whole{suffix}"
    if suffix == ".ckpt":
        torch.save({"state_dict": state, "global_step": 7}, path)
    else:
        save_file(state, path)
    assert loaded(path).identity == net.identity


def test_what_an_autoencoder_s_own_training_keeps_is_left_behind(tmp_path: Path) -> None:
    net = tiny(widths=(32, 32), groups=32)
    state = LDMAutoencoder.from_ditkit(net.state_dict())
    extra = {"loss.logvar": torch.zeros(()), "model_ema.decay": torch.zeros(())}
    torch.save({"state_dict": state | extra}, tmp_path / "kl-f8.ckpt")
    assert loaded(tmp_path / "kl-f8.ckpt").identity == net.identity
    torch.save({"state_dict": state | {"other.weight": torch.zeros(1)}}, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match=r"odd\.ckpt: weight 'other\.weight' has no place"):
        load_autoencoder(tmp_path / "odd.ckpt")


def test_objects_of_other_programs_in_a_file_are_passed_over_and_run_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[object] = []
    trainer = types.ModuleType("some_trainer")

    class Callback:
        __module__, __qualname__ = "some_trainer", "Callback"

        def __setstate__(self, state: object) -> None:
            ran.append(state)

    class Hostile:
        def __reduce__(self) -> Any:
            return exec, ("import some_trainer; some_trainer.hurt()",)

    trainer.Callback, trainer.hurt = Callback, lambda: ran.append("hurt")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_trainer", trainer)
    callback = Callback()
    callback.best = 1.0  # type: ignore[attr-defined]
    kept = {"callbacks": {Callback: {"best": torch.ones(1)}}, "one": callback, "hostile": Hostile()}
    torch.save({**kept, "state_dict": {"a": torch.ones(2)}}, tmp_path / "x.ckpt")
    monkeypatch.delitem(sys.modules, "some_trainer")
    assert read_state(tmp_path / "x.ckpt")["a"].tolist() == [1, 1]
    assert not ran


def test_a_config_of_other_weights_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "vae", tiny(), latent_channels=16, scaling_factor=1.5305)
    with pytest.raises(UserError, match=r"latent_channels 16, the weights have 4: put the config\.json of these there"):
        load_autoencoder(folder)
    write(folder, tiny(), block_out_channels=[8, 12, 24])
    with pytest.raises(UserError, match=r"block_out_channels \[8, 12, 24\], the weights have \[8, 12, 16\]"):
        load_autoencoder(folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, from which nothing can be fetched."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "hub"


def snapshot(hub: Path, name: str) -> Path:
    """The folder in which the hub's cache keeps a repository."""
    kept = hub / f"models--{name.replace('/', '--')}"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0123abcd")
    return kept / "snapshots" / "0123abcd"


def test_a_name_is_found_in_the_cache(hub: Path) -> None:
    net = tiny()
    write(snapshot(hub, NAME), net)
    assert loaded(NAME).identity == net.identity
    other = tiny(seed=1)
    write(snapshot(hub, "maker/pipeline") / "vae", other)
    assert loaded("maker/pipeline").identity == loaded("maker/pipeline/vae").identity == other.identity
    here = tiny(seed=2)
    write(Path(NAME), here)  # what is here comes first
    assert loaded(NAME).identity == here.identity


def test_a_pipelines_folder_has_it_in_vae(tmp_path: Path) -> None:
    net = tiny()
    write(tmp_path / "pipeline" / "vae", net)
    assert loaded(tmp_path / "pipeline").identity == net.identity


def test_a_name_can_be_given_wherever_an_autoencoder_is(hub: Path, pets: Path, tmp_path: Path) -> None:
    net = tiny(widths=(8, 16), channels=1)
    write(snapshot(hub, NAME), net)
    made(ditkit("encode", "--data", pets, "--autoencoder", NAME, "--out", "store", "--device", "cpu"))
    made(ditkit("train", "--data", pets, "--data.autoencoder", NAME, "--out", "run", *TINY, "--train.steps", 1))
    assert f'"spec": "{NAME}"' in Path("store/manifest.json").read_text()
    assert f"autoencoder: {NAME}" in Path("run/recipe.yaml").read_text()
    assert net.identity in made(ditkit("info", "run")).out
    assert loaded("store").identity == net.identity


@pytest.mark.parametrize(
    ("name", "files"),
    [
        (NAME, f"put {CONFIG} and {WEIGHTS} (of a pipeline vae/{CONFIG} and vae/{WEIGHTS}) there"),
        (f"{NAME}/deep/vae", f"put deep/vae/{CONFIG} and deep/vae/{WEIGHTS} there"),
    ],
)
def test_a_name_that_is_nowhere_gets_the_files_to_fetch(name: str, files: str, hub: Path) -> None:
    snapshot(hub, NAME).mkdir(parents=True)  # a copy without these files
    with pytest.raises(UserError) as error:
        load_autoencoder(name)
    said = str(error.value)
    assert said.startswith(f"autoencoder {name} is neither here nor in the hub's cache")
    for words in (files, f"hf download {NAME}", "--data.autoencoder", "pip install 'ditkit[pretrained]'"):
        assert words in said


def test_a_misspelt_path_is_no_name(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for path in ("runs/none", "./runs/none", "none", str(tmp_path / "none")):
        with pytest.raises(UserError, match=r"does not exist: put a folder .*--data\.autoencoder"):
            load_autoencoder(path)


def test_a_name_is_fetched_where_the_extra_is_there(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def snapshot_download(repository: str, *, allow_patterns: list[str]) -> str:
        asked.append((repository, allow_patterns))
        if repository == "maker/gated":
            raise PermissionError("401: accept the licence")
        return str(write(snapshot(hub, repository), tiny()))

    fake = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)  # type: ignore[arg-type]
    assert loaded(NAME).identity == tiny().identity
    assert asked == [(NAME, [CONFIG, WEIGHTS, f"vae/{CONFIG}", f"vae/{WEIGHTS}"])]
    assert loaded(NAME).identity == tiny().identity
    assert len(asked) == 1  # then it is in the cache
    with pytest.raises(UserError, match=r"401: accept the licence.*hf download maker/gated"):
        load_autoencoder("maker/gated")
