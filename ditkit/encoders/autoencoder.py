"""Pixels to latents and back, with the statistics that belong to them; the identity for diffusion in pixel space.

Rombach et al. 2022, section 3.1: a diffusion model learns in the latent space of a frozen autoencoder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditkit.base import rng
from ditkit.base.errors import UserError
from ditkit.encoders.autoencoder_blocks import Decoder, Encoder
from ditkit.nn.init import allocate, initialise
from ditkit.process.gaussian import normal_kl, standard_normal_log_density

Shape = tuple[int, int, int]
"""Channels, height, width."""

PIXELS_AT_ONCE = 2**20
"""Larger batches are encoded in parts of so many pixels (16 images of 256x256), to bound the memory that it takes."""


class Autoencoder(Protocol):
    """What diffusion needs of an autoencoder; it is frozen, and has a device of its own."""

    @property
    def identity(self) -> str:
        """What the latents depend on (kind, scale, shift, hash of the weights) in one line: latents of two
        autoencoders belong together where their identities are equal."""
        ...

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Pixels (B, C, H, W) float32 in [-1, 1] to normalised latents (B, c, h, w) float32.

        noise: standard normal (B, c, h, w) that draws from the posterior; None gives its mode.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, c, h, w) to pixels (B, C, H, W) float32, about in [-1, 1]."""
        ...

    def latent_shape(self, shape: Shape) -> Shape:
        """(c, h, w) of the latents of images (C, H, W). UserError for images that it cannot encode."""
        ...


@dataclasses.dataclass(frozen=True)
class Identity:
    """Pixel space: the latents are the pixels."""

    identity: str = "pixels"

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """The pixels; they have no posterior to draw from."""
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        """The latents."""
        return latents

    def latent_shape(self, shape: Shape) -> Shape:
        """The images' own."""
        return shape


@dataclasses.dataclass(frozen=True)
class Whitened:
    """An autoencoder whose latents are brought to mean 0 and standard deviation 1 by measured statistics.

    mean, std: of each channel of ``inner``'s latents, (c,).
    """

    inner: Autoencoder
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def identity(self) -> str:
        """See ``Autoencoder``."""
        return whitened_identity(self.inner.identity, self.mean, self.std)

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """See ``Autoencoder``."""
        latents = self.inner.encode(pixels, noise)
        return (latents - per_channel(self.mean, latents)) / per_channel(self.std, latents)

    def decode(self, latents: Tensor) -> Tensor:
        """See ``Autoencoder``."""
        return self.inner.decode(latents * per_channel(self.std, latents) + per_channel(self.mean, latents))

    def latent_shape(self, shape: Shape) -> Shape:
        """See ``Autoencoder``."""
        return self.inner.latent_shape(shape)


def whitened_identity(inner: str, mean: Sequence[float], std: Sequence[float]) -> str:
    """The identity of an autoencoder whose latents are whitened by measured statistics."""

    def told(values: Sequence[float]) -> str:
        return ",".join(f"{value:.6g}" for value in values)

    return f"{inner} measured mean {told(mean)} std {told(std)}"


def per_channel(values: Sequence[float], latents: Tensor) -> Tensor:
    """One number for each channel of latents (B, c, h, w): (c, 1, 1) of their dtype and device."""
    return torch.tensor(values, dtype=latents.dtype, device=latents.device)[:, None, None]


@dataclasses.dataclass(frozen=True)
class Posterior:
    """The diagonal Gaussian q(z | x) over latents before normalisation.

    mean, log_var: (B, c, h, w). Kingma & Welling 2014; Rombach et al. 2022, appendix G.
    """

    mean: Tensor
    log_var: Tensor

    @classmethod
    def of(cls, moments: Tensor) -> Posterior:
        """From the encoder's output (B, 2c, h, w): means, then log variances, which are clamped to [-30, 20]."""
        mean, log_var = moments.chunk(2, dim=1)
        return cls(mean, log_var.clamp(-30.0, 20.0))

    @property
    def std(self) -> Tensor:
        """The standard deviation, (B, c, h, w)."""
        return torch.exp(0.5 * self.log_var)

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std noise, (B, c, h, w); noise: standard normal of that shape."""
        return self.mean + self.std * noise

    def kl(self) -> Tensor:
        """KL(q || N(0, I)) in nats, summed over a sample's latents, (B,)."""
        zero = torch.zeros_like(self.mean)
        return normal_kl(self.mean, self.log_var, zero, zero).sum(dim=(1, 2, 3))

    def nll(self, z: Tensor) -> Tensor:
        """-log q(z) in nats, summed over a sample's latents, (B,)."""
        log_density = standard_normal_log_density((z - self.mean) / self.std) - 0.5 * self.log_var
        return -log_density.sum(dim=(1, 2, 3))


