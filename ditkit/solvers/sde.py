"""Floor 1: solvers of the stochastic family of a path, the probability-flow ODE plus w(t)-weighted Langevin dynamics.

dx = [v - w s / 2] dt + sqrt(w) dw, time running down (Ma et al. 2024, SiT, eq. 5): any w(t) >= 0 (process/langevin)
leaves the marginals as they are, w = 0 is the ODE, w = g^2 the reverse SDE of Song et al. 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ditkit.base.errors import unknown
from ditkit.process.denoiser import Denoise, Denoised
from ditkit.process.grids import check
from ditkit.process.langevin import Form, weight
from ditkit.process.path import Path, over
from ditkit.solvers.state import State

Noise = Callable[[int], Tensor]
LastStep = Callable[[Path, Tensor, Tensor, Denoised, Tensor, Tensor], Tensor]


def drift(path: Path, t: Tensor, said: Denoised, w: Tensor | float = 0.0) -> Tensor:
    """v - w s / 2 at x_t, with v = alpha' x0 + sigma' eps and s = -eps / sigma; t: () or (B,), sigma(t) > 0.

    w = 0 is the drift of the probability-flow ODE.
    """
    of_x0, of_eps = path.d_alpha(t), path.d_sigma(t) + w / (2 * path.sigma(t))
    return over(of_x0, said.x0) * said.x0 + over(of_eps, said.eps) * said.eps


def _mean(path: Path, t: Tensor, dt: Tensor, said: Denoised, x: Tensor, w: Tensor) -> Tensor:
    return x + over(dt, x) * drift(path, t, said, w)


def _euler(path: Path, t: Tensor, dt: Tensor, said: Denoised, x: Tensor, w: Tensor) -> Tensor:
    return x + over(dt, x) * drift(path, t, said)


def _tweedie(path: Path, t: Tensor, dt: Tensor, said: Denoised, x: Tensor, w: Tensor) -> Tensor:
    return said.x0


LAST_STEPS: dict[str, LastStep | None] = {"mean": _mean, "euler": _euler, "tweedie": _tweedie, "noise": None}
"""SiT's rules for the step to ts[-1]: the SDE's drift without its noise; the ODE's drift; E[x0 | x_t], which is
(x + sigma^2 s) / alpha; or a step like all others."""


def euler_maruyama(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: Noise,
    w: str | Form = "sigma",
    scale: float = 1.0,
    last: str = "mean",
) -> Iterator[State]:
    """Euler-Maruyama, x <- x + [v - w s / 2] dt + sqrt(w |dt|) z: of weak order 1.

    x: (B, C, ...) at ts[0]; noise(k): of step k. w, scale: a form of process/langevin. last: a rule of LAST_STEPS.
    Raises UserError for an unknown name, or a w that is not finite at a time of the grid.
    """
    path, plan = denoise.path, _plan(denoise.path, ts, w, scale, last)
    for k, (t, dt, w_t, rule) in enumerate(plan):
        said = denoise(x, t)
        if rule is None:
            x = _mean(path, t, dt, said, x, w_t) + over((w_t * dt.abs()).sqrt(), x) * noise(k)
        else:
            x = rule(path, t, dt, said, x, w_t)
        yield State(x, ts[k + 1], said)


def stochastic_heun(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: Noise,
    w: str | Form = "sigma",
    scale: float = 1.0,
    last: str = "mean",
) -> Iterator[State]:
    """SiT's stochastic Heun: the step's noise first, then the trapezoidal rule on the drift; two evaluations a step.

    The mean is of order 2, the covariance of weak order 1 (the noise of a step is spread over none of it). Arguments
    and errors: as euler_maruyama. A step to sigma = 0, where there is no score, is an Euler step.
    """
    path, plan = denoise.path, _plan(denoise.path, ts, w, scale, last)
    ends = _ends(path, ts, w, scale)
    for k, (t, dt, w_t, rule) in enumerate(plan):
        if rule is not None:
            said = denoise(x, t)
            x = rule(path, t, dt, said, x, w_t)
        else:
            x = x + over((w_t * dt.abs()).sqrt(), x) * noise(k)
            said = denoise(x, t)
            slope = drift(path, t, said, w_t)
            if k < len(ends):
                ahead = x + over(dt, x) * slope
                slope = (slope + drift(path, ts[k + 1], denoise(ahead, ts[k + 1]), ends[k])) / 2
            x = x + over(dt, x) * slope
        yield State(x, ts[k + 1], said)


def platen(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: Noise,
    w: str | Form = "sigma",
    scale: float = 1.0,
    last: str = "mean",
) -> Iterator[State]:
    """The trapezoidal rule with the noise inside its second stage: weak order 2 for noise that x does not scale.

    Kloeden & Platen 1992, section 15.1 (explicit order 2.0 weak scheme), w being the mean of a step's ends; two
    evaluations a step. Arguments and errors: as euler_maruyama. A step to sigma = 0 is an Euler step.
    """
    path, plan = denoise.path, _plan(denoise.path, ts, w, scale, last)
    ends = _ends(path, ts, w, scale)
    for k, (t, dt, w_t, rule) in enumerate(plan):
        said = denoise(x, t)
        if rule is not None:
            x = rule(path, t, dt, said, x, w_t)
        elif k >= len(ends):
            x = _mean(path, t, dt, said, x, w_t) + over((w_t * dt.abs()).sqrt(), x) * noise(k)
        else:
            slope, kick = drift(path, t, said, w_t), ((w_t + ends[k]) / 2 * dt.abs()).sqrt()
            z = over(kick, x) * noise(k)
            ahead = x + over(dt, x) * slope + z
            x = x + over(dt / 2, x) * (slope + drift(path, ts[k + 1], denoise(ahead, ts[k + 1]), ends[k])) + z
        yield State(x, ts[k + 1], said)


def _ends(path: Path, ts: Tensor, w: str | Form, scale: float) -> Tensor:
    """w at the ends of the steps that do not end at sigma = 0."""
    s = ts[1:].double()
    return weight(w, path, s[path.sigma(s) > 0], scale)


def _plan(
    path: Path, ts: Tensor, w: str | Form, scale: float, last: str
) -> list[tuple[Tensor, Tensor, Tensor, LastStep | None]]:
    """(t, dt < 0, w(t), rule) of every step, the rule None for a step with noise; everything is checked here."""
    if last not in LAST_STEPS:
        raise unknown("last step", last, LAST_STEPS)
    ts = check(ts)
    rules = [*[None] * (len(ts) - 2), LAST_STEPS[last]]
    return list(zip(ts[:-1], torch.diff(ts), weight(w, path, ts[:-1], scale), rules, strict=True))
