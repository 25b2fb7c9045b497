"""The pretrained feature networks with made-up weights: end to end, what they refuse, what they say when absent."""

import importlib
import json
import sys
import types

import numpy as np
import pytest
import torch

from ditkit.base.errors import UserError
from ditkit.base.rng import generator
from ditkit.data.loading import load_images
from ditkit.data.source import open_source
from ditkit.evaluate.features import frechet_distance
from ditkit.evaluate.measured import Side, measure, observe
from ditkit.evaluate.networks import network as networks
from ditkit.evaluate.networks.clip import CLIP
from ditkit.evaluate.networks.dinov2 import DINOv2
from ditkit.evaluate.networks.inception import WEIGHTS, Inception, InceptionV3
from ditkit.evaluate.networks.lpips import HEADS, LPIPS, STAGES
from ditkit.evaluate.networks.network import load_network
from ditkit.evaluate.networks.resize import bilinear_tf1
from ditkit.evaluate.suite import compare, evaluate_samples, needed
from tests.conformance.adapters.inception import made_up_weight
from tests.running import ditkit, draw_images, made


def pictures(n: int, light: float = 0.5, size: int = 8, index: int = 0) -> torch.Tensor:
    draws = generator(0, "test.networks", index)
    return (255 * (light * torch.rand(n, 3, size, size, generator=draws))).to(torch.uint8)


@pytest.fixture(scope="module")
def made_up_file(tmp_path_factory):
    """Weights of the standard FID's network by a fixed rule, in a file as they are published (no zip archive)."""
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in InceptionV3().state_dict().items()}
    state = {key: made_up_weight("test", key, shape) for key, shape in shapes.items()}
    path = tmp_path_factory.mktemp("weights") / WEIGHTS.file
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope="module")
def inception(made_up_file):
    return load_network("inception", made_up_file)


def test_standard_fid_path_end_to_end(inception):
    real, good, dark = pictures(6), pictures(6, index=1), pictures(6, light=0.1, index=2)
    wanted = needed()
    sides = [measure("images", x, None, inception, quantities=wanted, progress=False) for x in (real, good, dark)]
    result, worse, itself = (compare(sides[0], side, inception) for side in (*sides[1:], sides[0]))
    assert {"fid", "sfid", "precision", "recall", "density", "coverage"} == set(result)
    assert "biased upwards below about 20480" in result["fid"]["note"]
    assert "biased upwards below about 20230" in result["sfid"]["note"]
    for name in ("fid", "sfid"):
        assert worse[name]["value"] > 2 * result[name]["value"]
        assert itself[name]["value"] == pytest.approx(0, abs=1e-8)
    assert "same images" in itself["fid"]["note"]
    assert "same images" not in result["fid"]["note"]
    # In parts, as two processes would.
    parts = [Side(6), Side(6)]
    for part, rows in zip(parts, torch.arange(6).split(4), strict=True):
        observe(part, inception, good[rows], rows, wanted)
    parts[0].merge(Side.of_state(parts[1].state))
    again = compare(sides[0], parts[0], inception)
    assert {k: v["value"] for k, v in again.items()} == pytest.approx(
        {k: v["value"] for k, v in result.items()}, rel=1e-4
    )


