"""Cases of the DPM-Solver and k-diffusion codes: solvers on a mixture of Gaussians, whose denoiser is known exactly."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ditkit.process import betas, grids
from ditkit.process.continuous import EDM, VP
from ditkit.process.denoiser import Denoise, MapX0
from ditkit.process.path import DiscretePath, Path
from ditkit.solvers.counted import Counted
from ditkit.solvers.dpm_adaptive import Elementary, Interval, Tolerance, adaptive, dpm_adaptive, dpm_fast
from ditkit.solvers.dpm_ancestral import (
    Renewal,
    dpm_2_ancestral,
    dpm_2_churn,
    dpmpp_2s_ancestral,
    dpmpp_sde,
    euler_ancestral,
)
from ditkit.solvers.dpm_multistep import dpmpp_2m, dpmpp_2m_sde, dpmpp_3m_sde, multistep
from ditkit.solvers.dpm_singlestep import MIDPOINT, TAYLOR, orders_of, singlestep
from ditkit.solvers.edm import edm, edm_euler
from ditkit.solvers.exponential import DATA, NOISE, Level, Move, final_orders, midpoint, taylor
from ditkit.solvers.state import State
from tests.conformance.adapters.analytic import Recorded, edm_path, mixture_of
from tests.conformance.harness import Case, covers

Solver = Callable[..., Iterator[State]]
FORMS = {"dpmsolver": NOISE, "dpmsolver++": DATA}
LOWER_ORDER_BELOW = 10
"""Where the reference's ``lower_order_final`` acts in multi-step solvers."""


def path_of(config: dict[str, Any]) -> Path:
    if config["schedule"] == "linear":
        return VP(beta_min=config["beta_0"], beta_max=config["beta_1"])
    return DiscretePath(betas.linear(config["N"], config["beta_start"], config["beta_end"]))


def published(move: Move, n: int) -> list[float]:
    """The reference's multi-step weights of its type "dpmsolver"."""
    return midpoint(move, n) if n == 1 else taylor(move, n)


def between(path: Path, skip: str, start: Tensor, end: Tensor, steps: int) -> Tensor:
    """``get_time_steps``."""
    if skip == "logSNR":
        high, low = path.log_snr(torch.stack([start, end])).tolist()
        inside = path.time_at(torch.linspace(high, low, steps + 1, dtype=torch.float64))[1:-1]
        return torch.cat([start[None], inside, end[None]])
    if skip == "time_quadratic":
        return torch.linspace(start.sqrt().item(), end.sqrt().item(), steps + 1, dtype=torch.float64) ** 2
    return torch.linspace(start.item(), end.item(), steps + 1, dtype=torch.float64)


class Reference:
    """``DPM_Solver`` on a case."""

    def __init__(self, case: Case) -> None:
        config = case.config
        self.path, self.x, self.form = path_of(config), case.inputs["x_T"], FORMS[config["algorithm_type"]]
        self.denoise: Denoise = mixture_of(case).on(self.path)
        start, end = config["t_start"], config["t_end"]
        self.start = torch.tensor(1.0 if start is None else start, dtype=torch.float64)
        self.end = torch.tensor(1 / config["N"] if end is None else end, dtype=torch.float64)

    def grid(self, skip: str, steps: int) -> Tensor:
        return between(self.path, skip, self.start, self.end, steps)

    def multistep(self, ts: Tensor, order: int, *, rule=published, lower: int = LOWER_ORDER_BELOW) -> list[State]:
        orders = final_orders(len(ts) - 1, order, lower, clean_end=False)
        return list(multistep(self.form, rule, orders, self.denoise, self.x, ts, None))

    def outer(self, skip: str, steps: int, orders: list[int]) -> Tensor:
        """``get_orders_and_timesteps_for_singlestep_solver``."""
        if skip == "logSNR":
            return self.grid(skip, len(orders))
        return self.grid(skip, steps)[[0, *itertools.accumulate(orders)]]

    def singlestep(self, skip: str, outer: Tensor, orders: list[int], *, stages=MIDPOINT) -> list[State]:
        """The states after whole steps; the stages are spaced inside each step as ``skip`` says."""
        inner = [between(self.path, skip, s, t, n) for s, t, n in zip(outer[:-1], outer[1:], orders, strict=True)]
        ts = torch.cat([outer[:1], *(part[1:] for part in inner)])
        states = list(singlestep(self.form, stages, orders, self.denoise, self.x, ts, None))
        return [states[k - 1] for k in itertools.accumulate(orders)]

    def adaptive(self, order: int) -> State:
        """``dpm_solver_adaptive`` with its defaults."""
        interval = NearEnd(self.denoise, torch.stack([self.start, self.end]), None)
        control = SingleFactor(0.05, order, Tolerance(0.05, 0.0078))
        *_, last = adaptive(self.form, order, control, self.denoise, self.x, interval, None, Renewal(0.0, 1.0))
        return last


