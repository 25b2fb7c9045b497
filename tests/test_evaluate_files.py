"""Files of the evaluation: ADM's batches and statistics, measured references; and metrics of pairs of images."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ditkit.base.errors import UserError
from ditkit.base.rng import generator
from ditkit.evaluate.features import frechet_distance
from ditkit.evaluate.fidelity import psnr, ssim
from ditkit.evaluate.images import check_images, check_values
from ditkit.evaluate.measured import Measured, Score, Side, measure, observe
from ditkit.evaluate.networks.network import NetworkProtocol, Taps
from ditkit.evaluate.npz import image_writer, open_images, read_statistics, write_statistics
from ditkit.evaluate.reference import cached_reference, load_side, reference_fingerprint, save_side
from ditkit.evaluate.requirements import requirements_of
from ditkit.evaluate.suite import compare, evaluate_samples


@dataclasses.dataclass(frozen=True)
class Pixels:
    """The simplest feature network: means of quarters are features, single pixels the spatial ones."""

    aliases = {}  # noqa: RUF012
    num_classes = None
    protocol = NetworkProtocol("pixels", "none", "none", "x", "means")
    counted: list[int] = dataclasses.field(default_factory=list)

    def look(self, images: torch.Tensor) -> Taps:
        self.counted.append(len(images))
        x = images.double()
        return Taps(F.avg_pool2d(x, 4).flatten(1).float(), x.mean((2, 3)).float(), x[:, :, ::3, ::3].flatten(1).float())


SIGMA = np.array([[1.0, 0.5, 0.0], [0.5, 1.0, 0.3], [0.0, 0.3, 1.0]])


def pictures(n: int, index: int = 0, size: int = 8) -> torch.Tensor:
    return torch.randint(256, (n, 3, size, size), dtype=torch.uint8, generator=generator(0, "test.files", index))


def test_batches_are_what_numpy_reads_and_come_back_in_parts(tmp_path):
    images = pictures(7)
    with image_writer(tmp_path / "samples.npz", 7, 8, 8) as writer:
        for part in images.split(3):
            writer.write(part)
    with np.load(tmp_path / "samples.npz") as arrays:
        assert arrays.files == ["arr_0"]
        assert np.array_equal(arrays["arr_0"], images.permute(0, 2, 3, 1).numpy())
    found = open_images(tmp_path / "samples.npz")
    assert len(found) == 7
    assert torch.equal(torch.cat(list(found.batches(2))), images)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_batches_as_the_published_evaluators_write_them(tmp_path, save):
    images = pictures(5)
    save(tmp_path / "x.npz", images.permute(0, 2, 3, 1).numpy(), np.arange(5))  # arr_1: labels
    assert torch.equal(torch.cat(list(open_images(tmp_path / "x.npz").batches(4))), images)


def test_a_batch_that_is_not_whole_is_not_there(tmp_path):
    path = tmp_path / "samples.npz"
    with (
        pytest.raises(UserError, match=r"3 images were written .*expected the 7"),
        image_writer(path, 7, 8, 8) as writer,
    ):
        writer.write(pictures(3))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"float32.*to_uint8"), image_writer(path, 7, 8, 8) as writer:
        writer.write(pictures(3).float())
    with pytest.raises(RuntimeError, match="killed"), image_writer(path, 7, 8, 8):
        raise RuntimeError("killed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"arr_0": np.zeros((2, 8, 8, 3), np.float32)}, r"float32 \(2, 8, 8, 3\), expected uint8"),
        ({"arr_0": np.zeros((2, 3, 8, 8), np.uint8)}, r"uint8 \(2, 3, 8, 8\)"),
        ({"mu": np.zeros(3)}, "holds mu, expected images"),
    ],
)
def test_other_batch_files_are_refused_in_one_line(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message) as caught:
        open_images(tmp_path / "x.npz")
    assert "\n" not in str(caught.value)


def test_damaged_batch_files_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, pictures(50).permute(0, 2, 3, 1).numpy())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cannot be read as \.npz"):
        open_images(path)
    path.write_bytes(whole.replace(whole[2000:2010], b"0123456789"))
    with pytest.raises(UserError, match=r"cannot be read as \.npz"):
        list(open_images(path).batches(50))
    with pytest.raises(UserError, match="no file"):
        open_images(tmp_path / "none.npz")


def test_statistics_come_back_and_measure_the_same(tmp_path):
    network, real, samples = Pixels(), pictures(200), pictures(150, index=1)
    side = measure("reference images", real, None, network, progress=False)
    write_statistics(tmp_path / "stats.npz", side)
    with np.load(tmp_path / "stats.npz") as arrays:
        assert set(arrays.files) == {"mu", "sigma", "mu_s", "sigma_s"}
        features = network.look(real).features.double()
        np.testing.assert_allclose(arrays["mu"], features.mean(0).numpy())
        np.testing.assert_allclose(arrays["sigma"], np.cov(features.numpy(), rowvar=False))
    read = read_statistics(tmp_path / "stats.npz")
    generated = measure("samples", samples, None, network, progress=False)
    found, expected = (compare(reference, generated, network) for reference in (read, side))
    assert set(found) == {"frechet_distance", "spatial_frechet_distance", "inception_score"}
    for name, entry in found.items():
        assert entry["value"] == pytest.approx(expected[name]["value"], rel=1e-9)
    with pytest.raises(UserError, match="come from a file of statistics"):
        _ = read.state
    with pytest.raises(UserError, match="'kernel_distance' cannot be computed"):
        compare(read, generated, network, scores=["kernel_distance"])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": np.zeros(3), "sigma": np.zeros((4, 4))}, r"\(3,\) and a covariance of \(4, 4\)"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "not finite"),
        ({"mu": np.zeros(3)}, "holds mu, expected statistics"),
        ({"mu": np.array([0, None, 1]), "sigma": np.eye(3)}, r"mu of objects, expected real numbers.*numpy\.savez"),
        ({"mu": np.array(["0", "1", "2"]), "sigma": np.eye(3)}, "mu of <U1, expected real numbers"),
        ({"mu": np.zeros(3), "sigma": np.eye(3) + 0j}, "sigma of complex128, expected real numbers"),
        ({"mu": np.zeros(3), "sigma": -SIGMA}, r"\(sigma\) .*negative variances.*make it again"),
        ({"mu": np.zeros(3), "sigma": SIGMA - 2 * np.eye(3)}, "negative variances"),
        ({"mu": np.zeros(3), "sigma": np.triu(SIGMA)}, r"\(sigma\) .*not symmetric.*make it again"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(UserError, match=message):
        read_statistics(tmp_path / "x.npz")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_statistics_are_refused(tmp_path, save):
    save(tmp_path / "x.npz", mu=np.zeros(64), sigma=np.cov(np.random.default_rng(0).normal(size=(64, 99))))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npz cannot be read as \.npz"):
        read_statistics(tmp_path / "x.npz")


@pytest.mark.parametrize("kind", ["float64", ">f8", "float32", "float16"])
def test_statistics_may_be_rounded_and_singular(tmp_path, kind):
    rows = torch.randn(20, 48, generator=generator(0, "test.singular"), dtype=torch.float64).numpy()
    np.savez(tmp_path / "x.npz", mu=rows.mean(0).astype(kind), sigma=np.cov(rows, rowvar=False).astype(kind))
    assert read_statistics(tmp_path / "x.npz").gaussian.mean.shape == (48,)


def test_statistics_of_another_network_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", mu=np.zeros(3), sigma=np.eye(3))
    generated = measure("samples", pictures(50), None, Pixels(), progress=False)
    with pytest.raises(UserError, match="3 and 12 features"):
        compare(read_statistics(tmp_path / "x.npz"), generated, Pixels(), scores=["frechet_distance"])


def test_references_are_measured_once_and_never_stale(tmp_path):
    network, real = Pixels(), pictures(40)

    def make() -> Side:
        return measure("reference images", real, None, network, quantities=("moments", "features"), progress=False)

    key = reference_fingerprint("digits", network, ("moments", "features"))
    first = cached_reference(tmp_path, key, make)
    network.counted.clear()
    again = cached_reference(tmp_path, key, make)
    assert network.counted == []
    assert again.count == 40
    assert torch.equal(again.features, first.features)
    assert torch.equal(again.gaussian.factor, first.gaussian.factor)
    other = reference_fingerprint("digits", network, ("moments",))
    assert other != key
    (path,) = tmp_path.iterdir()
    with pytest.raises(UserError, match="is stale"):
        load_side(path, other)
    path.write_bytes(path.read_bytes()[:100])
    cached_reference(tmp_path, key, make)
    assert network.counted == [40]
    assert load_side(path, key).count == 40


def test_processes_that_share_a_set_get_the_numbers_of_one(tmp_path):
    network, real, samples = Pixels(), pictures(120), pictures(110, index=1)
    keep = ("moments", "spatial", "features", "entropies")
    side = measure("reference images", real, None, network, quantities=keep, progress=False)
    whole = measure("samples", samples, None, network, quantities=keep, progress=False)
    parts = [Side(110) for _ in range(3)]
    for rank, part in enumerate(parts):
        for rows in torch.arange(110)[rank::3].split(16):
            observe(part, network, samples[rows], rows, keep)
    for part in parts[1:]:
        save_side(tmp_path / "part.safetensors", part, "part")
        parts[0].merge(load_side(tmp_path / "part.safetensors"))
    one, merged = (compare(side, s, network) for s in (whole, parts[0]))
    assert set(one) >= {"frechet_distance", "spatial_frechet_distance", "kernel_distance", "precision", "coverage"}
    for name, entry in one.items():
        assert merged[name]["value"] == pytest.approx(entry["value"], rel=1e-12), name
    assert compare(side, whole, network) == one  # the same protocol again: the same digits
    with pytest.raises(UserError, match="expected the same scores"):
        parts[0].merge(Side(110))


def test_floats_and_lost_fractions_are_told_apart():
    x = torch.rand(3, 3, 8, 8, generator=generator(0, "test.range"))
    for images, message in [
        (x, r"values .*\.\.0\.99.*look like \[0, 1\]"),
        (x * 255, r"look like 0\.\.255 already"),
        (2 * x - 1, r"\(x \+ 1\) \* 127\.5"),
        (torch.cat([x[:2], x[2:] * float("nan")]), "NaN or infinite values in 1 of 3 images"),
    ]:
        with pytest.raises(UserError, match=message):
            check_images("samples", images)
    bits = (x > 0.5).to(torch.uint8)
    with pytest.raises(UserError, match=r"no values but \[0, 1\]"):
        check_values("samples", bits)
    with pytest.raises(UserError, match=r"no values but \[0, 1, 255\]"):
        check_values("samples", torch.cat([bits, 255 * bits]))
    check_values("samples", 255 * bits)


def jpeg(images: torch.Tensor, quality: int) -> torch.Tensor:
    """Grey images (N, 1, H, W) as they come back from a JPEG."""
    decoded = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image[0].numpy()).save(file, "JPEG", quality=quality)
        decoded.append(torch.from_numpy(np.array(Image.open(file)))[None])
    return torch.stack(decoded)


def test_floats_that_were_cast_to_nothing_are_refused_and_pictures_of_few_values_are_not():
    draws = generator(0, "test.cast")
    x, z = torch.rand(40, 1, 24, 24, generator=draws), torch.randn(40, 1, 24, 24, generator=draws)
    wide = F.avg_pool2d(z, 9, 1, 4) * 9  # in patches, as pictures are: about as far from 0 as z
    for images in (x.to(torch.uint8), (2 * x - 1).to(torch.int8).to(torch.uint8), torch.full((4, 3, 8, 8), 7).byte()):
        with pytest.raises(UserError, match=r"are all of one value, [07]; expected 0\.\.255"):
            check_values("samples", images)
    skewed = torch.where(wide > 0, 1.5 * wide, wide)  # as standardised pictures are
    for values in (0.8 * z, z, 2 * z, wide, skewed, torch.cat([wide, 2 * wide]).round(), (z - 0.1).round()):
        with pytest.raises(UserError, match=r"within \d+ of 0 or of 255.*negative"):
            check_values("samples", values.to(torch.int64).to(torch.uint8))
    drawn = [255 * (wide > limit).byte() for limit in (-1, 0, 0.5, 0.8, 1, 1.2, 2)]  # from mostly white to mostly black
    pictures_of_few = [
        *drawn,
        *[jpeg(images, quality) for images in drawn for quality in (75, 95, 97, 98)],
        *[(images + deviation * z).round().clamp(0, 255).byte() for images in drawn for deviation in (0.5, 1, 1.5)],
        85 * (2 + wide).clamp(0, 3).byte(),  # four greys
        (2 + wide).clamp(0, 3).byte(),  # numbers of classes
        (250 + 2 * wide).clamp(0, 255).byte(),  # nearly white
        (4 + wide).clamp(0, 255).byte() | 255 * (z > 3).byte(),  # a night with stars
        torch.cat([torch.zeros(1, 1, 24, 24), 255 * x[:9]]).byte(),  # one that is black
        torch.arange(4).byte()[:, None, None, None].expand(4, 1, 8, 8),  # each of one value, but not of the same
    ]
    for images in pictures_of_few:
        check_values("samples", images)


def test_scores_say_what_they_need_and_refuse_too_few():
    network, samples, real = Pixels(), pictures(12), pictures(30, index=1)
    with pytest.raises(UserError, match="12 images are too few, expected at least 20"):
        evaluate_samples(samples, None, real, None, network, scores=["kernel_distance"], progress=False)
    with pytest.raises(UserError, match="'inception_score' cannot be computed: 12 images are too few"):
        evaluate_samples(samples, None, real, None, network, scores=["inception_score"], progress=False)
    found = evaluate_samples(samples, None, real, None, network, progress=False)
    assert "biased upwards below about 120" in found["frechet_distance"]["note"]
    assert "equal size" in found["precision"]["note"]

    def bare(measured: Measured) -> dict[str, Score]:
        return {}

    with pytest.raises(UserError, match="not marked as a score"):
        requirements_of(bare)


def test_psnr_of_a_constant_difference():
    x = torch.full((2, 3, 12, 12), 100, dtype=torch.uint8)
    y = x + torch.tensor([5, 10], dtype=torch.uint8)[:, None, None, None]
    expected = 20 * torch.log10(255 / torch.tensor([5.0, 10.0], dtype=torch.float64))
    torch.testing.assert_close(psnr(x, y), expected)
    assert psnr(x, x).isinf().all()


def test_ssim_of_known_pairs_and_against_every_window_by_hand():
    x = torch.full((1, 1, 12, 12), 100, dtype=torch.uint8)
    # Without texture only luminance counts: (2 a b + c1) / (a^2 + b^2 + c1).
    c1 = (0.01 * 255) ** 2
    assert ssim(x, x // 2).item() == pytest.approx((2 * 100 * 50 + c1) / (100**2 + 50**2 + c1))
    a, b = pictures(1, size=13), pictures(1, index=1, size=13)
    assert ssim(a, a).item() == pytest.approx(1)
    places = torch.arange(11, dtype=torch.float64) - 5
    window = (-(places[:, None] ** 2 + places**2) / (2 * 1.5**2)).exp()
    window /= window.sum()
    values = []
    for c in range(3):
        for i in range(3):
            for j in range(3):
                p, q = (z[0, c, i : i + 11, j : j + 11].double() for z in (a, b))
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                cov = (window * (p - mp) * (q - mq)).sum()
                c2 = (0.03 * 255) ** 2
                values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    assert ssim(a, b).item() == pytest.approx(torch.stack(values).mean().item(), rel=1e-9)


def test_pairs_must_be_pairs():
    x = pictures(3)
    with pytest.raises(UserError, match="2 reconstructions of 3 images"):
        psnr(x, x[:2])
    with pytest.raises(UserError, match="at least 11x11"):
        ssim(x, x)


def test_rfid_is_the_distance_of_reconstructions_to_their_images():
    network, x = Pixels(), pictures(60)
    blurred = F.avg_pool2d(x.float(), 3, 1, 1).round().to(torch.uint8)
    found = evaluate_samples(blurred, None, x, None, network, scores=["frechet_distance"], progress=False)
    expected = frechet_distance(network.look(blurred).features, network.look(x).features)
    assert found["frechet_distance"]["value"] == pytest.approx(expected, rel=1e-10)
