"""Known answers of the metrics."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ditkit.base.errors import UserError
from ditkit.base.rng import generator
from ditkit.evaluate import kernels, neighbours
from ditkit.evaluate.features import accuracy, frechet_distance, gaussian_of, inception_score
from ditkit.evaluate.frechet import Gaussian, frechet_gaussian, frechet_standard_error
from ditkit.evaluate.jackknife import left_out, standard_error
from ditkit.evaluate.kernels import clip_mmd, kernel_distance, kernel_sums, mmd_standard_error, polynomial, rbf
from ditkit.evaluate.neighbours import density_coverage, precision_recall, reach
from ditkit.evaluate.scores.distribution import frechet_score
from ditkit.evaluate.statistics import equal_splits, shuffled_splits
from ditkit.evaluate.strata import equal_shares, variance


def normal(*shape: int, index: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, "test.metrics", index), dtype=torch.float64)


def test_frechet_of_diagonal_gaussians_is_the_closed_form():
    mean_a, mean_b, a, b = normal(4, 6)
    expected = ((mean_a - mean_b) ** 2).sum() + ((a.abs() - b.abs()) ** 2).sum()
    found = frechet_gaussian(
        Gaussian.of_moments(mean_a, torch.diag(a**2)), Gaussian.of_moments(mean_b, torch.diag(b**2))
    )
    assert found == pytest.approx(expected.item(), rel=1e-12)


def test_frechet_of_singular_gaussians_is_the_closed_form():
    # Two line segments in the plane at an angle: Tr (S_a S_b)^{1/2} = |cos| s_a s_b.
    angle, length_a, length_b = 0.7, 2.0, 3.0
    u = torch.tensor([1.0, 0.0], dtype=torch.float64)
    v = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    a = Gaussian.of_moments(zero, length_a**2 * torch.outer(u, u))
    b = Gaussian.of_moments(zero, length_b**2 * torch.outer(v, v))
    expected = length_a**2 + length_b**2 - 2 * length_a * length_b * math.cos(angle)
    assert frechet_gaussian(a, b) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 30), m=st.integers(2, 30), d=st.integers(1, 12), index=st.integers(0, 99))
def test_frechet_from_features_equals_the_matrix_root(n, m, d, index):
    a, b = normal(n, d, index=index), normal(m, d, index=index + 1000) * 2 + 1
    distance = frechet_distance(a, b)
    ca, cb = (torch.cov(x.T).reshape(d, d) for x in (a, b))
    roots = torch.linalg.eigvals(ca @ cb).real.clamp(min=0).sqrt().sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * roots
    assert distance == pytest.approx(expected.item(), rel=1e-5, abs=1e-5)
    assert distance == pytest.approx(frechet_distance(b, a), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("columns", [6, 7])
def test_standard_error_of_frechet_is_the_spread_over_draws(columns):
    """Also where a feature is always 0."""
    mix = normal(6, 6, index=1) @ torch.eye(6, columns, dtype=torch.float64)
    reference = Gaussian.of_moments(0.5 * normal(columns, index=2), 2 * mix.T @ mix)
    draws = [normal(300, 6, index=10 + i) @ mix for i in range(80)]
    distances = torch.tensor([frechet_gaussian(reference, gaussian_of(x)) for x in draws])
    errors = torch.tensor([frechet_standard_error(reference, gaussian_of(x), x) for x in draws])
    assert errors.mean() == pytest.approx(distances.std().item(), rel=0.25)
    assert errors.std() < 0.2 * errors.mean()


@pytest.mark.parametrize(("n", "scale"), [(20, 1.0), (36, 1.0), (64, 1.0), (100, 1.0), (300, 1.0), (300, 1.5)])
def test_stated_error_of_frechet_is_the_spread_over_draws_of_few_and_of_many_samples(n, scale):
    """Also where the samples are the reference's own, so that the distance has no first order."""
    width = 24
    reference = Gaussian.of_moments(torch.zeros(width, dtype=torch.float64), torch.eye(width))
    draws = [scale * normal(n, width, index=10 + i) for i in range(200)]
    spread = torch.tensor([frechet_gaussian(reference, gaussian_of(x)) for x in draws]).std()
    errors = [frechet_score(reference, gaussian_of(x), n, x).standard_error for x in draws[:40]]
    assert 0.75 < torch.tensor(errors).mean() / spread < 1.3