class NearEnd(Interval):
    """The reference ends where its time is this near."""

    def reached(self, s: Level) -> bool:
        return bool((s.t - self.end.t).abs() <= 1e-5)


class SingleFactor(Elementary):
    """The reference keeps the factor of its step size in float32."""

    def accepts(self, error: float, h: float) -> bool:
        factor = torch.tensor(error, dtype=torch.float64).pow(-1 / self.order).float().item()
        self.h = self.theta * h * factor
        return error <= 1


def schedule_of(path: Path, t: Tensor) -> dict[str, Tensor]:
    log_snr = path.log_snr(t)
    return {
        "t": t,
        "log_alpha": path.alpha(t).log(),
        "std": path.sigma(t),
        "lambda": log_snr,
        "inverse_lambda": path.time_at(log_snr),
    }


def standard(ref: Reference, skip: str, steps: int, order: int) -> Iterator[tuple[str, Tensor]]:
    """Both kinds of one order on one grid."""
    ts = ref.grid(skip, steps)
    yield f"multistep.K{steps}.{skip}.timesteps", ts
    states = ref.multistep(ts, order)
    name = f"K{steps}.o{order}"
    yield f"multistep.{name}.{skip}.final", states[-1].x
    yield f"multistep.{name}.{skip}.trajectory", torch.stack([ref.x, *(state.x for state in states)])
    orders = orders_of(steps, order, final_lower=True)
    outer = ref.outer(skip, steps, orders)
    states = ref.singlestep(skip, outer, orders)
    yield f"singlestep.{name}.orders", torch.tensor(orders)
    yield f"singlestep.{name}.{skip}.timesteps", outer
    yield f"singlestep.{name}.{skip}.final", states[-1].x
    yield f"singlestep.{name}.{skip}.trajectory", torch.stack([state.x for state in states])


def thresholded(denoise: Denoise, ratio: float, largest: float) -> MapX0:
    """Dynamic thresholding (Saharia et al. 2022)."""

    def threshold(x0: Tensor) -> Tensor:
        s = x0.abs().flatten(1).quantile(ratio, dim=1).clamp(min=largest)[:, None]
        return x0.clamp(-s, s) / s

    return MapX0(denoise, threshold)


