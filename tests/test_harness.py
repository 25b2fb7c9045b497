"""The conformance harness itself: what counts as a match, and how a run is counted."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.conformance import harness
from tests.conformance.harness import ROOT, Case, Spec, adapter_of, cases, compare, exact_values
from tests.conformance.tally import Tally

NAN = math.nan


@pytest.mark.parametrize(
    ("actual", "expected", "spec", "matched"),
    [
        (torch.tensor([1.0, 2.02]), [1.0, 2.0], Spec((2,), rtol=0.01), True),
        (torch.tensor([1.0, 2.03]), [1.0, 2.0], Spec((2,), rtol=0.01), False),
        (torch.tensor([0.1, 0.0]), [0.0, 0.0], Spec((2,), atol=0.2), True),
        (torch.tensor([0.1, 0.0]), [0.0, 0.0], Spec((2,), atol=0.2, atol_elem=[0.0, 1.0]), False),
        (torch.tensor([0.1, 0.0]), [0.0, 0.0], Spec((2,), atol=0.0, atol_elem=[0.2, 0.0]), True),
        (torch.tensor([3, 4]), [3, 4], Spec((2,), exact=True), True),
        (torch.tensor([3, 5]), [3, 4], Spec((2,), exact=True), False),
        (torch.tensor([True, False]), [True, False], Spec((2,), exact=True), True),
        (torch.tensor([1.0 + 1e-7]).double(), [1.0], Spec((1,), atol=1e-3, float64_atol=1e-9), False),
        (torch.tensor([1.0 + 1e-7]).float(), [1.0], Spec((1,), atol=1e-3, float64_atol=1e-9), True),
        (torch.tensor([[1.0]]), [1.0], Spec((1,), atol=1.0), False),
        (torch.tensor([NAN]), [1.0], Spec((1,), atol=1.0), False),
        (torch.tensor([NAN, math.inf]), [NAN, math.inf], Spec((2,), atol=1.0), True),
        (torch.tensor([1.0]), [math.inf], Spec((1,), rtol=1.0), False),
        (torch.zeros(0), [], Spec((0,)), True),
        (None, [1.0], Spec((1,), atol=1.0), False),
        (1.0, [1.0], Spec((1,), atol=1.0), False),
    ],
)
def test_the_rule_of_comparison(actual: Tensor | None, expected: list[float], spec: Spec, matched: bool) -> None:
    assert compare("y", actual, torch.tensor(expected), spec).matched is matched


def golden_folder(folder: Path, grids: list[list[int]], wrong: float = 0.0) -> Path:
    """A folder of two cases: one that is covered, and one that is not."""
    name = "dit_pos_embed"
    case = Case(name, folder, {"config": {"grids": grids}})
    adapter = adapter_of(name)
    assert adapter is not None
    answers = {f"out.{key}": value + wrong for key, value in adapter(case).items()}
    save_file(answers, folder / f"{name}.safetensors")
    near = {"dtype": "float64", "rtol": 1e-5, "atol": 1e-6, "float64_atol": 1e-11}
    outputs = {key: near | {"shape": list(value.shape)} for key, value in answers.items()}
    entry = {"case": name, "file": f"{name}.safetensors", "config": {"grids": grids}, "outputs": outputs}
    other = entry | {"case": "of_another_kind", "outputs": {}}
    (folder / "index.json").write_text(json.dumps({"cases": [entry, other]}))
    return folder


def test_a_case_takes_its_numbers_from_the_index(tmp_path: Path) -> None:
    case = cases(golden_folder(tmp_path, [[12, 3], [8, 2]]))[0]
    adapter = adapter_of(case.name)
    assert adapter is not None
    assert [difference.matched for difference in case.run(adapter)] == [True, True]
    missing = case.run(lambda case: dict(list(adapter(case).items())[:1]))
    assert [difference.matched for difference in missing] == [False, True]
    assert adapter_of("of_another_kind") is None


def test_a_case_of_features_may_be_recorded_at_any_neighbourhoods(tmp_path: Path) -> None:
    draws = torch.Generator().manual_seed(0)
    rows = torch.arange(8).view(2, 4)
    inputs = {f"in.features_{i}": torch.randn(12, 3, generator=draws) for i in (1, 2)}
    save_file(inputs | {"in.kid_idx1": rows, "in.kid_idx2": rows.clone()}, tmp_path / "features.safetensors")
    adapter = adapter_of("metrics_features")
    assert adapter is not None
    at_3, at_5 = (
        adapter(Case("metrics_features", tmp_path, {"file": "features.safetensors", "config": {"neighborhoods": ks}}))
        for ks in ([3], [5, 2])
    )
    assert torch.equal(at_5["adm_pr.f64"], at_3["adm_pr.f64"])
    assert {"prc.k5", "prc.k2"} < set(at_5)


def test_where_a_reference_is_known_to_be_wrong_the_exact_value_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapter_of("dit_pos_embed")
    assert adapter is not None
    right, wrong = (cases(golden_folder(make(tmp_path / str(w)), [[8, 2]], wrong=w))[0] for w in (0.0, 1e-3))
    monkeypatch.setitem(harness._CORRECTIONS, "dit_pos_*", ("made so", adapter))
    [difference] = wrong.run(adapter)
    assert difference.matched
    assert "exact 0, reference 0.001 (made so)" in difference.reference
    [difference] = wrong.run(lambda case: {"pos_8_2": wrong.tensors["out.pos_8_2"]})  # as wrong as the reference
    assert not difference.matched
    [difference] = right.run(adapter)  # another folder, whose reference is right: an ordinary match
    assert difference.matched
    assert not difference.reference


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_cases_with_a_wrong_reference_are_counted_and_told() -> None:
    tally = Tally()
    verdicts = {"a": "matched", "b": "reference differs", "c": "not covered"}
    tally.results = {"goldens": {name: {"verdict": v, "reference": "y: exact 1"} for name, v in verdicts.items()}}
    assert tally.line("goldens") == "1 matched, 0 differ, 1 not covered, 1 reference differs"
    assert tally.wrong() == ["reference differs: b, y: exact 1"]
    tally.results["goldens"].pop("b")
    assert tally.line("goldens") == "1 matched, 0 differ, 1 not covered"


@pytest.mark.parametrize("numbers", [(5, 8.0, 0.4, 3.0), (12, 33.0, 0.01, 50.0)])
def test_the_corrected_levels_of_iddpm_are_those_of_the_recursion(numbers: tuple[int, float, float, float]) -> None:
    n, s_churn, s_min, s_max = numbers
    choices = [{"solver": s, "discretization": "iddpm", "schedule": "linear", "scaling": "none", "alpha": 1}
               for s in ("euler", "heun")]  # fmt: skip
    churn = {"S_churn": s_churn, "S_min": s_min, "S_max": s_max, "S_noise": 1.0}
    config = {"num_steps": n, "churn": churn, "ablation": choices, "det": {"sigma_min": 0.01, "sigma_max": 9, "rho": 3}}
    draw = torch.Generator().manual_seed(n)
    case = Case("solvers_edm", Path(), {"config": config})
    numbers_of = {"gmm_means": (3, 2), "gmm_stds": (3,), "gmm_weights": (3,), "latents": (4, 2), "noises": (n, 4, 2)}
    case.__dict__["tensors"] = {f"in.{k}": 0.1 + torch.rand(v, generator=draw).double() for k, v in numbers_of.items()}
    case.tensors["in.gmm_weights"] /= case.tensors["in.gmm_weights"].sum()
    exact, why = exact_values(case)
    adapter = adapter_of(case.name)
    assert adapter is not None
    assert why
    found = adapter(case)
    assert len(exact) == 4
    for name, value in exact.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=0)


def run_suite(goldens: Path, *options: str) -> list[str]:
    """The last lines of a conformance run of its own, which writes its errors into the folder of goldens."""
    command = [sys.executable, "-m", "pytest", "tests/conformance", "-k", "golden", "--rootdir", str(goldens), *options]
    environment = os.environ | {"DITKIT_GOLDENS": str(goldens), "PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()


def test_a_run_in_other_processes_ends_with_its_counts(tmp_path: Path) -> None:
    lines = run_suite(golden_folder(tmp_path, [[8, 2]], wrong=1e-3), "-n", "1")
    assert lines[-1] == "conformance: 0 matched, 1 differ, 1 not covered"
    errors = json.loads((tmp_path / "conformance-errors.json").read_text())["goldens"]
    assert errors["of_another_kind"] == {"verdict": "not covered"}
    assert errors["dit_pos_embed"]["output"] == "pos_8_2"
    assert errors["dit_pos_embed"]["largest_error"] == pytest.approx(1e-3)
    assert errors["dit_pos_embed"]["fraction_of_tolerance"] > 1


def test_a_run_without_goldens_says_so(tmp_path: Path) -> None:
    lines = run_suite(tmp_path)
    assert lines[-1].startswith(f"conformance: skipped, because there is no index.json in {tmp_path}")
