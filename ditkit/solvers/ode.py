"""Floor 1: solvers of the probability-flow ODE on a grid: Runge-Kutta and linear multi-step (adaptive: dopri5.py).

All are deterministic and take ``noise`` only to be called like the others. Option ``variable`` is what they step in:
noise (sigma / alpha, as EDM and k-diffusion do), time (t, as flow matching does) or angle (atan of noise). The limit of
small steps is the same; on a chain's path alpha(t) has kinks, and in time orders above 1 do not show.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.process.denoiser import Denoise
from ditkit.process.grids import check
from ditkit.solvers.flow import EULER, RK4, Flow, Point, Tableau, integrate, march, two_stage, usable, weighted
from ditkit.solvers.state import State

NoiseSource = Callable[[int], Tensor]


def euler(
    denoise: Denoise, x: Tensor, ts: Tensor, *, noise: NoiseSource | None = None, variable: str = "noise"
) -> Iterator[State]:
    """Order 1, one evaluation a step; in noise and angle it is DDIM, in time the Euler of flow matching.

    x: (B, C, ...) at ts[0]. UserError for a grid that does not fall inside [0, 1] or an unknown variable.
    """
    yield from integrate(denoise, x, check(ts), EULER, variable)


def heun(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    variable: str = "noise",
    at_clean_end: bool = False,
) -> Iterator[State]:
    """Order 2, two evaluations a step (Karras et al. 2022, alg. 1).

    at_clean_end: correct the step to t = 0 too, with a denoiser that knows something there. Else: see euler.
    """
    yield from integrate(denoise, x, check(ts), two_stage(1.0), variable, at_clean_end=at_clean_end)


def midpoint(
    denoise: Denoise, x: Tensor, ts: Tensor, *, noise: NoiseSource | None = None, variable: str = "noise"
) -> Iterator[State]:
    """Order 2, two evaluations a step, the second in its middle. Arguments: see euler."""
    yield from integrate(denoise, x, check(ts), two_stage(0.5), variable)


def rk4(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    variable: str = "noise",
    at_clean_end: bool = False,
) -> Iterator[State]:
    """Order 4, four evaluations a step, by Kutta's 3/8 rule. Arguments: see heun."""
    yield from integrate(denoise, x, check(ts), RK4, variable, at_clean_end=at_clean_end)


def dpm_2(
    denoise: Denoise, x: Tensor, ts: Tensor, *, noise: NoiseSource | None = None, variable: str = "noise"
) -> Iterator[State]:
    """Order 2: the midpoint method with its middle halfway in log-SNR (k-diffusion; after Karras et al. 2022).

    Steps from pure noise and to t = 0, which have no middle in log-SNR, are Euler's. Arguments: see euler.
    """
    ts, path, flow = check(ts), denoise.path, Flow(denoise, variable)
    log_snr = path.log_snr(ts)
    middle = flow.variable.at(path, path.time_at((log_snr[:-1] + log_snr[1:]) / 2))
    u = flow.variable.at(path, ts)
    nodes = ((middle - u[:-1]) / (u[1:] - u[:-1])).tolist()
    bounded = (log_snr[:-1].isfinite() & log_snr[1:].isfinite()).tolist()
    tableaux = [Tableau(((), (c,)), (0.0, 1.0)) if ok else EULER for c, ok in zip(nodes, bounded, strict=True)]
    yield from march(flow, x, ts, usable(flow, ts, tableaux))


def lms(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    order: int = 4,
    variable: str = "noise",
) -> Iterator[State]:
    """Linear multi-step, Adams-Bashforth on any grid, one evaluation a step (k-diffusion's lms; PLMS, Liu et al. 2022).

    order: 1 to 4; the first steps have as many slopes as there are yet, so order k needs first steps that are shorter
    (of h^k) to show. Else: see euler.
    """
    if order not in (1, 2, 3, 4):
        raise UserError(f"order {order}: expected 1, 2, 3 or 4")
    ts, flow = check(ts), Flow(denoise, variable)
    points, finite = flow.points(ts), flow.finite(ts)
    past: list[tuple[Point, Tensor]] = []
    for k, (start, end) in enumerate(itertools.pairwise(points)):
        said = denoise(x, start.t)
        if not finite[k]:
            x = flow.variable.euler(flow, x, said, start, end)
        else:
            past = [(start, flow.slope(said, start)), *past][:order]
            weights = adams_bashforth([at.u for at, _ in past], end.u)
            x = flow.move(x, start, end, end.u - start.u, weighted(weights, [slope for _, slope in past]))
        yield State(x, end.t, said)


def adams_bashforth(u: list[float], end: float) -> list[float]:
    """The mean over [u[0], end] of each Lagrange polynomial through the nodes u, at most four.

    By Gauss-Legendre quadrature of two points, which is exact up to degree 3.
    """
    middle, half = (u[0] + end) / 2, (end - u[0]) / 2
    quadrature = [middle - half / 3**0.5, middle + half / 3**0.5]

    def basis(j: int, v: float) -> float:
        value = 1.0
        for i, other in enumerate(u):
            value *= (v - other) / (u[j] - other) if i != j else 1.0
        return value

    return [sum(basis(j, v) for v in quadrature) / 2 for j in range(len(u))]
