"""Training: every combination of parts, and what a step does."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ditkit.app import build, checks, guiding
from ditkit.app.recipe import Model, Process, Recipe, Sampling
from ditkit.backbones import dit_blocks
from ditkit.base.errors import UserError
from ditkit.base.registry import members
from ditkit.base.rng import generator
from ditkit.condition import NULL_LABEL, Condition
from ditkit.data.loader import Batch
from ditkit.objectives.loss import Loss
from ditkit.objectives.neighbours import References
from ditkit.process.grids import log_snr
from ditkit.sample import sample
from ditkit.train.denoising import Denoising, draw
from ditkit.train.ema import EMA, warmed
from ditkit.train.meter import Meter, Totals
from ditkit.train.optim import adamw, learning_rate, update
from ditkit.train.settings import TrainSettings
from ditkit.train.trainer import Hook, Trainer

FACTS = {"input_size": [4, 8], "channels": 3, "classes": ["a", "b", "c"]}
CONDITIONINGS = members("ditkit.backbones.dit_blocks", lambda v: getattr(v, "__mro__", [v])[1:2] == (dit_blocks.Block,))


def refusal(process: Process) -> str | None:
    """Why a process is refused before it is trained; None: it is not."""
    try:
        checks.check_training(process)
    except UserError as error:
        return str(error)
    return None


EVERY = [
    Process(path=path, prediction=prediction, objective=objective, learned_variance=learned)
    for path, prediction, objective, learned in itertools.product(
        build.known("path"), build.known("prediction"), build.known("objective"), (False, True)
    )
    if learned or objective != "hybrid"
]
PROCESSES = [process for process in EVERY if refusal(process) is None]


def recipe(**settings: Any) -> Recipe:
    """A tiny recipe with these training settings."""
    return Recipe(model=Model(patch_size=4, width=8, depth=1, heads=2), train=TrainSettings(batch_size=6, **settings))


def references() -> References:
    """Images of three classes for an objective that asks for them, more than it looks at."""
    data = torch.linspace(-1, 1, 300)[:, None, None, None].expand(-1, 3, 4, 8)
    return References.among(data, torch.arange(300) % 3, 3)


def trainer_of(recipe: Recipe, facts: dict[str, Any] = FACTS) -> Trainer[Denoising]:
    """A trainer of a recipe's network."""
    net = build.network(recipe.model, recipe.process, facts)
    denoiser, objective = build.denoiser(recipe, net), build.objective(recipe.process, {References: references})
    task = Denoising(denoiser, objective, recipe.seed, label_dropout=recipe.train.label_dropout)
    return Trainer(task, recipe.train)


def batch_at(step: int, size: int = 6) -> Batch:
    """Smooth 8-bit images and labels."""
    source = generator(0, "test", step)
    x0 = torch.randint(0, 256, (size, 3, 1, 1), generator=source).expand(-1, -1, 4, 8) / 127.5 - 1
    index = torch.arange(size)
    label = torch.randint(0, 3, (size,), generator=source)
    return Batch(x0, Condition(label=label), index, torch.stack([index, index], 1))


def train(trainer: Trainer[Denoising], hooks: list[Hook] | None = None) -> list[dict[str, float]]:
    """The log of a training."""
    records: list[dict[str, float]] = []
    trainer.run((batch_at(step) for step in itertools.count(trainer.step)), records.append, hooks or [])
    return records


def test_the_parts_are_found() -> None:
    assert {"ddpm_linear", "cosine", "scaled_linear"} <= build.known("path").keys()
    assert {"eps", "x0", "v"} <= build.known("prediction").keys()
    assert {"simple", "hybrid", "vlb"} <= build.known("objective").keys()
    assert {"ddpm", "ddim"} <= build.known("solver").keys()
    assert {"in_context", "cross_attention", "adaln", "adaln_zero"} <= CONDITIONINGS.keys()


def test_only_bounds_without_a_chain_and_variances_that_nothing_teaches_are_refused() -> None:
    for process in EVERY:
        bound = process.objective in ("hybrid", "vlb")
        chainless = build.path(process).steps is None and bound
        untaught = process.learned_variance and not bound
        assert (refusal(process) is not None) == (chainless or untaught), process
        assert not chainless or "discrete" in str(refusal(process))
        assert not untaught or "teaches no variance" in str(refusal(process))


def two_steps(process: Process, conditioning: str = "adaln_zero") -> Trainer[Denoising]:
    """A trainer after two steps that moved the network."""
    tiny = recipe(steps=2, log_every=1, lr=1e-3)
    tiny = dataclasses.replace(tiny, process=process, model=dataclasses.replace(tiny.model, conditioning=conditioning))
    trainer = trainer_of(tiny)
    before = {name: p.clone() for name, p in trainer.net.named_parameters()}
    records = train(trainer)
    assert [record["step"] for record in records] == [1, 2]
    assert any(not torch.equal(p, before[name]) for name, p in trainer.net.named_parameters())
    return trainer


