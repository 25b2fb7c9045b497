"""Floor 4: the settings of a training run, as data. Imports no torch: the command line reads them for --help."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)
"""Of every part of a recipe: no unknown keys, no infinite numbers; ``steps: 50`` may stand for ``steps: '50'``."""

Positive = Annotated[int, Field(gt=0, lt=2**31)]
Probability = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Within = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, config=STRICT)
class LoopSettings:
    """How any network is trained."""

    steps: Positive = 100_000
    """Optimiser steps in all."""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """Stop after this many minutes of training even if steps are left; None: no limit.

    Samples, measurements and checkpoints made in between do not count.
    """
    batch_size: Positive = 256
    """Images per optimiser step."""
    accumulate: Positive = 1
    """Split each batch into this many forward and backward passes, to save memory."""
    lr: Annotated[float, Field(gt=0)] = 1e-4
    """Learning rate of AdamW after the warm-up."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps over which the learning rate rises linearly from 0."""
    cooldown: Probability = 0.0
    """Share of the training, at its end, over which the learning rate falls linearly to 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled weight decay."""
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    """AdamW's decay rates of the first and second moment."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest gradient norm; None: no clipping."""
    ema_decay: Probability = 0.9999
    """Decay of the exponential moving average of the weights (reached gradually in the first steps)."""
    ema_also: tuple[Within, ...] = ()
    """Decays of further averages to keep beside it, such as 0.99 0.999, each above 0 and below 1, a copy of the network
    each; ``--weights ema-0.99`` draws from one."""
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    """The dtype of the network's matrix products; weights, loss, optimiser and EMA stay float32. auto: bfloat16 on a
    device that computes in it natively, else float32."""
    compile: bool = False
    """Compile the network with torch.compile."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, mps."""
    log_every: Positive = 20
    """Steps between lines of log.jsonl."""
    checkpoint_every: Positive = 5_000
    """Steps between checkpoints."""
    keep_checkpoints: Positive = 2
    """How many of the newest checkpoints stay."""


@dataclass(frozen=True, config=STRICT)
class AutoencoderSettings(LoopSettings):
    """How an autoencoder is trained: its steps take long for so few images, since it works at full resolution."""

    batch_size: Positive = 16
    """Images per optimiser step."""
    log_every: Positive = 10
    """Steps between lines of log.jsonl."""
    checkpoint_every: Positive = 1_000
    """Steps between checkpoints, each with the autoencoder as it is then."""


@dataclass(frozen=True, config=STRICT)
class TrainSettings(LoopSettings):
    """How a denoiser is trained."""

    label_dropout: Probability = 0.1
    """Share of the samples that train the learned null, for classifier-free guidance."""
    sample_every: Positive | None = 5_000
    """Steps between sample grids; None: none."""
