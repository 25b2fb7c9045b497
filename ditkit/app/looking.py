"""Floor 5: measuring during training, with few samples and the code of ditkit evaluate; the best checkpoint is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ditkit.app import measuring
from ditkit.app.keeping import BEST, save_best
from ditkit.app.model import Model
from ditkit.app.references import Reference
from ditkit.app.report.words import METRICS
from ditkit.app.run import Run
from ditkit.app.samples import Plan, RunSamples
from ditkit.base.errors import UserError, unknown
from ditkit.train import checkpoint
from ditkit.train.trainer import Trainer

EVENT = "evaluate"
"""Of the log's records with metrics: {"event": "evaluate", "step": ..., "metrics": ...}."""
CHOOSING = (
    "class_accuracy", "frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage",
    "classifier_score",
)  # fmt: skip
"""What is measured during training, of the samples."""
ORDERED = {key: METRICS[key].better for key in CHOOSING}
"""The metrics by which a checkpoint can be best, and which way is better."""


def check_best(best: str | None, every: int | None) -> None:
    """Raises UserError for a metric that no checkpoint can be best by."""
    if best is not None and best not in ORDERED:
        raise unknown("metric of --evaluate.best", best, ORDERED)
    if best is not None and every is None:
        raise UserError(f"--evaluate.best {best} needs measurements during training: add --evaluate-every N")


@dataclasses.dataclass
class Looking:
    """What measures a run while it trains. model: of a trainer's moving average."""

    run: Run[Any]
    facts: dict[str, Any]
    model: Callable[[Trainer], Model]
    against: Reference | None = None

    def __call__(self, trainer: Trainer) -> None:
        """Measures, writes it to the log, and keeps the checkpoint where it is the best one."""
        done = self._done()
        if self.made(trainer):
            return
        model, recipe = self.model(trainer), self.run.recipe
        self.against = self.against or measuring.reference(model, None)
        samples = RunSamples.of(model, Plan(recipe.sample, recipe.evaluate.every_num))
        together = recipe.sample.batch_size
        progress = "measurements" if trainer.finished else None  # until then the bar of the training is shown
        found = measuring.measure(samples, self.against, together=together, progress=progress)
        assert found is not None  # one process trains
        scores = {k: v for k, v in found.scores.items() if k != "classifier_heldout_accuracy"}
        best = recipe.evaluate.best
        if best is not None and best not in scores:
            raise UserError(f"--evaluate.best {best} cannot be measured: expected one of {', '.join(scores)}")
        if best is not None and self._is_best(best, scores[best]["value"], done):
            save_best(self.run, trainer, self.facts)
        self.run.append({"event": EVENT, "step": trainer.step, "metrics": scores})

    def made(self, trainer: Trainer) -> bool:
        """Whether it was measured at this step."""
        return any(r["step"] == trainer.step for r in self._done())

    def _done(self) -> list[dict[str, Any]]:
        return [r for r in self.run.records() if r.get("event") == EVENT]

    def _is_best(self, metric: str, value: float, done: list[dict[str, Any]]) -> bool:
        earlier = [r["metrics"][metric]["value"] for r in done if metric in r["metrics"]]
        if not earlier or not checkpoint.steps(self.run.folder, within=BEST):
            return True
        return value < min(earlier) if ORDERED[metric] == "lower" else value > max(earlier)
