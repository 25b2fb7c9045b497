"""Floor 5: from a recipe's names and numbers to the objects that they mean. Every name is found by its module."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn
from tqdm import tqdm

from ditkit.app.recipe import AnyRecipe, ClassifierRecipe, Data, Model, Noising, Process, Recipe, Sampling
from ditkit.app.stored import autoencoder_of
from ditkit.backbones.classifier import NoisyClassifier
from ditkit.base import registry
from ditkit.base.errors import UserError, unknown
from ditkit.convert.autoencoder import is_autoencoder
from ditkit.data.crops import Crop
from ditkit.data.images import Examples, keys
from ditkit.data.store import is_store
from ditkit.encoders.autoencoder import Autoencoder, encode_keyed
from ditkit.objectives import weights
from ditkit.objectives.neighbours import References
from ditkit.process.denoiser import Denoiser
from ditkit.process.density import Density
from ditkit.process.grids import check
from ditkit.process.path import Path
from ditkit.process.prediction import Prediction
from ditkit.sample import Solver
from ditkit.train.denoising import Encode, Objective


def _buildable(base: type) -> Callable[[Any], bool]:
    """Accepts classes of this base that a name alone can build (a path of given betas is for Python)."""

    def accept(value: Any) -> bool:
        concrete = isinstance(value, type) and issubclass(value, base) and not inspect.isabstract(value)
        return concrete and not registry.required(value)

    return accept


def _called_with(*names: str) -> Callable[[Any], bool]:
    """Accepts functions whose positional parameters have these names."""

    def accept(value: Any) -> bool:
        if not inspect.isfunction(value):
            return False
        kinds = inspect.signature(value).parameters.values()
        return tuple(p.name for p in kinds if p.kind is p.POSITIONAL_OR_KEYWORD) == names

    return accept


KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "path": ("ditkit.process", _buildable(Path)),
    "prediction": ("ditkit.process.prediction", _buildable(Prediction)),
    "density": ("ditkit.process.density", _buildable(Density)),
    "objective": ("ditkit.objectives", _called_with("denoiser", "x0", "draws")),
    "solver": ("ditkit.solvers", _called_with("denoise", "x", "ts")),
    "grid": ("ditkit.process.grids", _called_with("path", "steps")),
    "crop": ("ditkit.data.crops", _buildable(Crop)),
    "backbone": ("ditkit.backbones", lambda value: hasattr(value, "presets")),
    "autoencoder": ("ditkit.encoders", is_autoencoder),
}
"""Where the methods of each kind stand, and how one is told from its neighbours."""


def known(kind: str) -> dict[str, Any]:
    """The methods of a kind (see KINDS) by name."""
    return registry.members(*KINDS[kind])


def _find(kind: str, name: str) -> Any:
    return registry.find(kind, *KINDS[kind], name)


def _options(kind: str, name: str, method: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The given options in the types that the method declares; UserError for one that is unknown or does not fit."""
    registry.check_options(kind, name, method, dict(given))
    declared = get_type_hints(method.__init__ if isinstance(method, type) else method)
    fitting = {}
    for option, value in given.items():
        adapter = TypeAdapter(declared[option], config=ConfigDict(allow_inf_nan=False))
        try:
            fitting[option] = adapter.validate_python(value)
        except ValidationError as error:
            said = " or ".join(e["msg"].removeprefix("Input should be ") for e in error.errors())
            default = registry.options(method)[option].default
            raise UserError(
                f"option {option} of {kind} {name} is {value!r}: expected {said}"
                + ("" if default in ("", None) else f"; its default is {default}")
            ) from None
    return fitting


def path(process: Noising) -> Path:
    """The path that the recipe names."""
    kind = _find("path", process.path)
    given = _options("path", process.path, kind, process.path_options)
    try:
        return kind(**given)
    except (ArithmeticError, RuntimeError) as error:  # numbers that no schedule can be made of
        said = ", ".join(f"{k} {v}" for k, v in given.items())
        raise UserError(
            f"path {process.path} cannot have {said} ({error}): expected numbers like its defaults"
        ) from None


def prediction(process: Process) -> Prediction:
    """The row that the recipe names."""
    kind = _find("prediction", process.prediction)
    return kind(**_options("prediction", process.prediction, kind, process.prediction_options))


def crop(data: Data) -> Crop:
    """The crop that the recipe names."""
    kind = _find("crop", data.crop)
    return kind(**_options("crop", data.crop, kind, data.crop_options))


def density(process: Noising) -> Density:
    """The density of training times that the recipe names. UserError also where it does not fit the path."""
    kind = _find("density", process.density)
    made: Density = kind(**_options("density", process.density, kind, process.density_options))
    made.loss_weight(torch.full((1,), 0.5, dtype=torch.float64), path(process))
    return made


