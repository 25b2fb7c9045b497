"""How quality grows with compute: correlation, power laws of the compute frontier, the best size for a budget.

Compute is counted in multiply-adds, quality is a positive number of which less is better (a Fréchet distance).
Peebles & Xie 2023 (arXiv 2212.09748), section 5; the fits follow Hoffmann et al. 2022 (arXiv 2203.15556), approach 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

Array = np.ndarray

REPLICATES = 500
"""Bootstrap samples behind an interval."""
LEVEL = 0.95
"""Of all intervals."""
FEWEST_MODELS = 3
"""Models without which there is no fit: two points lie on any power law."""
FEWEST_FOR_OFFSET = 6
"""Points of the frontier without which a third parameter is not even tried."""
EXPONENTS = -np.geomspace(3.0, 0.01, 800)
"""Where the exponent of a law with an offset is looked for."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A value and its bootstrap interval of ``LEVEL``; low and high are None where too few replicates had a value."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, value: float, replicates: Sequence[float] | Array) -> Estimate:
        """The percentile interval of replicates (those that are finite), if they are at least half of REPLICATES."""
        known = np.asarray(replicates, float)
        known = known[np.isfinite(known)]
        if 2 * len(known) < REPLICATES:
            return cls(float(value), None, None)
        low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return cls(float(value), float(low), float(high))


def pearson(x: Array, y: Array) -> Array:
    """Pearson's correlation of the last axes of x and y (..., n), in [-1, 1]; NaN where one of them does not vary."""
    a, b = (np.asarray(v, float) for v in (x, y))
    varies = (np.ptp(a, axis=-1) > 0) & (np.ptp(b, axis=-1) > 0)
    a, b = (v - v.mean(-1, keepdims=True) for v in (a, b))
    scale = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.where(varies, (a * b).sum(-1) / np.where(varies, scale, 1.0), np.nan)


def correlation(x: Array, y: Array, seed: int = 0) -> Estimate:
    """Pearson's correlation of pairs (n,), with a bootstrap interval over the pairs; n of at least 3.

    Replicates of fewer than three different pairs, which are always on a line, do not count.
    """
    rows = np.random.default_rng(seed).integers(len(x), size=(REPLICATES, len(x)))
    different = (np.diff(np.sort(rows), axis=-1) > 0).sum(-1) + 1
    return Estimate.of(float(pearson(x, y)), np.where(different > 2, pearson(x[rows], y[rows]), np.nan))


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """L = scale * C^exponent + offset."""

    scale: float
    exponent: float
    offset: float = 0.0

    def __call__(self, compute: Array | float) -> Array:
        """L at each C."""
        return self.scale * np.asarray(compute, float) ** self.exponent + self.offset


def fit_power_law(compute: Array, values: Array) -> PowerLaw:
    """L = a C^b by least squares of log L over log C; of positive numbers (n,), n of at least 2."""
    log_c, log_v = np.log(compute), np.log(values)
    middle = log_c.mean()
    spread = log_c - middle
    exponent = float(spread @ log_v / (spread @ spread))
    return PowerLaw(float(np.exp(log_v.mean() - exponent * middle)), exponent)


def fit_with_offset(compute: Array, values: Array) -> PowerLaw:
    """L = a C^b + c with a > 0 > b and c >= 0, by least squares of relative errors; the one without offset if better.

    For each exponent of ``EXPONENTS`` the law is linear in a and c and solved at once; the best of them is taken.
    """
    powers, inverse = (compute / compute.max()) ** EXPONENTS[:, None] / values, 1 / values  # (E, n), (n,)
    pp, pi, ii = np.einsum("en,en->e", powers, powers), powers @ inverse, inverse @ inverse
    p, i = powers.sum(1), inverse.sum()
    determinant = pp * ii - pi**2
    with np.errstate(divide="ignore", invalid="ignore"):
        a, c = (ii * p - pi * i) / determinant, (pp * i - pi * p) / determinant
    alone = ~(np.isfinite(c) & (c > 0) & (a > 0))
    a, c = np.where(alone, p / pp, a), np.where(alone, 0.0, c)
    best = int((a * p + c * i).argmax())  # n minus the sum of squared errors, at a least-squares solution
    exponent = float(EXPONENTS[best])
    return PowerLaw(float(a[best]) * float(compute.max()) ** -exponent, exponent, float(c[best]))


