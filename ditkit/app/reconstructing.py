"""Floor 5: what an autoencoder makes of images: its latents' statistics, its faithfulness, its report."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ditkit.app import build
from ditkit.app.kind import publish
from ditkit.app.pictures import grid, save_png
from ditkit.app.recipe import AutoencoderRecipe
from ditkit.app.recipe_files import to_yaml
from ditkit.app.references import Space, network_of
from ditkit.app.report import Metric, write_report
from ditkit.app.report.autoencoder import SECTIONS, AutoencoderData
from ditkit.app.run import Run, environment, open_checkpoint, open_run
from ditkit.app.stored import read_images
from ditkit.app.training import split
from ditkit.base.errors import UserError
from ditkit.base.files import write_json
from ditkit.base.pixels import from_uint8, to_uint8
from ditkit.convert.autoencoder import load_autoencoder
from ditkit.data.images import Examples, Images
from ditkit.encoders.autoencoder import LatentAutoencoder
from ditkit.encoders.autoencoder_variants import perplexity
from ditkit.evaluate.features import frechet_distance
from ditkit.evaluate.fidelity import WINDOW, psnr, ssim
from ditkit.evaluate.jackknife import GROUPS, left_out, standard_error
from ditkit.evaluate.measured import Side, measure
from ditkit.evaluate.networks.lpips import LPIPS
from ditkit.evaluate.statistics import SPREAD, Mean
from ditkit.evaluate.strata import in_turn
from ditkit.evaluate.suite import FEWEST, compare
from ditkit.train import checkpoint

TOLD = "reconstructed"
"""Of the log's records with how like reconstructions are."""
MOST = 10_000
"""Images that are reconstructed to measure by, at most; of more, evenly spaced ones."""
MEASURED = 1024
"""Images by which the latents are brought to mean 0 and deviation 1, at most."""
SHOWN = 20
"""Images shown beside their reconstructions."""
PERCEPTUAL = 16
"""Pixels a side below which LPIPS has no meaning."""
BATCH = 64
AT_ONCE = 16
"""Images between two movements of the progress bar where they go through an autoencoder."""


def spaced(count: int, most: int) -> Tensor:
    """Rows (n,) int64 of so many, evenly spaced, ``most`` at most."""
    return torch.linspace(0, count - 1, min(count, most)).long()


@torch.no_grad()
def statistics(net: LatentAutoencoder, images: Examples, most: int = MEASURED) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (c,) float64 of each latent channel before normalisation, posterior's draw included.

    Of at most ``most`` images.
    """
    device = net.encoder.conv_in.weight.device
    first, second, count = 0.0, 0.0, 0
    for part in tqdm(spaced(len(images), most).split(AT_ONCE), "latents", delay=2, leave=False):
        x = images.draw(part, torch.zeros_like(part, dtype=torch.bool), 0)
        q = net.posterior(x.to(device))
        mean, std = q.mean.double(), q.std.double()  # B c h w
        first, second = first + mean.sum((0, 2, 3)), second + (mean**2 + std**2).sum((0, 2, 3))
        count += mean[:, 0].numel()
    mean = torch.as_tensor(first) / count
    return mean.cpu(), (torch.as_tensor(second) / count - mean**2).clamp(min=0).sqrt().cpu()


def normalise(net: LatentAutoencoder, images: Examples, most: int = MEASURED) -> None:
    """Sets the shift and scale by which all latents of ``most`` of these images have mean 0 and deviation 1 together.

    Rombach et al. 2022, appendix G. Where all latents are the same, only the shift.
    """
    mean, std = statistics(net, images, most)
    shift = mean.mean()
    deviation = (std**2 + (mean - shift) ** 2).mean().sqrt()
    net.shift = float(shift)
    net.scale = float(1 / deviation) if deviation > 0 and deviation.isfinite() else 1.0


@torch.no_grad()
def reconstruct(net: LatentAutoencoder, pixels: Tensor, progress: str | None = None) -> Tensor:
    """Images uint8 (N, C, H, W) through the autoencoder and back, by the posterior's mode."""
    device = net.encoder.conv_in.weight.device
    parts = tqdm(pixels.split(AT_ONCE), progress, delay=2, leave=False, disable=progress is None)
    return torch.cat([to_uint8(net.reconstruct(net.posterior(from_uint8(p).to(device)).mean)).cpu() for p in parts])


