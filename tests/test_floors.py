"""The rules of who may import whom: a file imports only from lower floors, inside its own room only without circles."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "ditkit"

# Rooms (folders, or files beside them) from the ground up; those of one floor do not import one another.
FLOORS: list[set[str]] = [
    {"base"},
    {"condition"},
    {"process"},
    {"nn", "solvers", "guidance"},
    {"backbones", "encoders", "sample"},
    {"objectives", "data", "convert", "parallel"},
    {"train", "evaluate"},
    {"app"},
]
# What would be allowed by the floors alone, and is not.
FORBIDDEN = {
    "backbones": {"process"},
    "solvers": {"nn", "backbones", "encoders"},
    "objectives": {"nn", "backbones", "encoders"},
}
# What a core installation has; all else is an extra and loads inside the function that needs it.
CORE = {"torch", "numpy", "PIL", "safetensors", "tyro", "pydantic", "yaml", "tqdm", PACKAGE}


def floor_of(room: str) -> int:
    """The floor of a room; KeyError when the plan has no such room."""
    for number, rooms in enumerate(FLOORS):
        if room in rooms:
            return number
    raise KeyError(room)


def module_of(file: Path, root: Path) -> str:
    """The dotted module name of a file."""
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str | None:
    """The room of a module of the package; None for the package itself and for other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def imports(node: ast.AST, package: str, modules: set[str], whole: bool) -> Iterator[str]:
    """The modules imported under a node: all, or only those that load with it (not inside functions or for types)."""
    for child in ast.iter_child_nodes(node):
        if not whole and isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if not whole and isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
            base = ".".join([*parents, *([child.module] if child.module else [])])
            for alias in child.names:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in modules else base
        else:
            yield from imports(child, package, modules, whole)


def breaches(root: Path) -> list[str]:
    """Every breach of the rules in the package under ``root``, one line each."""
    files = {module_of(file, root): file for file in sorted((root / PACKAGE).rglob("*.py"))}
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    for module, file in files.items():
        room = room_of(module)
        if room is not None and not any(room in rooms for rooms in FLOORS):
            found.append(f"{module}: room {room!r} stands on no floor; give it one in {Path(__file__).name}")
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        package = module if file.name == "__init__.py" else module.rpartition(".")[0]
        everything = set(imports(tree, package, set(files), whole=True))
        graph[module] = {name for name in everything if room_of(name) == room and name in files} - {module}
        found += [f"{module}: {why}" for name in sorted(everything) for why in wrong(room, name)]
        extras = {name.split(".")[0] for name in imports(tree, package, set(files), whole=False)} - CORE
        found += [
            f"{module}: loads {extra} with the module; import it inside the function that needs it"
            for extra in sorted(extras)
            if not is_standard(extra)
        ]
    return found + circles(graph)


def wrong(room: str | None, name: str) -> list[str]:
    """Why a file of ``room`` may not import the module ``name``; nothing when it may."""
    other = room_of(name)
    if other is None or other == room:
        return []
    if room is None:
        return [f"the package itself imports {name}; importing it must load nothing"]
    try:
        higher = floor_of(other) >= floor_of(room)
    except KeyError:
        return [f"imports {name}, whose room stands on no floor"]
    if other in FORBIDDEN.get(room, ()):
        return [f"imports {name}: {room} never imports {other}"]
    if higher:
        return [f"imports {name}, which is not on a lower floor"]
    return []


def is_standard(name: str) -> bool:
    """Whether a top-level module belongs to Python itself."""
    return name in sys.stdlib_module_names


def circles(graph: dict[str, set[str]]) -> list[str]:
    """A line for a circle of imports, if there is one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return [f"a circle of imports: {' -> '.join(error.args[1])}"]
    return []


def test_the_package_keeps_the_rules() -> None:
    assert breaches(ROOT) == []


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A made-up package that keeps the rules."""
    for room in ("base", "process", "nn", "backbones", "solvers", "objectives", "train"):
        folder = tmp_path / PACKAGE / room
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("")
    (tmp_path / PACKAGE / "__init__.py").write_text("")
    write(tmp_path, "nn/layers.py", "import torch\nfrom ditkit.base import errors")
    write(tmp_path, "base/errors.py", "import math")
    assert breaches(tmp_path) == []
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    file = root / PACKAGE / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(text + "\n")


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("nn/a.py", "from ditkit.backbones import dit", "not on a lower floor"),
        ("nn/a.py", "import ditkit.solvers.ode", "not on a lower floor"),
        ("nn/a.py", "def f():\n    import ditkit.train.loop", "not on a lower floor"),
        ("nn/a.py", "from ..train import loop", "not on a lower floor"),
        ("backbones/a.py", "from ditkit.process.path import Path", "backbones never imports process"),
        ("objectives/a.py", "from ditkit.nn.layers import MLP", "objectives never imports nn"),
        ("solvers/a.py", "from ditkit.backbones.dit import DiT", "solvers never imports backbones"),
        ("train/a.py", "import matplotlib.pyplot as plt", "loads matplotlib"),
        ("train/a.py", "try:\n    from sklearn import svm\nexcept ImportError:\n    svm = None", "loads sklearn"),
        ("attic/a.py", "import math", "stands on no floor"),
        ("nn/a.py", "from ditkit.attic import a", "stands on no floor"),
        ("nn/a.py", "from ditkit.nn import b, layers", ""),
        ("process/a.py", "from ditkit.condition import Condition", ""),
        ("__init__.py", "from ditkit.base import errors", "the package itself"),
    ],
)
def test_a_breach_is_found(house: Path, name: str, text: str, why: str) -> None:
    write(house, name, text)
    found = breaches(house)
    assert (why in found[0] and len(found) == 1) if why else found == []


def test_a_circle_is_found(house: Path) -> None:
    write(house, "nn/a.py", "from ditkit.nn.b import x")
    write(house, "nn/b.py", "def f():\n    from ditkit.nn import a")
    assert "circle" in breaches(house)[0]


def test_an_extra_inside_a_function_or_for_types_is_allowed(house: Path) -> None:
    write(house, "train/a.py", "def plot():\n    import matplotlib.pyplot")
    write(house, "train/b.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sklearn")
    assert breaches(house) == []


def test_nothing_large_is_kept_in_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert not [str(path) for path in paths if path.is_file() and path.stat().st_size > 2**20]
