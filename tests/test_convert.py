"""Foreign checkpoint layouts: recognised by their keys, carried in and out without loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ditkit.backbones.dit import DiT
from ditkit.base.errors import UserError
from ditkit.condition import Condition
from ditkit.convert import layouts, load_dit, recognise
from ditkit.convert.dit import FacebookDiT
from ditkit.convert.dit_diffusers import MAX_PERIOD, NORM_EPS, DiffusersDiT
from ditkit.convert.layout import Layout

OTHERS = {"embedders": 2, "norm_eps": NORM_EPS, "max_period": MAX_PERIOD}
LAYOUTS = [(FacebookDiT, {}), (DiffusersDiT, OTHERS)]


def small(**changes: Any) -> DiT:
    """A network whose every weight is its own number, so that two that change places are noticed."""
    arguments = {"input_size": 4, "patch_size": 2, "in_channels": 3, "width": 8, "depth": 2, "heads": 2}
    net = DiT(**(arguments | {"num_classes": 3, "learned_variance": True} | changes))
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            parameter.copy_(0.2 * torch.arange(parameter.numel()).view_as(parameter).add(i).sin())
    return net


@pytest.mark.parametrize(("layout", "arguments"), LAYOUTS)
def test_out_and_in_again_is_the_same_network(layout: type[Layout], arguments: dict[str, Any]) -> None:
    net = small(**arguments)
    theirs = layout.from_ditkit(net.state_dict())
    assert recognise(theirs) is layout
    again = load_dit(theirs, heads=2, input_size=4)
    ours, found = net.state_dict(), again.state_dict()
    assert set(ours) == set(found)
    assert all(torch.equal(ours[name], found[name]) for name in ours)
    x, t, label = torch.ones(2, 3, 4, 4), torch.tensor([1, 900]), torch.tensor([2, -1])
    assert torch.equal(net(x, t, Condition(label)).prediction, again(x, t, Condition(label)).prediction)


@pytest.mark.parametrize(("layout", "arguments"), LAYOUTS)
def test_arguments_are_read_from_shapes(layout: type[Layout], arguments: dict[str, Any]) -> None:
    theirs = layout.from_ditkit(small(**arguments, learned_variance=False, mlp_ratio=3.0).state_dict())
    found = layout.arguments(theirs, heads=2, input_size=4)
    assert (found["width"], found["depth"], found["patch_size"], found["in_channels"]) == (8, 2, 2, 3)
    assert (found["num_classes"], found["null_class"]) == (3, True)
    assert (found["mlp_ratio"], found["learned_variance"]) == (3.0, False)
    whole = layout.arguments(theirs, heads=2, input_size=4, num_classes=4)
    assert (whole["num_classes"], whole["null_class"]) == (4, False)
    with pytest.raises(UserError, match=r"num_classes=7.*3 or 4"):
        layout.arguments(theirs, heads=2, input_size=4, num_classes=7)
    with pytest.raises(UserError, match="give heads="):
        layout.arguments(theirs, input_size=4)


def test_a_size_that_is_not_square_must_be_known() -> None:
    theirs = FacebookDiT.from_ditkit(small(input_size=(4, 6)).state_dict())
    with pytest.raises(UserError, match="input_size"):
        load_dit(theirs, heads=2)
    assert load_dit(theirs, heads=2, input_size=(4, 6)).grid == (2, 3)


def test_what_does_not_fit_a_layout_is_named() -> None:
    assert set(layouts()) >= {"dit", "dit_diffusers"}
    with pytest.raises(UserError, match=r"model\.a.*dit, dit_diffusers"):
        recognise(["model.a", "model.b"])
    theirs = FacebookDiT.from_ditkit(small().state_dict())
    with pytest.raises(UserError, match="extra"):
        load_dit(theirs | {"extra": torch.zeros(1)}, heads=2)
    del theirs["blocks.1.attn.proj.bias"]
    with pytest.raises(UserError, match=r"do not fit.*blocks\.1\.attention\.out\.bias") as error:
        load_dit(theirs, heads=2)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no place"):
        FacebookDiT.from_ditkit(small(conditioning="in_context").state_dict())
    with pytest.raises(UserError, match="no place"):
        FacebookDiT.from_ditkit(small(embedders=2).state_dict())
    with pytest.raises(UserError, match="embeds time and label in each of 2 blocks"):
        DiffusersDiT.from_ditkit(small().state_dict())
