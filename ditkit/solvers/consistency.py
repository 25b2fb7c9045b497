"""Floor 1: sampling with consistency models: jump to x0, add noise, jump again (Song et al. 2023; Luo et al. 2023)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.process.denoiser import Denoise, Denoised
from ditkit.process.grids import check, noise_level
from ditkit.process.path import Path, over
from ditkit.solvers.exponential import NoiseSource, draw
from ditkit.solvers.state import State


def consistency(
    denoise: Denoise,
    x: Tensor,
    ts: Tensor,
    *,
    noise: NoiseSource | None = None,
    sigma_min: float = 0.0,
) -> Iterator[State]:
    """Multi-step consistency sampling: x0 at each time of the grid, noised anew to the next (Song et al. 2023, alg. 1).

    denoise: one whose x0 is the consistency function's value. x: (B, C, ...) at ts[0]. noise(k): the draw of step k,
    none for the step to t = 0. sigma_min: the noise level (sigma / alpha) that x0 still has, 0.002 in EDM's models;
    that much less is added. With an ordinary denoiser this is DDIM with all of the noise fresh, and not a good sampler.
    UserError: the grid does not fall inside [0, 1]; sigma_min below 0, or not below the noise level at ts[0].
    """
    if not 0 <= sigma_min < math.inf:
        raise UserError(f"sigma_min {sigma_min:g}: expected at least 0; the noise that the model was trained to leave")
    ts, path = check(ts), denoise.path
    if not sigma_min < (highest := float(noise_level(path, ts[0]))):
        raise UserError(f"sigma_min {sigma_min:g}: expected below {highest:g}, the noise level where the grid begins")
    alphas, sigmas = path.alpha(ts).tolist(), path.sigma(ts).tolist()
    for k, t in enumerate(ts[:-1]):
        said = denoise(x, t)
        alpha, std = alphas[k + 1], math.sqrt(max(0.0, sigmas[k + 1] ** 2 - (alphas[k + 1] * sigma_min) ** 2))
        x = alpha * said.x0
        x = x if std == 0 else x + std * draw(noise, k)
        yield State(x, ts[k + 1], said)


@dataclasses.dataclass(frozen=True)
class Boundary:
    """A denoiser read as a consistency function that is the identity at t = 0: x0 <- c_skip x + c_out x0.

    c_skip = s^2 / (u^2 + s^2), c_out = u / sqrt(u^2 + s^2), u = timestep_scaling times the network's time (Luo et al.
    2023, latent consistency models); sigma_data: s. eps follows from x0.
    """

    denoise: Denoise
    sigma_data: float = 0.5
    timestep_scaling: float = 10.0

    @property
    def path(self) -> Path:
        """The path of the denoiser within."""
        return self.denoise.path

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        u = self.timestep_scaling * self.path.network_time(t)
        variance = self.sigma_data**2
        c_skip, c_out = variance / (u**2 + variance), u / (u**2 + variance).sqrt()
        x0 = over(c_skip, x) * x + over(c_out, x) * self.denoise(x, t).x0
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        return Denoised(x0, over(1 / sigma, x) * (x - over(alpha, x) * x0))
