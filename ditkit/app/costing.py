"""Floor 5: what a network costs that is named by a run, a recipe, a preset or a name, and what is done with it."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import torch

from ditkit.app import build
from ditkit.app.kind import find_kind
from ditkit.app.recipe import AnyRecipe, AutoencoderNetwork, AutoencoderRecipe, ClassifierRecipe, Data, Model, Recipe
from ditkit.app.recipe_files import load_any_recipe, load_recipe, ready_recipes
from ditkit.app.run import Run, kind_of_run, located, open_checkpoint, open_run
from ditkit.app.spending import BACKWARD, Item, Subject, Work, decoding, drawing, encoding, teaching, trained
from ditkit.app.stored import Deferred
from ditkit.app.training import read_data
from ditkit.base.errors import UserError, nearest_few
from ditkit.convert.autoencoder import load_autoencoder
from ditkit.encoders.autoencoder import Autoencoder, Identity, LatentAutoencoder, Whitened
from ditkit.evaluate.networks.network import available
from ditkit.nn.cost import Cost, cost
from ditkit.train import checkpoint

PAPER = "imagenet256_dit"
"""The recipe of the published presets' own run: what a preset's name does not say is as there."""


@dataclasses.dataclass(frozen=True)
class Named:
    """What a name or a place stands for: a recipe, and what is known besides.

    facts: of a run's data; None: to be told by the recipe. classes: how many; None: as the data say. autoencoder: a
    registered name; None: the recipe's own.
    """

    what: str
    recipe: AnyRecipe
    facts: dict[str, Any] | None = None
    classes: int | None = None
    autoencoder: str | None = None


def find(what: str) -> Named:
    """What ``ditkit cost WHAT`` is about: a run's folder or checkpoint, a preset, an autoencoder, or a recipe.

    UserError where it is none of them.
    """
    folder = Path(what)
    if (folder / "manifest.json").is_file() or (folder / "recipe.yaml").is_file():
        return _of_run(folder)
    if what in (found := presets()):
        model = Model(backbone=found[what], preset=what)
        recipe = dataclasses.replace(load_recipe(PAPER), model=model)
        return Named(what, recipe, classes=1000, autoencoder="kl")
    if what in build.known("autoencoder"):
        network = AutoencoderNetwork(autoencoder=what)
        return Named(what, AutoencoderRecipe(data=Data(size=256, channels=3), network=network))
    if folder.suffix or what in ready_recipes():
        return Named(what, load_any_recipe(what))
    raise unknown_subject(what)


def _of_run(folder: Path) -> Named:
    step = folder if (folder / "manifest.json").is_file() else None
    run = step.resolve().parent.parent if step else folder
    recipe = open_run(run, find_kind(kind_of_run(run)).recipe).recipe
    return Named(str(folder), recipe, open_checkpoint(step or checkpoint.latest(run)).about)


def presets() -> dict[str, str]:
    """Every published configuration's name, and the backbone that it configures."""
    return {preset: name for name, kind in build.known("backbone").items() for preset in kind.presets()}


def outlines() -> dict[str, Any]:
    """The feature networks that can be counted without their weights, by name."""
    return {name: kind for name, kind in available().items() if hasattr(kind, "outline")}


def counted() -> dict[str, str]:
    """All names that have a cost, and what each is."""
    configured = {
        preset: f"the {name} of {', '.join(f'{key} {value}' for key, value in kind.presets()[preset].items())}"
        for name, kind in build.known("backbone").items()
        for preset in kind.presets()
    }
    networks = {**build.known("autoencoder"), **outlines()}
    said = {name: inspect.cleandoc(kind.__doc__ or "") for name, kind in networks.items()}
    return {**dict.fromkeys(ready_recipes(), "a ready recipe"), **configured, **said}


def unknown_subject(what: str) -> UserError:
    """The error for what is nothing that has a cost."""
    close = nearest_few(what, counted())
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return UserError(
        f"{what} has no cost: expected a run's folder, a recipe's file or a name that ditkit info costs lists{hint}"
    )


def subject(named: Named, recipe: AnyRecipe, classes: int | None, autoencoder: str | None) -> Subject:
    """The network of a recipe (``named``'s own, overridden) and what surrounds it.

    classes, autoencoder: win over what is named; the latter a registered name, or a folder or file of weights.
    UserError where neither options nor recipe nor data say what is needed.
    """
    if classes is not None and not find_kind(recipe.kind).knows_classes:
        raise UserError(
            f"--classes {classes} does nothing with {named.what} ({recipe.kind}), which knows none: leave it out"
        )
    own = named.facts if recipe.data == named.recipe.data else None
    if autoencoder is not None and own and own["autoencoder"] == Identity.identity:
        raise UserError(f"--autoencoder {autoencoder}: {named.what} diffuses {Identity.identity}; leave it out")
    between = _autoencoder(recipe, autoencoder or named.autoencoder)
    classes = named.classes if classes is None else classes
    facts = own or _facts(recipe, classes, between)
    if classes is not None:
        facts = {**facts, "classes": [str(i) for i in range(classes)]}
    return Subject(recipe, facts, of_network(recipe, facts), between)


