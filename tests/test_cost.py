"""Costs: counted by hand, against the published table, for every network that the registries know, and as a command."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ditkit.app import build, checks, cost_table, costing, names, spending
from ditkit.app.model import load_model
from ditkit.app.recipe import AutoencoderRecipe, ClassifierRecipe, Data, Model, Process, Recipe, Sampling
from ditkit.app.recipe_files import ready_recipes
from ditkit.app.run import open_run
from ditkit.app.spending import Item, Work, drawing, teaching
from ditkit.base.errors import UserError
from ditkit.encoders.autoencoder import AutoencoderKL, LatentAutoencoder
from ditkit.evaluate.networks.lpips import LPIPS
from ditkit.nn.attention import _written_out
from ditkit.nn.cost import Cost, cost, multiply_adds
from ditkit.train import checkpoint
from tests.running import TINY, ditkit, made
from tests.test_refusals import assert_refused

FEW = TINY[: TINY.index("--train.sample-every")]
"""The same tiny model and training, of what draws no samples."""


class Written(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return _written_out(q, k, v)


class Fused(nn.Module):
    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


def size(*shape: int) -> torch.Size:
    return torch.Size(shape)


HEADS = (size(1, 2, 5, 8), size(1, 2, 7, 8), size(1, 2, 7, 8))
BY_HAND: dict[str, tuple[nn.Module, tuple[torch.Size, ...], int]] = {
    "linear": (nn.Linear(6, 10), (size(3, 7, 6),), 3 * 7 * 6 * 10),
    "one row": (nn.Linear(6, 10), (size(6),), 60),
    "convolution": (nn.Conv2d(4, 6, 3, padding=1), (size(1, 4, 8, 10),), 8 * 10 * 6 * 4 * 9),
    "strided": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (size(1, 4, 8, 10),), 4 * 5 * 6 * 4 * 9),
    "groups": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (size(1, 4, 8, 10),), 8 * 10 * 6 * 2 * 9),
    "transposed": (nn.ConvTranspose2d(4, 6, 2, stride=2), (size(1, 4, 8, 10),), 8 * 10 * 4 * 6 * 4),
    "three axes": (nn.Conv3d(2, 3, (1, 3, 3), padding=(0, 1, 1)), (size(1, 2, 4, 5, 6),), 4 * 5 * 6 * 3 * 2 * 9),
    "attention, written out": (Written(), HEADS, 2 * (2 * 5 * 7 * 8)),
    "attention, fused": (Fused(), HEADS, 2 * (2 * 5 * 7 * 8)),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_counts_by_hand_on_both_devices(name: str) -> None:
    net, shapes, expected = BY_HAND[name]
    assert cost(net, *shapes).multiply_adds == expected
    inputs = [torch.zeros(shape) for shape in shapes]
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        net(*inputs)  # PyTorch counts nothing for its fused attention on a CPU
    assert counter.get_total_flops() == 2 * expected


def check_tree(found: Cost, net: nn.Module) -> None:
    """Every module once, no part dearer than its whole, and the sums those of the network."""
    modules = [*found.walk()]
    assert [module.name for module in modules] == [name for name, _ in net.named_modules()]
    for what in ("parameters", "multiply_adds", "norms", "activations"):
        own = [getattr(m, what) - sum(getattr(part, what) for part in m.parts) for m in modules]
        assert min(own) >= 0
        assert sum(own) == getattr(found, what)
    assert found.parameters == sum(parameter.numel() for parameter in net.parameters())
    for module in modules:
        assert module.parameters == sum(p.numel() for p in net.get_submodule(module.name).parameters()), module.name


BACKBONES = [
    (backbone, conditioning) for backbone in build.known("backbone") for conditioning in names.names("conditioning")
]
FACTS: dict[str, Any] = {"input_size": [8, 8], "channels": 3, "image_shape": [3, 8, 8], "classes": ["a", "b"]}
SMALL: dict[str, Any] = {"patch_size": 2, "width": 16, "depth": 2, "heads": 2}


@pytest.mark.parametrize(("backbone", "conditioning"), BACKBONES)
@pytest.mark.parametrize("kind", [Recipe, ClassifierRecipe])
def test_every_backbone_is_counted(backbone: str, conditioning: str, kind: Any) -> None:
    recipe = kind(model=Model(backbone=backbone, conditioning=conditioning, **SMALL))
    runs = costing.find_kind(kind.kind)
    net = runs.network(recipe, FACTS)
    found = costing.of_network(recipe, FACTS)
    check_tree(found, net)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        net(*runs.example(recipe, FACTS))
    assert found.multiply_adds == counter.get_total_flops() // 2  # computed, on the CPU
    assert found.norms > 0
    assert found.activations > 0


@pytest.mark.parametrize("name", build.known("autoencoder"))
def test_every_autoencoder_is_counted(name: str) -> None:
    network = dataclasses.replace(AutoencoderRecipe().network, autoencoder=name, factor=4, width=16, blocks=1)
    recipe = AutoencoderRecipe(network=network)
    facts = FACTS | {"image_shape": [3, 32, 32]}
    runs = costing.find_kind(recipe.kind)
    net = runs.network(recipe, facts)
    found = costing.of_network(recipe, facts)
    check_tree(found, net)
    works = {work.name: work for work in runs.works(spending.Subject(recipe, facts, found))}
    assert works["encoding"].total + works["decoding"].total == found.multiply_adds > 0
    assert works["training with the discriminator"].total > works["training"].total == 3 * found.multiply_adds


def large(size: int, *, projected: int) -> float:
    """Multiply-adds of a ViT-L/14 for an image: 24 blocks of width 1,024 on its patches and a class token."""
    patches, width = (size // 14) ** 2, 1024
    tokens = patches + 1
    blocks = 24 * (12 * tokens * width**2 + 2 * tokens**2 * width)
    return blocks + patches * 3 * 14**2 * width + width * projected


KNOWN = {"inception": 5.71e9, "dinov2": large(224, projected=0), "clip": large(336, projected=768)}
"""Multiply-adds of an image: of inception as torchvision's table of weights has them."""


