"""Floor 5: recipes in files: as Python or YAML, by name or path; written in full, read back strictly. No torch."""

from __future__ import annotations

import ast
import dataclasses
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from ditkit.app.recipe import AnyRecipe, AutoencoderRecipe, ClassifierRecipe, Recipe
from ditkit.base.errors import UserError, nearest
from ditkit.base.registry import members

R = TypeVar("R", bound=AnyRecipe)


def to_yaml(recipe: AnyRecipe) -> str:
    """The recipe as YAML, every leaf written out."""
    leaves = TypeAdapter(type(recipe)).dump_python(recipe, mode="json")
    return yaml.safe_dump({"kind": recipe.kind, **leaves}, sort_keys=False)


def kind_of(text: str, origin: object) -> str:
    """The kind of run that a recipe in YAML describes. UserError where it is not YAML."""
    read = _read(text, origin)
    return str(read.get("kind", Recipe.kind)) if isinstance(read, dict) else Recipe.kind


def from_yaml(text: str, origin: object, recipe: type[R] = Recipe) -> R:
    """Reads what to_yaml wrote. UserError on an unknown key (naming the nearest), a wrong type or value, and where it
    describes a run of another kind than ``recipe``.
    """
    kind, leaves = kind_of(text, origin), _read(text, origin)
    if kind != recipe.kind:
        raise UserError(f"{origin} describes {_one(kind)}: expected {_one(recipe.kind)}; name a run of that kind")
    if isinstance(leaves, dict):
        leaves = {key: value for key, value in leaves.items() if key != "kind"}
    try:
        return TypeAdapter(recipe).validate_python(leaves)
    except ValidationError as error:
        raise UserError(f"{origin}: {explain(error)}") from None


def _read(text: str, origin: object) -> Any:
    try:
        return yaml.safe_load(text) or {}
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{origin} is not YAML: {' '.join(str(error).split())}") from None


def _one(kind: str) -> str:
    """The kind with its article, as sentences have it."""
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"


def adopt(recipe: AnyRecipe, wanted: type[R]) -> R:
    """A recipe of another kind with all that this one says of it: the sections and leaves of the same names."""
    return _narrowed(recipe, wanted)


def _narrowed(value: Any, kind: Any) -> Any:
    theirs = {field.name for field in dataclasses.fields(value)}
    given = {}
    for field in dataclasses.fields(kind):
        if field.name in theirs:
            leaf, part = getattr(value, field.name), field.default_factory
            given[field.name] = _narrowed(leaf, part) if dataclasses.is_dataclass(part) else leaf
    return kind(**given)


def explain(error: ValidationError) -> str:
    """A validation error in one line: the key, the value, what was expected, the nearest key."""
    first = error.errors()[0]
    place = " ".join(".".join(str(part) for part in first["loc"]).split()) or "recipe"
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        close = nearest(str(first["loc"][-1]), _keys(Recipe))
        return f"unknown key {place}" + (f"; did you mean {close!r}?" if close else "")
    return f"{place} is {first['input']!r}: {first['msg'].replace('Input should be', 'expected')}"


