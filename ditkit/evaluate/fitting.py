"""How the classifier of the own feature space is trained, and how its training goes on after a kill."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ditkit.base.errors import DivergedError
from ditkit.base.files import atomic_file
from ditkit.base.rng import generator
from ditkit.base.tensors import save_tensors
from ditkit.evaluate.images import to_float
from ditkit.evaluate.residual import ResidualNet
from ditkit.evaluate.task import Task

BATCH = 64
RATES = (0.5, 0.125, 0.03)
"""Of a full batch; of a smaller one (data of fewer images) in proportion, as it would diverge. The first that does not
diverge is taken: data that are told apart at sight (classes of one colour) do at rates that all others learn best at.
"""
WEIGHT_DECAY = 5e-4
KEPT_EVERY = 5.0
"""Seconds of training that a kill loses, at most."""


@dataclass(frozen=True)
class Halfway:
    """The file of a training that has not ended. key: of all that it hangs on; that of another one is not read."""

    path: Path
    key: str

    def at(self, rate: float) -> Halfway:
        """The same for one of several rates."""
        return Halfway(self.path, f"{self.key} {rate}")

    def keep(self, net: ResidualNet, optimizer: torch.optim.SGD, step: int) -> None:
        """Writes the weights, statistics and momenta after so many steps."""
        momenta = {name: optimizer.state[p]["momentum_buffer"] for name, p in net.named_parameters()}
        tensors = {f"net/{k}": v for k, v in net.state_dict().items()}
        tensors |= {f"momentum/{k}": v for k, v in momenta.items()}
        with atomic_file(self.path) as temporary:
            save_tensors(tensors, temporary, {"key": self.key, "step": str(step)})

    def load(self, net: ResidualNet, optimizer: torch.optim.SGD) -> int:
        """Brings both to where they were. Gives the steps that are done: 0 where nothing that fits can be read."""
        try:
            with safe_open(self.path, "pt") as file:
                said = file.metadata() or {}
                if said.get("key") != self.key:
                    return 0
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        except (OSError, SafetensorError):
            return 0
        device = net.head.weight.device
        net.load_state_dict({name: held[f"net/{name}"] for name in net.state_dict()})
        for name, parameter in net.named_parameters():
            momentum = torch.empty_like(parameter, device=device)  # in the parameter's own layout, channels last
            optimizer.state[parameter]["momentum_buffer"] = momentum.copy_(held[f"momentum/{name}"])
        return int(said["step"])


def fitted(
    start: Callable[[], ResidualNet], task: Task, images: Tensor, targets: Tensor, halfway: Halfway | None, **how: Any
) -> tuple[ResidualNet, float]:
    """The network trained at the first of RATES at which it does not diverge, and that rate. how: see ``fit``.

    start: the network before training. DivergedError where there is no such rate.
    """
    for rate in RATES:
        net = start()
        try:
            fit(net, task, images, targets, rate=rate, halfway=halfway and halfway.at(rate), **how)
        except DivergedError as error:
            tqdm.write(f"{error} at a rate of {rate:g}; a lower one is tried")
            continue
        return net, rate
    raise DivergedError(
        f"the classifier of {len(images)} real images diverged at every rate of {RATES}: look at the images with "
        "ditkit data check, or measure in a space that needs no training, such as --features pixels"
    )


def fit(
    net: ResidualNet,
    task: Task,
    images: Tensor,
    targets: Tensor,
    *,
    rate: float,
    steps: int,
    seed: int,
    progress: bool,
    halfway: Halfway | None,
) -> None:
    """SGD with Nesterov momentum, the rate rising linearly for a fifth of the steps and falling linearly to zero.

    Goes on from what halfway keeps; every draw comes from (seed, step), so that the weights are the same to the bit.
    DivergedError: the loss or the weights are no longer finite.
    """
    decayed = [p for p in net.parameters() if p.ndim > 1]
    plain = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)
    device = net.head.weight.device
    full = rate * min(BATCH, len(images)) / BATCH
    first = halfway.load(net, optimizer) if halfway else 0
    net.train()
    kept = time.monotonic()
    bar = tqdm(initial=first, desc="classifier", total=steps, delay=2, disable=not progress, leave=False)
    with bar:
        for step, rows in enumerate(itertools.islice(batches(len(images), steps, seed), first, None), first):
            for group in optimizer.param_groups:
                group["lr"] = full * min((step + 1) / (0.2 * steps), (steps - step) / (0.8 * steps))
            draws = generator(seed, "classifier.step", step)
            shown, answers = task.draw(images[rows], targets[rows], draws)
            x = to_float(shift(shown, draws).to(device)).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(net(x)[1], answers.to(device), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            bar.update()
            if step % 20 == 0:
                bar.set_postfix(loss=f"{_finite(loss).item():.3f}", refresh=False)
            if halfway and time.monotonic() - kept > KEPT_EVERY:
                halfway.keep(net, optimizer, step + 1)
                kept = time.monotonic()
    for value in net.state_dict().values():
        _finite(value)


def _finite(values: Tensor) -> Tensor:
    if not bool(values.isfinite().all()):
        raise DivergedError("the classifier's training diverged")
    return values


def batches(n: int, steps: int, seed: int) -> Iterator[Tensor]:
    """``steps`` batches of rows; every pass is a new order of all rows."""
    size = min(BATCH, n)
    per_epoch = n // size
    order = torch.empty(0)
    for step in range(steps):
        epoch, k = divmod(step, per_epoch)
        if k == 0:
            order = torch.randperm(n, generator=generator(seed, "classifier.order", epoch))
        yield order[k * size : (k + 1) * size]


def shift(images: Tensor, draws: torch.Generator) -> Tensor:
    """Each image (B, C, H, W) moved by up to an eighth of its height and width, its border pixels repeated."""
    B, C, H, W = images.shape
    rows = _moved(B, H, draws)[:, None, :, None].expand(B, C, H, W)
    columns = _moved(B, W, draws)[:, None, None, :].expand(B, C, H, W)
    return images.gather(2, rows).gather(3, columns)


def _moved(batch: int, size: int, draws: torch.Generator) -> Tensor:
    """Positions (batch, size) of an axis moved by up to size // 8 either way."""
    by = torch.randint(-(size // 8), size // 8 + 1, (batch, 1), generator=draws)
    return (torch.arange(size) + by).clamp(0, size - 1)