@pytest.mark.parametrize("n", [5, 40, 300])
def test_frechet_of_a_set_with_itself_is_zero_and_of_a_shifted_one_the_shift(n):
    a = normal(n, 40).float()
    assert frechet_distance(a, a) < 1e-10
    assert frechet_distance(a.double(), a.double() + 0.5) == pytest.approx(40 * 0.25, rel=1e-9)


def test_moments_and_features_agree():
    a, b = normal(50, 8), normal(60, 8, index=1) + 1
    moments = [Gaussian.of_moments(x.mean(0), torch.cov(x.T)) for x in (a, b)]
    assert frechet_gaussian(*moments) == pytest.approx(frechet_distance(a, b), rel=1e-10)


def test_precision_and_recall_of_points_on_a_line():
    real = torch.tensor([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
    # k = 1: radius 1 around each. 3.0 lies on the border of the ball at 2; 5 and 20 in none.
    generated = torch.tensor([[0.5], [3.0], [5.0], [20.0]])
    precision, recall = precision_recall(real, generated, k=1)
    assert precision == 2 / 4
    # Radii of the generated: 2.5, 2, 2, 15. Only 20's ball (5 to 35) holds 10, 11, 12; 0.5's holds 0, 1, 2.
    assert recall == 1.0
    assert precision_recall(real, generated[:2], k=1).recall == 3 / 6


def test_equal_sets_have_full_precision_and_recall_even_with_duplicates():
    points = normal(20, 5).repeat(5, 1) + 1000
    assert precision_recall(points, points.clone()) == (1.0, 1.0)
    assert density_coverage(points, points.clone()).coverage == 1.0


def mixture(kept: int, n: int = 400, noise: float = 0.0, index: int = 2) -> torch.Tensor:
    """n points of the first ``kept`` of eight modes, equally many of each, blurred by ``noise``."""
    centres = 10 * normal(8, 16, index=1)
    return centres[torch.arange(n) % kept] + normal(n, 16, index=index) + noise * normal(n, 16, index=index + 100)


def every_distance(real: torch.Tensor, generated: torch.Tensor) -> dict[str, float]:
    """All metrics of features, signed such that lower is better."""
    precision, recall = precision_recall(real, generated)
    density, coverage = density_coverage(real, generated)
    scale = 40.0
    return {
        "frechet": frechet_distance(real, generated),
        "kernel": kernel_distance(generated, real, subsets=4).mean,
        "cmmd": clip_mmd(generated / scale, real / scale, sigma=0.5),
        "precision": -precision,
        "recall": -recall,
        "density": -density,
        "coverage": -coverage,
    }


def test_every_metric_orders_a_ladder_of_dropped_modes():
    ladder = [every_distance(mixture(8), mixture(kept, index=3)) for kept in (8, 6, 4, 2, 1)]
    for name in ("frechet", "kernel", "cmmd", "recall", "coverage"):
        values = [step[name] for step in ladder]
        assert values == sorted(values), (name, values)
        assert len(set(values)) == len(values), (name, values)
    # What fidelity alone measures stays high: every sample is a good one.
    assert min(-step["precision"] for step in ladder) > 0.6


def test_every_metric_orders_a_ladder_of_noise():
    ladder = [every_distance(mixture(8), mixture(8, noise=noise, index=3)) for noise in (0.0, 1.0, 2.0, 4.0)]
    for name in ("frechet", "kernel", "cmmd", "precision", "density", "coverage"):
        values = [step[name] for step in ladder]
        assert values == sorted(values), (name, values)
        assert values[0] < values[-1], name


def test_scores_of_answers_order_their_ladders():
    centres = 10 * normal(8, 16, index=1)

    def answers(x: torch.Tensor) -> torch.Tensor:
        return -torch.cdist(x, centres).square() / 2

    kept = [inception_score(answers(mixture(n, index=3)), shuffled_splits(400, 1)).mean for n in (8, 4, 2, 1)]
    assert kept == pytest.approx([8, 4, 2, 1], rel=1e-3)
    noisy = [accuracy(answers(mixture(8, noise=s, index=3)), torch.arange(400) % 8) for s in (0, 20, 40, 80)]
    assert noisy[0] == 1
    assert noisy == sorted(noisy, reverse=True)
    assert len(set(noisy)) == 4


def test_recall_and_coverage_of_a_mixture_with_dropped_modes_are_the_fraction_kept():
    # Modes far apart and dense: a real point is within reach of a sample only if its mode was kept.
    for kept in (8, 4, 2):
        real, generated = 5 * mixture(8, 800), 5 * mixture(kept, 800)
        assert precision_recall(real, generated).recall == pytest.approx(kept / 8, abs=0.03)
        assert density_coverage(real, generated).coverage == pytest.approx(kept / 8, abs=0.06)


def test_blocks_do_not_change_the_result(monkeypatch):
    real, generated = normal(70, 4), normal(50, 4, index=1) * 1.5
    whole, spread = precision_recall(real, generated), density_coverage(real, generated)
    monkeypatch.setattr(neighbours, "TILE", 7)
    assert precision_recall(real, generated) == whole
    assert density_coverage(real, generated) == spread


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.zeros(3, 4), torch.zeros(9, 4), "3 is too small"),
        (torch.zeros(9, 4), torch.zeros(9, 5), r"\(9, 4\) and \(9, 5\)"),
        (torch.zeros(9, 4), torch.full((9, 4), float("nan")), "9 of 9"),
    ],
)
def test_meaningless_features_are_refused(a, b, message):
    with pytest.raises(UserError, match=message):
        precision_recall(a, b)


