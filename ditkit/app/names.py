"""Floor 5: the names of the methods of a kind, read from the source without importing it, which would import torch.

--help says them. The same names as ``build.known`` finds in the modules themselves; a test compares the two.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

SOURCES = (
    "digits or shapes (embedded), a folder, .zip or .tar of images with one subfolder per class or no classes, "
    "WebDataset shards (a folder, or x-{000..003}.tar), a table of files (.jsonl, .csv, .parquet), an array (.npy, "
    ".npz), or a Hugging Face data set (hf:NAME, or its folder)"
)
"""What images can come from, for --help and messages."""

SIGNS: dict[str, tuple[str, str | tuple[str, ...]]] = {
    "path": ("process", "Path"),
    "prediction": ("process/prediction.py", "Prediction"),
    "density": ("process/density.py", "Density"),
    "objective": ("objectives", ("denoiser", "x0", "draws")),
    "solver": ("solvers", ("denoise", "x", "ts")),
    "grid": ("process/grids.py", ("path", "steps")),
    "crop": ("data/crops.py", "Crop"),
    "backbone": ("backbones", "presets"),
    "autoencoder": ("encoders", "LatentAutoencoder"),
    "conditioning": ("backbones/dit_blocks.py", "Block"),
}
"""Where the methods of a kind stand, and how they are told: by a base or a method of their class, or by a function's
arguments."""


_MADE_BY_NAME = {"Path", "Prediction", "Density"}
"""Bases of classes that need no arguments: a path of given betas or functions is for Python."""


def named(kind: str) -> Callable[[str], str]:
    """For tyro: an option's default and, behind it, the names that it may have; read when the help is printed."""

    def hint(default: str) -> str:
        return f"(default: {default}; one of: {', '.join(names(kind))})"

    return hint


@functools.cache
def names(kind: str) -> tuple[str, ...]:
    """The names of a kind (see SIGNS), as the command line takes them, in the order of the source."""
    place, sign = SIGNS[kind]
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in _files(Path(__file__).parents[1] / place)]
    found = _classes(trees, sign) if isinstance(sign, str) else _functions(trees, sign)
    return tuple(found)


def _files(place: Path) -> list[Path]:
    return sorted(place.glob("*.py")) if place.is_dir() else [place]


def _functions(trees: list[ast.Module], arguments: tuple[str, ...]) -> Iterator[str]:
    functions = (node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef))
    for node in functions:
        if not node.name.startswith("_") and tuple(argument.arg for argument in node.args.args) == arguments:
            yield node.name


def _classes(trees: list[ast.Module], sign: str) -> Iterator[str]:
    known = {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in (node for tree in trees for node in tree.body):
        if (
            isinstance(node, ast.ClassDef)
            and _is_a(node, sign, known)
            and not (sign in _MADE_BY_NAME and _needs_more(node))
        ):
            yield from _name(node)


def _is_a(node: ast.ClassDef, sign: str, known: dict[str, ast.ClassDef]) -> bool:
    bases = [b.id if isinstance(b, ast.Name) else b.attr for b in node.bases if isinstance(b, ast.Name | ast.Attribute)]
    methods = [f.name for f in node.body if isinstance(f, ast.FunctionDef)]
    return sign in [*bases, *methods] or any(
        _is_a(known[b], sign, known) for b in bases if b in known and known[b] is not node
    )


def _needs_more(node: ast.ClassDef) -> bool:
    """Whether a class cannot be made without arguments."""
    made = [f.args for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
    return any(len(args.args) - 1 > len(args.defaults) or None in args.kw_defaults for args in made)


def _name(node: ast.ClassDef) -> Iterator[str]:
    for line in (line for line in node.body if isinstance(line, ast.Assign)):
        if [t.id for t in line.targets if isinstance(t, ast.Name)] == ["name"]:
            yield str(ast.literal_eval(line.value))
