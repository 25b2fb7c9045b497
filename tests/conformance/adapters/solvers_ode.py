"""Grids and solvers of the probability-flow ODE: k-diffusion, EDM, Diffusers' Euler and Heun, Flux's schedule."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ditkit.process import grids
from ditkit.process.continuous import EDM, VP, FunctionPath, Linear
from ditkit.process.path import Path, over
from ditkit.process.prediction import V, Velocity
from ditkit.solvers import edm, ode
from ditkit.solvers.ancestral import ddim
from ditkit.solvers.consistency import consistency
from ditkit.solvers.state import State
from tests.conformance.adapters.analytic import DiffusersSigmas, Recorded, Watched, edm_path, mixture_of
from tests.conformance.adapters.solvers_dpm import k_dpm
from tests.conformance.harness import Case, corrects, covers

Solver = Callable[..., Iterator[State]]


class Levels(Path):
    """Given alphas and sigmas, one a row: t is the number of the row."""

    def __init__(self, alpha: Tensor, sigma: Tensor) -> None:
        self._alpha, self._sigma = alpha, sigma

    def alpha(self, t: Tensor) -> Tensor:
        return self._alpha[t.long()]

    def sigma(self, t: Tensor) -> Tensor:
        return self._sigma[t.long()]

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


@covers("solvers_denoiser*")
def denoiser(case: Case) -> dict[str, Tensor]:
    x = case.inputs["x"]
    path = Levels(case.inputs["alpha"], case.inputs["sigma"])
    exact = mixture_of(case).on(path)
    t = torch.arange(len(x), dtype=torch.float64)
    said = exact(x, t)
    return {
        "x0": said.x0,
        "eps": said.eps,
        "score": exact.score(x, t),
        "log_density": exact.log_density(x, t),
        "v_prediction": V().target(path, said.x0, said.eps, t),
        "flow_velocity": Velocity().target(Linear(), said.x0, said.eps, t),
    }


@covers("solvers_k_grids*")
def k_grids(case: Case) -> dict[str, Tensor]:
    config = case.config
    ends = {"sigma_max": config["sigma_max"], "sigma_min": config["sigma_min"]}
    path, vp = EDM(**ends), VP()
    found = {
        "karras": lambda n: grids.karras(path, n, rho=config["rho"], **ends),
        "exponential": lambda n: grids.log_snr(path, n, **ends),
        "polyexponential": lambda n: grids.polyexponential(path, n, rho=config["poly_rho"], **ends),
        "vp": lambda n: grids.uniform(vp, n, t_min=1e-3),
    }
    return {
        f"{name}.n{n}": grids.noise_level(vp if name == "vp" else path, grid(n))
        for name, grid in found.items()
        for n in config["ns"]
    }


@covers("solvers_k_ode*")
def k_ode(case: Case) -> dict[str, Tensor]:
    config, data = case.config, mixture_of(case)
    solvers: dict[str, Solver] = {name: vars(ode)[name] for name in ("euler", "heun", "dpm_2")}
    solvers |= {f"lms{order}": functools.partial(ode.lms, order=order) for order in config["lms_orders"]}
    out = {}
    for grid, sigmas in case.inputs.items():
        if not grid.startswith("sigmas."):
            continue
        path = edm_path(sigmas)
        x, ts = case.inputs["noise"] * sigmas[0], sigmas / sigmas[0]
        for name, solver in solvers.items():
            states = [state.x for state in solver(data.on(path), x, ts)]
            key = f"{grid.removeprefix('sigmas.')}.{name}"
            out[f"{key}.final"] = states[-1]
            out[f"{key}.trajectory"] = torch.stack([x, *states[:-1]])
    return out | k_dpm(case)


def ablation_grid(discretization: str, n: int) -> Tensor:
    """The noise levels of EDM's ablations, with its default ends; no 0 at the end."""
    known: dict[str, Callable[[], Tensor]] = {
        "vp": lambda: grids.noise_level(VP(beta_max=20.0), torch.linspace(1, 1e-3, n, dtype=torch.float64)),
        "ve": lambda: EDM(sigma_max=100).sigma(grids.log_snr(EDM(sigma_max=100), n, sigma_min=0.02)[:-1]),
        "iddpm": lambda: iddpm_levels(n),
        "edm": lambda: EDM().sigma(grids.karras(EDM(), n)[:-1]),
    }
    return known[discretization]()


