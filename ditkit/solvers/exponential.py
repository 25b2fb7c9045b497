"""Floor 1: exponential integrators in log-SNR, the one step that DPM-Solver, DPM-Solver++ and UniPC are made of.

In lambda, half the log-SNR, the linear part of the reverse process is solved exactly and only the denoiser's answer D
(x0 or eps) is approximated, by a polynomial through answers at known lambdas. With h = lambda_t - lambda_s and
theta in [0, 1] the place in the step:

    x_t = A x_s + gain * length * int_0^1 exp(z (1 - theta)) D(theta) dtheta + std * noise

(Lu et al. 2022a, eq. 3.4; Lu et al. 2022b, eq. 8 and 15; Zhao et al. 2023, eq. 3). The integrals of theta^i are
i! phi_{i+1}(z); everything else about a method is which answers it uses and how it weighs them.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ditkit.base.errors import UserError, unknown
from ditkit.process.denoiser import Denoised
from ditkit.process.path import Path, is_noise

NoiseSource = Callable[[int], Tensor]
SERIES = 1.0
"""Below this |z| the recursion of phi loses digits, and its power series is used."""


def phi(k: int, z: float) -> float:
    """phi_k(z): phi_0 = exp(z), phi_{k+1} = (phi_k - 1 / k!) / z (Hochbruck & Ostermann 2010, eq. 2.11)."""
    if abs(z) < SERIES:
        return sum(z**j / math.factorial(j + k) for j in range(20))
    value = math.exp(z)
    for i in range(k):
        value = (value - 1 / math.factorial(i)) / z
    return value


@dataclasses.dataclass(frozen=True)
class Level:
    """A noise level: its time, () float64, and the path's coefficients there."""

    t: Tensor
    alpha: float
    sigma: float
    log_snr: float


def levels(path: Path, ts: Tensor) -> list[Level]:
    """The noise levels at times ts (N,); log-SNR -inf where nothing of the image is left, +inf where no noise is."""
    log_snr = torch.where(is_noise(path, ts), -math.inf, path.log_snr(ts))
    numbers = zip(path.alpha(ts).tolist(), path.sigma(ts).tolist(), log_snr.tolist(), strict=True)
    return [Level(t, *values) for t, values in zip(ts.unbind(), numbers, strict=True)]


def level_at(path: Path, log_snr: float) -> Level:
    """The noise level of a log-SNR that the path passes."""
    return levels(path, path.time_at(torch.tensor([log_snr], dtype=torch.float64)))[0]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the denoiser said, and at which noise level."""

    at: Level
    said: Denoised


@dataclasses.dataclass(frozen=True)
class Move:
    """The numbers of one step (see the module): z = -length where x0 is interpolated, +length where eps is."""

    keep: float
    gain: float
    length: float
    sign: int
    std: float

    def moment(self, i: int) -> float:
        """length * the integral of exp(z (1 - theta)) theta^i over [0, 1]; i = 0 also for an infinite length."""
        if i == 0:
            return self.sign * math.expm1(self.sign * self.length)
        return self.length * math.factorial(i) * phi(i + 1, self.sign * self.length)


Rule = Callable[[Move, int], list[float]]
"""(move, n) -> what a rule takes for the moments 1..n when n answers beside that at the step's start are used."""


def exact(move: Move, n: int) -> list[float]:
    """The moments themselves: the interpolating polynomial is integrated exactly."""
    return [move.moment(i) for i in range(1, n + 1)]


def midpoint(move: Move, n: int) -> list[float]:
    """A single other answer: D held at its value in the step's middle (DPM-Solver's default; UniPC's B_2(h))."""
    return [move.moment(0) / 2] if n == 1 else exact(move, n)


def bh1(move: Move, n: int) -> list[float]:
    """A single other answer: UniPC's B_1(h) = h, as if the exponential were 1."""
    return [move.length / 2] if n == 1 else exact(move, n)


def taylor(move: Move, n: int) -> list[float]:
    """As published multi-step codes of order 3 weigh: the second difference by phi_3, where 2 phi_3 is exact.

    The missing half leaves an error of order 3 in each step, and the method is of order 2, not 3.
    """
    return [moment / (i + 1) for i, moment in enumerate(exact(move, n))] if n <= 2 else exact(move, n)


RULES: dict[str, Rule] = {"exact": exact, "midpoint": midpoint, "taylor": taylor, "bh1": bh1, "bh2": midpoint}


def rule_named(name: str) -> Rule:
    """One of RULES; UserError for another name."""
    if name not in RULES:
        raise unknown("rule", name, RULES)
    return RULES[name]


def weights(move: Move, nodes: Sequence[float], rule: Rule) -> list[float]:
    """What D(theta_k) - D(0) is weighed with, so that theta^i gives the rule's moment i, i = 1..len(nodes)."""
    if not nodes:
        return []
    # a Vandermonde system for w_k theta_k, solved in place (Bjorck & Pereyra 1970; Golub & Van Loan, alg. 4.6.2)
    w, n = rule(move, len(nodes)), len(nodes)
    for k in range(n - 1):
        for i in range(n - 1, k, -1):
            w[i] -= nodes[k] * w[i - 1]
    for k in range(n - 2, -1, -1):
        for i in range(k + 1, n):
            w[i] /= nodes[i] - nodes[i - k - 1]
        for i in range(k, n - 1):
            w[i] -= w[i + 1]
    return [w_k / theta for w_k, theta in zip(w, nodes, strict=True)]


