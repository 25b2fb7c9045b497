"""Large images through an autoencoder in overlapping tiles: the memory of one tile at high resolution, not of all.

The middle, where attention sees the whole image, runs whole: it is small, at the resolution of the latents. The rest
makes seams for two reasons. A tile's border is padded with zeros: so tiles overlap, and near it they do not count. Its
norms see the tile instead of the image: so first passes over the tiles gather the statistics that they share. Each pass
applies what the one before gathered, so that after k passes the first k norms are those of the whole image.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ditkit.base.errors import UserError
from ditkit.encoders.autoencoder import LatentAutoencoder, Network, Posterior, Shape


@dataclasses.dataclass(frozen=True)
class Tiled:
    """An autoencoder that takes large images apart (see ``Autoencoder``); small ones pass as they are.

    tile: side of a tile in latents; images of more are taken apart. overlap: of neighbouring tiles, in latents.
    passes: over the tiles, to gather what the norms share. Each costs as much as the result itself; with as many as
    there are norms the result is that of the whole image, but for what is further away than half the overlap.
    Raises UserError for an overlap that leaves no step between tiles.
    """

    inner: LatentAutoencoder
    tile: int = 64
    overlap: int = 16
    passes: int = 8

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.tile:
            raise UserError(
                f"tile overlap {self.overlap} does not fit tiles of {self.tile}: give one from 0 below that"
            )

    @property
    def identity(self) -> str:
        """See ``Autoencoder``: that of the network."""
        return self.inner.identity

    def latent_shape(self, shape: Shape) -> Shape:
        """See ``Autoencoder``."""
        return self.inner.latent_shape(shape)

    def posterior(self, pixels: Tensor) -> Posterior:
        """q(z | x) of pixels (B, C, H, W), before normalisation. One image at a time."""
        return Posterior.of(torch.cat([self.inner.moments(row, self._tiled) for row in pixels.split(1)]))

    def encode(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """See ``Autoencoder``."""
        posterior = self.posterior(pixels)
        z = posterior.mean if noise is None else posterior.sample(noise)
        return (z - self.inner.shift) * self.inner.scale

    def decode(self, latents: Tensor) -> Tensor:
        """See ``Autoencoder``. One image at a time."""
        z = latents / self.inner.scale + self.inner.shift
        return torch.cat([self.inner.reconstruct(row, self._tiled) for row in z.split(1)])

    def _tiled(self, network: Network, x: Tensor, zoom: float) -> Tensor:
        """network(x), (1, c, zoom H, zoom W), in tiles of x (1, C, H, W); see ``Apply``."""
        height, width = x.shape[2:]
        factor = max(1, round(1 / zoom))  # places of x for each latent, since one side of the network is the latents'
        if max(height, width) <= self.tile * factor:
            return network(x)
        sides = [spans_of(side // factor, self.tile, self.overlap) for side in (height, width)]
        tiles = [Tile(rows.scaled(factor), columns.scaled(factor)) for rows, columns in itertools.product(*sides)]
        norms = SharedNorms(self.inner)
        for _ in range(self.passes):
            with norms.gathering() as gather:
                for part in tiles:
                    gather(part)
                    network(part.of(x))
        with norms.applied():
            return blended(network, x, tiles, zoom)


def in_tiles(net: LatentAutoencoder, tile: int | None) -> LatentAutoencoder | Tiled:
    """The autoencoder, which takes images of more than ``tile`` latents a side apart, by a quarter overlapping."""
    return net if tile is None else Tiled(net, tile, tile // 4)


@dataclasses.dataclass(frozen=True)
class Span:
    """A tile along one side: where it begins and ends, and its core, from the middle of one overlap to the next."""

    start: int
    end: int
    core_start: int
    core_end: int

    def scaled(self, factor: int) -> Span:
        """The same in pixels of which ``factor`` make one."""
        return Span(*(factor * place for place in dataclasses.astuple(self)))


def spans_of(length: int, tile: int, overlap: int) -> list[Span]:
    """Tiles that cover ``length`` evenly, overlapping by ``overlap`` at least; their cores are a partition."""
    tile = min(tile, length)
    steps = math.ceil((length - tile) / (tile - overlap)) if length > tile else 0
    starts = [round(k * (length - tile) / steps) for k in range(steps)] + [length - tile]
    middles = [0, *((after + before + tile) // 2 for before, after in itertools.pairwise(starts)), length]
    return [Span(start, start + tile, *core) for start, core in zip(starts, itertools.pairwise(middles), strict=True)]


@dataclasses.dataclass(frozen=True)
class Tile:
    """A part of an image, in its pixels."""

    rows: Span
    columns: Span

    def of(self, x: Tensor, zoom: float = 1) -> Tensor:
        """This part of x (..., zoom H, zoom W), a view."""
        top, bottom, left, right = (
            round(place * zoom) for span in (self.rows, self.columns) for place in (span.start, span.end)
        )
        return x[..., top:bottom, left:right]

    def core(self, h: Tensor) -> Tensor:
        """Of features (..., h', w') of this tile, what is in no other tile's core."""
        for dim, span in ((-2, self.rows), (-1, self.columns)):
            scale = h.shape[dim] / (span.end - span.start)
            first, last = (round((place - span.start) * scale) for place in (span.core_start, span.core_end))
            h = h.narrow(dim, first, last - first)
        return h

    def weight(self, zoom: float) -> Tensor:
        """How much each pixel of the zoomed tile counts, (zoom h, zoom w)."""
        return torch.outer(*(ramp(span, zoom) for span in (self.rows, self.columns)))


