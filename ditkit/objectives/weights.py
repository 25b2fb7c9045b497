"""Floor 3: weights of the loss, each a function (path, prediction, t) -> (B,) that multiplies the row's squared error.

At given (x_t, t) an error of one row is an error of every other, scaled by the ratio of their determinants (see
Prediction.determinant). So every published weight says in which row the error is measured, times a function of the
signal-to-noise ratio; a network may predict any row and be trained as if it predicted another. Where the network
predicts that very row the ratio is 1.

Denoising score matching is the score row with any of these; conditional flow matching is the velocity row on the
linear path with none.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import torch
from torch import Tensor

from ditkit.base import registry
from ditkit.base.errors import UserError
from ditkit.process.path import Path
from ditkit.process.prediction import EDM, X0, Eps, Prediction, Score, Velocity

Weight = Callable[[Path, Prediction, Tensor], Tensor]


def measured_as(row: Prediction, path: Path, prediction: Prediction, t: Tensor) -> Tensor:
    """w with w ||p_net - p||^2 = the squared error of ``row``, p being ``prediction``."""
    return (row.determinant(path, t) / prediction.determinant(path, t)) ** 2


def none(path: Path, prediction: Prediction, t: Tensor) -> Tensor:
    """1: the row's own error."""
    return torch.ones_like(t)


def snr(path: Path, prediction: Prediction, t: Tensor) -> Tensor:
    """alpha^2 / sigma^2 on the error of x0, which is the error of eps (Ho et al. 2020's simple loss)."""
    return measured_as(Eps(), path, prediction, t)


def min_snr(path: Path, prediction: Prediction, t: Tensor, *, gamma: float = 5.0) -> Tensor:
    """min(SNR, gamma) on the error of x0 (Hang et al. 2023, eq. 8). UserError unless gamma is above 0."""
    if gamma <= 0:
        raise UserError(f"gamma {gamma:g} of the weight min_snr: expected above 0; 5 is the published one")
    ratio = torch.exp(2 * path.log_snr(t))
    return ratio.clamp(max=gamma) * measured_as(X0(), path, prediction, t)


def velocity(path: Path, prediction: Prediction, t: Tensor) -> Tensor:
    """The error of the velocity (SiT, Ma et al. 2024, section 2.4; Lipman et al. 2023)."""
    return measured_as(Velocity(), path, prediction, t)


def likelihood(path: Path, prediction: Prediction, t: Tensor) -> Tensor:
    """g^2 on the error of the score; half of its mean over t bounds the likelihood (Song et al. 2021b, theorem 1)."""
    return path.diffusion_squared(t) * measured_as(Score(), path, prediction, t)


def edm(path: Path, prediction: Prediction, t: Tensor, *, sigma_data: float = 0.5) -> Tensor:
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 on the error of x0: the error of F (Karras et al. 2022, 5)."""
    return measured_as(EDM(sigma_data=sigma_data), path, prediction, t)


def sigmoid(path: Path, prediction: Prediction, t: Tensor, *, bias: float = 2.0) -> Tensor:
    """sigmoid(bias - log SNR) times the likelihood's weight (Kingma & Gao 2023, table 1)."""
    return torch.sigmoid(bias - 2 * path.log_snr(t)) * likelihood(path, prediction, t)


def _accept(value: object) -> bool:
    return inspect.isfunction(value) and list(inspect.signature(value).parameters)[:3] == ["path", "prediction", "t"]


def known() -> dict[str, Weight]:
    """Every weight by its name."""
    return registry.members(__name__, _accept)


def find(weight: str | Weight) -> Weight:
    """The weight of a name, or the function itself (a weight with its options bound). UserError: unknown name."""
    return _named(weight) if isinstance(weight, str) else weight


@functools.cache  # asked at every training step
def _named(name: str) -> Weight:
    return registry.find("weight", __name__, _accept, name)
