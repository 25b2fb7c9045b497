"""DiT's published guidance and training: batches of conditional and null halves, a few steps of its training loop."""

from __future__ import annotations

import torch
from torch import Tensor

from ditkit.condition import Condition
from ditkit.convert.dit import FacebookDiT
from ditkit.guidance import DIT_CHANNELS, ClassifierFree
from ditkit.objectives.loss import Draws
from ditkit.objectives.matching import hybrid, simple
from ditkit.process.denoiser import Denoised, Denoiser
from ditkit.process.path import DDPMLinear
from ditkit.process.prediction import Eps
from tests.conformance.adapters.dit import condition_of, load_case
from tests.conformance.harness import Case, covers


def halves(said: list[Denoised]) -> Tensor:
    """What was said, as an eps network with learned variance (where there is one) says it, one below the other."""
    eps = torch.cat([half.eps for half in said])
    mixes = [half.variance_mix for half in said if half.variance_mix is not None]
    return torch.cat([eps, 2 * torch.cat(mixes) - 1], dim=1) if mixes else eps


def guided_halves(denoiser: Denoiser, x: Tensor, t: Tensor, scale: float, channels: int | None) -> Tensor:
    """``forward_with_cfg``: the first half of x twice, guided alike, each half keeping its own unguided channels.

    x, t: (2 n, ...), (2 n,). The condition's second half is null. Seen from there the guidance is by 1 - scale.
    """
    n = len(x) // 2
    conditional, null = denoiser.condition[:n], denoiser.condition[n:]
    first = ClassifierFree(denoiser.given(conditional), scale, channels, against=null)
    second = ClassifierFree(denoiser.given(null), 1 - scale, channels, against=conditional)
    return halves([first(x[:n], t[:n]), second(x[:n], t[:n])])


@covers("dit_cfg_*")
def guidance(case: Case) -> dict[str, Tensor]:
    net, path, x = load_case(case), DDPMLinear(), case.inputs["x"]
    t = (case.inputs["t"].double() + 1) / path.steps
    condition = condition_of(case.inputs["y"], net.num_classes)
    denoiser, scale, n = Denoiser(net, path, Eps(), condition), case.config["cfg_scale"], len(x) // 2
    with torch.no_grad():
        return {
            "raw": halves(denoiser.under([condition[:n], condition[n:]], x[:n], t[:n])),
            "cfg_official": guided_halves(denoiser, x, t, scale, DIT_CHANNELS),
            "cfg_all_channels": guided_halves(denoiser, x, t, scale, None),
        }


@covers("dit_train_steps")
def train_steps(case: Case) -> dict[str, Tensor]:
    config, path = case.config, DDPMLinear()
    net = load_case(case).train()
    average = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters(), lr=config["lr"], weight_decay=config["weight_decay"])
    objective = hybrid if net.learned_variance else simple
    losses = []
    for k in range(config["steps"]):
        x0, eps, n, label, u = (case.inputs[name][k] for name in ("x", "noise", "t", "y", "drop_u"))
        condition = Condition(label).drop(u < config["model"]["class_dropout_prob"])
        draws = Draws((n.double() + 1) / path.steps, eps)
        loss = objective(Denoiser(net, path, Eps(), condition), x0, draws).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        for name, value in net.state_dict().items():
            average[name].lerp_(value, 1 - config["ema_decay"])
    weights = FacebookDiT.from_ditkit(net.state_dict())
    return {
        "losses": torch.stack(losses),
        **{f"param.{name}": value for name, value in weights.items()},
        **{f"ema.{name}": value for name, value in FacebookDiT.from_ditkit(average).items()},
    }