def log_errors(law: PowerLaw, compute: Array, values: Array) -> float:
    """The sum of squared errors of log L."""
    return float(np.square(np.log(law(compute)) - np.log(values)).sum())


def corrected_aic(errors: float, n: int, parameters: int) -> float:
    """Akaike's criterion for few points (Hurvich & Tsai 1989) of a least-squares fit; less is better."""
    k = parameters + 1  # the variance too
    return n * float(np.log(max(errors / n, 1e-24))) + 2 * k + 2 * k * (k + 1) / (n - k - 1)


@dataclasses.dataclass(frozen=True)
class Curve:
    """One model in training. multiply_adds: of one forward pass. compute (n,): spent so far, rising.

    values (n,): its quality then.
    """

    multiply_adds: float
    compute: Array
    values: Array

    def at(self, compute: float) -> float | None:
        """The quality at a compute, by a power law between the neighbours; None where it was not measured so far."""
        if not self.compute[0] <= compute <= self.compute[-1]:
            return None
        return float(np.exp(np.interp(np.log(compute), np.log(self.compute), np.log(self.values))))

    def best_by(self, compute: Array) -> Array:
        """The best quality reached with each compute or less, interpolated as in ``at``; infinite before the first."""
        least = np.log(np.minimum.accumulate(self.values))
        between = np.exp(np.interp(np.log(compute), np.log(self.compute), least))
        return np.where(compute >= self.compute[0], between, np.inf)


@dataclasses.dataclass(frozen=True)
class Frontier:
    """The points at which no model was better for less: compute, values and the models' multiply-adds, (n,) each."""

    compute: Array
    values: Array
    multiply_adds: Array


def frontier(curves: Sequence[Curve]) -> Frontier:
    """The measured points that no model was better than for as much compute or less, by rising compute.

    Between its measurements a model counts as ``Curve.at`` says: otherwise a point of a model that is long past its
    best would stand wherever the better one was measured a little later. Points at whose compute no other model was
    measured, before and after, are left out: at both ends of a grid the only model is too large or too small, which
    bends the frontier as an offset would.
    """
    compute = np.concatenate([c.compute for c in curves])
    values = np.concatenate([c.values for c in curves])
    sizes = np.concatenate([np.full(len(c.compute), c.multiply_adds) for c in curves])
    least = np.min([c.best_by(compute) for c in curves], axis=0)
    measured = np.sum([(c.compute[0] <= compute) & (compute <= c.compute[-1]) for c in curves], axis=0)
    kept = np.flatnonzero((values <= least * (1 + 1e-12)) & (measured > 1))
    kept = kept[np.argsort(compute[kept], kind="stable")]
    kept = kept[np.diff(values[kept], prepend=np.inf) < 0]
    return Frontier(compute[kept], values[kept], sizes[kept])


@dataclasses.dataclass(frozen=True)
class Fit:
    """What the frontier says. law: of quality over compute; scale, exponent, offset: its parameters.

    offset: None where it cannot be told from 0. sizes: the best model's multiply-adds over compute; None where one
    model was best throughout. range: of the frontier's compute.
    laws, size_laws: those of resampled models.
    """

    law: PowerLaw
    scale: Estimate
    exponent: Estimate
    offset: Estimate | None
    sizes: PowerLaw | None
    size_exponent: Estimate | None
    range: tuple[float, float]
    laws: tuple[PowerLaw, ...] = dataclasses.field(repr=False)
    size_laws: tuple[PowerLaw, ...] = dataclasses.field(repr=False)


