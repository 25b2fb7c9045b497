"""A small classifier trained on the real data: the project's own feature space, when no other network is at hand."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from ditkit.base.errors import UserError, at_least_one
from ditkit.base.files import atomic_folder, check_folder, clear_beside, write_json
from ditkit.base.rng import generator
from ditkit.base.tensors import save_tensors
from ditkit.evaluate import task as tasks
from ditkit.evaluate.fitting import BATCH, RATES, WEIGHT_DECAY, Halfway, fitted
from ditkit.evaluate.images import check_images, check_labels, fingerprint, to_float
from ditkit.evaluate.networks.network import Taps
from ditkit.evaluate.residual import WIDTHS, ResidualNet, build, multiply_adds
from ditkit.evaluate.task import Task

EPOCHS = 20
"""Passes over small data, beyond which held-out accuracy no longer rises."""
WORK = 1.2e12
"""Multiply-adds of forward passes, the budget of large data: about a minute on two cores."""
FEWEST_STEPS = 200


@dataclass(frozen=True)
class Protocol:
    """What a number measured with a classifier depends on, and how good the classifier is.

    task: what it was trained to tell ("classes", or a pretext without labels); num_classes: None for a pretext.
    heldout_accuracy: fraction in 0..1 of the task on ``heldout_samples`` real images that it never saw.
    recipe: how it was trained, ``steps`` aside. data: fingerprint of images and labels. hash: SHA-256 of the weights.
    """

    architecture: str
    task: str
    outputs: int
    num_classes: int | None
    channels: int
    height: int
    width: int
    widths: tuple[int, ...]
    seed: int
    recipe: str
    steps: int
    data: str
    heldout_accuracy: float
    heldout_samples: int
    hash: str
    resizing: str = "none"
    values: str = "x / 127.5 - 1"
    dtype: str = "float32"


@dataclass(frozen=True)
class Classifier:
    """A trained network in evaluation mode, with its protocol."""

    net: ResidualNet
    protocol: Protocol

    @property
    def aliases(self) -> Mapping[str, str]:
        """Its feature space has no published names; only that its answers are not Inception's must be said."""
        return {"inception_score": "classifier_score"}

    @property
    def heldout_accuracy(self) -> float:
        """Accuracy on real images that were not trained on, 0..1 (of the pretext where there are no classes)."""
        return self.protocol.heldout_accuracy

    @property
    def heldout_samples(self) -> int:
        """How many images the held-out accuracy is measured on."""
        return self.protocol.heldout_samples

    @property
    def num_classes(self) -> int | None:
        """How many classes it tells apart; None when it was trained without labels."""
        return self.protocol.num_classes

    @property
    def architecture(self) -> str:
        """Name and widths of the network."""
        return self.protocol.architecture

    @property
    def seed(self) -> int:
        """Seed of the split, the weights, the order and the augmentation."""
        return self.protocol.seed

    @property
    def hash(self) -> str:
        """SHA-256 of the weights."""
        return self.protocol.hash

    def measure(self, images: Tensor, *, batch: int = 512, progress: bool = True) -> tuple[Tensor, Tensor]:
        """Features (N, D) float32 and logits (N, outputs) float32 of uint8 images (N, C, H, W), on the CPU.

        Raises UserError when the images are not uint8 or not of the size that the classifier was trained on, and for a
        batch below 1.
        """
        check_images("images", images)
        batch = at_least_one("batch", batch)
        p = self.protocol
        if images.shape[1:] != (p.channels, p.height, p.width):
            raise UserError(
                f"images have shape {tuple(images.shape[1:])}, expected {(p.channels, p.height, p.width)} (C, H, W), "
                "what the classifier was trained on: resize them or train a classifier on images like them"
            )
        device = self.net.head.weight.device
        self.net.eval()
        parts = []
        with torch.no_grad():
            # delay: shown only where it takes longer than 2 s
            for rows in tqdm(images.split(batch), "features", delay=2, disable=not progress, leave=False):
                features, logits = self.net(to_float(rows.to(device)).contiguous(memory_format=torch.channels_last))
                parts.append((features.cpu(), logits.cpu()))
        return torch.cat([f for f, _ in parts]), torch.cat([z for _, z in parts])

    def look(self, images: Tensor) -> Taps:
        """Features and, where it tells classes apart, logits of uint8 images (B, C, H, W), on the CPU."""
        features, logits = self.measure(images, progress=False)
        return Taps(features, logits if self.num_classes is not None else None)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate activations (N, D) float32 of uint8 images."""
        return self.measure(images)[0]

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, outputs) float32 of uint8 images."""
        return self.measure(images)[1]

    def save(self, folder: Path | str) -> None:
        """Writes ``network.safetensors`` and ``protocol.json`` to ``folder``, replacing what was there at once."""
        with atomic_folder(folder) as temporary:
            save_tensors(self.net.state_dict(), temporary / "network.safetensors")
            write_json(temporary / "protocol.json", dataclasses.asdict(self.protocol))


