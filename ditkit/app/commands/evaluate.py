"""Measure a run's samples, or images, against real ones: ditkit evaluate RUN|FOLDER|NPZ --reference DATA."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.app.commands.sample import How, Sides
from ditkit.app.recipe import Enough, Recipe
from ditkit.base.errors import UserError
from ditkit.train.settings import STRICT, Positive

if TYPE_CHECKING:
    from ditkit.app.evaluating import Variants, Work
    from ditkit.app.model import Model
    from ditkit.app.references import Reference
    from ditkit.app.run import Run
    from ditkit.base.workers import Workers

SHARED = True
"""Whether the processes that torchrun starts share the command's work."""


@dataclass(frozen=True, config=STRICT)
class Sweep:
    """Several ways of drawing in one call, every combination of what is listed; the reference is measured once."""

    guidance: tuple[float, ...] = ()
    """Guidance scales, such as 1 1.5 4."""
    solver: tuple[str, ...] = ()
    """Solvers as NAME[:OPTION=VALUE,...][@GRID[:OPTION=VALUE,...]], such as ddim dpmpp_2m@karras:rho=5."""
    steps: tuple[str, ...] = ()
    """Numbers of steps, such as 10 25 50."""
    weights: tuple[str, ...] = ()
    """Weights of the checkpoint: ema, averages of other decays that the run kept (ema-0.99), weights."""


@dataclass(frozen=True, config=STRICT)
class Options:
    """Measure a run's samples, or images that are there, against real images; writes metrics.json.

    Under torchrun the processes share the drawing, with the same numbers. The same call again goes on where a kill
    left it.
    """

    samples: Annotated[str | None, tyro.conf.Positional] = None
    """A run's or a checkpoint's folder; or the samples themselves: a folder, a .zip or an .npz with arr_0."""
    reference: str | None = None
    """Real images: any data source, a latent store, or ADM's .npz; None: what the run was trained on."""
    num: Enough | None = None
    """Samples to draw from a run; None: the recipe's evaluate.num."""
    size: Sides | None = None
    """Height and width in pixels to draw a run's samples in, where its network takes other sizes than training's; its
    reference is brought to it. None: that of training."""
    repeats: Positive = 1
    """Sets of so many samples, each with seeds of its own: then standard errors are over them."""
    seed: int = 0
    """Seed of the first sample; the next ones count up."""
    labels: Literal["balanced", "random"] = "balanced"
    """balanced: each class in turn; random: each class as likely, drawn from the seed."""
    features: str = "self"
    """Feature network: inception, dinov2, clip, pixels (of small images), or self, a classifier of the reference."""
    features_weights: str | None = None
    """The feature network's file or folder; None: where it looks for them."""
    likelihood: Positive | None = None
    """Held-out real images whose bits per dimension under the model are measured too, which is slow; None: none."""
    scores: tuple[str, ...] | None = None
    """Scores, such as frechet_distance neighbourhoods; None: all that what is given allows."""
    weights: str = "ema"
    """The moving average (ema), another that the run kept (ema-0.99), or the weights themselves (weights)."""
    sweep: Sweep = dataclasses.field(default_factory=Sweep)
    out: Path | None = None
    """Folder for the results; None: the run's, or SAMPLES-evaluation beside the samples."""
    npz: Path | None = None
    """Also write a run's samples there, as arr_0 (N, H, W, 3) uint8 for ADM's evaluator."""
    reference_npz: Path | None = None
    """Also write the reference there in ADM's format: images as arr_0 and, of inception, mu, sigma, mu_s, sigma_s."""
    compare: tuple[Path, Path] | None = None
    """Measure nothing: compare two results, runs' folders or metrics.json, if their protocols allow it."""
    device: str | None = None
    """auto, cpu, cuda, ...; None: the recipe's, or auto."""
    how: Annotated[How, tyro.conf.arg(name="")] = dataclasses.field(default_factory=How)


