"""Floor 5: a run described as typed data. A recipe file builds one, the command line overrides any leaf of it, and the
run's folder keeps it and reads it back strictly. Imports no torch.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Literal, Protocol

import tyro
from pydantic import Field
from pydantic.dataclasses import dataclass

from ditkit.app.names import SOURCES, named
from ditkit.train.settings import (
    STRICT,
    AutoencoderSettings,
    BelowOne,
    LoopSettings,
    Positive,
    Probability,
    TrainSettings,
)

Tile = Annotated[int, Field(ge=32, lt=2**31)]
"""Side of a tile in latents: of fewer, the overlap would be too narrow to hide the seams."""


@dataclass(frozen=True, config=STRICT)
class Data:
    """The images to learn from."""

    source: Annotated[
        str,
        tyro.conf.arg(name="data", prefix_name=False, metavar="SOURCE", help=f"{SOURCES}; or what ditkit encode made."),
    ] = ""
    """What the images come from; a path is kept as an absolute one."""
    size: int | tuple[int, int] | None = None
    """Height and width in pixels that images are brought to; None: what most of them have."""
    channels: Literal[1, 2, 3, 4] | None = None
    """1 grey, 2 grey and alpha, 3 RGB, 4 RGBA; None: 1 if all images are grey, else 3."""
    crop: Annotated[str, tyro.conf.arg(help_behavior_hint=named("crop"))] = "centre"
    """How images are brought to that size in training (ditkit info crops)."""
    crop_options: dict[str, float] = dataclasses.field(default_factory=dict)
    """Options of the crop, such as least 0.5."""
    buckets: Positive | None = None
    """Aspect-ratio buckets: images keep about their shape, in batches of one shape each, whose sides are multiples of
    so many pixels and whose area is that of the square of side data.size; None: all in one shape."""
    classes: bool = True
    """Condition on the classes where the source has them."""
    flip: bool = False
    """Mirror images left to right at random."""
    heldout: BelowOne = 0.0
    """Share of each class that is never trained on, to tell memorised samples from new ones."""
    autoencoder: str | None = None
    """An autoencoder's folder, file or name on the hub (OWNER/NAME, OWNER/NAME/FOLDER): diffuse in its latent space;
    None: pixels, or a latent store's own."""
    autoencoder_scale: str | None = None
    """Scale of an autoencoder whose files do not say it: sd, sdxl, sd3, flux, a number, or SCALE,SHIFT."""
    autoencoder_precision: Literal["float32", "bfloat16"] = "float32"
    """How the autoencoder computes, in encoding and decoding; float32 is never wrong, bfloat16 faster on a GPU."""
    normalise: Literal["published", "measured"] = "published"
    """How latents are normalised: by the autoencoder's published constants, or by a latent store's statistics."""
    tile: Tile | None = None
    """Take images of more latents a side than this apart, to encode and decode them in less memory; None: none."""


@dataclass(frozen=True, config=STRICT)
class Model:
    """The network. None takes the preset's value, or the backbone's default."""

    backbone: Annotated[str, tyro.conf.arg(help_behavior_hint=named("backbone"))] = "dit"
    """Name of a backbone (ditkit info backbones)."""
    preset: str | None = None
    """A published configuration, such as DiT-S/2 or DiT-XL/4."""
    patch_size: Positive | None = None
    """Side of a square patch, in pixels (or latents)."""
    width: Positive | None = None
    """Channels of a token."""
    depth: Positive | None = None
    """Number of blocks."""
    heads: Positive | None = None
    """Attention heads per block."""
    mlp_ratio: Annotated[float, Field(gt=0, lt=1000)] | None = None
    """Hidden width of a block's MLP over its width."""
    conditioning: Annotated[str | None, tyro.conf.arg(help_behavior_hint=named("conditioning"))] = None
    """How time and class enter."""

    def overrides(self) -> dict[str, Any]:
        """The constructor arguments that are set here."""
        given = dataclasses.asdict(self)
        return {k: v for k, v in given.items() if k not in ("backbone", "preset") and v is not None}


