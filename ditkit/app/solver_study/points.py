"""The points of a study of solvers: drawn from the same seeds and labels, measured, and kept as they are made."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pydantic
import torch
from pydantic import TypeAdapter, ValidationError

from ditkit.app.model import Model, described
from ditkit.app.recipe import Sampling
from ditkit.app.references import Reference
from ditkit.app.run import environment
from ditkit.app.solver_study.choice import Task
from ditkit.base.errors import UserError
from ditkit.base.files import alone, write_json
from ditkit.condition import Condition
from ditkit.evaluate.frechet import Gaussian, frechet_gaussian
from ditkit.evaluate.jackknife import left_out, standard_error
from ditkit.evaluate.measured import Side, measure
from ditkit.evaluate.statistics import Moments
from ditkit.process.denoiser import Denoise, Denoiser
from ditkit.sample import sample
from ditkit.solvers.counted import Counted
from ditkit.train.settings import STRICT


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Point:
    """One solver in so many steps: what it took for a sample, and how good its samples are.

    evaluations: counted while drawing, a guided pair of conditions as one; of adaptive steps the mean over samples.
    frechet_distance: to the real images. left_out: the same without each tenth of the samples, for standard errors.
    class_accuracy: None without classes.
    """

    solver: str
    steps: int
    evaluations: float
    seconds_per_sample: float
    frechet_distance: float
    left_out: tuple[float, ...]
    class_accuracy: float | None

    @property
    def standard_error(self) -> float:
        """Of frechet_distance."""
        return standard_error(torch.tensor(self.left_out, dtype=torch.float64))

    def behind(self, other: Point) -> tuple[float, float]:
        """How much larger the Fréchet distance is than another's of the same seeds, and the standard error of that."""
        without = torch.tensor([self.left_out, other.left_out], dtype=torch.float64)
        return self.frechet_distance - other.frechet_distance, standard_error(without[0] - without[1])


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Failure:
    """A point that could not be drawn or measured, and why; it is tried anew by the next study that wants it."""

    solver: str
    steps: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Study:
    """A folder with the points of one protocol (all that points share): points.json and the pages made of it."""

    folder: Path
    protocol: dict[str, Any]
    points: tuple[Point, ...] = ()
    failures: tuple[Failure, ...] = ()

    @classmethod
    @contextlib.contextmanager
    def open(cls, above: Path, protocol: dict[str, Any]) -> Iterator[Study]:
        """The study of this protocol in a folder below ``above``, with the points that were made before.

        UserError where its points.json is damaged, and while another process is at it.
        """
        text = json.dumps(protocol, sort_keys=True)
        folder = above / f"solvers-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder, f"study {folder} is being made by another process: wait for it, or stop it"):
            yield cls._read(folder, protocol)

    @classmethod
    def _read(cls, folder: Path, protocol: dict[str, Any]) -> Study:
        path = folder / "points.json"
        if not path.is_file():
            return cls(folder, protocol)
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            points, failures = _POINTS.validate_python(found["points"]), found.get("failures", [])
            return cls(folder, protocol, tuple(points), tuple(_FAILURES.validate_python(failures)))
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} cannot be read ({reason}): delete it, and the study begins anew") from None

    def has(self, task: Task) -> bool:
        """Whether the point was made."""
        return any((p.solver, p.steps) == (str(task.choice), task.steps) for p in self.points)

    def with_point(self, point: Point) -> Study:
        """The study with a point more."""
        return dataclasses.replace(self, points=(*self.points, point), failures=self._failures_but(point))

    def with_failure(self, failure: Failure) -> Study:
        """The study with a point that cannot be had."""
        return dataclasses.replace(self, failures=(*self._failures_but(failure), failure))

    def _failures_but(self, one: Point | Failure) -> tuple[Failure, ...]:
        return tuple(f for f in self.failures if (f.solver, f.steps) != (one.solver, one.steps))

    def best(self) -> Point:
        """The point of the least Fréchet distance."""
        return min(self.points, key=lambda p: p.frechet_distance)

    def by_solver(self) -> dict[str, list[Point]]:
        """Each solver's points, fewest evaluations first."""
        ordered = sorted(self.points, key=lambda p: p.evaluations)
        return {name: [p for p in ordered if p.solver == name] for name in sorted({p.solver for p in ordered})}

    def write(self, device: torch.device) -> None:
        """Writes points.json."""
        content = {
            "protocol": self.protocol,
            "points": [dataclasses.asdict(p) for p in self.points],
            "failures": [dataclasses.asdict(f) for f in self.failures],
            "environment": environment(device),
        }
        write_json(self.folder / "points.json", content)


