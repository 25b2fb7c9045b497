"""Densities of training times: found by name, integrate to one, and are what the times are drawn from."""

from __future__ import annotations

import inspect

import pytest
import torch

from ditkit.base import rng
from ditkit.base.errors import UserError
from ditkit.base.registry import members
from ditkit.process.continuous import EDM, VE, VP, Linear
from ditkit.process.density import (
    CosMap,
    Density,
    LogitNormal,
    LogNormalSigma,
    LossHistory,
    Mode,
    Shifted,
    Uniform,
)
from ditkit.process.path import DDPMLinear
from tests.exact import PATHS

KINDS = members(
    "ditkit.process.density", lambda v: inspect.isclass(v) and issubclass(v, Density) and not inspect.isabstract(v)
)
OTHERS = [
    Uniform(0.2, 0.7),
    LogitNormal(-0.8, 0.5),
    Mode(-0.9),
    Mode(1.7),
    Shifted(0.3, LogitNormal()),
    Shifted(3.0, CosMap()),
]
DENSITIES = [*(kind() for kind in KINDS.values()), *OTHERS]
every_density = pytest.mark.parametrize("density", DENSITIES, ids=lambda d: f"{d.name}-{DENSITIES.index(d)}")
CONTINUOUS = [Linear(), VP(), VE(), EDM()]
DRAWS = 20_000


def draws(count: int = DRAWS, index: int = 0) -> torch.Tensor:
    return torch.rand(count, generator=rng.generator(0, "density", index), dtype=torch.float64)


def distribution(density: Density, path, points: int = 20_001) -> tuple[torch.Tensor, torch.Tensor]:
    """Times inside (0, 1), dense where the density is narrow, and its integral up to them."""
    logit = torch.linspace(-25, 25, points, dtype=torch.float64)
    t = torch.sigmoid(logit)
    per_logit = density.pdf(t, path) * t * (1 - t)
    step = logit[1] - logit[0]
    return t, torch.cat([torch.zeros(1), ((per_logit[1:] + per_logit[:-1]) / 2 * step).cumsum(0)])


def with_history(history: LossHistory) -> LossHistory:
    bins, memory = history.losses.shape
    t = (torch.arange(bins, dtype=torch.float64) + 1) / bins
    for _ in range(memory):
        history.update(t, 0.1 + (3 * t).sin() ** 2)
    return history


def test_all_kinds_are_found():
    expected = {"uniform", "logit_normal", "mode", "cosmap", "log_normal_sigma", "shifted", "loss_history"}
    assert expected <= KINDS.keys()


@every_density
@pytest.mark.parametrize("path", CONTINUOUS, ids=lambda path: path.name)
def test_a_density_integrates_to_one(density: Density, path):
    assert distribution(density, path)[1][-1].item() == pytest.approx(1, abs=1e-3)


@every_density
@pytest.mark.parametrize("path", CONTINUOUS, ids=lambda path: path.name)
def test_times_follow_the_density(density: Density, path):
    # Kolmogorov and Smirnov: the largest distance of the distributions; above 1.95 / sqrt(n) once in a thousand.
    t = density(draws(), path).sort().values
    assert bool(((t >= 0) & (t <= 1)).all())
    known, below = distribution(density, path)
    at = torch.searchsorted(known, t).clamp(1, len(known) - 1)
    share = torch.lerp(below[at - 1], below[at], (t - known[at - 1]) / (known[at] - known[at - 1]))
    rank = torch.arange(DRAWS, dtype=torch.float64) / DRAWS
    assert (share - rank).abs().max().item() < 1.95 / DRAWS**0.5


@every_density
def test_the_weight_makes_means_uniform_ones(density: Density):
    if isinstance(density, Uniform) and density.high - density.low < 1:
        pytest.skip("it never visits some times")
    path, count = Linear(), 20_000
    t = density((torch.arange(count, dtype=torch.float64) + 0.5) / count, path)
    low, high = t.quantile(0.01).item(), t.quantile(0.99).item()  # where it draws often enough
    mean = (density.weight(t, path) * t**2 * ((t > low) & (t < high))).mean().item()
    assert mean == pytest.approx((high**3 - low**3) / 3, abs=2e-3)