def test_density_and_coverage_of_points_on_a_line():
    real, generated = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.5], [2.0], [9.0]])
    # k = 1: radii 1, 1, 2. 0.5 lies in the balls of 0 and 1; 2 in those of 1 (border) and 3; 9 in none.
    density, coverage = density_coverage(real, generated, k=1)
    assert density == pytest.approx((2 + 2 + 0) / 3)
    assert coverage == 1.0
    assert density_coverage(real, generated[2:].repeat(2, 1), k=1) == (0.0, 0.0)


def test_density_of_equal_distributions_is_about_one():
    density, coverage = density_coverage(normal(600, 4), normal(600, 4, index=1))
    assert density == pytest.approx(1, abs=0.1)
    assert coverage == pytest.approx(1 - 0.5**5, abs=0.05)  # 1 - (1 / 2)^k for equal counts (their equation 9)


def test_mmd_of_two_points_each_is_the_sum_over_pairs():
    x, y = torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    sums = kernel_sums(x, y, polynomial)
    # (x.y / 2 + 1)^3: within x 27, 1.5^3 and 1; within y 8, 1 and 1; across 8, 1, 1.5^3, 1.
    assert sums.biased == pytest.approx((27 + 3.375 + 2) / 4 + (8 + 1 + 2) / 4 - 2 * (8 + 1 + 3.375 + 1) / 4)
    assert sums.unbiased == pytest.approx(1 + 1 - 2 * (8 + 1 + 3.375 + 1) / 4)
    assert sums.u_statistic == pytest.approx(1 + 1 - 2 * (1 + 3.375) / 2)
    one = rbf(2.0)(x[:1].double(), y[:1].double())
    assert one.item() == pytest.approx(math.exp(-2 / 8))


def test_kernel_distance_is_unbiased():
    values = [
        kernel_distance(normal(200, 8, index=i), normal(200, 8, index=i + 500), subsets=10, size=50).mean
        for i in range(40)
    ]
    means = torch.tensor(values)
    assert means.mean().abs() < 3 * means.std() / 40**0.5


@pytest.mark.parametrize("kernel", [polynomial, rbf(2.0)])
@pytest.mark.parametrize(("shift", "real", "witnesses"), [(0.0, 150, 150), (0.3, 150, 100), (0.3, 40, 150)])
def test_standard_error_of_a_discrepancy_is_the_spread_over_draws(kernel, shift, real, witnesses, monkeypatch):
    """Also where both sets are as large as a subset of the kernel distance, so that all subsets are the same."""
    monkeypatch.setattr(kernels, "WITNESSES", witnesses)
    y = normal(real, 8, index=1)
    draws = [normal(150, 8, index=10 + i) + shift for i in range(50)]
    spread = torch.tensor([kernel_sums(x, y, kernel).unbiased for x in draws]).std()
    errors = torch.tensor([mmd_standard_error(x, y, kernel) for x in draws[:20]])
    assert 0.75 < errors.mean() / spread < 1.6


