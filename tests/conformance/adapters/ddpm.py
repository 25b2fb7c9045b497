"""Gaussian diffusion as published with DiT: index n = 0..T-1 (our step k = T - 1 - n), foreign names, eps nets."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ditkit.backbones.output import Output
from ditkit.guidance import DIT_CHANNELS, ClassifierGuided, shift_mean
from ditkit.objectives.loss import Draws
from ditkit.objectives.matching import hybrid, simple
from ditkit.objectives.variational import bound, prior_term, variational_term, vlb
from ditkit.process import betas
from ditkit.process.chain import Chain, full_chain
from ditkit.process.denoiser import Denoise, Denoised, Denoiser, MapX0, clipped
from ditkit.process.gaussian import (
    discretized_gaussian_log_likelihood,
    normal_cdf,
    normal_kl,
    standard_normal_log_density,
)
from ditkit.process.grid import chain_grid, respaced_indices
from ditkit.process.path import Cosine, DDPMLinear, DiscretePath, over
from ditkit.process.prediction import X0, Eps, Prediction
from ditkit.solvers.ancestral import ddim, ddim_step, ddpm, ddpm_moments, ddpm_step
from tests.conformance.adapters.dit import condition_of, load_case
from tests.conformance.adapters.dit_guidance import guided_halves
from tests.conformance.harness import Case, covers

PATHS: dict[str, type[DDPMLinear] | type[Cosine]] = {"linear": DDPMLinear, "squaredcos_cap_v2": Cosine}
DIFFUSION_STEPS = 1000
"""The steps of the reference's ``create_diffusion`` where a case names none."""


def path_of(config: dict[str, Any]) -> DiscretePath:
    """The path that a case's settings name."""
    return PATHS[config.get("schedule") or config["noise_schedule"]](steps=config.get("T", DIFFUSION_STEPS))


def respaced(path: DiscretePath, spec: str | list[int]) -> Chain:
    """The chain of the path at the indices of a respacing."""
    return Chain(path, chain_grid(path, respaced_indices(path.steps, spec)))


def step_of(chain: Chain, n: Tensor) -> Tensor:
    """The step of the chain that starts at its index n, counted from the least noisy."""
    return len(chain) - 1 - n


def arrays(chain: Chain) -> dict[str, Tensor]:
    """The chain's coefficients under the reference's names, least noisy step first."""
    found = {
        "betas": chain.beta,
        "alphas_cumprod": chain.alpha_t**2,
        "alphas_cumprod_prev": chain.alpha_s**2,
        "alphas_cumprod_next": torch.cat([torch.zeros(1), chain.alpha_t[:-1] ** 2]).double(),
        "sqrt_alphas_cumprod": chain.alpha_t,
        "sqrt_one_minus_alphas_cumprod": chain.sigma_t,
        "log_one_minus_alphas_cumprod": 2 * chain.sigma_t.log(),
        "sqrt_recip_alphas_cumprod": 1 / chain.alpha_t,
        "sqrt_recipm1_alphas_cumprod": (-chain.path.log_snr(chain.t)).exp(),
        "posterior_variance": chain.posterior_variance,
        # of a chain of one step the reference keeps none: there is no step before it to clip by
        "posterior_log_variance_clipped": chain.log_small if len(chain) > 1 else chain.log_small[:0],
        "posterior_mean_coef1": chain.posterior_x0,
        "posterior_mean_coef2": chain.posterior_xt,
    }
    return {name: value.flip(0) for name, value in found.items()}


@covers("ddpm_schedule_*")
def schedules(case: Case) -> dict[str, Tensor]:
    out = {}
    for steps in case.config["T"]:
        path = path_of(case.config | {"T": steps})
        out |= {f"T{steps}.{name}": value for name, value in arrays(full_chain(path)).items()}
    return out


