"""Floor 5: runs of autoencoders: ditkit train-autoencoder."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ditkit.app import build, reconstructing
from ditkit.app.recipe import AutoencoderNetwork, AutoencoderRecipe
from ditkit.app.run import Run, open_checkpoint, open_run
from ditkit.app.spending import BACKWARD, Item, Subject, Work, of_call, trained
from ditkit.app.training import read_data, split
from ditkit.base import registry
from ditkit.base.errors import UserError
from ditkit.convert.autoencoder import save_autoencoder
from ditkit.convert.autoencoder_places import FOLDER
from ditkit.data.images import Examples
from ditkit.data.store import is_store
from ditkit.encoders.autoencoder import Identity, LatentAutoencoder
from ditkit.encoders.discriminator import PatchDiscriminator, smallest
from ditkit.evaluate.networks.lpips import HEADS, LPIPS, VGG
from ditkit.objectives.reconstruction import laplacian
from ditkit.train import checkpoint
from ditkit.train.autoencoding import Autoencoding, Opponents, Perceptual
from ditkit.train.trainer import Hook, Trainer

PERCEPTUAL: Mapping[str, Callable[[torch.device], Perceptual | None]] = {
    "lpips": lambda device: LPIPS.load(device).distance,
    "laplacian": lambda device: laplacian,
    "none": lambda device: None,
}
"""What loss.perceptual can be once it is settled."""
LEAST = {"lpips": 16}
"""Pixels a side that a perceptual distance needs at least."""
PERCEPTUAL_COST: Mapping[str, Callable[[torch.Size], int]] = {"lpips": lambda shape: LPIPS.training_cost(shape)}
"""Multiply-adds of a perceptual distance of two images (1, C, H, W), backward to one of them; the others have none."""
GAME = 2 * BACKWARD + 3
"""The discriminator's passes for an image, in forward passes: it learns from the image and from what was made of it;
the autoencoder takes a forward pass and two gradients of its input, the one for the adaptive weight."""


class AutoencoderRuns:
    """See ``Kind``: an autoencoder learns to reconstruct images."""

    name = AutoencoderRecipe.kind
    recipe = AutoencoderRecipe
    knows_classes = False
    further = (
        "see and measure reconstructions: ditkit report {run}; diffuse in its latents: ditkit train --data IMAGES "
        "--data.autoencoder {run} --out NEW; encode images once for all: ditkit encode --data IMAGES --autoencoder "
        "{run} --out STORE"
    )
    evaluate = staticmethod(reconstructing.evaluate)
    report = staticmethod(reconstructing.report)

    def __init__(self, recipe: AutoencoderRecipe) -> None:
        """Raises UserError for data and options that an autoencoder cannot be trained with."""
        if is_store(recipe.data.source) or recipe.data.autoencoder is not None:
            raise UserError(
                f"--data {recipe.data.source} with autoencoder {recipe.data.autoencoder}: an autoencoder learns from "
                "images; give those, without --data.autoencoder"
            )
        if recipe.data.tile is not None:
            raise UserError(f"--data.tile {recipe.data.tile}: an autoencoder learns from whole images; leave it out")
        if recipe.data.autoencoder_precision != "float32":
            raise UserError(
                f"--data.autoencoder-precision {recipe.data.autoencoder_precision} is of a frozen autoencoder: one in "
                "training computes as --train.precision says; leave it out"
            )
        if recipe.data.buckets is not None:
            raise UserError(
                f"--data.buckets {recipe.data.buckets}: an autoencoder learns from images of one shape; leave it out"
            )
        if recipe.train.compile:
            raise UserError("--train.compile True: an autoencoder's losses cannot be compiled; leave it out")
        self.autoencoder = Identity()
        self.device = build.device(recipe.train.device)
        loss = dataclasses.replace(recipe.loss, perceptual=settled(recipe.loss.perceptual))
        self.settings = dataclasses.replace(recipe, loss=loss)
        self.perceptual = PERCEPTUAL[loss.perceptual](self.device)
        with torch.device("meta"):
            autoencoder(recipe.network, channels=3, seed=0)

    @staticmethod
    def network(recipe: AutoencoderRecipe, facts: dict[str, Any]) -> Opponents:
        """See ``Kind``."""
        channels = facts["image_shape"][0]
        net = autoencoder(recipe.network, channels=channels, seed=recipe.seed)
        if recipe.loss.game_from is None:
            return Opponents(net, None)
        width, layers = recipe.loss.discriminator_width, recipe.loss.discriminator_layers
        return Opponents(net, PatchDiscriminator(channels, width, layers, seed=recipe.seed))

    @staticmethod
    def example(recipe: AutoencoderRecipe, facts: dict[str, Any]) -> tuple[Any, ...]:
        """See ``Kind``."""
        return (torch.zeros(1, *facts["image_shape"]),)

    @staticmethod
    def works(subject: Subject) -> list[Work]:
        """See ``Kind``: both halves, training, and training against the discriminator from the step that it enters."""
        recipe, shape = subject.recipe, torch.Size([1, *subject.facts["image_shape"]])
        with torch.device("meta"):
            nets = AutoencoderRuns.network(recipe, subject.facts)
        net, judge = nets.autoencoder, nets.discriminator
        latents = torch.Size([1, *net.latent_shape(tuple(subject.facts["image_shape"]))])
        encode, decode = of_call(net, shape, type(net).encode), of_call(net, latents, type(net).decode)
        both = [Item("network, forward and back", subject.network.multiply_adds, BACKWARD)]
        perceptual = settled(recipe.loss.perceptual)
        if perceptual in PERCEPTUAL_COST:
            both.append(Item(f"{perceptual}, of two images and back", PERCEPTUAL_COST[perceptual](shape), 1))
        steps, before = recipe.train.steps, recipe.train.steps if judge is None else recipe.loss.game_from
        works = [
            Work("encoding", "", (Item("encoder", encode, 1),)),
            Work("decoding", "", (Item("decoder", decode, 1),)),
            trained("training", "", both, recipe.train, min(steps, before)),
        ]
        if judge is not None and before < steps:
            game = Item(
                "discriminator, its and the autoencoder's turn", of_call(judge, shape, type(judge).__call__), GAME
            )
            said = f"from step {before:,} on"
            works.append(trained("training with the discriminator", said, [*both, game], recipe.train, steps - before))
        return works

    def task(self, facts: dict[str, Any], images: Examples) -> Autoencoding:
        """See ``Kind``. Raises UserError for images whose size does not fit the networks."""
        recipe, net, loss = self.settings, self.network(self.settings, facts), self.settings.loss
        channels, height, width = facts["image_shape"]
        net.autoencoder.latent_shape((channels, height, width))
        plays = net.discriminator is not None and (loss.game_from or 0) < recipe.train.steps
        least = max(LEAST.get(loss.perceptual, 1), smallest(loss.discriminator_layers) if plays else 1)
        if min(height, width) < least:
            raise UserError(
                f"images of {height}x{width} are too small for --loss.perceptual {loss.perceptual} and "
                f"--loss.discriminator-layers {loss.discriminator_layers}: expected {least}x{least} at least; take "
                "laplacian, fewer layers or --loss.game-from None"
            )
        if self.device.type == "cpu" and net.autoencoder.patch_size == 1:
            tqdm.write(
                f"without a GPU, {recipe.network.autoencoder} takes seconds for a step; made for processors: "
                "--network.autoencoder fast, as in the recipes autoencoder_mnist and autoencoder_cifar10",
                file=sys.stderr,
            )
        self.learned = images
        return Autoencoding(
            net.to(self.device),
            recipe.seed,
            {"kl": loss.kl, "codebook": loss.codebook, "commitment": loss.commitment},
            perceptual=self.perceptual,
            perceptual_weight=loss.perceptual_weight,
            adversarial=loss.adversarial,
            game_from=loss.game_from or 0,
            autocast=build.autocast(recipe.train.precision, self.device),
        )

    def pictures(self, run: Run[AutoencoderRecipe], facts: dict[str, Any], held: Examples | None) -> list[Hook]:
        """With each checkpoint: the moving average as a published autoencoder, what it makes of a few images, and how
        like they are (into the log too).
        """
        every = self.settings.train.checkpoint_every
        return [
            Hook(every, lambda trainer: _save(run, _averaged(trainer.ema.net), self.learned), "autoencoder", True),
            Hook(
                every,
                lambda trainer: self._show(run, trainer, held),
                "reconstructions",
                made=lambda trainer: reconstructing.told(run, trainer.step),
            ),
        ]

    @staticmethod
    def publish(folder: Path) -> None:
        """Writes a run's autoencoder as its training does, of the newest checkpoint, where it is not there yet.

        UserError where the run is being trained, or its images are not there any more.
        """
        run = open_run(folder, AutoencoderRecipe)
        if (run.folder / FOLDER).is_dir() or not checkpoint.steps(run.folder):
            return
        with run.alone():
            found = open_checkpoint(checkpoint.latest(run.folder))
            tqdm.write(f"run {run.folder} has no {FOLDER} yet: it is made from its checkpoint of step {found.step:,}")
            nets = AutoencoderRuns.network(run.recipe, found.about)
            checkpoint.load_weights(nets, found.tensors("ema"), found.folder)
            device = build.device(run.recipe.train.device)
            learned, _ = split(read_data(run.recipe, Identity())[0], run.recipe)
            _save(run, _averaged(nets.to(device).eval().requires_grad_(False)), learned)

    def _show(self, run: Run[AutoencoderRecipe], trainer: Trainer[Autoencoding], held: Examples | None) -> None:
        net, few = _averaged(trainer.ema.net), _some(run.recipe, 2, 32, 256)
        reconstructing.picture(net, self.learned, run.picture(trainer.step))
        reconstructing.tell(net, self.learned, held, run, trainer.step, few)


def _averaged(nets: nn.Module) -> LatentAutoencoder:
    """The autoencoder of both networks' moving average."""
    assert isinstance(nets, Opponents)
    return nets.autoencoder