@pytest.mark.parametrize("name", costing.outlines())
def test_every_outline_is_counted(name: str) -> None:
    if name != "inception":
        pytest.importorskip("transformers")
    net, shape = costing.outlines()[name].outline()
    found = cost(net, shape)
    check_tree(found, net)
    assert found.multiply_adds == pytest.approx(KNOWN[name], rel=0.01)


def test_the_published_cost_at_512() -> None:  # those at 256 are in test_dit.py
    facts = {"input_size": [64, 64], "channels": 4, "classes": [*map(str, range(1000))]}
    found = costing.of_network(Recipe(model=Model(preset="DiT-XL/2"), process=Process(learned_variance=True)), facts)
    assert (found.multiply_adds + found.norms) / 1e9 == pytest.approx(524.60, rel=1e-3)  # Peebles & Xie, section 5.1


def test_a_module_used_twice_and_a_method_beside_forward() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

        def other(self, x: Tensor) -> Tensor:
            return (x @ x.mT) @ self.first(x)

    net = Twice()
    found = cost(net, size(3, 4))
    assert (found.parameters, found.multiply_adds, len(found.parts)) == (20, 2 * 48, 1)
    other = cost(net, size(3, 4), call=Twice.other)
    assert (other.multiply_adds, other.parts[0].multiply_adds) == (36 + 48 + 36, 48)


def test_a_training_step_is_about_three_forward_passes() -> None:
    recipe = Recipe(model=Model(**{**SMALL, "width": 64}))
    net = costing.find_kind(recipe.kind).network(recipe, FACTS)
    inputs = costing.find_kind(recipe.kind).example(recipe, FACTS)
    step = multiply_adds(lambda: net.to("meta")(*(v.to("meta") for v in inputs)).prediction.sum().backward())
    assert step == pytest.approx(3 * costing.of_network(recipe, FACTS).multiply_adds, rel=0.03)


def test_numbers_cannot_be_looked_at() -> None:
    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if float(x.sum()) > 0 else -x

    with pytest.raises(UserError, match=r"Looks cannot be counted.*no step that depends on their numbers"):
        cost(Looks(), size(2))