def load_classifier(folder: Path | str) -> Classifier:
    """The classifier that ``Classifier.save`` wrote.

    Raises UserError when it is missing, of another version, damaged, or its weights are not those of its protocol.
    """
    folder = Path(folder)
    try:
        values = json.loads((folder / "protocol.json").read_text(encoding="utf-8"))
        protocol = Protocol(**{**values, "widths": tuple(values["widths"])})
        net = _network(protocol)
        net.load_state_dict(load_file(folder / "network.safetensors"))
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
        line = str(error).splitlines()[0]
        raise UserError(f"no usable classifier in {folder} ({line}): delete the folder and train it again") from error
    if weights_hash(net) != protocol.hash:
        raise UserError(f"weights in {folder} differ from their recorded hash: delete the folder and train it again")
    return Classifier(net.eval(), protocol)


def untrained(shape: Sequence[int], num_classes: int | None) -> Classifier:
    """A classifier of images (C, H, W) that has learned nothing: what it gives is of the kind that a trained one gives.

    num_classes: None: without labels. By it can be told beforehand what the training would be in vain for.
    """
    task = tasks.pretext(*shape[1:]) if num_classes is None else tasks.classes(num_classes)
    protocol = _before(task, shape, seed=0)
    return Classifier(_network(protocol).eval(), protocol)


def train_classifier(
    images: Tensor,
    labels: Tensor | None,
    *,
    num_classes: int | None = None,
    seed: int = 0,
    heldout: float = 0.2,
    steps: int | None = None,
    progress: bool = True,
    device: torch.device | str = "cpu",
    halfway: Path | None = None,
) -> Classifier:
    """Trains a classifier on real images and measures it on those held out; the same seed gives the same weights.

    images: uint8 (N, C, H, W), any size. labels: int64 (N,) in 0..num_classes-1, or None: then it learns
    a pretext (see ``task.pretext``). heldout: fraction that is never trained on, at most 10,000 images.
    steps: of 64 images each; by default from the data's size and the network's cost (see ``default_steps``).
    halfway: a file that keeps what is done of it, from which the same call goes on after a kill.
    Raises UserError when images or labels are not as said, or are fewer than 8.
    """
    task = _check(images, labels, num_classes, heldout)
    targets = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels.cpu()
    training, testing = split(targets, heldout, seed)
    C, H, W = images.shape[1:]

    def start() -> ResidualNet:
        return build(C, H, W, task.outputs, generator(seed, "classifier.weights"))

    steps = default_steps(len(training), multiply_adds(start(), C, H, W)) if steps is None else steps
    data = fingerprint(images, labels)
    said = f"{data} {task.name} {task.outputs} {seed} {heldout} {steps} {_architecture(WIDTHS)} {_recipe()}"
    kept = Halfway(halfway, said) if halfway else None
    learned = (images[training], targets[training])
    how = {"steps": steps, "seed": seed, "progress": progress}
    net, rate = fitted(lambda: start().to(device), task, *learned, kept, **how)
    before = _before(task, (C, H, W), seed)
    learned_by = {"recipe": _recipe(rate), "steps": steps, "data": data, "hash": weights_hash(net)}
    protocol = dataclasses.replace(before, heldout_samples=len(testing), **learned_by)
    classifier = Classifier(net.eval(), protocol)
    shown, answers = task.draw(images[testing], targets[testing], generator(seed, "classifier.heldout"))
    correct = classifier.measure(shown, progress=progress)[1].argmax(1) == answers
    return Classifier(net, dataclasses.replace(protocol, heldout_accuracy=correct.double().mean().item()))


