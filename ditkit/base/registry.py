"""Methods are found by the module that they stand in: a new file is a new method, with no list to extend."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from ditkit.base.errors import UserError, unknown


def members(place: str, accept: Callable[[Any], bool]) -> dict[str, Any]:
    """Public objects, by name, that are defined in the module or package ``place`` and accepted.

    An object's name is its ``name`` attribute if that is a string (a path called "ddpm_linear"), else its Python name.
    """
    root = importlib.import_module(place)
    modules = [root]
    for info in pkgutil.iter_modules(getattr(root, "__path__", [])):
        modules.append(importlib.import_module(f"{place}.{info.name}"))
    found: dict[str, Any] = {}
    for module in modules:
        for attribute, value in vars(module).items():
            if attribute.startswith("_") or getattr(value, "__module__", None) != module.__name__ or not accept(value):
                continue
            name = getattr(value, "name", None)
            found[name if isinstance(name, str) else attribute] = value
    return found


def find(kind: str, place: str, accept: Callable[[Any], bool], name: str) -> Any:
    """The object called ``name`` (see ``members``); UserError that names the nearest one when there is none."""
    found = members(place, accept)
    if name not in found:
        raise unknown(kind, name, found)
    return found[name]


def options(method: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters with a default that a user may set: a function's keyword-only ones, and all those of a class.

    Not noise, which is a solver's caller's to give.
    """
    given = inspect.signature(method).parameters.values()
    kinds = (inspect.Parameter.KEYWORD_ONLY, *[inspect.Parameter.POSITIONAL_OR_KEYWORD] * isinstance(method, type))
    return {p.name: p for p in given if p.kind in kinds and p.default is not p.empty and p.name != "noise"}


def required(method: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a method that have no default."""
    return [p for p in inspect.signature(method).parameters.values() if p.default is p.empty]


def check_options(kind: str, name: str, method: Callable[..., Any], given: dict[str, Any]) -> None:
    """Raises UserError when ``given`` has an option that the method does not take."""
    for option in given:
        if option not in options(method):
            error = unknown(f"option of {kind} {name}", option, options(method))
            raise UserError(str(error) if options(method) else f"{kind} {name} takes no options; got {option!r}")