def iddpm_levels(n: int, steps: int = 1000, c_1: float = 0.001, c_2: float = 0.008) -> Tensor:
    """The levels of Nichol & Dhariwal's chain as EDM has them (Karras et al. 2022, table 1), n of them."""
    j = torch.arange(steps + 1, dtype=torch.float64)
    abar = torch.sin(math.pi / 2 * j / steps / (c_2 + 1)) ** 2
    u = torch.zeros_like(j)
    for k in range(steps, 0, -1):
        u[k - 1] = ((u[k] ** 2 + 1) / (abar[k - 1] / abar[k]).clamp(min=c_1) - 1).sqrt()
    kept = u[(u >= 0.002) & (u <= 81)]
    return kept[((len(kept) - 1) / (n - 1) * torch.arange(n)).round().long()]


def ablation_path(schedule: str, scaling: str, sigmas: Tensor, ends: dict[str, float]) -> Path:
    """The path that a schedule of noise levels and a scaling make, its time up to the largest level."""
    largest = sigmas.max().item()
    if (schedule, scaling) == ("vp", "vp"):
        # through sigma_min at t = 1e-3 and sigma_max at t = 1
        log_low, log_high = (math.log(ends[name] ** 2 + 1) for name in ("sigma_min", "sigma_max"))
        slope = 2 * (log_low / 1e-3 - log_high) / (1e-3 - 1)
        low = log_high - slope / 2
        return VP(beta_min=low, beta_max=low + slope)
    if (schedule, scaling) == ("ve", "none"):
        return FunctionPath(torch.ones_like, lambda t: largest * t.sqrt())
    assert (schedule, scaling) == ("linear", "none"), (schedule, scaling)
    return EDM(sigma_max=largest)


ABLATION_ENDS = {
    "vp": {
        "sigma_min": math.sqrt(math.expm1(0.5 * 19.9 * 1e-6 + 0.1e-3)),
        "sigma_max": math.sqrt(math.expm1(0.5 * 19.9 + 0.1)),
    },
    "ve": {"sigma_min": 0.02, "sigma_max": 100.0},
    "iddpm": {"sigma_min": 0.002, "sigma_max": 81.0},
    "edm": {"sigma_min": 0.002, "sigma_max": 80.0},
}


@covers("solvers_edm*")
def edm_samplers(case: Case) -> dict[str, Tensor]:
    config, data, out = case.config, mixture_of(case), {}
    n, latents = config["num_steps"], case.inputs["latents"]
    churn = {name.lower(): value for name, value in config["churn"].items()}

    def record(key: str, path: Path, solver: Solver, ts: Tensor, **options: Any) -> None:
        for mode, given in (("det", {}), ("churn", churn)):
            watched = Watched(data.on(path))
            x = over(path.sigma(ts[0]), latents) * latents
            *_, last = solver(watched, x, ts, noise=Recorded(case.inputs["noises"]), **given, **options)
            out[f"{key}.{mode}.final"] = last.x
            out[f"{key}.{mode}.sigma_calls"] = watched.sigmas

    ends = {name: config["det"][name] for name in ("sigma_min", "sigma_max")}
    path = EDM(**ends)
    record("edm", path, edm.edm, grids.karras(path, n, rho=config["det"]["rho"]))
    for choice in config["ablation"]:
        sigmas = ablation_grid(choice["discretization"], n)
        ends = ABLATION_ENDS[choice["discretization"]]
        path = ablation_path(choice["schedule"], choice["scaling"], sigmas, ends)
        ts = torch.cat([grids.time_of_noise(path, sigmas), torch.zeros(1, dtype=torch.float64)])
        names = ("solver", "discretization", "schedule", "scaling")
        key = ".".join(["ablation", *(choice[name] for name in names), f"alpha{choice['alpha']}"])
        if choice["solver"] == "euler":
            record(key, path, edm.edm_euler, ts, variable="time")
        else:
            record(key, path, edm.edm, ts, variable="time", node=choice["alpha"])
    return out