@dataclass(frozen=True, config=STRICT)
class Noising:
    """How images are noised in training."""

    path: Annotated[str, tyro.conf.arg(help_behavior_hint=named("path"))] = "ddpm_linear"
    """Name of a path (ditkit info paths)."""
    path_options: dict[str, float] = dataclasses.field(default_factory=dict)
    """Options of the path, such as steps 1000."""
    density: Annotated[str, tyro.conf.arg(help_behavior_hint=named("density"))] = "uniform"
    """Name of the density of training times (ditkit info densities)."""
    density_options: dict[str, float] = dataclasses.field(default_factory=dict)
    """Options of the density, such as mean 0 or std 1."""


@dataclass(frozen=True, config=STRICT)
class Process(Noising):
    """Path, prediction and objective."""

    prediction: Annotated[str, tyro.conf.arg(help_behavior_hint=named("prediction"))] = "eps"
    """What the network predicts (ditkit info predictions)."""
    prediction_options: dict[str, float] = dataclasses.field(default_factory=dict)
    """Options of the prediction, such as sigma_data 0.5."""
    learned_variance: bool = False
    """Learn the reverse variance too (twice the output channels)."""
    objective: Annotated[str, tyro.conf.arg(help_behavior_hint=named("objective"))] = "simple"
    """Name of an objective (ditkit info objectives); hybrid is for a learned variance."""
    objective_options: dict[str, str | float] = dataclasses.field(default_factory=dict)
    """Options of the objective and of its weight, such as weight min_snr gamma 5, or vb_weight 1."""


@dataclass(frozen=True, config=STRICT)
class Sampling:
    """How images are drawn unless the command line says otherwise."""

    solver: Annotated[str, tyro.conf.arg(help_behavior_hint=named("solver"))] = "ddim"
    """Name of a solver (ditkit info solvers)."""
    solver_options: dict[str, str | float] = dataclasses.field(default_factory=dict)
    """Options of the solver, such as eta 0.5 or variance learned."""
    grid: Annotated[str, tyro.conf.arg(help_behavior_hint=named("grid"))] = "uniform"
    """Name of a grid of times (ditkit info grids)."""
    grid_options: dict[str, str | float] = dataclasses.field(default_factory=dict)
    """Options of the grid, such as rho 7 or shift 3."""
    steps: str = "50"
    """Number of steps, or a respacing of the chain: 250, ddim50, 10,15,20."""
    guidance: float = 1.5
    """Classifier-free guidance scale s in null + s (conditional - null); 1: none."""
    guidance_channels: Positive | None = None
    """Guide only the first so many channels (3: DiT's published numbers); None: all."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Guide only at times t in this interval (0 data, 1 noise), in whatever way."""
    guidance_rescale: Probability = 0.0
    """Bring the deviation that guidance widened back to the conditional's: 0 not at all, 1 wholly."""
    guidance_negative: str | None = None
    """A class to lead away from, by number or name, in place of the learned null; None: the null."""
    guidance_weak: str | None = None
    """Autoguidance: a worse model to lead away from, another run's folder or an earlier checkpoint's; None: none."""
    guidance_weak_scale: float = 2.0
    """Scale s in weak + s (model - weak); 1: none."""
    guidance_weak_weights: str = "ema"
    """The weak model's moving average (ema), another that its run kept (ema-0.99), or its weights (weights)."""
    guidance_classifier: str | None = None
    """The run of a classifier of noisy images that leads to the class; None: none."""
    guidance_classifier_scale: float = 1.0
    """Scale w of the classifier's gradient; 0: none."""
    clip: bool = False
    """Keep the predicted image inside [-1, 1] at every step; for pixels, not latents."""
    batch_size: Positive = 64
    """Images drawn at a time; changes no image, but for solvers of adaptive steps, within their tolerance: step lengths
    follow the whole batch."""


Enough = Annotated[int, Field(ge=4, lt=2**31)]
"""As many samples as a metric needs at least."""


@dataclass(frozen=True, config=STRICT)
class Measuring:
    """What ``ditkit evaluate`` and ``ditkit report`` draw, and what is measured during training."""

    num: Enough = 1000
    """Samples that the metrics are measured on."""
    sweep: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 4.0)
    """Guidance scales compared in the report."""
    sweep_num: Enough = 400
    """Samples per guidance scale of the sweep."""
    every: Annotated[Positive | None, tyro.conf.arg(name="evaluate-every", prefix_name=False)] = None
    """Steps between measurements during training, into log.jsonl; None: none."""
    every_num: Enough = 200
    """Samples of a measurement during training."""
    best: str | None = None
    """A metric, such as frechet_distance: the checkpoint where it was best during training stays in best/."""


