"""Floor 4: the training loop.

Every random draw of step k comes from the key (seed, purpose, k), and the data of step k from (seed, k): a resumed run
sees what it would have seen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ditkit.base import rng
from ditkit.base.errors import UserError
from ditkit.condition import Condition
from ditkit.nn.compiled import compiled
from ditkit.objectives.loss import Draws, Loss
from ditkit.process.denoiser import Denoiser
from ditkit.process.density import Density, Uniform
from ditkit.train.ema import EMA, warmed
from ditkit.train.optim import adamw, learning_rate, update
from ditkit.train.settings import TrainSettings

UNIFORM = Uniform()
"""All training times alike."""

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
"""Of the steps or of the minutes, whichever ends the training: the time left is true in either case."""

Objective = Callable[[Denoiser, Tensor, Draws], Loss]
Encode = Callable[[Tensor, int], Tensor]
"""Pixels (B, C, H, W) on the trainer's device and the step to latents (B, c, h, w) on it."""


@dataclasses.dataclass
class Hook:
    """Something to do after every ``every`` steps."""

    every: int
    call: Callable[[Trainer], None]


class Trainer:
    """A network in training: its moving average, its optimiser, how far it has come."""

    def __init__(
        self,
        denoiser: Denoiser,
        objective: Objective,
        settings: TrainSettings,
        *,
        seed: int,
        density: Density | None = None,
        encode: Encode | None = None,
    ) -> None:
        """denoiser: holds the network to train, already on its device. density: of training times; None: uniform.

        encode: to latent space; None: pixel space.
        """
        self.denoiser, self.objective, self.settings, self.seed = denoiser, objective, settings, seed
        net = denoiser.net
        assert isinstance(net, nn.Module)
        self.net: nn.Module = net
        self.density, self.encode = density or UNIFORM, encode
        self.device = next(net.parameters()).device
        self.ema = EMA(net)
        self.optimizer = adamw(net, settings)
        self.step = 0
        self.seconds = 0.0
        self.lr = 0.0
        self.meter = Meter(settings.batch_size)
        self.stopping: str | None = None

    @property
    def progress(self) -> float:
        """The share of the training that is done, 0 to 1: of the steps or of the minutes, whichever ends it first."""
        s = self.settings
        return min(1.0, max(self.step / s.steps, self.seconds / (60 * s.minutes) if s.minutes else 0.0))

    @property
    def finished(self) -> bool:
        """Whether the steps or the minutes are used up."""
        return self.progress >= 1

    def run(self, batches: Iterator[Any], log: Callable[[dict[str, float]], None], hooks: list[Hook]) -> None:
        """Trains until the steps or the minutes are used up, or something asks to stop (then ``stopping`` says what).

        batches: yields, from step ``self.step`` on, objects with x0 (B, C, H, W) and condition.
        log: called every ``log_every`` steps with step, loss and its parts, lr, grad_norm, images_per_s, seconds.
        Raises UserError where the loss or a gradient is not finite, before a hook could keep what came of it.
        """
        s = self.settings
        self.net.train()
        denoiser = dataclasses.replace(self.denoiser, net=compiled(self.net)) if s.compile else self.denoiser
        self.meter.start()
        start, before = time.perf_counter(), self.seconds
        with tqdm(total=1.0, initial=self.progress, desc="training", bar_format=_BAR, dynamic_ncols=True) as bar:
            while not self.finished and not self.stopping:
                batch = next(batches)
                parts, norm = self.one_step(denoiser, batch.x0, batch.condition)
                self.meter.add(parts, norm)
                self.seconds = before + time.perf_counter() - start
                bar.update(self.progress - bar.n)
                if self.step % s.log_every == 0 or self.step == s.steps:
                    self.meter.check_finite(self.step)
                    record = self.meter.read(self.step, self.lr, self.seconds)
                    log(record)
                    said = f"loss {record['loss']:.4f}, {record['images_per_s']:.0f} images/s"
                    bar.set_postfix_str(f"step {self.step:,}, {said}", refresh=False)
                for hook in hooks:
                    if self.step % hook.every == 0 and not self.finished:
                        self.meter.check_finite(self.step)
                        hook.call(self)
        self.meter.check_finite(self.step)
        self.net.eval()

    def one_step(self, denoiser: Denoiser, x0: Tensor, condition: Condition) -> tuple[dict[str, Tensor], Tensor]:
        """One optimiser step on a batch; the parts of the loss (detached) and the gradient's norm, each ()."""
        s = self.settings
        if self.encode:
            x0 = self.encode(x0.to(self.device), self.step)
        draws, dropped = draw(self.seed, self.step, x0, denoiser, s.label_dropout, self.density)
        rows = torch.arange(len(x0)).chunk(s.accumulate)
        totals: dict[str, Tensor] = {}
        for part in rows:
            r = slice(int(part[0]), int(part[-1]) + 1)
            given = denoiser.given(condition.drop(dropped)[r].to(self.device))
            here = Draws(draws.t[r].to(self.device), draws.eps[r].to(self.device))
            loss = self.objective(given, x0[r].to(self.device), here)
            share = len(part) / len(x0)
            (loss.total * share).backward()
            for name, value in loss.parts.items():
                totals[name] = totals.get(name, 0) + value.detach().mean() * share
        self.lr = learning_rate(s, self.step, self.progress)
        norm = update(self.optimizer, self.lr, s.clip)
        self.ema.update(self.net, warmed(s.ema_decay, self.step))
        self.step += 1
        return totals, norm


