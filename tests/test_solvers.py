"""Ancestral solvers on data whose denoiser is exact: every moment of what they sample is known."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.base.registry import members
from ditkit.process import grids
from ditkit.process.chain import Chain
from ditkit.process.denoiser import Denoised
from ditkit.process.grids import uniform as sampling_grid
from ditkit.process.path import DDPMLinear, Path
from ditkit.solvers.ancestral import ddim, ddim_invert, ddim_step, ddpm
from tests.exact import DISCRETE, PATHS, GaussianData, moments, normal, run

SOLVERS = members("ditkit.solvers.ancestral", inspect.isgeneratorfunction)
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def noises(shape: tuple[int, ...]):
    return lambda k: normal(*shape, index=k + 1)


def after_the_last_step(data: GaussianData, ts: Tensor) -> float:
    """The variance of x at ts[-1]; where it is without noise, that of E[x0 | x_t], as the last step adds none."""
    if data.path.sigma(ts[-1]) > 0:
        return data.variance(ts[-1]).item()
    return data.std**2 - data.unknown(ts[-2]).item()


def fine(path: Path, steps: int) -> Tensor:
    """A grid fine at all noise levels: a chain's own times, else even in log-SNR."""
    return sampling_grid(path, steps) if path.steps else grids.log_snr(path, steps)


def test_discovery_finds_the_solvers():
    assert {"ddpm", "ddim"} <= SOLVERS.keys()


@every_solver
@every_path
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_a_solver_yields_a_state_a_step_and_ends_where_the_grid_does(solver, path: Path, steps: int):
    x, ts = normal(3, 2, 4, 4, dtype=torch.float32), sampling_grid(path, steps)
    noise = lambda k: normal(3, 2, 4, 4, index=k, dtype=torch.float32)  # noqa: E731
    states = list(solver(GaussianData(path, 0.2, 0.5), x, ts, noise=noise))
    assert torch.equal(torch.stack([state.t for state in states]), ts[1:])
    for state in states:
        assert state.x.shape == state.said.x0.shape == x.shape
        assert state.x.dtype == torch.float32
        assert bool(state.x.isfinite().all())


@every_solver
@every_path
def test_many_steps_give_the_datas_mean_and_variance(solver, path: Path):
    mean, variance = moments(solver, GaussianData(path, 0.4, 0.5), fine(path, 500))
    assert mean == pytest.approx(0.4, abs=2e-3)
    assert variance == pytest.approx(0.25, rel=0.05)


@every_path
@pytest.mark.parametrize("steps", [2, 5, 30])
def test_ddpm_with_the_exact_variance_is_exact_in_any_number_of_steps(path: Path, steps: int):
    ts = sampling_grid(path, steps)
    data = GaussianData(path, 0.4, 0.5, Chain(path, ts))
    mean, variance = moments(ddpm, data, ts)
    assert mean == pytest.approx(0.4, abs=1e-9)
    assert variance == pytest.approx(after_the_last_step(data, ts), rel=1e-8)


def test_the_two_fixed_variances_are_exact_for_white_data_and_for_a_point():
    path, ts = DDPMLinear(), sampling_grid(DDPMLinear(), 6)
    white, point = GaussianData(path, 0.0, 1.0), GaussianData(path, 0.3, 0.0)
    assert moments(ddpm, white, ts, variance="beta")[1] == pytest.approx(after_the_last_step(white, ts), rel=1e-9)
    assert moments(ddpm, point, ts, variance="posterior") == pytest.approx((0.3, 0.0), abs=1e-12)
    # and each is wrong, on the expected side, for the other's data
    assert moments(ddpm, white, ts, variance="posterior")[1] < 0.99 * after_the_last_step(white, ts)


@pytest.mark.parametrize("path", DISCRETE.values(), ids=DISCRETE)
def test_ddpm_uses_the_learned_variance_where_there_is_one(path: Path):
    ts = sampling_grid(path, 5)
    data = GaussianData(path, 0.0, 0.5, Chain(path, ts))
    x = normal(4, 3)
    assert torch.equal(run(ddpm, data, x, ts), run(ddpm, data, x, ts, variance="learned"))
    plain = GaussianData(path, 0.0, 0.5)
    assert torch.equal(run(ddpm, plain, x, ts), run(ddpm, plain, x, ts, variance="posterior"))
    with pytest.raises(UserError, match="learned"):
        run(ddpm, plain, x, ts, variance="learned")


