"""Draw images from a run: ditkit sample RUN --num 64 --classes 3,7 --guidance 4 --steps 50 --out DIR."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import tyro
from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.app.names import named
from ditkit.app.recipe import Sampling, Tile
from ditkit.base.errors import UserError
from ditkit.base.files import check_new_folder, claimed
from ditkit.train.settings import STRICT, Positive, Probability

Sides: TypeAlias = Positive | tuple[Positive, Positive]
"""Height and width in pixels, or one number for both."""


@dataclass(frozen=True, config=STRICT)
class How:
    """How to draw; what is not given is as in the run's recipe."""

    solver: Annotated[str | None, tyro.conf.arg(help_behavior_hint=named("solver"))] = None
    """Name of a solver (ditkit info solvers)."""
    solver_options: dict[str, str | float] | None = None
    """Options of the solver, such as eta 0.5 or variance learned."""
    grid: Annotated[str | None, tyro.conf.arg(help_behavior_hint=named("grid"))] = None
    """Name of a grid of times (ditkit info grids)."""
    grid_options: dict[str, str | float] | None = None
    """Options of the grid, such as rho 7 or shift 3."""
    steps: str | None = None
    """Number of steps, or a respacing of the chain: 250, ddim50, 10,15,20."""
    guidance: float | None = None
    """Classifier-free guidance scale; 1: none."""
    guidance_channels: Positive | None = None
    """Guide only the first so many channels (3: DiT's published numbers)."""
    guidance_interval: tuple[float, float] | None = None
    """Guide only at times t in this interval (0 data, 1 noise), in whatever way."""
    guidance_rescale: Probability | None = None
    """Bring the deviation that guidance widened back to the conditional's: 0 not at all, 1 wholly."""
    guidance_negative: str | None = None
    """A class to lead away from, by number or name, in place of the learned null."""
    guidance_weak: str | None = None
    """Autoguidance: a worse model to lead away from, another run's folder or an earlier checkpoint's."""
    guidance_weak_scale: float | None = None
    """Scale s in weak + s (model - weak); 1: none."""
    guidance_weak_weights: str | None = None
    """The weak model's moving average (ema), another that its run kept (ema-0.99), or its weights (weights)."""
    guidance_classifier: str | None = None
    """The run of a classifier of noisy images that leads to the class."""
    guidance_classifier_scale: float | None = None
    """Scale w of the classifier's gradient; 0: none."""
    clip: bool | None = None
    """Keep the predicted image inside [-1, 1] at every step."""
    batch_size: Positive | None = None
    """Images drawn at a time; changes no image, but for solvers of adaptive steps, within their tolerance: step lengths
    follow the whole batch."""

    def over(self, sampling: Sampling) -> Sampling:
        """The recipe's settings with what is given here."""
        given: dict[str, Any] = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        for name in ("solver", "grid"):
            if given[name] not in (None, getattr(sampling, name)) and given[f"{name}_options"] is None:
                given[f"{name}_options"] = {}  # another's options would not fit
        given = {k: v for k, v in given.items() if v is not None}
        drawn = dataclasses.replace(sampling, **given)
        for name, (off, without) in _NEEDS.items():
            if given.get(name) and off(drawn):
                flag = _flag(name, given[name])
                raise UserError(f"{flag} does nothing {without}: give that too, or leave the option out")
        return drawn

    def check_classes(self, drawn: Sampling, classes: Sequence[str]) -> None:
        """Raises UserError for guidance that is asked for and does nothing, as the model drawn from has no classes."""
        if classes:
            return
        others = (drawn.guidance_weak, drawn.guidance_classifier)
        for name, off in {**_OF_CLASSES, **({} if any(others) else {"guidance_interval": (0.0, 1.0)})}.items():
            value = getattr(self, name)
            if value not in (None, off):
                raise UserError(
                    f"{_flag(name, value)} does nothing: the model is unconditional, it knows no classes; leave the "
                    "option out, or give --guidance-classifier or --guidance-weak, which have scales of their own"
                )


