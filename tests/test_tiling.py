"""Tiled encoding and decoding: no seams, no holes, and the same as whole where the network allows it."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from ditkit.app.kinds.autoencoder import autoencoder
from ditkit.app.recipe import AutoencoderNetwork
from ditkit.base.errors import UserError
from ditkit.encoders.tiling import Tiled, in_tiles, ramp, spans_of
from tests.storing import normal, tiny

STEP = 2 / 255
"""One of 255 grey levels in [-1, 1]."""


def smooth(*shape: int, seed: int = 0) -> Tensor:
    """Random pictures in [-1, 1] with structure at the scale of a tile, as photographs have."""
    coarse = normal(shape[0], shape[1], shape[2] // 8, shape[3] // 8, seed=seed)
    return torch.nn.functional.interpolate(coarse, size=shape[2:], mode="bicubic").tanh()


@pytest.mark.parametrize(("length", "tile", "overlap"), [(5, 8, 2), (8, 8, 2), (9, 8, 2), (100, 16, 4), (100, 16, 0)])
def test_tiles_cover_all_with_their_overlap(length: int, tile: int, overlap: int) -> None:
    spans = spans_of(length, tile, overlap)
    assert [span.core_start for span in spans] == [0, *(span.core_end for span in spans[:-1])]
    assert spans[-1].core_end == length
    covered = torch.zeros(length)
    for span in spans:
        assert span.end - span.start == min(tile, length)
        assert 0 <= span.start <= span.core_start < span.core_end <= span.end <= length
        covered[span.start : span.end] += ramp(span, 1)
    assert (covered > 0.5).all()
    assert all(a.end - b.start >= overlap for a, b in itertools.pairwise(spans))


@torch.no_grad()
def test_small_images_pass_as_they_are() -> None:
    net, x = tiny(), smooth(2, 3, 32, 32)
    tiled = Tiled(net, tile=8, overlap=2)
    noise = normal(2, 4, 8, 8)
    torch.testing.assert_close(tiled.encode(x, noise), net.encode(x, noise))
    assert torch.equal(tiled.decode(noise), net.decode(noise))
    assert tiled.identity == net.identity
    assert tiled.latent_shape((3, 32, 48)) == (4, 8, 12)


def levels(ours: Tensor, whole: Tensor) -> Tensor:
    """The mean difference in units of a grey level, where a trained network's output would vary by about 1."""
    return (ours - whole).abs().mean() / whole.std() / STEP


@pytest.mark.parametrize("size", [(160, 96), (104, 136)])
@torch.no_grad()
def test_seams_are_below_a_grey_level(size: tuple[int, int]) -> None:
    net = tiny()
    tiled, x = Tiled(net, tile=24, overlap=8), smooth(1, 3, *size)
    whole = net.encode(x)
    assert levels(tiled.encode(x), whole) <= 1
    assert levels(tiled.decode(whole), net.decode(whole)) <= 1
    alone = Tiled(net, tile=24, overlap=8, passes=0)  # each tile's own norms
    assert levels(alone.encode(x), whole) > 2


@torch.no_grad()
def test_enough_passes_and_overlap_leave_no_seam() -> None:
    net, x = tiny(), smooth(1, 3, 144, 96)
    norms = sum(isinstance(module, torch.nn.GroupNorm) for module in net.modules())
    tiled, whole = Tiled(net, tile=24, overlap=14, passes=norms), net.encode(x)
    assert levels(tiled.encode(x), whole) <= 0.01
    assert levels(tiled.decode(whole), net.decode(whole)) <= 0.02


@pytest.mark.parametrize("kind", ["kl", "vq", "fast"])
@torch.no_grad()
def test_every_kind_of_autoencoder_goes_in_tiles(kind: str) -> None:
    net = autoencoder(AutoencoderNetwork(kind, 4, 4, 8, 1, 8 if kind == "vq" else None), channels=3, seed=0).eval()
    tiled, x = Tiled(net, tile=32, overlap=8, passes=16), smooth(1, 3, 168, 136)
    z = net.encode(x)
    for made, whole in ((tiled.encode(x), z), (tiled.decode(z), net.decode(z))):
        assert levels(made, whole) <= 1
        assert not torch.equal(made, whole)  # it was taken apart
    assert in_tiles(net, None) is net
    said = in_tiles(net, 32)
    assert isinstance(said, Tiled)
    assert (said.tile, said.overlap) == (32, 8)


def test_an_overlap_that_does_not_fit() -> None:
    with pytest.raises(UserError, match="overlap 8 does not fit tiles of 8"):
        Tiled(tiny(), tile=8, overlap=8)