@covers("ddpm_schedule_legacy")
def legacy_schedules(case: Case) -> dict[str, Tensor]:
    steps, first, last = case.config["T"], case.config["beta_start"], case.config["beta_end"]
    known: dict[str, Callable[[], Tensor]] = {
        "quad": lambda: betas.scaled_linear(steps, first, last),
        "linear": lambda: betas.linear(steps, first, last),
        "const": lambda: betas.constant(steps, last),
        "jsd": lambda: betas.inverse(steps),
    }

    def schedule(name: str) -> Tensor:
        if name.startswith("warmup"):
            return betas.warmup(steps, first, last, int(name.removeprefix("warmup")) / 100)
        return known[name]()

    return {name: schedule(name) for name in case.config["schedules"]}


@covers("ddpm_space_timesteps")
def space_timesteps(case: Case) -> dict[str, Tensor]:
    path = path_of(case.config)
    out = {}
    for spec in case.config["specs"]:
        key = spec.replace(",", "_") or "empty"
        out[f"steps.{key}"] = torch.tensor(respaced_indices(path.steps, spec))
        out |= {f"arr.{key}.{name}": value for name, value in arrays(respaced(path, spec)).items()}
    for steps, spec in case.config["extra"]:
        sections = spec.split(",") if isinstance(spec, str) else map(str, spec)
        out["extra." + "_".join([str(steps), *sections])] = torch.tensor(respaced_indices(steps, spec))
    return out


@covers("ddpm_q")
def forward_process(case: Case) -> dict[str, Tensor]:
    x0, eps, x_t, n = (case.inputs[name] for name in ("x_start", "noise", "x_t", "t"))
    path = path_of(case.config)
    chain = full_chain(path)
    k = step_of(chain, n)
    t = chain.t[k]
    full = torch.ones_like(x0)
    return {
        "q_mean": path.mix(x0, torch.zeros_like(x0), t),
        "q_variance": over(path.sigma(t) ** 2, full) * full,
        "q_log_variance": over((path.sigma(t) ** 2).log(), full) * full,
        "x_t": path.mix(x0, eps, t),
        "post_mean": chain.posterior_mean(x0, x_t, k),
        "post_variance": over(chain.posterior_variance[k], full) * full,
        "post_log_variance_clipped": chain.log_variance("posterior", k, full) * full,
        "xstart_from_eps": Eps().solve(path, eps, x_t, t)[0],
        "eps_from_xstart": X0().solve(path, x0, x_t, t)[1],
        "prior_bpd": prior_term(chain, x0),
    }


@covers("ddpm_likelihood_terms")
def likelihood_terms(case: Case) -> dict[str, Tensor]:
    names = ("x", "means", "log_scales", "mean2", "logvar1", "logvar2")
    x, mean, log_std, mean_2, log_variance_1, log_variance_2 = (case.inputs[name] for name in names)
    return {
        "log_probs": discretized_gaussian_log_likelihood(x, mean, log_std),
        "kl": normal_kl(mean, log_variance_1, mean_2, log_variance_2),
        "cdf": normal_cdf(2 * mean_2),
        "cont_log_probs": standard_normal_log_density((x - mean) * torch.exp(-log_std)),
    }


def variance_of(settings: dict[str, bool]) -> str:
    """The variance rule that ``create_diffusion``'s arguments name."""
    if settings.get("learn_sigma", True):
        return "learned"
    return "posterior" if settings.get("sigma_small") else "beta"


class Variant(NamedTuple):
    """The reference's settings of a diffusion, as this project's: row, variance rule, recorded network."""

    prediction: Prediction
    variance: str
    output: Tensor

    @staticmethod
    def of(settings: dict[str, bool], output: Tensor) -> Variant:
        """From ``create_diffusion``'s arguments and the network's output (B, 2C, ...), its variance half last."""
        prediction, variance = X0() if settings.get("predict_xstart") else Eps(), variance_of(settings)
        return Variant(prediction, variance, output if variance == "learned" else output.chunk(2, dim=1)[0])

    def denoiser(self, path: DiscretePath) -> Denoiser:
        """A denoiser whose network says what was recorded."""
        return Denoiser(lambda x, time, condition: Output(self.output, {}), path, self.prediction)