@pytest.mark.parametrize(
    "process", PROCESSES, ids=lambda p: f"{p.path}-{p.prediction}-{p.objective}-{p.learned_variance}"
)
def test_every_combination_trains_and_samples(process: Process) -> None:
    trainer = two_steps(process)
    denoiser = dataclasses.replace(trainer.task.denoiser, net=trainer.ema.net)
    for solver in ("ddpm", "ddim", "heun", "dpmpp_2m"):  # every solver meets every row in test_everything
        sampling = Sampling(solver=solver, guidance=2.0, clip=True)
        x = sample(
            denoiser, Condition(label=torch.tensor([0, 2])), [0, 1], (3, 4, 8), log_snr(denoiser.path, 3),
            solver=build.solver(sampling), guide=guiding.guide(sampling, ["any"]),
        )  # fmt: skip
        assert x.shape == (2, 3, 4, 8)
        assert x.isfinite().all()


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_every_conditioning_trains(conditioning: str, learned: bool) -> None:
    two_steps(Process(objective="hybrid" if learned else "simple", learned_variance=learned), conditioning)


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    whole, parts = (trainer_of(recipe(steps=3, accumulate=n, lr=1e-2, log_every=1)) for n in (1, 4))  # parts 2, 2, 2
    logs = train(whole), train(parts)
    for a, b in zip(*logs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    for a, b in zip(whole.net.parameters(), parts.net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_uneven_parts_weigh_by_their_size() -> None:
    trainers = [trainer_of(recipe(steps=1, accumulate=n, log_every=1)) for n in (1, 4)]
    first, second = [t.one_step(t.net, batch_at(0, 7)) for t in trainers]  # 7 images: 2, 2, 2, 1
    assert float(first[0].parts["mse"]) == pytest.approx(float(second[0].parts["mse"]), rel=1e-5)
    assert float(first[1]) == pytest.approx(float(second[1]), rel=1e-5)


def test_bfloat16_trains_and_keeps_float32_weights() -> None:
    trainer = trainer_of(recipe(steps=3, precision="bfloat16", log_every=1, lr=1e-2))
    plain = trainer_of(recipe(steps=3, log_every=1, lr=1e-2))
    records, expected = train(trainer), train(plain)
    assert [r["loss"] for r in records] != [r["loss"] for r in expected]
    assert [r["loss"] for r in records] == pytest.approx([r["loss"] for r in expected], rel=0.05)
    tensors = [*trainer.net.parameters(), *trainer.ema.net.parameters()]
    tensors += [v for state in trainer.optimizer.state.values() for v in state.values()]
    assert {t.dtype for t in tensors} == {torch.float32}


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_of_dropped_labels(share: float) -> None:
    trainer = trainer_of(recipe())
    x0 = torch.zeros(20_000, 3, 1, 1)
    _, dropped = draw(0, 5, x0, trainer.task.denoiser.path, share)
    assert dropped.float().mean().item() == pytest.approx(share, abs=0.02)
    label = Condition(label=torch.ones(20_000, dtype=torch.int64)).drop(dropped).label
    assert label is not None
    assert torch.equal(label == NULL_LABEL, dropped)


def test_dropped_labels_reach_the_network() -> None:
    seen: list[torch.Tensor] = []
    trainer = trainer_of(recipe(steps=40, label_dropout=0.5))
    trainer.net.register_forward_pre_hook(lambda _, args: seen.append(args[2].label))
    train(trainer)
    labels = torch.cat(seen)
    assert (labels == NULL_LABEL).float().mean().item() == pytest.approx(0.5, abs=0.15)
    assert set(labels.tolist()) == {NULL_LABEL, 0, 1, 2}


def test_draws_depend_on_seed_and_step_alone() -> None:
    path, x0 = trainer_of(recipe()).task.denoiser.path, torch.zeros(6, 3, 4, 8)
    first, again = draw(1, 7, x0, path, 0.1), draw(1, 7, x0, path, 0.1)
    assert torch.equal(first[0].eps, again[0].eps)
    assert torch.equal(first[0].t, again[0].t)
    for seed, step in ((2, 7), (1, 8)):
        assert not torch.equal(first[0].eps, draw(seed, step, x0, path, 0.1)[0].eps)
    torch.manual_seed(3)  # global randomness plays no part
    a, b = trainer_of(recipe(steps=2)), trainer_of(recipe(steps=2))
    train(a)
    torch.rand(5)
    train(b)
    assert all(torch.equal(p, q) for p, q in zip(a.net.parameters(), b.net.parameters(), strict=True))


def test_the_moving_average_warms_up() -> None:
    assert [warmed(0.999, step) for step in (0, 8, 90)] == [0.1, 0.5, 0.91]
    assert warmed(0.999, 10**6) == 0.999
    net = nn.Linear(1, 1, bias=False)
    ema = EMA(net)
    start = net.weight.item()
    with torch.no_grad():
        net.weight += 1
    ema.update(net, 0.75)
    (own,) = ema.net.parameters()
    assert own.item() == pytest.approx(start + 0.25)
    assert net.weight.item() == pytest.approx(start + 1)


def test_the_trainer_updates_the_average_after_the_step() -> None:
    trainer = trainer_of(recipe(steps=1, ema_decay=0.0, lr=1e-2))
    train(trainer)
    assert all(torch.equal(p, q) for p, q in zip(trainer.net.parameters(), trainer.ema.net.parameters(), strict=True))


@pytest.mark.parametrize(("clip", "expected"), [(0.5, 0.5), (100.0, 5.0), (None, 5.0)])
def test_clipping(clip: float | None, expected: float) -> None:
    net = nn.Linear(2, 1, bias=False)
    net.weight.grad = torch.tensor([[3.0, 4.0]])
    seen: list[float] = []
    optimizer = adamw(net, TrainSettings())
    optimizer.register_step_pre_hook(lambda *_: seen.append(float(net.weight.grad.norm())))
    assert float(update(optimizer, 1e-3, clip)) == pytest.approx(5.0)  # the norm before clipping
    assert seen == pytest.approx([expected])
    assert net.weight.grad is None


def test_the_learning_rate_warms_up_and_is_used() -> None:
    settings = TrainSettings(lr=0.1, warmup=4)
    assert [learning_rate(settings, step) for step in (0, 1, 3, 4, 99)] == pytest.approx([0.025, 0.05, 0.1, 0.1, 0.1])
    assert learning_rate(TrainSettings(lr=0.1), 0) == 0.1
    net = nn.Linear(1, 1, bias=False)
    optimizer = adamw(net, TrainSettings(lr=1.0, betas=(0.0, 0.0)))
    before, net.weight.grad = net.weight.item(), torch.ones(1, 1)
    update(optimizer, 0.02, None)  # Adam's first step has the length of the learning rate
    assert net.weight.item() == pytest.approx(before - 0.02, abs=1e-5)


def test_records_cover_the_steps_since_the_last_one() -> None:
    every, grouped = train(trainer_of(recipe(steps=5, log_every=1))), train(trainer_of(recipe(steps=5, log_every=2)))
    assert [r["step"] for r in grouped] == [2, 4, 5]
    means = [(every[0]["loss"] + every[1]["loss"]) / 2, (every[2]["loss"] + every[3]["loss"]) / 2, every[4]["loss"]]
    assert [r["loss"] for r in grouped] == pytest.approx(means)
    assert grouped[0].keys() == {"step", "loss", "mse", "lr", "grad_norm", "images_per_s", "seconds"}


def totals(value: float) -> Totals:
    """The measurements of a step whose loss has this value, with a note on as many samples."""
    made = Totals()
    made.add(Loss({"mse": torch.tensor([value])}, {"accuracy": torch.ones(int(value))}), 1.0)
    return made


def test_the_meter_goes_on_where_it_was() -> None:
    one, other = Meter(), Meter()
    for value in (1.0, 5.0):
        one.add(totals(value), torch.tensor(value))
    other.load(one.state(), torch.device("cpu"))
    other.add(totals(6.0), torch.tensor(0.0))
    record = other.read(3, 0.1, 1.0)
    assert (record["loss"], record["grad_norm"]) == (4.0, 2.0)
    assert not other.state()


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_what_is_not_finite_stops_before_a_checkpoint_keeps_it(broken: str) -> None:
    trainer, kept = trainer_of(recipe(steps=9, log_every=5)), []
    objective: Callable[..., Any] = trainer.task.objective

    def breaking(denoiser: Any, x0: torch.Tensor, draws: Any) -> Any:
        loss = objective(denoiser, x0, draws)
        if trainer.step == 2:
            part = loss.parts["mse"]
            bad = part * float("inf") if broken == "loss" else part + 0 * (part * 0).sqrt()  # d sqrt(0) is infinite
            return dataclasses.replace(loss, parts={"mse": bad})
        return loss

    trainer.task.objective = breaking
    with pytest.raises(UserError, match=r"by step 3: expected a finite number.*--train\.lr"):
        train(trainer, [Hook(1, lambda t: kept.append(t.step))])
    assert kept == [1, 2]


def test_hooks_come_after_every_so_many_steps_but_not_after_the_last() -> None:
    seen: list[int] = []
    train(trainer_of(recipe(steps=6)), [Hook(2, lambda t: seen.append(t.step))])
    assert seen == [2, 4]


def test_minutes_end_a_training_and_used_up_ones_begin_none() -> None:
    trainer = trainer_of(recipe(steps=1000, minutes=1e-9))
    train(trainer)
    assert trainer.step == 1
    train(trainer)
    assert trainer.step == 1
    assert trainer.finished


@pytest.mark.parametrize("hook", [0.0, 1000.0])
def test_what_hooks_take_is_no_time_of_the_training(hook: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    trainer = trainer_of(recipe(steps=1000, minutes=1, log_every=2))
    step = trainer.one_step

    def ten_seconds(*args: Any) -> Any:
        now[0] += 10
        return step(*args)

    def passes(_: object) -> None:
        now[0] += hook

    monkeypatch.setattr(trainer, "one_step", ten_seconds)
    records = train(trainer, [Hook(1, passes)])
    assert [(r["step"], r["seconds"], r["images_per_s"]) for r in records] == [(2, 20, 0.6), (4, 40, 0.6), (6, 60, 0.6)]
