"""Scores of the distribution as a whole.

Standard errors are those of drawing other samples: the reference is taken as given.
"""

from __future__ import annotations

from torch import Tensor

from ditkit.evaluate import kernels
from ditkit.evaluate.features import gaussian_of
from ditkit.evaluate.frechet import Gaussian, frechet_gaussian, frechet_standard_error
from ditkit.evaluate.jackknife import GROUPS, corrected_error, left_out
from ditkit.evaluate.measured import Measured, Score
from ditkit.evaluate.neighbours import reach
from ditkit.evaluate.requirements import score
from ditkit.evaluate.statistics import BINOMIAL, INFLUENCE, SPREAD, binomial_error
from ditkit.evaluate.strata import in_turn

JACKKNIFE = f"jackknife of {GROUPS} groups"
LESS_SECOND_ORDER = ", less its second order"
"""Of a Fréchet distance's errors, which would hold that part of the variance twice."""
NEAREST = (3, 5)
"""k of precision and recall, and of density and coverage, as published."""
WELL_ABOVE = 3
"""Samples for each feature from which a Fréchet distance's influences are trusted: with fewer they know the features
that they are of, and were seen to be too small by up to two thirds, for features of one length. The jackknife's ten
replicates are good from few to many samples, but themselves uncertain by a third."""


def ten_for_each(quantity: str):
    """Images from which the bias of a Fréchet distance is small: ten for each of its features."""
    return lambda measured: 10 * len(measured.generated[quantity].gaussian().mean)


@score(
    samples=("moments",), reference=("moments",), errors=("features",), fewest=2, enough=ten_for_each("moments"),
    bias="the distance is biased upwards",
)  # fmt: skip
def frechet_distance(measured: Measured) -> dict[str, Score]:
    """Fréchet distance between real and generated features (see ``frechet.frechet_gaussian``)."""
    side = measured.generated
    features = side.features if "features" in side.held else None
    found = frechet_score(measured.real.gaussian, side.gaussian, side.count, features, side.strata)
    return {"frechet_distance": found}


@score(
    samples=("spatial",), reference=("spatial",), errors=("spatial_rows",), fewest=2, enough=ten_for_each("spatial"),
    bias="the distance is biased upwards",
)  # fmt: skip
def spatial_frechet_distance(measured: Measured) -> dict[str, Score]:
    """Fréchet distance between real and generated spatial features (Nash et al. 2021, arXiv:2103.03841)."""
    side = measured.generated
    rows = side["spatial_rows"].rows if "spatial_rows" in side.held else None
    found = frechet_score(measured.real.spatial_gaussian, side.spatial_gaussian, side.count, rows, side.strata)
    return {"spatial_frechet_distance": found}


def frechet_score(
    real: Gaussian, generated: Gaussian, count: int, features: Tensor | None, strata: Tensor | None = None
) -> Score:
    """The distance with its standard error by the features (N, D) of the samples, without one where they are None.

    By their influence where there are many for each feature; else by leaving groups out.
    """
    distance = frechet_gaussian(real, generated)
    if features is None:
        return Score(distance, count)
    if count >= WELL_ABOVE * len(generated.mean):
        error = frechet_standard_error(real, generated, features, strata)
        return Score(distance, count, error, INFLUENCE + LESS_SECOND_ORDER)
    if count < 2 * GROUPS:
        return Score(distance, count)
    features = features[in_turn(strata, count)]
    one, two = (
        left_out(lambda rows: frechet_gaussian(real, gaussian_of(rows)), features, neighbours=more) for more in (0, 1)
    )
    return Score(distance, count, corrected_error(distance, one, two), JACKKNIFE + LESS_SECOND_ORDER)


@score(samples=("features",), reference=("features",), fewest=20)
def kernel_distance(measured: Measured) -> dict[str, Score]:
    """Unbiased MMD^2 of a cubic kernel over 100 subsets of 1,000 (see ``kernels.kernel_distance``)."""
    generated, real = measured.generated.features, measured.real.features
    value = kernels.kernel_distance(generated, real, progress=True).mean
    strata = measured.generated.strata
    error = kernels.mmd_standard_error(generated, real, kernels.polynomial, strata=strata, progress=True)
    return {"kernel_distance": Score(value, measured.generated.count, error, INFLUENCE)}


@score(
    samples=("features",), reference=("features",), fewest=4, enough=1000,
    bias="compare only sets of equal size: the balls grow with fewer images, and standard errors are large",
    alone=lambda real: real["features"].around(max(NEAREST), progress=True),
)  # fmt: skip
def neighbourhoods(measured: Measured) -> dict[str, Score]:
    """Precision and recall with k = 3, density and coverage with k = 5 (see ``neighbours.reach``)."""
    real, m = measured.real.features, measured.generated.count
    generated = measured.generated.features[in_turn(measured.generated.strata, m)]
    ks = [k for k in NEAREST if k == min(NEAREST) or min(len(real), m) > k]
    around = measured.real["features"].around(max(ks), progress=True)
    found = reach(real, generated, ks, around=around, progress=True)
    precision, recall = found[0].precision_recall
    scores = {
        "precision": Score(precision, m, binomial_error(precision, m), BINOMIAL),
        "recall": Score(recall, m, found[0].recall_error, JACKKNIFE if found[0].recall_error is not None else None),
    }
    for wide in found[1:]:
        density, coverage = wide.density_coverage
        spread = (wide.around_generated / wide.k).double().std().item()
        scores |= {
            "density": Score(density, m, spread / m**0.5, SPREAD),
            "coverage": Score(coverage, m, wide.coverage_error, JACKKNIFE),
        }
    return scores
