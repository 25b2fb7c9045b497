"""Floor 3: match the network's row to its target (simple), and learn the variance beside it (hybrid)."""

from __future__ import annotations

from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.objectives import weights
from ditkit.objectives.loss import Draws, Loss, mean_flat
from ditkit.objectives.variational import variational_term
from ditkit.objectives.weights import Weight
from ditkit.process.chain import full_chain
from ditkit.process.denoiser import Denoised, Denoiser
from ditkit.process.path import over
from ditkit.process.prediction import split_variance


def simple(denoiser: Denoiser, x0: Tensor, draws: Draws, *, weight: str | Weight = "none") -> Loss:
    """E w(t) || p_net - p ||^2 on the denoiser's own row (Ho et al. 2020, eq. 14, for the eps row). x0: (B, C, ...).

    weight: a name of ditkit.objectives.weights, or a function as they are.
    """
    x_t = denoiser.path.mix(x0, draws.eps, draws.t)
    return Loss({"mse": mean_flat(squared_error(denoiser, x_t, draws.t, x0, draws.eps, weight))})


def squared_error(
    denoiser: Denoiser, x_t: Tensor, t: Tensor, x0: Tensor, eps: Tensor, weight: str | Weight = "none"
) -> Tensor:
    """w(t) (p_net(x_t) - p)^2, (B, C, ...), where p is the row of the given x0 and eps. t: (B,)."""
    p, _ = split_variance(denoiser.output(x_t, t).prediction, x_t.shape[1])
    return _weighed(denoiser, p, t, x0, eps, weight)


def hybrid(denoiser: Denoiser, x0: Tensor, draws: Draws, *, vb_weight: float = 1.0) -> Loss:
    """simple + vb_weight * L_vb with the mean detached, so that L_vb teaches the variance only (iDDPM, eq. 16).

    L_vb is the term of the bound at t in bits per dimension, on the path's own chain of T steps; vb_weight is 1 in DiT
    (iDDPM's lambda = 0.001 on the sum of T = 1000 terms is the same thing). UserError: no learned variance; vb_weight
    below 0.
    """
    if not vb_weight >= 0:
        raise UserError(f"vb_weight {vb_weight:g}: expected at least 0; 1 is DiT's")
    chain = full_chain(denoiser.path)
    x_t = denoiser.path.mix(x0, draws.eps, draws.t)
    p, mix = split_variance(denoiser.output(x_t, draws.t).prediction, x0.shape[1])
    if mix is None:
        raise UserError("objective 'hybrid': expected a network with learned variance; add it, or use 'simple'")
    said = Denoised(*denoiser.prediction.solve(denoiser.path, p.detach(), x_t, draws.t), mix)
    vb = variational_term(chain, chain.step_at(draws.t), said, x0, x_t, "learned")
    mse = mean_flat(_weighed(denoiser, p, draws.t, x0, draws.eps, "none"))
    return Loss({"mse": mse, "vb": vb_weight * vb})


def _weighed(denoiser: Denoiser, p: Tensor, t: Tensor, x0: Tensor, eps: Tensor, weight: str | Weight) -> Tensor:
    path, row = denoiser.path, denoiser.prediction
    w = weights.find(weight)(path, row, t.double())
    return over(w, p) * (row.target(path, x0, eps, t) - p) ** 2
