"""Floor 4: AdamW with a warm-up, and gradient clipping."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ditkit.train.settings import LoopSettings


def adamw(net: nn.Module, settings: LoopSettings) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019) over the trainable parameters of net, fused where the device can."""
    parameters = [p for p in net.parameters() if p.requires_grad]
    fused = parameters[0].device.type in ("cpu", "cuda")
    return torch.optim.AdamW(
        parameters, lr=settings.lr, betas=settings.betas, weight_decay=settings.weight_decay, fused=fused
    )


def learning_rate(settings: LoopSettings, step: int, progress: float = 0.0) -> float:
    """The learning rate of a step (0, 1, ...): rises over ``warmup`` steps, constant, falls over the ``cooldown``.

    progress: the share of the training that is done, 0 to 1.
    """
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    cool = min(1.0, (1 - progress) / settings.cooldown) if settings.cooldown else 1.0
    return settings.lr * warm * cool


def update(optimizer: torch.optim.Optimizer, lr: float, clip: float | None) -> Tensor:
    """One step at ``lr`` after clipping the gradients' norm, then clears them; gives the norm before clipping, ()."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, float("inf") if clip is None else clip)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
