"""CIFAR-10 in the latents of recipes/autoencoder_cifar10.py (4x8x8): twenty minutes on two CPU cores.

ditkit encode --data CIFAR10.zip --autoencoder runs/ae-cifar10 --out stores/cifar10
ditkit train cifar10_latent --data stores/cifar10 --out runs/cifar10-latent
"""

from ditkit.app.recipe import Data, Measuring, Model, Process, Recipe, Sampling
from ditkit.train.settings import TrainSettings

recipe = Recipe(
    data=Data(flip=True, normalise="measured"),
    model=Model(patch_size=1, width=192, depth=6, heads=6),
    process=Process(path="cosine", prediction="v"),
    train=TrainSettings(
        steps=50_000,
        minutes=20,
        batch_size=64,
        lr=2e-3,
        warmup=100,
        cooldown=0.3,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        ema_decay=0.999,
        precision="auto",
        sample_every=500,
        checkpoint_every=500,
    ),
    sample=Sampling(solver="dpmpp_2m", grid="log_snr", steps="20", guidance=2.0),
    evaluate=Measuring(num=1000, sweep=(1.0, 1.5, 2.0, 3.0), sweep_num=400),
)
