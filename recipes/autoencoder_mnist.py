"""An autoencoder for MNIST padded to 32x32, latents 4x8x8, from a folder or zip: half an hour at most on two CPU cores.

ditkit train-autoencoder autoencoder_mnist --data MNIST.zip --out runs/ae-mnist
"""

from ditkit.app.recipe import AutoencoderLoss, AutoencoderNetwork, AutoencoderRecipe, Data
from ditkit.train.settings import AutoencoderSettings

recipe = AutoencoderRecipe(
    data=Data(channels=1, size=32, crop="pad", crop_options={"margin": 2}, heldout=0.02),
    network=AutoencoderNetwork(autoencoder="fast", factor=4, channels=4, width=128, blocks=1),
    loss=AutoencoderLoss(game_from=None),
    train=AutoencoderSettings(
        steps=12_000,
        minutes=28,
        batch_size=32,
        lr=3e-3,
        warmup=50,
        cooldown=0.4,
        betas=(0.9, 0.99),
        ema_decay=0.995,
        precision="auto",
        checkpoint_every=1_000,
    ),
)
