"""Randomness keyed by (seed, purpose, index...), never by global state.

A draw depends on its key alone: not on the batch size, the number of devices, what was drawn before it or a resume.
Numbers are drawn on the CPU and moved, so that every device sees the same ones.
"""

from __future__ import annotations

import hashlib

import torch


def key(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit number that stands for (seed, purpose, index...)."""
    text = "/".join([str(int(seed)), purpose, *(str(int(i)) for i in index)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """A CPU generator that starts from the key (seed, purpose, index...)."""
    return torch.Generator().manual_seed(key(seed, purpose, *index))


def normal_per_sample(
    shape: tuple[int, ...], seed: int, purpose: str, samples: list[int], *index: int, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Standard normal (len(samples), *shape), float32; row i depends on (seed, purpose, samples[i], index) alone."""
    rows = [torch.randn(shape, generator=generator(seed, purpose, sample, *index)) for sample in samples]
    return torch.stack(rows).to(device)