def fit(curves: Sequence[Curve], seed: int = 0) -> Fit | None:
    """Laws of the compute frontier; None with fewer than three models or three points of it.

    Intervals: models are drawn with replacement and all is fitted anew; a model's measurements hang together.
    The offset is kept if there are six points or more, it lowers the corrected AIC by more than 2 and its interval
    lies above 0.
    """
    if len(curves) < FEWEST_MODELS:
        return None
    seen = frontier(curves)
    if len(seen.compute) < 3:
        return None
    again = [f for f in resampled(curves, seed) if len(f.compute) >= 3]
    law, laws, offset = _with_offset_if_told(seen, again)
    sizes, size_laws = _sizes(seen), [made for f in again if (made := _sizes(f)) is not None]
    return Fit(
        law,
        Estimate.of(law.scale, [made.scale for made in laws]),
        Estimate.of(law.exponent, [made.exponent for made in laws]),
        offset,
        sizes,
        sizes and Estimate.of(sizes.exponent, [made.exponent for made in size_laws]),
        (float(seen.compute[0]), float(seen.compute[-1])),
        tuple(laws),
        tuple(size_laws),
    )


def resampled(curves: Sequence[Curve], seed: int) -> list[Frontier]:
    """``REPLICATES`` frontiers of models drawn with replacement, each with all its measurements."""
    draws = np.random.default_rng(seed)
    found = []
    for _ in range(REPLICATES):
        chosen = set(draws.integers(len(curves), size=len(curves)).tolist())  # twice the same says nothing more
        found.append(frontier([curves[k] for k in chosen]))
    return found


def _with_offset_if_told(seen: Frontier, again: Sequence[Frontier]) -> tuple[PowerLaw, list[PowerLaw], Estimate | None]:
    plain, n = fit_power_law(seen.compute, seen.values), len(seen.compute)
    if n >= FEWEST_FOR_OFFSET:
        bent = fit_with_offset(seen.compute, seen.values)
        errors = (log_errors(law, seen.compute, seen.values) for law in (plain, bent))
        without, with_it = (corrected_aic(e, n, k) for e, k in zip(errors, (2, 3), strict=True))
        if without - with_it > 2:
            laws = _each(fit_with_offset, again)
            offset = Estimate.of(bent.offset, [law.offset for law in laws])
            if offset.low is not None and offset.low > 0:
                return bent, laws, offset
    return plain, _each(fit_power_law, again), None


def _each(fitted: Callable[[Array, Array], PowerLaw], again: Sequence[Frontier]) -> list[PowerLaw]:
    return [fitted(f.compute, f.values) for f in again]


def _sizes(seen: Frontier) -> PowerLaw | None:
    """The law of the size on the frontier over compute; None where one size won it all."""
    several = len(np.unique(seen.multiply_adds)) > 1
    return fit_power_law(seen.compute, seen.multiply_adds) if several else None


@dataclasses.dataclass(frozen=True)
class Advice:
    """What to train for a budget of compute (multiply-adds).

    multiply_adds: of a forward pass of the best model by the fit; None without ``Fit.sizes``. value: the quality that
    the law expects. extrapolated: the budget lies outside the frontier. best: the place among the curves of the model
    that was best at this compute; None where none was measured there.
    """

    budget: float
    multiply_adds: Estimate | None
    value: Estimate
    extrapolated: bool
    best: int | None


def advise(curves: Sequence[Curve], found: Fit, budget: float) -> Advice:
    """The compute-optimal size for a budget in multiply-adds of training."""
    values = {k: v for k, c in enumerate(curves) if (v := c.at(budget)) is not None}
    sizes = found.sizes and Estimate.of(float(found.sizes(budget)), [float(law(budget)) for law in found.size_laws])
    value = Estimate.of(float(found.law(budget)), [float(law(budget)) for law in found.laws])
    low, high = found.range
    return Advice(budget, sizes, value, not low <= budget <= high, min(values, key=lambda k: values[k], default=None))
