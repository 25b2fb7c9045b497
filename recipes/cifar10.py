"""CIFAR-10 at 32x32 in pixels, from a folder or zip with one subfolder per class: about a day on one recent GPU.

On two CPU cores, to see it work: --model.width 192 --model.depth 6 --model.heads 6 --model.patch-size 4
--train.minutes 30
"""

from ditkit.app.recipe import Data, Measuring, Model, Process, Recipe, Sampling
from ditkit.train.settings import TrainSettings

recipe = Recipe(
    data=Data(channels=3, size=32, flip=True, heldout=0.02),
    model=Model(preset="DiT-S/2"),
    process=Process(path="cosine", prediction="v"),
    train=TrainSettings(
        steps=400_000,
        batch_size=128,
        lr=3e-4,
        warmup=1_000,
        weight_decay=0.01,
        ema_decay=0.9995,
        sample_every=5_000,
        checkpoint_every=5_000,
    ),
    sample=Sampling(solver="ddim", steps="50", guidance=1.5, clip=True),
    evaluate=Measuring(num=10_000, sweep=(1.0, 1.25, 1.5, 2.0, 3.0), sweep_num=2_000),
)
