"""Posterior-mean targets against the exact posterior of a mixture, and sampling from a data set with no network."""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from ditkit.backbones.output import Output
from ditkit.base import rng
from ditkit.base.errors import UserError
from ditkit.condition import NULL_LABEL, Condition
from ditkit.objectives.loss import Draws
from ditkit.objectives.matching import simple
from ditkit.objectives.neighbours import BruteForce, Faiss, Index, References
from ditkit.objectives.targets import KNNDenoiser, knn, neighbours_mean, posterior_mean, stf
from ditkit.process.continuous import VP, Linear
from ditkit.process.denoiser import Denoiser
from ditkit.process.density import Uniform
from ditkit.process.path import DDPMLinear, Path, over
from ditkit.process.prediction import Eps, Prediction
from ditkit.solvers.ancestral import ddim
from tests.exact import PATHS, PREDICTIONS, normal, run
from tests.mixtures import Mixture, mixture

every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
TIMES = torch.tensor([0.02, 0.2, 0.5, 0.8, 0.98], dtype=torch.float64)
HALF = torch.tensor(0.5, dtype=torch.float64)


def points(data: Tensor, std: float = 1e-9) -> Mixture:
    """The data set itself as a mixture: of points, all alike."""
    spread = (std**2 * torch.eye(data.shape[1], dtype=torch.float64)).expand(len(data), -1, -1)
    return Mixture(torch.full((len(data),), 1 / len(data), dtype=torch.float64), data, spread)


def uniform(*shape: int, index: int = 0) -> Tensor:
    return torch.rand(shape, generator=rng.generator(0, "uniform", index), dtype=torch.float64)


# --- the mean ---


@every_path
def test_the_posterior_mean_is_the_exact_one_of_the_references(path: Path):
    data = normal(7, 3, index=1)
    x_t = path.mix(data[:5], normal(5, 3, index=2), TIMES)
    exact = points(data).on(path)(x_t, TIMES).x0
    torch.testing.assert_close(posterior_mean(path, x_t, TIMES, data), exact, rtol=1e-6, atol=1e-6)
    # each row's own references, in another order
    own = data[torch.stack([torch.randperm(7, generator=rng.generator(0, "order", i)) for i in range(5)])]
    torch.testing.assert_close(posterior_mean(path, x_t, TIMES, own), exact, rtol=1e-6, atol=1e-6)


def test_the_posterior_mean_weighs_references_as_it_is_told():
    data, x_t = normal(3, 2, index=1), normal(4, 2, index=2)
    weight = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)
    twice = posterior_mean(VP(), x_t, HALF, data[[0, 0, 1, 2]])
    torch.testing.assert_close(posterior_mean(VP(), x_t, HALF, data, weight.log().expand(4, 3)), twice)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_ends_of_a_path_are_the_nearest_image_and_the_mean(dtype: torch.dtype):
    data, x = normal(6, 3, 4, 4, index=1, dtype=dtype), normal(2, 3, 4, 4, index=2, dtype=dtype)
    clean, noise = (torch.tensor(t, dtype=torch.float64) for t in (0.0, 1.0))
    torch.testing.assert_close(posterior_mean(Linear(), data[2:4] + 1e-3, clean, data), data[2:4])
    mean = data.mean(0).expand(2, 3, 4, 4)
    torch.testing.assert_close(posterior_mean(Linear(), x, noise, data), mean, rtol=1e-4, atol=1e-4)


def test_small_noise_is_told_apart_in_float32():
    # images that differ by less than the noise, far from zero: distances by products of norms would mix them up
    data = 30 + normal(1, 512, index=1, dtype=torch.float32) + 1e-3 * normal(5, 512, index=2, dtype=torch.float32)
    path, t = PATHS["edm"], torch.tensor(0.01 / 80, dtype=torch.float64)
    x_t = path.mix(data, normal(5, 512, index=3, dtype=torch.float32), t)
    exact = points(data.double()).on(path)(x_t.double(), t).x0
    torch.testing.assert_close(posterior_mean(path, x_t, t, data).double(), exact, rtol=0, atol=2e-5)


# --- indices ---


def brute(data: Tensor) -> Index:
    return BruteForce(data)


def faiss(data: Tensor) -> Index:
    pytest.importorskip("faiss")
    return Faiss(data)