def main(args: Sequence[str]) -> int:
    """The command. Exit code 1 where two results cannot be compared."""
    options = parse(Options, "evaluate", args)
    if options.compare is not None:
        from ditkit.app.evaluating import comparison

        _check_options(options, ("compare",), "--compare measures nothing")

        comparable, said = comparison(*options.compare)
        print(said)
        return 0 if comparable else 1
    if options.samples is None:
        raise UserError("what to measure is missing: expected a run's folder, a folder of images or an .npz")
    from ditkit.app.kind import own
    from ditkit.base.files import check_file
    from ditkit.base.workers import workers

    place = Path(options.samples)
    if (place / "recipe.yaml").is_file() and (other := own(place, "evaluate")) is not None:
        _check_options(options, OF_OWN_KIND, f"{place} is no run that draws samples, and is measured on its own data")
        check_file(place / "metrics.json")
        measured = other(place, num=options.num, device=options.device, space=_space(options))
        print(f"{table(measured)}\n{notes(measured)}\nwritten to {place / 'metrics.json'}")
        return 0
    is_run = any((place / name).is_file() for name in ("recipe.yaml", "manifest.json"))
    with workers() as all_of_us:
        return (_run if is_run else _files)(options, options.samples, all_of_us)


def _run(options: Options, place: str, workers: Workers) -> int:
    from ditkit.app import measuring
    from ditkit.app.evaluating import evaluate_run
    from ditkit.app.model import load_model
    from ditkit.app.run import located

    run, step = located(place)
    space = _space(options)
    variants = _variants(options, run, step)
    device = workers.device(options.device or run.recipe.train.device)
    with working(options.out or run.folder, workers) as work:
        with workers.leader_first():
            model = load_model(run, step, device=device).sized(options.size)
            _check_model(options, model, variants)
            against = measuring.reference(model, options.reference, space)
            _write_reference(options, against, workers)
        found = evaluate_run(
            run,
            step,
            variants,
            against,
            work,
            workers,
            device=device,
            size=options.size,
            npz=options.npz,
            repeats=options.repeats,
            likelihood=options.likelihood,
        )
        return _tell(found, options.out or run.folder, work) if workers.leads else 0


def _variants(options: Options, run: Run[Recipe], step: Path) -> Variants:
    """What is to be drawn. UserError for all that can be told from the recipe, without the model."""
    from ditkit.app.evaluating import Variants
    from ditkit.app.likelihood import check_pixels
    from ditkit.app.model import check_sampling
    from ditkit.app.samples import Plan
    from ditkit.evaluate.suite import check_enough
    from ditkit.train.checkpoint import weights_file

    _check_sweep(options)
    _check_places(options, options.out or run.folder)
    if options.likelihood:
        check_pixels(run)
        if options.size is not None:
            raise UserError(
                f"--likelihood {options.likelihood} beside --size {_words(options.size)}: bits per dimension are of "
                "images in the size of training; measure one at a time"
            )
    num = options.num or run.recipe.evaluate.num
    check_enough(options.scores, num)
    plan = Plan(_drawing(options).over(run.recipe.sample), num, options.seed, options.labels, options.weights)
    variants = Variants.of(plan, **dataclasses.asdict(options.sweep))
    for each in variants.plans:
        check_sampling(run.recipe, each.sampling)
        weights_file(step, each.weights)
    sets = len(variants.plans) * options.repeats
    if options.npz is not None and sets > 1:
        raise UserError(f"--npz {options.npz} is one file for {sets} sets of samples: measure one at a time")
    return variants


