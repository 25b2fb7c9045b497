"""Laws of quality over compute: known ones are recovered, with intervals that hold them."""

import math

import numpy as np
import pytest

from ditkit.evaluate import scaling
from ditkit.evaluate.scaling import (
    Curve,
    Estimate,
    Fit,
    PowerLaw,
    advise,
    correlation,
    fit,
    fit_power_law,
    fit_with_offset,
    frontier,
    pearson,
)

C = np.geomspace(1e12, 1e16, 9)
SIZES = np.geomspace(1e7, 1e9, 7)


def best_size(compute: np.ndarray | float) -> np.ndarray:
    """Of the made-up models: multiply-adds of a forward pass."""
    return 10 * np.asarray(compute) ** 0.5


def curves(law: PowerLaw, noise: float = 0.0, seed: int = 0) -> list[Curve]:
    """Models that reach the law where their size is best for the compute, and are worse elsewhere."""
    made, draws = [], np.random.default_rng(seed)
    for size in SIZES:
        compute = (size / 10) ** 2 * np.geomspace(0.3, 3, 9)
        values = law(compute) * np.exp(0.1 * np.log(size / best_size(compute)) ** 2)
        made.append(Curve(float(size), compute, values * np.exp(noise * draws.standard_normal(9))))
    return made


def fitted(made: list[Curve]) -> Fit:
    found = fit(made)
    assert found is not None
    return found


def holds(estimate: Estimate | None, value: float) -> bool:
    assert estimate is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low <= value <= estimate.high


def test_pearson_of_known_data() -> None:
    assert pearson(np.array([1, 2, 3, 4]), np.array([2, 1, 4, 3])) == pytest.approx(0.6)
    assert pearson(np.array([1.0, 2, 3]), np.array([5.0, 3, 1])) == pytest.approx(-1)
    assert math.isnan(pearson(np.array([1.0, 2, 3]), np.array([2.0, 2, 2])))


def test_the_interval_of_a_correlation_covers_the_truth() -> None:
    draws, hits = np.random.default_rng(3), 0
    for k in range(40):
        x, z = draws.standard_normal((2, 60))
        hits += holds(correlation(x, -0.8 * x + 0.6 * z, seed=k), -0.8)
    assert 33 <= hits <= 40


def test_a_power_law_is_recovered() -> None:
    law = fit_power_law(C, 3e4 * C**-0.25)
    assert (law.scale, law.exponent, law.offset) == pytest.approx((3e4, -0.25, 0))


def test_a_law_with_an_offset_is_recovered() -> None:
    law = fit_with_offset(C, 3e4 * C**-0.25 + 2.0)
    assert (law.exponent, law.offset) == pytest.approx((-0.25, 2.0), rel=0.02)
    assert law(C) == pytest.approx(3e4 * C**-0.25 + 2.0, rel=1e-3)


def test_the_frontier_leaves_out_what_was_beaten_for_less() -> None:
    cheap = Curve(1.0, np.array([1.0, 2, 4]), np.array([9.0, 5, 4]))
    large = Curve(2.0, np.array([2.0, 4, 8]), np.array([8.0, 3, 3]))
    found = frontier([cheap, large])
    assert found.compute.tolist() == [2, 4]  # what one model alone was measured at is no choice
    assert found.values.tolist() == [5, 3]
    assert found.multiply_adds.tolist() == [1, 2]


def test_the_laws_of_known_models_are_recovered_with_their_intervals() -> None:
    found = fitted(curves(PowerLaw(500, -0.15)))
    assert found.law.exponent == pytest.approx(-0.15, abs=0.005)
    assert found.offset is None
    assert found.sizes is not None
    assert found.sizes.exponent == pytest.approx(0.5, abs=0.05)
    measured = fitted(curves(PowerLaw(500, -0.15), 0.02))
    assert holds(measured.exponent, -0.15)
    assert holds(measured.size_exponent, 0.5)


def test_intervals_of_noisy_measurements_are_wider_and_mostly_hold_the_truth() -> None:
    found = [fitted(curves(PowerLaw(500, -0.15), 0.05, seed)) for seed in range(5)]
    assert sum(holds(f.size_exponent, 0.5) for f in found) >= 4
    clean, noisy = fitted(curves(PowerLaw(500, -0.15))).exponent, found[0].exponent
    assert clean.low is not None
    assert clean.high is not None
    assert noisy.low is not None
    assert noisy.high is not None
    assert noisy.high - noisy.low > 2 * (clean.high - clean.low)


def test_an_offset_is_kept_where_it_can_be_told_from_nothing() -> None:
    found = fitted(curves(PowerLaw(2e5, -0.4, 1.5)))
    assert found.law.offset == pytest.approx(1.5, abs=0.1)
    assert found.law.exponent == pytest.approx(-0.4, abs=0.03)
    assert holds(fitted(curves(PowerLaw(2e5, -0.4, 1.5), 0.01)).offset, 1.5)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_models_have_no_law(count: int) -> None:
    assert fit(curves(PowerLaw(500, -0.15))[:count]) is None


def test_the_best_size_for_a_budget() -> None:
    made = curves(PowerLaw(500, -0.15))
    budget = float((SIZES[3] / 10) ** 2)
    inside = advise(made, fitted(made), budget)
    assert inside.best == 3
    assert not inside.extrapolated
    assert inside.multiply_adds is not None
    assert inside.multiply_adds.value == pytest.approx(SIZES[3], rel=0.2)
    assert inside.value.value == pytest.approx(500 * budget**-0.15, rel=0.02)
    outside = advise(made, fitted(made), budget * 1e6)
    assert outside.extrapolated
    assert outside.best is None
    assert outside.multiply_adds is not None
    assert outside.multiply_adds.value == pytest.approx(float(best_size(budget * 1e6)), rel=0.2)


def test_a_frontier_of_one_model_says_no_best_size() -> None:
    compute = np.geomspace(1, 100, 8)
    made = [Curve(m, compute, m / compute**0.3) for m in (1.0, 2.0, 3.0)]
    found = fitted(made)
    assert found.sizes is None
    assert advise(made, found, 50.0).multiply_adds is None


def test_models_that_were_never_measured_at_the_same_compute_have_no_law() -> None:
    assert fit([Curve(m, m * C, C**-0.2) for m in (1.0, 1e6, 1e12)]) is None


def test_an_interval_of_too_few_replicates_is_not_told() -> None:
    few = [1.0] * (scaling.REPLICATES // 2 - 1)
    assert Estimate.of(1.0, [*few, math.nan]) == Estimate(1.0, None, None)
