"""Floor 1: the probability-flow ODE of a denoiser, in a variable that is chosen, and Runge-Kutta steps along it.

A Gaussian path may be rescaled and its time exchanged: z = x_t / s solves dz/du = a x0 + b eps, with a = d(alpha/s)/du
and b = d(sigma/s)/du (Karras et al. 2022, eq. 4, is s = alpha, u = sigma / alpha). Solvers differ between published
codes only in the variable that they step in.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ditkit.base import registry
from ditkit.process.denoiser import Denoise, Denoised
from ditkit.process.grids import noise_level, time_of_noise
from ditkit.process.path import Path, is_noise
from ditkit.solvers.state import State


class Variable(ABC):
    """A variable u(t) with its scale s(t) and row (a, b); times are float64 tensors of any shape."""

    name: str

    @abstractmethod
    def at(self, path: Path, t: Tensor) -> Tensor:
        """u(t)."""

    @abstractmethod
    def time(self, path: Path, u: Tensor) -> Tensor:
        """The inverse of ``at``."""

    @abstractmethod
    def scale(self, path: Path, t: Tensor) -> Tensor:
        """s(t)."""

    @abstractmethod
    def row(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) of dz/du = a x0 + b eps."""

    def finite(self, path: Path, t: Tensor) -> Tensor:
        """Where u is finite and s is not zero, bool: only there can the slope be used."""
        return torch.ones_like(t, dtype=torch.bool)

    def euler(self, flow: Flow, x: Tensor, said: Denoised, start: Point, end: Point) -> Tensor:
        """The step of first order: x0 and eps stay as they are on the way (DDIM), which reaches x0 at t = 0."""
        return flow.path.mix(said.x0, said.eps, end.t)


class Noise(Variable):
    """u = sigma / alpha, z = x / alpha, dz/du = eps (Song et al. 2021, DDIM, eq. 14; EDM and k-diffusion)."""

    name = "noise"

    def at(self, path: Path, t: Tensor) -> Tensor:
        return noise_level(path, t)

    def time(self, path: Path, u: Tensor) -> Tensor:
        return time_of_noise(path, u)

    def scale(self, path: Path, t: Tensor) -> Tensor:
        return path.alpha(t)

    def row(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)

    def finite(self, path: Path, t: Tensor) -> Tensor:
        return ~is_noise(path, t)