@corrects(
    "solvers_edm*",
    why="EDM multiplies 0-dim float32 tensors to make iDDPM's grid, and the small levels lose four digits (its README)",
)
def iddpm_calls(case: Case) -> dict[str, Tensor]:
    """The noise levels of iDDPM's grid in closed form: sigma_k^2 + 1 is a telescoping product, a quotient of sines."""
    n, churn = case.config["num_steps"], case.config["churn"]
    j = math.pi / 2 / 1.008 * torch.arange(1, 1000, dtype=torch.float64) / 1000
    last = torch.tensor(math.pi / 2 / 1.008, dtype=torch.float64)
    every = ((last - j).sin() * (last + j).sin()).sqrt() / j.sin()  # but that of the clipped beta, beyond the grid
    kept = every[(every >= 0.002) & (every <= 81)]
    levels = kept[((len(kept) - 1) / (n - 1) * torch.arange(n)).round().long()]
    raised = (levels >= churn["S_min"]) & (levels <= churn["S_max"])
    gamma = torch.where(raised, min(churn["S_churn"] / n, math.sqrt(2) - 1), 0.0)
    out = {}
    for choice in case.config["ablation"]:
        if choice["discretization"] != "iddpm":
            continue
        key = f"ablation.{choice['solver']}.iddpm.{choice['schedule']}.{choice['scaling']}.alpha{choice['alpha']}"
        for mode, starts in (("det", levels), ("churn", levels * (1 + gamma))):
            stages = torch.stack([starts[:-1], levels[1:]], 1).flatten()  # of Heun, whose last step is Euler's
            both = torch.cat([stages, starts[-1:]])
            out[f"{key}.{mode}.sigma_calls"] = starts if choice["solver"] == "euler" else both
    return out


DIFFUSERS: dict[str, Solver] = {
    "EulerDiscreteScheduler": ode.euler,
    # sigma_up and sigma_down of k-diffusion are DDIM's with eta = 1, seen at x / alpha
    "EulerAncestralDiscreteScheduler": functools.partial(ddim, eta=1.0),
    "HeunDiscreteScheduler": ode.heun,
}


@covers("diffusers_euler*", "diffusers_heun*")
def diffusers(case: Case) -> dict[str, Tensor]:
    out = {}
    for name, variant in case.config["variants"].items():
        levels = DiffusersSigmas(variant["n"], variant["kw"])
        solver, path = DIFFUSERS[variant["cls"]], levels.path
        watched = Watched(mixture_of(case).on(path))
        # one sigma more than timesteps: what lies beyond is not stepped to (log_linear), a last one again is no step
        visited = levels.sigmas[: len(levels.timesteps) + 1]
        ts = grids.time_of_noise(path, visited.unique_consecutive())
        noise = Recorded(case.inputs.get("noises", torch.zeros(0)))
        x = case.inputs["noise"].double() * levels.start
        *_, last = solver(watched, over(path.alpha(ts[0]), x) * x, ts, noise=noise)
        if len(ts) < len(visited):
            watched(last.x, last.t)
        final = over(1 / path.alpha(last.t), last.x) * last.x
        outputs = [answer(path, variant["kw"], t, said) for _, t, said in watched.calls]
        # Heun's list names every evaluation: all but the first and the end are met twice
        again = len(watched.calls) - len(levels.timesteps)
        out[f"{name}.timesteps"] = repeated(levels.timesteps, again)
        out[f"{name}.sigmas"] = repeated(levels.sigmas, again)
        out[f"{name}.model_outputs"] = torch.stack(outputs)
        out[f"{name}.trajectory"] = torch.stack([*watched.inputs[1:], final])
        out[f"{name}.n_noises"] = torch.tensor(noise.count)
    return out


def answer(path: Path, kw: dict[str, Any], t: Tensor, said: Any) -> Tensor:
    """What the reference's model says: eps, or v."""
    return V().target(path, said.x0, said.eps, t) if kw.get("prediction_type") == "v_prediction" else said.eps