def test_standard_fid_through_the_command_line(made_up_file, inception, tmp_path, monkeypatch):
    """Images in a folder, the same as ADM's file, and its statistics alone: one distance, with its protocol."""
    places = {name: draw_images(tmp_path / name, [f"{i}.png" for i in range(n)]) for name, n in (("s", 5), ("r", 6))}
    how = ["--features", "inception", "--features-weights", made_up_file, "--scores", "frechet_distance"]
    how += ["spatial_frechet_distance"]
    file, out = tmp_path / "reference.npz", tmp_path / "out"
    said = made(
        ditkit("evaluate", places["s"], "--reference", places["r"], "--out", out, "--reference-npz", file, *how)
    )
    found = json.loads((out / "metrics.json").read_text())
    taps = [
        inception.look(load_images(open_source(str(place))).get(torch.arange(n)))
        for place, n in zip(places.values(), (5, 6), strict=True)
    ]
    assert found["fid"]["value"] == pytest.approx(frechet_distance(taps[0].features, taps[1].features), rel=1e-6)
    assert found["sfid"]["value"] == pytest.approx(frechet_distance(taps[0].spatial, taps[1].spatial), rel=1e-6)
    space = found["protocol"]["feature_space"]
    assert space["weights"] == inception.protocol.weights
    assert "299x299, bilinear of TensorFlow 1" in space["resizing"]
    assert "note on fid: few images (5): the distance is biased upwards below about 20480" in said.out
    with np.load(file) as arrays:
        assert set(arrays.files) == {"arr_0", "mu", "sigma", "mu_s", "sigma_s"}
        np.savez(tmp_path / "statistics.npz", **{name: arrays[name] for name in ("mu", "sigma", "mu_s", "sigma_s")})
    monkeypatch.setenv("DITKIT_INCEPTION", str(made_up_file))
    how[2:4] = []
    made(ditkit("evaluate", places["s"], "--reference", tmp_path / "statistics.npz", "--out", tmp_path / "again", *how))
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    for name in ("fid", "sfid"):
        assert again[name]["value"] == pytest.approx(found[name]["value"], rel=1e-6), name