def test_standard_error_of_frechet_is_known_of_fewer_samples_than_features():
    mix = normal(24, 24, index=1)
    reference = Gaussian.of_moments(torch.zeros(24, dtype=torch.float64), mix.T @ mix)
    draws = [normal(22, 24, index=10 + i) @ mix for i in range(40)]
    found = [frechet_score(reference, gaussian_of(x), 22, x) for x in draws]
    spread = torch.tensor([score.value for score in found]).std()
    errors = torch.tensor([score.standard_error for score in found])
    assert 0.7 < errors.mean() / spread < 1.5
    assert found[0].error_from == "jackknife of 10 groups, less its second order"
    assert frechet_score(reference, gaussian_of(draws[0][:5]), 5, draws[0][:5]).standard_error is None


@pytest.mark.parametrize(("real", "scale"), [(400, 0.6), (100, 1.0)])
def test_standard_errors_of_neighbourhoods_are_the_spread_over_draws(real, scale):
    """Also where there are far more real points than samples: those of one ball are not independent."""
    y = normal(real, 6, index=1)
    found = [reach(y, scale * normal(100, 6, index=10 + i), [3, 5]) for i in range(40)]
    recalls = torch.tensor([r.precision_recall.recall for r, _ in found])
    coverages = torch.tensor([r.density_coverage.coverage for _, r in found])
    assert 0.75 < torch.tensor([r.recall_error for r, _ in found]).mean() / recalls.std() < 2
    assert 0.75 < torch.tensor([r.coverage_error for _, r in found]).mean() / coverages.std() < 2


@pytest.mark.parametrize("width", [2, 64])
def test_stated_error_of_recall_is_the_spread_over_draws_in_few_and_in_many_dimensions(width):
    y = normal(500, width, index=1)
    found = [reach(y, normal(200, width, index=10 + i), [3])[0] for i in range(40)]
    spread = torch.tensor([r.precision_recall.recall for r in found]).std()
    assert 0.8 < torch.tensor([r.recall_error for r in found]).mean() / spread < 2


@pytest.mark.parametrize("tile", [2048, 33])
def test_error_of_recall_is_the_jackknife_of_recalls_measured_anew(tile, monkeypatch):
    real, generated = normal(60, 8), normal(57, 8, index=1)
    recalls = left_out(lambda rows: precision_recall(real, rows).recall, generated)
    monkeypatch.setattr(neighbours, "TILE", tile)
    assert reach(real, generated, [3, 5])[0].recall_error == pytest.approx(standard_error(recalls), rel=1e-12)
    assert reach(real, generated[:4], [3])[0].recall_error is None  # three are left, with two neighbours each


@pytest.mark.parametrize("n", [40, 200])
def test_stated_errors_of_samples_in_fixed_shares_are_the_spread_over_draws(n):
    """Of few samples by the jackknife, of many by their influence; drawn in turn or class by class."""
    width, classes = 24, 4
    centres = 10 * normal(classes, width, index=1)
    rows = normal(2000, width, index=2) + centres[torch.arange(2000) % classes]
    reference = gaussian_of(rows)
    strata = torch.arange(n) % classes
    strata = torch.cat([strata[strata == c] for c in range(classes)]) if n == 200 else strata
    draws = [1.1 * normal(n, width, index=10 + i) + centres[strata] for i in range(40)]
    found = [frechet_score(reference, gaussian_of(x), n, x, strata) for x in draws]
    spread = torch.tensor([score.value for score in found]).std()
    assert 0.75 < torch.tensor([score.standard_error for score in found]).mean() / spread < 1.3
    assert torch.tensor([frechet_standard_error(reference, gaussian_of(x), x) for x in draws]).mean() > 2 * spread