@pytest.mark.parametrize("build", [brute, faiss])
def test_an_index_finds_the_nearest(build: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ditkit.objectives.neighbours.CHUNK", 100)  # several chunks
    data, queries = normal(40, 2, 3, index=1, dtype=torch.float32), normal(9, 2, 3, index=2, dtype=torch.float32)
    distance = torch.cdist(queries.flatten(1), data.flatten(1))
    assert torch.equal(build(data).nearest(queries, 5), distance.topk(5, largest=False).indices)
    for k in (0, 41):
        with pytest.raises(UserError, match=f"k {k}: expected 1 to 40"):
            build(data).nearest(queries, k)


def test_an_approximate_index_is_named_by_its_description():
    pytest.importorskip("faiss")
    data = normal(200, 4, dtype=torch.float32)
    assert torch.equal(Faiss(data, factory="HNSW16").nearest(data[:3], 1).flatten(), torch.arange(3))
    with pytest.raises(UserError, match=r"'Nonsense'.*Flat"):
        Faiss(data, factory="Nonsense")


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"faiss.*ditkit\[knn\]"):
        Faiss(normal(3, 2))


def test_an_empty_index_is_refused():
    with pytest.raises(UserError, match="0 images"):
        BruteForce(torch.empty(0, 3))


# --- nearest neighbours ---


@every_path
def test_all_neighbours_are_the_exact_mean(path: Path):
    data = normal(30, 2, index=1)
    x_t = path.mix(data[:5], normal(5, 2, index=2), TIMES)
    exact = posterior_mean(path, x_t, TIMES, data)
    torch.testing.assert_close(neighbours_mean(path, x_t, TIMES, BruteForce(data), 30), exact)
    torch.testing.assert_close(neighbours_mean(path, x_t, TIMES, BruteForce(data), 30, uniform(5, 8)), exact)


def test_draws_from_the_others_are_uniform_and_never_the_neighbours():
    data = torch.arange(12, dtype=torch.float64)[:, None]
    index, seen = BruteForce(data), []

    class Spy:
        data = index.data

        def nearest(self, queries: Tensor, k: int) -> Tensor:
            return index.nearest(queries, k)

    # at t = 1 of the linear path all weights are alike: the mean is that of 4 neighbours and of 8 others
    u = ((torch.arange(8) + 0.5) / 8).double()
    for value in u:
        x = torch.full((1, 1), -0.7, dtype=torch.float64)
        one = neighbours_mean(Linear(), x, torch.ones((), dtype=torch.float64), Spy(), 4, value.reshape(1, 1))
        neighbours = index.nearest(x * 1e12, 4)
        assert sorted(neighbours[0].tolist()) == [0, 1, 2, 3]
        seen.append(round((one.item() * 12 - data[neighbours].sum().item()) / 8, 6))
    assert seen == list(range(4, 12))
    middle = 5.2 * VP().alpha(HALF).reshape(1, 1)  # its neighbours are 4, 5, 6 and 7
    scattered = neighbours_mean(VP(), middle, HALF, index, 4, torch.full((1, 8), 0.5))
    torch.testing.assert_close(scattered, posterior_mean(VP(), middle, HALF, data))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    data, x_t = normal(50, 3, index=1), normal(5, 3, index=2)
    whole = neighbours_mean(VP(), x_t, TIMES, BruteForce(data), 7, uniform(5, 9))
    monkeypatch.setattr("ditkit.objectives.targets.CHUNK", 100)
    torch.testing.assert_close(neighbours_mean(VP(), x_t, TIMES, BruteForce(data), 7, uniform(5, 9)), whole)


# --- bias and variance ---


@dataclasses.dataclass
class Spread:
    """Mean squared bias and variance of an estimate of E[x0 | x_t]."""

    bias: float
    variance: float

    @staticmethod
    def of(estimates: Tensor, exact: Tensor) -> Spread:
        """estimates: (repeats, B, D) of the same x_t; exact: (B, D)."""
        mean, variance = estimates.mean(0), estimates.var(0)
        # the square of the mean's error is too large by the mean's own variance
        return Spread(((mean - exact) ** 2 - variance / len(estimates)).mean().item(), variance.mean().item())


