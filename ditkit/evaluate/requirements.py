"""What a score needs, and how it errs with few images: said once, beside the score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ditkit.base.errors import UserError
from ditkit.evaluate.measured import QUANTITIES, Measured, Score, Side
from ditkit.evaluate.networks.network import FeatureNetwork

Function = Callable[[Measured], dict[str, Score]]


@dataclass(frozen=True)
class Requirements:
    """samples, reference: quantities of either side (names of ``measured.QUANTITIES``) that the score is computed from.

    errors: those of the samples that its standard error is computed from besides.
    fewest: images of every side it needs, below which it has no meaning. enough: images from which its bias no longer
    matters, also as a function of what was measured. bias: what fewer do to it, to follow "with 200 images ".
    space: what feature space it needs besides, to follow "it needs "; None where a network is such a one.
    alone: what it computes of the reference alone, and finds there afterwards: it is called once, when the reference
    has been measured, and what it computed is kept with it.
    """

    samples: tuple[str, ...] = ()
    reference: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    fewest: int = 1
    enough: Callable[[Measured], int] = lambda measured: 0
    bias: str = ""
    space: Callable[[FeatureNetwork], str | None] = lambda network: None
    alone: Callable[[Side], object] = lambda real: None

    def missing(self, measured: Measured) -> str | None:
        """Why the score cannot be computed, in words; None when it can."""
        return self._lacking(measured) or self.too_few(measured)

    def too_few(self, measured: Measured) -> str | None:
        """How many images there are and how many it takes, in words, where there are too few and nothing else lacks."""
        if self._lacking(measured) or self.images(measured) >= self.fewest:
            return None
        return f"{self.images(measured)} images are too few, expected at least {self.fewest}"

    def _lacking(self, measured: Measured) -> str | None:
        if (space := self.space(measured.network)) is not None:
            return f"it needs {space}"
        for what, names, side in (
            ("samples", self.samples, measured.generated),
            ("reference", self.reference, measured.real),
        ):
            for name in names:
                if name not in side.held:
                    return f"it needs {QUANTITIES[name].words} of the {what}"
        return None

    def note(self, measured: Measured) -> str | None:
        """What to know of the score with so few images; None when there are enough."""
        n, enough = self.images(measured), self.enough(measured)
        return f"few images ({n}): {self.bias} below about {enough}" if n < enough else None

    def images(self, measured: Measured) -> int:
        """Images of the smaller of the sides that the score is computed from."""
        sides = [measured.generated] * bool(self.samples) + [measured.real] * bool(self.reference)
        # Statistics read from a file may not say how many images they are of: published ones are of enough.
        counts = [side.count for side in sides if side.count]
        return min(counts) if counts else max(self.fewest, self.enough(measured))


def score(
    *,
    samples: tuple[str, ...] = (),
    reference: tuple[str, ...] = (),
    errors: tuple[str, ...] = (),
    fewest: int = 1,
    enough: int | Callable[[Measured], int] = 0,
    bias: str = "",
    space: Callable[[FeatureNetwork], str | None] = lambda network: None,
    alone: Callable[[Side], object] = lambda real: None,
) -> Callable[[Function], Function]:
    """Marks a function as a score of the suite; see ``Requirements`` for the arguments."""
    threshold = enough if callable(enough) else lambda measured: enough
    requirements = Requirements(samples, reference, errors, fewest, threshold, bias, space, alone)

    def mark(function: Function) -> Function:
        function.requirements = requirements  # pyright: ignore[reportFunctionMemberAccess]
        return function

    return mark


def requirements_of(function: Function) -> Requirements:
    """The requirements of a score. Raises UserError when it is not marked as one."""
    found = getattr(function, "requirements", None)
    if not isinstance(found, Requirements):
        raise UserError(f"{function!r} is not marked as a score: put @score(...) above it")
    return found
