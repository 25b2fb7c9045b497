"""Floor 5: measured scores beside the published ones, and whether they agree."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ditkit.app.reproduction.protocol import Pinned
from ditkit.base.errors import unknown

PASS, FAIL, NONE = "pass", "fail", "not the published protocol"


@dataclasses.dataclass(frozen=True)
class Check:
    """One score. error: the standard error of the measured value, where it is known."""

    score: str
    measured: float
    error: float | None
    published: float
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the measured value is within the tolerance of the published one; one that is no number is not."""
        return math.isfinite(self.measured) and abs(self.measured - self.published) <= self.tolerance


def checks(pinned: Pinned, metrics: dict[str, Any]) -> list[Check]:
    """The published scores, each with what was measured. UserError for one that the protocol does not compute."""
    found = []
    for name, published in pinned.published.scores.items():
        if name not in metrics:
            known = [key for key, entry in metrics.items() if isinstance(entry, dict) and "value" in entry]
            raise unknown("published score", name, known)
        entry = metrics[name]
        error = entry.get("standard_error")
        found.append(Check(name, float(entry["value"]), error, published.value, published.tolerance))
    return found


def verdict(pinned: Pinned, num: int, found: Sequence[Check]) -> str:
    """PASS or FAIL, or NONE where another number of samples was drawn than is published."""
    if num != pinned.num:
        return NONE
    return PASS if all(check.agrees for check in found) else FAIL


def table(found: Sequence[Check], judged: bool) -> str:
    """The scores as lines of text, measured beside published. judged: whether to say which agree."""
    rows = [("score", "measured", "published", "tolerance", "")]
    for check in found:
        error = f" ± {check.error:.2g}" if check.error is not None else ""
        said = (PASS if check.agrees else FAIL) if judged else ""
        values = (f"{check.measured:.4g}{error}", f"{check.published:.4g}", f"± {check.tolerance:.2g}")
        rows.append((check.score, *values, said))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def sentence(pinned: Pinned, num: int, found: Sequence[Check], said: str) -> str:
    """The verdict in words."""
    if said == NONE:
        return f"{NONE}: {num:,} samples, published are {pinned.num:,}; no verdict"
    off = [check.score for check in found if not check.agrees]
    where = f"of {pinned.published.paper}, {pinned.published.where}"
    if off:
        return f"FAIL: {', '.join(off)} beyond the stated tolerance {where}"
    return f"PASS: {len(found)} of {len(found)} scores within the stated tolerance {where}"
