"""Floor 5: whether settings can be trained and drawn with, tried on one number without a network: before long work."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch

from ditkit.app import build
from ditkit.app.recipe import Process, Sampling
from ditkit.backbones.output import Output
from ditkit.base.errors import UserError
from ditkit.condition import Condition
from ditkit.guidance import Interval
from ditkit.objectives.loss import Draws, Loss
from ditkit.objectives.neighbours import References
from ditkit.process.denoiser import Denoise, Denoised, Denoiser
from ditkit.process.grids import noise_level
from ditkit.process.path import Path
from ditkit.process.prediction import Prediction
from ditkit.solvers.counted import Counted
from ditkit.train.denoising import Objective


def _any_references() -> References:
    return References.among(torch.zeros(1, 1, 1, 1).expand(2**16, -1, -1, -1))


STANDINS: build.Needs = {References: _any_references}
"""For checks that are made before there are data."""


def check_sampling(process: Process, sampling: Sampling) -> None:
    """Raises UserError for settings that cannot be drawn with, by one step without a network: before long work."""
    standin = _standin(process)
    Interval(standin, standin, *sampling.guidance_interval)
    _check_drawing(standin, sampling, standin.row.start(standin.path))


def check_solver(path: Path, sampling: Sampling) -> None:
    """Raises UserError for a solver or a grid that cannot be drawn with on a path, without learned variance."""
    _check_drawing(_Echo(path), sampling)


def _check_drawing(standin: Denoise, sampling: Sampling, start: float = 1.0) -> None:
    ts, x = build.grid(sampling, standin.path, start), torch.zeros(1, 1, 1, 1)
    _check_start(standin.path, ts)
    next(build.solver(sampling)(standin, x, ts, noise=lambda k: x))


LEAST_NOISE = 3.0
"""sigma / alpha from which samples may start as noise: an image of variance 1 is then at most a tenth of the power."""


def _check_start(path: Path, ts: torch.Tensor) -> None:
    """Raises UserError where sampling, which starts from noise alone, would start where an image ought to show."""
    if (level := float(noise_level(path, ts[0]))) < LEAST_NOISE:
        raise UserError(
            f"the grid begins at t = {float(ts[0]):g}, noise level (sigma / alpha) {level:g}: samples start from noise "
            f"alone, which is too little noise; expected {LEAST_NOISE:g} or more: --grid-options with a larger t_max "
            "or sigma_max, or times that begin nearer to 1; where t is 1, --process.path-options that reach noise"
        )


def check_training(process: Process) -> None:
    """Raises UserError for a process that has no meaning (a bound on a path without a chain): before long work.

    So is a variance that is learned by nothing, which samples would be drawn with all the same.
    """
    check_objective(process, build.objective(process, STANDINS), (1, 1, 1))
    if process.learned_variance and not teaches_variance(process):
        raise UserError(
            f"--process.learned-variance: the objective {process.objective} as it is set teaches no variance; expected "
            f"--process.objective {' or '.join(_teachers())}, or leave --process.learned-variance out"
        )


def teaches_variance(process: Process) -> bool:
    """Whether the objective's loss moves the half of the network's output that is the learned variance."""
    mix = torch.full((1, 1, 1, 1), 0.3, requires_grad=True)
    loss = _loss_without_network(process, build.objective(process, STANDINS), lambda x: torch.cat([x, mix], 1))
    total = loss.total.sum()
    (pull,) = torch.autograd.grad(total, mix, allow_unused=True) if total.requires_grad else (None,)
    return pull is not None and bool((pull != 0).any())


@functools.cache
def _teachers() -> list[str]:
    """The objectives that teach a variance on the path and row that a recipe has by default."""
    return [n for n in build.known("objective") if teaches_variance(Process(objective=n, learned_variance=True))]


def check_objective(
    process: Process, objective: Objective, shape: tuple[int, ...], where: torch.device | str = "cpu"
) -> None:
    """Raises UserError for an objective that cannot be taken of samples of this shape, by one without a network."""
    says = (lambda x: torch.cat([x, x], 1)) if process.learned_variance else (lambda x: x)
    _loss_without_network(process, objective, says, shape, where)


def _loss_without_network(
    process: Process,
    objective: Objective,
    says: Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...] = (1, 1, 1),
    where: torch.device | str = "cpu",
) -> Loss:
    """The objective of one sample of this shape, of a network that says this of every x."""

    def net(x: torch.Tensor, t: torch.Tensor, condition: Condition) -> Output:
        return Output(says(x), {})

    x0, t = torch.zeros(1, *shape, device=where), build.density(process)(torch.full((1,), 0.5), build.path(process))
    denoiser = Denoiser(net, build.path(process), build.prediction(process))
    return objective(denoiser, x0, Draws(t.to(where), torch.ones_like(x0)))


def evaluations(process: Process, sampling: Sampling) -> int:
    """How often the solver asks the denoiser in drawing with these settings, counted without a network.

    UserError for settings that cannot be drawn with. Solvers that choose their own steps by what they are told are to
    be counted with the network.
    """
    standin, x = _standin(process), torch.zeros(1, 1, 1, 1)
    counted, ts = Counted(standin), build.grid(sampling, standin.path, standin.row.start(standin.path))
    for _ in build.solver(sampling)(counted, x, ts, noise=lambda k: x):
        pass
    return counted.evaluations


@dataclasses.dataclass(frozen=True)
class _Echo:
    """Says of every x what a denoiser without a network could have said."""

    path: Path

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> Denoised:
        return Denoised(x, x)


def _standin(process: Process) -> _StandIn:
    return _StandIn(build.path(process), build.prediction(process), process.learned_variance)


@dataclasses.dataclass(frozen=True)
class _StandIn:
    """Says of every x what a network could have said; UserError where that would not tell the image from the noise."""

    path: Path
    row: Prediction
    learned_variance: bool

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> Denoised:
        return Denoised(*self.row.solve(self.path, x, x, t), x if self.learned_variance else None)
