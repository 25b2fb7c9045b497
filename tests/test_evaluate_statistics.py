"""Streaming statistics: parts merge to one pass, states come back, singular covariances keep their digits."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ditkit.base.errors import UserError
from ditkit.base.rng import generator
from ditkit.evaluate.features import frechet_distance, inception_score
from ditkit.evaluate.frechet import frechet_gaussian
from ditkit.evaluate.points import Points
from ditkit.evaluate.statistics import Mean, Moments, Rows, SplitEntropies, shuffled_splits


def normal(*shape: int, index: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(0, "test.statistics", index), dtype=torch.float64)


def moments(features: torch.Tensor, sizes: list[int]) -> Moments:
    """The moments of features taken in batches of these sizes, the last one taking the rest."""
    found = Moments()
    for batch in features.split([*sizes, len(features) - sum(sizes)]):
        found.update(batch)
    return found


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(4, 60), d=st.integers(1, 24), cuts=st.lists(st.integers(1, 59), max_size=5), index=st.integers(0, 99)
)
def test_merged_parts_equal_one_pass(n, d, cuts, index):
    """Also of fewer rows than columns, far from the origin, where a sum of squares would lose all digits."""
    x, other = 3 * normal(n, d, index=index) + 1000, normal(30, d, index=index + 100) + 1000
    whole = moments(x, [])
    edges = sorted({0, n, *(c for c in cuts if c < n)})
    merged = Moments()
    for low, high in pairwise(edges):
        merged.merge(Moments.of_state(moments(x[low:high], []).state))
    assert merged.count == whole.count == n
    scale = whole.gaussian().covariance.abs().max()
    assert (merged.mean - whole.mean).abs().max() <= 1e-12 * 1000
    assert (merged.gaussian().covariance - whole.gaussian().covariance).abs().max() <= 1e-12 * scale + 1e-12
    expected = torch.cov(x.T).reshape(d, d)
    torch.testing.assert_close(merged.gaussian().covariance, expected, rtol=1e-9, atol=1e-9)
    against = moments(other, [7]).gaussian()
    one, parts = (frechet_gaussian(m.gaussian(), against) for m in (whole, merged))
    assert parts == pytest.approx(one, rel=1e-12, abs=1e-10)


def test_memory_of_moments_does_not_grow_with_the_images():
    found = Moments()
    for index in range(100):
        found.update(normal(10, 6, index=index))
        assert sum(map(len, found._rows)) <= 4 * 6 + 11
    assert found.state["factor"].shape == (6, 6)


def test_streamed_distance_of_a_set_to_itself_is_zero_also_when_singular():
    for n in (5, 40, 300):
        x = normal(n, 40).float() + 10
        assert frechet_gaussian(moments(x, [3]).gaussian(), moments(x, [1, 2]).gaussian()) < 1e-9
        assert frechet_distance(x, x.flip(0)) < 1e-9


def test_mean_has_the_standard_error_of_the_textbook():
    values = normal(50)
    whole, part, rest = Mean(), Mean(), Mean()
    whole.update(values)
    part.update(values[:13])
    rest.update(values[13:])
    part.merge(Mean.of_state(rest.state))
    for found in (whole, part):
        assert found.value == pytest.approx(values.mean().item(), abs=1e-14)
        assert found.standard_error == pytest.approx((values.std() / 50**0.5).item(), rel=1e-12)


def test_rows_come_in_the_order_of_their_numbers_whoever_saw_them():
    rows = normal(10, 3)
    first, second = Rows(), Rows()
    first.update(rows[1::2], torch.arange(10)[1::2])
    second.update(rows[::2], torch.arange(10)[::2])
    first.merge(Rows.of_state(second.state))
    assert torch.equal(first.rows, rows)
    assert first.count == 10


def test_distances_among_points_are_kept_until_there_are_more():
    x = normal(12, 3)
    points, rest = Points(), Points()
    points.update(x[:7], torch.arange(7))
    rest.update(x[7:], torch.arange(7, 12))
    for more, among in ((lambda: None, x[:7]), (lambda: points.merge(rest), x)):
        more()
        brute = torch.cdist(among, among).fill_diagonal_(float("inf")).sort(1).values
        torch.testing.assert_close(points.around(4).sqrt(), brute[:, :4], rtol=1e-9, atol=1e-9)
    points.around(2)
    again = Points.of_state(points.state)
    assert again.around(4).data_ptr() == points.state["around"].data_ptr()  # and computed no more
    again.update(normal(1, 3, index=1), torch.tensor([12]))
    assert again.around(4).shape == (13, 4)
    assert "around" not in Points.of_state(Rows.of_state(points.state).state).state  # as older files are


def test_split_entropies_merge_to_the_inception_score_of_one_pass():
    logits, split = 3 * normal(103, 7), shuffled_splits(103, 10)
    parts = [SplitEntropies(split) for _ in range(3)]
    for part, rows in zip(parts, torch.arange(103).split(40), strict=True):
        part.update(logits[rows], rows)
    for part in parts[1:]:
        parts[0].merge(SplitEntropies.of_state(part.state))
    assert parts[0].count == 103
    expected = inception_score(logits, split)
    assert parts[0].scores.mean().item() == pytest.approx(expected.mean, rel=1e-12)
    with pytest.raises(UserError, match="other splits"):
        parts[0].merge(SplitEntropies(shuffled_splits(104, 10)))
    with pytest.raises(UserError, match="number 103 is beyond the 103"):
        parts[0].update(logits[:1], torch.tensor([103]))


def test_features_that_cannot_be_summed_are_refused():
    found = moments(normal(5, 3), [])
    with pytest.raises(UserError, match="4 values, expected 3"):
        found.update(normal(5, 4))
    with pytest.raises(UserError, match="1 of 5 images are not finite"):
        found.update(torch.tensor([[float("nan"), 1, 1]] + [[0.0, 0, 0]] * 4))
    one = Moments()
    one.update(normal(1, 3))
    with pytest.raises(UserError, match="1 is too small"):
        one.gaussian()
