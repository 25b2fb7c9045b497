"""From stored pictures to pixels: the published crop step by step, colours, orientation."""

import io
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from ditkit.base.errors import UserError
from ditkit.base.rng import generator
from ditkit.data import jpeg
from ditkit.data.crops import Centre, Pad, Placed, Random, centred
from ditkit.data.loader import batch
from ditkit.data.loading import load_images
from ditkit.data.preprocess import centre_crop, channels_of, cover, cut, prepare, upright_size, with_channels
from ditkit.data.source import open_source

BOX, BICUBIC = Image.Resampling.BOX, Image.Resampling.BICUBIC

# width, height, wanted (H, W), the halvings, the covering size, the corner (left, top); worked out by hand
GEOMETRY = [
    (4, 4, (4, 4), [], (4, 4), (0, 0)),
    (4, 2, (2, 2), [], (4, 2), (1, 0)),
    (5, 2, (2, 2), [], (5, 2), (1, 0)),
    (2, 7, (2, 2), [], (2, 7), (0, 2)),
    (9, 9, (4, 4), [(4, 4)], (4, 4), (0, 0)),
    (16, 17, (4, 4), [(8, 8), (4, 4)], (4, 4), (0, 0)),
    (15, 40, (4, 4), [(7, 20)], (4, 11), (0, 3)),  # 20 * 4/7 = 11.43
    (6, 4, (3, 3), [], (4, 3), (0, 0)),  # 4.5 rounds to the even 4
    (10, 4, (3, 3), [], (8, 3), (2, 0)),  # 7.5 rounds to the even 8
    (3, 2, (8, 8), [], (12, 8), (2, 0)),  # enlarged
    (31, 23, (5, 5), [(15, 11), (7, 5)], (7, 5), (1, 0)),
    (20, 12, (4, 6), [(10, 6)], (7, 4), (0, 0)),  # max(6/10, 4/6) = 2/3: 6.67 x 4
    (12, 20, (6, 4), [(6, 10)], (4, 7), (0, 0)),
    (9, 8, (2, 8), [], (8, 7), (0, 2)),  # one long side is not halved for the other
]


def noise(width, height, mode="RGB", seed=0):
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, bands), np.uint8)
    return Image.fromarray(pixels[..., 0] if bands == 1 else pixels, mode)


@pytest.mark.parametrize(("width", "height", "size", "halvings", "covering", "corner"), GEOMETRY)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_crop_is_the_published_sequence_of_steps(width, height, size, halvings, covering, corner, mode):
    image = stepwise = noise(width, height, mode)
    for halved in halvings:
        stepwise = stepwise.resize(halved, BOX)
    stepwise = np.asarray(stepwise.resize(covering, BICUBIC))
    left, top = corner
    expected = stepwise[top : top + size[0], left : left + size[1]]
    np.testing.assert_array_equal(np.asarray(centre_crop(image, size)), expected)


def test_halving_averages_two_by_two():
    image = Image.fromarray(np.array([[0, 4, 10, 10], [8, 12, 10, 30], [1, 1, 200, 0], [1, 1, 0, 0]], np.uint8))
    assert np.asarray(centre_crop(image, (2, 2))).tolist() == [[6, 15], [1, 50]]


def test_the_one_bicubic_step_in_numbers():
    # Catmull-Rom widened to the 3/2 of the shrinking: weights of a pixel at distance d are w(d * 2/3), normalised.
    def weight(d):
        d = abs(d) * 2 / 3
        return 1.5 * d**3 - 2.5 * d**2 + 1 if d < 1 else -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0

    row = np.array([10, 200, 60])
    weights = np.array([[weight(i + 0.5 - centre) for i in range(3)] for centre in (0.75, 2.25)])
    expected = np.rint(weights @ row / weights.sum(1))
    image = Image.fromarray(np.tile(row.astype(np.uint8), (3, 1)))
    assert np.asarray(centre_crop(image, (2, 2))).tolist() == [expected.tolist()] * 2


def pixel(image, channels):
    return prepare(image, (image.height, image.width), channels)[:, 0, 0].tolist()


