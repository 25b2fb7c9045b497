"""Floor 5: what a checkpoint of a training run holds, and the one that is kept because it is the best."""

from __future__ import annotations

from typing import Any

from ditkit.app.run import Run
from ditkit.train import checkpoint
from ditkit.train.trainer import Trainer

BEST = "best"
"""The folder, in the run's, of the best checkpoint; others are in ``checkpoint.FOLDER``."""


def save(run: Run[Any], trainer: Trainer, facts: dict[str, Any]) -> None:
    """Keeps the state of the training as a checkpoint, unless that of this step is there."""
    keep = trainer.settings.keep_checkpoints
    if checkpoint.at(run.folder, trainer.step):
        checkpoint.keep_newest(run.folder, keep)  # a kill may have come before it
    else:
        about = {**facts, "seconds": trainer.seconds}
        checkpoint.save(run.folder, trainer.step, _tensors(trainer), about, keep=keep)


def save_best(run: Run[Any], trainer: Trainer, facts: dict[str, Any]) -> None:
    """Keeps it as the best one, in place of the best so far."""
    about = {**facts, "seconds": trainer.seconds}
    checkpoint.save(run.folder, trainer.step, _tensors(trainer), about, keep=1, within=BEST)


def _tensors(trainer: Trainer) -> dict[str, dict[str, Any]]:
    state = trainer.task.state()
    return {
        "weights": trainer.net.state_dict(),
        **{name: average.net.state_dict() for name, average in trainer.averages.items()},
        "optimizer": checkpoint.optimizer_tensors(trainer.optimizer, trainer.net),
        "meter": trainer.meter.state(),
        **({"task": state} if state else {}),
    }
