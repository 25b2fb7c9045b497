"""Floor 5: how large the files are that a protocol takes, as far as its networks tell."""

from __future__ import annotations

import torch
from torch import nn

from ditkit.app import build, costing
from ditkit.app.reproduction.protocol import File, Pinned

LATENTS = "kl"
"""The autoencoder whose latents are taken for a protocol's where its files, which say more, are not read."""


def sizes(pinned: Pinned) -> dict[File, int]:
    """Bytes of the files whose numbers are those of a network that the protocol names, in float32 as published."""
    found: dict[File, int] = {pinned.weights: _bytes(_network(pinned))}
    known = costing.outlines()
    if pinned.network_weights is not None and pinned.network in known:
        found[pinned.network_weights] = _bytes(known[pinned.network].outline()[0])
    return found


def words(count: int) -> str:
    """So many bytes, such as 2.7 GB."""
    unit, name = (1e9, "GB") if count >= 1e9 else (1e6, "MB")
    return f"{count / unit:.2g} {name}"


def _network(pinned: Pinned) -> nn.Module:
    with torch.device("meta"):
        shape = pinned.image
        if pinned.autoencoder:
            shape = build.known("autoencoder")[LATENTS]().latent_shape(shape)
        facts = {"input_size": shape[1:], "channels": shape[0], "classes": [""] * pinned.classes}
        return build.network(pinned.recipe.model, pinned.recipe.process, facts)


def _bytes(net: nn.Module) -> int:
    return 4 * sum(value.numel() for value in net.state_dict().values())
