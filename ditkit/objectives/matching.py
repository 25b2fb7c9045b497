"""Floor 3: match the network's row to its target (simple), and learn the variance beside it (hybrid)."""

from __future__ import annotations

from torch import Tensor

from ditkit.base.errors import UserError
from ditkit.objectives.loss import Draws, Loss, mean_flat
from ditkit.objectives.variational import variational_term
from ditkit.process.chain import Chain, full_chain
from ditkit.process.denoiser import Denoised, Denoiser
from ditkit.process.prediction import split_variance


def simple(denoiser: Denoiser, x0: Tensor, draws: Draws) -> Loss:
    """E || p_net - p ||^2 on the denoiser's own row (Ho et al. 2020, eq. 14, for the eps row). x0: (B, C, ...)."""
    x_t = denoiser.path.mix(x0, draws.eps, draws.t)
    p, _ = split_variance(denoiser.output(x_t, draws.t).prediction, x0.shape[1])
    return Loss({"mse": _mse(denoiser, p, x0, draws)})


def hybrid(denoiser: Denoiser, x0: Tensor, draws: Draws, chain: Chain | None = None, *, vb_weight: float = 1.0) -> Loss:
    """simple + vb_weight * L_vb with the mean detached, so that L_vb teaches the variance only (iDDPM, eq. 16).

    L_vb is the term of the bound at t in bits per dimension; vb_weight is 1 in DiT (iDDPM's lambda = 0.001 on the sum
    of T = 1000 terms is the same thing). chain: with draws.t among its times; None: all the path's own T.
    """
    chain = chain or full_chain(denoiser.path)
    x_t = denoiser.path.mix(x0, draws.eps, draws.t)
    p, mix = split_variance(denoiser.output(x_t, draws.t).prediction, x0.shape[1])
    if mix is None:
        raise UserError("objective 'hybrid': expected a network with learned variance; add it, or use 'simple'")
    said = Denoised(*denoiser.prediction.solve(denoiser.path, p.detach(), x_t, draws.t), mix)
    vb = variational_term(chain, chain.step_at(draws.t), said, x0, x_t, "learned")
    return Loss({"mse": _mse(denoiser, p, x0, draws), "vb": vb_weight * vb})


def _mse(denoiser: Denoiser, p: Tensor, x0: Tensor, draws: Draws) -> Tensor:
    target = denoiser.prediction.target(denoiser.path, x0, draws.eps, draws.t)
    return mean_flat((target - p) ** 2)
