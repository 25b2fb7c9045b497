"""Losses, targets and preconditioning of EDM, stable target field and score_sde: one path, row and weight each.

EDM's code works on x_t / alpha at noise sigma / alpha; a path with alpha < 1 meets it at x_t = alpha x.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ditkit.backbones.output import Output
from ditkit.objectives import weights
from ditkit.objectives.loss import Draws
from ditkit.objectives.matching import simple, squared_error
from ditkit.objectives.targets import noise_of, posterior_mean
from ditkit.process import betas, prediction
from ditkit.process.chain import full_chain
from ditkit.process.continuous import EDM, VE, VP, SubVP
from ditkit.process.denoiser import Denoiser
from ditkit.process.path import Cosine, DiscretePath, Path, over
from ditkit.process.prediction import X0, Eps, Prediction, Score
from tests.conformance.harness import Case, covers

Net = Callable[[Tensor, Tensor], Tensor]
VP_LABELS = 999.0
"""EDM's VPPrecond and score_sde number the times 0 to 999 (M = N = 1000)."""
VP_FIRST_TIME = 1e-5
"""EDM's epsilon_t of VPPrecond and VPLoss: their smallest noise is that of this time."""
VE_NOISES = (0.02, 100.0)
"""EDM's sigma_min and sigma_max of VEPrecond and VELoss."""


def denoiser(net: Net, path: Path, row: Prediction) -> Denoiser:
    """A denoiser whose network is a function of the input and the network's time."""
    return Denoiser(lambda x, time, condition: Output(net(x, time), {}), path, row)


def noise_level(path: Path, t: Tensor) -> Tensor:
    """sigma / alpha."""
    return (-path.log_snr(t)).exp()


def time_of(path: Path, noise: Tensor) -> Tensor:
    """The time at which sigma / alpha is ``noise``."""
    return path.time_at(-noise.double().log())


def channels(w: Tensor, x: Tensor) -> Tensor:
    """A matrix applied to the channels of x (B, C, H, W)."""
    return torch.einsum("ij,bj...->bi...", w, x)


class Nearest(Cosine):
    """iDDPM's chain as EDM sees it: a network is told the index whose noise is nearest."""

    def network_time(self, t: Tensor) -> Tensor:
        return self.steps - 1.0 - self.step_near(noise_level(self, t))

    def levels(self) -> Tensor:
        """The noise of the chain's times, the clean image's 0 last."""
        return noise_level(self, full_chain(self).ts)

    def step_near(self, noise: Tensor) -> Tensor:
        """The step that starts at the nearest level; one past the last where that is the clean image."""
        return (noise.double()[..., None] - self.levels()).abs().argmin(-1)