@every_density
def test_a_discrete_path_gets_its_chains_times(density: Density):
    path = DDPMLinear(steps=50)
    t = density(draws(2000), path)
    assert torch.equal((t * 50).round() / 50, t)
    assert t.min() >= 1 / 50
    assert t.max() <= 1


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_log_normal_noise_levels(path):
    # cut off at the path's ends, so compare within them
    t = LogNormalSigma(mean=-1.0, std=0.5).quantile(draws(), path)
    log_sigma = -path.log_snr(t)
    assert log_sigma.mean().item() == pytest.approx(-1.0, abs=0.02)
    assert log_sigma.std().item() == pytest.approx(0.5, abs=0.02)


def test_a_shift_moves_the_noise_level_by_its_factor():
    path, u = Linear(), draws(100)
    plain, moved = Uniform()(u, path), Shifted(3.0)(u, path)
    level = lambda t: path.sigma(t) / path.alpha(t)  # noqa: E731
    torch.testing.assert_close(level(moved), 3 * level(plain), rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [20, 50, 1000])
def test_loss_history_is_uniform_until_it_knows_every_time(steps: int):
    path, history, u = DDPMLinear(steps=steps), LossHistory(bins=steps), draws(5000)
    assert torch.equal(history(u, path), Uniform()(u, path))
    history.update(torch.ones(20), torch.full((20,), 9.0))
    assert torch.equal(history(u, path), Uniform()(u, path))
    torch.testing.assert_close(history.weight(history(u, path), path), torch.ones(5000, dtype=torch.float64))


def test_loss_history_draws_in_proportion_to_the_root_mean_square_loss():
    path, history = DDPMLinear(steps=20), LossHistory(bins=20, memory=4, uniform=0.01)
    t = (torch.arange(20, dtype=torch.float64) + 1) / 20
    for k in range(9):  # only the latest four count
        late = torch.where(t == 0.5, [3.0, 1.0][k % 2], 2.0)
        history.update(t, late if k > 4 else 100 * t)
    size = torch.where(t == 0.5, 5.0**0.5, 2.0).double()
    expected = 0.99 * size / size.sum() + 0.01 / 20
    torch.testing.assert_close(history.shares, expected)
    torch.testing.assert_close(history.weight(t, path), 1 / (20 * expected))
    counts = torch.bincount((history(draws(100_000), path) * 20).round().long(), minlength=21)[1:]
    torch.testing.assert_close(counts.double() / 100_000, expected, atol=0.004, rtol=0)


@pytest.mark.parametrize("path", [Linear(), DDPMLinear(steps=30)], ids=lambda path: path.name)
def test_a_known_history_gives_unbiased_means(path):
    history = with_history(LossHistory(bins=30, memory=2))
    t = history(draws(100_000), path)
    uniform = Uniform()(draws(100_000, 1), path)
    assert (history.weight(t, path) * t).mean().item() == pytest.approx(uniform.mean().item(), abs=0.01)
    _, below = distribution(history, Linear())
    assert below[-1].item() == pytest.approx(1, abs=1e-3)


def test_a_resumed_history_goes_on_as_it_was():
    history, resumed = with_history(LossHistory(bins=8)), LossHistory(bins=8)
    resumed.load_state_dict(history.state_dict())
    for one in (history, resumed):
        one.update(torch.tensor([0.3, 0.3]), torch.tensor([5.0, 6.0]))
    assert torch.equal(history.losses, resumed.losses)
    with pytest.raises(UserError, match="same bins"):
        LossHistory(bins=9).load_state_dict(history.state_dict())


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Uniform(0.5, 0.5),
        lambda: Uniform(0.0, 1.5),
        lambda: LogitNormal(0.0, 0.0),
        lambda: Mode(2.0),
        lambda: LogNormalSigma(0.0, -1.0),
        lambda: Shifted(0.0),
        lambda: LossHistory(bins=0),
    ],
)
def test_wrong_settings_are_errors(wrong):
    with pytest.raises(UserError, match="expected"):
        wrong()
