"""Floor 1: stochastic DPM-Solvers under the names that k-diffusion gave them: one step back, one step of noise.

Ancestral solvers step along the probability-flow ODE to a level below the next one and add noise up to it. Options
that they share. eta: how much of the noise is fresh, as in DDIM: 0 none (the ODE), 1 as much as in DDPM. s_noise: the
standard deviation of that noise. Two evaluations a step (euler_ancestral: one); that to t = 0 is of order 1, without
noise. At eta > 0 the covariance of dpm_2_ancestral and dpmpp_2s_ancestral stays of order 2 (their step along the ODE
keeps the marginals, and so does the noise); else, and for a start beside the marginal, all are of order 1.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.process.denoiser import Denoise
from ditkit.process.grids import check
from ditkit.process.path import Path
from ditkit.solvers.dpm_singlestep import MIDPOINT, single
from ditkit.solvers.edm import check_churn, churned_times
from ditkit.solvers.exponential import (
    DATA,
    NOISE,
    Data,
    Form,
    Level,
    NoiseSource,
    ancestral_keep,
    draw,
    level_at,
    levels,
)
from ditkit.solvers.state import State

MIDDLE = (0.5,)
"""Where the one stage of a step of order 2 is, in log-SNR."""


def euler_ancestral(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[State]:
    """Order 1: DDIM with eta on a path of any kind (Song et al. 2021; k-diffusion).

    x: (B, C, ...) at ts[0]. noise(k): the draw of step k. UserError: the grid does not fall inside [0, 1]; eta or
    s_noise below 0.
    """
    return _ancestral(DATA, (), denoise, x, ts, noise, Renewal(eta, s_noise))


def dpm_2_ancestral(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[State]:
    """DPM-Solver-2 (eps interpolated) to below each next level, and noise. Arguments: see euler_ancestral."""
    return _ancestral(NOISE, MIDDLE, denoise, x, ts, noise, Renewal(eta, s_noise))


def dpmpp_2s_ancestral(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
) -> Iterator[State]:
    """DPM-Solver++ 2S (x0 interpolated) below each next level, and noise. Arguments: see euler_ancestral."""
    return _ancestral(DATA, MIDDLE, denoise, x, ts, noise, Renewal(eta, s_noise))


def dpmpp_sde(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    node: float = 0.5,
) -> Iterator[State]:
    """SDE-DPM-Solver++ 2S: the middle of a step is noisy too, and its noise is another (k-diffusion's dpmpp_sde).

    node: where the middle is, in log-SNR. noise(2k), noise(2k + 1): the draws of step k, in its middle and at its end.
    Else: see euler_ancestral.
    """
    ts, form, path = check(ts), Data(eta, s_noise, ancestral_keep), denoise.path
    if not 0 < node < 1:
        raise UserError(f"node {node:g}: expected between 0 and 1; 0.5 is the published one")
    return _sde(form, node, denoise, x, levels(path, ts), noise)


def dpm_2_churn(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
) -> Iterator[State]:
    """Churn, then a step of DPM-Solver-2 (k-diffusion's dpm_2 with churn). Arguments: see ditkit.solvers.edm.edm."""
    check_churn(s_churn, s_min, s_max, s_noise)
    ts, path = check(ts), denoise.path
    at, raised = levels(path, ts), levels(path, churned_times(path, ts, s_churn, s_min, s_max))
    return _churned(denoise, x, at, raised, s_noise, noise)


def _churned(
    denoise: Denoise, x: Tensor, at: list[Level], raised: list[Level], s_noise: float, noise: NoiseSource | None
) -> Iterator[State]:
    for k, (s, up, t) in enumerate(zip(at[:-1], raised, at[1:], strict=True)):
        if up.log_snr < s.log_snr:
            # x_up / alpha_up = x / alpha + sqrt(level_up^2 - level^2) z
            rise = math.sqrt((up.sigma / up.alpha) ** 2 - (s.sigma / s.alpha) ** 2)
            x = (up.alpha / s.alpha) * x + (up.alpha * rise * s_noise) * draw(noise, k)
        *_, state = stages = list(single(NOISE, MIDPOINT, denoise, x, divided(denoise.path, up, t, MIDDLE), noise))
        x = state.x
        yield State(x, t.t, stages[0].said)


def _sde(
    form: Form, node: float, denoise: Denoise, x: Tensor, at: list[Level], noise: NoiseSource | None
) -> Iterator[State]:
    for k, (s, t) in enumerate(itertools.pairwise(at)):
        inside = divided(denoise.path, s, t, (node,))
        # a step without a middle has its only draw at its end
        first_draw = 2 * k + (3 - len(inside))
        *_, state = stages = list(single(form, MIDPOINT, denoise, x, inside, noise, first_draw=first_draw))
        x = state.x
        yield dataclasses.replace(state, said=stages[0].said)


@dataclasses.dataclass(frozen=True)
class Renewal:
    """Which share of the noise is fresh after each step. eta, s_noise: see the module."""

    eta: float
    s_noise: float

    def __post_init__(self) -> None:
        Data(self.eta, self.s_noise)  # the same bounds

    def below(self, s: Level, t: Level, lowest: float = 0.0) -> Level:
        """The level on the way from s that noise brings up to t; it has t's alpha. lowest: its least sigma / alpha."""
        kept = ancestral_keep(t.log_snr - s.log_snr, self.eta)
        if t.sigma == 0 or kept == 1:
            return t
        sigma = max(kept * t.sigma, lowest * t.alpha)
        return Level(t.t, t.alpha, sigma, math.log(t.alpha / sigma) if sigma > 0 else math.inf)

    def renewed(self, x: Tensor, below: Level, t: Level, noise: NoiseSource | None, k: int) -> Tensor:
        """x at t from x below it."""
        std = math.sqrt(max(0.0, t.sigma**2 - below.sigma**2))
        return x if std == 0 else x + (self.s_noise * std) * draw(noise, k)


def divided(path: Path, s: Level, t: Level, nodes: tuple[float, ...]) -> list[Level]:
    """The levels from s to t with those at ``nodes`` of the way in log-SNR; without, where the way is infinite."""
    h = t.log_snr - s.log_snr
    return [s, *(level_at(path, s.log_snr + node * h) for node in (nodes if math.isfinite(h) else ())), t]


def _ancestral(
    form: Form,
    nodes: tuple[float, ...],
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    noise: NoiseSource | None,
    renewal: Renewal,
) -> Iterator[State]:
    at = levels(denoise.path, check(ts))
    for k, (s, t) in enumerate(itertools.pairwise(at)):
        below = renewal.below(s, t)
        inside = divided(denoise.path, s, below, nodes)
        *_, state = stages = list(single(form, MIDPOINT, denoise, x, inside, noise))
        x = renewal.renewed(state.x, below, t, noise, k)
        yield State(x, t.t, stages[0].said)