def ramp(span: Span, zoom: float) -> Tensor:
    """A tile's weights along one side: 0.5 at its core's ends, falling linearly from there to next to nothing half way
    to its own end, and rising likewise to 1. Never 0, since at the image's border there is no other tile.
    """
    place = (torch.arange(round(span.start * zoom), round(span.end * zoom)) + 0.5) / zoom
    weight = torch.ones_like(place)
    for margin, inside in (
        (span.core_start - span.start, place - span.core_start),
        (span.end - span.core_end, span.core_end - place),
    ):
        if margin:
            weight = torch.minimum(weight, 0.5 + inside / margin)
    return weight.clamp(1e-6, 1.0)


def blended(network: Network, x: Tensor, tiles: list[Tile], zoom: float) -> Tensor:
    """network(x) from its tiles, (1, c, zoom H, zoom W)."""
    size = [round(side * zoom) for side in x.shape[2:]]
    total, weights = None, x.new_zeros(size)
    for part in tiles:
        out, weight = network(part.of(x)), part.weight(zoom).to(x)
        total = out.new_zeros(1, out.shape[1], *size) if total is None else total
        part.of(total, zoom).add_(weight * out)
        part.of(weights, zoom).add_(weight)
    assert total is not None
    return total / weights


class SharedNorms:
    """The statistics of a network's GroupNorms over all tiles of an image."""

    def __init__(self, net: nn.Module) -> None:
        self.norms = [module for module in net.modules() if isinstance(module, nn.GroupNorm)]
        self.sums: dict[nn.Module, Tensor] = {}

    @contextlib.contextmanager
    def gathering(self) -> Iterator[Callable[[Tile], None]]:
        """Within it, what the norms see is added up, and what was before is applied. Gives what takes the next tile."""
        tiles: list[Tile] = []
        sums: dict[nn.Module, Tensor] = {}

        def gather(norm: nn.GroupNorm, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
            core = tiles[-1].core(given[0]).double()
            groups = core.unflatten(1, (norm.num_groups, -1)).flatten(2)  # 1 G n
            count = torch.full_like(groups[..., 0], groups.shape[-1])
            sums[norm] = sums.get(norm, 0) + torch.stack([count, groups.sum(-1), groups.square().sum(-1)])  # 3 1 G
            return self._apply(norm, given, out)

        with self._hooked(gather):
            yield tiles.append
        self.sums = sums

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, the norms use what was gathered."""
        with self._hooked(self._apply):
            yield

    @contextlib.contextmanager
    def _hooked(self, hook: Callable[..., Any]) -> Iterator[None]:
        handles = [norm.register_forward_hook(hook) for norm in self.norms]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _apply(self, norm: nn.GroupNorm, given: tuple[Tensor, ...], out: Tensor) -> Tensor:
        if norm not in self.sums:
            return out
        x, (count, total, squares) = given[0], self.sums[norm]
        mean = total / count  # 1 G
        variance = squares / count - mean.square()
        width = norm.num_channels // norm.num_groups
        mean, variance = (s.repeat_interleave(width, 1).to(norm.weight.dtype)[0] for s in (mean, variance))
        return F.batch_norm(x, mean, variance, norm.weight, norm.bias, training=False, eps=norm.eps)