def _flag(name: str, value: Any) -> str:
    words = value if isinstance(value, tuple) else (value,)
    return " ".join([f"--{name.replace('_', '-')}", *map(str, words)])


_OF_CLASSES: Mapping[str, Any] = {"guidance": 1, "guidance_channels": None, "guidance_rescale": 0}
"""Options of classifier-free guidance, and where each is off."""

_FREE = (lambda drawn: drawn.guidance == 1, "without --guidance other than 1")
_WEAK = (lambda drawn: drawn.guidance_weak is None, "without --guidance-weak")
_CLASSIFIER = (lambda drawn: drawn.guidance_classifier is None, "without --guidance-classifier")
_NEEDS: Mapping[str, tuple[Callable[[Sampling], bool], str]] = {
    "guidance_interval": (
        lambda drawn: drawn.guidance == 1 and drawn.guidance_weak is drawn.guidance_classifier is None,
        "without --guidance other than 1, --guidance-weak or --guidance-classifier",
    ),
    "guidance_channels": _FREE,
    "guidance_rescale": _FREE,
    "guidance_negative": _FREE,
    "guidance_weak_scale": _WEAK,
    "guidance_weak_weights": _WEAK,
    "guidance_classifier_scale": _CLASSIFIER,
}
"""Options that shape a guidance, and when it is off."""


@dataclass(frozen=True, config=STRICT)
class Options:
    """Draw images from a trained run: PNG files named by seed and class, and a grid of them."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    out: Path | None = None
    """Folder for the images; None: samples/seed-S in the run's folder."""
    num: Positive = 64
    """How many images."""
    size: Sides | None = None
    """Height and width in pixels, for networks that take other sizes than they were trained on, such as DiT on buckets;
    None: that of training."""
    classes: str | None = None
    """Classes to draw in turn, by number or name: 3,7 or cat,dog; None: all."""
    seed: int = 0
    """Seed of the first image; the next ones count up. An image depends on its seed, class and settings alone."""
    npz: bool = False
    """Also write samples.npz with arr_0 (N, H, W, C) uint8, and labels arr_1, as ADM's evaluator reads it."""
    weights: str = "ema"
    """The moving average (ema), another that the run kept (ema-0.99), or the weights themselves (weights)."""
    device: str | None = None
    """auto, cpu, cuda, ...; None: the recipe's."""
    tile: Tile | None = None
    """Decode images of more latents a side than this in tiles, which takes less memory; None: as in the recipe."""
    autoencoder_precision: Literal["float32", "bfloat16"] | None = None
    """How the autoencoder computes in decoding; None: as in the recipe."""
    how: Annotated[How, tyro.conf.arg(name="")] = dataclasses.field(default_factory=How)


def main(args: Sequence[str]) -> int:
    """The command."""
    options = parse(Options, "sample", args)
    from ditkit.app.classes import parse_classes
    from ditkit.app.drawn import save_samples
    from ditkit.app.model import check_sampling, load_model
    from ditkit.app.run import open_run

    run = open_run(options.run)
    sampling = options.how.over(run.recipe.sample)
    out = options.out or run.samples / f"seed-{options.seed}"
    check_new_folder(out)
    check_sampling(run.recipe, sampling)
    over = {"tile": options.tile, "autoencoder_precision": options.autoencoder_precision}
    if given := {name: value for name, value in over.items() if value is not None}:
        data = dataclasses.replace(run.recipe.data, **given)
        run = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, data=data))
    model = load_model(run, device=options.device, weights=options.weights).sized(options.size)
    options.how.check_classes(sampling, model.classes)
    names = model.names(sampling)
    classes = parse_classes(options.classes, names) if options.classes is not None else range(len(names))
    labels = model.labels(options.num, classes)
    seeds = range(options.seed, options.seed + options.num)
    with claimed(out):
        images = model.draw(seeds, labels, sampling, progress="sampling")
        save_samples(out, images, seeds, labels, npz=options.npz)
    print(f"{options.num} images in {out} (grid.png shows them all)")
    if list(model.shape) != model.facts["image_shape"] and run.recipe.data.buckets is None:
        print("the model was trained on images of one size: those of others are seldom as good")
    return 0
