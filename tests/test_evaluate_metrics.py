"""Known answers of the metrics."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ditkit.base.errors import UserError
from ditkit.base.rng import generator
from ditkit.evaluate import metrics
from ditkit.evaluate.metrics import Gaussian, frechet_distance, frechet_gaussian, precision_recall


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


def test_dropping_modes_lowers_recall_and_noise_lowers_precision():
    centres = 10 * normal(8, 16, index=1)
    modes = torch.arange(400) % 8
    real = centres[modes] + normal(400, 16, index=2)
    good = centres[modes] + normal(400, 16, index=3)
    recalls, precisions = [], []
    for kept in (8, 4, 2):
        dropped = centres[modes % kept] + normal(400, 16, index=4)
        recalls.append(precision_recall(real, dropped).recall)
    for noise in (0, 1, 3):
        precisions.append(precision_recall(real, good + noise * normal(400, 16, index=5)).precision)
    assert recalls[0] > recalls[1] > recalls[2]
    assert recalls[2] < 0.3 < 0.5 < recalls[0]
    assert precisions[0] > precisions[1] > precisions[2]


def test_blocks_do_not_change_the_result(monkeypatch):
    real, generated = normal(70, 4), normal(50, 4, index=1) * 1.5
    whole = precision_recall(real, generated)
    monkeypatch.setattr(metrics, "BLOCK_BYTES", 8 * 70 * 7)
    assert precision_recall(real, generated) == whole


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