Needs = Mapping[Any, Callable[[], Any]]
"""What an objective may need besides its options, by the type that its signature declares, and how it is made."""


def objective(process: Process, needs: Needs | None = None) -> Objective:
    """The objective that the recipe names, its options bound, and what else its signature declares, of ``needs``."""
    function = _find("objective", process.objective)
    given = _weighed(process.objective, function, process.objective_options)
    declared = get_type_hints(function)
    needs = needs or {}
    given |= {p.name: needs[declared[p.name]]() for p in registry.required(function) if p.kind is p.KEYWORD_ONLY}
    if process.objective == "hybrid" and not process.learned_variance:
        raise UserError("objective hybrid teaches a learned variance: add --process.learned-variance, or use simple")
    return functools.partial(function, **given)


def _weighed(name: str, function: Objective, given: Mapping[str, Any]) -> dict[str, Any]:
    """An objective's options; those that its weight takes instead are bound to the weight: weight min_snr gamma 5."""
    own = registry.options(function)
    if "weight" not in own:
        return _options("objective", name, function, given)
    fitting = _options("objective", name, function, {k: v for k, v in given.items() if k in own})
    called = fitting.get("weight", own["weight"].default)
    weight = weights.find(called)
    rest = {k: v for k, v in given.items() if k not in own}
    for option in rest.keys() - registry.options(weight).keys():
        raise unknown(f"option of objective {name} with weight {called}", option, [*own, *registry.options(weight)])
    return {**fitting, "weight": functools.partial(weight, **_options("weight", called, weight, rest))}


def solver(sampling: Sampling) -> Solver:
    """The solver that the settings name, its options bound."""
    function = _find("solver", sampling.solver)
    return functools.partial(function, **_options("solver", sampling.solver, function, sampling.solver_options))


def grid(sampling: Sampling, path: Path, start: float = 1.0) -> torch.Tensor:
    """The times that the settings name, (K + 1,) float64 from noise to data.

    start: where grids in t begin unless their options say otherwise (see Prediction.start).
    """
    function = _find("grid", sampling.grid)
    given = _options("grid", sampling.grid, function, sampling.grid_options)
    given = _starting(function, start) | given
    steps = _steps(sampling)
    if not steps:
        raise UserError(f"steps {sampling.steps!r}: expected a number (50), sections (10,15,20) or a stride (ddim50)")
    if sampling.grid != "uniform" and not steps.isdecimal():
        raise UserError(f"--steps {steps}: the grid {sampling.grid} takes a number of steps")
    return check(function(path, int(steps) if steps.isdecimal() else steps, **given))


def _starting(grid: Callable[..., Any], start: float) -> dict[str, float]:
    """The options of a grid that follow from where sampling begins."""
    return {"t_max": start} if "t_max" in registry.options(grid) else {}


def _steps(sampling: Sampling) -> str:
    """The steps as they are counted: "4" for "04"."""
    steps = sampling.steps.strip()
    return str(int(steps)) if steps.isdecimal() else steps


def plain(sampling: Sampling, start: float = 1.0) -> Sampling:
    """The settings in the fewest words: steps without padding, options without those that are as they would be anyway.

    start: see ``grid``.
    """
    solver, grid = _find("solver", sampling.solver), _find("grid", sampling.grid)
    solver_options = _unusual("solver", sampling.solver, solver, sampling.solver_options, {})
    grid_options = _unusual("grid", sampling.grid, grid, sampling.grid_options, _starting(grid, start))
    return dataclasses.replace(
        sampling, steps=_steps(sampling), solver_options=solver_options, grid_options=grid_options
    )


def _unusual(
    kind: str, name: str, method: Callable[..., Any], given: Mapping[str, Any], usual: Mapping[str, Any]
) -> dict[str, Any]:
    """The given options, as they are, that differ from the usual ones, or else from the method's defaults."""
    defaults = {**{key: option.default for key, option in registry.options(method).items()}, **usual}
    return {k: given[k] for k, v in _options(kind, name, method, given).items() if v != defaults[k]}


def adaptive(solver: str) -> bool:
    """Whether a solver chooses its own steps by a tolerance, so that no number of evaluations can be set."""
    return "rtol" in registry.options(_find("solver", solver))


def listed(grid: str) -> bool:
    """Whether a grid is a list of times, so that no number of steps can be chosen; False for an unknown one."""
    method = known("grid").get(grid)
    return method is not None and "times" in registry.options(method)


def network(model: Model, process: Process, facts: Mapping[str, Any]) -> nn.Module:
    """The network for data of these facts: input_size (H, W), channels, and classes (a list of names, or empty)."""
    return backbone(model, facts, num_classes=len(facts["classes"]), learned_variance=process.learned_variance)


