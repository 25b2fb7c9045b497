"""An autoencoder for CIFAR-10, latents 4x8x8, from a folder or zip: half an hour at most on two CPU cores.

    ditkit train-autoencoder autoencoder_cifar10 --data CIFAR10.zip --out runs/ae-cifar10

No discriminator plays: it would sharpen the pictures and cost PSNR. --loss.game-from 8000 lets it in.
"""

from ditkit.app.recipe import AutoencoderLoss, AutoencoderNetwork, AutoencoderRecipe, Data
from ditkit.train.settings import AutoencoderSettings

recipe = AutoencoderRecipe(
    data=Data(channels=3, size=32, flip=True, heldout=0.02),
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
