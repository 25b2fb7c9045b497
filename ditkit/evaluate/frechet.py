"""The Fréchet distance between sets of features: FID, sFID, FD-DINOv2, by the features that it is given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ditkit.base.errors import UserError

ROWS = 4096
"""Features at a time."""


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


def frechet_standard_error(reference: Gaussian, generated: Gaussian, features: Tensor) -> float:
    """Standard error of the distance of ``reference`` to ``generated``, by the spread of its features (N, D), N > D.

    To first order a feature x moves the distance by its influence (Hampel 1974), with z = x - mu: 2 (mu - m).z + z.z -
    z.T z, T being the derivative of the root's trace, the optimal transport from the generated distribution to the
    reference. Neither the reference's own error nor the bias of few features is in it.
    """
    u, _, vh = torch.linalg.svd(generated.factor @ reference.factor.T, full_matrices=False)
    # T = R^+ U V^T R_r carries S = R^T R to S_r; gelsy takes singular factors, as of features that are always 0.
    transport = torch.linalg.lstsq(generated.factor, (u @ vh) @ reference.factor, driver="gelsy").solution
    change = torch.eye(len(generated.mean), dtype=torch.float64) - transport
    influences = []
    for batch in features.split(ROWS):
        z = batch.double() - generated.mean
        influences.append(2 * z @ (generated.mean - reference.mean) + ((z @ change) * z).sum(1))
    return torch.cat(influences).std().item() / len(features) ** 0.5
