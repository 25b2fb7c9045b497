"""Floor 5: how often sampling and training run the networks, counted on a stand-in, and what that takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ditkit.app import build, checks, guiding
from ditkit.app.recipe import Process, Sampling
from ditkit.backbones.output import Output
from ditkit.condition import Condition
from ditkit.data.store import is_store
from ditkit.encoders.autoencoder import LatentAutoencoder
from ditkit.nn.cost import Cost, cost
from ditkit.objectives.loss import Draws
from ditkit.process.denoiser import Denoise, Denoised, Denoiser
from ditkit.process.path import over
from ditkit.sample import ROWS, trajectory
from ditkit.solvers.counted import Counted
from ditkit.train.settings import LoopSettings

BACKWARD = 3
"""A training pass over a forward pass: the backward pass makes two products where the forward pass makes one."""


@dataclasses.dataclass(frozen=True)
class Item:
    """Something that is run: multiply_adds of one time, and how many times for an image."""

    what: str
    multiply_adds: int
    times: float

    @property
    def total(self) -> float:
        """Multiply-adds for an image."""
        return self.multiply_adds * self.times


@dataclasses.dataclass(frozen=True)
class Work:
    """What is done with a network, such as sampling; said: by which settings. items: of one image.

    larger: more than an image, in words, and how many images that is.
    """

    name: str
    said: str
    items: tuple[Item, ...]
    larger: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def total(self) -> float:
        """Multiply-adds for an image."""
        return sum(item.total for item in self.items)


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network, its recipe, and what its data give (see ``ditkit.app.run.Facts``).

    autoencoder: between pixels and what is diffused; None: pixels are diffused. It may be on the meta device.
    """

    recipe: Any
    facts: dict[str, Any]
    network: Cost
    autoencoder: LatentAutoencoder | None = None


@dataclasses.dataclass
class Passes:
    """Rows of a batch that went through a network, with gradients and without."""

    taught: int = 0
    asked: int = 0

    def note(self, rows: int) -> None:
        """Counts a call with so many rows."""
        if torch.is_grad_enabled():
            self.taught += rows
        else:
            self.asked += rows


def _no_network(*_: Any) -> Any:
    raise NotImplementedError("the stand-in of a denoiser has no network")


@dataclasses.dataclass(frozen=True)
class StandIn(Denoiser):
    """The denoiser of standard normal data, exact and without a network; counts what would go through one."""

    learned_variance: bool = False
    passes: Passes = dataclasses.field(default_factory=Passes)

    @classmethod
    def of(cls, process: Process) -> StandIn:
        """In place of the network that a recipe's process trains."""
        return cls(
            _no_network, build.path(process), build.prediction(process), learned_variance=process.learned_variance
        )

    def output(self, x: Tensor, t: Tensor, keep: tuple[int, ...] = ()) -> Output:
        """See ``Denoiser``."""
        said = self(x, t)
        p = self.prediction.target(self.path, said.x0, said.eps, t)
        return Output(torch.cat([p, torch.zeros_like(p)], 1) if self.learned_variance else p, {})

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        self.passes.note(len(x))
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        mean = over(1 / (alpha**2 + sigma**2), x) * x
        mix = torch.zeros_like(x) if self.learned_variance else None
        return Denoised(over(alpha, x) * mean, over(sigma, x) * mean, mix)


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What an image takes: evaluations that the solver asks for, and images through each network, means over a batch.

    own: through the network itself, twice an evaluation where it is guided. weak, classifier: through those that guide.
    """

    evaluations: float
    own: float
    weak: float
    classifier: float


def drawing(
    process: Process,
    sampling: Sampling,
    classes: Sequence[str],
    weak: tuple[Process, Sequence[str]] | None = None,
    classifier: tuple[Process, Sequence[str]] | None = None,
) -> Drawing:
    """Counts by drawing with the settings, guidance and all, from the stand-in.

    classes: names that the network knows. weak, classifier: process and classes of those that guide it. A solver that
    chooses its own steps takes as many as normal data ask for; a trained network may ask for more.
    UserError for settings that cannot be drawn with.
    """
    own = StandIn.of(process)
    judged = Passes()
    guides = guiding.Guides(
        None if weak is None else guiding.Led(StandIn.of(weak[0]), weak[1]),
        None if classifier is None else _judge(classifier, judged),
    )
    led = guiding.guide(sampling, classes, guides)
    counted: list[Counted] = []

    def guide(denoiser: Denoiser) -> Denoise:
        counted.append(Counted(led(denoiser)))
        return counted[-1]

    label = torch.zeros(ROWS, dtype=torch.int64) if guiding.names(classes, guides) else None
    with torch.inference_mode():
        states = trajectory(
            own,
            Condition(label=label),
            range(ROWS),
            (1, 2, 2),
            build.grid(sampling, own.path),
            solver=build.solver(sampling),
            guide=guide,
        )
        for _ in states:
            pass
    others = guides.weak.denoiser.passes.asked if guides.weak else 0  # type: ignore[attr-defined]
    return Drawing(counted[0].evaluations, own.passes.asked / ROWS, others / ROWS, judged.taught / ROWS)


def _judge(classifier: tuple[Process, Sequence[str]], passes: Passes) -> guiding.NoisyClassifier:
    process, classes = classifier

    def logits(x: Tensor, t: Tensor) -> Tensor:
        passes.note(len(x))
        return 0 * x.flatten(1).sum(1, keepdim=True).expand(-1, len(classes))

    return guiding.NoisyClassifier(logits, build.path(process), classes)


def teaching(process: Process) -> Passes:
    """How often a training image goes through the network, counted by the recipe's objective on the stand-in."""
    standin, x0 = StandIn.of(process), torch.ones(1, 1, 1, 1)
    t = build.density(process)(torch.full((1,), 0.5), standin.path)
    build.objective(process, checks.STANDINS)(standin, x0, Draws(t, torch.ones_like(x0)))
    return standin.passes


def trained(name: str, said: str, items: Sequence[Item], settings: LoopSettings, steps: int | None = None) -> Work:
    """The work of training for so many steps (None: all that the settings say)."""
    steps = settings.steps if steps is None else steps
    larger = {f"a step of {settings.batch_size:,} images": settings.batch_size}
    return Work(name, said, tuple(items), larger | {f"{steps:,} steps": settings.batch_size * steps})


def encoding(subject: Subject) -> list[Item]:
    """What brings a training image to latents; nothing in pixel space, and where latents are stored."""
    if subject.autoencoder is None or is_store(subject.recipe.data.source):
        return []
    shape = torch.Size([1, *subject.facts["image_shape"]])
    return [Item("autoencoder, encoding", of_call(subject.autoencoder, shape, LatentAutoencoder.encode), 1)]


def decoding(subject: Subject) -> list[Item]:
    """What brings a sample to pixels; nothing in pixel space."""
    if subject.autoencoder is None:
        return []
    shape = torch.Size([1, subject.facts["channels"], *subject.facts["input_size"]])
    return [Item("autoencoder, decoding", of_call(subject.autoencoder, shape, LatentAutoencoder.decode), 1)]


def of_call(net: nn.Module, shape: torch.Size, call: Callable[..., Any]) -> int:
    """Multiply-adds of ``call(net, x)`` for an x of this shape."""
    return cost(net, shape, call=call).multiply_adds