@every_path
def test_ddim_with_eta_one_is_ddpm_with_the_posterior_variance(path: Path):
    data, x, ts = GaussianData(path, 0.4, 0.5), normal(4, 3), sampling_grid(path, 11)
    expected = run(ddpm, data, x, ts, variance="posterior")
    torch.testing.assert_close(run(ddim, data, x, ts, eta=1.0), expected, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(run(ddim, data, x, ts, eta=0.5), expected, atol=1e-3)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddims_step_keeps_the_marginal_whatever_eta(eta: float):
    # The data are one point: then x0 and eps are known exactly, and any eta must follow the path's own marginals.
    path, ts = DDPMLinear(), sampling_grid(DDPMLinear(), 8)[:-1]
    mean, variance = moments(ddim, GaussianData(path, 0.7, 0.0), ts, eta=eta)
    assert mean == pytest.approx(0.7 * path.alpha(ts[-1]).item(), rel=1e-9)
    assert variance == pytest.approx(path.sigma(ts[-1]).item() ** 2, rel=1e-9)


def test_ddim_without_noise_draws_none_and_converges_at_first_order():
    path = DDPMLinear()

    def forbidden(k: int) -> Tensor:
        raise AssertionError("eta 0 draws nothing")

    x = normal(5, 2)
    data = GaussianData(path, 0.4, 0.5)
    ends = [run(ddim, data, x, sampling_grid(path, steps), forbidden) for steps in (25, 50, 1000)]
    ratio = (ends[0] - ends[2]).norm() / (ends[1] - ends[2]).norm()
    assert 1.7 < ratio < 2.5


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_eta_out_of_range_is_refused(eta: float):
    path = DDPMLinear()
    with pytest.raises(UserError, match=f"eta {eta}"):
        run(ddim, GaussianData(path, 0.0, 1.0), normal(1, 1), sampling_grid(path, 3), eta=eta)


@every_path
def test_inversion_finds_the_noise_that_ddim_turns_into_the_image(path: Path):
    data, ts = GaussianData(path, 0.4, 0.5), fine(path, 400)
    # from just below pure noise, where nothing of an image is left to find
    ts = ts[ts < 0.9]
    start = path.mix(normal(4, 3, index=1), normal(4, 3, index=2), ts[0])
    image = run(ddim, data, start, ts)
    off = ddim_invert(data, image, ts) - start
    assert off.abs().max() < 0.05 * path.sigma(ts[0]).clamp(min=1)
    assert not torch.allclose(image, start, atol=0.3)


def test_inversion_of_a_single_step_or_of_what_is_no_image_is_refused():
    data, image = GaussianData(DDPMLinear(), 0.4, 0.5), normal(2, 3)
    with pytest.raises(UserError, match=r"1 positive time: .*at least 2"):
        ddim_invert(data, image, torch.tensor([1.0, 0.0], dtype=torch.float64))
    image[1, 0] = torch.nan
    with pytest.raises(UserError, match="image 1 of the batch is not finite"):
        ddim_invert(data, image, torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64))


@every_solver
def test_samples_of_a_batch_do_not_depend_on_one_another(solver):
    path = DDPMLinear()
    data, ts = GaussianData(path, 0.4, 0.5, Chain(path, sampling_grid(path, 6))), sampling_grid(path, 6)
    x, noise = normal(5, 2, dtype=torch.float32), [normal(5, 2, index=k, dtype=torch.float32) for k in range(1, 7)]
    together = run(solver, data, x, ts, lambda k: noise[k])
    for i in range(5):
        row = slice(i, i + 1)
        assert torch.equal(run(solver, data, x[row], ts, lambda k, row=row: noise[k][row]), together[row])


@every_solver
@pytest.mark.parametrize("learned", [True, False])
def test_a_solver_leaves_the_samples_on_their_device(solver, learned: bool):
    # "meta" stands for any device but the CPU, where the grid and its coefficients are.
    path, ts = DDPMLinear(), sampling_grid(DDPMLinear(), 3)
    data = GaussianData(path, 0.4, 0.5, Chain(path, ts) if learned else None)
    x = torch.empty(2, 3, 4, device="meta")
    assert run(solver, data, x, ts, lambda k: torch.empty_like(x)).device.type == "meta"


@pytest.mark.parametrize("eta", [0.0, 0.25, 1.0])
def test_eta_scales_the_standard_deviation_of_ddims_noise(eta: float):
    path = DDPMLinear()
    chain, x, k = Chain(path, sampling_grid(path, 8)), normal(1, 2), torch.tensor(3)
    said = GaussianData(path, 0.4, 0.5)(x, chain.t[k])
    noised, plain = (ddim_step(chain, k, said, torch.full_like(x, z), eta) for z in (1.0, 0.0))
    torch.testing.assert_close(noised - plain, torch.full_like(x, eta * chain.posterior_variance[k].sqrt().item()))


def test_states_carry_what_was_said_at_the_start_of_their_step():
    path, asked = DDPMLinear(), []
    data, ts = GaussianData(path, 0.4, 0.5), sampling_grid(DDPMLinear(), 4)

    class Spy:
        path = data.path

        def __call__(self, x: Tensor, t: Tensor) -> Denoised:
            asked.append(data(x, t))
            return asked[-1]

    states = list(ddpm(Spy(), normal(2, 2), ts, noise=noises((2, 2))))
    assert [state.said for state in states] == asked
    torch.testing.assert_close(states[-1].x, asked[-1].x0)
