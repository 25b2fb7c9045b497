"""The DiT backbone: its variants, its initialisation, its errors and its published sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ditkit.backbones.dit import PRESETS, DiT
from ditkit.base.errors import UserError
from ditkit.base.rng import generator
from ditkit.condition import NULL_LABEL, Condition
from ditkit.nn.attention import CrossAttention
from ditkit.nn.cost import cost
from ditkit.nn.embed import TimeEmbedding, sincos_2d, timestep_embedding, unpatchify

VARIANTS = ("in_context", "cross_attention", "adaln", "adaln_zero")


def small(**changes: Any) -> DiT:
    arguments = {"input_size": (4, 8), "patch_size": 2, "in_channels": 3, "width": 16, "depth": 2, "heads": 4}
    return DiT(**(arguments | {"num_classes": 5} | changes))


def randomise(net: DiT, std: float = 0.2) -> DiT:
    """Random weights everywhere: a fresh network's output is zero, which would hide most mistakes."""
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            parameter.copy_(std * torch.randn(parameter.shape, generator=generator(0, "test", i)))
    return net


def batch(net: DiT, size: int = 2) -> tuple[Tensor, Tensor, Condition]:
    x = torch.randn(size, net.in_channels, *net.input_size, generator=generator(0, "test x"))
    label = torch.arange(size) % net.num_classes if net.num_classes else None
    return x, torch.linspace(0, 999, size), Condition(label)


@pytest.mark.parametrize("conditioning", VARIANTS)
@pytest.mark.parametrize("learned_variance", [False, True])
@pytest.mark.parametrize("num_classes", [0, 5])
@pytest.mark.parametrize("input_size", [4, (4, 8), (6, 2)])
def test_every_variant_runs_forward_and_backward(
    conditioning: str, learned_variance: bool, num_classes: int, input_size: int | tuple[int, int]
) -> None:
    net = randomise(
        small(
            conditioning=conditioning,
            learned_variance=learned_variance,
            num_classes=num_classes,
            input_size=input_size,
        )
    )
    x, t, condition = batch(net)
    output = net(x, t, condition, keep=(0, 1))
    assert output.prediction.shape == (2, 6 if learned_variance else 3, *net.input_size)
    assert all(kept.shape == (2, net.grid[0] * net.grid[1], 16) for kept in output.kept.values())
    assert set(output.kept) == {0, 1}
    output.prediction.square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # Without classes the context of a cross-attention is one vector, and whatever the query, it takes it whole.
        assert parameter.grad.any() or (not num_classes and "cross_" in name), name


@pytest.mark.parametrize("conditioning", VARIANTS)
def test_every_variant_uses_time_and_class(conditioning: str) -> None:
    net = randomise(small(conditioning=conditioning))
    x, t, condition = batch(net)
    before = net(x, t, condition).prediction
    assert not torch.allclose(before, net(x, t / 2 + 1, condition).prediction, atol=1e-4)
    null = net(x, t, condition.null()).prediction
    assert not torch.allclose(before, null, atol=1e-4)
    assert torch.equal(null, net(x, t, Condition()).prediction)


@pytest.mark.parametrize("conditioning", VARIANTS)
def test_the_output_starts_as_zero(conditioning: str) -> None:
    net = small(conditioning=conditioning, learned_variance=True)
    assert not net(*batch(net)).prediction.any()


def test_an_adaln_zero_block_starts_as_the_identity() -> None:
    net = small()
    x, t, condition = batch(net)
    kept = net(x, t, condition, keep=(0, 1)).kept
    tokens = net.patches(x) + net.positions
    assert torch.equal(kept[0], tokens)
    assert torch.equal(kept[1], tokens)
    others = [small(conditioning=conditioning) for conditioning in VARIANTS if conditioning != "adaln_zero"]
    assert not any(torch.equal(other(x, t, condition, keep=(0,)).kept[0], tokens) for other in others)


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, other = small(seed=3), small(seed=4)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    again = small(seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.patches.projection.weight, other.patches.projection.weight)
    # A name has its own draws: another depth leaves the first block's weights as they are.
    deeper = small(seed=3, depth=3)
    assert torch.equal(first.state_dict()["blocks.0.mlp.0.weight"], deeper.state_dict()["blocks.0.mlp.0.weight"])


