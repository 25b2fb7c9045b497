"""Counts the cases of a run (also over several pytest-xdist processes) and writes each one's largest error."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from ditkit.base.files import write_json

PROPERTY = "conformance"
ERRORS = "conformance-errors.json"


class Tally:
    """Collects what the conformance tests recorded: verdicts by set of cases ("goldens", "own")."""

    def __init__(self) -> None:
        self.results: dict[str, dict[str, dict[str, Any]]] = {}
        self.absent = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Takes a test's record from its report, which is what travels between processes."""
        if report.when != "call":
            return
        for key, value in report.user_properties:
            if key == PROPERTY and "absent" in value:
                self.absent = value["absent"]
            elif key == PROPERTY:
                self.results.setdefault(value["set"], {})[value["case"]] = value["result"]

    def line(self, kind: str) -> str:
        """The counts of one set of cases."""
        count = Counter(result["verdict"] for result in self.results.get(kind, {}).values())
        line = f"{count['matched']} matched, {count['differ']} differ, {count['not covered']} not covered"
        wrong = count["reference differs"]
        return f"{line}, {wrong} reference differs" if wrong else line

    def wrong(self) -> list[str]:
        """The cases whose reference is wrong: the exact value that decides, and why."""
        return [
            f"reference differs: {case}, {result['reference']}"
            for results in self.results.values()
            for case, result in results.items()
            if result["verdict"] == "reference differs"
        ]


def pytest_configure(config: pytest.Config) -> None:
    """Keeps one tally per run."""
    config.pluginmanager.register(Tally(), "conformance-tally")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Prints the counts as the very last lines and writes the errors; only where results are gathered."""
    tally = config.pluginmanager.get_plugin("conformance-tally")
    if tally is None or hasattr(config, "workerinput") or not (tally.results or tally.absent):
        return
    write_json(config.rootpath / ERRORS, {kind: tally.results[kind] for kind in sorted(tally.results)})
    print(*tally.wrong(), sep="\n", end="\n" if tally.wrong() else "")
    if "own" in tally.results:
        print(f"cases remade from this project's own code: {tally.line('own')}")
    print(f"conformance: {tally.absent or tally.line('goldens')}")