def likeness(images: Tensor, made: Tensor) -> dict[str, Tensor]:
    """PSNR in dB (100 at most) and, of images that are large enough, SSIM, (N,) each, of images uint8 (N, C, H, W)."""
    scores = {"psnr": psnr(images, made).clamp(max=100)}
    return scores | {"ssim": ssim(images, made)} if min(images.shape[2:]) >= WINDOW else scores


def tell(net: LatentAutoencoder, learned: Examples, held: Examples | None, run: Run[Any], step: int, most: int) -> None:
    """Says, and logs, how like at most ``most`` reconstructions are: of held-out images where there are any."""
    images = learned if held is None else held
    rows = spaced(len(images), most)
    x = to_uint8(images.draw(rows, torch.zeros_like(rows, dtype=torch.bool), 0))
    scores = {name: float(values.mean()) for name, values in likeness(x, reconstruct(net, x, "reconstructing")).items()}
    which = f"{len(rows):,} {'images that it learns from' if held is None else 'held-out images'}"
    run.append({"event": TOLD, "step": step, "images": which, **scores})
    ssim_of = f", SSIM {scores['ssim']:.3f}" if "ssim" in scores else ""
    tqdm.write(f"step {step:,}: PSNR {scores['psnr']:.2f} dB{ssim_of} of {which}")


def told(run: Run[Any], step: int) -> bool:
    """Whether ``tell`` has logged this step."""
    return any(r.get("event") == TOLD and r["step"] == step for r in run.records())


@torch.no_grad()
def codebook(net: LatentAutoencoder, pixels: Tensor) -> dict[str, float]:
    """How a codebook is used by images uint8 (N, C, H, W): its perplexity, and the share of codes that none of them
    uses; nothing without a codebook.
    """
    device = net.encoder.conv_in.weight.device
    parts = tqdm(pixels.split(BATCH), "codes", delay=2, leave=False)
    counts = [count for part in parts if (count := net.code_counts(from_uint8(part).to(device))) is not None]
    if not counts:
        return {}
    used = torch.stack(counts).sum(0)
    return {"codebook_perplexity": float(perplexity(used)), "codebook_dead": float((used == 0).float().mean())}


def picture(net: LatentAutoencoder, images: Examples, path: Path) -> None:
    """Writes a few images as a PNG, each beside its reconstruction."""
    rows = spaced(len(images), 16)
    x = to_uint8(images.draw(rows, torch.zeros_like(rows, dtype=torch.bool), 0))
    pairs = torch.stack([x, reconstruct(net, x)], 1).flatten(0, 1)
    save_png(path, grid(pairs, 8, background=255))


@dataclasses.dataclass(frozen=True)
class Reconstructed:
    """A run's autoencoder and what it makes of images that it did not learn from (or, without such, did).

    images, made: uint8 (N, C, H, W). which: what images they are, in words. facts: see ``ditkit.app.run.Facts``.
    """

    run: Run[AutoencoderRecipe]
    step: int
    facts: dict[str, Any]
    net: LatentAutoencoder
    learned: Images
    images: Tensor
    made: Tensor
    which: str
    device: torch.device


def load(folder: Path, device: str | None, most: int = MOST) -> Reconstructed:
    """Reads a run's autoencoder and images, and reconstructs at most ``most``. UserError where the run has none yet."""
    run = open_run(folder, AutoencoderRecipe)
    publish(run.folder)
    found = open_checkpoint(checkpoint.latest(run.folder))
    where = build.device(device or run.recipe.train.device)
    net = load_autoencoder(folder, device=where)
    assert isinstance(net, LatentAutoencoder)
    learned, held = split(read_images(run.recipe.data, build.crop(run.recipe.data)), run.recipe)
    chosen = held if held is not None else learned
    rows = spaced(len(chosen), most)
    pixels = chosen.get(rows)
    kind = "held-out images" if held is not None else "images that it learned from (none were held out)"
    made = reconstruct(net, pixels, "reconstructing")
    return Reconstructed(run, found.step, found.about, net, learned, pixels, made, f"{len(rows):,} {kind}", where)


