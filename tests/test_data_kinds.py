"""Kinds of sources: tar, WebDataset, arrays, tables, shapes, Hugging Face; each is told from the others."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ditkit.base.errors import UserError
from ditkit.base.registry import members
from ditkit.data import source as sources
from ditkit.data.decode import Bad, Decoder
from ditkit.data.loading import load_images
from ditkit.data.source import open_source


def png(shade, mode="L"):
    stream = io.BytesIO()
    Image.new(mode, (4, 4), shade if mode == "L" else (shade, 0, 0)).save(stream, "PNG")
    return stream.getvalue()


def fill(root, files):
    """Writes files: bytes, text, or the shade of a picture."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else png(content) if isinstance(content, int) else b"")
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
    return root


def tarred(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            content = png(content) if isinstance(content, int) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, png(content) if isinstance(content, int) else content)
    return str(path)


def shade(image):
    return int(np.asarray(image).reshape(-1)[0])


def shades(source):
    return [shade(source.open(i)) for i in range(len(source))]


def refusal(spec, kind=UserError):
    with pytest.raises(kind) as caught:
        open_source(spec)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def everything(tmp_path):
    """One source of each kind: what it is called, and the class that reads it."""
    classed = {"cat/1.png": 1, "dog/1.png": 2}
    fill(tmp_path / "folder", classed)
    fill(tmp_path / "table", {**classed, "metadata.jsonl": '{"file_name": "cat/1.png"}\n'})
    fill(tmp_path / "loose", {"a.png": 1, "t.csv": "file,label\na.png,x\n"})
    fill(tmp_path / "classed", {**classed, "backup.tar": ""})
    (tmp_path / "shards").mkdir()
    tarred(tmp_path / "shards/a-00.tar", {"1.png": 1})
    fill(tmp_path / "saved", {"dataset_info.json": "{}", "state.json": "{}", "x.arrow": ""})
    fill(tmp_path / "parquet", {"data/train-00000-of-00001.parquet": ""})
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 4), np.uint8))
    np.savez(tmp_path / "a.npz", np.zeros((2, 4, 4), np.uint8))
    return {
        "digits": "Digits",
        "shapes": "Shapes",
        "shapes:size=8": "Shapes",
        "hf:org/name": "HuggingFace",
        str(tmp_path / "saved"): "HuggingFace",
        str(tmp_path / "parquet"): "HuggingFace",
        str(tmp_path / "folder"): "Folder",
        str(tmp_path / "loose"): "Folder",
        str(tmp_path / "classed"): "Folder",
        str(tmp_path / "table"): "Table",
        str(tmp_path / "loose/t.csv"): "Table",
        str(tmp_path / "shards"): "Shards",
        str(tmp_path / "shards/a-{00..01}.tar"): "Shards",
        str(tmp_path / "shards/a-00.tar"): "Tar",
        tarred(tmp_path / "sample.tar", {"1.png": 1, "1.cls": "x"}): "Shards",
        tarred(tmp_path / "classed.tgz", {"x/1.png": 1, "x/1.json": "{}"}, "w:gz"): "Tar",
        tarred(tmp_path / "a.tar.gz", classed, "w:gz"): "Tar",
        tarred(tmp_path / "unnamed", classed): "Tar",
        zipped(tmp_path / "a.zip", classed): "Zip",
        str(tmp_path / "a.npy"): "Arrays",
        str(tmp_path / "a.npz"): "Arrays",
    }


def test_every_spec_is_recognised_by_one_kind_alone(everything):
    kinds = members("ditkit.data", sources._is_source)
    assert set(kinds) == set(everything.values())
    for spec, expected in everything.items():
        assert [name for name, kind in kinds.items() if kind.recognise(spec)] == [expected], spec
    for spec in ("", "nowhere", "nowhere.tar", "nowhere.npy", "org/name"):
        assert not any(kind.recognise(spec) for kind in kinds.values())


