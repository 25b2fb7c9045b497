"""Scores of the distribution as a whole."""

from __future__ import annotations

from ditkit.evaluate import kernels
from ditkit.evaluate.frechet import frechet_gaussian, frechet_standard_error
from ditkit.evaluate.measured import Measured, Score
from ditkit.evaluate.neighbours import reach
from ditkit.evaluate.requirements import score


def ten_for_each(quantity: str):
    """Images from which the bias of a Fréchet distance is small: ten for each of its features."""
    return lambda measured: 10 * len(measured.generated[quantity].gaussian().mean)


@score(
    samples=("moments",), reference=("moments",), fewest=2, enough=ten_for_each("moments"),
    bias="the distance is biased upwards", errors=("features",),
)  # fmt: skip
def frechet_distance(measured: Measured) -> dict[str, Score]:
    """Fréchet distance between real and generated features (see ``frechet.frechet_gaussian``)."""
    real, generated = measured.real.gaussian, measured.generated.gaussian
    distance = frechet_gaussian(real, generated)
    known = "features" in measured.generated.held and measured.generated.count > len(generated.mean)
    error = frechet_standard_error(real, generated, measured.generated.features) if known else None
    return {"frechet_distance": Score(distance, measured.generated.count, standard_error=error)}


@score(
    samples=("spatial",), reference=("spatial",), fewest=2, enough=ten_for_each("spatial"),
    bias="the distance is biased upwards",
)  # fmt: skip
def spatial_frechet_distance(measured: Measured) -> dict[str, Score]:
    """Fréchet distance between real and generated spatial features (Nash et al. 2021, arXiv:2103.03841)."""
    distance = frechet_gaussian(measured.real.spatial_gaussian, measured.generated.spatial_gaussian)
    return {"spatial_frechet_distance": Score(distance, measured.generated.count)}


@score(samples=("features",), reference=("features",), fewest=20)
def kernel_distance(measured: Measured) -> dict[str, Score]:
    """Unbiased MMD^2 of a cubic kernel over 100 subsets of 1,000 (see ``kernels.kernel_distance``)."""
    found = kernels.kernel_distance(measured.generated.features, measured.real.features, progress=True)
    return {"kernel_distance": Score(found.mean, measured.generated.count, standard_error=found.standard_error)}


@score(
    samples=("features",), reference=("features",), fewest=4, enough=1000,
    bias="compare only sets of equal size: the balls grow with fewer images, and standard errors are large",
)  # fmt: skip
def neighbourhoods(measured: Measured) -> dict[str, Score]:
    """Precision and recall with k = 3, density and coverage with k = 5 (see ``neighbours.reach``)."""
    real, generated = measured.real.features, measured.generated.features
    n, m = len(real), len(generated)
    ks = [3, 5] if min(n, m) > 5 else [3]
    found = reach(real, generated, ks, progress=True)
    precision, recall = found[0].precision_recall
    scores = {
        "precision": Score(precision, m, standard_error=binomial_error(precision, m)),
        "recall": Score(recall, m, standard_error=binomial_error(recall, n)),
    }
    for wide in found[1:]:
        density, coverage = wide.density_coverage
        spread = (wide.around_generated / wide.k).double().std().item()
        scores |= {
            "density": Score(density, m, standard_error=spread / m**0.5),
            "coverage": Score(coverage, m, standard_error=binomial_error(coverage, n)),
        }
    return scores


def binomial_error(fraction: float, n: int) -> float:
    """Standard error of a fraction of n independent draws; not 0 where all or none of them count."""
    return (max(fraction * (1 - fraction), 0.25 / n) / n) ** 0.5
