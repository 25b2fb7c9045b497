"""Floor 4: the training loop.

Every random draw of step k comes from the key (seed, purpose, k), and the data of step k from (seed, k): a resumed run
sees what it would have seen.
"""

from __future__ import annotations

import dataclasses
import math
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
from ditkit.process.grid import uniform_density
from ditkit.train.ema import EMA, warmed
from ditkit.train.optim import adamw, learning_rate, update
from ditkit.train.settings import TrainSettings

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
        encode: Encode | None = None,
    ) -> None:
        """denoiser: holds the network to train, already on its device. encode: to latent space; None: pixel space."""
        self.denoiser, self.objective, self.settings, self.seed = denoiser, objective, settings, seed
        net = denoiser.net
        assert isinstance(net, nn.Module)
        self.net: nn.Module = net
        self.encode = encode
        self.device = next(net.parameters()).device
        self.ema = EMA(net)
        self.optimizer = adamw(net, settings)
        self.step = 0
        self.seconds = 0.0
        self.lr = 0.0
        self.stopping: str | None = None

    @property
    def progress(self) -> float:
        """The share of the training that is done, 0 to 1: of the steps or of the minutes, whichever ends it first."""
        s = self.settings
        return min(1.0, max(self.step / s.steps, self.seconds / (60 * s.minutes) if s.minutes else 0.0))

    def run(self, batches: Iterator[Any], log: Callable[[dict[str, float]], None], hooks: list[Hook]) -> None:
        """Trains until the steps or the minutes are used up, or a signal asks to stop (then ``stopping`` says why).

        batches: yields, from step ``self.step`` on, objects with x0 (B, C, H, W) and condition.
        log: called every ``log_every`` steps with step, loss and its parts, lr, grad_norm, images_per_s, seconds.
        """
        s = self.settings
        self.net.train()
        denoiser = dataclasses.replace(self.denoiser, net=compiled(self.net)) if s.compile else self.denoiser
        meter = Meter(s.batch_size)
        start, before = time.perf_counter(), self.seconds
        with _Signals(self), tqdm(total=s.steps, initial=self.step, unit="step", dynamic_ncols=True) as bar:
            while self.step < s.steps and not self.stopping:
                batch = next(batches)
                parts, norm = self.one_step(denoiser, batch.x0, batch.condition)
                meter.add(parts, norm)
                self.seconds = before + time.perf_counter() - start
                bar.update()
                if self.step % s.log_every == 0 or self.step == s.steps:
                    record = meter.read(self.step, self.lr, self.seconds)
                    _check_finite(record)
                    log(record)
                    bar.set_postfix_str(f"loss {record['loss']:.4f}, {record['images_per_s']:.0f} images/s")
                for hook in hooks:
                    if self.step % hook.every == 0 and self.step < s.steps:
                        hook.call(self)
                if s.minutes is not None and self.seconds >= 60 * s.minutes:
                    break
        self.net.eval()

    def one_step(self, denoiser: Denoiser, x0: Tensor, condition: Condition) -> tuple[dict[str, Tensor], Tensor]:
        """One optimiser step on a batch; the parts of the loss (detached) and the gradient's norm, each ()."""
        s = self.settings
        if self.encode:
            x0 = self.encode(x0.to(self.device), self.step)
        draws, dropped = draw(self.seed, self.step, x0, denoiser, s.label_dropout)
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


def draw(seed: int, step: int, x0: Tensor, denoiser: Denoiser, label_dropout: float) -> tuple[Draws, Tensor]:
    """The draws of a step, on the CPU: times, noise, and which samples lose their condition, (B,) bool."""
    source = rng.generator(seed, "train", step)
    t = uniform_density(torch.rand(len(x0), generator=source, dtype=torch.float64), denoiser.path)
    dropped = torch.rand(len(x0), generator=source) < label_dropout
    return Draws(t, torch.randn(x0.shape, generator=source)), dropped


class Meter:
    """Means of what was measured since the last reading; touches the device only when read."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._clear()

    def _clear(self) -> None:
        self.parts: list[dict[str, Tensor]] = []
        self.norms: list[Tensor] = []
        self.since = time.perf_counter()

    def add(self, parts: dict[str, Tensor], norm: Tensor) -> None:
        """Takes the measurements of a step."""
        self.parts.append(parts)
        self.norms.append(norm)

    def read(self, step: int, lr: float, seconds: float) -> dict[str, float]:
        """The record for the log; starts anew."""
        means = {name: float(torch.stack([p[name] for p in self.parts]).mean()) for name in self.parts[0]}
        rate = len(self.parts) * self.batch_size / (time.perf_counter() - self.since)
        record = {"step": step, "loss": sum(means.values()), **means, "lr": lr}
        record |= {"grad_norm": float(torch.stack(self.norms).mean()), "images_per_s": rate, "seconds": seconds}
        self._clear()
        return record


def _check_finite(record: dict[str, float]) -> None:
    if not math.isfinite(record["loss"]):
        raise UserError(
            f"the loss became {record['loss']} by step {record['step']}: expected a finite number; resume from the "
            "last checkpoint with a smaller --train.lr, a longer --train.warmup or --train.precision float32"
        )


class _Signals:
    """Within it, SIGINT and SIGTERM let the current step finish and stop the trainer."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def __enter__(self) -> None:
        self.before: dict[int, Any] = {}
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self.before[number] = signal.signal(number, self._stop)
            except ValueError:  # not in the main thread: whoever is there handles signals
                return

    def _stop(self, number: int, frame: Any) -> None:
        self.trainer.stopping = signal.Signals(number).name

    def __exit__(self, *exception: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