def _check_model(options: Options, model: Model, variants: Variants) -> None:
    """Raises UserError for what does not belong to the model, before long work."""
    import torch

    from ditkit.app.samples import RunSamples
    from ditkit.evaluate.networks.network import as_rgb

    if options.npz is not None:
        as_rgb(torch.empty(0, *model.shape))
    for scale in options.sweep.guidance or (options.how.guidance,):
        dataclasses.replace(options.how, guidance=scale).check_classes(variants.plans[0].sampling, model.classes)
    drawn: list[object] = []
    for number, each in enumerate(variants.plans, 1):
        model.how(each.sampling)  # reads what guides
        said = RunSamples.of(model, each).protocol
        if said in drawn:
            raise UserError(
                f"--sweep: variant {number} of {len(variants.plans)} (solver {each.sampling.solver}, guidance "
                f"{each.sampling.guidance:g}, weights {each.weights}) draws as variant {drawn.index(said) + 1} does: "
                "name each way of drawing once"
            )
        drawn.append(said)
    if options.labels != Options().labels and not model.names(variants.plans[0].sampling):
        raise UserError(
            f"--labels {options.labels} does nothing: the model is unconditional, its samples have no labels; leave "
            "the option out"
        )


def _check_sweep(options: Options) -> None:
    """Raises UserError for an option that a sweep takes the place of: --weights beside --sweep.weights."""
    none, swept = Options(), dataclasses.asdict(options.sweep)
    own_grids = all("@" in solver for solver in options.sweep.solver)  # a solver of the sweep may name its grid
    replaced = [*swept.items(), ("grid", options.sweep.solver if own_grids else ())]
    for place, listed in replaced:
        for name in (place, f"{place}_options"):
            given, without = (getattr(o, name, getattr(o.how, name, None)) for o in (options, none))
            if listed and given != without:
                sweep = place if place in swept else "solver"
                raise UserError(
                    f"{_flag(name)} {_words(given)} does nothing beside --sweep.{sweep} {_words(listed)}: leave it "
                    "out, or add what it says to the sweep"
                )


def _check_places(options: Options, out: Path) -> None:
    """Raises UserError where what is to be written cannot be."""
    from ditkit.base.files import check_file

    for path in (out / "metrics.json", options.npz, options.reference_npz):
        if path is not None:
            check_file(path)


def _drawing(options: Options) -> How:
    """How to draw, with a guidance scale of the sweep's that what shapes guidance does something for."""
    if not options.sweep.guidance:
        return options.how
    return dataclasses.replace(options.how, guidance=max(options.sweep.guidance, key=lambda scale: scale != 1))


def _files(options: Options, place: str, workers: Workers) -> int:
    from ditkit.app import build
    from ditkit.app.evaluating import evaluate_files
    from ditkit.app.references import check_apart, classes_of, open_reference
    from ditkit.app.samples import FileSamples
    from ditkit.evaluate.suite import check_enough

    _check_options(options, OF_IMAGES, f"{place} is no run, and its images are measured as they are")
    if options.reference is None:
        what = "is not a run (it has no recipe.yaml)" if Path(place).exists() else "does not exist"
        raise UserError(
            f"{place} {what}: expected a run, or images and their --reference, the real ones to compare with"
        )
    check_apart(place, options.reference)
    space = _space(options)
    samples, device = FileSamples.open(place), build.device(workers.device(options.device or "auto"))
    check_enough(options.scores, len(samples))
    samples.numbered(classes_of(options.reference))  # an unknown class is said before long work
    out = options.out or Path(place).with_name(f"{Path(place).stem}-evaluation")
    _check_places(options, out)
    with working(out, workers) as work:
        with workers.leader_first():
            against = open_reference(
                options.reference,
                shape=samples.images.shape,
                classes=None,
                space=space,
                folder=out,
                device=device,
                resize=False,
                labelled=samples.labels is not None,
                captioned=samples.captions is not None,
            )
            _write_reference(options, against, workers)
        found = evaluate_files(place, samples.numbered(against.classes), against, work, workers, device)
        return _tell(found, out, work) if workers.leads else 0


OF_OWN_KIND = ("samples", "num", "features", "features_weights", "device")
"""What can be said of how a run is measured that draws no samples, such as an autoencoder's."""
OF_IMAGES = ("samples", "reference", "reference_npz", "features", "features_weights", "scores", "out", "device")
"""What can be said of how images are measured that are there already."""


