"""Guidance between two models, its rescaling, and by a classifier, against what is known exactly."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from ditkit.backbones.output import Output
from ditkit.base.errors import UserError
from ditkit.condition import NULL_LABEL, Condition
from ditkit.guidance import AutoGuided, ClassifierFree, ClassifierGuided, classifier_gradient
from ditkit.process.continuous import VP
from ditkit.process.denoiser import Denoised, Denoiser
from ditkit.process.path import DDPMLinear, Path
from ditkit.process.prediction import Eps, Prediction
from tests.exact import PATHS, PREDICTIONS, GaussianData, normal
from tests.mixtures import mixture

T = torch.tensor(0.4, dtype=torch.float64)
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def net(x: Tensor, time: Tensor, condition: Condition) -> Output:
    label = torch.zeros(len(x)) if condition.label is None else condition.label
    return Output(torch.tanh((1 + label.to(x.dtype).reshape(-1, 1, 1, 1)) * x), {})


def labelled(path: Path, row: Prediction) -> Denoiser:
    return Denoiser(net, path, row, Condition(torch.tensor([0, 1, 2])))


# --- two models ---


@every_path
def test_a_model_is_led_away_from_its_worse_version(path: Path):
    strong, weak, x = GaussianData(path, 0.4, 0.5), GaussianData(path, 0.1, 0.9), normal(4, 3)
    for scale in (0.0, 1.0, 2.5):
        guided = AutoGuided(strong, weak, scale)(x, T)
        torch.testing.assert_close(guided.x0, weak(x, T).x0 + scale * (strong(x, T).x0 - weak(x, T).x0))
        torch.testing.assert_close(path.mix(guided.x0, guided.eps, T), x)
    assert AutoGuided(strong, weak, 2.0).path is path


def test_two_models_of_different_paths_are_refused():
    with pytest.raises(UserError, match="'ddpm_linear' and 'vp'"):
        AutoGuided(GaussianData(DDPMLinear(), 0.0, 1.0), GaussianData(VP(), 0.0, 1.0), 2.0)
    with pytest.raises(UserError, match="same path and options"):
        AutoGuided(GaussianData(VP(beta_max=19.0), 0.0, 1.0), GaussianData(VP(), 0.0, 1.0), 2.0)


# --- rescaling ---


@every_path
@pytest.mark.parametrize("row", PREDICTIONS.values(), ids=PREDICTIONS)
def test_rescaling_brings_the_deviation_to_the_conditionals(path: Path, row: Prediction):
    denoiser, x = labelled(path, row), normal(3, 4, 2, 2, dtype=torch.float64)

    def deviation(said: Denoised) -> Tensor:
        return row.target(path, said.x0, said.eps, T).flatten(1).std(1)

    conditional = deviation(denoiser(x, T))
    plain, full, half = (deviation(ClassifierFree(denoiser, 4.0, rescale=phi)(x, T)) for phi in (0.0, 1.0, 0.5))
    torch.testing.assert_close(full, conditional, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(half, (plain + conditional) / 2, rtol=1e-4, atol=1e-5)
    assert bool((plain[1:] - conditional[1:]).abs().max() > 0.01)
    said = ClassifierFree(denoiser, 4.0, rescale=0.7)(x, T)
    torch.testing.assert_close(path.mix(said.x0, said.eps, T), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("phi", [-0.1, 1.5])
def test_a_rescaling_out_of_range_is_refused(phi: float):
    with pytest.raises(UserError, match=f"rescale {phi}"):
        ClassifierFree(labelled(VP(), Eps()), 2.0, rescale=phi)


def test_a_negative_condition_replaces_the_null():
    denoiser = labelled(VP(), Eps())
    negative = Condition(torch.tensor([NULL_LABEL] * 3))
    x = normal(3, 4, 2, 2, dtype=torch.float32)
    torch.testing.assert_close(
        ClassifierFree(denoiser, 3.0, against=negative)(x, T).x0, ClassifierFree(denoiser, 3.0)(x, T).x0
    )
    own = ClassifierFree(denoiser, 3.0, against=denoiser.condition)(x, T)
    torch.testing.assert_close(own.x0, denoiser(x, T).x0)


# --- a classifier ---


@dataclasses.dataclass
class ExactClassifier:
    """p(k | x_t) of a mixture: logits (up to a constant) of (x, network time)."""

    path: Path

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        exact = mixture(3).on(self.path)
        return 7 + exact.component_log_probability(x, T.expand(len(x)))


@every_path
def test_the_exact_classifier_turns_the_mixture_into_its_component(path: Path):
    data, x = mixture(3).on(path), normal(5, 3)
    label = torch.tensor([0, 1, 2, 1, 0])
    with torch.inference_mode():  # as ditkit.sample runs
        guided = ClassifierGuided(data, classifier_gradient(ExactClassifier(path), label, path))(x.clone(), T)
    for i, k in enumerate(label.tolist()):
        alone = data.mixture.component(k).on(path)(x[i : i + 1], T)
        torch.testing.assert_close(guided.x0[i : i + 1], alone.x0, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(guided.eps[i : i + 1], alone.eps, rtol=1e-8, atol=1e-8)


def test_a_real_classifier_sees_what_a_network_sees_and_its_scale_counts():
    path, seen = DDPMLinear(), []
    linear = nn.Linear(12, 3)
    head = nn.Sequential(nn.Flatten(), linear)

    def classifier(x: Tensor, time: Tensor) -> Tensor:
        seen.append(time)
        return head(x)

    x, label = normal(2, 3, 2, 2, dtype=torch.float32), torch.tensor([2, 0])
    with torch.inference_mode():
        once, twice = (classifier_gradient(classifier, label, path, scale)(x, T) for scale in (1.0, 2.0))
    torch.testing.assert_close(2 * once, twice)
    p = head(x).softmax(1)
    weight = linear.weight.reshape(3, 3, 2, 2)
    expected = weight[label] - torch.einsum("bk,kchw->bchw", p, weight)
    torch.testing.assert_close(once, expected)
    assert seen[0].tolist() == [399.0, 399.0]
    assert seen[0].dtype == torch.float32
    assert all(parameter.grad is None for parameter in head.parameters())


def test_a_classifier_of_pure_noise_changes_nothing():
    data, one = GaussianData(PATHS["linear"], 0.4, 0.5), torch.ones((), dtype=torch.float64)
    x = normal(2, 3)
    guided = ClassifierGuided(data, lambda x, t: torch.ones_like(x))(x, one)
    torch.testing.assert_close(guided.x0, data(x, one).x0)
    torch.testing.assert_close(guided.eps, data(x, one).eps)
