"""Scores of CLIP's embeddings of images and captions."""

from __future__ import annotations

from ditkit.evaluate import kernels
from ditkit.evaluate.measured import Measured, Score
from ditkit.evaluate.networks.clip import CLIP
from ditkit.evaluate.networks.network import FeatureNetwork
from ditkit.evaluate.requirements import score
from ditkit.evaluate.statistics import INFLUENCE, SPREAD


def _other_than_clip(network: FeatureNetwork) -> str | None:
    return None if isinstance(network, CLIP) else "the feature network clip, whose scale its kernel fits"


@score(
    samples=("features",), reference=("features",), fewest=2, enough=1000, bias="the distance is biased upwards",
    space=_other_than_clip,
)  # fmt: skip
def cmmd(measured: Measured) -> dict[str, Score]:
    """CMMD (see ``kernels.clip_mmd``)."""
    generated, real = measured.generated.features, measured.real.features
    value = kernels.clip_mmd(generated, real, progress=True)
    kernel = kernels.rbf(kernels.CMMD_SIGMA)
    error = kernels.CMMD_SCALE * kernels.mmd_standard_error(
        generated, real, kernel, strata=measured.generated.strata, progress=True
    )
    return {"cmmd": Score(value, measured.generated.count, error, INFLUENCE)}


@score(samples=("captions",))
def clip_score(measured: Measured) -> dict[str, Score]:
    """100 times the mean cosine of image and caption, negative ones as 0 (Hessel et al. 2021, arXiv:2104.08718)."""
    found = measured.generated["captions"]
    error = 100 * found.standard_error if found.count > 1 else None
    return {"clip_score": Score(100 * found.value, found.count, error, None if error is None else SPREAD)}
