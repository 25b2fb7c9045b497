"""Diffusers' schedulers on its own grids: DPM-Solver multi-step and single-step, UniPC, DDIM, DDPM, LCM."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditkit.process import betas, grids
from ditkit.process.continuous import Linear
from ditkit.process.denoiser import Denoise, Denoised, clipped
from ditkit.process.path import DiscretePath, Path
from ditkit.process.prediction import X0, Eps, Prediction, V, Velocity
from ditkit.solvers.ancestral import ddim, ddpm
from ditkit.solvers.consistency import Boundary, consistency
from ditkit.solvers.dpm_multistep import multistep
from ditkit.solvers.dpm_singlestep import MIDPOINT, TAYLOR, Stages, singlestep
from ditkit.solvers.exponential import Data, Form, Move, Noise, Rule, exact, midpoint, taylor
from ditkit.solvers.state import State
from ditkit.solvers.unipc import FORMS as PREDICTED
from ditkit.solvers.unipc import VARIANTS, predict_correct
from tests.conformance.adapters.analytic import Recorded, Watched, beta_quantiles, mixture_of
from tests.conformance.harness import Case, covers

TRAINED = 1000
"""``num_train_timesteps`` where a case names none."""
ROWS: dict[str, Prediction] = {
    "epsilon": Eps(),
    "sample": X0(),
    "v_prediction": V(),
    "flow_prediction": Velocity(),
}
Settings = dict[str, Any]
Spacing = Callable[[float, float, int, Settings], np.ndarray]
"""(largest and smallest sigma, steps, arguments) -> sigmas, without the last."""


def betas_of(kw: Settings) -> Tensor:
    """The betas of a scheduler's arguments."""
    steps, first, last = kw.get("num_train_timesteps", TRAINED), kw.get("beta_start", 1e-4), kw.get("beta_end", 0.02)
    known: dict[str, Callable[[], Tensor]] = {
        "linear": lambda: betas.linear(steps, first, last),
        "scaled_linear": lambda: betas.scaled_linear(steps, first, last),
        "squaredcos_cap_v2": lambda: betas.cosine(steps),
    }
    beta = known[kw.get("beta_schedule", "linear")]()
    return zero_terminal(beta) if kw.get("rescale_betas_zero_snr") else beta


def path_of(kw: Settings) -> DiscretePath:
    """The scheduler's chain. The reference has abar in float32, so its smallest sigma is 1e-4 off; so it is here."""
    abar = (1 - betas_of(kw).float()).cumprod(0).double()
    return DiscretePath(1 - abar / torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]]))


def zero_terminal(beta: Tensor) -> Tensor:
    """alpha shifted and scaled so that nothing is left of the image at the last step (Lin et al. 2024, alg. 1)."""
    alpha = (1 - beta).cumprod(0).sqrt()
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    return 1 - torch.cat([alpha[:1], alpha[1:] / alpha[:-1]]) ** 2


def report(case: Case, name: str, variant: Settings, watched: Watched, states: list[State], draws: int) -> dict:
    """What the cases record of one variant; model outputs in the row that the scheduler was told."""
    row = ROWS[variant["kw"].get("prediction_type", "epsilon")]
    outputs = [row.target(watched.path, said.x0, said.eps, t) for _, t, said in watched.calls]
    return {
        f"{name}.model_outputs": torch.stack(outputs),
        f"{name}.trajectory": torch.stack([state.x for state in states]),
        f"{name}.n_noises": torch.tensor(draws),
    }