def test_every_kind_keeps_the_protocol(everything):
    for spec, kind in everything.items():
        if kind in ("HuggingFace",) or "{" in spec:
            continue
        source = open_source(spec)
        assert len(source) >= 1
        assert source.spec == spec
        assert source.labels is None or source.labels.max() < len(source.classes)
        assert source.captions is None or len(source.captions) == len(source)
        assert source.open(0).size[0] > 0
        assert isinstance(source.name(0), str)
        assert source.fingerprint() == open_source(spec).fingerprint()
        assert all(extra(0).size == source.open(0).size for extra in source.extras.values())


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_tar_is_read_in_place(tmp_path, mode):
    files = {
        "./10/b.png": 4,
        "./2/a.png": 3,
        "./2/a.txt": "a cat",
        "10/b.txt": "b",
        "../../2/up.png": 9,
        "__MACOSX/2/._a.png": 0,
    }
    source = open_source(tarred(tmp_path / "a.tar", files, mode))
    assert source.classes == ("2", "10")
    assert shades(source) == [3, 9, 4]
    assert list(source.captions) == ["a cat", "", "b"]
    assert source.captions.missing.tolist() == [1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.tar"]  # nothing is unpacked


def test_links_in_a_tar_stand_for_members_and_lead_nowhere_else(tmp_path):
    tarred(tmp_path / "a.tar", {"real/1.png": 7})
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        for name, kind, target in (
            ("real/2.png", tarfile.SYMTYPE, "1.png"),
            ("real/3.png", tarfile.LNKTYPE, "real/1.png"),
            ("real/4.png", tarfile.SYMTYPE, "/etc/passwd"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    source = open_source(str(tmp_path / "a.tar"))
    assert [shade(source.open(i)) for i in range(3)] == [7, 7, 7]
    with pytest.raises(OSError, match="not in the archive"):
        source.open(3)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.7])
def test_a_tar_cut_short_is_refused_wherever_it_is_cut(tmp_path, mode, share):
    tarred(tmp_path / "a.tar", {f"{i}.png": i for i in range(20)}, mode)
    content = (tmp_path / "a.tar").read_bytes()
    whole = 20 * 1024 if mode == "w" else len(content)
    for cut in (int(share * whole), int(share * whole) // 1024 * 1024):  # the second between two members
        (tmp_path / "cut.tar").write_bytes(content[:cut])
        assert "expected a whole tar" in refusal(str(tmp_path / "cut.tar"))


def test_a_tar_damaged_in_its_middle_is_refused(tmp_path):
    tarred(tmp_path / "a.tar", {f"{i}.png": i for i in range(20)})
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[10 * 1024 : 10 * 1024 + 100] = b"?" * 100
    (tmp_path / "a.tar").write_bytes(content)
    assert "damaged at byte 10,240" in refusal(str(tmp_path / "a.tar"))


@pytest.mark.parametrize("pack", [tarred, zipped])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_comes_twice_is_refused(tmp_path, pack):
    spec = pack(tmp_path / "a", {"1.png": 1, "./1.png": 2, "2.png": 3})
    assert "1 names twice ('1.png')" in refusal(spec)


@pytest.mark.parametrize("pack", [tarred, zipped])
def test_nested_archives_are_named(tmp_path, pack):
    assert "give one of the archives, or unpack them" in refusal(pack(tmp_path / "a", {"train.zip": "x", "b.tar": "y"}))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("limit", [zipfile.ZIP64_LIMIT, 0])  # beyond which sizes and places take 64 bits
def test_a_zip_of_every_method_behind_other_bytes_is_read(tmp_path, method, limit, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for i in range(3):
            with archive.open(f"{i}.png", "w", force_zip64=True) as member:
                member.write(png(i))
    (tmp_path / "a.zip").write_bytes(b"#!/bin/sh\n" + packed.getvalue())
    assert shades(open_source(str(tmp_path / "a.zip"))) == [0, 1, 2]


def test_a_zip_of_more_entries_than_16_bits_count_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for i in range(2**16 + 5):
            archive.writestr(zipfile.ZipInfo(f"{i}.png"), b"")
    source = open_source(str(tmp_path / "a.zip"))
    assert len(source) == 2**16 + 5
    assert source.name(2**16) == f"{2**16}.png"


def test_names_in_a_zip_are_in_its_old_code_page_unless_it_says_utf_8(tmp_path):
    zipped(tmp_path / "a.zip", {"A/1.png": 1, "ü/2.png": 2})
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace(b"A/1.png", b"\x8e/1.png"))
    assert open_source(tmp_path / "a.zip").classes == ("Ä", "ü")


def test_a_broken_entry_of_a_zip_is_one_bad_picture(tmp_path):
    zipped(tmp_path / "a.zip", {"1.png": 1, "2.png": 2})
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"IDAT") + 5] ^= 1
    (tmp_path / "a.zip").write_bytes(content)
    source = open_source(str(tmp_path / "a.zip"))
    bad = Decoder(source, (4, 4), 1)(0)
    assert isinstance(bad, Bad)
    assert bad.reason == "its checksum does not fit"
    assert shade(source.open(1)) == 2


@pytest.mark.parametrize("pack", [None, tarred, zipped])
def test_side_cars_are_captions(tmp_path, pack):
    files = {"a/1.png": 1, "a/1.txt": "one", "a/10.png": 2, "b/1.png": 3, "b/1.txt": "ünö\n", "b/readme.txt": "no"}
    spec = str(fill(tmp_path / "set", files)) if pack is None else pack(tmp_path / "set", files)
    source = open_source(spec)
    assert list(source.captions) == ["one", "", "ünö"]
    assert source.captions.missing.tolist() == [1]
    before = source.fingerprint()
    files["a/1.txt"] = "another"
    fill(tmp_path / "set", {"a/1.txt": "another"}) if pack is None else pack(tmp_path / "set", files)
    assert open_source(spec).fingerprint() != before


def test_pictures_without_side_cars_have_no_captions(tmp_path):
    assert open_source(fill(tmp_path, {"a.png": 1, "readme.txt": "x"})).captions is None


def test_names_that_are_not_utf_8_can_be_shown(tmp_path):
    (tmp_path / "dog").mkdir()
    try:
        (tmp_path / "dog" / "a\udcff.png").write_bytes(png(5))
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    source = open_source(tmp_path)
    assert source.name(0) == "dog/a\\xff.png"
    assert shades(source) == [5]