def fixed_variance(chain: Chain, rule: str, k: Tensor, log_variance: Tensor) -> Tensor:
    """The variance as the reference states it: of beta~ the true one, which is 0 at the last step, unlike its log."""
    if rule == "posterior":
        return over(chain.posterior_variance[k], log_variance).expand_as(log_variance)
    return log_variance.exp()


def ddim_reverse(chain: Chain, k: Tensor, said: Denoised) -> Tensor:
    """One step towards the noise, from the chain's noisiest time on to alpha = 0, which no path time need have."""
    rising = chain.path.mix(said.x0, said.eps, chain.t[(k - 1).clamp(min=0)])
    first = (k == 0).reshape(-1, *[1] * (rising.dim() - 1))
    return torch.where(first, said.eps, rising)


def steps_of(case: Case, chain: Chain, variance: str, denoise: Denoise) -> dict[str, Tensor]:
    """Every kind of step from the same denoiser."""
    x, noise = case.inputs["x"], case.inputs["noise"]
    k = step_of(chain, case.inputs["t"])
    said = denoise(x, chain.t[k])
    mean, log_variance = ddpm_moments(chain, k, x, said, variance)
    out = {
        "mean": mean,
        "log_variance": log_variance,
        "variance": fixed_variance(chain, variance, k, log_variance),
        "pred_xstart": said.x0,
        "p_sample": ddpm_step(chain, k, mean, log_variance, noise),
        "ddim_reverse": ddim_reverse(chain, k, said),
    }
    return out | {f"ddim_eta{eta}": ddim_step(chain, k, said, noise, eta) for eta in case.config["etas"]}


def guided_steps(case: Case, chain: Chain, variance: str, denoise: Denoise) -> dict[str, Tensor]:
    """The steps under classifier guidance, the classifier's gradient being recorded."""
    x, noise, gradient = (case.inputs[name] for name in ("x", "noise", "cond_grad"))
    k = step_of(chain, case.inputs["t"])
    mean, log_variance = ddpm_moments(chain, k, x, denoise(x, chain.t[k]), variance)
    mean = shift_mean(mean, fixed_variance(chain, variance, k, log_variance), gradient)
    said = ClassifierGuided(denoise, lambda x, t: gradient)(x, chain.t[k])
    out = {"p_sample": ddpm_step(chain, k, mean, log_variance, noise)}
    return out | {f"ddim_eta{eta}": ddim_step(chain, k, said, noise, eta) for eta in case.config["etas"]}


@covers("ddpm_steps")
def steps(case: Case) -> dict[str, Tensor]:
    path = path_of(case.config)
    chain = respaced(path, case.config["respacing"])
    out = {}
    for name, settings in case.config["variants"].items():
        variant = Variant.of(settings, case.inputs["model_output"])
        denoiser = variant.denoiser(path)
        mapped = clipped(MapX0(denoiser, lambda x0: 0.5 * x0 + 0.1))
        results = {
            "clip": steps_of(case, chain, variant.variance, clipped(denoiser)),
            "noclip": steps_of(case, chain, variant.variance, denoiser),
            "cond": guided_steps(case, chain, variant.variance, clipped(denoiser)),
            "denoised_fn": steps_of(case, chain, variant.variance, mapped),
        }
        out |= {f"{name}.{kind}.{key}": value for kind, result in results.items() for key, value in result.items()}
    return out


