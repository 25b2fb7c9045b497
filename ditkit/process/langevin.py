"""Floor 0: w(t), how much Langevin noise an SDE adds to the probability-flow ODE (Ma et al. 2024, SiT, section 3).

dx = [v - w s / 2] dt + sqrt(w) dw, time running down, has the marginals of the path for any w >= 0. A form is a
function (path, t, scale) -> w in the shape of t, float64. scale is SiT's ``diffusion_norm``; its code calls w / 2 the
diffusion.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ditkit.base.errors import UserError, unknown
from ditkit.base.registry import members
from ditkit.process.path import Path, is_noise

Form = Callable[[Path, Tensor, float], Tensor]


def constant(path: Path, t: Tensor, scale: float) -> Tensor:
    """w = 2 c."""
    return torch.full_like(t, 2 * scale)


def sigma(path: Path, t: Tensor, scale: float) -> Tensor:
    """w = 2 c sigma(t): the Langevin drift is eps itself, regular at both ends of every path."""
    return 2 * scale * path.sigma(t)


def sbdm(path: Path, t: Tensor, scale: float) -> Tensor:
    """w = c g^2(t): at c = 1 the reverse SDE of Song et al. 2021. Infinite where alpha = 0."""
    return torch.where(is_noise(path, t), torch.inf, scale * path.diffusion_squared(t))


def linear(path: Path, t: Tensor, scale: float) -> Tensor:
    """w = 2 c t."""
    return 2 * scale * t


def decreasing(path: Path, t: Tensor, scale: float) -> Tensor:
    """w = (1 - c cos(pi t))^2 / 2: falls from noise to data."""
    return (1 - scale * torch.cos(math.pi * t)) ** 2 / 2


def increasing_decreasing(path: Path, t: Tensor, scale: float) -> Tensor:
    """w = 2 c sin^2(pi t): nothing at either end."""
    return 2 * scale * torch.sin(math.pi * t) ** 2


FORMS: dict[str, Form] = members(__name__, inspect.isfunction)
"""Every form by its name."""


def weight(name: str | Form, path: Path, t: Tensor, scale: float) -> Tensor:
    """w at the times t, (K,) float64; name: of FORMS, or a form.

    Raises UserError for an unknown name, or where w is negative or not finite.
    """
    if isinstance(name, str) and name not in FORMS:
        raise unknown("w(t)", name, FORMS)
    w = (FORMS[name] if isinstance(name, str) else name)(path, t, scale)
    bad = ~(w.isfinite() & (w >= 0))
    if bool(bad.any()):
        at = float(t[bad][0])
        raise UserError(
            f"w {name!r} with scale {scale} is {float(w[bad][0])} at t = {at:.6g} of the path {path.name!r}: expected "
            "finite numbers >= 0; choose another form (sigma is finite everywhere), or a grid without that time"
        )
    return w
