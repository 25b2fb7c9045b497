"""The layout of AutoencoderKL in huggingface/diffusers, in which stabilityai/sd-vae-ft-ema is published too."""

from __future__ import annotations

from typing import ClassVar

from ditkit.convert.autoencoder_layout import AutoencoderLayout

MID = "mid_block.attentions.0"


class DiffusersAutoencoder(AutoencoderLayout):
    """AutoencoderKL of huggingface/diffusers."""

    name = "autoencoder_diffusers"
    marks = ("encoder.down_blocks.0.resnets.0.conv1.weight", "decoder.up_blocks.0.resnets.0.conv1.weight")
    stages = ("down_blocks", "up_blocks")
    resamples = ("downsamplers.0.conv", "upsamplers.0.conv")
    block = "resnets"
    shortcut = "conv_shortcut"
    finest_first = False
    mid: ClassVar[dict[str, str]] = {
        "mid_block.resnets.0": "mid.0",
        f"{MID}.group_norm": "mid.1.norm",
        f"{MID}.to_q": "mid.1.attention.q",
        f"{MID}.to_k": "mid.1.attention.k",
        f"{MID}.to_v": "mid.1.attention.v",
        f"{MID}.to_out.0": "mid.1.attention.out",
        "mid_block.resnets.1": "mid.2",
    }
    outside: ClassVar[dict[str, str]] = {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}
    older: ClassVar[dict[str, str]] = {  # files from before diffusers 0.17, such as the published sd-vae-ft-ema
        f"{MID}.query": "mid.1.attention.q",
        f"{MID}.key": "mid.1.attention.k",
        f"{MID}.value": "mid.1.attention.v",
        f"{MID}.proj_attn": "mid.1.attention.out",
    }
    linear = True
