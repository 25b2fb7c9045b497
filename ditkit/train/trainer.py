"""Floor 4: the training loop.

Every random draw of step k comes from the key (seed, purpose, k), and the data of step k from (seed, k): a resumed run
sees what it would have seen. What is trained is a ``Task``; the loop knows nothing else of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ditkit.base.signals import on_signals
from ditkit.nn.compiled import compiled
from ditkit.train.ema import EMA, MAIN, decays, warmed
from ditkit.train.meter import Meter, Totals
from ditkit.train.optim import adamw, learning_rate, update
from ditkit.train.settings import LoopSettings
from ditkit.train.task import Task

T = TypeVar("T", bound=Task[Any])

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"
"""Of the steps or of the minutes, whichever ends the training: the time left is true in either case."""


@dataclasses.dataclass
class Hook:
    """Something to do with the trainer after every ``every`` steps, and at the end where its owner wants it.

    makes: what, in words, for whoever waits for it. when_stopped: also when a signal stopped the training. made:
    whether it was done of this step before a kill.
    """

    every: int
    call: Callable[[Any], None]
    makes: str = "results"
    when_stopped: bool = False
    made: Callable[[Any], bool] = lambda trainer: False


class Trainer(Generic[T]):
    """A network in training: its moving averages by name, its optimiser, how far it has come."""

    def __init__(self, task: T, settings: LoopSettings) -> None:
        """task: what is trained; its network is already on its device."""
        self.task, self.settings = task, settings
        self.net = task.net
        self.device = next(self.net.parameters()).device
        self.decays = decays(settings)
        self.averages = {name: EMA(self.net) for name in self.decays}
        self.optimizer = adamw(self.net, settings)
        self.step = 0
        self.seconds = 0.0
        self.lr = 0.0
        self.meter = Meter()
        self.stopping: str | None = None

    @property
    def ema(self) -> EMA:
        """The moving average that samples are drawn from."""
        return self.averages[MAIN]

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

        batches: yields, from step ``self.step`` on, what the task takes.
        log: called every ``log_every`` steps with step, loss and its parts, lr, grad_norm, images_per_s, seconds.
        hooks: their time counts neither for the minutes nor for the images per second.
        Raises UserError where the loss or a gradient is not finite, before a hook could keep what came of it.
        """
        s = self.settings
        self.net.train()
        net = compiled(self.net) if s.compile else self.net
        self.meter.start()
        start, told = time.perf_counter() - self.seconds, ""
        with tqdm(total=1.0, initial=self.progress, desc="training", bar_format=_BAR, dynamic_ncols=True) as bar:
            while not self.finished and not self.stopping:
                self.meter.add(*self.one_step(net, next(batches)))
                self.seconds = time.perf_counter() - start
                bar.set_postfix_str(f"step {self.step:,}{told}", refresh=False)
                bar.update(self.progress - bar.n)
                if self.step % s.log_every == 0 or self.finished:
                    self.meter.check_finite(self.step)
                    record = self.meter.read(self.step, self.lr, self.seconds)
                    log(record)
                    told = f", loss {record['loss']:.4f}, {_rate(record['images_per_s'])} images/s"
                    bar.set_postfix_str(f"step {self.step:,}{told}", refresh=False)
                for hook in hooks:
                    if self.step % hook.every == 0 and not self.finished:
                        self.meter.check_finite(self.step)
                        paused = time.perf_counter()
                        hook.call(self)
                        took = time.perf_counter() - paused  # no part of the training: looking at it changes no weight
                        start += took
                        self.meter.pause(took)
        self.meter.check_finite(self.step)
        self.net.eval()

    def one_step(self, net: nn.Module, batch: Any) -> tuple[Totals, Tensor]:
        """One optimiser step on a batch, through the network or its compiled twin; its loss, the gradient's norm ()."""
        s = self.settings
        work = self.task.work(batch, self.step)
        totals = Totals(len(work))
        for rows in torch.arange(len(work)).chunk(s.accumulate):
            loss = self.task.loss(net, work[int(rows[0]) : int(rows[-1]) + 1])
            share = len(rows) / len(work)
            (loss.total * share).backward()
            totals.add(loss, share)
        self.lr = learning_rate(s, self.step, self.progress)
        norm = update(self.optimizer, self.lr, s.clip)
        for name, average in self.averages.items():
            average.update(self.net, warmed(self.decays[name], self.step))
        self.step += 1
        return totals, norm


def _rate(images_per_s: float) -> str:
    return f"{images_per_s:,.0f}" if images_per_s >= 10 else f"{images_per_s:.2g}"


@contextlib.contextmanager
def stop_on_signals(trainer: Trainer[Any]) -> Iterator[None]:
    """Within it, SIGINT and SIGTERM let the current step finish and stop the trainer; what follows is not disturbed."""

    def stop(name: str) -> None:
        trainer.stopping = name

    with on_signals(stop):
        yield
