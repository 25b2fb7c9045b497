"""Scale and shift of published autoencoders: latents for diffusion are (z - shift) scale. Weights do not say them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ditkit.base.errors import UserError

PUBLISHED: Mapping[str, tuple[float, float]] = {
    "sd": (0.18215, 0.0),  # Stable Diffusion 1 and 2, Rombach et al. 2022
    "sdxl": (0.13025, 0.0),  # Podell et al. 2023
    "sd3": (1.5305, 0.0609),  # Esser et al. 2024
    "flux": (0.3611, 0.1159),
}
"""Scale and shift, by the model that they were published with."""


def constants(said: str | None) -> tuple[float | None, float | None]:
    """Scale and shift of what a user says: a name of PUBLISHED, SCALE, or SCALE,SHIFT; None: what the files say.

    Raises UserError for anything else.
    """
    if said is None:
        return None, None
    if said in PUBLISHED:
        return PUBLISHED[said]
    try:
        numbers = [float(part) for part in said.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) in (1, 2) and numbers[0] > 0 and all(map(math.isfinite, numbers)):
        return numbers[0], sum(numbers[1:])
    raise UserError(
        f"autoencoder scale {said!r}: expected one of {', '.join(PUBLISHED)}, a positive number such as 0.13025, or "
        "scale and shift such as 0.3611,0.1159"
    )