def draw(
    seed: int, step: int, x0: Tensor, denoiser: Denoiser, label_dropout: float, density: Density = UNIFORM
) -> tuple[Draws, Tensor]:
    """The draws of a step, on the CPU: times, noise, and which samples lose their condition, (B,) bool."""
    source = rng.generator(seed, "train", step)
    t = density(torch.rand(len(x0), generator=source, dtype=torch.float64), denoiser.path)
    dropped = torch.rand(len(x0), generator=source) < label_dropout
    return Draws(t, torch.randn(x0.shape, generator=source)), dropped


class Meter:
    """What was measured at each step since the last reading; touches the device only when read.

    values: by name (the parts of the loss, and grad_norm), one () tensor a step. They go into the checkpoints, so that
    a record of the log covers the same steps whether or not the run was stopped between.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.values: dict[str, list[Tensor]] = {}
        self.start()

    def start(self) -> None:
        """Begins to count time and steps for the images per second."""
        self.steps, self.since = 0, time.perf_counter()

    def add(self, parts: dict[str, Tensor], norm: Tensor) -> None:
        """Takes the measurements of a step."""
        for name, value in {**parts, "grad_norm": norm}.items():
            self.values.setdefault(name, []).append(value.detach())
        self.steps += 1

    def state(self) -> dict[str, Tensor]:
        """The values, (steps,) each."""
        return {name: torch.stack(values) for name, values in self.values.items()}

    def load(self, state: dict[str, Tensor], device: torch.device) -> None:
        """Puts back what ``state`` gave."""
        self.values = {name: list(values.to(device)) for name, values in state.items()}

    def check_finite(self, step: int) -> None:
        """Raises UserError where a loss or a gradient was not finite."""
        for name, values in self.state().items():
            bad = values[~values.isfinite()]
            if len(bad):
                raise UserError(
                    f"{name} became {float(bad[0])} by step {step}: expected a finite number; train anew with "
                    "a smaller --train.lr, a longer --train.warmup or --train.precision float32"
                )

    def read(self, step: int, lr: float, seconds: float) -> dict[str, float]:
        """The record for the log; starts anew."""
        means = {name: float(values.mean()) for name, values in self.state().items()}
        norm = means.pop("grad_norm")
        rate = self.steps * self.batch_size / (time.perf_counter() - self.since)
        record = {"step": step, "loss": sum(means.values()), **means, "lr": lr, "grad_norm": norm}
        self.values = {}
        self.start()
        return {**record, "images_per_s": rate, "seconds": seconds}


@contextlib.contextmanager
def stop_on_signals(trainer: Trainer) -> Iterator[None]:
    """Within it, SIGINT and SIGTERM let the current step finish and stop the trainer; what follows is not disturbed."""

    def stop(number: int, frame: Any) -> None:
        trainer.stopping = signal.Signals(number).name

    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread: whoever is there handles signals
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
