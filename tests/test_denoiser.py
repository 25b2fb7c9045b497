"""The denoiser, its conditions, and guidance as maps from denoiser to denoiser."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from ditkit.backbones.output import Output
from ditkit.base.errors import UserError
from ditkit.condition import NULL_LABEL, Condition, cat
from ditkit.guidance import DIT_CHANNELS, ClassifierFree, ClassifierGuided, Interval, extrapolate, shift_mean
from ditkit.process.chain import full_chain
from ditkit.process.denoiser import Denoise, Denoised, Denoiser, MapX0, clipped
from ditkit.process.path import DDPMLinear, over
from ditkit.process.prediction import Eps, V
from tests.exact import PATHS, PREDICTIONS, GaussianData, normal

PATH = DDPMLinear(steps=100)
T = torch.tensor(0.4, dtype=torch.float64)


def net(x: Tensor, time: Tensor, condition: Condition, keep: tuple[int, ...] = ()) -> Output:
    """A network that depends on all that it is given, row by row."""
    label = torch.zeros(len(x)) if condition.label is None else condition.label
    row = (1 + label.to(x.dtype) + time / 100).reshape(-1, 1, 1, 1)
    return Output(torch.cat([torch.tanh(row * x), torch.sin(row + x)], dim=1), dict.fromkeys(keep, x))


def labelled(*label: int) -> Denoiser:
    return Denoiser(net, PATH, Eps(), Condition(torch.tensor(label)))


def images(rows: int = 3, channels: int = 4) -> Tensor:
    return normal(rows, channels, 2, 2, dtype=torch.float32)


def numbers(condition: Condition) -> list[int]:
    assert condition.label is not None
    return condition.label.tolist()


def same(actual: Denoised, expected: Denoised, atol: float = 0.0) -> None:
    for a, b in zip(dataclasses.astuple(actual), dataclasses.astuple(expected), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=atol)


def consistent(denoise: Denoise, x: Tensor, t: Tensor, atol: float = 1e-5) -> Denoised:
    said = denoise(x, t)
    torch.testing.assert_close(denoise.path.mix(said.x0, said.eps, t), x, rtol=0, atol=atol)
    return said


# --- conditions ---


def test_dropping_sets_chosen_labels_to_the_null():
    condition = Condition(torch.tensor([3, 1, 4]))
    assert numbers(condition.drop(torch.tensor([True, False, True]))) == [NULL_LABEL, 1, NULL_LABEL]
    assert numbers(condition.null()) == [NULL_LABEL] * 3
    assert Condition().null() == Condition()


def test_conditions_join_and_split():
    first, second = Condition(torch.tensor([3, 1])), Condition(torch.tensor([4]))
    joined = cat([first, second])
    assert numbers(joined) == [3, 1, 4]
    assert numbers(joined[1:]) == [1, 4]
    assert cat([Condition(), Condition()]) == Condition()
    with pytest.raises(ValueError, match="'label' is set in some"):
        cat([first, Condition()])


# --- the denoiser ---


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("row", PREDICTIONS.values(), ids=PREDICTIONS)
def test_image_and_noise_explain_the_state(path, row):
    denoiser = Denoiser(net, path, row, Condition(torch.tensor([0, 1, 2])))
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)
    said = denoiser(images(), t)
    # float32: as near as the larger of the two parts allows, which on paths to large sigma is far larger than x_t
    parts = torch.stack([over(path.alpha(t), said.x0) * said.x0, over(path.sigma(t), said.eps) * said.eps])
    assert bool(((parts.sum(0) - images()).abs() <= 1e-6 * (1 + parts.abs().amax(0))).all())


def test_the_network_is_given_its_own_time_and_condition():
    seen: list[tuple[Tensor, Condition]] = []

    def spy(x: Tensor, time: Tensor, condition: Condition) -> Output:
        seen.append((time, condition))
        return net(x, time, condition)

    denoiser = Denoiser(spy, PATH, Eps(), Condition(torch.tensor([0, 1, 2])))
    denoiser(images(), T)
    denoiser(images(), torch.tensor([0.01, 0.5, 1.0]))
    assert [time.tolist() for time, _ in seen] == [[39] * 3, [0, 49, 99]]
    assert all(time.dtype == torch.float32 for time, _ in seen)
    assert all(condition is denoiser.condition for _, condition in seen)


@pytest.mark.parametrize("t", [-0.1, 1.5, 999.0, math.nan])
def test_a_time_outside_zero_to_one_is_named(t: float):
    denoiser, x = Denoiser(lambda *given: pytest.fail("the network was asked"), DDPMLinear(), Eps()), normal(3, 1)
    for times in (torch.tensor(t), torch.tensor([0.5, t, 0.2])):
        with pytest.raises(UserError, match=rf"^time {t:g}: expected 0 \(data\) to 1 \(noise\)"):
            denoiser(x, times.double())


def test_kept_tokens_come_with_the_output():
    assert list(labelled(0, 1, 2).output(images(), T, keep=(2, 5)).kept) == [2, 5]


def test_the_network_alone_runs_in_another_precision():
    layer = nn.Linear(2, 2)
    dtypes = []

    def linear(x: Tensor, time: Tensor, condition: Condition) -> Output:
        prediction = layer(x)
        dtypes.append(prediction.dtype)
        return Output(prediction, {})

    with torch.no_grad():
        said = Denoiser(linear, PATH, V(), autocast=torch.bfloat16)(images(), T)
        Denoiser(linear, PATH, V())(images(), T)
    assert dtypes == [torch.bfloat16, torch.float32]
    assert said.x0.dtype == said.eps.dtype == torch.float32


def test_several_conditions_in_one_call_are_several_calls():
    conditions = [Condition(torch.tensor(label)) for label in ([0, 1, 2], [5, 5, NULL_LABEL])]
    denoiser = labelled(0, 1, 2)
    for t in (T, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)):
        together = denoiser.under(conditions, images(), t)
        for said, condition in zip(together, conditions, strict=True):
            same(said, denoiser.given(condition)(images(), t))


def test_rows_of_a_batch_do_not_depend_on_one_another():
    whole = labelled(0, 1, 2)(images(), T)
    for i in range(3):
        same(whole[i : i + 1], labelled(i)(images()[i : i + 1], T))


def test_a_map_of_the_image_moves_the_noise_with_it():
    x = 3 * images()
    said = consistent(clipped(labelled(0, 1, 2)), x, T)
    assert said.x0.abs().max() == 1
    same(MapX0(labelled(0, 1, 2), lambda x0: x0)(x, T), labelled(0, 1, 2)(x, T), atol=1e-5)
    assert clipped(labelled(0), 0.0, 0.5)(x[:1], T).x0.aminmax() == (0.0, 0.5)


# --- guidance ---


def test_a_scale_of_one_is_the_conditional_and_of_zero_the_null():
    denoiser = labelled(0, 1, 2)
    conditional, null = denoiser(images(), T), denoiser.given(denoiser.condition.null())(images(), T)
    same(ClassifierFree(denoiser, 1.0)(images(), T), conditional, atol=1e-6)
    guided = ClassifierFree(denoiser, 0.0)(images(), T)
    same(guided, dataclasses.replace(null, variance_mix=conditional.variance_mix))


def test_guidance_extrapolates_every_row_alike():
    denoiser = labelled(0, 1, 2)
    said = consistent(ClassifierFree(denoiser, 2.5), images(), T)
    conditional, null = denoiser(images(), T), denoiser.given(denoiser.condition.null())(images(), T)
    torch.testing.assert_close(said.eps, null.eps + 2.5 * (conditional.eps - null.eps))
    assert not torch.allclose(said.eps, conditional.eps)


def test_guidance_of_some_channels_leaves_the_others_conditional():
    denoiser = labelled(0, 1, 2)
    some, every = (ClassifierFree(denoiser, 3.0, channels)(images(), T) for channels in (DIT_CHANNELS, None))
    conditional = denoiser(images(), T)
    assert torch.equal(some.eps[:, :DIT_CHANNELS], every.eps[:, :DIT_CHANNELS])
    assert torch.equal(some.eps[:, DIT_CHANNELS:], conditional.eps[:, DIT_CHANNELS:])
    assert torch.equal(some.x0[:, DIT_CHANNELS:], conditional.x0[:, DIT_CHANNELS:])
    assert not torch.equal(every.eps[:, DIT_CHANNELS:], conditional.eps[:, DIT_CHANNELS:])
    same(ClassifierFree(denoiser, 3.0, channels=4)(images(), T), every)


def test_guidance_leads_away_from_another_condition():
    denoiser, against = labelled(0, 1, 2), Condition(torch.tensor([7, 7, 7]))
    expected = extrapolate(denoiser.given(against)(images(), T), denoiser(images(), T), 2.0)
    same(ClassifierFree(denoiser, 2.0, against=against)(images(), T), expected)


def test_guidance_calls_the_network_once():
    rows = []

    def spy(x: Tensor, time: Tensor, condition: Condition) -> Output:
        rows.append(len(x))
        return net(x, time, condition)

    ClassifierFree(dataclasses.replace(labelled(0, 1, 2), net=spy), 2.0)(images(), T)
    assert rows == [6]


def test_an_interval_guides_within_it_alone():
    plain = labelled(0, 1, 2)
    guided = ClassifierFree(plain, 3.0)
    interval = Interval(guided, plain, 0.3, 0.6)
    assert interval.path is PATH
    for t, expected in ((0.29, plain), (0.3, guided), (0.6, guided), (0.61, plain)):
        time = torch.tensor(t, dtype=torch.float64)
        same(interval(images(), time), expected(images(), time))


@pytest.mark.parametrize(("low", "high"), [(0.6, 0.3), (-0.1, 0.5), (0.5, 1.5)])
def test_an_interval_that_is_none_is_refused(low: float, high: float):
    with pytest.raises(UserError, match=f"{low} to {high}"):
        Interval(labelled(0), labelled(0), low, high)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_classifier_turns_the_prior_into_the_posterior(path):
    # x0 ~ N(0.3, 0.8^2), y = 1 seen of it through noise of variance 0.5: Bayes' rule on Gaussians
    prior, seen, noise = GaussianData(path, 0.3, 0.8), 1.0, 0.5
    precision = 1 / 0.64 + 1 / noise
    posterior = GaussianData(path, (0.3 / 0.64 + seen / noise) / precision, precision**-0.5)

    def gradient(x: Tensor, t: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        log_p = -((seen - prior(x, t).x0) ** 2) / (2 * (prior.unknown(t) + noise))
        return torch.autograd.grad(log_p.sum(), x)[0]

    same(ClassifierGuided(prior, gradient)(normal(5, 2), T), posterior(normal(5, 2), T), atol=1e-9)


def test_both_ways_of_classifier_guidance_meet_on_fine_chains():
    chain, x, gradient = full_chain(DDPMLinear(steps=4000)), normal(2, 3, index=1), normal(2, 3, index=2)
    k = torch.tensor(2000)
    data = GaussianData(chain.path, 0.0, 1.0)
    by_denoiser = chain.posterior_mean(ClassifierGuided(data, lambda x, t: gradient)(x, chain.t[k]).x0, x, k)
    plain = chain.posterior_mean(data(x, chain.t[k]).x0, x, k)
    by_mean = shift_mean(plain, chain.beta[k], gradient)
    torch.testing.assert_close(by_denoiser - plain, by_mean - plain, rtol=1e-2, atol=0)
