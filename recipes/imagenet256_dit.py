"""The paper's run: DiT-XL/2 on ImageNet at 256x256 in the latents of Stable Diffusion's autoencoder.

Peebles & Xie 2023, sections 4 and 5: FID-50K 2.27 after 7 million steps at guidance 1.5. For those who have the data:

    ditkit train imagenet256_dit --data IMAGENET/train --out runs/imagenet256

The autoencoder is the hub's stabilityai/sd-vae-ft-ema, from its cache or fetched; --data.autoencoder FOLDER says where
its config.json and diffusion_pytorch_model.safetensors are otherwise. --train.precision bfloat16 is faster, and not
what the paper did.
"""

from ditkit.app.recipe import Data, Measuring, Model, Process, Recipe, Sampling
from ditkit.train.settings import TrainSettings

recipe = Recipe(
    data=Data(size=256, channels=3, flip=True, autoencoder="stabilityai/sd-vae-ft-ema"),
    model=Model(preset="DiT-XL/2"),
    process=Process(path="ddpm_linear", prediction="eps", learned_variance=True, objective="hybrid"),
    train=TrainSettings(
        steps=7_000_000,
        batch_size=256,
        lr=1e-4,
        warmup=0,
        weight_decay=0.0,
        betas=(0.9, 0.999),
        clip=None,
        ema_decay=0.9999,
        label_dropout=0.1,
        log_every=100,
        sample_every=50_000,
        checkpoint_every=50_000,
    ),
    sample=Sampling(
        solver="ddpm", solver_options={"variance": "learned"}, steps="250", guidance=1.5, guidance_channels=3
    ),
    evaluate=Measuring(num=50_000),
)
