"""Floor 0: grids, the times that a solver visits: float64 t_0 > t_1 > ... > t_K on the CPU, K steps from noise to data.

A grid is a function (path, steps, *, options) -> ts, (steps + 1,). Noise levels are sigma / alpha, k-diffusion's sigma.
All grids end at t = 0 unless ``to_zero`` is off; those that space log-SNR or noise levels, infinite or zero at the
path's ends, run between two finite ones (by default those of Path.ends) and make one last step from there to t = 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.process.grid import chain_grid, respaced_indices
from ditkit.process.path import Path


def noise_level(path: Path, t: Tensor) -> Tensor:
    """sigma / alpha at times t, float64: the noise of x_t / alpha (Karras et al. 2022)."""
    return path.sigma(t) / path.alpha(t)


def time_of_noise(path: Path, level: Tensor) -> Tensor:
    """The times at which sigma / alpha has the given values, float64: the inverse of noise_level; t = 0 for level 0.

    UserError where the noise level does not rise all the way, so that there is no inverse.
    """
    rises = path.log_snr(torch.linspace(*path.ends(), 129, dtype=torch.float64)).diff() < 0
    if not bool(rises.all()):
        raise UserError(
            f"path {path.name!r}: its log-SNR does not fall steadily from data to noise, so it has no inverse; "
            "use a grid in t (uniform, quadratic, shifted) and a solver in t (variable time)"
        )
    return torch.where(level > 0, path.time_at(-level.log()), 0.0)


def check(ts: Tensor | Sequence[float]) -> Tensor:
    """A grid of the user's own, as float64 (K + 1,); UserError unless it falls strictly and stays inside [0, 1]."""
    ts = torch.as_tensor(ts, dtype=torch.float64)
    if ts.dim() != 1 or len(ts) < 2:
        raise UserError(f"a grid of shape {tuple(ts.shape)}: expected at least two times, t_0 > t_1 > ... in [0, 1]")
    outside = ts[~((ts >= 0) & (ts <= 1))]
    if len(outside):
        raise UserError(f"time {outside[0]:g} of the grid: expected 0 (data) to 1 (noise); divide by the largest time")
    rising = (ts[1:] >= ts[:-1]).nonzero().flatten()
    if len(rising):
        k = int(rising[0])
        raise UserError(f"grid times {ts[k]:g}, {ts[k + 1]:g}: expected each smaller than the one before; sort them")
    return ts


def uniform(
    path: Path, steps: int | str, *, t_max: float = 1.0, t_min: float | None = None, to_zero: bool = True
) -> Tensor:
    """Even in t; on a discrete path the chain's own times, respaced (Nichol & Dhariwal 2021).

    steps: a number; for discrete paths also what respaced_indices takes (ddim50, "10,15,20").
    t_max, t_min: the first and the last noisy time. None: no last noisy time, the even spacing goes on to t = 0.
    """
    spec = str(steps).strip()
    if path.steps is None or t_max != 1 or t_min is not None:
        if not spec.isdecimal():
            raise UserError(
                f"steps {spec!r}: between given times, or on the continuous {path.name!r}, expected a number"
            )
        return _in_time(int(spec), t_max, t_min, to_zero, lambda t: t)
    if spec.isdecimal() and not 1 <= int(spec) <= path.steps:
        expected = f"expected 1 to {path.steps}, the steps of the model's chain"
        raise UserError(f"steps {spec}: {expected}; the grid log_snr takes any number")
    return chain_grid(path, [path.steps - 1] if spec == "1" else respaced_indices(path.steps, spec))


def quadratic(
    path: Path, steps: int, *, t_max: float = 1.0, t_min: float | None = None, to_zero: bool = True
) -> Tensor:
    """Even in sqrt(t): finer towards the data (Song et al. 2021, DDIM; "time_quadratic" in DPM-Solver's code)."""
    return _in_time(steps, t_max, t_min, to_zero, lambda t: t**2, torch.sqrt)


def shifted(
    path: Path, steps: int, *, shift: float = 3.0, t_max: float = 1.0, t_min: float | None = None, to_zero: bool = True
) -> Tensor:
    """Even in t, then moved towards the noise for large images: see time_shift (Esser et al. 2024; 3 in SD3)."""
    return _in_time(steps, t_max, t_min, to_zero, lambda t: time_shift(t, shift))


LARGEST_TOKENS = 65536
"""Of Flux's line of shifts: a shift of exp(11), after which all times are t = 1."""


