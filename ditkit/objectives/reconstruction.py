"""Losses of autoencoders: likeness at several scales, and the two sides of the hinge game with its adaptive weight."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ditkit.objectives.loss import mean_flat

BINOMIAL = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
"""The filter of Burt & Adelson 1983, in one direction."""
COARSEST = 4
"""Bands of fewer pixels a side are not told apart."""
DELTA, MOST = 1e-6, 1e4
"""What keeps the adaptive weight finite, and its bound (Esser et al. 2021, equation 7)."""


def blur(x: Tensor) -> Tensor:
    """x (B, C, H, W) under the binomial filter, borders mirrored."""
    row = torch.tensor(BINOMIAL, dtype=x.dtype, device=x.device).expand(x.shape[1], 1, 1, -1)
    x = F.conv2d(F.pad(x, (2, 2, 0, 0), mode="reflect"), row, groups=x.shape[1])
    return F.conv2d(F.pad(x, (0, 0, 2, 2), mode="reflect"), row.mT, groups=x.shape[1])


def laplacian(x: Tensor, y: Tensor) -> Tensor:
    """Distance in the Laplacian pyramid, (B,): the sum over its bands of their mean absolute differences.

    x, y: (B, C, H, W). Bojanowski et al. 2018 (arXiv:1707.05776), section 3.2: a mean over a band is its sum with the
    weight 2^(2j) there. The pyramid is linear, so that of the difference is enough.
    """
    rest, total = x - y, x.new_zeros(len(x))
    while min(rest.shape[2:]) >= 2 * COARSEST:
        smooth = blur(rest)
        total = total + mean_flat((rest - smooth).abs())
        rest = smooth[..., ::2, ::2]
    return total + mean_flat(rest.abs())


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss (B,) from its logits (B, 1, h, w) of images and of reconstructions.

    Lim & Ye 2017 (arXiv:1705.02894): half of max(0, 1 - real) + max(0, 1 + fake).
    """
    return 0.5 * (mean_flat(F.relu(1 - real)) + mean_flat(F.relu(1 + fake)))


def hinge_generator(fake: Tensor) -> Tensor:
    """The autoencoder's loss (B,) from the discriminator's logits (B, 1, h, w) of its reconstructions."""
    return -mean_flat(fake)


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last: Tensor) -> Tensor:
    """|d reconstruction / d last| / (|d adversarial / d last| + 1e-6), at most 1e4, (), without gradient.

    reconstruction, adversarial: losses, (). last: the weight of the decoder's last layer. Esser et al. 2021
    (arXiv:2012.09841), equation 7: both losses pull equally hard at the last layer.
    """
    (pull,) = torch.autograd.grad(reconstruction, last, retain_graph=True)
    (push,) = torch.autograd.grad(adversarial, last, retain_graph=True)
    return (pull.norm() / (push.norm() + DELTA)).clamp(0, MOST).detach()