def read_text(path: Path) -> str:
    """A text file's content. UserError where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file: expected YAML in UTF-8; copy it anew") from None


def _keys(kind: Any) -> list[str]:
    names = []
    for field in dataclasses.fields(kind):
        names.append(field.name)
        factory = field.default_factory
        if dataclasses.is_dataclass(factory):
            names += _keys(factory)
    return names


def load_recipe(name: str, wanted: type[R] = Recipe) -> R:
    """The recipe of a file (a .py that sets ``recipe``, or a .yaml), or a ready one by its name (digits, mnist ...).

    A denoiser's recipe where another kind is wanted gives what it says of that kind.
    """
    path = _located(name, wanted)
    if path.suffix in (".yaml", ".yml"):
        text = read_text(path)
        if kind_of(text, path) == Recipe.kind != wanted.kind:
            return adopt(from_yaml(text, path), wanted)
        return from_yaml(text, path, wanted)
    recipe = _run(path)
    if isinstance(recipe, wanted):
        return recipe
    if isinstance(recipe, ClassifierRecipe | AutoencoderRecipe):
        raise UserError(
            f"recipe {path} describes {_one(recipe.kind)}: expected {_one(wanted.kind)}; name a recipe of that kind"
        )
    if not isinstance(recipe, Recipe):
        raise UserError(f"recipe {path} sets no `recipe`: expected `recipe = {wanted.__name__}(...)` in it")
    return adopt(recipe, wanted)


def load_any_recipe(name: str) -> AnyRecipe:
    """The recipe of a name or file (see ``load_recipe``), of whatever kind it is."""
    path = _located(name)
    if path.suffix in (".yaml", ".yml"):
        kind = kind_of(read_text(path), path)
        return load_recipe(name, next((k for k in _kinds() if k.kind == kind), Recipe))
    recipe = _run(path)
    return load_recipe(name, next((k for k in _kinds() if isinstance(recipe, k)), Recipe))


def _kinds() -> list[type[Any]]:
    found = members("ditkit.app.recipe", lambda v: isinstance(v, type) and isinstance(getattr(v, "kind", None), str))
    return [*found.values()]


def _located(name: str, wanted: type[Any] | None = None) -> Path:
    """The file of a recipe; wanted: of the recipes that are named where there is none."""
    path = Path(name)
    if not path.suffix:
        known = ready_recipes()
        if name not in known:
            fitting = _fitting(wanted)
            close = nearest(name, fitting)
            hint = f"; did you mean {close!r}?" if close else ""
            raise UserError(f"unknown recipe {name!r}: expected a file or one of {', '.join(sorted(fitting))}{hint}")
        path = known[name]
    if not path.is_file():
        raise UserError(f"recipe {name} does not exist: expected a .py or .yaml file, or a ready recipe's name")
    return path


def _run(path: Path) -> object:
    """What a Python file sets as ``recipe``; None: nothing."""
    try:
        return runpy.run_path(str(path)).get("recipe")
    except ValidationError as error:
        raise UserError(f"recipe {path}: {explain(error)}") from None
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"recipe {path} cannot be run ({type(error).__name__}: {reason}): mend the file") from None


def ready_recipes(wanted: type[Any] | None = None) -> dict[str, Path]:
    """The recipes that come with ditkit, by name. wanted: only those of this class, told without running them."""
    package = Path(__file__).parent.parent
    for folder in (package / "recipes", package.parent / "recipes"):
        if folder.is_dir():
            found = {path.stem: path for path in sorted(folder.glob("*.py"))}
            return {name: path for name, path in found.items() if wanted is None or _builds(path, wanted.__name__)}
    return {}


def ready(wanted: type[Any]) -> Callable[[str], str]:
    """For tyro: the names of the ready recipes of a class; read when the help is printed."""

    def hint(default: str) -> str:
        return f"(default: {default}; ready ones: {', '.join(_fitting(wanted))})"

    return hint


def _fitting(wanted: type[Any] | None) -> dict[str, Path]:
    """The ready recipes of a class; where there are none, those of denoisers (see ``load_recipe``)."""
    return ready_recipes(wanted) or ready_recipes(Recipe)


def _builds(path: Path, kind: str) -> bool:
    """Whether a Python file sets ``recipe`` to one of the class of this name."""
    lines = ast.parse(path.read_text(encoding="utf-8")).body
    calls = [
        line.value.func
        for line in lines
        if isinstance(line, ast.Assign)
        and [t.id for t in line.targets if isinstance(t, ast.Name)] == ["recipe"]
        and isinstance(line.value, ast.Call)
    ]
    return any(isinstance(call, ast.Name) and call.id == kind for call in calls)
