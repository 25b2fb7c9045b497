"""Cases of hustvl/LightningDiT's transport: data at t = 1, shifted times, a loss on the velocity's direction."""

from __future__ import annotations

import torch
from torch import Tensor

from ditkit.backbones.output import Output
from ditkit.convert.sit import NETWORK_TIMES
from ditkit.objectives.direction import direction
from ditkit.objectives.loss import Draws
from ditkit.process.continuous import Linear
from ditkit.process.denoiser import Denoiser
from ditkit.process.density import LogitNormal
from ditkit.process.grids import time_shift
from ditkit.process.prediction import Velocity
from ditkit.solvers.ode import euler
from tests.conformance.harness import Case, covers


@covers("lightningdit_lognorm")
def logit_normal(case: Case) -> dict[str, Tensor]:
    # The reference's normal number, from noise to data, is minus ours.
    u = torch.special.ndtr(-case.inputs["gauss"].double())
    return {f"t.mu{mu}": 1 - LogitNormal(-mu)(u, Linear()) for mu in case.config["mus"]}


@covers("lightningdit_transport")
def transport(case: Case) -> dict[str, Tensor]:
    x0, eps, u, output = (case.inputs[name] for name in ("x1", "x0", "u", "model_output"))
    path, out = Linear(), {}
    recorded = Denoiser(lambda x, time, condition: Output(-output, {}), path, Velocity())
    loss = direction(recorded, x0, Draws(1 - u.double(), eps))
    out |= {"loss": loss.parts["mse"], "cos_loss": loss.parts["cosine"]}
    for shift in case.config["shifts"]:
        seen: list[float] = []

        def net(x: Tensor, time: Tensor, condition: object, seen: list[float] = seen) -> Output:
            t = 1 - time[0] / NETWORK_TIMES
            seen.append(float(t))
            return Output(-torch.tanh(x) * (1 - t), {})

        theirs = torch.linspace(0, 1, case.config["num_steps"], dtype=torch.float64)
        ts = 1 - (time_shift(theirs, shift) if shift > 0 else theirs)
        *_, last = euler(Denoiser(net, path, Velocity()), x0, ts, variable="time")
        out |= {f"shift{shift}.times": torch.tensor(seen), f"shift{shift}.final": last.x}
    return out