Network = Callable[[Tensor], Tensor]
Apply = Callable[[Network, Tensor, float], Tensor]
"""(network, x, zoom) to network(x), whose sides are ``zoom`` times those of x: at once, or in tiles."""


def at_once(network: Network, x: Tensor, zoom: float) -> Tensor:
    """An ``Apply``: network(x)."""
    return network(x)


@dataclasses.dataclass(frozen=True)
class Autoencoded:
    """What an autoencoder in training says of images: pixels (B, C, H, W), penalties by name, (B,) each, and notes (see
    ``ditkit.objectives.loss.Loss``).
    """

    pixels: Tensor
    penalties: dict[str, Tensor]
    notes: dict[str, Tensor] = dataclasses.field(default_factory=dict)


class LatentAutoencoder(nn.Module):
    """What the convolutional autoencoders share: two halves with latents between them, and their statistics.

    widths: of the stages, from full resolution down; each but the last halves height and width.
    blocks: residual blocks per stage. channels, latent_channels: of pixels and latents. groups: of the norms.
    quant_conv: a 1x1 convolution after the encoder and one before the decoder (SD 3 and Flux have none).
    scale, shift: the latents are (z - shift) scale, which gives them about unit variance.
    seed: of the initial weights. Raises UserError for widths that the groups do not divide.

    name: what it is called in recipes and identities; in config.json it is the class's.
    moments_each: the encoder's channels for each of the latents'. patch_size: pixels beside each other as one.
    """

    name: ClassVar[str]
    moments_each: ClassVar[int] = 2
    patch_size: int = 1

    def __init__(
        self,
        widths: Sequence[int] = (128, 256, 512, 512),
        blocks: int = 2,
        channels: int = 3,
        latent_channels: int = 4,
        groups: int = 32,
        quant_conv: bool = True,
        *,
        scale: float = 0.18215,
        shift: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.channels, self.latent_channels = channels, latent_channels
        self.factor = self.patch_size * 2 ** (len(widths) - 1)
        self.scale, self.shift = scale, shift
        device = torch.empty(0).device
        seen, said = channels * self.patch_size**2, self.moments_each * latent_channels
        with torch.device("meta"):  # so that nothing is drawn before initialise() draws it, once
            self.encoder = Encoder(seen, said, widths, blocks, groups)
            self.decoder = Decoder(seen, latent_channels, widths, blocks, groups)
            self.quant_conv = nn.Conv2d(said, said, 1) if quant_conv else nn.Identity()
            self.post_quant_conv = nn.Conv2d(latent_channels, latent_channels, 1) if quant_conv else nn.Identity()
        allocate(self, device)
        initialise(self, seed)

    @classmethod
    def of_factor(cls, factor: int, width: int, **others: Any) -> Self:
        """The network that divides height and width by ``factor``, a power of 2, from its width at full resolution."""
        return cls(widths=stage_widths(factor, width), groups=math.gcd(32, width), **others)

    @classmethod
    def arguments(cls, known: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments from those of a KL autoencoder of such weights, and what config.json says besides."""
        return dict(known)

    def own_config(self) -> dict[str, Any]:
        """What config.json has to say beyond that of a KL autoencoder."""
        return {}

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights, in which all is computed; what goes in and comes out has the caller's."""
        return self.encoder.conv_in.weight.dtype

    @property
    def identity(self) -> str:
        """See ``Autoencoder``."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(f"{name} {tuple(value.shape)} ".encode())
            digest.update(value.float().contiguous().cpu().numpy().data)
        statistics = f"scale {self.scale:g} shift {self.shift:g}"
        return f"{self.name}-f{self.factor}c{self.latent_channels} {statistics} sha256 {digest.hexdigest()[:16]}"

    def latent_shape(self, shape: Shape) -> Shape:
        """See ``Autoencoder``."""
        channels, height, width = shape
        if channels != self.channels:
            raise UserError(
                f"the images have {channels} channels, the autoencoder takes {self.channels}: "
                f"set --data.channels {self.channels} (ditkit encode: --channels)"
            )
        if height % self.factor or width % self.factor:
            near = [max(1, round(side / self.factor)) * self.factor for side in (height, width)]
            raise UserError(
                f"images of {height}x{width} are not divisible by the autoencoder's factor {self.factor}: "
                f"set --data.size (ditkit encode: --size) to a multiple, such as {near[0]} {near[1]}"
            )
        return self.latent_channels, height // self.factor, width // self.factor

    def posterior(self, pixels: Tensor) -> Posterior:
        """q(z | x) of pixels (B, C, H, W), before normalisation."""
        return Posterior.of(self.moments(pixels))

    def moments(self, pixels: Tensor, apply: Apply = at_once) -> Tensor:
        """Means and log variances (B, 2c, h, w) of pixels (B, C, H, W), before normalisation.

        apply: how the part that sees a neighbourhood is applied.
        """
        patches = F.pixel_unshuffle(pixels.to(self.dtype), self.patch_size)  # B, C P^2, H/P, W/P
        h = apply(self.encoder.descend, patches, self.patch_size / self.factor)
        return self.quant_conv(self.encoder.through_middle(h)).to(pixels.dtype)

    def reconstruct(self, z: Tensor, apply: Apply = at_once) -> Tensor:
        """Pixels (B, C, H, W) of latents (B, c, h, w) that are not normalised; apply: see ``moments``."""
        h = self.decoder.through_middle(self.post_quant_conv(z.to(self.dtype)))
        patches = apply(self.decoder.ascend, h, self.factor / self.patch_size)
        return F.pixel_shuffle(patches, self.patch_size).to(z.dtype)

    def autoencode(self, pixels: Tensor, noise: Tensor) -> Autoencoded:
        """Images (B, C, H, W) there and back with gradients, by the posterior's draw; noise: (B, c, h, w).

        Penalty "kl": KL(q || N(0, I)) in nats for each value of the image, which is beside a mean over pixels what
        the KL itself is beside a sum over them.
        """
        q = self.posterior(pixels)
        return Autoencoded(self.reconstruct(q.sample(noise)), {"kl": q.kl() / pixels[0].numel()})

    def code_counts(self, pixels: Tensor) -> Tensor | None:
        """How often each code stands for a latent of pixels (B, C, H, W), (codes,) int64; None without a codebook."""
        return None

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """See ``Autoencoder``."""
        rows = max(1, PIXELS_AT_ONCE // pixels[0, 0].numel())
        posteriors = [self.posterior(part) for part in pixels.split(rows)]
        if noise is None:
            z = torch.cat([posterior.mean for posterior in posteriors])
        else:
            z = torch.cat([q.sample(part) for q, part in zip(posteriors, noise.split(rows), strict=True)])
        return (z - self.shift) * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """See ``Autoencoder``. One image at a time: the same to the bit whatever the batch, in little memory."""
        z = latents / self.scale + self.shift
        return torch.cat([self.reconstruct(row) for row in z.split(1)])


def stage_widths(factor: int, width: int) -> tuple[int, ...]:
    """Of the stages of a published autoencoder: (1, 2, 4, 4, ...) times the first, log2(factor) + 1 of them."""
    stages = factor.bit_length()
    if factor < 1 or factor != 2 ** (stages - 1):
        raise UserError(f"factor {factor} of an autoencoder is no power of 2: expected for example 4 or 8")
    return tuple(width * min(2**i, 4) for i in range(stages))


class AutoencoderKL(LatentAutoencoder):
    """The KL-regularised autoencoder of latent diffusion (Rombach et al. 2022); SD 1 and 2, SDXL, SD 3 and Flux use it.

    See ``LatentAutoencoder`` for its arguments.
    """

    name = "kl"


def posterior_noise(shape: Shape, seed: int, keys: Tensor) -> Tensor:
    """Standard normal (B, c, h, w) that draws images from their posteriors in training, on the CPU.

    keys: (B, 2) int64, the epoch in which each is shown, and its place in the source. The noise of an image hangs on
    these and the seed alone: not on what it shares a batch with, on the process that takes it, or on where its
    posterior comes from.
    """
    drawn = [torch.randn(shape, generator=rng.generator(seed, "posterior", *key)) for key in keys.tolist()]
    return torch.stack(drawn) if drawn else torch.empty(0, *shape)


def encode_keyed(autoencoder: Autoencoder, pixels: Tensor, seed: int, keys: Tensor) -> Tensor:
    """Latents of a training batch (B, C, H, W), drawn from the posteriors; keys: see ``posterior_noise``."""
    channels, height, width = pixels.shape[1:]
    noise = posterior_noise(autoencoder.latent_shape((channels, height, width)), seed, keys)
    return autoencoder.encode(pixels, noise.to(pixels.device))
