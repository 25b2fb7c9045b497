"""The case of the standard FID's Inception v3, on weights made by the rule that the case states."""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

from ditkit.evaluate.networks.inception import Inception
from tests.conformance.harness import Case, covers


def made_up_weight(salt: str, key: str, shape: tuple[int, ...]) -> Tensor:
    """A weight by its name alone, so that nothing needs to be stored."""
    draws = torch.Generator().manual_seed(zlib.crc32(f"{salt}/{key}".encode()))
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if key.endswith("running_var"):
        return 0.5 + torch.rand(shape, generator=draws)
    drawn = torch.randn(shape, generator=draws)
    if key.endswith("bn.weight"):
        return 1 + 0.1 * drawn
    if key.endswith(("bias", "running_mean")):
        return 0.1 * drawn
    return drawn * (2 / math.prod(shape[1:])) ** 0.5


@covers("inception_forward*")
def inception_forward(case: Case) -> dict[str, Tensor]:
    salt, keys = case.config["salt"], case.config["keys"]
    network = Inception({key: made_up_weight(salt, key, tuple(shape)) for key, shape in keys})
    found: dict[str, Tensor] = {}
    for i in range(len(case.config["sizes"])):
        maps = network.maps(case.inputs[f"images{i}"])
        taps = network.taps(maps)
        assert taps.logits is not None
        assert taps.spatial is not None
        found |= {f"f{width}_{i}": maps[width].mean((2, 3)) for width in ("64", "192", "768")}
        found |= {f"f2048_{i}": taps.features, f"spatial{i}": taps.spatial, f"flogits_unbiased_{i}": taps.logits}
        found[f"flogits_{i}"] = taps.logits + network.net.fc.bias
    return found