def of_network(recipe: AnyRecipe, facts: dict[str, Any]) -> Cost:
    """The cost of a recipe's network, for one image."""
    kind = find_kind(recipe.kind)
    with torch.device("meta"):
        net = kind.network(recipe, facts)
    return cost(net, *kind.example(recipe, facts))


def _facts(recipe: AnyRecipe, classes: int | None, between: LatentAutoencoder | None) -> dict[str, Any]:
    """What training would find in the recipe's data, read from them only where the recipe does not say it."""
    data, asked = recipe.data, recipe.data.classes and find_kind(recipe.kind).knows_classes
    if data.size is None or data.channels is None or (asked and classes is None):
        return _read(recipe, between)
    height, width = (data.size, data.size) if isinstance(data.size, int) else data.size
    return _seen((data.channels, height, width), between) | {"classes": []}


def _read(recipe: AnyRecipe, between: LatentAutoencoder | None) -> dict[str, Any]:
    if not recipe.data.source:
        raise UserError(
            "the recipe does not say what its images are like: add --data FOLDER, or --data.size, --data.channels"
            + (" and --classes (0: none)" if find_kind(recipe.kind).knows_classes else "")
        )
    facts = read_data(recipe, Identity())[1]
    return facts if "store" in facts else facts | _seen(tuple(facts["image_shape"]), between)


def _seen(shape: tuple[int, int, int], between: LatentAutoencoder | None) -> dict[str, Any]:
    channels, height, width = shape if between is None else between.latent_shape(shape)
    return {"input_size": [height, width], "channels": channels, "image_shape": list(shape)}


def _autoencoder(recipe: AnyRecipe, name: str | None) -> LatentAutoencoder | None:
    """The network between pixels and what is diffused, of a name on the meta device; None: there is none."""
    known = build.known("autoencoder")
    if name in known:
        with torch.device("meta"):
            return known[name]()
    if name is not None:
        return _network(load_autoencoder(name))
    try:
        return _network(build.autoencoder(recipe, torch.device("cpu")))
    except UserError as error:
        raise UserError(f"{error}; --autoencoder {' or '.join(known)} counts with one of the published size") from None


def _network(autoencoder: Autoencoder) -> LatentAutoencoder | None:
    if isinstance(autoencoder, Whitened):
        return _network(autoencoder.inner)
    if isinstance(autoencoder, Deferred):
        return _network(autoencoder.read())
    return autoencoder if isinstance(autoencoder, LatentAutoencoder) else None


def sampling(subject: Subject) -> Work:
    """Drawing an image by the recipe's settings: all networks that take part in it, and the decoder."""
    recipe: Recipe = subject.recipe
    settings = recipe.sample
    weak = _guide(settings.guidance_weak and located(settings.guidance_weak))
    judge = _guide(settings.guidance_classifier and _classifier(settings.guidance_classifier))
    found = drawing(
        recipe.process,
        settings,
        subject.facts["classes"],
        weak and (weak.recipe.process, weak.facts["classes"]),
        judge and (judge.recipe.process, judge.facts["classes"]),
    )
    items = [Item("network", subject.network.multiply_adds, found.own)]
    if weak:
        items.append(Item("weak network", weak.network.multiply_adds, found.weak))
    if judge:  # forward, and the gradient of its input
        items.append(Item("classifier, forward and back", judge.network.multiply_adds, 2 * found.classifier))
    own = "; it chooses its steps itself, these are for normal data" if build.adaptive(settings.solver) else ""
    said = f"{settings.solver}, {settings.steps} steps: {found.evaluations:,} evaluations{own}"
    return Work("sampling", said, (*items, *decoding(subject)))


def _classifier(folder: str) -> tuple[Run[Any], Path]:
    run = open_run(folder, ClassifierRecipe)
    return run, checkpoint.latest(run.folder)


def _guide(place: tuple[Run[Any], Path] | str | None) -> Subject | None:
    """The network that guides, of its run and checkpoint."""
    if not isinstance(place, tuple):
        return None
    run, step = place
    facts = open_checkpoint(step).about
    return Subject(run.recipe, facts, of_network(run.recipe, facts))


def denoising(subject: Subject) -> Work:
    """Training a denoiser by the recipe's objective."""
    recipe: Recipe = subject.recipe
    passes, forward = teaching(recipe.process), subject.network.multiply_adds
    items = [Item("network, forward and back", forward, BACKWARD * passes.taught)]
    if passes.asked:
        items.append(Item("network, asked for targets", forward, passes.asked))
    return trained("training", f"objective {recipe.process.objective}", [*items, *encoding(subject)], recipe.train)