def palette(colours):
    image = Image.new("P", (2, 1))
    image.putpalette([value for colour in colours for value in colour])
    image.putdata([0, 1])
    return image


@pytest.mark.parametrize(
    ("image", "stored", "grey", "rgb"),
    [
        (Image.new("L", (2, 2), 77), 1, [77], [77, 77, 77]),
        (Image.new("1", (2, 2), 1), 1, [255], [255, 255, 255]),
        (Image.new("RGB", (2, 2), (255, 0, 0)), 3, [76], [255, 0, 0]),
        (Image.new("I;16", (2, 2), 65535), 1, [255], [255, 255, 255]),
        (Image.new("I;16", (2, 2), 128 * 257 + 128), 1, [128], [128, 128, 128]),
        (Image.new("I;16", (2, 2), 128 * 257 + 129), 1, [129], [129, 129, 129]),
        (Image.new("I", (2, 2), 100 * 257), 1, [100], [100, 100, 100]),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), 3, [255], [255, 255, 255]),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 255)), 3, [18], [10, 20, 30]),
        (Image.new("LA", (2, 2), (50, 0)), 1, [255], [255, 255, 255]),
        (Image.new("CMYK", (2, 2), (255, 0, 0, 0)), 3, [179], [0, 255, 255]),
        (palette([(9, 9, 9), (200, 200, 200)]), 1, [9], [9, 9, 9]),
        (palette([(0, 0, 255), (200, 200, 200)]), 3, [29], [0, 0, 255]),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_every_mode_becomes_grey_or_rgb(image, stored, grey, rgb):
    assert channels_of(image) == stored
    assert pixel(image, 1) == grey
    assert pixel(image, 3) == rgb


def test_a_transparent_palette_is_laid_on_white(tmp_path):
    image = palette([(0, 0, 255), (200, 0, 0)])
    image.save(tmp_path / "a.png", transparency=0)
    with Image.open(tmp_path / "a.png") as stored:
        assert prepare(stored, (1, 2), 3).transpose(1, 2, 0).tolist() == [[[255, 255, 255], [200, 0, 0]]]