def metrics_of(said: Reconstructed, space: Space) -> dict[str, Any]:
    """The content of metrics.json: PSNR, SSIM, LPIPS where its weights are at hand, rFID, the latents' statistics.

    space: the eyes of rFID.
    """
    images, made, classes = said.images, said.made, said.facts["classes"]
    scores = likeness(images, made)
    left_out = {}
    if min(images.shape[2:]) >= PERCEPTUAL:
        try:
            scores["lpips"] = _lpips(LPIPS.load(said.device), images, made)
        except UserError as error:
            left_out["lpips"] = str(error)
    metrics: dict[str, Any] = {name: _mean(value, said.which) for name, value in scores.items()}
    for name, use in codebook(said.net, images).items():
        metrics[name] = {"value": use, "samples": len(images), "note": said.which}
    real = said.learned.subset(spaced(len(said.learned), MOST))
    labels = real.labels if len(classes) > 1 else None
    network = network_of(space, real, labels, len(classes), said.run.folder, said.device)
    if len(images) >= FEWEST:
        sides = [measure(what, x, None, network) for what, x in (("images", images), ("reconstructions", made))]
        distance = compare(sides[0], sides[1], network, scores=["frechet_distance"])
        for name, entry in distance.items():
            plain = {key: value for key, value in entry.items() if key not in ("standard_error", "error_from")}
            metrics[f"r{name}"] = plain | _error_of_pairs(*sides)
    mean, std = statistics(said.net, said.learned)
    metrics["about"] = {"left_out": left_out}
    metrics["latents"] = {"mean": mean.tolist(), "std": std.tolist(), "scale": said.net.scale, "shift": said.net.shift}
    metrics["protocol"] = {
        "run": str(said.run.folder),
        "step": said.step,
        "weights": "ema",
        "autoencoder": said.net.identity,
        "perceptual": said.run.recipe.loss.perceptual,
        "images": said.which,
        "feature_space": dataclasses.asdict(network.protocol),
        "environment": environment(said.device),
    }
    return metrics


def _error_of_pairs(images: Side, made: Side) -> dict[str, Any]:
    """What stands in place of the distance's own error, which takes the images as given: both are drawn together."""
    pairs = torch.stack([side["features"].rows for side in (images, made)], dim=1)
    pairs = pairs[in_turn(None, len(pairs))]  # the images of a data set, whose classes are drawn with them
    if len(pairs) < 2 * GROUPS:
        return {}
    error = standard_error(left_out(lambda some: frechet_distance(some[:, 0], some[:, 1]), pairs))
    return {"standard_error": float(f"{error:.3g}"), "error_from": f"jackknife of {GROUPS} groups of pairs"}


def _lpips(lpips: LPIPS, images: Tensor, made: Tensor) -> Tensor:
    parts = tqdm(zip(images.split(BATCH), made.split(BATCH), strict=True), "lpips", delay=2, leave=False)
    return torch.cat([lpips(a, b) for a, b in parts])


def _mean(values: Tensor, which: str) -> dict[str, Any]:
    """An entry of metrics.json for one value an image; which: what images they are."""
    mean = Mean()
    mean.update(values)
    error = {"standard_error": float(f"{mean.standard_error:.3g}"), "error_from": SPREAD} if mean.count > 1 else {}
    return {"value": mean.value, "samples": mean.count, **error, "note": which}


def evaluate(folder: Path, *, num: int | None, device: str | None, space: Space) -> dict[str, Any]:
    """Measures a run's autoencoder on at most ``num`` images, and writes its metrics.json; gives its content.

    space: the eyes of rFID.
    """
    metrics = metrics_of(load(folder, device, num or MOST), space)
    write_json(folder / "metrics.json", metrics)
    return metrics


def report(folder: Path, *, device: str | None, command: str) -> Path:
    """Reconstructs, measures and writes report.html and metrics.json; gives the page's path."""
    said = load(folder, device)
    metrics = metrics_of(said, Space())
    write_json(folder / "metrics.json", metrics)
    recipe, latents = said.run.recipe, metrics["latents"]
    shown = spaced(len(said.images), SHOWN)  # of all classes, as sources have them one after another
    network = recipe.network
    data = AutoencoderData(
        name=folder.name,
        model=f"{network.autoencoder} autoencoder, factor {said.net.factor}, {said.net.latent_channels} channels, "
        f"width {network.width}; perceptual term: {recipe.loss.perceptual}",
        parameters=sum(p.numel() for p in said.net.parameters()),
        data=f"{said.facts['source']} ({said.facts['images']:,} images)",
        step=said.step,
        training_seconds=said.facts["seconds"],
        metrics={k: Metric.read(v) for k, v in metrics.items() if "value" in v},
        log=[r for r in said.run.records() if "loss" in r],
        recipe=to_yaml(recipe),
        environment=environment(said.device),
        command=command,
        pairs=(said.images[shown], said.made[shown]),
        which=said.which,
        latents=list(zip(latents["mean"], latents["std"], strict=True)),
    )
    path = folder / "report.html"
    write_report(path, data, SECTIONS)
    return path
