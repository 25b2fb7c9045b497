"""From stored pictures to pixels: the published crop step by step, colours, orientation."""

import numpy as np
import pytest
from PIL import Image

from ditkit.data.preprocess import centre_crop, channels_of, prepare, upright_size, with_channels

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
