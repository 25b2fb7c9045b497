"""Cases of AutoencoderKL in huggingface/diffusers and of AutoEncoder in black-forest-labs/flux."""

from __future__ import annotations

import torch
from torch import Tensor

from ditkit.convert.autoencoder import build_autoencoder
from ditkit.encoders.autoencoder import Posterior
from tests.conformance.harness import Case, covers


@covers("autoencoderkl*")
@torch.no_grad()
def autoencoderkl(case: Case) -> dict[str, Tensor]:
    model, inputs = case.config["model"], case.inputs
    known = {"groups": model["norm_num_groups"], "scale": model["scaling_factor"]}
    net = build_autoencoder(case.weights, case.name, **known, shift=model["shift_factor"] or 0.0)
    posterior, given = net.posterior(inputs["x"]), Posterior.of(inputs["moments"])
    # the reference leaves normalisation to its callers; going through it tests that ours can be undone
    mode, sample = (net.encode(inputs["x"], noise) / net.scale + net.shift for noise in (None, inputs["noise"]))
    return {
        "moments": net.moments(inputs["x"]),
        "mode": mode,
        "sample": sample,
        "kl": posterior.kl(),
        "decode": net.decode((inputs["z"] - net.shift) * net.scale),
        "reconstruction_mode": net.reconstruct(posterior.mean),
        "dg_mean": given.mean,
        "dg_std": given.std,
        "dg_logvar": given.log_var,
        "dg_kl": given.kl(),
        "dg_nll": given.nll(given.mean),
    }


@covers("flux_autoencoder*")
@torch.no_grad()
def flux(case: Case) -> dict[str, Tensor]:
    model, inputs = case.config["model"], case.inputs
    net = build_autoencoder(case.weights, case.name, scale=model["scale_factor"], shift=model["shift_factor"])
    return {
        "moments": net.moments(inputs["x"]),
        "encode_mean": net.encode(inputs["x"]),
        "encode_sample": net.encode(inputs["x"], inputs["noise"]),
        "decode": net.decode(inputs["z"]),
    }
