"""Names, links and archives that are made to do harm: each ends in a line, within bounds, or does what it should."""

import tracemalloc
import zipfile

import numpy as np
import pytest

from ditkit.app.classes import parse_classes
from ditkit.base.errors import UserError
from ditkit.data import central
from ditkit.data.decode import Bad, Decoder
from ditkit.data.layout import shown, some
from ditkit.data.source import open_source
from tests.running import ditkit
from tests.test_data_kinds import fill, png, refusal, tarred, zipped


def test_names_that_would_move_the_cursor_are_spelled_out(tmp_path):
    fill(tmp_path, {"a\nb/\x1b[31mred.png": 1, "c/x\u2028y.png": 2, "c/sch\u00f6n \u732b.png": 3})
    source = open_source(tmp_path)
    assert source.classes == ("a\\nb", "c")
    assert [source.name(i) for i in range(3)] == ["a\\nb/\\x1b[31mred.png", "c/schön 猫.png", "c/x\\u2028y.png"]
    said = ditkit("data", "check", tmp_path, "--sheet", "None")
    assert "\x1b" not in said.out
    assert "a\\nb (1)" in said.out
    assert shown("emoji 👩‍👩‍👧 stay") == "emoji 👩‍👩‍👧 stay"


def test_of_very_long_names_the_ends_are_shown():
    said = some(["x" * 5000 + "end", "short"])
    assert len(said) < 250
    assert said.endswith("end', 'short'")


def test_links_between_folders_end(tmp_path):
    fill(tmp_path, {"a/1.png": 1, "b/2.png": 2, "c/3.png": 3})
    (tmp_path / "a/x").symlink_to("../b", target_is_directory=True)
    (tmp_path / "b/y").symlink_to("../a", target_is_directory=True)
    (tmp_path / "c/up").symlink_to(tmp_path.parent, target_is_directory=True)
    source = open_source(tmp_path)
    assert [source.name(i) for i in range(5)] == ["a/1.png", "a/x/2.png", "b/2.png", "b/y/1.png", "c/3.png"]
    assert len(source) == 5


def bad(source, i=0):
    said = Decoder(source, (4, 4), 1)(i)
    assert isinstance(said, Bad)
    return said.reason


METHODS = [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


@pytest.mark.parametrize("method", METHODS)
def test_an_entry_that_says_less_than_it_holds_does_not_fill_the_memory(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a.png", bytes(2**26))
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace((2**26).to_bytes(4, "little"), (1000).to_bytes(4, "little")))
    source = open_source(tmp_path / "a.zip")
    tracemalloc.start()
    assert bad(source) == "its checksum does not fit"
    assert tracemalloc.get_traced_memory()[1] < 2**24  # LZMA has a dictionary of 8 MiB
    tracemalloc.stop()


def test_an_entry_that_is_too_large_is_one_bad_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(central, "LARGEST", 1000)
    source = open_source(zipped(tmp_path / "a.zip", {"a.png": b"0" * 1001, "b.png": png(1)}))
    assert "1,001 bytes, more than the 1,000" in bad(source)
    assert source.open(1).size == (4, 4)


@pytest.mark.parametrize("spec", ["a-{9..0}.tar", "a-{0..99999999999}.tar", "{0..9999}-{0..9999}.tar"])
def test_ranges_of_no_shards_or_too_many_are_refused(spec):
    assert "expected a range from low to high" in refusal(spec)


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    said = ditkit("train", "--data", "a\0b", "--out", tmp_path / "run")
    assert (said.code, len(said.err)) == (2, 1), said
    assert "does not exist" in said.err[0]


def test_an_npz_without_arrays_is_refused(tmp_path):
    zipped(tmp_path / "a.npz", {"a.txt": b"x"})
    assert "holds nothing: expected the images as" in refusal(tmp_path / "a.npz")


def test_classes_that_are_no_utf_8_stay_apart(tmp_path):
    names = {"1.png": 1, "2.png": 2}
    tarred(tmp_path / "a.tar", {**names, "1.cls": "x", "2.cls": "y"})
    content = (tmp_path / "a.tar").read_bytes()
    for text, byte in ((b"x", b"\xfe"), (b"y", b"\xff")):
        content = content.replace(text + bytes(511), byte + bytes(511))
    (tmp_path / "a.tar").write_bytes(content)
    assert open_source(tmp_path / "a.tar").classes == ("\\xfe", "\\xff")


def test_a_folder_in_the_place_of_a_file_is_named_so(tmp_path):
    fill(tmp_path, {"d/1.png": 1, "m.csv": "file\nd\n"})
    assert bad(open_source(tmp_path / "m.csv")) == "a folder, not a file"


def test_classes_with_commas_can_be_asked_for():
    names = ["salt, pepper", "salt", "a,b,c", "a"]
    assert parse_classes("salt, pepper,salt", names) == [0, 1]
    assert parse_classes("salt,pepper,a,b,c,a,3", names) == [0, 2, 3, 3]
    with pytest.raises(UserError, match="unknown class 'pepper'"):
        parse_classes("a,pepper", names)


def test_warnings_of_pillow_are_no_lines_of_ours(tmp_path):
    size = 9500  # over Pillow's limit of 89 million pixels for a warning
    np.save(tmp_path / "a.npy", np.zeros((1, 2, 2), np.uint8))
    from PIL import Image

    Image.new("1", (size, size)).save(tmp_path / "big.png")
    said = ditkit("data", "check", tmp_path, "--sheet", "None")
    assert (said.code, [line for line in said.err if "arning" in line]) == (0, [])
