"""Floor 5: what one kind of run (of a denoiser, of a classifier) adds to what all training has in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from ditkit.app.run import Run, kind_of_run
from ditkit.app.spending import Subject, Work
from ditkit.base import registry
from ditkit.base.files import expanded
from ditkit.data.images import Examples
from ditkit.encoders.autoencoder import Autoencoder
from ditkit.train.task import Task
from ditkit.train.trainer import Hook


class Kind(Protocol):
    """From a recipe to what is trained. A new kind of run is a class in a file of ditkit/app/kinds.

    name: stands in the run's recipe.yaml. recipe: the class of its recipes; recipe.kind is the name.
    knows_classes: whether the network hangs on the classes of the data.
    further: what to do with a run that is trained, in commands with {run} for its folder.
    settings: the recipe as it is kept, what it leaves to the machine settled.
    autoencoder: what images become before they are trained on; that of pixel space changes nothing.
    facts: what the data gave (see ``ditkit.app.run.Facts``).
    """

    name: ClassVar[str]
    recipe: ClassVar[type[Any]]
    knows_classes: ClassVar[bool]
    further: ClassVar[str]

    def __init__(self, recipe: Any) -> None:
        """Raises UserError for a recipe that has no meaning: before the data are read."""
        ...

    @property
    def settings(self) -> Any: ...

    @property
    def autoencoder(self) -> Autoencoder: ...

    @staticmethod
    def network(recipe: Any, facts: dict[str, Any]) -> nn.Module:
        """The recipe's network for data of these facts, on the CPU, with its initial weights."""
        ...

    @staticmethod
    def example(recipe: Any, facts: dict[str, Any]) -> tuple[Any, ...]:
        """Inputs of the network for one image, by which its cost is counted."""
        ...

    @staticmethod
    def works(subject: Subject) -> list[Work]:
        """What is done with the network, and what that takes (``ditkit cost``)."""
        ...

    def task(self, facts: dict[str, Any], images: Examples) -> Task[Any]:
        """What is learned from the images, on the recipe's device. Raises UserError where they do not allow it."""
        ...

    def pictures(self, run: Run[Any], facts: dict[str, Any], held: Examples | None) -> list[Hook]:
        """What is drawn and told while it trains, and once more at its end; held: what it does not learn from."""
        ...


def is_kind(value: Any) -> bool:
    """Whether a value is a kind of run."""
    return isinstance(value, type) and value is not Kind and hasattr(value, "pictures")


def own(folder: Path, what: str) -> Callable[..., Any] | None:
    """What the kind of the run in a folder does in its own way ("evaluate", "report"); None: as a denoiser's run does.

    UserError when there is no run.
    """
    return getattr(find_kind(kind_of_run(folder)), what, None)


def publish(spec: str | Path | None) -> None:
    """Makes of a run, where ``spec`` is the folder of one, what is named of it elsewhere and is not there yet.

    That is of a run which was killed after its first checkpoint. UserError where its data are not there any more.
    """
    folder = Path(expanded(spec)) if spec is not None else None
    if folder and (folder / "recipe.yaml").is_file() and (make := own(folder, "publish")):
        make(folder)


def find_kind(name: str) -> type[Kind]:
    """The kind of run of this name. UserError when there is none."""
    return registry.find("kind of run", "ditkit.app.kinds", is_kind, name)