class Levels:
    """Path, times, timesteps and sigmas of the schedulers that step in noise levels, in VP's coordinates."""

    def __init__(self, n: int, kw: Settings, spacings: dict[str, Spacing]) -> None:
        """n: inference steps. spacings: the scheduler's own, of sigmas."""
        chain = path_of(kw)
        self.path: Path = chain
        index = torch.arange(chain.steps, dtype=torch.float64)
        self.table = grids.noise_level(chain, (index + 1) / chain.steps).numpy()
        self.timesteps = self._timesteps(n, kw)
        self.levels = np.interp(self.timesteps, index.numpy(), self.table)
        spacing = next((name for name in spacings if kw.get(f"use_{name}")), None)
        if spacing is not None:
            self.levels = spacings[spacing](self.table[-1], self.table[0], n, kw)
            found = np.interp(np.log(self.levels), np.log(self.table), index.numpy())
            self.timesteps = found.round() if spacing in ROUNDED else np.trunc(found)
        if kw.get("use_flow_sigmas"):
            self.path, self.timesteps = Linear(), np.trunc(self.levels * chain.steps)
        last = self.table[0] if kw.get("final_sigmas_type", "zero") == "sigma_min" else 0.0
        self.sigmas = torch.tensor([*self.levels, last], dtype=torch.float64)
        flow = bool(kw.get("use_flow_sigmas"))
        self.ts = self.sigmas if flow else grids.time_of_noise(self.path, self.sigmas)

    def _timesteps(self, n: int, kw: Settings) -> np.ndarray:
        """As for n + 1 steps, without the last, but where they are trailing."""
        total = kw.get("num_train_timesteps", TRAINED)
        known: dict[str, Callable[[], np.ndarray]] = {
            "linspace": lambda: np.linspace(0, total - 1, n + 1).round()[::-1][:-1],
            "leading": lambda: (np.arange(n + 1) * (total // (n + 1)))[::-1][:-1] + kw.get("steps_offset", 0),
            "trailing": lambda: np.arange(total, 0, -total / n).round() - 1,
        }
        return known[kw.get("timestep_spacing", "linspace")]().astype(np.float64)

    def record(self, name: str) -> dict[str, Tensor]:
        return {f"{name}.timesteps": torch.from_numpy(self.timesteps.copy()), f"{name}.sigmas": self.sigmas}


def karras_levels(high: float, low: float, n: int, kw: Settings, rho: float = 7.0) -> np.ndarray:
    return np.linspace(high ** (1 / rho), low ** (1 / rho), n) ** rho


def exponential_levels(high: float, low: float, n: int, kw: Settings) -> np.ndarray:
    return np.exp(np.linspace(np.log(high), np.log(low), n))


def beta_levels(high: float, low: float, n: int, kw: Settings) -> np.ndarray:
    return low + (high - low) * beta_quantiles(n).numpy()


def flow_levels(high: float, low: float, n: int, kw: Settings) -> np.ndarray:
    sigmas = 1 - np.linspace(1, 1 / kw.get("num_train_timesteps", TRAINED), n + 1)
    return grids.time_shift(torch.from_numpy(sigmas[::-1][:-1].copy()), kw.get("flow_shift", 1.0)).numpy()


def unipc_flow_levels(high: float, low: float, n: int, kw: Settings) -> np.ndarray:
    """From 1, less what keeps log-SNR finite."""
    sigmas = np.linspace(1, 1 / kw.get("num_train_timesteps", TRAINED), n + 1)[:-1]
    shifted = grids.time_shift(torch.from_numpy(sigmas), kw.get("flow_shift", 1.0)).numpy()
    return np.minimum(shifted, 1 - 1e-6)


SIGMAS: dict[str, Spacing] = {
    "karras_sigmas": karras_levels,
    "lu_lambdas": exponential_levels,
    "exponential_sigmas": exponential_levels,
    "beta_sigmas": beta_levels,
    "flow_sigmas": flow_levels,
}
UNIPC_SIGMAS = SIGMAS | {"flow_sigmas": unipc_flow_levels}
ROUNDED = ("karras_sigmas", "lu_lambdas")
"""Spacings whose timesteps are rounded; those of others are cut off."""
FORMS: dict[str, Form] = {
    "dpmsolver": Noise(),
    "dpmsolver++": Data(),
    "sde-dpmsolver": Noise(eta=1.0),
    "sde-dpmsolver++": Data(eta=1.0),
}


def rule_of(kw: Settings) -> Rule:
    """How DPMSolverMultistepScheduler weighs."""
    first = exact if kw.get("solver_type") == "heun" else midpoint

    def rule(move: Move, n: int) -> list[float]:
        if n == 1:
            return first(move, n)
        moments = taylor(move, n)
        # sde-dpmsolver++ subtracts in its phi_3 the 1/2 that is to be added
        return [moments[0], moments[1] - 1] if kw.get("algorithm_type") == "sde-dpmsolver++" else moments

    return rule


def orders_of(n: int, kw: Settings, few: int = 15) -> list[int]:
    """The order that each multi-step step may have."""
    order, lower = kw.get("solver_order", 2), kw.get("lower_order_final", True) and n < few
    orders = [min(order, n - k) if lower else order for k in range(n)]
    if kw.get("euler_at_final") or kw.get("final_sigmas_type", "zero") == "zero":
        orders[-1] = 1
    return orders


@covers("diffusers_dpm_multistep*")
def dpm_multistep(case: Case) -> dict[str, Tensor]:
    found = {}
    for name, variant in case.config["variants"].items():
        n, kw = variant["n"], variant["kw"]
        algorithm = kw.get("algorithm_type", "dpmsolver++")
        levels = Levels(n, kw, SIGMAS)
        watched, x = Watched(mixture_of(case).on(levels.path)), case.inputs["noise"].double()
        noise = Recorded(case.inputs["noises"])
        states = list(multistep(FORMS[algorithm], rule_of(kw), orders_of(n, kw), watched, x, levels.ts, noise))
        # the reference draws for the step to sigma = 0 too
        draws = n if algorithm.startswith("sde") else 0
        found |= levels.record(name) | report(case, name, variant, watched, states, draws)
    return found


def single_orders(n: int, kw: Settings) -> list[int]:
    """``get_order_list``, as the lengths of whole steps."""
    order = kw.get("solver_order", 2)
    whole, rest = divmod(n, order)
    orders = [order] * whole + [rest] * (rest > 0)
    if kw.get("lower_order_final") and not rest and order > 1:
        orders = [*orders[:-1], *([2, 1] if order == 3 else [1, 1])]
    if kw.get("final_sigmas_type", "zero") == "zero" and orders[-1] > 1:
        orders = [*orders[:-1], *[1] * orders[-1]]
    return orders


@covers("diffusers_dpm_singlestep*")
def dpm_singlestep(case: Case) -> dict[str, Tensor]:
    found = {}
    for name, variant in case.config["variants"].items():
        n, kw = variant["n"], variant["kw"]
        algorithm = kw.get("algorithm_type", "dpmsolver++")
        levels = Levels(n, kw, SIGMAS)
        # its second stage of order 3 is a step of its order 2
        second: Stages = {(3, 2): ((1,), midpoint)}
        stages = TAYLOR if kw.get("solver_type") == "heun" else {**MIDPOINT, **second}
        watched, x = Watched(mixture_of(case).on(levels.path)), case.inputs["noise"].double()
        noise, orders = Recorded(case.inputs["noises"]), single_orders(n, kw)
        states = list(singlestep(FORMS[algorithm], stages, orders, watched, x, levels.ts, noise))
        draws = n if algorithm.startswith("sde") else 0
        found |= levels.record(name) | report(case, name, variant, watched, states, draws)
    return found


@covers("diffusers_unipc*")
def unipc_scheduler(case: Case) -> dict[str, Tensor]:
    found = {}
    for name, variant in case.config["variants"].items():
        n, kw = variant["n"], variant["kw"]
        levels = Levels(n, kw, UNIPC_SIGMAS)
        watched, x = Watched(mixture_of(case).on(levels.path)), case.inputs["noise"].double()
        form = PREDICTED["x0" if kw.get("predict_x0", True) else "eps"]
        orders = orders_of(n, kw, few=n + 1)
        corrected = [k not in kw.get("disable_corrector", ()) for k in range(n)]
        rule = VARIANTS[kw.get("solver_type", "bh2")]
        states = list(predict_correct(form, rule, orders, corrected, watched, x, levels.ts))
        found |= levels.record(name) | report(case, name, variant, watched, states, 0)
    return found


def steps_of(n: int, kw: Settings, default: str) -> list[int]:
    """The chain's indices that DDIM and DDPM visit."""
    total = kw.get("num_train_timesteps", TRAINED)
    known: dict[str, Callable[[], np.ndarray]] = {
        "linspace": lambda: np.linspace(0, total - 1, n).round()[::-1],
        "leading": lambda: (np.arange(n) * (total // n))[::-1] + kw.get("steps_offset", 0),
        "trailing": lambda: np.arange(total, 0, -total / n).round() - 1,
    }
    return known[kw.get("timestep_spacing", default)]().astype(np.int64).tolist()


def clips(denoise: Denoise, kw: Settings, step_kw: Settings) -> Denoise:
    """The reference's clipping: x0 alone, unless it is told to make eps fit."""
    if not kw.get("clip_sample", True):
        return denoise
    return clipped(denoise) if step_kw.get("use_clipped_model_output") else ClippedX0(denoise)


class ClippedX0:
    """x0 is clipped, eps stays what the network said."""

    def __init__(self, denoise: Denoise) -> None:
        self.denoise, self.path = denoise, denoise.path

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        said = self.denoise(x, t)
        return Denoised(said.x0.clamp(-1, 1), said.eps, said.variance_mix)


@covers("diffusers_ddim")
def ddim_scheduler(case: Case) -> dict[str, Tensor]:
    found = {}
    for name, variant in case.config["variants"].items():
        n, kw, step_kw = variant["n"], variant["kw"], variant.get("step_kw", {})
        path, indices = path_of(kw), steps_of(n, kw, "leading")
        watched, x = Watched(mixture_of(case).on(path)), case.inputs["noise"].double()
        denoise, eta, states = clips(watched, kw, step_kw), step_kw.get("eta", 0.0), []
        for k, index in enumerate(indices):
            # each step goes down by T // n, wherever the next one starts
            lowest = -1 if kw.get("set_alpha_to_one", True) else 0
            to = index - path.steps // n
            ts = (torch.tensor([index, to if to >= 0 else lowest], dtype=torch.float64) + 1) / path.steps
            x = states[-1].x if states else x
            states += ddim_to(denoise, x, ts, lambda _, k=k: case.inputs["noises"][k].double(), eta)
        found |= report(case, name, variant, watched, states, n if eta > 0 else 0)
        found[f"{name}.timesteps"] = torch.tensor(indices)
    return found


def ddim_to(denoise: Denoise, x: Tensor, ts: Tensor, noise: Callable[[int], Tensor], eta: float) -> list[State]:
    """One step of DDIM; none where it has no length: what the denoiser says is mixed at the same level."""
    if ts[0] > ts[1]:
        return list(ddim(denoise, x, ts, noise=noise, eta=eta))
    said = denoise(x, ts[0])
    return [State(denoise.path.mix(said.x0, said.eps, ts[1]), ts[1], said)]


class Replayed:
    """At almost pure noise the reference's x0 is mere float32 rounding: there it is replayed from the recording."""

    def __init__(self, denoise: Denoise, eps: Tensor) -> None:
        self.denoise, self.path, self.eps = denoise, denoise.path, iter(eps.float())

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        said, eps = self.denoise(x, t), next(self.eps)
        alpha, sigma = self.path.alpha(t).float(), self.path.sigma(t).float()
        return Denoised(((x.float() - sigma * eps) / alpha).double(), said.eps) if alpha < 1e-3 else said


class Ranged:
    """A denoiser with the case's constant learned variance."""

    def __init__(self, denoise: Denoise, values: Tensor) -> None:
        self.denoise, self.path, self.mix = denoise, denoise.path, (values.double() + 1) / 2

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        said = self.denoise(x, t)
        return Denoised(said.x0, said.eps, self.mix)


VARIANCES = {"fixed_small": "posterior", "fixed_large": "beta", "learned_range": "learned"}


@covers("diffusers_ddpm")
def ddpm_scheduler(case: Case) -> dict[str, Tensor]:
    found = {}
    for name, variant in case.config["variants"].items():
        n, kw = variant["n"], variant["kw"]
        path, indices = path_of(kw), steps_of(n, kw, "leading")
        watched, x = Watched(mixture_of(case).on(path)), case.inputs["noise"].double()
        rule = VARIANCES[kw.get("variance_type", "fixed_small")]
        denoise: Denoise = watched
        if rule == "learned":
            denoise = Ranged(watched, case.inputs["var_values"])
        elif kw.get("prediction_type", "epsilon") == "epsilon":
            denoise = Replayed(watched, case.tensors[f"out.{name}.model_outputs"])
        ts = (torch.tensor([*indices, -1], dtype=torch.float64) + 1) / path.steps
        solver = functools.partial(ddpm, noise=padded(case.inputs["noises"]), variance=rule)
        states = list(solver(clips(denoise, kw, {}), x, ts))
        found |= report(case, name, variant, watched, states, sum(index > 0 for index in indices))
        found[f"{name}.timesteps"] = torch.tensor(indices)
        if rule == "learned":
            outputs = found[f"{name}.model_outputs"]
            values = case.inputs["var_values"].double().expand_as(outputs)
            found[f"{name}.model_outputs"] = torch.cat([outputs, values], dim=2)
    return found


def padded(noises: Tensor) -> Callable[[int], Tensor]:
    """The recorded noises; 0 for steps beyond them, which use none."""
    return lambda k: noises[k].double() if k < len(noises) else torch.zeros_like(noises[0]).double()


@covers("diffusers_lcm")
def lcm_scheduler(case: Case) -> dict[str, Tensor]:
    found = {}
    for name, variant in case.config["variants"].items():
        n, kw = variant["n"], variant["kw"]
        path, original = path_of(kw), kw.get("original_inference_steps", 50)
        stride = path.steps // original
        visited = np.floor(np.linspace(0, original, n, endpoint=False)).astype(np.int64)
        indices = [(original - i) * stride - 1 for i in visited.tolist()]
        watched, x = Watched(mixture_of(case).on(path)), case.inputs["noise"].double()
        noise = Recorded(case.inputs["noises"])
        boundary = Boundary(clips(watched, kw, {}), timestep_scaling=kw.get("timestep_scaling", 10.0))
        ts = (torch.tensor([*indices, -1], dtype=torch.float64) + 1) / path.steps
        states = list(consistency(boundary, x, ts, noise=noise))
        found |= report(case, name, variant, watched, states, noise.count)
        found[f"{name}.timesteps"] = torch.tensor(indices)
    return found
