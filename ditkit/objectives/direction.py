"""Floor 3: the velocity's direction beside its size (Yao et al. 2025, LightningDiT; after Lee et al. 2024)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from ditkit.objectives.loss import Draws, Loss, mean_flat
from ditkit.process.denoiser import Denoiser
from ditkit.process.prediction import split_variance


def direction(denoiser: Denoiser, x0: Tensor, draws: Draws) -> Loss:
    """simple + the mean over positions of 1 - cos(angle between the channels of p_net and p). x0: (B, C, ...)."""
    x_t = denoiser.path.mix(x0, draws.eps, draws.t)
    p, _ = split_variance(denoiser.output(x_t, draws.t).prediction, x0.shape[1])
    target = denoiser.prediction.target(denoiser.path, x0, draws.eps, draws.t)
    cosine = 1 - functional.cosine_similarity(p, target, dim=1)
    return Loss({"mse": mean_flat((target - p) ** 2), "cosine": mean_flat(cosine)})
