"""scikit-learn's 1,797 scans of handwritten digits, 8x8 grey: what `make demo` runs."""

from ditkit.app.recipe import Data, Measuring, Model, Process, Recipe, Sampling
from ditkit.train.settings import TrainSettings

recipe = Recipe(
    data=Data(source="digits", heldout=0.1),
    model=Model(patch_size=2, width=96, depth=4, heads=3),
    process=Process(path="cosine", prediction="v"),
    train=TrainSettings(
        steps=800,
        minutes=2.5,
        batch_size=128,
        lr=3e-3,
        warmup=100,
        cooldown=0.3,
        betas=(0.9, 0.99),
        weight_decay=0.01,
        ema_decay=0.99,
        sample_every=100,
        checkpoint_every=200,
    ),
    sample=Sampling(solver="ddim", steps="30", guidance=1.5, clip=True, batch_size=200),
    evaluate=Measuring(num=1000, sweep=(1.0, 1.5, 2.0, 3.0), sweep_num=300),
)