def test_one_embedder_per_block() -> None:
    net = randomise(small(embedders=2))
    x, t, condition = batch(net)
    before = net(x, t, condition, keep=(0,))
    with torch.no_grad():
        net.conditioners[1].time.outer.bias += 1
    after = net(x, t, condition, keep=(0,))
    assert torch.equal(before.kept[0], after.kept[0])
    assert not torch.allclose(before.prediction, after.prediction)
    with pytest.raises(UserError, match="embedders 3"):
        small(embedders=3)


def test_a_table_without_a_null_row() -> None:
    net = randomise(small(null_class=False))
    x, t, condition = batch(net)
    assert net.conditioners[0].label.table.num_embeddings == net.num_classes
    assert net(x, t, condition).prediction.isfinite().all()
    with pytest.raises(UserError, match="no null label"):
        net(x, t, condition.null())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_size": (4, 7)}, r"4x7 is not divisible by the patch size 2.*8"),
        ({"input_size": 5, "patch_size": 4}, r"5x5 is not divisible"),
        ({"heads": 3}, "width 16 cannot be split into 3 heads"),
        ({"width": 18, "heads": 3}, "width 18"),
        ({"conditioning": "adaln_zro"}, "did you mean 'adaln_zero'"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        small(**changes)


def test_inputs_that_do_not_fit_are_named() -> None:
    net = small()
    x, t, condition = batch(net)
    with pytest.raises(UserError, match=r"\(2, 2, 4, 8\).*\(batch, 3, 4, 8\)"):
        net(x[:, :2], t, condition)
    with pytest.raises(UserError, match="input size 4x7 is not divisible by the patch size 2"):
        net(x[..., :7], t, condition)
    for label in (5, -2):
        with pytest.raises(UserError, match=f"class label {label}.*0 to 4"):
            net(x, t, Condition(torch.tensor([0, label])))
    with pytest.raises(UserError, match="block 2"):
        net(x, t, condition, keep=(2,))
    with pytest.raises(UserError, match="without classes"):
        small(num_classes=0)(x, t, condition)


def test_time_is_embedded_in_float32_under_autocast() -> None:
    net = randomise(small())
    x, t, condition = batch(net)
    seen = {}
    time = net.conditioners[0].time
    time.register_forward_hook(lambda _module, _inputs, output: seen.update(time=output))
    net(x, t, condition)
    plain = seen["time"]
    with torch.autocast("cpu", torch.bfloat16):
        prediction = net(x, t, condition).prediction
    assert seen["time"].dtype == torch.float32
    assert torch.equal(seen["time"], plain)
    assert torch.allclose(prediction.float(), net(x, t, condition).prediction, atol=0.1, rtol=0.1)


def test_integer_and_float_times_agree() -> None:
    embedding = TimeEmbedding(8)
    t = torch.tensor([0, 500, 999])
    assert torch.equal(embedding(t), embedding(t.float()))
    waves = timestep_embedding(t, 6)
    assert torch.allclose(waves[0], torch.tensor([1.0, 1, 1, 0, 0, 0]))


def test_positions_of_a_grid_that_is_not_square() -> None:
    table = sincos_2d(8, 2, 3).view(2, 3, 8)
    assert torch.equal(table[0, :, :4], table[1, :, :4])  # columns: the same in every row
    assert torch.equal(table[:, 0, 4:], table[:, 2, 4:])
    assert torch.allclose(table[0, 2, 0], torch.tensor(2.0, dtype=torch.float64).sin())
    assert torch.allclose(table[1, 0, 6], torch.tensor(1.0, dtype=torch.float64).cos())


def test_another_size_is_what_a_model_of_that_size_with_the_same_weights_makes_of_it() -> None:
    net = randomise(small())
    x, t, condition = batch(net)
    other = small(input_size=(8, 4))
    other.load_state_dict({**net.state_dict(), "positions": other.positions})
    turned = x.transpose(2, 3).contiguous()
    for _ in range(2):
        assert torch.equal(net(turned, t, condition).prediction, other(turned, t, condition).prediction)
    assert net(x, t, condition).prediction.shape == x.shape


def test_unpatchify_inverts_the_patch_order() -> None:
    x = torch.arange(2 * 3 * 4 * 6).view(2, 3, 4, 6)
    patches = [x[:, :, i : i + 2, j : j + 2].permute(0, 2, 3, 1).flatten(1) for i in (0, 2) for j in (0, 2, 4)]
    assert torch.equal(unpatchify(torch.stack(patches, dim=1), (2, 3), 2), x)


def test_cross_attention_is_a_weighted_mean_of_the_context() -> None:
    attention = CrossAttention(8, 2)
    x, context = torch.randn(1, 3, 8, generator=generator(0, "x")), torch.randn(1, 1, 8, generator=generator(0, "c"))
    value = attention.out(attention.kv(context).chunk(2, dim=-1)[1])
    assert torch.allclose(attention(x, context), value.expand(1, 3, 8), atol=1e-6)


def test_a_batch_is_its_samples() -> None:
    for conditioning in VARIANTS:
        net = randomise(small(conditioning=conditioning))
        x, t, condition = batch(net, 3)
        one = [net(x[i : i + 1], t[i : i + 1], condition[i : i + 1]).prediction for i in range(3)]
        assert torch.allclose(net(x, t, condition).prediction, torch.cat(one), atol=1e-5)


# Gmacs as printed by Peebles & Xie 2023 (tables 4 and 6; figure 5 for XL/2 with other conditionings), parameters in
# millions (table 4). The paper rounds some numbers and cuts others off: one unit of the last digit is allowed.
PRINTED = {
    "DiT-S/2": (6.06, 33),
    "DiT-S/4": (1.41, 33),
    "DiT-S/8": (0.36, 33),
    "DiT-B/2": (23.01, 130),
    "DiT-B/4": (5.56, 130),
    "DiT-B/8": (1.42, 131),
    "DiT-L/2": (80.71, 458),
    "DiT-L/4": (19.70, 458),
    "DiT-L/8": (5.01, 459),
    "DiT-XL/2": (118.64, 675),
    "DiT-XL/4": (29.05, 675),
    "DiT-XL/8": (7.39, 676),
}


def published(name: str, conditioning: str = "adaln_zero") -> tuple[float, float]:
    """Gmacs per image and parameters in millions of a published model on latents of 32 x 32 x 4."""
    with torch.device("meta"):
        net = DiT(
            32, in_channels=4, num_classes=1000, learned_variance=True, conditioning=conditioning, **PRESETS[name]
        )
    counted = cost(net, torch.empty(1, 4, 32, 32), torch.zeros(1), Condition(torch.zeros(1, dtype=torch.int64)))
    return (counted.multiply_adds + counted.norms) / 1e9, counted.parameters / 1e6


def test_published_sizes() -> None:
    assert set(PRINTED) == set(PRESETS)
    for name, (gmacs, parameters) in PRINTED.items():
        found = published(name)
        assert found[0] == pytest.approx(gmacs, abs=0.01), name
        assert round(found[1]) == parameters, name


@pytest.mark.parametrize(("conditioning", "gmacs"), [("in_context", 119.37), ("cross_attention", 137.62)])
def test_published_cost_of_other_conditionings(conditioning: str, gmacs: float) -> None:
    assert published("DiT-XL/2", conditioning)[0] == pytest.approx(gmacs, abs=0.01)


def test_cost_counts_by_hand_and_leaves_the_network_alone() -> None:
    net = small(num_classes=0, depth=1, mlp_ratio=2.0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    n, width = 8, 16
    counted = cost(net, *batch(net, 1))
    block = n * width * (3 + 1 + 2 * 2) * width + 2 * n * n * width + width * 6 * width
    ends = n * (2 * 2 * 3) * width * 2 + (256 + width) * width + width * 2 * width
    assert counted.multiply_adds == block + ends
    assert counted.by_module["blocks.0"] == block
    assert counted.norms == 3 * n * width
    assert counted.parameters == sum(parameter.numel() for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert cost(net, *batch(net, 3)).multiply_adds == 3 * counted.multiply_adds


def test_the_null_label_is_a_row_of_its_own() -> None:
    table = small().conditioners[0].label
    rows = table(torch.tensor([NULL_LABEL, *range(5)]))
    assert torch.equal(rows[0], table.table.weight[-1])
    assert torch.equal(rows[1:], table.table.weight[:-1])
