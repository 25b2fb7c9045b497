"""Cases of yang-song/score_sde_pytorch: coefficients, predictor-corrector and ODE samplers, likelihood.

Its N noising steps and its N times linspace(1, eps, N) are not the same: a step there is one of the chain whose index
is N - 1 times the time, rounded down, with the score of the time itself.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ditkit.evaluate.likelihood import Hutchinson, log_likelihood, prior_log_density
from ditkit.process import betas
from ditkit.process.chain import Chain
from ditkit.process.continuous import VE, VP, Linear, SubVP
from ditkit.process.denoiser import Denoised
from ditkit.process.path import DiscretePath, Path, over
from ditkit.process.prediction import Score
from ditkit.solvers import predictor_corrector as pc
from ditkit.solvers.dopri5 import dopri5
from ditkit.solvers.sde import drift
from tests.conformance.adapters.objectives import linear_score
from tests.conformance.harness import Case, covers

LOG2_HALF_LEVELS = 7
"""log2 of 128: the reference's 256 levels fill [-1, 1], a level being 1 / 128."""
ANCESTRAL_BETA = {"VP"}
"""Whose ancestral sampler adds noise of variance beta, not beta~."""


class Levels(Path):
    """VE as a chain of N noise levels (SMLD); below the least there is the clean image."""

    name = "smld"

    def __init__(self, steps: int, low: float, high: float) -> None:
        levels = torch.linspace(math.log(low), math.log(high), steps, dtype=torch.float64).exp()
        self.levels, self.steps = torch.cat([torch.zeros(1, dtype=torch.float64), levels]), steps

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.levels[(t * self.steps).round().long()]

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        raise ValueError("noise levels have no derivative")


def paths_of(config: dict[str, Any]) -> dict[str, Path]:
    """The reference's three SDEs."""
    bounds = {"beta_min": config["beta_min"], "beta_max": config["beta_max"]}
    ve = VE(sigma_min=config["sigma_min"], sigma_max=config["sigma_max"])
    return {"VP": VP(**bounds), "subVP": SubVP(**bounds), "VE": ve}


def chain_of(kind: str, config: dict[str, Any]) -> Chain | None:
    """The chain that the reference discretises an SDE to; None for sub-VP, whose steps are Euler's."""
    steps = config["N"]
    ts = torch.arange(steps, -1, -1, dtype=torch.float64) / steps
    if kind == "VP":
        return Chain(DiscretePath(betas.linear(steps, config["beta_min"] / steps, config["beta_max"] / steps)), ts)
    if kind == "VE":
        return Chain(Levels(steps, config["sigma_min"], config["sigma_max"]), ts)
    return None


def step_of(chain: Chain, t: Tensor) -> Tensor:
    """The chain's step that a time stands for."""
    steps = len(chain)
    return steps - 1 - (t * (steps - 1)).long()


def from_score(path: Path, score: Tensor, x: Tensor, t: Tensor) -> Denoised:
    """What a score says on a path."""
    return Denoised(*Score().solve(path, score, x, t))


@covers("score_sde_coeffs")
def coefficients(case: Case) -> dict[str, Tensor]:
    x, t32, score = (case.inputs[name] for name in ("x", "t", "score"))
    t, out = t32.double(), {}
    for kind, path in paths_of(case.config).items():
        g, one = path.diffusion_squared(t).sqrt(), torch.ones((), dtype=torch.float64)
        said = from_score(path, score, x, t)
        forward, reverse, flow = over(path.drift(t), x) * x, drift(path, t, said, g**2), drift(path, t, said)
        steps = discretised(chain_of(kind, case.config), case.config["N"], t32, x, score, (forward, reverse, flow, g))
        out |= {
            f"{kind}.{name}": value
            for name, value in {
                "marginal_mean": over(path.alpha(t), x) * x,
                "marginal_std": path.sigma(t),
                "drift": forward,
                "diffusion": g,
                # the reference's prior of VP and sub-VP is N(0, I) itself
                "prior_logp": prior_log_density(path if kind == "VE" else Linear(), x, one),
                "reverse_drift": reverse,
                "reverse_diffusion": g,
                "pf_drift": flow,
                **steps,
                "pf_discretize_G": torch.zeros_like(g),
            }.items()
        }
    return out