def test_absent_weights_are_said_on_the_command_line_before_long_work(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("DITKIT_INCEPTION", raising=False)
    places = [draw_images(tmp_path / name, [f"{i}.png" for i in range(n)]) for name, n in (("s", 5), ("r", 6))]
    said = ditkit("evaluate", places[0], "--reference", places[1], "--features", "inception")
    assert said.code == 2
    assert len(said.err) == 1
    for part in (WEIGHTS.file, str(tmp_path / "hub" / "checkpoints"), "DITKIT_INCEPTION", "recall, density"):
        assert part in said.err[0]


def test_grey_images_are_their_three_channels(inception):
    grey = pictures(1)[:, :1]
    assert torch.equal(inception.look(grey).features, inception.look(grey.expand(-1, 3, -1, -1)).features)


def test_inception_protocol_tells_weights_apart(inception, made_up_file):
    state = torch.load(made_up_file, weights_only=True)
    state["fc.bias"] = state["fc.bias"] + 1
    other = Inception(state)
    assert other.protocol.weights != inception.protocol.weights
    assert other.protocol.resizing == inception.protocol.resizing


def test_weights_of_another_inception_are_refused(made_up_file):
    state = torch.load(made_up_file, weights_only=True)
    state["AuxLogits.fc.weight"] = torch.zeros(3)
    with pytest.raises(UserError, match=r"'AuxLogits.fc.weight': \(3,\), expected none"):
        Inception(state)
    del state["AuxLogits.fc.weight"], state["fc.bias"]
    with pytest.raises(UserError, match=r"'fc.bias': missing, expected \(1008,\)"):
        Inception(state)


def test_weights_are_found_by_variable_and_in_the_hub_cache(made_up_file, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("DITKIT_INCEPTION", raising=False)
    with pytest.raises(UserError) as caught:
        load_network("inception")
    message = str(caught.value)
    assert "\n" not in message
    for part in (WEIGHTS.file, str(tmp_path / "hub" / "checkpoints"), "DITKIT_INCEPTION", WEIGHTS.url, "'self'"):
        assert part in message
    monkeypatch.setenv("DITKIT_INCEPTION", str(made_up_file.parent))
    assert WEIGHTS.find() == made_up_file
    monkeypatch.delenv("DITKIT_INCEPTION")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "checkpoints").symlink_to(made_up_file.parent)
    assert WEIGHTS.find().samefile(made_up_file)
    with pytest.raises(UserError, match=r"not at .*nowhere"):
        load_network("inception", tmp_path / "nowhere")
    with pytest.raises(UserError, match="did you mean 'inception'"):
        load_network("incepton")


def test_resizing_puts_pixels_where_tensorflow_1_does():
    x = torch.tensor([[0.0, 10.0], [20.0, 30.0]])[None, None]
    # Output i lies at i * 2 / 4 = 0, 0.5, 1, 1.5; beyond the last pixel it stays.
    row = torch.tensor([0.0, 5.0, 10.0, 10.0])
    expected = torch.stack([row, row + 10, row + 20, row + 20])
    assert torch.equal(bilinear_tf1(x, 4, 4)[0, 0], expected)
    assert torch.equal(bilinear_tf1(expected[None, None], 2, 2), x)


def fake_transformers(monkeypatch, **kinds: object) -> None:
    module = types.ModuleType("transformers")
    module.__version__ = "0"
    for name, value in kinds.items():
        setattr(module, name, value)
    monkeypatch.setitem(sys.modules, "transformers", module)


class Pretrained:
    """Stands for a transformers class: says where it was loaded from."""

    def __init__(self, made):
        self.made, self.seen = made, []

    def from_pretrained(self, source, local_files_only):
        assert local_files_only
        self.seen.append(source)
        if not isinstance(self.made, torch.nn.Module | types.FunctionType):
            raise OSError("not in the\ncache")
        return self.made


class Tower(torch.nn.Module):
    """Means of pixels, or of token numbers, as a model's output."""

    def forward(self, pixel_values=None, input_ids=None, attention_mask=None):
        if pixel_values is not None:
            pooled = pixel_values.mean((2, 3))
        else:
            pooled = torch.stack(
                [input_ids.float().sum(1), attention_mask.sum(1).float(), torch.ones(len(input_ids))], 1
            )
        return types.SimpleNamespace(pooler_output=pooled, last_hidden_state=torch.stack([pooled, 9 * pooled], 1))


class FakeCLIP(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.vision_model, self.text_model = Tower(), Tower()
        self.visual_projection = torch.nn.Linear(3, 4)
        self.text_projection = torch.nn.Linear(3, 4)


def fake_tokenizer(captions, padding, truncation, return_tensors):
    assert (padding, truncation, return_tensors) == (True, True, "pt")
    ids = torch.tensor([[len(c), 1] for c in captions])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def test_dinov2_takes_the_class_token_of_normalised_pixels(monkeypatch, tmp_path):
    source = Pretrained(Tower())
    fake_transformers(monkeypatch, Dinov2Model=source)
    monkeypatch.delenv("DITKIT_DINOV2", raising=False)
    network = load_network("dinov2")
    white = torch.full((2, 3, 10, 12), 255, dtype=torch.uint8)
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(network.look(white).features, expected.expand(2, 3))
    DINOv2.load(tmp_path)
    assert source.seen == ["facebook/dinov2-large", str(tmp_path)]


def test_clip_scores_captions_and_gives_cmmd(monkeypatch):
    torch.manual_seed(0)
    fake_transformers(monkeypatch, CLIPModel=Pretrained(FakeCLIP()), CLIPTokenizer=Pretrained(fake_tokenizer))
    network = CLIP.load()
    real, samples = pictures(8, size=16), pictures(8, size=16, index=1)
    found = evaluate_samples(samples, None, real, None, network, captions=["a picture"] * 8, progress=False)
    assert {"cmmd", "clip_score", "fd_clip"} <= set(found)
    cosine = (network.look(samples).features * network.read(["a picture"])).sum(1).clamp(min=0)
    assert found["clip_score"]["value"] == pytest.approx(100 * cosine.mean().item(), rel=1e-5)
    torch.testing.assert_close(network.look(samples).features.norm(dim=1), torch.ones(8))
    without = evaluate_samples(samples, None, real, None, network, progress=False)
    assert "clip_score" not in without
    with pytest.raises(UserError, match="'clip_score' cannot be computed: it needs captions"):
        evaluate_samples(samples, None, real, None, network, scores=["clip_score"], progress=False)


@pytest.mark.parametrize(
    ("name", "kind", "variable"), [("dinov2", "Dinov2Model", "DITKIT_DINOV2"), ("clip", "CLIPModel", "DITKIT_CLIP")]
)
def test_absent_hub_models_say_what_to_fetch(monkeypatch, tmp_path, name, kind, variable):
    monkeypatch.delenv(variable, raising=False)
    fake_transformers(monkeypatch, **{kind: Pretrained(None)})
    with pytest.raises(UserError, match=rf"hf download .*{variable}.*'self'") as caught:
        load_network(name)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=rf"nowhere.*{variable}"):
        load_network(name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"ditkit\[pretrained\]"):
        load_network(name)


def test_a_new_network_is_one_new_file(monkeypatch, tmp_path):
    (tmp_path / "meanpixel.py").write_text(
        "import torch\n"
        "from ditkit.evaluate.networks.network import NetworkProtocol, Taps\n"
        "class MeanPixel:\n"
        "    name, aliases, num_classes = 'meanpixel', {}, None\n"
        "    protocol = NetworkProtocol('mean', '', '', '', '')\n"
        "    @classmethod\n"
        "    def load(cls, path=None, device='cpu'):\n"
        "        return cls()\n"
        "    def look(self, images):\n"
        "        return Taps(images.float().mean((2, 3)))\n"
    )
    package = importlib.import_module(networks.PLACE)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    assert {"inception", "dinov2", "clip", "pixels", "meanpixel"} == set(networks.available())
    network = load_network("meanpixel")
    result = evaluate_samples(pictures(9), None, pictures(9, index=1), None, network, progress=False)
    assert "frechet_distance" in result


def made_up_lpips() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """VGG-16's convolutions and the heads of LPIPS, in their published shapes."""
    draws = generator(0, "test.lpips")
    widths = [3, 64, 64, 128, 128, 256, 256, 256, *[512] * 6]
    numbers = [i for stage in STAGES for i in stage]
    vgg = {}
    for i, a, b in zip(numbers, widths, widths[1:], strict=False):
        vgg[f"features.{i}.weight"] = torch.randn(b, a, 3, 3, generator=draws) * (2 / (9 * a)) ** 0.5
        vgg[f"features.{i}.bias"] = torch.zeros(b)
    heads = {f"lin{i}.model.1.weight": torch.full((1, w, 1, 1), 1 / w) for i, w in enumerate((64, 128, 256, 512, 512))}
    return vgg, heads


def test_lpips_is_a_distance_and_says_what_it_lacks():
    vgg, heads = made_up_lpips()
    distance = LPIPS(vgg, heads)
    x, y = pictures(2, size=32), pictures(2, size=32, index=1)
    assert distance(x, x).tolist() == [0, 0]
    blend = (x.float() * 0.9 + y.float() * 0.1).to(torch.uint8)
    assert bool((distance(x, blend) < distance(x, y)).all())
    torch.testing.assert_close(distance(x, y), distance(y, x))
    del heads["lin3.model.1.weight"]
    with pytest.raises(UserError, match=rf"'lin3.model.1.weight'.*{HEADS.file}"):
        LPIPS(vgg, heads)


def test_features_are_plain_float32_on_the_cpu(inception):
    taps = inception.look(pictures(1))
    assert taps.logits is not None
    assert taps.spatial is not None
    assert [t.dtype for t in (taps.features, taps.logits, taps.spatial)] == [torch.float32] * 3
    assert (taps.features.shape, taps.logits.shape, taps.spatial.shape) == ((1, 2048), (1, 1008), (1, 2023))
    assert np.isfinite(taps.features.numpy()).all()
