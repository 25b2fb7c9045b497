"""Floor 2: noise -> grid -> solver -> images. One seed an image: the same one whatever the batch it is drawn in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ditkit.base import rng
from ditkit.base.errors import DivergedError, NotFiniteError, UserError, at_least_one
from ditkit.condition import Condition
from ditkit.process.denoiser import Conditional, Denoise
from ditkit.process.path import over
from ditkit.solvers.state import State

Guide = Callable[[Any], Denoise]
"""From the model under its condition to the denoiser that the solver sees."""
Solver = Callable[..., Iterator[State]]

ROWS = 8
"""Batches are padded to a multiple of this many rows: matrix products of fewer rows take other kernels, whose rounding
differs in the last bit, and the same seed would not give the same image to the bit in batches of 1, 3 and 64."""


def trajectory(
    denoiser: Conditional,
    condition: Condition,
    seeds: Sequence[int],
    shape: tuple[int, ...],
    ts: Tensor,
    *,
    solver: Solver,
    guide: Guide = lambda denoiser: denoiser,
    device: torch.device | str = "cpu",
) -> Iterator[State]:
    """The states of one batch from ts[0] to ts[-1]; x has len(seeds) rows.

    condition: of the rows, in order. shape: (C, H, W). solver: one of ditkit.solvers, its options bound.
    UserError: no seeds. DivergedError: a state that is not finite, with the step and the seed of its sample.
    """
    _check_seeds(seeds)
    real = len(seeds)
    padded = [*seeds, *[seeds[-1]] * (-real % ROWS)]
    rows = torch.arange(len(padded)).clamp(max=real - 1)
    denoise = guide(denoiser.given(condition[rows].to(device)))
    start = rng.normal_per_sample(shape, 0, "sample", padded, device=device)

    def noise(k: int) -> Tensor:
        return rng.normal_per_sample(shape, 0, "sample", padded, k + 1, device=device)

    step = 1
    try:
        for state in solver(denoise, over(denoise.path.sigma(ts[0]), start) * start, ts, noise=noise):
            _check_finite(state)
            yield State(state.x[:real], state.t, state.said[:real])
            step += 1
    except NotFiniteError as error:
        raise DivergedError(f"step {step}: the sample of seed {padded[error.row]} {error.said}") from None


def _check_seeds(seeds: Sequence[int]) -> None:
    if not len(seeds):
        raise UserError(f"seeds {seeds!r}: expected at least one, as there is an image for each; range(8) draws 8")


def _check_finite(state: State) -> None:
    finite = state.x.flatten(1).isfinite().all(1)
    if not bool(finite.all()):
        bad = (~finite).nonzero().flatten().tolist()
        said = f"is not finite at t = {float(state.t):.4g}: try more steps or less guidance; is the model trained?"
        raise NotFiniteError(bad[0], said)


@torch.inference_mode()
def sample(
    denoiser: Conditional,
    condition: Condition,
    seeds: Sequence[int],
    shape: tuple[int, ...],
    ts: Tensor,
    *,
    batch_size: int = 64,
    progress: str | None = None,
    each: Callable[[float], object] = lambda images: None,
    **how: object,
) -> Tensor:
    """Samples, (len(seeds), C, H, W) float32 on the CPU; row i depends on seeds[i] and its condition alone.

    progress: the progress bar's label, None for none. each: told after each step how many images' worth of work it
    was (all steps of all images: len(seeds)). how: solver, guide and device, as in ``trajectory``.
    UserError: no seeds; a batch size below 1. DivergedError: see ``trajectory``.
    """
    done = []
    _check_seeds(seeds)
    batch_size = at_least_one("batch_size", batch_size)
    steps = len(ts) - 1
    total = len(seeds) * steps
    with tqdm(total=total, desc=progress, unit="image step", unit_scale=True, disable=progress is None) as bar:
        for i in range(0, len(seeds), batch_size):
            part = seeds[i : i + batch_size]
            states = trajectory(denoiser, condition[i : i + batch_size], part, shape, ts, **how)  # type: ignore[arg-type]
            for state in states:
                bar.update(len(part))
                each(len(part) / steps)
                x = state.x
            done.append(x.float().cpu())
    return torch.cat(done)