def drawn(*, classes: int = 2, **settings: Any) -> tuple[float, float]:
    found = drawing(Process(), Sampling(**settings), [*map(str, range(classes))])
    return found.evaluations, found.own


def test_what_guidance_takes() -> None:
    assert drawn(steps="10", guidance=1.0) == (10, 10)
    assert drawn(steps="10", guidance=2.0) == (10, 20)
    assert drawn(steps="10", guidance=2.0, classes=0) == (10, 10)
    assert drawn(steps="10", guidance=2.0, guidance_interval=(0.0, 0.55)) == (10, 15)
    assert drawn(steps="10", guidance=2.0, solver="heun") == (19, 38)
    assert drawn(steps="10", guidance=2.0, guidance_rescale=0.5, solver="dpmpp_2m") == (10, 20)


def test_what_a_weak_model_and_a_classifier_take() -> None:
    sampling = Sampling(steps="10", guidance=2.0, guidance_weak="w", guidance_classifier="c")
    found = drawing(Process(), sampling, ["a", "b"], (Process(), ["a", "b"]), (Process(), ["b", "a"]))
    assert (found.evaluations, found.own, found.weak, found.classifier) == (10, 20, 20, 10)


@pytest.mark.parametrize("solver", build.known("solver"))
def test_every_solver_is_counted(solver: str) -> None:
    process, sampling = Process(path="linear", prediction="velocity"), Sampling(solver=solver, steps="4", guidance=2.0)
    try:
        expected = checks.evaluations(process, sampling)
    except UserError:  # such as a solver of chains: on the path that has one
        process = Process()
        expected = checks.evaluations(process, sampling)
    found = drawing(process, sampling, ["a", "b"])
    assert found.own == 2 * found.evaluations
    assert build.adaptive(solver) or found.evaluations == expected


@pytest.mark.parametrize("objective", build.known("objective"))
def test_every_objective_teaches_one_pass(objective: str) -> None:
    process = Process(objective=objective, learned_variance=objective in ("hybrid", "vlb"))
    found = teaching(process)
    assert (found.taught, found.asked) == (1, 0)


def test_lpips_takes_two_images_and_a_gradient() -> None:
    one = 15_346_630_656 * 4 // 49  # the convolutions of VGG-16 at 224, brought to 64 x 64
    assert LPIPS.training_cost(size(1, 3, 64, 64)) == pytest.approx(3 * one, rel=0.01)


def test_amounts() -> None:
    said = {0: "0", 7: "7", 999: "999", 1234: "1.234 k", 118.62e9: "118.6 G", 999.96e9: "1 T", 2.5: "2.5"}
    assert {value: cost_table.amount(value) for value in said} == said


def test_the_tree_says_neighbours_that_are_alike_once() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    lines = cost_table.tree(cost(net, size(1, 4)), 1).splitlines()
    assert [line.split()[:4] for line in lines[2:]] == [["0..1", "2", "Linear", "40"], ["2", "Linear", "10", "8"]]
    assert "80.0%" in lines[2]


def test_a_work_is_summed() -> None:
    text = cost_table.work(Work("sampling", "how", (Item("a", 10, 3), Item("b", 4, 0.5)), {"2 images": 2}))
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["sampling,", "for", "an", "image", "(how)"]
    assert rows[3:] == [["in", "all", "32"], ["for", "2", "images", "64"]]


def test_the_command_on_a_preset(tmp_path: Path) -> None:
    out = tmp_path / "cost.json"
    said = made(ditkit("cost", "DiT-S/8", "--sample.steps", "4", "--depth", "0", "--json", out)).out
    assert "4x32x32, images 3x256x256" in said
    assert "0.36 Gflops as the DiT paper counts" in said
    found = json.loads(out.read_text())
    sampling, training = found["works"]
    assert [item["times"] for item in sampling["items"]] == [8, 1]
    with torch.device("meta"):
        decoder = cost(AutoencoderKL(), size(1, 4, 32, 32), call=LatentAutoencoder.decode)
    assert sampling["items"][1]["multiply_adds"] == decoder.multiply_adds
    assert sampling["multiply_adds"] == 8 * found["network"]["multiply_adds"] + decoder.multiply_adds
    assert training["items"][0]["times"] == 3
    assert training["larger"]["a step of 256 images"] == 256


