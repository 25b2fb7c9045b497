"""What is held out: the same images however a set is read, and whichever files are broken."""

import pytest
import torch

from ditkit.app.encoding import Job, encode
from ditkit.data.buckets import load_buckets
from ditkit.data.latents import LatentStore, open_latents, published
from ditkit.data.loader import split_heldout
from ditkit.data.loading import load_images
from ditkit.data.source import open_source
from tests.running import draw_images
from tests.test_autoencoder import tiny, write

BROKEN = {"a/003.png": None, "b/017.png": 50}
"""Images, and after how many bytes they end; None: not one byte of an image."""


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """200 images in two classes, of which one has no header and another no pixels."""
    data = draw_images(tmp_path_factory.mktemp("heldout"), [f"{k}/{i:03}.png" for k in "ab" for i in range(100)])
    for name, length in BROKEN.items():
        content = b"no picture" if length is None else (data / name).read_bytes()[:length]
        (data / name).write_bytes(content)
    return data


def latents(data, folder):
    vae = write(folder / "vae", tiny(widths=(8, 16), channels=1))
    encode(Job(data=str(data), autoencoder=str(vae), device="cpu", shard=64), folder / "store")
    store = LatentStore(folder / "store")
    return open_latents(store, published(store.manifest))


WAYS = {
    "in memory": lambda data, folder: load_images(open_source(data), progress=False),
    "as needed": lambda data, folder: load_images(open_source(data), progress=False, memory=0),
    "in buckets": lambda data, folder: load_buckets(open_source(data), 4, size=8, progress=False),
    "latents": latents,
}


def held_out(images, seed):
    learned, held = split_heldout(images, 0.2, seed)
    assert sorted([*learned.tolist(), *held.tolist()]) == list(range(len(images)))
    return {int(i) for i in images.indices[held]}


@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_the_same_images_are_held_out_however_they_are_read(broken, tmp_path, way, classes):
    images, whole = WAYS[way](broken, tmp_path), load_images(open_source(broken), memory=0, progress=False)
    if not classes:  # as --no-data.classes has it
        images.labels = whole.labels = None
        images.classes = whole.classes = ()
    places = {int(i) for i in images.indices}
    assert {3, 117} - places == {"in memory": {3, 117}, "latents": {3, 117}, "in buckets": {3}, "as needed": set()}[way]
    for seed in range(4):
        assert held_out(images, seed) == held_out(whole, seed) & places
        assert len(held_out(whole, seed)) == 40
        if classes:
            assert len([i for i in held_out(whole, seed) if i < 100]) == 20


def test_a_part_of_a_set_shares_what_is_known_of_broken_files(broken):
    whole = load_images(open_source(broken), memory=0, progress=False)
    parts = [whole.subset(torch.arange(3, 23)), whole.subset(torch.arange(100, 120))]
    for part in (*parts, whole):
        part.get(torch.arange(len(part)))  # one in 20 is more than 1% of the part, not of the source
    assert [name for name, _ in whole.skipped] == [*BROKEN]
    assert parts[0].skipped == parts[1].skipped == whole.skipped