def backbone(model: Model, facts: Mapping[str, Any], **given_by_caller: Any) -> nn.Module:
    """The backbone that the recipe names for data of these facts: input_size (H, W) and channels."""
    kind = _find("backbone", model.backbone)
    given = configuration(model)
    missing = [p.name for p in registry.required(kind) if p.name not in {*given, "input_size", "in_channels"}]
    if missing:
        raise UserError(f"the model lacks {', '.join(missing)}: set --model.{missing[0]} ... or a --model.preset")
    return kind(
        input_size=tuple(facts["input_size"]),
        in_channels=facts["channels"],
        **given_by_caller,
        **given,
    )


def configuration(model: Model) -> dict[str, Any]:
    """The constructor arguments that a preset and the leaves over it say. UserError for an unknown preset."""
    presets = _find("backbone", model.backbone).presets()
    if model.preset is not None and model.preset not in presets:
        raise unknown("preset", model.preset, presets)
    return (presets[model.preset] if model.preset else {}) | model.overrides()


def device(name: str) -> torch.device:
    """The device of a name; "auto" is a GPU if there is one. UserError where the machine lacks it."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(name)
        torch.empty(1, device=found).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise UserError(f"device {name!r} cannot be used ({reason}): expected auto, cpu, cuda or mps") from None
    return found


def autoencoder(recipe: AnyRecipe, where: torch.device) -> Autoencoder:
    """The autoencoder that the recipe names, or that its latent store brings, frozen, on a device."""
    return autoencoder_of(recipe.data, where)


def encode(recipe: AnyRecipe, autoencoder: Autoencoder) -> Encode | None:
    """What brings the recipe's training batches to latent space; None in pixel space, and where they are latents."""
    if recipe.data.autoencoder is None or is_store(recipe.data.source):
        return None
    return lambda pixels, keys: encode_keyed(autoencoder, pixels, recipe.seed, keys)


def references(images: Examples, encode: Encode | None, flip: bool, where: torch.device, seed: int) -> References:
    """The examples as the network sees them in training: in [-1, 1] or as latents; with their mirror images if flip."""
    if images.groups is not None:
        raise UserError("the objective compares all images, which needs one shape: leave out --data.buckets")
    parts = torch.arange(len(images)).split(256)
    ways = [(mirrored, part) for mirrored in ((False, True) if flip else (False,)) for part in parts]
    # latents each with their own noise of the posterior: as in epochs before the first
    before = [torch.full_like(part, -1 - mirrored) for mirrored, part in ways]
    drawn = [
        images.draw(part, torch.full_like(part, mirrored, dtype=torch.bool), seed, epoch)
        for (mirrored, part), epoch in zip(tqdm(ways, "index", delay=2, leave=False), before, strict=True)
    ]
    data, labels = torch.cat(drawn), images.labels
    if flip and labels is not None:
        labels = labels.repeat(2)
    if encode:
        known = [keys(images.indices, part, epoch) for (_, part), epoch in zip(ways, before, strict=True)]
        bar = tqdm(zip(drawn, known, strict=True), "latents", total=len(drawn), delay=2, leave=False)
        data = torch.cat([encode(part.to(where), of) for part, of in bar])
    return References.among(data.to(where), labels, len(images.classes))


def autocast(precision: str, where: torch.device) -> torch.dtype | None:
    """The dtype of matrix products that a precision means on a device; None: that of the weights."""
    native = {"cpu": _native_on_cpu, "cuda": torch.cuda.is_bf16_supported}.get(where.type, lambda: False)
    half = precision == "bfloat16" or (precision == "auto" and native())
    return torch.bfloat16 if half else None


def _native_on_cpu() -> bool:
    capable = torch.cpu.get_capabilities()
    return bool(capable.get("avx512_bf16") or capable.get("amx_bf16") or capable.get("bf16"))


def classifier(recipe: ClassifierRecipe, facts: Mapping[str, Any]) -> NoisyClassifier:
    """The classifier on the recipe's backbone for data of these facts; UserError for data without classes."""
    classes = len(facts["classes"])
    if classes < 2:
        raise UserError(f"a classifier of {classes} classes: expected --data with at least 2, a subfolder for each")
    return NoisyClassifier(backbone(recipe.model, facts, num_classes=0, learned_variance=False), classes)


def denoiser(recipe: Recipe, net: nn.Module) -> Denoiser:
    """The network read as a denoiser, as the recipe's process says."""
    process, where = recipe.process, next(net.parameters()).device
    return Denoiser(net, path(process), prediction(process), autocast=autocast(recipe.train.precision, where))
