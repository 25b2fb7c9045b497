"""ditkit data check: every fault that was put into a data set is found and named, and nothing else."""

import json

import numpy as np
import pytest
from PIL import Image

from ditkit.app.data_check import contact_sheet, lines
from ditkit.data import duplicates
from ditkit.data.check import check
from ditkit.data.decode import Decoder
from ditkit.data.source import open_source
from tests.running import ditkit
from tests.test_data_preprocess import scene


@pytest.fixture
def pile(tmp_path):
    """Twelve different pictures in two classes."""
    for i in range(12):
        path = tmp_path / "pile" / ("cat", "dog")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(48, 40, seed=i).save(path)
    return tmp_path / "pile"


def checked(root, **options):
    return check(open_source(root), progress=False, **options)


def named(found, rows):
    return [found.source.name(row) for row in rows]


def test_a_sound_pile(pile):
    found = checked(pile)
    assert (len(found.good), found.bad, found.suspicious, found.same, found.alike) == (12, [], [], [], [])
    assert found.sizes == {(40, 48): 12}
    assert found.kinds == {"PNG RGB": 12}
    assert found.channels == {3: 12}
    assert found.per_class == {"cat": 6, "dog": 6}
    pixels = np.stack([np.asarray(scene(48, 40, seed=i)) for i in range(12)]) / 255
    np.testing.assert_allclose(found.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std((0, 1, 2)), rtol=1e-9)


def test_workers_change_nothing(pile, monkeypatch):
    monkeypatch.setattr("ditkit.data.check._CHUNK", 2)
    one, three = checked(pile, workers=1), checked(pile, workers=3)
    assert (one.good, one.mean, one.sizes) == (three.good, three.mean, three.sizes)
    assert one.good == list(range(12))


