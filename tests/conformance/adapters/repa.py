"""Cases of sihyun-yu/REPA's samplers: noise at t = 1, t given to the network as it is, the state in float64."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ditkit.condition import NULL_LABEL, Condition
from ditkit.convert import load_dit
from ditkit.convert.sit import NETWORK_TIMES
from ditkit.guidance import ClassifierFree, Interval
from ditkit.process.continuous import GVP, Linear
from ditkit.process.denoiser import Denoise, Denoiser
from ditkit.process.prediction import Velocity
from ditkit.solvers.ode import euler, heun
from ditkit.solvers.sde import euler_maruyama
from ditkit.solvers.state import State
from tests.conformance.harness import Case, covers

PATHS = {"linear": Linear, "cosine": GVP}
LAST_NOISY_TIME = 0.04
"""Where the reference's SDE sampler makes its last step, without noise, from."""


def denoiser_of(case: Case, path: str) -> Denoiser:
    """The case's network, without its projectors, in float32 whatever the state is in."""
    model = case.config["model"]
    weights = {name: value for name, value in case.weights.items() if not name.startswith("projectors.")}
    net = load_dit(weights, heads=model["num_heads"], num_classes=model["num_classes"]).eval()

    def velocity(x: Tensor, time: Tensor, condition: Condition) -> object:
        output = net(x.float(), time / NETWORK_TIMES, condition)
        return dataclasses.replace(output, prediction=output.prediction[:, : x.shape[1]])

    label = torch.where(case.inputs["y"] == model["num_classes"], NULL_LABEL, case.inputs["y"])
    return Denoiser(velocity, PATHS[path](), Velocity(), Condition(label))


def stepwise(solver: Callable[..., Iterator[State]], denoise: Denoise, z: Tensor, ts: Tensor) -> Iterator[State]:
    """An ODE solver step by step, guided or not in the whole of a step as the interval says at its start."""
    for k, t in enumerate(ts[:-1]):
        held = denoise
        if isinstance(denoise, Interval):
            held = denoise.guided if denoise.low <= t <= denoise.high else denoise.plain
        for state in solver(held, z, ts[k : k + 2], variable="time"):
            yield state
            z = state.x


@covers("repa_samplers")
@torch.no_grad()
def samplers(case: Case) -> dict[str, Tensor]:
    config, z, noises = case.config, case.inputs["z"].double(), case.inputs["noises"].double()
    steps = config["num_steps"]
    even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    to_last = torch.linspace(1, LAST_NOISY_TIME, steps, dtype=torch.float64)
    # the reference's diffusion is 2 t on both paths
    stochastic = functools.partial(euler_maruyama, noise=lambda k: noises[k], w="linear")
    solvers: dict[str, tuple[str, Callable[..., Iterator[State]], Tensor]] = {
        "euler": ("linear", functools.partial(stepwise, euler), even),
        "heun": ("linear", functools.partial(stepwise, heun), even),
        **{f"em.{path}": (path, stochastic, torch.cat([to_last, torch.zeros(1)])) for path in PATHS},
    }
    out = {}
    for name, (path, solver, ts) in solvers.items():
        plain = denoiser_of(case, path)
        ends = config["guidance_low"], config["guidance_high"]
        ways: dict[str, Denoise] = {
            "nocfg": plain,
            "cfg": Interval(ClassifierFree(plain, config["cfg_scale"]), plain, *ends),
        }
        for way, denoise in ways.items():
            *_, last = solver(denoise, z, ts)
            out[f"{name}.{way}"] = last.x
    return out