def test_sixteen_bits_survive_a_png(tmp_path):
    values = np.array([[0, 257, 65535], [128, 129, 30000]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as stored:
        assert prepare(stored, (2, 3), 1).tolist() == [[[0, 1, 255], [0, 1, 117]]]


def test_float_pixels_are_refused():
    with pytest.raises(ValueError, match="no agreed range"):
        with_channels(Image.new("F", (2, 2)), 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright(tmp_path, orientation):
    upright = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    # How the camera stored it, by the EXIF standard: where row 0 and column 0 of the file lie in the upright picture.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],  # row 0 of the file is the right-hand side
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        assert upright_size(image) == (2, 3)
        np.testing.assert_array_equal(prepare(image, (2, 3), 1)[0], upright)


def test_a_truncated_picture_raises(tmp_path):
    for ending in ("png", "jpg"):
        path = tmp_path / f"a.{ending}"
        noise(64, 64).save(path)
        path.write_bytes(path.read_bytes()[:-700])
        with Image.open(path) as image, pytest.raises(OSError, match="truncated"):
            prepare(image, (64, 64), 3)


# shorter side wanted, least, most: the published range of covering sizes, ceil(S / most) to ceil(S / least)
SCALES = [(8, 0.8, 1.0, 8, 10), (64, 0.8, 1.0, 64, 80), (10, 0.5, 0.75, 14, 20), (5, 0.3, 0.3, 17, 17)]


@pytest.mark.parametrize(("size", "least", "most", "lowest", "highest"), SCALES)
def test_the_random_crop_draws_every_scale_and_place_that_is_published(size, least, most, lowest, highest):
    crop, draws = Random(least, most), generator(0, "test")
    placed = [crop.draw((size, size), draws) for _ in range(60 * (highest - lowest + 1))]
    assert {p.covering for p in placed} == {(side, side) for side in range(lowest, highest + 1)}
    corners = [p.corner((0, 3)) for p in placed]
    assert {top for top, _ in corners} == {0}
    counts = np.bincount([left for _, left in corners], minlength=4)
    assert len(counts) == 4
    assert (abs(counts - len(placed) / 4) < 4 * np.sqrt(len(placed) * 3 / 16)).all()  # within 4 standard deviations


def test_the_random_crop_is_the_published_sequence_of_steps():
    image, placed = noise(31, 23), Placed((6, 6), (0.5, 1.0))
    stepwise = image.resize((15, 11), BOX)
    scale = 6 / 11
    stepwise = np.asarray(stepwise.resize((round(15 * scale), round(11 * scale)), BICUBIC))  # 8 x 6
    np.testing.assert_array_equal(prepare(image, (5, 5), 3, placed).transpose(1, 2, 0), stepwise[0:5, 3:8])


def test_a_random_crop_of_another_shape_keeps_it():
    placed = [Random().draw((8, 16), generator(i, "test")) for i in range(50)]
    assert {height for height, _ in (p.covering for p in placed)} == {8, 9, 10}
    assert all(width == 2 * height for height, width in (p.covering for p in placed))
    assert prepare(noise(50, 30), (8, 16), 1, placed[0]).shape == (1, 8, 16)


@pytest.mark.parametrize("spare", range(6))
def test_the_centre_has_the_smaller_half_above(spare):
    assert centred((1, 1)).corner((spare, spare + 1)) == (spare // 2, (spare + 1) // 2)
    assert Centre().draw((4, 4), generator(0, "test")) == centred((4, 4))


@pytest.mark.parametrize(("least", "most"), [(0, 1), (0.9, 0.8), (0.5, 1.1), (float("nan"), 1)])
def test_impossible_random_crops_are_refused(least, most):
    with pytest.raises(UserError, match="expected 0 < least <= most <= 1"):
        Random(least, most)


def test_random_crops_are_drawn_by_seed_epoch_and_image(tmp_path):
    for i in range(12):
        noise(20, 16, seed=i).save(tmp_path / f"{i}.png")
    images = load_images(open_source(tmp_path), size=8, crop=Random(), progress=False)
    again = load_images(open_source(tmp_path), size=8, crop=Random(), progress=False, workers=3)

    def epoch(images, number, size, seed=1):
        steps = range(number * 12 // size, (number + 1) * 12 // size)
        batches = [batch(images, step=step, batch_size=size, seed=seed) for step in steps]
        return torch.cat([b.x0 for b in batches])[torch.cat([b.index for b in batches]).argsort()]

    first = epoch(images, 0, 12)
    assert torch.equal(first, epoch(again, 0, 4))
    for other in (epoch(images, 1, 12), epoch(images, 0, 12, seed=2)):
        assert (first != other).flatten(1).any(1).sum() > 6
    half = images.subset(torch.tensor([5]))  # a picture keeps its draws in a part of the set
    alone = half.draw(torch.tensor([0]), torch.tensor([False]), 1, torch.tensor([0]))
    assert torch.equal(alone[0], first[5])
    centre = load_images(open_source(tmp_path), size=8, progress=False)
    assert torch.equal(images.get(torch.arange(12)), centre.get(torch.arange(12)))  # measured on the centre


@pytest.mark.parametrize(
    ("image", "grey_alpha", "rgba"),
    [
        (Image.new("L", (2, 2), 77), [77, 255], [77, 77, 77, 255]),
        (Image.new("RGB", (2, 2), (255, 0, 0)), [76, 255], [255, 0, 0, 255]),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 40)), [18, 40], [10, 20, 30, 40]),
        (Image.new("LA", (2, 2), (50, 60)), [50, 60], [50, 50, 50, 60]),
        (Image.new("I;16", (2, 2), 65535), [255, 255], [255, 255, 255, 255]),
        (Image.new("CMYK", (2, 2), (255, 0, 0, 0)), [179, 255], [0, 255, 255, 255]),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_alpha_is_a_channel_where_it_is_asked_for(image, grey_alpha, rgba):
    assert pixel(image, 2) == grey_alpha
    assert pixel(image, 4) == rgba


def test_a_transparent_palette_keeps_its_alpha(tmp_path):
    palette([(0, 0, 255), (200, 0, 0)]).save(tmp_path / "a.png", transparency=0)
    with Image.open(tmp_path / "a.png") as stored:
        assert prepare(stored, (1, 2), 4)[3].tolist() == [[0, 255]]


def test_what_is_transparent_does_not_bleed_into_its_neighbours():
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, :2] = (200, 100, 50, 255)  # the right half is transparent black
    shrunk = prepare(Image.fromarray(pixels), (2, 2), 4)
    assert shrunk[:, 0, 0].tolist() == [200, 100, 50, 255]
    edge = prepare(Image.fromarray(pixels), (3, 3), 4)[:, 1, 1]
    assert 0 < edge[3] < 255
    np.testing.assert_allclose(edge[:3], [200, 100, 50], atol=3)  # as a mixture with black it would be half as bright


def test_a_cmyk_jpeg_is_not_inverted(tmp_path):
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "a.jpg", quality=95)
    with Image.open(tmp_path / "a.jpg") as stored:
        assert stored.mode == "CMYK"
        np.testing.assert_allclose(prepare(stored, (16, 16), 3)[:, 8, 8], [0, 255, 255], atol=4)


def scene(width, height, seed=0):
    """A picture as photographs are: slopes, edges of shapes, a little grain."""
    draws = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    pixels = np.stack([128 + 90 * np.sin(draws.uniform(2, 9) * x + draws.uniform(2, 9) * y + c) for c in range(3)], -1)
    for _ in range(12):
        cx, cy, radius = draws.uniform(0, 1), draws.uniform(0, 1), draws.uniform(0.03, 0.2)
        pixels[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = draws.uniform(0, 255, 3)
    return Image.fromarray((pixels + draws.normal(0, 3, pixels.shape)).clip(0, 255).astype(np.uint8))


def as_jpeg(image, orientation=1, **options):
    stream, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image.save(stream, "JPEG", quality=90, exif=exif, **options)
    return stream.getvalue()


def opened(content):
    return Image.open(io.BytesIO(content))


def in_full(content, size):
    image = opened(content)
    image.load()
    image.format = None
    return prepare(image, size, 3).astype(int)


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("width_height", [(640, 480), (1001, 777), (1203, 2051)])
def test_a_big_jpeg_is_decoded_at_less_and_gives_the_same_pixels_within_the_bound(width_height, orientation):
    content = as_jpeg(scene(*width_height), orientation)
    assert jpeg.loaded(opened(content), (48, 48)).width <= -(-width_height[0] // 2)
    drafted = prepare(opened(content), (32, 48), 3).astype(int)
    difference = abs(drafted - in_full(content, (32, 48)))
    assert difference.mean() <= 1.5
    assert difference.max() <= 16


@pytest.mark.parametrize(("width", "height"), [(511, 520), (600, 500), (300, 200)])
def test_a_jpeg_less_than_eight_times_as_large_is_decoded_in_full(width, height):
    content = as_jpeg(scene(width, height))
    np.testing.assert_array_equal(prepare(opened(content), (64, 64), 3), in_full(content, (64, 64)))


def test_a_truncated_big_jpeg_raises_though_it_is_decoded_at_less():
    content = as_jpeg(scene(640, 480))
    with pytest.raises(OSError, match="truncated"):
        prepare(opened(content[: len(content) // 2]), (32, 32), 3)


@pytest.fixture
def fast(monkeypatch):
    """A stand-in for simplejpeg that keeps what it was asked for."""
    module = types.ModuleType("simplejpeg")
    module.asked = []

    def decode_jpeg(data, colorspace, min_height, min_width):
        module.asked.append((colorspace, min_height, min_width))
        image = Image.open(io.BytesIO(data))
        image.draft(None, (min_width, min_height))
        pixels = np.asarray(image)
        return pixels[..., None] if pixels.ndim == 2 else pixels

    module.decode_jpeg = decode_jpeg
    monkeypatch.setitem(sys.modules, "simplejpeg", module)
    jpeg._simplejpeg.cache_clear()
    yield module
    jpeg._simplejpeg.cache_clear()


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_the_faster_decoder_is_used_where_it_is_installed(fast, monkeypatch, mode):
    content = as_jpeg(scene(640, 480).convert(mode), orientation=6)
    quick = prepare(opened(content), (32, 24), 3)
    assert fast.asked == [("GRAY" if mode == "L" else "RGB", 120, 160)]
    monkeypatch.setattr(jpeg, "_by_simplejpeg", lambda image, factor: None)
    np.testing.assert_array_equal(quick, prepare(opened(content), (32, 24), 3))


def test_pillow_has_the_last_word_on_what_the_faster_decoder_refuses(fast, monkeypatch):
    def refuse(*given, **options):
        raise ValueError("corrupt")

    monkeypatch.setattr(fast, "decode_jpeg", refuse)
    content = as_jpeg(scene(300, 200))
    np.testing.assert_array_equal(prepare(opened(content), (64, 64), 3), in_full(content, (64, 64)))
    with pytest.raises(OSError, match="truncated"):
        prepare(opened(content[:2000]), (64, 64), 3)


def test_simplejpeg_itself_gives_the_pixels_of_pillow():
    pytest.importorskip("simplejpeg")
    for size in ((640, 480), (200, 150)):
        content = as_jpeg(scene(*size))
        with opened(content) as image:
            difference = abs(prepare(image, (64, 64), 3).astype(int) - in_full(content, (64, 64)))
        assert difference.mean() <= 1.5


def test_the_first_frame_of_a_moving_picture_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 2
        assert prepare(image, (8, 8), 3)[:, 4, 4].tolist() == [255, 0, 0]


def test_the_smallest_and_the_longest_pictures_are_brought_to_size_too():
    assert (prepare(Image.new("L", (1, 1), 9), (64, 64), 3) == 9).all()
    long = Image.fromarray(np.arange(100_000, dtype=np.int64).clip(40_000, 60_000).astype(np.float64)[None] / 400)
    pixels = prepare(long.convert("L"), (64, 64), 1)
    assert pixels.shape == (1, 64, 64)
    assert abs(int(pixels.mean()) - 125) <= 1  # its middle
    assert prepare(long.convert("L").rotate(90, expand=True), (8, 32), 1).shape == (1, 8, 32)


@pytest.mark.parametrize("width", [31, 32, 33])
def test_the_ends_of_very_long_pictures_are_cut_off_first(width):
    image = noise(width * 4, 4, "L")
    kept = cover(image, (4, 4))
    assert kept.size == (min(width, 32) * 4, 4)
    expected = np.asarray(image)[:, (width * 4 - 4) // 2 :][:, :4]
    np.testing.assert_array_equal(np.asarray(cut(kept, (4, 4), centred((4, 4)))), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_pad_frames_a_picture_in_black_and_changes_no_pixel_of_it(tmp_path, channels):
    mode = {1: "L", 3: "RGB"}[channels]
    for i, (width, height) in enumerate([(28, 28), (56, 28), (28, 60)]):
        noise(width, height, mode, seed=i).save(tmp_path / f"{i}.png")
    images = load_images(open_source(tmp_path), size=32, crop=Pad(2), progress=False).get(torch.arange(3))
    plain = load_images(open_source(tmp_path), size=28, progress=False).get(torch.arange(3))
    assert images.shape == (3, channels, 32, 32)
    assert torch.equal(images[..., 2:-2, 2:-2], plain)
    assert int(images.sum()) == int(plain.sum())
    lazy = load_images(open_source(tmp_path), size=32, crop=Pad(2), progress=False, memory=0)
    assert torch.equal(lazy.get(torch.arange(3)), images)


def test_impossible_margins_are_refused():
    for margin, words in ((0, "margin of 0"), (1.5, "margin of 1.5"), (16, "leaves nothing of 32x32")):
        with pytest.raises(UserError, match=words):
            Pad(margin).still((32, 32))
