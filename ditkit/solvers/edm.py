"""Floor 1: EDM's stochastic sampler: before each step a little noise is added, "churn" (Karras et al. 2022, alg. 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.process.denoiser import Denoise
from ditkit.process.grids import check, noise_level, time_of_noise
from ditkit.process.path import Path
from ditkit.solvers.flow import EULER, Flow, Tableau, two_stage, usable
from ditkit.solvers.state import State

NoiseSource = Callable[[int], Tensor]
LARGEST_GAMMA = math.sqrt(2) - 1
"""The noise level rises by at most sqrt(2): more would be newer noise than old."""


def edm(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    node: float = 1.0,
    variable: str = "noise",
) -> Iterator[State]:
    """Churn, then a step of order 2; the last step, to t = 0, is Euler's (Karras et al. 2022, alg. 2).

    x: (B, C, ...) at ts[0]. noise(k): the churn of step k. s_churn: how much over all steps, 0 is deterministic; s_min,
    s_max: the noise levels sigma / alpha where there is any; s_noise: its standard deviation.
    node: where the second slope is, 1 Heun, 1/2 midpoint (alg. 3's alpha). variable: see ditkit.solvers.ode.
    UserError: as in euler; s_churn, s_min or s_noise below 0, s_min above s_max, node outside (0,
    1].
    """
    if not 0 < node <= 1:
        raise UserError(f"node {node:g}: expected above 0 to 1; 1 is Heun's, 0.5 the midpoint")
    yield from _churned(denoise, x, ts, noise, (s_churn, s_min, s_max, s_noise), two_stage(node), variable)


def edm_euler(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    variable: str = "noise",
) -> Iterator[State]:
    """Churn, then an Euler step (k-diffusion's euler; Karras et al. 2022's ablations). Arguments: see edm."""
    yield from _churned(denoise, x, ts, noise, (s_churn, s_min, s_max, s_noise), EULER, variable)


def churned_times(path: Path, ts: Tensor, s_churn: float, s_min: float, s_max: float) -> Tensor:
    """Where each step of the grid starts after its churn, (K,) float64: noise level (1 + gamma) times the grid's.

    The path ends at t = 1, so that no step starts noisier than that; from there nothing is added.
    """
    level = noise_level(path, ts[:-1])
    gamma = min(s_churn / (len(ts) - 1), LARGEST_GAMMA)
    churns = (level >= s_min) & (level <= s_max) & level.isfinite()
    raised = time_of_noise(path, level * (1 + gamma))
    return torch.where(churns & (gamma > 0), raised, ts[:-1])


def _churned(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    noise: NoiseSource,
    churn: tuple[float, float, float, float],
    tableau: Tableau,
    variable: str,
) -> Iterator[State]:
    s_churn, s_min, s_max, s_noise = churn
    for name, value in (("s_churn", s_churn), ("s_min", s_min), ("s_noise", s_noise)):
        if not value >= 0:
            raise UserError(f"{name} {value:g}: expected at least 0")
    if not s_min <= s_max:
        raise UserError(f"s_min {s_min:g}, s_max {s_max:g}: expected s_min <= s_max, the noise levels that get churn")
    ts, flow, path = check(ts), Flow(denoise, variable), denoise.path
    starts = churned_times(path, ts, s_churn, s_min, s_max)
    # x_hat / alpha_hat = x / alpha + sqrt(level_hat^2 - level^2) z
    level, raised = noise_level(path, ts[:-1]), noise_level(path, starts)
    keep = path.alpha(starts) / path.alpha(ts[:-1])
    add = path.alpha(starts) * (raised**2 - level**2).clamp(min=0).sqrt() * s_noise
    # the correction is left out on the last step, wherever its second slope would be
    silent = (path.sigma(ts[1:]) == 0).tolist()
    tableaux = usable(flow, ts, [EULER if last else tableau for last in silent])
    plan = flow.plan(starts, ts[1:], tableaux)
    for k, (points, method) in enumerate(zip(plan, tableaux, strict=True)):
        if raised[k] > level[k]:
            x = float(keep[k]) * x + float(add[k]) * noise(k)
        x, said = flow.step(x, points, method)
        yield State(x, points[-1].t, said)
