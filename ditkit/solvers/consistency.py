"""Floor 1: sampling with models that map noise to the image in one step: consistency models, and flows used so."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from torch import Tensor

from ditkit.process.denoiser import Denoise
from ditkit.process.grids import check
from ditkit.solvers.state import State


def consistency(denoise: Denoise, x: Tensor, ts: Tensor, *, noise: Callable[[int], Tensor]) -> Iterator[State]:
    """Multi-step consistency: at every time the image is said, then fresh noise put on it (Song et al. 2023, alg. 1).

    x: (B, C, ...) at ts[0]. noise(k): what is put on after step k. UserError for a grid that does not fall in [0, 1].
    """
    ts = check(ts)
    for k, (t, s) in enumerate(itertools.pairwise(ts)):
        said = denoise(x, t)
        x = denoise.path.mix(said.x0, noise(k), s)
        yield State(x, s, said)
