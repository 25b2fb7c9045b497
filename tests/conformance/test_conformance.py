"""Every recorded case against this project's code: matched, differs, or not covered (skipped with that reason).

Where a reference is known to be wrong the exact value decides, and the case is counted as "reference differs".
"""

from __future__ import annotations

import pytest

from tests.conformance.harness import OWN, Case, Difference, adapter_of, cases, goldens_folder
from tests.conformance.tally import PROPERTY

SHOWN = 8
GOLDENS = goldens_folder()


def record(
    request: pytest.FixtureRequest,
    kind: str,
    case: Case,
    verdict: str,
    worst: Difference | None = None,
    wrong: str = "",
) -> None:
    """Puts a case's verdict, its largest error and what is wrong with its reference where the tally finds them."""
    result = {"verdict": verdict} | ({"reference": wrong} if wrong else {})
    if worst is not None:
        # As text where JSON has no number for it (an infinite error).
        error, fraction = (x if x < float("inf") else "inf" for x in (worst.error, worst.fraction))
        result |= {"largest_error": error, "fraction_of_tolerance": fraction, "output": worst.output}
    request.node.user_properties.append((PROPERTY, {"set": kind, "case": case.name, "result": result}))


def check(request: pytest.FixtureRequest, kind: str, case: Case) -> None:
    """Runs one case; fails with its worst outputs when it differs."""
    adapter = adapter_of(case.name)
    if adapter is None:
        record(request, kind, case, "not covered")
        pytest.skip(f"not covered: no adapter for {case.name}")
    try:
        differences = case.run(adapter)
    except BaseException:
        record(request, kind, case, "differ")
        raise
    bad = [difference for difference in differences if not difference.matched]
    if not differences:
        record(request, kind, case, "differ")
        pytest.fail(f"{case.name}: the index names no output")
    corrected = [f"{d.output}: {d.reference}" for d in differences if d.reference]
    wrong = (corrected[0] + (f" and {len(corrected) - 1} more" if corrected[1:] else "")) if corrected else ""
    verdict = "differ" if bad else "reference differs" if wrong else "matched"
    record(request, kind, case, verdict, differences[0], wrong)
    lines = [f"{d.output}: error {d.error:.3g}, {d.fraction:.3g} of the tolerance {d.message}" for d in bad[:SHOWN]]
    assert not bad, f"{case.name}: {len(bad)} of {len(differences)} outputs differ\n" + "\n".join(lines)


@pytest.mark.parametrize("case", cases(GOLDENS), ids=lambda case: case.name)
def test_golden(case: Case, request: pytest.FixtureRequest) -> None:
    check(request, "goldens", case)


@pytest.mark.parametrize("case", cases(OWN), ids=lambda case: case.name)
def test_own(case: Case, request: pytest.FixtureRequest) -> None:
    check(request, "own", case)


@pytest.mark.skipif(bool(cases(GOLDENS)), reason="the goldens are there")
def test_goldens_are_there(request: pytest.FixtureRequest) -> None:
    reason = (
        f"skipped, because there is no index.json in {GOLDENS} (set DITKIT_GOLDENS to the folder of recorded cases)"
    )
    request.node.user_properties.append((PROPERTY, {"absent": reason}))
    pytest.skip(reason)