class Preconditioned:
    """What EDM's code calls a preconditioned network, as a path, a row, and how the raw network is used."""

    def __init__(
        self, path: Path, row: Prediction, sign: Callable[[Tensor], Tensor], time: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        """sign: what multiplies the raw network for the row, of sigma; time: c_noise, of (sigma, network time)."""
        self.path, self.row, self.sign, self.time = path, row, sign, time

    def results(self, x: Tensor, noise: Tensor, w: Tensor) -> dict[str, Tensor]:
        """The denoised image, and what the network saw."""
        seen: dict[str, Tensor] = {}
        t = time_of(self.path, noise)

        def net(x: Tensor, time: Tensor) -> Tensor:
            seen.update(model_x=x, model_c=self.time(noise, time))
            return over(self.sign(noise), x) * channels(w, x)

        said = denoiser(net, self.path, self.row)(over(self.path.alpha(t), x) * x, t)
        return {"denoised": said.x0, **seen}


@covers("edm_precond")
def preconditioning(case: Case) -> dict[str, Tensor]:
    x, noise, w = (case.inputs[name] for name in ("x", "sigma", "W"))
    one = torch.ones_like(noise)
    # the reference's networks take noise below their range too
    vp, ve, iddpm = VP(), VE(sigma_min=VE_NOISES[0] * 1e-3, sigma_max=VE_NOISES[1]), Nearest()
    row = prediction.EDM(sigma_data=case.config["sigma_data"])

    def vp_label(noise: Tensor, time: Tensor) -> Tensor:
        return time * VP_LABELS / 1000

    kinds = {
        "VPPrecond": Preconditioned(vp, Eps(), lambda noise: one, vp_label),
        # the raw network is minus the noise: sigma times the score
        "VEPrecond": Preconditioned(ve, Score(), lambda noise: 1 / noise, lambda noise, time: (noise / 2).log()),
        "iDDPMPrecond": Preconditioned(iddpm, Eps(), lambda noise: one, lambda noise, time: time),
        "EDMPrecond": Preconditioned(EDM(), row, lambda noise: one, lambda noise, time: time),
    }
    out = {f"{kind}.{name}": value for kind, k in kinds.items() for name, value in k.results(x, noise, w).items()}
    levels = iddpm.levels()
    ends = torch.tensor([VP_FIRST_TIME, 1.0], dtype=torch.float64)
    return out | {
        "VPPrecond.round_sigma": noise_level(vp, time_of(vp, noise)),
        "VPPrecond.sigma_range": noise_level(vp, ends),
        "VEPrecond.round_sigma": noise_level(ve, time_of(ve, noise)),
        "VEPrecond.sigma_range": torch.tensor(VE_NOISES),
        "iDDPMPrecond.round_sigma": levels[iddpm.step_near(noise)],
        "iDDPMPrecond.sigma_range": levels[[-2, 0]],
        "EDMPrecond.round_sigma": noise_level(EDM(), time_of(EDM(), noise)),
        "EDMPrecond.sigma_range": torch.tensor([0.0, math.inf]),
    }


@covers("stf_targets")
def stable_targets(case: Case) -> dict[str, Tensor]:
    images, extra, z, w = (case.inputs[name] for name in ("images", "ref_extra", "noise", "W"))
    normal, uniform = (case.inputs[name].flatten() for name in ("rnd_normal", "rnd_uniform"))
    references = torch.cat([images, extra])
    edm_noise = (case.config["P_std"] * normal + case.config["P_mean"]).exp()
    edm_weight = functools.partial(weights.edm, sigma_data=case.config["sigma_data"])
    path = EDM(sigma_max=1e3)
    given = time_of(path, case.inputs["sigmas"])

    def loss(path: Path, t: Tensor, weight: weights.Weight, references: Tensor | None = None) -> Tensor:
        noise = noise_level(path, t)

        def net(x: Tensor, time: Tensor) -> Tensor:
            return over(1 / (path.alpha(t) * (1 + noise)), x) * channels(w, x)

        x_t = path.mix(images, z, t)
        x0 = images if references is None else posterior_mean(path, x_t, t, references)
        return squared_error(denoiser(net, path, X0()), x_t, t, x0, noise_of(path, x_t, t, x0), weight)

    t = time_of(path, edm_noise)
    ve = VE(sigma_min=VE_NOISES[0], sigma_max=VE_NOISES[1])
    return {
        "stf_targets": posterior_mean(path, path.mix(images, z, given), given, references),
        "edm_stf_loss": loss(path, t, edm_weight, references),
        "edm_loss": loss(path, t, edm_weight),
        "vp_loss": loss(VP(), 1 + uniform.double() * (VP_FIRST_TIME - 1), weights.snr),
        "ve_loss": loss(ve, uniform.double(), weights.snr),
    }


def linear_score(path: Path, covariance: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """(x, t) -> the score of data N(0, covariance) over channels, independent from pixel to pixel."""

    def score(x: Tensor, t: Tensor) -> Tensor:
        alpha, sigma = (c.reshape(-1, 1, 1) for c in (path.alpha(t), path.sigma(t)))
        marginal = alpha**2 * covariance.double() + sigma**2 * torch.eye(len(covariance), dtype=torch.float64)
        return -torch.linalg.solve(marginal, x.double().flatten(2)).reshape(x.shape).to(x.dtype)

    return score


@covers("score_sde_losses")
def score_losses(case: Case) -> dict[str, Tensor]:
    config, x0, z = case.config, case.inputs["batch"], case.inputs["z"]
    size = x0[0].numel()
    noises = {"sigma_min": config["sigma_min"], "sigma_max": config["sigma_max"]}
    bounds = {"beta_min": config["beta_min"], "beta_max": config["beta_max"]}
    # the reference's "std" weight measures the noise's error, "likelihood" weighs the score's by g^2
    named = {"std": "snr", "likelihood": "likelihood"}
    kinds: dict[str, tuple[Path, Prediction, float]] = {
        "VP": (VP(**bounds), Eps(), config["eps"]),
        "subVP": (SubVP(**bounds), Eps(), config["eps"]),
        "VE": (VE(**noises), Score(), 1e-5),
    }
    out = {}
    for kind, (path, row, first) in kinds.items():
        t = case.inputs["u"].double() * (1 - first) + first
        score = linear_score(path, case.inputs["Sigma"])

        def net(
            x: Tensor, time: Tensor, path: Path = path, row: Prediction = row, t: Tensor = t, score=score
        ) -> Tensor:
            s = score(x, t)
            return s if isinstance(row, Score) else -over(path.sigma(t), s) * s

        for weighting, weight in named.items():
            mean = simple(denoiser(net, path, row), x0, Draws(t, z), weight=weight).total
            out |= {f"{kind}.{weighting}.mean": mean, f"{kind}.{weighting}.sum": mean * size / 2}
    return out | legacy(config, x0, z, case.inputs["labels"])


def legacy(config: dict[str, Any], x0: Tensor, z: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The losses of the discrete models; SMLD's labels count from the noisiest level, and its loss is half the sum."""
    steps = config["N"]
    ve = VE(sigma_min=config["sigma_min"], sigma_max=config["sigma_max"])
    chain = DiscretePath(betas.linear(steps, config["beta_min"] / steps, config["beta_max"] / steps))
    half = lambda x, time: 0.5 * x  # noqa: E731
    smld = Draws(1 - labels.double() / (steps - 1), z)
    ddpm = Draws((labels.double() + 1) / steps, z)
    return {
        "legacy_smld": simple(denoiser(half, ve, Score()), x0, smld, weight="snr").total * x0[0].numel() / 2,
        "legacy_ddpm": simple(denoiser(half, chain, Eps()), x0, ddpm).total,
    }