def _save(run: Run[AutoencoderRecipe], net: LatentAutoencoder, learned: Examples) -> None:
    """Writes RUN/autoencoder, its latents brought to mean 0 and deviation 1."""
    reconstructing.normalise(net, learned, _some(run.recipe, 4, 64, reconstructing.MEASURED))
    save_autoencoder(net, run.folder / FOLDER)


def _some(recipe: AutoencoderRecipe, batches: int, least: int, most: int) -> int:
    """How many images to look at with each checkpoint: so many batches of them, which takes about as long as a step,
    and on a processor that may be a minute.
    """
    return min(max(least, batches * recipe.train.batch_size), most)


def settled(perceptual: str) -> str:
    """The perceptual distance by which a run is trained: of auto, lpips where its weights are at hand."""
    if perceptual != "auto":
        return perceptual
    try:
        VGG.find()
        HEADS.find()
    except UserError:
        return "laplacian"
    return "lpips"


def autoencoder(network: AutoencoderNetwork, *, channels: int, seed: int) -> LatentAutoencoder:
    """The network that a recipe names, for images of so many channels, with its initial weights.

    Raises UserError for a kind, a factor or an option that is none.
    """
    kind = registry.find("autoencoder", *build.KINDS["autoencoder"], network.autoencoder)
    options = {} if network.codes is None else {"codes": network.codes}
    registry.check_options("autoencoder", network.autoencoder, kind, options)
    return kind.of_factor(
        network.factor,
        network.width,
        blocks=network.blocks,
        channels=channels,
        latent_channels=network.channels,
        seed=seed,
        **options,
    )
