"""scikit-learn's 1,797 scans of handwritten digits, 8x8 grey: what `make demo` runs."""

from ditkit.app.recipe import Data, Measuring, Model, Process, Recipe, Sampling
from ditkit.train.settings import TrainSettings

recipe = Recipe(
    data=Data(source="digits", heldout=0.1),
    model=Model(patch_size=2, width=128, depth=6, heads=4),
    process=Process(path="cosine", prediction="v"),
    train=TrainSettings(
        steps=3000,
        minutes=2.5,
        batch_size=128,
        lr=1e-3,
        warmup=100,
        weight_decay=0.01,
        ema_decay=0.998,
        sample_every=500,
        checkpoint_every=500,
    ),
    sample=Sampling(solver="ddim", steps="50", guidance=1.5, clip=True, batch_size=250),
    evaluate=Measuring(num=1000, sweep=(1.0, 1.5, 2.0, 3.0, 4.0), sweep_num=500),
)