def flux(path: Path, steps: int, *, tokens: int = 4096, t_max: float = 1.0) -> Tensor:
    """Even in t, moved towards the noise by how many tokens the image has: shift exp(flux_mu(tokens)) (Flux).

    tokens: of the image, 1 to 65536; it is above 4096 that Flux's line is carried on beyond what was published.
    """
    if not 1 <= tokens <= LARGEST_TOKENS:
        raise UserError(
            f"tokens {tokens}: expected 1 to {LARGEST_TOKENS}, (height / patch) x (width / patch) of the latent; "
            "for a shift of your own use the grid shifted"
        )
    return shifted(path, steps, shift=math.exp(flux_mu(tokens)), t_max=t_max)


def time_shift(t: Tensor, shift: float) -> Tensor:
    """t' = s t / (1 + (s - 1) t) (Esser et al. 2024, eq. 23, s = sqrt(m / n) for m pixels instead of n); any shape."""
    if not 0 < shift < math.inf:
        raise UserError(f"shift {shift:g}: expected above 0; 1 leaves the times as they are, 3 is Stable Diffusion 3's")
    return shift * t / (1 + (shift - 1) * t)


def flux_mu(tokens: int, *, base: tuple[int, float] = (256, 0.5), large: tuple[int, float] = (4096, 1.15)) -> float:
    """log of Flux's shift, linear in the number of image tokens through (tokens, mu) at ``base`` and ``large``."""
    slope = (large[1] - base[1]) / (large[0] - base[0])
    return base[1] + slope * (tokens - base[0])


def log_snr(
    path: Path, steps: int, *, sigma_max: float | None = None, sigma_min: float | None = None, to_zero: bool = True
) -> Tensor:
    """Even in log-SNR (Lu et al. 2022; k-diffusion's "exponential"). sigma_max, sigma_min: noise levels of the ends."""
    return polyexponential(path, steps, rho=1.0, sigma_max=sigma_max, sigma_min=sigma_min, to_zero=to_zero)


def polyexponential(
    path: Path,
    steps: int,
    *,
    rho: float = 1.0,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    to_zero: bool = True,
) -> Tensor:
    """The logarithm of the noise level falls as (1 - k/K)^rho (k-diffusion); rho 1 is even in log-SNR."""
    if not 0 < rho < math.inf:
        raise UserError(f"rho {rho:g}: expected above 0; 1 is even in log-SNR")

    def level(r: Tensor, high: float, low: float) -> Tensor:
        return torch.exp(r**rho * math.log(high / low) + math.log(low))

    return _in_noise(path, steps, sigma_max, sigma_min, to_zero, level)


SMALLEST_RHO = 0.05
"""Of Karras et al.'s rho: noise levels to the power of 20 are still within float64."""


def karras(
    path: Path,
    steps: int,
    *,
    rho: float = 7.0,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    to_zero: bool = True,
) -> Tensor:
    """Noise level^(1 / rho) falls evenly (Karras et al. 2022, eq. 5). sigma_max, sigma_min: levels of the ends."""
    if not SMALLEST_RHO <= abs(rho) < math.inf:
        raise UserError(
            f"rho {rho:g}: expected at least {SMALLEST_RHO:g} or at most -{SMALLEST_RHO:g}; 7 is the published one, "
            "log_snr is the limit of large rho"
        )

    def level(r: Tensor, high: float, low: float) -> Tensor:
        return (low ** (1 / rho) + r * (high ** (1 / rho) - low ** (1 / rho))) ** rho

    return _in_noise(path, steps, sigma_max, sigma_min, to_zero, level)


def linspaced(path: Path, steps: int) -> Tensor:
    """Even in a chain's index n, from T - 1 to 0 with ends included, fractions kept; then t = 0 (Diffusers)."""
    count, steps = _chain_steps(path, steps)
    return _from_indices(count, torch.linspace(count - 1, 0, steps, dtype=torch.float64))