def losses_of(variant: Variant, settings: dict[str, bool], chain: Chain, x0: Tensor, draws: Draws) -> dict[str, Tensor]:
    """``training_losses`` of the reference with the settings of a variant."""
    denoiser = variant.denoiser(chain.path)  # type: ignore[arg-type]
    if settings.get("use_kl"):
        return {"loss": vlb(denoiser, x0, draws, chain, variance=variant.variance).per_sample}
    if variant.variance == "learned":
        weight = len(chain) / 1000 if settings.get("rescale_learned_sigmas") else 1.0
        loss = hybrid(denoiser, x0, draws, chain, vb_weight=weight)
    else:
        loss = simple(denoiser, x0, draws)
    return loss.parts | {"loss": loss.per_sample}


@covers("ddpm_training_losses")
def training_losses(case: Case) -> dict[str, Tensor]:
    path, x0, noise = path_of(case.config), case.inputs["x_start"], case.inputs["noise"]
    chains = {
        "": (full_chain(path), case.inputs["t"]),
        "respaced.": (respaced(path, case.config["respacing"]), case.inputs["t_respaced"]),
    }
    out = {}
    for kind, (chain, n) in chains.items():
        draws = Draws(chain.t[step_of(chain, n)], noise)
        out[f"model_t.{kind}".removesuffix(".")] = path.network_time(draws.t).long()
        for name, settings in case.config["variants"].items():
            variant = Variant.of(settings, case.inputs["model_output"])
            losses = losses_of(variant, settings, chain, x0, draws)
            out |= {f"{name}.{kind}{part}": value for part, value in losses.items()}
    return out


@covers("ddpm_bpd")
def bits_per_dim(case: Case) -> dict[str, Tensor]:
    path = path_of(case.config)
    chain = respaced(path, case.config["respacing"])
    net = load_case(case)
    denoiser = Denoiser(net, path, Eps(), condition_of(case.inputs["y"], net.num_classes))
    x0, x_t, noises = (case.inputs[name] for name in ("x_start", "x_t", "noises"))
    k, variance = step_of(chain, case.inputs["t"]), variance_of(case.config["model"])
    out = {}
    with torch.no_grad():
        for kind, denoise in {"clip": clipped(denoiser), "noclip": denoiser}.items():
            whole = bound(denoise, x0, chain.ts, lambda k: noises[k], variance)
            out |= {
                f"vb_terms.{kind}": variational_term(chain, k, denoise(x_t, chain.t[k]), x0, x_t, variance),
                f"bpd.{kind}.total_bpd": whole.total,
                f"bpd.{kind}.prior_bpd": whole.prior,
                f"bpd.{kind}.vb": whole.terms,
                f"bpd.{kind}.xstart_mse": whole.x0_mse,
                f"bpd.{kind}.mse": whole.eps_mse,
            }
    return out


@covers("ddpm_loop_*")
def loops(case: Case) -> dict[str, Tensor]:
    config, z = case.config, case.inputs["z"]
    path = path_of(config)
    chain = respaced(path, config["respacing"])
    net = load_case(case)
    guided = Denoiser(net, path, Eps(), condition_of(case.inputs["y"], net.num_classes))

    def both_halves(x: Tensor, time: Tensor, condition: object) -> Output:
        t = (time.double() + 1) / path.steps
        return Output(guided_halves(guided, x, t, config["cfg_scale"], DIT_CHANNELS), {})

    def noise(k: int) -> Tensor:
        return case.inputs["noises"][k]

    ancestral = functools.partial(ddpm, variance=variance_of(config["model"]))
    solver = ancestral if config["eta"] is None else functools.partial(ddim, eta=config["eta"])
    denoiser = Denoiser(both_halves, path, Eps())
    out = {}
    with torch.no_grad():
        for kind, denoise in {"clip": clipped(denoiser), "noclip": denoiser}.items():
            states = list(solver(denoise, z, chain.ts, noise=noise))
            out |= {
                f"{kind}.trajectory": torch.stack([state.x for state in states]),
                f"{kind}.x_after_step0": states[0].x,
                f"{kind}.pred_xstart_first": states[0].said.x0,
                f"{kind}.pred_xstart_last": states[-1].said.x0,
                f"{kind}.samples": states[-1].x[: len(z) // 2],
            }
    return out
