"""README and docs: their Python runs, their commands and options are those of the command line."""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.running import ditkit, made

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*\w")
OTHERS = {"--extra-index-url", "--nproc-per-node", "--train.stpes"}
"""Options of other programs, and one that the README mistypes on purpose."""


def blocks(page: Path, *kinds: str) -> list[str]:
    """The page's code blocks of these kinds."""
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [text for kind, text in found if kind in kinds]


def commands() -> list[str]:
    """Every call of ditkit that a page shows, its page first."""
    found = []
    for page in PAGES:
        for block in blocks(page, "", "sh", "bash"):
            lines = block.replace("\\\n", " ").splitlines()
            calls = [c for line in lines for c in re.findall(r"(?:^|\$ |&& )(?:\.venv/bin/)?ditkit ([^&#|]*)", line)]
            found += [f"{page.name}: {' '.join(call.split())}" for call in calls]
    return found


@functools.cache
def help_of(command: tuple[str, ...]) -> str:
    return made(ditkit(*command, "--help")).out


def known(command: tuple[str, ...]) -> set[str]:
    """The options that a command's help names."""
    return set(OPTION.findall(help_of(command)))


def of_call(call: str) -> tuple[str, ...]:
    """The command of a call: with the study's or the check's name, where it has one."""
    words = call.split()
    return tuple(words[: 2 if words[0] in {"study", "data"} else 1])


def test_the_pages_show_commands() -> None:
    assert len(commands()) > 40


@pytest.mark.parametrize("shown", sorted(set(commands())))
def test_a_command_that_a_page_shows_has_these_options(shown: str) -> None:
    call = shown.partition(": ")[2]
    assert set(OPTION.findall(call)) - OTHERS <= known(of_call(call))


def test_options_that_the_text_names_are_those_of_some_command() -> None:
    names = re.findall(r"^  ([a-z][\w-]+)  ", made(ditkit("--help")).out, re.MULTILINE)
    every = {
        *(of_call(call.partition(": ")[2]) for call in commands()),
        *((name,) for name in names if name != "study"),
    }
    benchmarks = [OPTION.findall(path.read_text(encoding="utf-8")) for path in (ROOT / "benchmarks").glob("*.py")]
    options = OTHERS.union(*map(known, every), *benchmarks)
    for page in PAGES:
        assert set(OPTION.findall(page.read_text(encoding="utf-8"))) <= options, page.name


def test_the_python_page_is_a_program(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(run, tmp_path / "runs" / "demo")
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {"__name__": "page"}
    exec(compile("\n".join(blocks(ROOT / "docs" / "python.md", "python")), "python.md", "exec"), found)
    images, plain, ours = found["images"], found["plain"], found["ours"]
    assert isinstance(images, torch.Tensor)
    assert images.shape == (20, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert isinstance(plain, torch.Tensor)
    assert torch.equal(plain.sign(), torch.tensor([[-1.0, -1], [1, 1]]).repeat(4, 1))
    assert found["scores"]["class_accuracy"]["value"] == 1  # pyright: ignore
    assert ours.count == 10_000  # pyright: ignore
