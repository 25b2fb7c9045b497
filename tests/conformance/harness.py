"""Golden cases, the comparison rule and the adapters that compute a case with this project's code.

A folder of cases holds ``index.json`` and one file per case (its README.md explains the format). Everything that a test
needs to know about a case, its sizes and tolerances too, comes from that index.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import functools
import importlib
import json
import math
import os
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
OWN = ROOT / "tests" / "data"
FLOAT64_RTOL = 1e-9

Adapter = Callable[["Case"], dict[str, Tensor]]
_ADAPTERS: dict[str, Adapter] = {}
_CORRECTIONS: dict[str, tuple[str, Adapter]] = {}


def goldens_folder() -> Path:
    """The folder of recorded cases: the variable DITKIT_GOLDENS, else ``../shared/goldens`` beside the repository."""
    return Path(os.environ.get("DITKIT_GOLDENS") or ROOT.parent / "shared" / "goldens")


@dataclass(frozen=True)
class Spec:
    """What the index says of one output: its shape and how near a result must come."""

    shape: tuple[int, ...]
    exact: bool = False
    rtol: float = 0.0
    atol: float = 0.0
    atol_elem: list[float] | None = None
    float64_atol: float | None = None

    @staticmethod
    def of(entry: dict[str, Any]) -> Spec:
        """The spec of one entry of ``outputs`` in the index."""
        known = ("exact", "rtol", "atol", "atol_elem", "float64_atol")
        return Spec(shape=tuple(entry["shape"]), **{key: entry[key] for key in known if key in entry})

    def tolerance(self, actual: Tensor, expected: Tensor) -> Tensor:
        """The largest allowed |actual - expected|, elementwise, float64."""
        size = expected.abs().nan_to_num(posinf=0.0, neginf=0.0)
        if self.exact:
            return torch.zeros_like(size)
        if self.float64_atol is not None and actual.dtype == torch.float64:
            return self.float64_atol + FLOAT64_RTOL * size
        atol = self.atol if self.atol_elem is None else torch.tensor(self.atol_elem, dtype=torch.float64).view_as(size)
        return atol + self.rtol * size


@dataclass(frozen=True)
class Difference:
    """How far one output is from what decides, reference or exact value: the largest error, and that / tolerance.

    reference: where the exact value decides and the reference is beyond the tolerance: by how much, and why.
    """

    output: str
    error: float
    fraction: float
    message: str = ""
    reference: str = ""

    @property
    def matched(self) -> bool:
        """Every element is within its tolerance."""
        return self.fraction <= 1.0


def compare(name: str, actual: Any, expected: Tensor, spec: Spec) -> Difference:
    """Compares one output by the rule of the index; a missing output or another shape is an infinite error."""
    if not isinstance(actual, Tensor):
        return Difference(name, math.inf, math.inf, "the adapter did not give this output")
    if tuple(actual.shape) != spec.shape:
        return Difference(name, math.inf, math.inf, f"shape {tuple(actual.shape)}, expected {spec.shape}")
    if expected.numel() == 0:
        return Difference(name, 0.0, 0.0)
    wide, reference = actual.detach().to("cpu", torch.float64), expected.to(torch.float64)
    same = (wide == reference) | (wide.isnan() & reference.isnan())
    error = torch.where(same, 0.0, (wide - reference).abs()).nan_to_num(nan=math.inf, posinf=math.inf)
    # An error of 0 is 0 of any tolerance, also of the tolerance 0 of an exact output.
    fraction = torch.where(error == 0, 0.0, error / spec.tolerance(actual, reference))
    return Difference(name, error.max().item(), fraction.max().item())


@dataclass(frozen=True)
class Case:
    """One recorded case, its tensors read when asked for; names are without ``in.``, ``weights.``, ``out.``."""

    name: str
    folder: Path
    entry: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """Constructor arguments and settings of the reference."""
        return self.entry["config"]

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Everything in the case's safetensors file, under the file's names."""
        return load_file(self.folder / self.entry["file"])

    def _part(self, prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in self.tensors.items() if name.startswith(prefix)}

    @property
    def inputs(self) -> dict[str, Tensor]:
        """The inputs."""
        return self._part("in.")

    @property
    def weights(self) -> dict[str, Tensor]:
        """The reference's state dict, under its key names; that of ``config.weights_from`` when it names a case."""
        owner = self.config.get("weights_from")
        if owner is None:
            return self._part("weights.")
        file = next(entry["file"] for entry in _index(self.folder)["cases"] if entry["case"] == owner)
        return Case(owner, self.folder, {"file": file, "config": {}}).weights

    @functools.cached_property
    def records(self) -> list[dict[str, Any]]:
        """The records of a case without tensors: scalars are a record's settings, nested tables its answers."""
        return json.loads((self.folder / self.entry["file"]).read_text(encoding="utf-8"))

    @property
    def settings(self) -> list[dict[str, Any]]:
        """The settings of each record of a case without tensors."""
        return [{key: value for key, value in r.items() if not isinstance(value, dict)} for r in self.records]

    def expected(self) -> dict[str, tuple[Tensor, Spec]]:
        """The reference's outputs with their specs; answers of records are exact, named ``record.table.key...``."""
        if self.entry["file"].endswith(".json"):
            tables = [{key: value for key, value in r.items() if isinstance(value, dict)} for r in self.records]
            numbers = {name: torch.tensor(value) for name, value in flatten(dict(enumerate(tables))).items()}
            return {name: (value, Spec(shape=(), exact=True)) for name, value in numbers.items()}
        specs = {name: Spec.of(entry) for name, entry in self.entry["outputs"].items()}
        return {name.removeprefix("out."): (self.tensors[name], spec) for name, spec in specs.items()}

    def run(self, adapter: Adapter) -> list[Difference]:
        """Computes the case with ``adapter`` and compares every output of the index, the worst first."""
        actual, differences = adapter(self), []
        exact, why = exact_values(self)
        for name, (reference, spec) in self.expected().items():
            difference = compare(name, actual.get(name), exact.get(name, reference), spec)
            if name in exact:
                wrong = told_apart(reference, exact[name], spec)
                difference = dataclasses.replace(difference, reference=f"{wrong} ({why})" if wrong else "")
            differences.append(difference)
        return sorted(differences, key=lambda difference: -difference.fraction)


