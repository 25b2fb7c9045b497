"""Say what a run or checkpoint is (size, recipe, step), or what there is to choose from: ditkit info solvers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.base.errors import UserError
from ditkit.train.settings import STRICT


@dataclass(frozen=True, config=STRICT)
class Options:
    """Say what a run, or a checkpoint file of this or a known foreign layout, is; or list the methods of a kind."""

    what: Annotated[Path, tyro.conf.Positional]
    """A run's folder, one of its checkpoints, or a .safetensors or .pt file of a known layout; or what there is to
    choose from, with options and defaults: paths, predictions, densities, objectives, solvers, grids, ..."""
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

    what = options.what
    if (what / "manifest.json").is_file():
        return _run(what.resolve().parent.parent, what, options.recipe)
    if what.is_file():
        return _foreign(options)
    if (what / "recipe.yaml").is_file() or (what.is_dir() and not is_listed(str(what))):
        return _run(what, None, options.recipe)
    return _listing(str(what))


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
    names = facts["classes"]
    rows: dict[str, Any] = {
        "run": folder,
        "kind": kind.name,
        "checkpoint": found.folder.name,
        "step": f"{found.step:,}",
    }
    rows |= {"trained for": f"{facts['seconds'] / 60:.1f} min"}
    rows |= {"data": f"{facts['source']} ({facts['images']:,} images of {height}x{width}x{channels})"}
    rows |= {"diffused in": facts["autoencoder"]}
    rows |= {
        "classes": f"{len(names)} ({', '.join(names[:10])}{', ...' if len(names) > 10 else ''})" if names else "none"
    }
    _print(rows | _cost(kind.network(run.recipe, facts), *kind.example(run.recipe, facts)))
    if show_recipe:
        print("\nrecipe:\n" + "".join(f"  {line}\n" for line in to_yaml(run.recipe).splitlines()), end="")
    return 0


def _cost(net: Any, *inputs: Any) -> dict[str, Any]:
    from ditkit.nn.cost import cost

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