def sde_keep(h: float, eta: float) -> float:
    """How much of the noise a step keeps, the rest being fresh: the reverse SDE with eta times its diffusion squared.

    exp(-eta h): eta 0 is the probability-flow ODE, 1 the reverse SDE (Lu et al. 2022b, eq. 15; k-diffusion's eta).
    """
    return math.exp(-eta * h) if eta > 0 else 1.0


def ancestral_keep(h: float, eta: float) -> float:
    """The same of DDIM's eta: sqrt(1 - eta^2 (1 - exp(-2h))), at least 0 (Song et al. 2021, eq. 16)."""
    return math.sqrt(max(0.0, 1 + eta**2 * math.expm1(-2 * h)))


@dataclasses.dataclass(frozen=True)
class Form(ABC):
    """Which answer is interpolated, and how noisy the steps are. eta, s_noise: see the solvers."""

    eta: float = 0.0
    s_noise: float = 1.0

    def __post_init__(self) -> None:
        """UserError for noise that is not at least 0."""
        for name, value in (("eta", self.eta), ("s_noise", self.s_noise)):
            if not 0 <= value < math.inf:
                raise UserError(f"{name} {value:g}: expected at least 0; 0 adds no noise, 1 is the published amount")

    @abstractmethod
    def read(self, said: Denoised) -> Tensor:
        """D."""

    @abstractmethod
    def move(self, s: Level, t: Level) -> Move:
        """The numbers of the step from s to t."""

    @abstractmethod
    def unbounded(self) -> Form:
        """The form for steps whose h is infinite."""

    def step(
        self, x: Tensor, start: Answer, t: Level, others: Sequence[Answer], rule: Rule, noise: Callable[[], Tensor]
    ) -> Tensor:
        """x at t from x at start.at. others: answers at other levels, left out where h is infinite; noise: its draw."""
        s, form = start.at, self
        if math.isinf(t.log_snr - s.log_snr):
            form, others = self.unbounded(), []
        move = form.move(s, t)
        # an answer from pure noise is infinitely far away
        others = [other for other in others if math.isfinite(other.at.log_snr)]
        nodes = [(other.at.log_snr - s.log_snr) / (t.log_snr - s.log_snr) for other in others]
        w = weights(move, nodes, rule)
        x = move.keep * x + (move.gain * (move.moment(0) - sum(w))) * form.read(start.said)
        for weight, other in zip(w, others, strict=True):
            x = x + (move.gain * weight) * form.read(other.said)
        return x if move.std == 0 else x + (self.s_noise * move.std) * noise()


@dataclasses.dataclass(frozen=True)
class Data(Form):
    """x0 is interpolated (DPM-Solver++, Lu et al. 2022b). keep_rule: sde_keep or ancestral_keep."""

    keep_rule: Callable[[float, float], float] = sde_keep

    def read(self, said: Denoised) -> Tensor:
        return said.x0

    def move(self, s: Level, t: Level) -> Move:
        h = t.log_snr - s.log_snr
        kept = self.keep_rule(h, self.eta)
        length = h - math.log(kept) if kept > 0 else math.inf
        return Move(kept * t.sigma / s.sigma, t.alpha, length, -1, t.sigma * math.sqrt(1 - kept**2))

    def unbounded(self) -> Form:
        return self


@dataclasses.dataclass(frozen=True)
class Noise(Form):
    """eps is interpolated (DPM-Solver, Lu et al. 2022a)."""

    def read(self, said: Denoised) -> Tensor:
        return said.eps

    def move(self, s: Level, t: Level) -> Move:
        h = t.log_snr - s.log_snr
        gain, std = -(1 + self.eta) * t.sigma, t.sigma * math.sqrt(self.eta * math.expm1(2 * h))
        return Move(t.alpha / s.alpha, gain, h, 1, std)

    def unbounded(self) -> Form:
        """x0: from pure noise and to clean images the noise's share of x is infinite or nothing."""
        return Data(self.eta, self.s_noise)


DATA, NOISE = Data(), Noise()
FEW = 15
"""Steps below which lower orders at the end are advised (Lu et al. 2022b)."""


def final_orders(steps: int, order: int, fewer_than: int, *, clean_end: bool) -> list[int]:
    """The largest order of each step: ``order``, and 2, 1 at the end of grids of fewer than ``fewer_than`` steps.

    The step to a clean t = 0, infinitely long in lambda, is always of order 1.
    """
    orders = [min(order, steps - k) if steps < fewer_than else order for k in range(steps)]
    return [*orders[:-1], 1] if clean_end else orders


def draw(noise: NoiseSource | None, k: int) -> Tensor:
    """The standard normal draw k; UserError where a solver that needs it has no source."""
    if noise is None:
        raise UserError("noise None: eta > 0 needs a source of noise, noise(k) -> standard normal in the shape of x")
    return noise(k)
