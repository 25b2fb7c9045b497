"""Measured references kept on disk: the same images in the same network's eyes are measured once."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from ditkit.base.errors import UserError
from ditkit.base.files import atomic_file
from ditkit.base.tensors import save_tensors
from ditkit.evaluate.measured import Side
from ditkit.evaluate.networks.network import FeatureNetwork

KEY = "fingerprint"


def reference_fingerprint(images: str, network: FeatureNetwork, quantities: Iterable[str]) -> str:
    """What a measured reference hangs on, as 64 hexadecimal digits: images, network and what is kept of it.

    images: a fingerprint of them, their size and their labels.
    """
    protocol = {"images": images, "network": dataclasses.asdict(network.protocol), "kept": sorted(quantities)}
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()


def cached_reference(
    folder: Path | str,
    fingerprint: str,
    make: Callable[[], Side],
    prepare: Callable[[Side], object] = lambda side: None,
) -> Side:
    """The side kept in ``folder`` under its fingerprint; else what ``make`` measures, then kept there.

    Other fingerprints have other files, so a stale one is never taken; a damaged one is measured again.
    prepare: computes what is wanted of the side besides, and may not have been when it was kept.
    """
    path = Path(folder) / f"{fingerprint[:16]}.safetensors"
    try:
        side = load_side(path, fingerprint)
    except UserError:
        save_side(path, make(), fingerprint)
        # as it is read, also the first time: how a tensor lies in memory moves the last digit of its products
        side = load_side(path, fingerprint)
    kept = side.state.keys()
    prepare(side)
    if side.state.keys() != kept:
        with contextlib.suppress(OSError):  # a folder that may only be read: it is computed again
            save_side(path, side, fingerprint)
    return side


def save_side(path: Path | str, side: Side, fingerprint: str) -> None:
    """Writes a side's statistics with the fingerprint of what they were measured on."""
    with atomic_file(path) as temporary:
        # Copies: statistics may share memory, which the format does not allow.
        save_tensors({k: v.clone() for k, v in side.state.items()}, temporary, {KEY: fingerprint})


def load_side(path: Path | str, fingerprint: str | None = None) -> Side:
    """What ``save_side`` wrote. Raises UserError when it is missing, damaged or of another fingerprint (None: any)."""
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            found = (file.metadata() or {}).get(KEY)
        state = load_file(path)
        if fingerprint is None or found == fingerprint:
            return Side.of_state(state)
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        line = " ".join(str(error).split())[:120]
        raise UserError(f"no usable statistics in {path} ({line}): delete the file and measure again") from error
    raise UserError(
        f"{path} is stale: measured on {str(found)[:16]}, expected {fingerprint[:16]} (other images, network or "
        "scores): delete it and measure again"
    )