class Time(Variable):
    """u = t, z = x, dx/dt = alpha' x0 + sigma' eps: the velocity (flow matching; SiT; score_sde)."""

    name = "time"

    def at(self, path: Path, t: Tensor) -> Tensor:
        return t

    def time(self, path: Path, u: Tensor) -> Tensor:
        return u

    def scale(self, path: Path, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def row(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        return path.d_alpha(t), path.d_sigma(t)

    def euler(self, flow: Flow, x: Tensor, said: Denoised, start: Point, end: Point) -> Tensor:
        """Along the velocity, as flow matching does: on a straight path the same as x0 and eps held."""
        return flow.move(x, start, end, end.u - start.u, flow.slope(said, start))


class Angle(Variable):
    """u = atan(sigma / alpha), z = x / sqrt(alpha^2 + sigma^2), dz/du = cos(u) eps - sin(u) x0 (Lu & Song 2025).

    Every path, so scaled, is the same quarter of a circle: regular where alpha = 0 and where sigma = 0.
    """

    name = "angle"

    def at(self, path: Path, t: Tensor) -> Tensor:
        return torch.atan2(path.sigma(t), path.alpha(t))

    def time(self, path: Path, u: Tensor) -> Tensor:
        return time_of_noise(path, u.tan())

    def scale(self, path: Path, t: Tensor) -> Tensor:
        return torch.hypot(path.alpha(t), path.sigma(t))

    def row(self, path: Path, t: Tensor) -> tuple[Tensor, Tensor]:
        u = self.at(path, t)
        return -u.sin(), u.cos()


def _is_variable(value: object) -> bool:
    return inspect.isclass(value) and issubclass(value, Variable) and not inspect.isabstract(value)


def variable_named(name: str) -> Variable:
    """The variable of that name: noise, time, angle. UserError for another."""
    return registry.find("variable", __name__, _is_variable, name)()


@dataclasses.dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method (Butcher): a[i] weighs the slopes before stage i, b those of the whole step."""

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]

    @property
    def nodes(self) -> list[float]:
        """Where in the step, 0 to 1, the stages are."""
        return [sum(row) for row in self.a]


EULER = Tableau(((),), (1.0,))
RK4 = Tableau(((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8))
"""Kutta's 3/8 rule, of order 4."""


def two_stage(node: float) -> Tableau:
    """Order 2 with the second slope at ``node``: 1 Heun, 1/2 the midpoint (Karras et al. 2022, alg. 3, their alpha)."""
    return Tableau(((), (node,)), (1 - 1 / (2 * node), 1 / (2 * node)))


@dataclasses.dataclass(frozen=True)
class Point:
    """A place on the way: the time t, () float64, and the variable's u, scale and row there."""

    t: Tensor
    u: float
    scale: float
    a: float
    b: float


def weighted(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """sum_i w_i x_i, passing over weights of zero (which an infinite x would turn into NaN)."""
    terms = [x if w == 1 else w * x for w, x in zip(weights, tensors, strict=False) if w != 0]
    return sum(terms[1:], terms[0]) if terms else torch.zeros_like(tensors[0])


class Flow:
    """dz/du of a denoiser in a variable."""

    def __init__(self, denoise: Denoise, variable: str) -> None:
        """UserError for an unknown variable."""
        self.denoise, self.path, self.variable = denoise, denoise.path, variable_named(variable)

    def points(self, ts: Tensor) -> list[Point]:
        """The points at times ts (N,)."""
        u, scale = self.variable.at(self.path, ts), self.variable.scale(self.path, ts)
        a, b = self.variable.row(self.path, ts)
        numbers = zip(u.tolist(), scale.tolist(), a.tolist(), b.tolist(), strict=True)
        return [Point(t, *values) for t, values in zip(ts.unbind(), numbers, strict=True)]

    def finite(self, ts: Tensor) -> list[bool]:
        """At which times a slope can be used."""
        return self.variable.finite(self.path, ts).tolist()

    def plan(self, starts: Tensor, ends: Tensor, tableaux: Sequence[Tableau]) -> list[list[Point]]:
        """Of each step from starts to ends (K,) the points of its stages and, last, of its end; found all at once."""
        steps = range(len(tableaux))
        k = torch.tensor([k for k in steps for _ in tableaux[k].nodes])
        node = torch.tensor([c for tableau in tableaux for c in tableau.nodes], dtype=torch.float64)
        u_start, u_end = self.variable.at(self.path, starts)[k], self.variable.at(self.path, ends)[k]
        ts = self.variable.time(self.path, torch.where(node > 0, u_start + node * (u_end - u_start), 1.0))
        # the ends as they are, not as the inverse finds them: a network trained on whole indices must see them
        ts = torch.where(node == 0, starts[k], torch.where((node - 1).abs() < 1e-12, ends[k], ts))
        stages, final = iter(self.points(ts)), self.points(ends)
        return [[*(next(stages) for _ in tableaux[i].nodes), final[i]] for i in steps]

    def slope(self, said: Denoised, at: Point) -> Tensor:
        """dz/du there, in the shape of x."""
        return weighted((at.a, at.b), (said.x0, said.eps))

    def move(self, x: Tensor, start: Point, to: Point, du: float, slope: Tensor) -> Tensor:
        """x at a point, where z is z_start + du * slope."""
        return (to.scale / start.scale) * x + (to.scale * du) * slope

    def step(self, x: Tensor, points: list[Point], tableau: Tableau) -> tuple[Tensor, Denoised]:
        """One step through its points (see plan): x at its end, and what the denoiser said at its start."""
        start, end = points[0], points[-1]
        said = self.denoise(x, start.t)
        if tableau is EULER:
            return self.variable.euler(self, x, said, start, end), said
        slopes, _, _ = self.stages(x, points, tableau, said)
        return self.move(x, start, end, end.u - start.u, weighted(tableau.b, slopes)), said

    def stages(
        self, x: Tensor, points: list[Point], tableau: Tableau, said: Denoised
    ) -> tuple[list[Tensor], Tensor, Denoised]:
        """The slopes of a step's stages, the first from what was said at its start; x and what was said at the last."""
        start, du = points[0], points[-1].u - points[0].u
        slopes, x_stage = [self.slope(said, start)], x
        for stage, weights in zip(points[1:-1], tableau.a[1:], strict=True):
            x_stage = self.move(x, start, stage, du, weighted(weights, slopes))
            said = self.denoise(x_stage, stage.t)
            slopes.append(self.slope(said, stage))
        return slopes, x_stage, said


def integrate(
    denoise: Denoise, x: Tensor, times: Tensor, tableau: Tableau, variable: str, *, at_clean_end: bool = False
) -> Iterator[State]:
    """Runge-Kutta steps through ``times`` (K + 1,) float64 in [0, 1], falling, or rising to encode images.

    A step is Euler's where the variable is infinite at its start, and where a stage would ask the denoiser about t = 0,
    of which most know nothing; at_clean_end: this one does (a velocity network), ask it.
    """
    flow = Flow(denoise, variable)
    tableaux = [tableau] * (len(times) - 1)
    yield from march(flow, x, times, usable(flow, times, tableaux, at_clean_end=at_clean_end))


def usable(flow: Flow, times: Tensor, tableaux: list[Tableau], *, at_clean_end: bool = False) -> list[Tableau]:
    """The methods of the steps, Euler's in place of those whose stages have nothing to stand on."""
    finite, silent = flow.finite(times), (flow.path.sigma(times) == 0).tolist()
    return [
        EULER if not finite[k] or (silent[k + 1] and not at_clean_end and max(tableau.nodes) > 1 - 1e-12) else tableau
        for k, tableau in enumerate(tableaux)
    ]


def march(flow: Flow, x: Tensor, times: Tensor, tableaux: list[Tableau]) -> Iterator[State]:
    """The states of one step after the other, each by its own tableau."""
    plan = flow.plan(times[:-1], times[1:], tableaux)
    for points, tableau in zip(plan, tableaux, strict=True):
        x, said = flow.step(x, points, tableau)
        yield State(x, points[-1].t, said)