@dataclass(frozen=True, config=STRICT)
class Recipe:
    """A run: data, model, process, training, sampling, measuring."""

    kind: ClassVar[str] = "denoiser"
    """What is trained; written first in a run's recipe.yaml, which means a denoiser where it says nothing."""

    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    process: Process = dataclasses.field(default_factory=Process)
    train: TrainSettings = dataclasses.field(default_factory=TrainSettings)
    sample: Sampling = dataclasses.field(default_factory=Sampling)
    evaluate: Measuring = dataclasses.field(default_factory=Measuring)
    seed: int = 0
    """Seed of everything that is drawn in training."""


@dataclass(frozen=True, config=STRICT)
class ClassifierRecipe:
    """A run of a classifier on noisy images: data, model, noise, training."""

    kind: ClassVar[str] = "classifier"

    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    process: Noising = dataclasses.field(default_factory=Noising)
    train: LoopSettings = dataclasses.field(default_factory=LoopSettings)
    seed: int = 0
    """Seed of everything that is drawn in training."""


@dataclass(frozen=True, config=STRICT)
class AutoencoderNetwork:
    """The autoencoder. None takes its own default."""

    autoencoder: Annotated[str, tyro.conf.arg(help_behavior_hint=named("autoencoder"))] = "kl"
    """kl (latent diffusion's), vq (with a codebook), fast (small, on patches)."""
    factor: Annotated[Positive, tyro.conf.arg(name="factor", prefix_name=False)] = 8
    """By how much height and width shrink: 4, 8, a power of 2."""
    channels: Annotated[Positive, tyro.conf.arg(name="channels", prefix_name=False)] = 4
    """Channels of the latents, such as 4 or 16."""
    width: Positive = 128
    """Channels at full resolution, of a fast one everywhere."""
    blocks: Positive = 2
    """Residual blocks per resolution."""
    codes: Positive | None = None
    """Codes in the codebook of vq."""


@dataclass(frozen=True, config=STRICT)
class AutoencoderLoss:
    """What a reconstruction has to be like: L1 + perceptual + penalties on the latents + the discriminator's game."""

    perceptual: Literal["auto", "lpips", "laplacian", "none"] = "auto"
    """lpips: the published distance, whose weights must be at hand; laplacian: L1 over the bands of a pyramid.
    auto: lpips where its weights are at hand, else laplacian; the run's recipe says which."""
    perceptual_weight: Annotated[float, Field(ge=0)] = 1.0
    """Its weight beside L1's 1."""
    kl: Annotated[float, Field(ge=0)] = 1e-6
    """Weight of the KL to a standard normal beside a sum over pixels."""
    codebook: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the distance that moves the codes of vq."""
    commitment: Annotated[float, Field(ge=0)] = 0.25
    """Weight of the distance that moves the encoder of vq to its codes."""
    game_from: Annotated[int, Field(ge=0)] | None = 50_000
    """The step from which on a patch discriminator plays against the autoencoder; None: never."""
    adversarial: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the game, in units in which both losses pull equally at the decoder's last layer."""
    discriminator_width: Annotated[int, Field(gt=0, multiple_of=4)] = 64
    """Channels of the discriminator's first layer."""
    discriminator_layers: Annotated[int, Field(gt=0, lt=8)] = 3
    """Layers of the discriminator that see a wider neighbourhood each."""


@dataclass(frozen=True, config=STRICT)
class AutoencoderRecipe:
    """A run of an autoencoder: data, network, loss, training."""

    kind: ClassVar[str] = "autoencoder"

    data: Data = dataclasses.field(default_factory=Data)
    network: AutoencoderNetwork = dataclasses.field(default_factory=AutoencoderNetwork)
    loss: AutoencoderLoss = dataclasses.field(default_factory=AutoencoderLoss)
    train: AutoencoderSettings = dataclasses.field(default_factory=AutoencoderSettings)
    seed: int = 0
    """Seed of everything that is drawn in training."""


class AnyRecipe(Protocol):
    """A pydantic dataclass that describes a run of its kind: what all kinds have."""

    kind: ClassVar[str]

    @property
    def data(self) -> Data:
        """The images to learn from."""
        ...

    @property
    def train(self) -> LoopSettings:
        """How the network is trained."""
        ...

    @property
    def seed(self) -> int:
        """Seed of everything that is drawn in training."""
        ...
