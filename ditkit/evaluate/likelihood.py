"""Floor 4: exact log-likelihood, by the instantaneous change of variables along the probability-flow ODE.

log p(x) = log N(x_1; 0, sigma(1)^2 I) + integral of div v(x_t, t) dt from data to noise (Chen et al. 2018; Grathwohl et
al. 2019, FFJORD; Song et al. 2021, section 4.3). Any ODE solver of ditkit.solvers integrates it: see Mirrored and
WithDivergence.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ditkit.base import rng
from ditkit.base.errors import NotFiniteError, UserError
from ditkit.process.denoiser import Denoise, Denoised
from ditkit.process.gaussian import standard_normal_log_density
from ditkit.process.path import Path
from ditkit.process.prediction import Velocity
from ditkit.solvers.dopri5 import dopri5
from ditkit.solvers.state import State

Solver = Callable[..., Iterator[State]]
Prior = Callable[[Tensor, Tensor], Tensor]

FIRST_TIME = 1e-5
"""Where x is taken to be on a path that is clean at t = 0, where most networks say nothing (Song et al. 2021)."""
LEVEL = 1 / 127.5
"""The distance of neighbouring 8-bit levels in [-1, 1]."""


class Divergence(Protocol):
    """div v at x, in one or several columns, each an unbiased estimate of it."""

    @property
    def columns(self) -> int:
        """How many estimates."""
        ...

    def __call__(self, v: Tensor, x: Tensor) -> Tensor:
        """(B, columns), from v (B, ...) that was computed from x (B, ...)."""
        ...


@dataclasses.dataclass(frozen=True)
class Exact:
    """The trace of the Jacobian, by one backward pass a dimension: for few dimensions."""

    columns = 1

    def __call__(self, v: Tensor, x: Tensor) -> Tensor:
        v_BD = v.flatten(1)
        rows = [_pulled(v_BD[:, d].sum(), x).flatten(1)[:, d] for d in range(v_BD.shape[1])]
        return torch.stack(rows).sum(0)[:, None]


@dataclasses.dataclass(frozen=True)
class Hutchinson:
    """z . J z for random z with E[z z'] = I, one column and one backward pass a probe (Hutchinson 1989).

    probes: (columns, B, ...), the same at every time, so that the ODE is one that adaptive solvers can follow.
    """

    probes: Tensor

    @property
    def columns(self) -> int:
        """The number of probes."""
        return len(self.probes)

    def __call__(self, v: Tensor, x: Tensor) -> Tensor:
        return torch.stack([(_pulled((z * v).sum(), x) * z).flatten(1).sum(1) for z in self.probes], dim=1)


def _pulled(value: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(value, x, retain_graph=True)[0]


def rademacher(x: Tensor, count: int, seed: int = 0, rows: Sequence[int] | None = None) -> Tensor:
    """Probes of random signs, (count, *x.shape): the least variance there is.

    rows: each sample's number (None: 0, 1, ...), on which with the seed its probes depend, and on nothing else.
    """
    return _probes(x, count, seed, rows, lambda shape, g: torch.randint(2, shape, generator=g) * 2.0 - 1)


def gaussian(x: Tensor, count: int, seed: int = 0, rows: Sequence[int] | None = None) -> Tensor:
    """Standard normal probes, (count, *x.shape). Arguments: see rademacher."""
    return _probes(x, count, seed, rows, lambda shape, g: torch.randn(shape, generator=g))


def _probes(
    x: Tensor,
    count: int,
    seed: int,
    rows: Sequence[int] | None,
    draw: Callable[[tuple[int, ...], torch.Generator], Tensor],
) -> Tensor:
    if count < 1:
        raise UserError(f"probes {count}: expected at least 1; from 2 on the standard error is known")
    shape, rows = tuple(x.shape[1:]), range(len(x)) if rows is None else rows
    probes = [torch.stack([draw(shape, rng.generator(seed, "probe", i, k)) for i in rows]) for k in range(count)]
    return torch.stack(probes).to(x)


class Mirrored(Path):
    """A path walked from data to noise: image and noise exchange their roles, and t becomes 1 - t.

    It falls from its "noise" to its "data" as every path does, so solvers run on it as they are.
    """

    name = "mirrored"

    def __init__(self, path: Path) -> None:
        self.path = path

    def alpha(self, t: Tensor) -> Tensor:
        return self.path.sigma(1 - t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.path.alpha(1 - t)

    def d_alpha(self, t: Tensor) -> Tensor:
        return -self.path.d_sigma(1 - t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -self.path.d_alpha(1 - t)


class WithDivergence:
    """A Denoise on the mirrored path whose state has the integrals of div v in its last columns.

    The state is (B, D + columns) float64. A column's velocity being known, Velocity().solve says which "x0" and "eps"
    stand for it: solvers move it in whatever variable they move x in. The denoiser sees x in its own shape and dtype.
    each: called with the time t () of every evaluation, on the path of the denoiser.
    """

    def __init__(
        self, denoise: Denoise, divergence: Divergence, like: Tensor, each: Callable[[Tensor], object] | None = None
    ) -> None:
        self.denoise, self.divergence, self.like, self.each = denoise, divergence, like, each
        self.path = Mirrored(denoise.path)
        self.evaluations = 0

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        self.evaluations += 1
        columns, forward = self.divergence.columns, 1 - t
        with torch.enable_grad():
            sample = x[:, :-columns].to(self.like.dtype).reshape(self.like.shape).requires_grad_()
            said = self.denoise(sample, forward)
            v = Velocity().target(self.denoise.path, said.x0, said.eps, forward)
            rate = self.divergence(v, sample).to(x.dtype)
        check_finite(torch.cat([v.flatten(1), rate], dim=1), f"has no finite velocity at t = {forward:.4g}")
        if self.each:
            self.each(forward)
        image, noise = Velocity().solve(self.path, -rate, x[:, -columns:], t)
        x0, eps = (part.detach().flatten(1).to(x.dtype) for part in (said.x0, said.eps))
        return Denoised(torch.cat([eps, image], dim=1), torch.cat([x0, noise], dim=1))


def check_finite(x: Tensor, said: str) -> None:
    """Raises NotFiniteError for the first row of x (B, N) that is not finite."""
    finite = x.isfinite().all(1)
    if not bool(finite.all()):
        raise NotFiniteError(int((~finite).nonzero()[0]), f"{said}: check its pixels, and that the model is trained")


@dataclasses.dataclass(frozen=True)
class Likelihood:
    """log_p: (B,) float64, nats of a whole sample. latent: (B, ...), x at the noisiest time.

    standard_error: (B,) float64, of log_p by its probes: 0 where the divergence is exact, NaN for a single probe.
    evaluations: how often the denoiser was asked, about the whole batch each time.
    """

    log_p: Tensor
    standard_error: Tensor
    latent: Tensor
    evaluations: int

    def bits_per_dim(self, level: float = LEVEL) -> tuple[Tensor, Tensor]:
        """-log2 of the probability of a dequantised sample's level, per dimension, and its standard error; (B,) each.

        level: the distance of neighbouring levels in the units of x. An upper bound in the mean (Theis et al. 2016).
        """
        nats = self.latent[0].numel() * math.log(2)
        return -self.log_p / nats - math.log2(level), self.standard_error / nats


def log_likelihood(
    denoise: Denoise,
    x: Tensor,
    *,
    divergence: Divergence,
    times: Tensor | None = None,
    prior: Prior | None = None,
    solver: Solver | None = None,
    each: Callable[[Tensor], object] | None = None,
) -> Likelihood:
    """log p(x) of x (B, ...) under the probability-flow ODE of a denoiser, nats.

    divergence: Exact(), or Hutchinson(rademacher(x, 8)). times: float64, rising from where x is taken to be to the
    noise; None: all of the path that has a finite log-SNR. prior: (latent (B, ...), t ()) -> log density (B,); None: of
    N(0, sigma(t)^2 I), which samples start from and to which a path that keeps some image at t = 1 only comes near.
    solver: an ODE solver of ditkit.solvers, its options bound; None: dopri5 with tolerances of 1e-5.
    each: called with the time t () of every evaluation of the denoiser. UserError: x of whole numbers; times that do
    not rise in [0, 1]; NotFiniteError.
    """
    if not x.is_floating_point():
        remedy = "dequantised(pixels) makes that of 8-bit ones"
        raise UserError(f"x of {x.dtype}: expected floating point, images in [-1, 1]; {remedy}")
    times = default_times(denoise.path) if times is None else times.double()
    solver = solver or functools.partial(dopri5, rtol=1e-5, atol=1e-5)
    augmented = WithDivergence(denoise, divergence, x, each)
    y = torch.cat([x.double().flatten(1), x.new_zeros(len(x), divergence.columns).double()], dim=1)
    with torch.no_grad():
        for state in solver(augmented, y, 1 - times, noise=None):
            y = state.x
    latent, integrals = y[:, : -divergence.columns].reshape(x.shape), y[:, -divergence.columns :]
    at_noise = prior(latent, times[-1]) if prior else prior_log_density(denoise.path, latent, times[-1])
    log_p = at_noise[:, None] + integrals
    check_finite(log_p, "has no finite likelihood")
    of_probes = log_p.std(1) / math.sqrt(divergence.columns) if divergence.columns > 1 else log_p[:, 0] * math.nan
    error = torch.zeros_like(of_probes) if isinstance(divergence, Exact) else of_probes
    return Likelihood(log_p.mean(1), error, latent.to(x.dtype), augmented.evaluations)


STOPS = 9
"""Times at which an adaptive solver stops: its steps end there, so that they move the last digits."""


def default_times(path: Path) -> Tensor:
    """From the data, or just after it, to the noise: rising, evenly spaced in log-SNR."""
    first = FIRST_TIME if path.sigma(torch.zeros((), dtype=torch.float64)) == 0 else 0.0
    ends = torch.tensor([first, path.ends()[1]], dtype=torch.float64)
    low, high = path.log_snr(ends)
    inner = path.time_at(torch.linspace(float(low), float(high), STOPS, dtype=torch.float64)[1:-1])
    return torch.cat([ends[:1], inner, ends[1:]])


def prior_log_density(path: Path, x: Tensor, t: Tensor) -> Tensor:
    """log N(x; 0, sigma(t)^2 I), (B,) nats, of x (B, ...)."""
    sigma = path.sigma(t)
    return (standard_normal_log_density(x.double() / sigma) - sigma.log()).flatten(1).sum(1)


def dequantised(pixels: Tensor, seed: int = 0, rows: Sequence[int] | None = None) -> Tensor:
    """Pixels uint8 (B, ...) as float32 spread evenly over their levels in [-1, 1] (Uria et al. 2013).

    rows: see rademacher. UserError for another dtype.
    """
    if pixels.dtype != torch.uint8:
        raise UserError(f"pixels of {pixels.dtype}: expected uint8, 0 to 255; bits per dimension count whole levels")
    numbers = range(len(pixels)) if rows is None else rows
    u = [torch.rand(pixels.shape[1:], generator=rng.generator(seed, "dequantise", i)) for i in numbers]
    return ((pixels + torch.stack(u).to(pixels.device) - 0.5) * LEVEL) - 1
