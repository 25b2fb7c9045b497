"""The layout of CompVis/latent-diffusion, which black-forest-labs/flux and SD 3's reference code use too.

Whole checkpoints of Stable Diffusion have it as their first stage; which model it is the part of says its scale.
"""

from __future__ import annotations

from typing import ClassVar

from ditkit.convert.autoencoder_layout import AutoencoderLayout
from ditkit.convert.autoencoder_scales import PUBLISHED


class LDMAutoencoder(AutoencoderLayout):
    """AutoencoderKL of CompVis/latent-diffusion; AutoEncoder of black-forest-labs/flux."""

    name = "autoencoder_ldm"
    marks = ("encoder.down.0.block.0.conv1.weight", "decoder.up.0.block.0.conv1.weight")
    stages = ("down", "up")
    resamples = ("downsample.conv", "upsample.conv")
    block = "block"
    shortcut = "nin_shortcut"
    finest_first = True
    mid: ClassVar[dict[str, str]] = {
        "mid.block_1": "mid.0",
        "mid.attn_1.norm": "mid.1.norm",
        "mid.attn_1.q": "mid.1.attention.q",
        "mid.attn_1.k": "mid.1.attention.k",
        "mid.attn_1.v": "mid.1.attention.v",
        "mid.attn_1.proj_out": "mid.1.attention.out",
        "mid.block_2": "mid.2",
    }
    outside: ClassVar[dict[str, str]] = {"conv_in": "conv_in", "norm_out": "norm_out", "conv_out": "conv_out"}
    linear = False
    prefixes = ("", "first_stage_model.")
    training = ("loss.", "model_ema.")  # the discriminator and LPIPS
    pipelines: ClassVar[dict[str, tuple[float, float]]] = {
        "model.diffusion_model.joint_blocks.": PUBLISHED["sd3"],
        "conditioner.embedders.": PUBLISHED["sdxl"],
        "cond_stage_model.": PUBLISHED["sd"],
    }
