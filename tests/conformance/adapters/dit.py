"""Cases of facebookresearch/DiT and of its version in huggingface/diffusers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ditkit.backbones.dit import PRESETS, DiT
from ditkit.condition import NULL_LABEL, Condition
from ditkit.convert import load_dit
from ditkit.convert.dit import FacebookDiT
from ditkit.nn.cost import Cost, cost
from ditkit.nn.embed import sincos_2d, timestep_embedding
from tests.conformance.harness import Case, covers, flatten


def dit_arguments(model: dict[str, Any]) -> dict[str, Any]:
    """Constructor arguments of ``DiT`` from those of the reference's."""
    return {
        "input_size": model["input_size"],
        "patch_size": model["patch_size"],
        "in_channels": model["in_channels"],
        "width": model["hidden_size"],
        "depth": model["depth"],
        "heads": model["num_heads"],
        "mlp_ratio": model["mlp_ratio"],
        "num_classes": model["num_classes"],
        "null_class": model["class_dropout_prob"] > 0,
        "learned_variance": model["learn_sigma"],
    }


def load_case(case: Case) -> DiT:
    """The network of a case, from its weights and what they cannot say; all else must be inferred as configured."""
    model = case.config["model"]
    net = load_dit(case.weights, heads=model["num_heads"], num_classes=model["num_classes"])
    inferred = FacebookDiT.arguments(case.weights, heads=model["num_heads"], num_classes=model["num_classes"])
    assert inferred == dit_arguments(model)
    return net.eval()


def condition_of(label: Tensor, num_classes: int) -> Condition:
    """The reference's labels, where the class after the last is the null."""
    return Condition(torch.where(label == num_classes, NULL_LABEL, label))


def record(module: nn.Module, name: str, into: dict[str, Tensor]) -> None:
    """Puts what a module returns under a name."""
    module.register_forward_hook(lambda _module, _inputs, output: into.__setitem__(name, output))


@covers("dit_forward_*")
def forward(case: Case) -> dict[str, Tensor]:
    net, found = load_case(case), {}
    conditioner = net.conditioners[0]
    record(net.patches, "patch_tokens", found)
    record(conditioner.time, "t_emb", found)
    record(conditioner.label, "y_emb", found)
    record(net.blocks[0].attention, "block0_attn", found)
    record(net.final, "final_tokens", found)
    with torch.no_grad():
        x, t, label = (case.inputs[name] for name in ("x", "t", "y"))
        output = net(x, t, condition_of(label, net.num_classes), keep=range(len(net.blocks)))
    return found | {"y": output.prediction} | {f"block{i}": tokens for i, tokens in output.kept.items()}


@covers("dit_backward")
def backward(case: Case) -> dict[str, Tensor]:
    net, inputs = load_case(case), case.inputs
    x = inputs["x"].requires_grad_()
    prediction = net(x, inputs["t"], condition_of(inputs["y"], net.num_classes)).prediction
    loss = (prediction - inputs["target"]).square().mean()
    loss.backward()
    gradients = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    theirs = FacebookDiT.from_ditkit(gradients)
    assert x.grad is not None
    return {
        "loss": loss,
        "grad_x": x.grad,
        "grad_pos_embed_is_none": torch.tensor(int(net.positions.grad is None)),
        **{f"grad.{name}": gradient for name, gradient in theirs.items()},
        **{f"gradnorm.{name}": gradient.norm() for name, gradient in theirs.items()},
    }


@covers("dit_diffusers_forward")
def diffusers_forward(case: Case) -> dict[str, Tensor]:
    model = case.config["model"]
    net = load_dit(
        case.weights,
        input_size=model["sample_size"],
        heads=model["num_attention_heads"],
        num_classes=model["num_embeds_ada_norm"],
    )
    with torch.no_grad():
        condition = condition_of(case.inputs["y"], net.num_classes)
        return {"y": net.eval()(case.inputs["x"], case.inputs["t"], condition).prediction}