def bomb(path):
    """A PNG whose header says 60,000 x 60,000 pixels."""
    Image.new("L", (1, 1)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


def cut_short(path):
    scene(64, 64).save(path)
    path.write_bytes(path.read_bytes()[:900])


BROKEN = {
    "empty.png": (lambda path: path.write_bytes(b""), "no image format"),
    "text.png": (lambda path: path.write_text("hello"), "no image format"),
    "bomb.png": (bomb, "decompression bomb"),
    "cut.jpg": (cut_short, "truncated"),
    "cut.png": (cut_short, "truncated"),
    "float.tiff": (lambda path: Image.new("F", (8, 8)).save(path), "no agreed range"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_training_would_skip_is_named(pile, name):
    spoil, reason = BROKEN[name]
    spoil(pile / "cat" / name)
    found = checked(pile)
    assert [bad.name for _, bad in found.bad] == [f"cat/{name}"]
    assert reason in found.bad[0][1].reason
    assert len(found.good) == 12
    assert Decoder(found.source, (8, 8), 3)(found.bad[0][0]) == found.bad[0][1]  # and training says the same


def moving(path):
    frames = [scene(48, 40, seed=70 + i) for i in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


ODD = {
    "a.gif": (moving, "3 frames, of which the first is used"),
    "b.png": (lambda path: scene(48, 40, seed=50).save(path, "JPEG"), "named .png, but is JPEG"),
    "c.png": (lambda path: scene(480, 60, seed=51).save(path), "8 times as long as wide (60x480)"),
    "d.png": (lambda path: Image.new("RGB", (48, 40), "red").save(path), "of one colour"),
    "e.png": (lambda path: Image.new("RGBA", (48, 40), (9, 9, 9, 0)).save(path), "wholly transparent"),
    "f.png": (lambda path: scene(12, 10, seed=52).save(path), "only 10x12: enlarged 4 times"),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_suspicious_is_named(pile, name):
    make, why = ODD[name]
    make(pile / "dog" / name)
    found = checked(pile)
    assert named(found, [row for row, _ in found.suspicious]) == [f"dog/{name}"]
    assert why in found.suspicious[0][1]
    assert not found.bad


def test_equal_pictures_are_exact_duplicates_and_in_two_classes_suspicious(pile):
    scene(48, 40, seed=3).save(pile / "dog/again.bmp")  # of dog/03.png, in another format
    scene(48, 40, seed=0).save(pile / "dog/other.png")  # of cat/00.png
    found = checked(pile)
    assert sorted(named(found, group) for group in found.same) == [
        ["cat/00.png", "dog/other.png"],
        ["dog/03.png", "dog/again.bmp"],
    ]
    assert found.suspicious == [(0, "the same picture is in classes cat, dog")]
    assert found.alike == []


@pytest.mark.parametrize(
    "change",
    [
        lambda image, path: image.save(path, "JPEG", quality=75),
        lambda image, path: image.resize((96, 80)).save(path, "PNG"),
        lambda image, path: image.resize((32, 27)).save(path, "PNG"),
        lambda image, path: image.point(lambda value: value * 0.99).save(path, "PNG"),
    ],
)
def test_a_picture_that_was_saved_anew_is_a_near_duplicate(pile, change):
    change(scene(48, 40, seed=5), pile / "dog/anew.png")
    found = checked(pile)
    assert found.same == []
    assert [named(found, group) for group in found.alike] == [["dog/05.png", "dog/anew.png"]]


def test_near_duplicates_are_those_that_all_pairs_would_give():
    draws = np.random.default_rng(0)
    thumbnails = draws.integers(0, 256, (300, 16, 16)).astype(np.int64)
    thumbnails[200:] = thumbnails[:100] + draws.integers(-2, 3, (100, 16, 16))
    thumbnails = thumbnails.clip(0, 255).astype(np.uint8)
    thumbnails[150:160] = 128  # of one grey: not compared
    hashes = duplicates.perceptual_hash(thumbnails)
    differing = np.array([[bin(int(a ^ b)).count("1") for b in hashes] for a in hashes])
    close = np.sqrt(((thumbnails[:, None].astype(float) - thumbnails[None]) ** 2).mean((2, 3))) <= 4
    expected = [[i, j] for i, j in np.argwhere((differing <= 3) & close).tolist() if i < j and not 150 <= i < 160]
    assert len(expected) > 60
    assert duplicates.near(thumbnails, progress=False) == expected
    assert duplicates.near(thumbnails[:0], progress=False) == []


def test_near_duplicates_are_named_rightly_behind_broken_files_and_exact_ones(pile):
    (pile / "cat/000.png").write_text("no picture")
    scene(48, 40, seed=0).save(pile / "cat/001.png")
    scene(48, 40, seed=5).save(pile / "dog/anew.jpg", quality=75)
    found = checked(pile)
    assert [named(found, group) for group in found.same] == [["cat/00.png", "cat/001.png"]]
    assert [named(found, group) for group in found.alike] == [["dog/05.png", "dog/anew.jpg"]]


def test_a_paler_picture_is_no_duplicate_though_its_hash_is_the_same(pile):
    pale = scene(48, 40, seed=5).point(lambda value: 64 + value // 2)
    pale.save(pile / "dog/pale.png")
    both = [np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BOX)) for image in (scene(48, 40, 5), pale)]
    one, other = duplicates.perceptual_hash(np.stack(both))
    assert bin(int(one ^ other)).count("1") <= duplicates.BITS
    assert checked(pile).alike == []


def test_large_pictures_are_shrunk_on_the_contact_sheet(tmp_path):
    for i in range(3):
        scene(400, 300, seed=i).save(tmp_path / f"{i}.png")
    assert contact_sheet(checked(tmp_path)).size == (3 * 98 - 2, 72)


def test_the_contact_sheet_has_a_row_for_each_class(pile):
    sheet = np.asarray(contact_sheet(checked(pile)))
    cell = np.asarray(Image.open(pile / "dog/03.png"))  # the second of the second class
    assert sheet.shape == (2 * 42 - 2, 10 * 50 - 2, 3)
    np.testing.assert_array_equal(sheet[42:82, 50:98], cell)
    assert (sheet[:, 6 * 50 :] == 255).all()


def test_all_is_said_in_words_ten_names_at_most(pile):
    for i in range(12):
        (pile / f"cat/x{i:02}.png").write_text("no picture")
    said = list(lines(checked(pile)))
    assert "12 do not decode:" in said
    assert sum("no image format" in line for line in said) == 10
    assert "  ... (12 in all)" in said
    assert any(line.startswith("classes") and "cat (6)" in line for line in said)


def noise(folder, mode, count, size=(8, 6), names="abcdefgh"):
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(len(mode))
    for name in names[:count]:
        pixels = draws.integers(0, 256, (size[1], size[0], len(mode)), np.uint8).squeeze()
        Image.fromarray(pixels, mode).save(folder / f"{mode}{name}.png")
    return folder


def said(folder, *words):
    """The lines of what is said of a folder that begin with one of these words, without that word."""
    return [line.partition(" ")[2].strip() for line in lines(checked(folder)) if line.startswith(words)]


def test_grey_pictures_have_one_mean(tmp_path):
    pixels = np.stack([np.asarray(Image.open(p)) for p in noise(tmp_path / "x", "L", 3).iterdir()]) / 255
    assert said(tmp_path / "x", "mean", "deviation", "colours", "alpha") == [
        "grey (3)",
        f"{pixels.mean():.4f} (grey, as shares of 1, over all pixels)",
        f"{pixels.std():.4f}",
    ]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_has_a_mean_of_its_own_and_colours_are_those_on_white(tmp_path, mode):
    pixels = np.stack([np.asarray(Image.open(p)) for p in noise(tmp_path / "x", mode, 4).iterdir()]) / 255
    alpha = pixels[..., -1:]
    shown = (pixels[..., :-1] * alpha + 1 - alpha).mean((0, 1, 2))
    found = checked(tmp_path / "x")
    np.testing.assert_allclose(found.mean, shown, atol=0.002)  # 8 bits a picture
    np.testing.assert_allclose([found.alpha.mean, found.alpha.std], [alpha.mean(), alpha.std()])
    assert said(tmp_path / "x", "mean")[0].endswith("over all pixels, what is transparent laid on white)")
    assert said(tmp_path / "x", "alpha")[0].startswith("all have it: mean")
    noise(tmp_path / "x", "L", 1)
    assert said(tmp_path / "x", "alpha")[0].startswith("4 of 5 have it: mean")


def test_how_classes_sizes_and_captions_are_told(tmp_path):
    noise(tmp_path / "x/3", "L", 2)
    noise(tmp_path / "x/7", "RGB", 2)
    assert said(tmp_path / "x", "sizes", "classes", "balance", "captions") == [
        "6x8 (4) (height x width)",
        "2: 3 (2), 7 (2)",
        "2 images in each class",
    ]
    noise(tmp_path / "x/7", "L", 1, size=(9, 6))
    (tmp_path / "x/3/La.txt").write_text("a")
    assert said(tmp_path / "x", "balance") == ["2 to 3 images per class: the largest is 1.5 times the smallest"]
    assert "             height 6, width 8 to 9 pixels" in lines(checked(tmp_path / "x"))
    assert said(tmp_path / "x", "captions") == ["1 of 5 have one"]
    for path in (tmp_path / "x/3").glob("*.png"):
        path.write_text("no picture")
    assert said(tmp_path / "x", "balance") == ["none in '3', up to 3 images"]


def test_the_command(pile, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = ditkit("data", "check", pile)
    assert said.code == 0, said.err
    assert "training would skip nothing" in said.out
    assert Image.open("data-check.png").size == (498, 82)
    (pile / "cat/x.png").write_text("no picture")
    said = ditkit("data", "check", pile, "--json", "found.json", "--sheet", "None")
    assert said.code == 1
    assert "cat/x.png: no image format that is known" in said.out
    assert "1 of 13 images do not decode; training would refuse this source" in said.out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["skipped"] == [{"name": "cat/x.png", "reason": "no image format that is known"}]
    assert (found["images"], found["decode"], found["classes"]) == (13, 12, {"cat": 6, "dog": 6})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "expected ditkit data check SOURCE"),
        (["chek"], "did you mean 'check'"),
        (["check", "nowhere"], "does not exist"),
        (["check", "pile", "--sheet", "pile/a.png"], "lies inside the data"),
        (["check", "pile", "--json", "."], "is a folder"),
    ],
)
def test_what_cannot_be_checked_is_said_in_one_line(pile, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    answer = ditkit("data", *words)
    assert answer.code == 2
    assert len(answer.err) == 1
    assert said in answer.err[0]


def test_a_source_of_which_nothing_decodes(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    found = checked(tmp_path)
    assert (found.good, found.commonest_size, found.mean) == ([], (0, 0), ())
    assert list(lines(found)) == [f"{tmp_path}: 1 image, 0 of 1 decode", "1 does not decode:", *list(lines(found))[2:]]