def leading(path: Path, steps: int, *, offset: int = 0) -> Tensor:
    """Every floor(T / K)-th index of a chain, from ``offset`` up (DDIM's; Stable Diffusion has offset 1)."""
    count, steps = _chain_steps(path, steps)
    n = torch.arange(steps - 1, -1, -1, dtype=torch.float64) * (count // steps) + offset
    if offset < 0 or n[0] >= count:
        raise UserError(f"offset {offset}: the largest of the {steps} indices would be {n[0]:g} of 0 to {count - 1}")
    return _from_indices(count, n)


def trailing(path: Path, steps: int) -> Tensor:
    """Every T / K-th index of a chain, rounded, from the noisiest down (Lin et al. 2024, table 2)."""
    count, steps = _chain_steps(path, steps)
    k = torch.arange(steps, dtype=torch.float64)
    return _from_indices(count, (count - k * (count / steps)).round() - 1)


def given(path: Path, steps: int, *, times: Sequence[float] | str = "") -> Tensor:
    """The times as they are: numbers, or text such as "1,0.6,0.3,0"; checked, and of as many steps as asked for."""
    try:
        ts = check([float(part) for part in (times.split(",") if isinstance(times, str) else times)])
    except (TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"times {times!r}: expected numbers from 1 (noise) to 0, such as 1,0.6,0.3,0") from None
    if len(ts) != _count(steps) + 1:
        raise UserError(f"steps {steps}: {len(ts)} times make {len(ts) - 1} steps; give {len(ts) - 1}")
    return ts


def _count(steps: int | str) -> int:
    if not str(steps).strip().isdecimal() or int(steps) < 1:
        raise UserError(f"steps {steps!r}: expected a whole number, at least 1")
    return int(steps)


def _chain_steps(path: Path, steps: int | str) -> tuple[int, int]:
    """The steps of the path's chain, and those asked for."""
    if path.steps is None:
        raise UserError(f"path {path.name!r} is continuous: expected a chain (ddpm_linear, ...); use the grid uniform")
    asked = _count(steps)
    if asked > path.steps:
        raise UserError(f"steps {steps}: the model's chain has {path.steps} steps; expected 1 to {path.steps}")
    return path.steps, asked


def _from_indices(count: int, n: Tensor) -> Tensor:
    return check(torch.cat([(n + 1) / count, torch.zeros(1, dtype=torch.float64)]))


def _falling(points: int, high: float, low: float) -> Tensor:
    """Even from high down; a single point is the high end, where sampling has to start."""
    return torch.linspace(high, low, points, dtype=torch.float64)


def _in_time(
    steps: int,
    t_max: float,
    t_min: float | None,
    to_zero: bool,
    warp: Callable[[Tensor], Tensor],
    unwarp: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """warp(even), from t_max to t_min or 0. unwarp: the inverse of a warp that t_max and t_min are to be met in."""
    low = 0.0 if t_min is None else t_min
    if not 0 <= low < t_max <= 1:
        raise UserError(f"times from {t_max:g} to {low:g}: expected 1 >= t_max > t_min >= 0")
    high, low = (float(unwarp(torch.tensor(t, dtype=torch.float64))) if unwarp else t for t in (t_max, low))
    last_step = to_zero and low > 0
    ts = warp(_falling(_count(steps) + (not last_step), high, low))
    return check(torch.cat([ts, torch.zeros(1, dtype=torch.float64)]) if last_step else ts)


def _in_noise(
    path: Path,
    steps: int,
    sigma_max: float | None,
    sigma_min: float | None,
    to_zero: bool,
    level: Callable[[Tensor, float, float], Tensor],
) -> Tensor:
    """level(r, sigma_max, sigma_min) for r even from 1 to 0, as times; then t = 0 if that is wanted and not there."""
    ends = torch.tensor(path.ends(), dtype=torch.float64)
    t_min, t_max = ends.tolist()
    lowest, highest = noise_level(path, torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
    low, high = noise_level(path, ends).tolist()
    low, high = (low if sigma_min is None else sigma_min), (high if sigma_max is None else sigma_max)
    if not max(lowest * (1 - 1e-6), 1e-300) <= low < high <= highest * (1 + 1e-6):
        raise UserError(
            f"noise levels from {high:g} to {low:g}: path {path.name!r} has {highest:g} to {lowest:g}; "
            "expected sigma_max > sigma_min > 0 inside"
        )
    last_step = to_zero and low > lowest * (1 + 1e-6)
    r = _falling(_count(steps) + (not last_step), 1.0, 0.0)
    ts = time_of_noise(path, level(r, high, low))
    # the ends as they are, not as the inverse finds them
    ts[0] = ts[0] if sigma_max is not None else t_max
    if sigma_min is None and len(r) > 1:
        ts[-1] = t_min
    return check(torch.cat([ts, torch.zeros(1, dtype=torch.float64)]) if last_step else ts)