def spreads(path: Path, t: Tensor, n: int, k: int, repeats: int = 200, size: int = 2000) -> dict[str, Spread]:
    """Single sample, STF over n references and KNN over k neighbours and n draws, at 64 fixed x_t.

    Each repeat draws what is random: the image behind x_t, the other references, the uniform draws.
    """
    data = mixture(2).sample(size, 1)
    index, truth = BruteForce(data), points(data).on(path)
    x_t = path.mix(data[:64], normal(64, 2, index=5), t)
    exact = truth(x_t, t).x0
    posterior = truth.component_log_probability(x_t, t).exp()
    found: dict[str, list[Tensor]] = {"single": [], "stf": [], "knn": []}
    for i in range(repeats):
        draw = rng.generator(i, "repeat")
        single = data[torch.multinomial(posterior, 1, generator=draw)]  # (64, 1, 2): x0 ~ p(x0 | x_t)
        others = data[torch.randint(size, (64, n - 1), generator=draw)]
        found["single"].append(single[:, 0])
        found["stf"].append(posterior_mean(path, x_t, t, torch.cat([single, others], 1)))
        found["knn"].append(neighbours_mean(path, x_t, t, index, k, uniform(64, n, index=i)))
    return {name: Spread.of(torch.stack(estimates), exact) for name, estimates in found.items()}


@pytest.mark.parametrize("t", [0.05, 0.2, 0.5, 0.8])
def test_variance_falls_from_one_sample_to_stf_to_neighbours(t: float):
    found = spreads(Linear(), torch.tensor(t, dtype=torch.float64), n=64, k=64, repeats=60)
    single, stf_, knn = (found[name] for name in ("single", "stf", "knn"))
    assert single.variance > 2 * stf_.variance
    assert stf_.variance > 1.1 * knn.variance
    assert abs(single.bias) < 0.1 * single.variance  # one sample of the posterior is unbiased


def test_more_references_and_more_neighbours_come_nearer():
    few, many = (spreads(Linear(), HALF, n=n, k=k, repeats=60) for n, k in ((8, 4), (128, 64)))
    for name in ("stf", "knn"):
        assert many[name].variance < 0.5 * few[name].variance
    assert many["stf"].bias < few["stf"].bias + 1e-4


# --- objectives ---


def network(path: Path, row: Prediction, label: Tensor | None = None) -> Denoiser:
    """A denoiser whose network says x_t."""
    return Denoiser(lambda x, time, condition: Output(x, {}), path, row, Condition(label))


def batch(path: Path, rows: int = 6) -> tuple[Tensor, Draws]:
    t = Uniform()(0.2 + 0.7 * uniform(rows), path)
    return normal(rows, 1, 2, 2, index=1), Draws(t, normal(rows, 1, 2, 2, index=2))


@every_path
@pytest.mark.parametrize("row", PREDICTIONS.values(), ids=PREDICTIONS)
def test_a_target_of_one_reference_is_the_simple_loss(path: Path, row: Prediction):
    x0, draws = batch(path)
    alone = torch.arange(6)  # every image is of another class
    expected = simple(network(path, row, alone), x0, draws, weight="snr").per_sample
    torch.testing.assert_close(stf(network(path, row, alone), x0, draws, weight="snr").per_sample, expected)


def test_references_are_of_the_samples_own_class():
    x0, draws = batch(VP())
    label = torch.tensor([0, 1, 0, NULL_LABEL, 1, 0])
    found = stf(network(VP(), Eps(), label), x0, draws).per_sample
    for rows, i in (([0, 2, 5], 0), ([1, 4], 1), ([0, 1, 2, 3, 4, 5], 3)):
        alone = stf(network(VP(), Eps()), x0[rows], Draws(draws.t[rows], draws.eps[rows])).per_sample
        torch.testing.assert_close(found[i], alone[rows.index(i)])


@every_path
@pytest.mark.parametrize("row", PREDICTIONS.values(), ids=PREDICTIONS)
def test_the_perfect_network_of_a_data_set_has_no_loss_against_its_neighbours(path: Path, row: Prediction):
    x0, draws = batch(path)
    ideal = KNNDenoiser(path, References.among(x0), k=6)

    def net(x: Tensor, time: Tensor, condition: Condition) -> Output:
        x_t = path.mix(x0, draws.eps, draws.t)
        said = ideal(x_t, draws.t)
        return Output(row.target(path, said.x0, said.eps, draws.t), {})

    found = knn(Denoiser(net, path, row), x0, draws, references=References.among(x0), k=6).per_sample
    scale = simple(network(path, row), x0, draws).per_sample
    assert bool((found < 1e-9 * (1 + scale)).all())


