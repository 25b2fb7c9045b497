"""MNIST at 28x28 from a folder or zip with one subfolder per digit: about ten minutes on two CPU cores."""

from ditkit.app.recipe import Data, Measuring, Model, Process, Recipe, Sampling
from ditkit.train.settings import TrainSettings

recipe = Recipe(
    data=Data(channels=1, size=28, heldout=0.1),
    model=Model(patch_size=4, width=192, depth=6, heads=6),
    process=Process(path="cosine", prediction="v"),
    train=TrainSettings(
        steps=20_000,
        minutes=10,
        batch_size=64,
        lr=2e-3,
        warmup=100,
        cooldown=0.3,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        ema_decay=0.995,
        precision="auto",
        sample_every=500,
        checkpoint_every=500,
    ),
    sample=Sampling(solver="ddim", steps="30", guidance=2.0, clip=True),
    evaluate=Measuring(num=1000, sweep=(1.0, 1.5, 2.0, 3.0, 4.0), sweep_num=300),
)