def cached_classifier(
    folder: Path | str,
    images: Tensor,
    labels: Tensor | None,
    *,
    num_classes: int | None = None,
    seed: int = 0,
    progress: bool = True,
    device: torch.device | str = "cpu",
) -> Classifier:
    """The classifier saved in ``folder`` if it fits; else trains one and saves it there.

    It fits when data, seed, architecture and training recipe are the same. A damaged or stale one is replaced.
    A training that was killed goes on where it was, with the same weights in the end.
    Arguments and errors as ``train_classifier``; UserError too where ``folder`` is a file.
    """
    check_folder(Path(folder))
    classes = None if labels is None else num_classes
    wanted = (fingerprint(images, labels), seed, _architecture(WIDTHS), classes)
    halfway = Path(folder).with_name(f".{Path(folder).name}.safetensors")
    try:
        found = load_classifier(folder)
    except UserError:
        found = None
    if found is not None:
        p = found.protocol
        if (p.data, p.seed, p.architecture, p.num_classes) == wanted and p.recipe in map(_recipe, RATES):
            _clear(halfway, Path(folder))
            found.net.to(device)
            return found
    trained = train_classifier(
        images, labels, num_classes=num_classes, seed=seed, progress=progress, device=device, halfway=halfway
    )
    trained.save(folder)
    _clear(halfway, Path(folder))
    return trained


def _clear(halfway: Path, folder: Path) -> None:
    """Removes what was kept of a training that has ended, and what kills left beside it and the classifier's folder."""
    for path in (halfway, folder):
        clear_beside(path)
    if halfway.exists():  # a folder that may only be read does not even let go of what is not there
        halfway.unlink(missing_ok=True)


def default_steps(samples: int, cost: int) -> int:
    """Steps for ``samples`` training images, a forward pass of one costing ``cost`` multiply-adds.

    As many as ``EPOCHS`` passes over the data, but not more than ``WORK`` pays for and not fewer than ``FEWEST_STEPS``.
    """
    return max(FEWEST_STEPS, min(EPOCHS * samples // BATCH, int(WORK / (BATCH * cost))))


def split(labels: Tensor, heldout: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows held out, both sorted; every class gives its share, at most 10,000 are held out."""
    n = len(labels)
    count = max(1, min(round(heldout * n), 10_000))
    order = torch.randperm(n, generator=generator(seed, "classifier.split"))
    # Sorted by class, every (n / count)-th image is held out.
    order = order[labels[order].argsort(stable=True)]
    chosen = torch.zeros(n, dtype=torch.bool)
    chosen[order[((torch.arange(count, dtype=torch.float64) + 0.5) * n / count).long()]] = True
    return (~chosen).nonzero()[:, 0], chosen.nonzero()[:, 0]


def weights_hash(net: ResidualNet) -> str:
    """SHA-256, in hexadecimal, of the network's weights and statistics by name."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(f"{name} {fingerprint(value)};".encode())
    return digest.hexdigest()


def _architecture(widths: tuple[int, ...]) -> str:
    return "residual-" + "-".join(str(width) for width in widths)


def _recipe(rate: float = RATES[0]) -> str:
    return (
        f"SGD, batch {BATCH}, rate {rate} (less for fewer images), decay {WEIGHT_DECAY}, epochs {EPOCHS}, work {WORK:g}"
    )


def _before(task: Task, shape: Sequence[int], seed: int) -> Protocol:
    """The protocol of a classifier of images (C, H, W) before it is trained."""
    C, H, W = shape
    return Protocol(
        architecture=_architecture(WIDTHS),
        task=task.name,
        outputs=task.outputs,
        num_classes=task.num_classes,
        channels=C,
        height=H,
        width=W,
        widths=WIDTHS,
        seed=seed,
        recipe="none",
        steps=0,
        data="none",
        heldout_accuracy=0.0,
        heldout_samples=0,
        hash="none",
    )


def _network(p: Protocol) -> ResidualNet:
    return build(p.channels, p.height, p.width, p.outputs, generator(p.seed, "classifier.weights"), p.widths)


def _check(images: Tensor, labels: Tensor | None, num_classes: int | None, heldout: float) -> Task:
    check_images("images", images)
    if len(images) < 8:
        raise UserError(f"{len(images)} real images are too few for a classifier, expected at least 8: add images")
    if not 0 < heldout < 1:
        raise UserError(
            f"held-out fraction {heldout} is out of range, expected more than 0 and less than 1, such as 0.2"
        )
    if labels is None:
        return tasks.pretext(*images.shape[2:])
    if num_classes is None or num_classes < 2:
        raise UserError(
            f"num_classes is {num_classes}, expected 2 or more with labels: give none of both to go without"
        )
    check_labels("real images", images, labels, num_classes)
    return tasks.classes(num_classes)