def test_the_draws_of_a_target_are_keyed_by_the_sample():
    x0, draws = batch(VP())
    data = normal(40, 1, 2, 2, index=7)
    objective = functools.partial(knn, references=References.among(data), k=2, n=3)
    denoiser = network(VP(), Eps())
    whole = objective(denoiser, x0, draws).per_sample
    assert torch.equal(objective(denoiser, x0, draws).per_sample, whole)
    half = objective(denoiser, x0[3:], Draws(draws.t[3:], draws.eps[3:])).per_sample
    torch.testing.assert_close(half, whole[3:], rtol=1e-6, atol=0)
    # the same x_t made of another image and other noise: the neighbours are the same, the draws are not
    path, eps = denoiser.path, draws.eps.roll(1, 0)
    x_t = path.mix(x0, draws.eps, draws.t)
    image = over(1 / path.alpha(draws.t), x_t) * (x_t - over(path.sigma(draws.t), eps) * eps)
    assert not torch.isclose(objective(denoiser, image, Draws(draws.t, eps)).per_sample, whole, rtol=1e-6).any()


def test_what_neighbours_cannot_do_is_refused():
    x0, draws = batch(VP())
    with pytest.raises(UserError, match="k 7: expected 1 to 6"):
        knn(network(VP(), Eps()), x0, draws, references=References.among(x0), k=7)
    with pytest.raises(UserError, match="k 4: expected 1 to 3"):
        References.among(x0, torch.tensor([0, 0, 0, 1, 1, 1]), 2).check(4)
    with pytest.raises(UserError, match="k 7: expected 1 to 6"):
        KNNDenoiser(VP(), References.among(x0), k=7)
    labelled = network(VP(), Eps(), torch.zeros(6, dtype=torch.int64))
    with pytest.raises(UserError, match="0 classes"):
        knn(labelled, x0, draws, references=References.among(x0), k=2)


def test_a_class_has_its_own_neighbours_and_the_null_has_all():
    path, label = VP(), torch.tensor([1, 0, 1, 0, 0, 0])
    x, t = normal(6, 1, 2, 2, index=3), HALF
    x0, _ = batch(path)
    references = References.among(x0, label, 2)
    asked = torch.tensor([0, 1, 1, -1, 0, -1])
    found = KNNDenoiser(path, references, k=2).given(Condition(label=asked))(x, t).x0
    for c, images in ((0, x0[label == 0]), (1, x0[label == 1]), (-1, x0)):
        here = asked == c
        expected = neighbours_mean(path, x[here], t, BruteForce(images), 2)
        torch.testing.assert_close(found[here], expected)


# --- sampling without a network ---


def test_the_ideal_denoiser_samples_images_of_its_data_set():
    path, data = DDPMLinear(), normal(20, 1, 4, 4, index=1, dtype=torch.float32)
    x = normal(16, 1, 4, 4, index=2, dtype=torch.float32)
    grid = torch.linspace(1, 0, 101, dtype=torch.float64)
    images = run(ddim, KNNDenoiser(path, References.among(data), k=20), x, grid)
    distance, nearest = torch.cdist(images.flatten(1), data.flatten(1)).min(1)
    assert distance.max() < 1e-2
    assert len(nearest.unique()) > 5


def test_draws_keep_the_mean_right_where_neighbours_alone_do_not():
    path, data = Linear(), mixture(2).sample(2000)
    x, t = path.mix(data[:32], normal(32, 2), torch.tensor(0.9).double()), torch.tensor(0.9, dtype=torch.float64)
    exact = posterior_mean(path, x, t, data)
    alone, helped = (KNNDenoiser(path, References.among(data), k=20, n=n)(x, t).x0 for n in (0, 200))
    assert (alone - exact).norm() > 3 * (helped - exact).norm()


def test_a_sample_does_not_depend_on_its_batch():
    denoise = KNNDenoiser(VP(), References.among(normal(50, 3)), k=5, n=6)
    x = normal(4, 3, index=1)
    torch.testing.assert_close(denoise(x, HALF).x0[2:3], denoise(x[2:3], HALF).x0, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        over(VP().alpha(HALF), x) * denoise(x, HALF).x0, x - VP().sigma(HALF) * denoise(x, HALF).eps
    )