def test_standard_error_of_a_discrepancy_in_fixed_shares_is_the_spread_over_draws():
    centres, strata = 3 * normal(4, 8, index=1), torch.arange(150) % 4
    y = normal(400, 8, index=2) + centres[torch.arange(400) % 4]
    draws = [1.1 * normal(150, 8, index=10 + i) + centres[strata] for i in range(50)]
    spread = torch.tensor([kernel_sums(x, y, polynomial).unbiased for x in draws]).std()
    errors = torch.tensor([mmd_standard_error(x, y, polynomial, strata=strata) for x in draws[:20]])
    assert 0.75 < errors.mean() / spread < 1.6
    assert torch.tensor([mmd_standard_error(x, y, polynomial) for x in draws[:20]]).mean() > 1.3 * errors.mean()


def test_classes_of_files_have_shares_where_they_are_even():
    for labels, even in (([3, 1, 1, 3, 1], True), ([0, 0, 1], False), ([0, 0, 0, 1, 1], True), ([0] * 9, True)):
        found = equal_shares(torch.tensor(labels, dtype=torch.int64))
        assert (found is not None) is even, labels
    assert equal_shares(None) is None
    assert equal_shares(torch.tensor([])) is None
    assert equal_shares(torch.arange(50)) is None  # as drawn ones of a thousand classes are
    numbered = equal_shares(torch.tensor([-1, 10**11, -1, 10**11]))
    assert numbered is not None
    assert numbered.tolist() == [0, 1, 0, 1]


def test_variance_within_strata():
    values, strata = torch.tensor([1.0, 3, 10, 12, 14]).double(), torch.tensor([5, 5, 2, 2, 2])
    assert variance(values, strata) == pytest.approx((1 + 1 + 4 + 0 + 4) / 3)
    assert variance(values, None) == variance(values, torch.arange(5)) == pytest.approx(values.var().item())
    assert variance(values, torch.tensor([0, 1, 2, 0, 3])) == variance(values, None)  # too many to know them by


def test_influence_is_what_the_bootstrap_tends_to():
    mix = normal(5, 5, index=1)
    reference, x = Gaussian.of_moments(normal(5, index=2), 2 * mix.T @ mix), normal(400, 5, index=3) @ mix
    again = [torch.randint(400, (400,), generator=generator(0, "test.bootstrap", i)) for i in range(200)]
    bootstrap = torch.tensor([frechet_gaussian(reference, gaussian_of(x[rows])) for rows in again]).std().item()
    assert frechet_standard_error(reference, gaussian_of(x), x) == pytest.approx(bootstrap, rel=0.2)


def test_kernel_blocks_do_not_change_the_result(monkeypatch):
    x, y = normal(70, 4), normal(50, 4, index=1)
    whole = kernel_sums(x, y, polynomial)
    monkeypatch.setattr(kernels, "BLOCK", 16)
    parts = kernel_sums(x, y, polynomial)
    assert parts.unbiased == pytest.approx(whole.unbiased, rel=1e-12)
    assert parts.xy_diagonal == pytest.approx(whole.xy_diagonal, rel=1e-12)


def test_inception_score_of_certain_and_of_uncertain_answers():
    sure = 1000 * torch.nn.functional.one_hot(torch.arange(200) % 5, 5).double()
    assert inception_score(sure, shuffled_splits(200, 1)).mean == pytest.approx(5)
    assert inception_score(torch.zeros(200, 5), equal_splits(200, 10)) == pytest.approx((1, 0))
    # Sorted by class, unshuffled splits hold one class each; the published order mixes them.
    by_class = sure[torch.arange(200).reshape(40, 5).T.flatten()]
    assert inception_score(by_class, equal_splits(200, 5)).mean == pytest.approx(1)
    assert inception_score(by_class, shuffled_splits(200, 5)).mean > 4
    assert accuracy(sure, torch.arange(200) % 5) == 1


def test_splits_are_as_published_also_where_they_are_uneven():
    assert equal_splits(11, 3).tolist() == [0] * 3 + [1] * 4 + [2] * 4
    with pytest.raises(UserError, match="too few for 10 splits"):
        inception_score(torch.zeros(5, 3), torch.tensor([0, 1, 2, 3, 9]))