_POINTS = TypeAdapter(list[Point])
_FAILURES = TypeAdapter(list[Failure])


def protocol(model: Model, against: Reference, sampling: Sampling, seeds: Sequence[int]) -> dict[str, Any]:
    """What all points of a study share, and what its numbers hang on."""
    shared = described(sampling)
    for varied in ("solver", "solver_options", "grid", "grid_options", "steps"):
        del shared[varied]
    return {
        "run": model.run.folder.name,
        "step": model.step,
        "weights": "ema",
        "sampling": shared,
        "labels": "each class in turn" if model.classes else "none",
        "seeds": [seeds[0], seeds[-1]],
        "reference": {"fingerprint": against.fingerprint, "images": against.side.count},
        "feature_space": against.classifier.hash,
        "device": str(model.device),
    }


@dataclasses.dataclass(frozen=True)
class Judge:
    """Measures points: the model, what it is measured against, the seeds of every point."""

    model: Model
    against: Reference
    seeds: Sequence[int]
    real: Gaussian

    @classmethod
    def of(cls, model: Model, against: Reference, seeds: Sequence[int]) -> Judge:
        """The judge, with the real images' moments."""
        return cls(model, against, seeds, against.side.gaussian)

    def point(self, task: Task, progress: str) -> Point:
        """Draws the task's samples and measures them."""
        labels = self.model.labels(len(self.seeds))
        start = time.perf_counter()
        images, evaluations = self._drawn(task.sampling, labels, progress)
        seconds = time.perf_counter() - start
        known = labels if self.against.labelled else None  # what the reference lacks cannot be judged
        side = measure("samples", images, known, self.against.classifier, quantities=("features", "hits"))
        return Point(
            solver=str(task.choice),
            steps=task.steps,
            evaluations=evaluations,
            seconds_per_sample=seconds / len(images),
            frechet_distance=self._distance(side.features),
            left_out=tuple(left_out(self._distance, side.features).tolist()),
            class_accuracy=_class_accuracy(side),
        )

    def _distance(self, features: torch.Tensor) -> float:
        generated = Moments()
        generated.update(features)
        return frechet_gaussian(self.real, generated.gaussian())

    def _drawn(self, sampling: Sampling, labels: torch.Tensor | None, progress: str) -> tuple[torch.Tensor, float]:
        """Images, uint8, and the evaluations for a sample."""
        model, how = self.model, self.model.how(sampling)
        lead = how.pop("guide")
        counts: list[Counted] = []

        def guide(denoiser: Denoiser) -> Denoise:
            counts.append(Counted(lead(denoiser)))
            return counts[-1]

        x = sample(
            model.denoiser,
            Condition(label=labels),
            self.seeds,
            model.latent_shape,
            model.grid(sampling),
            batch_size=sampling.batch_size,
            progress=progress,
            guide=guide,
            **how,
        )
        batches = torch.arange(len(self.seeds)).split(sampling.batch_size)
        total = sum(len(rows) * counted.evaluations for rows, counted in zip(batches, counts, strict=True))
        return model.pixels(x, progress), total / len(self.seeds)


def _class_accuracy(side: Side) -> float | None:
    return side["hits"].value if "hits" in side.held else None