def variants(case: Case, ref: Reference, steps: int) -> Iterator[tuple[str, Tensor]]:
    """The reference's options, one at a time, on the uniform grid."""
    skip = "time_uniform"
    ts = ref.grid(skip, steps)
    for order in (2, 3):
        orders = orders_of(steps, order, final_lower=True)
        yield f"taylor.multistep.o{order}.final", ref.multistep(ts, order, rule=taylor)[-1].x
        outer = ref.outer(skip, steps, orders)
        yield f"taylor.singlestep.o{order}.final", ref.singlestep(skip, outer, orders, stages=TAYLOR)[-1].x
        yield f"no_lower_order_final.multistep.o{order}.final", ref.multistep(ts, order, lower=0)[-1].x
        fixed = [order] * (steps // order)
        outer = ref.grid(skip, len(fixed))
        yield f"adaptive.o{order}.final", ref.adaptive(order).x
        yield f"singlestep_fixed.o{order}.final", ref.singlestep(skip, outer, fixed)[-1].x
    last = ref.multistep(ts, 2)[-1]
    yield "denoise_to_zero.multistep.o2.final", ref.denoise(last.x, last.t).x0
    part = between(ref.path, skip, *torch.tensor([0.8, 0.1], dtype=torch.float64), steps)
    yield "subinterval.multistep.o2.final", ref.multistep(part, 2)[-1].x
    ref.denoise = thresholded(ref.denoise, 0.9, 0.7)
    yield "dynamic_thresholding.multistep.o2.final", ref.multistep(ts, 2)[-1].x


@covers("solvers_dpm_*")
def dpm_solver(case: Case) -> dict[str, Tensor]:
    config, ref = case.config, Reference(case)
    found = {f"schedule.{name}": v for name, v in schedule_of(ref.path, case.tensors["out.schedule.t"]).items()}
    for skip, steps, order in itertools.product(config["skip_types"], config["steps"], config["orders"]):
        found |= dict(standard(ref, skip, steps, order))
    return found | dict(variants(case, ref, config["steps"][0]))


K_SAMPLERS: dict[str, Solver] = {
    "euler_ancestral": euler_ancestral,
    "dpm_2_ancestral": dpm_2_ancestral,
    "dpmpp_2s_ancestral": dpmpp_2s_ancestral,
    "dpmpp_sde": dpmpp_sde,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m_sde": dpmpp_3m_sde,
}
CHURNED: dict[str, Solver] = {"euler": edm_euler, "heun": edm, "dpm_2": dpm_2_churn}
RULES = {"heun": "exact", "midpoint": "midpoint"}
DRAW_ALWAYS = {"euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde"}
"""Samplers of the reference that draw the noise also when they multiply it by 0."""


def options_of(name: str, options: dict[str, str]) -> dict[str, str]:
    """The reference's options as ours. Its 3M weighs the second difference by half."""
    if name == "dpmpp_3m_sde":
        return {"rule": "taylor"}
    return {"rule": RULES[options["solver_type"]]} if options else {}


def draws_of(solver: Solver, denoise: Denoise, x: Tensor, ts: Tensor) -> int:
    """How many noises a solver asks for where all of them count."""
    count = Recorded(torch.zeros(2 * len(ts), *x.shape))
    list(solver(denoise, x, ts, noise=count, eta=1.0))
    return count.count


@covers("solvers_k_sde*")
def k_diffusion_sde(case: Case) -> dict[str, Tensor]:
    config, found = case.config, {}
    for grid in (name.removeprefix("sigmas.") for name in case.inputs if name.startswith("sigmas.")):
        sigmas = case.inputs[f"sigmas.{grid}"]
        path = edm_path(sigmas)
        denoise, x, ts = mixture_of(case).on(path), case.inputs["noise"] * sigmas[0], sigmas / sigmas[0]
        etas = config["etas"] if grid == "karras" else [1.0]
        for (name, options), eta in itertools.product(config["samplers"], etas):
            key, solver = ".".join([grid, name, *options.values(), f"eta{eta}"]), K_SAMPLERS[name]
            ours, noise = options_of(name, options), Recorded(case.inputs["noises"])
            *_, last = solver(denoise, x, ts, noise=noise, eta=eta, s_noise=config["s_noise"], **ours)
            unused = draws_of(solver, denoise, x, ts) if eta == 0 and name in DRAW_ALWAYS else 0
            found |= {f"{key}.final": last.x, f"{key}.n_noises": torch.tensor(max(noise.count, unused))}
        churn = {name.replace("s_tm", "s_m"): value for name, value in config["churn"].items()}
        for name, solver in CHURNED.items():
            *_, last = solver(denoise, x, ts, noise=Recorded(case.inputs["noises"]), **churn)
            found[f"{grid}.{name}.churn.final"] = last.x
    return found


def k_dpm(case: Case) -> dict[str, Tensor]:
    """The solvers of ``solvers_k_ode`` that are DPM-Solvers."""
    config, found = case.config, {}
    data, noise = mixture_of(case), case.inputs["noise"]
    for name, sigmas in case.inputs.items():
        if name.startswith("sigmas."):
            x = noise * sigmas[0]
            states = [s.x for s in dpmpp_2m(data.on(edm_path(sigmas)), x, sigmas / sigmas[0], lower_order_below=0)]
            found[f"{name.removeprefix('sigmas.')}.dpmpp_2m.final"] = states[-1]
            found[f"{name.removeprefix('sigmas.')}.dpmpp_2m.trajectory"] = torch.stack([x, *states[:-1]])
    ends = {name: config[name] for name in ("sigma_min", "sigma_max")}
    path, x = EDM(**ends), noise * config["sigma_max"]
    for n in config["fast_n"]:
        *_, last = dpm_fast(data.on(path), x, grids.log_snr(path, n, to_zero=False, **ends))
        found[f"dpm_fast.n{n}.final"] = last.x
    for order in (2, 3):
        counted = Counted(data.on(path))
        ts = grids.log_snr(path, 1, to_zero=False, **ends)
        *_, last = dpm_adaptive(counted, x, ts, order=order)
        found[f"dpm_adaptive.o{order}.final"] = last.x
        evaluations = counted.evaluations
        found[f"dpm_adaptive.o{order}.nfe_steps"] = torch.tensor([evaluations, evaluations // order])
    return found
