"""Say what a run, checkpoint or latent store is, or what there is to choose from: ditkit info solvers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse, telling
from ditkit.base.errors import UserError
from ditkit.train.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Options:
    """Say what a run, a latent store, or a checkpoint file of this or a known foreign layout, is; or list the methods
    of a kind.
    """

    what: Annotated[Path, tyro.conf.Positional]
    """The folder of a run, of one of its checkpoints or of a latent store, or a .safetensors or .pt file of a known
    layout; or what there is to choose from, with options and defaults: paths, predictions, densities, solvers, ..."""
    recipe: bool = True
    """Print the whole recipe too."""
    heads: int | None = None
    """Attention heads of a foreign checkpoint; None: told from its size where that is a published one."""
    input_size: tuple[int, int] | None = None
    """Height and width of a foreign checkpoint's input; None: told from its positions where it has them."""


def main(args: Sequence[str]) -> int:
    """The command."""
    options = parse(Options, "info", args)
    from ditkit.app.listing import is_listed
    from ditkit.data.store import is_store

    what = options.what
    _check_used(options)
    if is_store(what):
        return _store(what)
    if (what / "manifest.json").is_file():
        return _run(what.resolve().parent.parent, what, options.recipe)
    if what.is_file():
        return _foreign(options)
    if (what / "recipe.yaml").is_file() or (what.is_dir() and not is_listed(str(what))):
        return _run(what, None, options.recipe)
    return _listing(str(what))


def _check_used(options: Options) -> None:
    """Raises UserError for how a foreign checkpoint is to be read, where there is none."""
    for name, value in (("heads", options.heads), ("input-size", options.input_size)):
        if value is not None and not options.what.is_file():
            said = " ".join(map(str, value)) if isinstance(value, tuple) else value
            raise UserError(
                f"--{name} {said} is of a foreign checkpoint, and {options.what} is no file: leave it out, or give one"
            )


def _store(folder: Path) -> int:
    from ditkit.data.latents import LatentStore

    store = LatentStore(folder)
    plan, statistics = store.plan, store.manifest.statistics
    (height, width), (channels, *sides) = plan.preprocessing.size, plan.shape
    made = plan.preprocessing
    crop = " ".join([made.crop, *(f"{name} {value:g}" for name, value in made.crop_options.items())])
    extras = [word for word, there in (("labels", plan.labels), ("captions", plan.captions)) if there]
    _print(
        {
            "store": folder,
            "images": f"{len(store):,} of {height}x{width}x{made.channels} (crop {crop}), and their mirror images",
            "latents": f"{'x'.join(map(str, [*sides, channels]))} in {plan.dtype}, {len(store.manifest.rows)} shards",
            "autoencoder": f"{plan.autoencoder.identity} ({plan.autoencoder.spec}, in {plan.autoencoder.precision})",
            "published": f"(z - {plan.autoencoder.shift:g}) * {plan.autoencoder.scale:g}",
            "measured mean": " ".join(f"{value:.4g}" for value in statistics.mean),
            "measured std": " ".join(f"{value:.4g}" for value in statistics.std),
            "with": ", ".join(extras) or "neither labels nor captions",
            "classes": _named(plan.classes),
            "left out": f"{len(store.manifest.skipped)} images that do not decode",
            "made from": f"{plan.source.spec} ({plan.source.images:,} images), by ditkit {store.manifest.ditkit}",
        }
    )
    return 0


def _named(classes: Sequence[str]) -> str:
    return f"{len(classes)} ({', '.join(classes[:10])}{', ...' if len(classes) > 10 else ''})" if classes else "none"


def _listing(word: str) -> int:
    from ditkit.app import listing

    if not listing.is_listed(word):
        expected = "a run's folder, a checkpoint's folder or a weights file"
        raise UserError(f"{word} does not exist: expected {expected}, or {listing.hint(word)}")
    print(listing.listing(word))
    return 0


def _run(folder: Path, step: Path | None, show_recipe: bool) -> int:
    from ditkit.app.kind import find_kind
    from ditkit.app.recipe_files import to_yaml
    from ditkit.app.run import kind_of_run, open_checkpoint, open_run
    from ditkit.train import checkpoint

    kind = find_kind(kind_of_run(folder))
    run = open_run(folder, kind.recipe)
    found = open_checkpoint(step or checkpoint.latest(folder))
    facts = found.about
    channels, height, width = facts["image_shape"]
    rows: dict[str, Any] = {
        "run": folder,
        "kind": kind.name,
        "checkpoint": found.folder.name,
        "step": f"{found.step:,}",
    }
    rows |= {"trained for": f"{facts['seconds'] / 60:.1f} min"}
    rows |= {"data": f"{facts['source']} ({facts['images']:,} images of {height}x{width}x{channels})"}
    rows |= {"diffused in": facts["autoencoder"]}
    rows |= {"classes": _named(facts["classes"])}
    _print(rows | _cost(kind.network(run.recipe, facts), *kind.example(run.recipe, facts)))
    if show_recipe:
        print("\nrecipe:\n" + "".join(f"  {line}\n" for line in to_yaml(run.recipe).splitlines()), end="")
    return 0


def _cost(net: Any, *inputs: Any) -> dict[str, Any]:
    from ditkit.nn.cost import cost

    with telling("ditkit info: counting"):  # the first count takes PyTorch a few seconds
        said = cost(net, *inputs)
    rows = {
        "parameters": f"{said.parameters:,}",
        "multiply-adds": f"{said.multiply_adds / 1e9:.4f} G per image and network call",
    }
    if hasattr(net, "grid"):
        rows["tokens"] = f"{net.grid[0] * net.grid[1]} ({net.grid[0]}x{net.grid[1]})"
    return rows


def _foreign(options: Options) -> int:
    import torch

    from ditkit.condition import Condition
    from ditkit.convert import load_dit, recognise
    from ditkit.convert.files import read_state

    known: dict[str, Any] = {"heads": options.heads, "input_size": options.input_size}
    state = read_state(options.what)
    layout = recognise(state)
    net = load_dit(state, **{k: v for k, v in known.items() if v is not None})
    label = torch.zeros(1, dtype=torch.int64) if net.num_classes else None
    one = (torch.zeros(1, net.in_channels, *net.input_size), torch.zeros(1), Condition(label=label))
    _print({"file": options.what, "layout": layout.name, "tensors": len(state)} | _cost(net, *one))
    return 0


def _print(rows: dict[str, Any]) -> None:
    width = max(map(len, rows))
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows.items()))