def discretised(
    chain: Chain | None, steps: int, t: Tensor, x: Tensor, score: Tensor, euler: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    """f and G of a step forward, backward and along the flow."""
    forward, reverse, flow, g = euler
    if chain is None:
        f, back, along, size = forward / steps, reverse / steps, flow / steps, g / math.sqrt(steps)
    else:
        rows = [back_step(chain, int(k), x[i : i + 1], score[i : i + 1]) for i, k in enumerate(step_of(chain, t))]
        f, back, along, size = (torch.cat(parts) for parts in zip(*rows, strict=True))
    return {
        "discretize_f": f,
        "discretize_G": size,
        "reverse_discretize_f": back,
        "reverse_discretize_G": size,
        "pf_discretize_f": along,
    }


def back_step(chain: Chain, k: int, x: Tensor, score: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(f, reverse f, flow's f, G) of step k of the chain, x being one sample; f is what a step takes away."""
    said = from_score(chain.path, score, x, chain.t[k])
    still = Denoised(said.x0, torch.zeros_like(x))
    back, std = pc.reverse_diffusion(chain, k, x, said)
    along, _ = pc.probability_flow(chain, k, x, said)
    return x - pc.reverse_diffusion(chain, k, x, still)[0], x - back, x - along, std[None]


@dataclasses.dataclass
class Sampler:
    """get_pc_sampler of one SDE: a corrector's step and a predictor's at each of N times."""

    case: Case
    kind: str

    def __post_init__(self) -> None:
        config = self.case.config
        self.path, self.chain = paths_of(config)[self.kind], chain_of(self.kind, config)
        self.score = linear_score(self.path, self.case.inputs["Sigma"])
        self.steps = config["N"]
        self.times = torch.linspace(1, config["eps"], self.steps, dtype=torch.float64)
        scale = config["sigma_max"] if self.kind == "VE" else 1.0
        self.start = scale * self.case.inputs["prior"]

    def predicted(self, name: str, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std of a predictor's step."""
        if name == "em" or self.chain is None:
            said = from_score(self.path, self.score(x, t), x, t)
            g2 = self.path.diffusion_squared(t) * (name != "pf")
            return x - drift(self.path, t, said, g2) / self.steps, (g2 / self.steps).sqrt()
        k = int(step_of(self.chain, t))
        said = from_score(self.chain.path, self.score(x, t), x, self.chain.t[k])
        predictor = {"rd": pc.reverse_diffusion, "pf": pc.probability_flow, "anc": pc.ancestral}[name]
        mean, std = predictor(self.chain, k, x, said)
        return mean, self.chain.beta[k].sqrt() if name == "anc" and self.kind in ANCESTRAL_BETA else std

    def corrected(self, name: str, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """A corrector's step; the reference averages the norms over the batch."""
        assert self.chain is not None
        s, k = self.score(x, t), int(step_of(self.chain, t))
        ratio = pc.norm(z).mean() / pc.norm(s).mean() if name == "langevin" else self.path.sigma(t)
        return pc.corrected(x, s, z, pc.step_size(self.chain, k, ratio, self.case.config["snr"]))

    def run(self, predictor: str, corrector: str) -> Tensor:
        """The mean of the last predictor's step."""
        draws = iter(self.case.inputs["noises"])
        x = mean = self.start
        for t in self.times:
            for _ in range(self.case.config["n_steps"] if corrector != "none" else 0):
                x = self.corrected(corrector, x, t, next(draws))
            mean, std = self.predicted(predictor, x, t)
            x = mean + over(std, mean) * next(draws)
        return mean

    def ode(self) -> Tensor:
        """The probability-flow ODE from 1 to eps."""

        ends = torch.tensor([1, self.case.config["eps"]], dtype=torch.float64)
        *_, last = dopri5(Scored(self.path, self.score), self.start, ends, rtol=1e-5, atol=1e-5)
        return last.x


@dataclasses.dataclass
class Scored:
    """A Denoise from a score."""

    path: Path
    score: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, x: Tensor, t: Tensor) -> Denoised:
        return from_score(self.path, self.score(x, t), x, t)


@covers("score_sde_samplers")
def samplers(case: Case) -> dict[str, Tensor]:
    out = {}
    for name in case.expected():
        kind, predictor, *rest = name.split(".")
        sampler = Sampler(case, kind)
        if predictor == "ode":
            out[name] = sampler.ode()
        else:
            out[name] = sampler.run("pf" if rest[1:] == ["pf"] else predictor, rest[0])
    return out


@covers("score_sde_likelihood")
def likelihood(case: Case) -> dict[str, Tensor]:
    data, config = case.inputs["data"], case.config
    times = torch.tensor([config["eps"], 1], dtype=torch.float64)
    probes = 2 * case.inputs["bits"][None] - 1
    covariance = case.inputs["Sigma"].double()
    pixels = data.double().flatten(2)
    square = torch.einsum("bip,ij,bjp->b", pixels, torch.linalg.inv(covariance), pixels)
    constant = pixels.shape[2] * torch.logdet(2 * math.pi * covariance)
    out = {"exact_data_logp_nats": -(square + constant) / 2}
    for kind, path in paths_of(config).items():
        denoise = Scored(path, linear_score(path, case.inputs["Sigma"]))
        solver = functools.partial(dopri5, rtol=config["rtol"], atol=config["atol"])
        found = log_likelihood(denoise, data, divergence=Hutchinson(probes), times=times, solver=solver)
        out |= {f"{kind}.bpd": found.bits_per_dim(2.0**-LOG2_HALF_LEVELS)[0], f"{kind}.latent": found.latent}
    return out