def parts_of(counted: Cost, depth: int) -> dict[str, int]:
    """Multiply-adds by the reference's parts."""

    def over_blocks(name: str) -> int:
        return sum(counted.by_module[f"blocks.{i}.{name}"] for i in range(depth))

    qkv, proj, mlp = over_blocks("attention.qkv"), over_blocks("attention.out"), over_blocks("mlp")
    return {
        "patch_embed": counted.by_module["patches"],
        "t_embed": counted.by_module["conditioners.0"],
        "adaln_blocks": over_blocks("modulation"),
        "qkv": qkv,
        "attn_matmul": over_blocks("attention") - qkv - proj,
        "proj": proj,
        "mlp": mlp,
        "adaln_final": counted.by_module["final.modulation"],
        "final": counted.by_module["final.linear"],
        "total": counted.multiply_adds,
    }


def facts_of(preset: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """What the reference's table says of one named model."""
    size, channels = settings["input_size"], settings["in_channels"]
    with torch.device("meta"):
        net = DiT(
            size,
            in_channels=channels,
            num_classes=settings["num_classes"],
            null_class=settings["class_dropout_prob"] > 0,
            learned_variance=settings["learn_sigma"],
            **preset,
        )
    label = torch.zeros(1, dtype=torch.int64)
    counted = cost(net, torch.empty(1, channels, size, size), torch.zeros(1), Condition(label))
    positions = net.positions.numel()
    return {
        "hidden_size": preset["width"],
        "depth": preset["depth"],
        "num_heads": preset["heads"],
        "patch_size": preset["patch_size"],
        "tokens": len(net.positions),
        "params_total": counted.parameters + positions,
        "params_trainable": counted.parameters,
        "params_pos_embed": positions,
        "macs_forward": counted.multiply_adds,
        "macs_parts": parts_of(counted, preset["depth"]),
    }


@covers("dit_configs")
def configs(case: Case) -> dict[str, Tensor]:
    answers = {
        i: {"models": {name: facts_of(preset, settings) for name, preset in PRESETS.items()}}
        for i, settings in enumerate(case.settings)
    }
    return {name: torch.tensor(value) for name, value in flatten(answers).items()}


def rule_of(value: Tensor) -> list[float]:
    """[kind, number] of the rule that a fresh weight follows: 0 zero, 1 uniform within a bound, 2 normal of a width."""
    if not value.any():
        return [0.0, 0.0]
    fan_out, fan_in = value.flatten(1).shape
    bound, spread = math.sqrt(6 / (fan_in + fan_out)), value.std().item()
    doubt = 5 / math.sqrt(2 * value.numel())  # five standard errors of a measured standard deviation

    def near(std: float) -> bool:
        return abs(spread / std - 1) < doubt

    if value.abs().max() <= bound and near(bound / math.sqrt(3)):
        return [1.0, bound]
    return [2.0, 0.02] if near(0.02) else [math.nan, spread]


@covers("dit_init_rules")
def init_rules(case: Case) -> dict[str, Tensor]:
    fresh = FacebookDiT.from_ditkit(DiT(**dit_arguments(case.config["model"])).state_dict())
    table = fresh.pop("pos_embed")
    rules = {"pos_embed": [3.0, table.abs().max().item()]} | {name: rule_of(value) for name, value in fresh.items()}
    return {f"bound.{name}": torch.tensor(rule) for name, rule in rules.items()}


@covers("dit_label_dropout")
def label_dropout(case: Case) -> dict[str, Tensor]:
    labels, num_classes = Condition(case.inputs["labels"]), case.config["num_classes"]

    def dropped(which: Tensor) -> Tensor:
        label = labels.drop(which).label
        assert label is not None
        return torch.where(label == NULL_LABEL, num_classes, label)

    return {
        "dropped": dropped(case.inputs["u"] < case.config["dropout_prob"]),
        "forced": dropped(case.inputs["force"] == 1),
    }


@covers("dit_pos_embed")
def pos_embed(case: Case) -> dict[str, Tensor]:
    return {f"pos_{width}_{grid}": sincos_2d(width, grid, grid) for width, grid in case.config["grids"]}


@covers("dit_timestep_embedding")
def time_embedding(case: Case) -> dict[str, Tensor]:
    found = {}
    for dim in case.config["dims"]:
        found[f"emb_{dim}"] = timestep_embedding(case.inputs["t"], dim, case.config["max_period"])
        found[f"emb_{dim}_mp2"] = timestep_embedding(case.inputs["t"], dim, case.config["max_period2"])
        found[f"emb_int_{dim}"] = timestep_embedding(case.inputs["t_int"], dim)
    return found