def test_the_command_on_a_recipe_and_its_data() -> None:
    said = made(ditkit("cost", "digits", "--model.depth", "1")).out
    assert "1x8x8" in said
    assert "classes    10" in said
    assert "decoding" not in said  # pixels


def test_the_command_on_a_run_and_on_what_guides_it(run: Path, pets: Path, tmp_path: Path) -> None:
    network = costing.subject(found := costing.find(str(run)), found.recipe, None, None).network
    net = load_model(open_run(run)).denoiser.net
    assert network.parameters == sum(p.numel() for p in net.parameters())
    judge = tmp_path / "judge"
    made(ditkit("train-classifier", "--data", pets, "--out", judge, *FEW, "--process.path", "cosine"))
    guides = ["--sample.guidance-weak", run, "--sample.guidance-classifier", judge, "--sample.guidance", 2]
    for place in (run, checkpoint.latest(run)):
        out = tmp_path / f"{place.name}.json"
        said = made(ditkit("cost", place, *guides, "--sample.steps", 3, "--json", out)).out
        assert "weak network" in said
        sampling, training = json.loads(out.read_text())["works"]
        items = {item["what"]: (item["multiply_adds"], item["times"]) for item in sampling["items"]}
        judged = items.pop("classifier, forward and back")
        assert items == {"network": (network.multiply_adds, 6), "weak network": (network.multiply_adds, 6)}
        assert judged[1] == 6  # at each of three steps there and back
        assert training["larger"]["a step of 4 images"] == 4
    out = tmp_path / "judge.json"
    made(ditkit("cost", judge, "--json", out))
    found = json.loads(out.read_text())
    assert found["network"]["multiply_adds"] == judged[0]
    assert [work["name"] for work in found["works"]] == ["training"]


def test_a_run_of_pixels_has_no_autoencoder(run: Path) -> None:
    refused = ditkit("cost", run, "--autoencoder", "kl")
    assert_refused(refused, "--autoencoder kl", "diffuses pixels", "leave it out")


def test_an_autoencoder_needs_no_classes() -> None:
    said = made(ditkit("cost", "autoencoder_mnist", "--network.width", 8, "--depth", 0)).out
    assert "1x32x32" in said
    assert "classes    none" in said
    refusal = ditkit("cost", "autoencoder_mnist", "--data.size", "None")
    assert_refused(refusal, "does not say what its images are like", "--data.size, --data.channels")
    assert "--classes" not in refusal.err[0]


def test_refusals(tmp_path: Path) -> None:
    refusal = ditkit("cost", "DiT-XL/3")
    assert_refused(refusal, "has no cost", "ditkit info costs", "did you mean 'DiT-XL/", " or 'DiT-XL/")
    assert len(refusal.err[0]) < 200
    assert_refused(ditkit("cost", "qqqq"), "has no cost", "ditkit info costs")
    listed = set(made(ditkit("info", "costs")).out.splitlines())
    for said in costing.presets(), costing.outlines(), build.known("autoencoder"), ready_recipes():
        assert not said.keys() - listed
    assert_refused(ditkit("cost"), "lacks what to count")
    assert_refused(ditkit("cost", "inception", "--classes", 3), "--classes 3 does nothing with inception", "leave it")
    assert_refused(ditkit("cost", "autoencoder_mnist", "--classes", 3), "--classes 3 does nothing", "(autoencoder)")
    assert_refused(ditkit("cost", "DiT-S/8", "--json", tmp_path), f"{tmp_path} is a folder, expected a file")
    assert_refused(ditkit("cost", "mnist", "--data.size", "28"), "does not say what its images are like", "--classes")
    assert_refused(ditkit("cost", "imagenet256_dit"), "stabilityai/sd-vae-ft-ema", "--autoencoder")


def test_a_recipe_says_its_kind() -> None:
    assert costing.find("autoencoder_mnist").recipe.kind == AutoencoderRecipe.kind
    assert costing.find("fast").recipe == AutoencoderRecipe(
        data=Data(size=256, channels=3), network=dataclasses.replace(AutoencoderRecipe().network, autoencoder="fast")
    )