def _check_options(options: Options, known: Sequence[str], reason: str) -> None:
    """Raises UserError, giving the reason, for options that were given beside the known ones."""
    none = Options()
    given = [f.name for f in dataclasses.fields(options) if getattr(options, f.name) != getattr(none, f.name)]
    other = [name for name in given if name not in known]
    if other:
        values = {name: getattr(options, name) for name in other}
        said = [
            _flag(name) if dataclasses.is_dataclass(v) else f"{_flag(name)} {_words(v)}".lstrip()
            for name, v in values.items()
        ]
        expected = ", ".join(_flag(name) for name in known if _flag(name))
        raise UserError(f"{reason}: leave out {', '.join(said)}; expected no options but {expected}")


def _flag(name: str) -> str:
    return _UNLIKE.get(name, "--" + name.replace("_", "-"))


_UNLIKE = {"how": "options of drawing", "samples": ""}
"""Fields that are not options by their own names."""


def _words(value: Any) -> str:
    """An option's value as it is typed."""
    if isinstance(value, dict):
        value = itertools.chain(*value.items())
    return " ".join(map(str, value)) if isinstance(value, Iterable) and not isinstance(value, str) else str(value)


def _write_reference(options: Options, against: Reference, workers: Workers) -> None:
    if options.reference_npz is not None and workers.leads:
        against.write(options.reference_npz)


def _space(options: Options) -> Any:
    from ditkit.app.references import Space

    return Space(options.features, options.features_weights, options.scores)


@contextlib.contextmanager
def working(out: Path, workers: Workers) -> Iterator[Work]:
    """The call's folder, below that of its results, for what is not done yet. UserError where another is at it."""
    from ditkit.app.evaluating import WORK, Work
    from ditkit.base.files import alone

    folder, made = out / WORK, not out.exists()
    folder.mkdir(parents=True, exist_ok=True)
    refusal = f"{out} is being evaluated by another process: wait for it, or give another --out"
    with alone(folder, refusal) if workers.leads else contextlib.nullcontext():
        try:
            yield Work(folder)
        finally:  # a call that was refused leaves nothing behind
            for empty in (folder, out) if made else (folder,):
                with contextlib.suppress(OSError):
                    empty.rmdir()


def _tell(found: list[dict[str, Any]], out: Path, work: Work) -> int:
    from ditkit.app.sweep import sweep_table, write_sweep
    from ditkit.base.files import write_json

    if len(found) == 1:
        write_json(out / "metrics.json", found[0])
        print(f"{table(found[0])}\n{notes(found[0])}\nprotocol {found[0]['protocol_hash'][:12]}")
        print(f"written to {out / 'metrics.json'}")
    else:
        write_sweep(out / "sweep", found)
        print(f"{sweep_table(found)}\n\nwritten to {out / 'sweep'} (results.json, table.md, plot.svg)")
    work.clear()
    return 0


def table(metrics: dict[str, Any]) -> str:
    """The metrics as lines of text: name, value, standard error, samples."""
    rows = {name: entry for name, entry in metrics.items() if isinstance(entry, dict) and "value" in entry}
    width = max(map(len, rows))
    return "\n".join(
        f"{n:<{width}}  {e['value']:>10.4g}{_error(e):<12} ({e['samples']:,} samples)" for n, e in rows.items()
    )


def notes(metrics: dict[str, Any]) -> str:
    """What to know before believing the values, a line each; empty where there is nothing."""
    said: dict[str, list[str]] = {}
    for name, entry in metrics.items():
        if isinstance(entry, dict) and "value" in entry and entry.get("note"):
            said.setdefault(entry["note"], []).append(name)
    lines = [f"note on {', '.join(names)}: {note}\n" for note, names in said.items()]
    left_out = metrics.get("about", {}).get("left_out", {})
    return "".join([*lines, *(f"not measured: {name}: {why}\n" for name, why in left_out.items())])


def _error(entry: dict[str, Any]) -> str:
    return f" ± {entry['standard_error']:.2g}" if "standard_error" in entry else ""