def samples(start, stop):
    files = {}
    for i in range(start, stop):
        files |= {f"x/{i:04}.jpg": i, f"x/{i:04}.cls": str(i % 3 * 5), f"x/{i:04}.mask.png": 255 - i}
        files |= {f"x/{i:04}.json": json.dumps({"text": f"t{i}"})}
    return files


def test_shards_are_samples_of_members_with_one_key(tmp_path):
    tarred(tmp_path / "s-001.tar", samples(4, 6))
    tarred(tmp_path / "s-000.tar.gz", samples(0, 4), "w:gz")
    source = open_source(tmp_path)
    assert shades(source) == [0, 1, 2, 3, 4, 5]
    assert source.classes == ("0", "5", "10")
    assert source.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert list(source.captions) == [f"t{i}" for i in range(6)]
    assert [shade(source.extras["mask"](i)) for i in range(6)] == [255 - i for i in range(6)]
    assert source.name(4) == "s-001.tar/x/0004.jpg"


@pytest.mark.parametrize(("name", "mode"), [("s.tar", "w"), ("s.tar.gz", "w:gz"), ("unnamed", "w")])
def test_one_shard_alone_is_read_as_in_a_folder(tmp_path, name, mode):
    source = open_source(tarred(tmp_path / name, samples(0, 4), mode))
    assert shades(source) == [0, 1, 2, 3]
    assert source.classes == ("0", "5", "10")
    assert source.labels.tolist() == [0, 1, 2, 0]
    assert list(source.captions) == [f"t{i}" for i in range(4)]
    assert shade(source.extras["mask"](3)) == 252


@pytest.mark.parametrize("pack", [None, zipped])
def test_classes_beside_loose_pictures(tmp_path, pack):
    files = {"1.png": 1, "1.cls": "dog", "2.png": 2, "2.cls": "cat\n"}
    spec = str(fill(tmp_path / "set", files)) if pack is None else pack(tmp_path / "set", files)
    source = open_source(spec)
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [1, 0]
    files = {**files, "3.png": 3}
    spec = str(fill(tmp_path / "set", files)) if pack is None else pack(tmp_path / "set", files)
    assert "no label for 1 of 3 images ('3.png')" in refusal(spec)


def test_records_of_which_only_the_first_lacks_a_label_or_caption(tmp_path):
    files = {"1.png": 1, "1.json": "{}", "2.png": 2, "2.json": '{"text": "two"}', "3.png": 3}
    spec = tarred(tmp_path / "a.tar", files)
    assert list(open_source(spec).captions) == ["", "two", ""]
    tarred(tmp_path / "a.tar", {**files, "2.json": '{"label": 3}'})
    assert "no label for 2 of 3 images ('a.tar/1.png', 'a.tar/3.png')" in refusal(spec)


def test_a_pattern_names_shards_and_those_that_are_missing(tmp_path):
    for k in (8, 9, 10):
        tarred(tmp_path / f"s-{k:03}.tar", {"1.png": k, "1.json": json.dumps({"label": f"c{k}"})})
    source = open_source(str(tmp_path / "s-{008..010}.tar"))
    assert shades(source) == [8, 9, 10]
    assert source.classes == ("c8", "c9", "c10")
    message = refusal(str(tmp_path / "s-{008..030}.tar"))
    assert "20 of 23 shards that do not exist" in message
    assert "s-011.tar" in message


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"1.png": 1, "1.cls": "0", "2.png": 2}, "no label for 1 of 2 images ('a.tar/2.png')"),
        ({"1.png": 1, "1.jpg": 1}, "2 images under the key '1' (png, jpg)"),
        ({"1.txt": "x"}, "holds no images"),
        ({"1.png": 1, "1.json": "{"}, "the .json of a.tar/1.png cannot be read"),
        ({"1.png": 1, "1.json": '{"label": "\\ud800"}'}, "half of one"),
    ],
)
def test_shards_that_are_refused(tmp_path, files, expected):
    tarred(tmp_path / "a.tar", files)
    assert expected in refusal(tmp_path)


def test_a_shard_cut_short_is_refused_by_its_name(tmp_path):
    tarred(tmp_path / "a.tar", samples(0, 3))
    content = Path(tarred(tmp_path / "b.tar", samples(3, 6))).read_bytes()
    (tmp_path / "b.tar").write_bytes(content[: 12 * 512])
    assert "b.tar' cannot be read" in refusal(tmp_path)


def test_a_stored_array_with_a_flipped_byte_is_refused_when_it_is_read(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, np.arange(2 * 8 * 8, dtype=np.uint8).reshape(2, 8, 8), np.arange(2))
    whole = path.read_bytes()
    assert open_source(path).open(1).getpixel((0, 0)) == 64
    place = whole.index(bytes(range(32)))
    path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
    with pytest.raises(UserError, match=r"a\.npz' cannot be read \(.*checksum.*save it again"):
        open_source(path).open(1)
    with pytest.raises(UserError, match="checksum"):
        load_images(open_source(path))