def repeated(values: Tensor, again: int) -> Tensor:
    """The values, the ``again`` ones after the first twice."""
    times = torch.ones(len(values), dtype=torch.int64)
    times[1 : 1 + again] = 2
    return values.repeat_interleave(times)


def flow_sigmas(n: int, kw: dict[str, Any], set_kw: dict[str, Any]) -> Tensor:
    """The grid of FlowMatchEulerDiscreteScheduler, with 0 at its end."""
    path, zero = Linear(), torch.zeros(1, dtype=torch.float64)
    dynamic, last = kw.get("use_dynamic_shifting"), 1 / kw.get("num_train_timesteps", 1000)
    shift = kw.get("shift", 1.0)
    if dynamic:
        linear = kw.get("time_shift_type", "exponential") == "linear"
        shift = set_kw["mu"] if linear else math.exp(set_kw["mu"])
    else:
        # the reference shifts its last noisy time once here, and once more with all the others
        last = grids.time_shift(torch.tensor(last, dtype=torch.float64), shift).item()
    if "sigmas" in set_kw:
        return torch.cat([grids.time_shift(torch.tensor(set_kw["sigmas"], dtype=torch.float64), shift), zero])
    ts = grids.shifted(path, n, shift=shift, t_min=last)
    if kw.get("shift_terminal"):
        ts = torch.cat([1 - (1 - ts[:-1]) * (1 - kw["shift_terminal"]) / (1 - ts[-2]), zero])
    if kw.get("use_karras_sigmas"):
        # over sigma itself, as if alpha were 1
        levels = EDM(sigma_min=ts[-2].item(), sigma_max=ts[0].item())
        ts = levels.sigma(grids.karras(levels, n))
    return ts


@covers("diffusers_flow_euler*")
def diffusers_flow(case: Case) -> dict[str, Tensor]:
    out, path = {}, Linear()
    for name, variant in case.config["variants"].items():
        ts = flow_sigmas(variant["n"], variant["kw"], variant.get("set_kw", {}))
        watched, noise = Watched(mixture_of(case).on(path)), Recorded(case.inputs["noises"])
        solver = consistency if variant["kw"].get("stochastic_sampling") else ode.euler
        states = [state.x for state in solver(watched, case.inputs["noise"].double(), ts, noise=noise)]
        out[f"{name}.timesteps"] = ts[:-1] * variant["kw"].get("num_train_timesteps", 1000)
        out[f"{name}.sigmas"] = ts
        out[f"{name}.model_outputs"] = torch.stack([said.eps - said.x0 for _, _, said in watched.calls])
        out[f"{name}.trajectory"] = torch.stack(states)
        # the reference draws a noise for the step to t = 0 too, and multiplies it by 0
        out[f"{name}.n_noises"] = torch.tensor(len(states) if noise.count else 0)
    return out


@covers("flux_schedule*")
def flux_schedule(case: Case) -> dict[str, Tensor]:
    config, path, out = case.config, Linear(), {}
    for n in config["num_steps"]:
        out[f"noshift.n{n}"] = grids.uniform(path, n)
        out |= {f"n{n}.L{tokens}": grids.flux(path, n, tokens=tokens) for tokens in config["seq_lens"]}
    out |= {f"mu.L{tokens}": torch.tensor(grids.flux_mu(tokens)).double() for tokens in config["seq_lens"]}
    for name in case.expected():
        if name.startswith("time_shift_mu"):
            shift = math.exp(float(name.removeprefix("time_shift_mu")))
            out[name] = grids.time_shift(case.inputs["u"], shift)
    height, width = config["hw"][0]
    packed = case.inputs["packed"]
    h, w = math.ceil(height / 16), math.ceil(width / 16)
    channels = packed.shape[-1] // 4
    cells = packed.reshape(len(packed), h, w, channels, 2, 2)  # B h w C P P
    out["unpacked"] = cells.permute(0, 3, 1, 4, 2, 5).reshape(len(packed), channels, 2 * h, 2 * w)
    return out
