"""The Fréchet distance between sets of features: FID, sFID, FD-DINOv2, by the features that it is given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.evaluate.strata import between, variance

ROWS = 4096
"""Features at a time."""
SINGULAR = 1e-9
"""Of the largest direction of a factor: smaller ones are rounding."""


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution: mean (D,) and a factor R (K, D) of its covariance, R^T R, both float64.

    The factor, not the covariance, is kept: taking the root of a computed covariance would lose half of the digits.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def of_moments(cls, mean: Tensor, covariance: Tensor) -> Gaussian:
        """From a mean (D,) and a covariance (D, D), as statistics files hold them; it may be singular."""
        values, vectors = torch.linalg.eigh(covariance.double())
        return cls(mean.double(), values.clamp(min=0).sqrt()[:, None] * vectors.T)

    @property
    def covariance(self) -> Tensor:
        """(D, D) float64."""
        return self.factor.T @ self.factor

    def gaussian(self) -> Gaussian:
        """Itself: a distribution that was given stands where one that was measured may."""
        return self


def frechet_gaussian(a: Gaussian, b: Gaussian) -> float:
    """|mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^{1/2}), Dowson & Landau 1982.

    With S = R^T R the eigenvalues of S_a S_b are the squared singular values of R_a R_b^T, so that the last trace is
    their sum: real, no matrix root, exact for singular covariances. Raises UserError on different widths.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(
            f"statistics have {len(a.mean)} and {len(b.mean)} features, expected the same: take both from one network"
        )
    root_trace = torch.linalg.svdvals(a.factor @ b.factor.T).sum()
    traces = a.factor.square().sum() + b.factor.square().sum()
    distance = (a.mean - b.mean).square().sum() + traces - 2 * root_trace
    return max(0.0, distance.item())


def frechet_standard_error(
    reference: Gaussian, generated: Gaussian, features: Tensor, strata: Tensor | None = None
) -> float:
    """Standard error of the distance of ``reference`` to ``generated``, by the spread of its features (N, D).

    strata: the class (N,) of each, where every class has its share of them (see ``strata``).

    To first order a feature x moves the distance by its influence (Hampel 1974), with z = x - mu: 2 (mu - m).z + z.z -
    z.T z, T being the derivative of the root's trace, the optimal transport from the generated distribution to the
    reference. The variance of the influences holds that of the distance's second order twice (Efron & Stein 1981),
    which near the reference is all there is; so it is taken off once, as it is for normal features, up to a half.
    For N well above D: in few samples the influences know the features that they are of. Neither the reference's own
    error nor the bias of few features is in it.
    """
    _, roots, vh = torch.linalg.svd(generated.factor @ reference.factor.T, full_matrices=False)
    # z.T z is the sum of u_i^2 / s_i, u being z R_r^T in the axes where R_r S R_r^T is diagonal, s^2. Directions that
    # either distribution lacks, such as features that are always 0, carry nothing.
    kept = roots > SINGULAR * roots.max()
    roots, axes = roots[kept], reference.factor.T @ vh[kept].T
    influences = []
    for batch in features.split(ROWS):
        z = batch.double() - generated.mean
        moved = (z @ axes).square() @ (1 / roots)
        influences.append(2 * z @ (generated.mean - reference.mean) + z.square().sum(1) - moved)
    first = variance(torch.cat(influences), strata) / len(features)
    fixed = between(features, generated.mean, strata)  # K D
    second = _second_order(roots, generated.factor, fixed @ axes, fixed) / len(features) ** 2
    return (first - min(second, first / 2)) ** 0.5


def _second_order(roots: Tensor, factor: Tensor, fixed: Tensor, fixed_features: Tensor) -> float:
    """Variance, times their number squared, of the second-order part of the distance to normal features.

    roots: s (K,) of the transport. factor: of the features' covariance. fixed, fixed_features: factors of what other
    draws do not change of diag(s^2) and of the covariance: what lies between strata.

    With E the error of diag(s^2) this part is sum E_ij^2 / (2 s_i s_j (s_i + s_j)), and that of the mean |e|^2. That
    of E_ij^2 is 2 V_ij^2, where V_ij is s_i^2 s_j^2 (once more for i = j) less the same of what is fixed.
    """
    s, b = roots, fixed.T @ fixed
    whole = torch.outer(s, s).square() + torch.diag(s**4)
    moved = (whole - torch.outer(b.diagonal(), b.diagonal()) - b.square()).clamp(min=0)
    weight = 1 / (2 * torch.outer(s, s) * (s[:, None] + s))
    each = (weight * moved).square()
    of_covariance = 4 * each.sum() - 2 * each.diagonal().sum()  # E_ij and E_ji are one
    within = factor.T @ factor - fixed_features.T @ fixed_features
    return (of_covariance + 2 * within.square().sum()).item()