def told_apart(reference: Tensor, exact: Tensor, spec: Spec) -> str:
    """The worst element of a reference that is farther from the exact value than its tolerance; empty for none."""
    if compare("", reference, exact, spec).matched:
        return ""
    i = int(((reference.double() - exact).abs() / spec.tolerance(reference, exact.double())).argmax())
    return f"exact {exact.flatten()[i]:.9g}, reference {reference.flatten()[i]:.9g}"


def flatten(table: dict[Any, Any], prefix: str = "") -> dict[str, float | int]:
    """The numbers of nested tables, named by their keys joined with dots."""
    flat: dict[str, float | int] = {}
    for key, value in table.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


@functools.cache
def _index(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "index.json").read_text(encoding="utf-8"))


def cases(folder: Path) -> list[Case]:
    """Every case of the folder's index, in its order; none when there is no index."""
    if not (folder / "index.json").is_file():
        return []
    return [Case(entry["case"], folder, entry) for entry in _index(folder)["cases"]]


def covers(*patterns: str) -> Callable[[Adapter], Adapter]:
    """Marks a function as the adapter of the cases whose names match a pattern (as in a shell: ``dit_forward_*``)."""

    def mark(adapter: Adapter) -> Adapter:
        _ADAPTERS.update(dict.fromkeys(patterns, adapter))
        return adapter

    return mark


def corrects(*patterns: str, why: str) -> Callable[[Adapter], Adapter]:
    """Marks a function that gives exact values of outputs of which a case's reference is known to be wrong, and why.

    The exact values decide in the reference's place, at its tolerance; the case is reported where the two differ.
    """

    def mark(exact: Adapter) -> Adapter:
        _CORRECTIONS.update(dict.fromkeys(patterns, (why, exact)))
        return exact

    return mark


def exact_values(case: Case) -> tuple[dict[str, Tensor], str]:
    """The exact values that decide in the place of a case's reference, by output, and why they do; mostly none."""
    _load_adapters()
    for pattern, (why, exact) in _CORRECTIONS.items():
        if fnmatch.fnmatchcase(case.name, pattern):
            return exact(case), why
    return {}, ""


def _load_adapters() -> None:
    package = importlib.import_module("tests.conformance.adapters")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def adapter_of(name: str) -> Adapter | None:
    """The adapter that covers a case, or None. The longest matching pattern wins."""
    _load_adapters()
    matching = [pattern for pattern in _ADAPTERS if fnmatch.fnmatchcase(name, pattern)]
    return _ADAPTERS[max(matching, key=len)] if matching else None
