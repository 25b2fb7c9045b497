"""What a run report shows, as plain data: whoever samples and measures fills it, the page only draws it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ditkit.app.report.words import number

if TYPE_CHECKING:
    from ditkit.app.pictures import Images


@dataclasses.dataclass(frozen=True)
class Metric:
    """A measured number, the number of samples behind it (None if it has none), and how it was measured.

    error: its standard error, where it is known.
    """

    value: float
    samples: int | None = None
    note: str = ""
    error: float | None = None

    @classmethod
    def read(cls, entry: Mapping[str, Any]) -> Metric:
        """The metric of an entry of metrics.json: value, samples, note, standard_error; other keys join the note."""
        own = ("value", "samples", "note", "standard_error")
        others = [f"{key.replace('_', ' ')}: {_said(value)}" for key, value in entry.items() if key not in own]
        note = "; ".join([*([entry["note"]] if entry.get("note") else []), *others])
        return cls(float(entry["value"]), entry.get("samples"), note, entry.get("standard_error"))


def _said(value: Any) -> str:
    """A number in four digits, all else as it is."""
    return number(value) if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


@dataclasses.dataclass(frozen=True)
class GuidancePoint:
    """One guidance scale of the sweep: its numbers by metric key, and samples of the same seeds at every scale."""

    guidance: float
    metrics: Mapping[str, Metric]
    images: Images | None = None  # (N, C, H, W)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """Samples on their way from noise to image.

    t: the K times shown, 1 (noise) first. states: per sample the x_t, (K, C, H, W) uint8. predictions: per sample the
    predicted x0 at the same times, or None. names: one per sample, such as its class and seed.
    """

    t: Sequence[float]
    states: Sequence[Images]
    predictions: Sequence[Images] | None = None
    names: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The training images nearest to samples, and how near they are beside what is normal for unseen real images.

    samples: (S, C, H, W) shown. nearest: (S, K, C, H, W), the K nearest training images of each. distances: (S, K).
    sample_distances, heldout_distances: nearest-neighbour distances of all samples and of held-out images, 1-D.
    copies: samples counted as copies, None if not counted. threshold: the distance under which one counts.
    space: what the distance is, in words ("Euclidean, pixels in [-1, 1]"). rule: what counts as a copy, in words.
    """

    samples: Images
    nearest: Images
    distances: np.ndarray
    sample_distances: np.ndarray
    heldout_distances: np.ndarray
    copies: int | None = None
    threshold: float | None = None
    space: str = ""
    rule: str = ""


@dataclasses.dataclass(frozen=True)
class ReportData:
    """Everything on a run's page. None, or nothing in it, leaves a section out; ``missing`` says why, by field name.

    samples: class name -> (N, C, H, W) uint8, drawn at ``guidance`` (None: unguided) and not picked; the name is ""
    where there are no classes. classes: how many the model has, of which samples may show the first only. log: records
    of log.jsonl with step and any of loss, lr, grad_norm, images_per_s, seconds. progress: step -> samples (N, C, H, W)
    at that step, the same seeds and classes each time.
    neighbours, feature_neighbours: in pixels, and in a network's features. evaluations: records of what was measured
    during training, with step and metrics (key -> entry of metrics.json). protocol: what the metrics hang on.
    recipe: YAML text. command: what made this page.
    """

    name: str
    model: str
    parameters: int
    data: str
    step: int
    guidance: float | None = None
    training_seconds: float | None = None
    seconds_per_sample: float | None = None
    metrics: Mapping[str, Metric] | None = None
    samples: Mapping[str, Images] | None = None
    classes: int = 0
    log: Sequence[Mapping[str, Any]] | None = None
    progress: Mapping[int, Images] | None = None
    sweep: Sequence[GuidancePoint] | None = None
    trajectory: Trajectory | None = None
    neighbours: Neighbours | None = None
    feature_neighbours: Neighbours | None = None
    evaluations: Sequence[Mapping[str, Any]] | None = None
    protocol: Mapping[str, Any] | None = None
    recipe: str | None = None
    environment: Mapping[str, Any] | None = None
    command: str | None = None
    missing: Mapping[str, str] = dataclasses.field(default_factory=dict)
