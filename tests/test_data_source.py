"""Sources: what is recognised, how classes are told, and the line that bad input gets."""

import os
import sys
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ditkit.base.errors import UserError
from ditkit.data.layout import arrange
from ditkit.data.source import open_source


def put(root, *names):
    """Makes files: a picture of its own shade for a name of an image, a text for others, a folder for "name/"."""
    for shade, name in enumerate(names):
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg"):
            Image.new("L", (4, 4), shade).save(path)
        else:
            path.write_text("text")
    return root


def pack(root, archive):
    paths = sorted(root.rglob("*"))  # before the archive is made, which may lie under root
    with zipfile.ZipFile(archive, "w") as packed:
        for path in paths:
            packed.write(path, path.relative_to(root))
    return str(archive)


def refusal(spec):
    with pytest.raises(UserError) as caught:
        open_source(spec)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_digits_are_the_scans_of_scikit_learn():
    from sklearn.datasets import load_digits

    source = open_source("digits")
    assert len(source) == 1797
    assert source.classes == tuple("0123456789")
    np.testing.assert_array_equal(source.labels, load_digits().target)
    pixels = np.asarray(source.open(5))
    np.testing.assert_array_equal(pixels, np.floor(load_digits().images[5] * 255 / 16 + 0.5))
    assert pixels.max() == 255
    assert len(source.fingerprint()) == 64


def test_digits_without_scikit_learn_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    assert "pip install 'ditkit[data]'" in refusal("digits")


@pytest.mark.parametrize("packed", [False, True])
def test_a_subfolder_is_a_class_in_natural_order(tmp_path, packed):
    names = (
        "10/b.png",
        "2/img10.png",
        "2/img9.PNG",
        "2/deeper/z.jpg",
        ".hidden/x.png",
        "2/.x.png",
        "2/notes.txt",
        "r.md",
    )
    spec = put(tmp_path / "set", *names)
    source = open_source(pack(spec, tmp_path / "set.zip") if packed else spec)
    assert source.classes == ("2", "10")
    assert [source.name(i) for i in range(len(source))] == ["2/deeper/z.jpg", "2/img9.PNG", "2/img10.png", "10/b.png"]
    assert source.labels.tolist() == [0, 0, 0, 1]
    assert np.asarray(source.open(3)).max() == 0
    assert np.asarray(source.open(2)).max() == 1


@pytest.mark.parametrize("packed", [False, True])
def test_loose_images_have_no_classes(tmp_path, packed):
    spec = put(tmp_path / "set", "b.png", "a.png", "texts/readme.txt")
    source = open_source(pack(spec, tmp_path / "set.zip") if packed else str(spec))
    assert source.classes == ()
    assert source.labels is None
    assert [source.name(i) for i in range(2)] == ["a.png", "b.png"]


def test_a_wrapping_folder_is_looked_through_and_one_class_stays_one():
    wrapped = arrange(["top/", "top/cat/1.png", "top/dog/1.png", "__MACOSX/top/cat/._1.png", "README"], "it")
    assert wrapped.classes == ("cat", "dog")
    assert wrapped.names == ("top/cat/1.png", "top/dog/1.png")
    assert arrange(["cat/1.png", "cat/2.png"], "it").classes == ("cat",)
    assert arrange(["top/cat/1.png"], "it").classes == ("cat",)


def test_order_does_not_depend_on_the_listing():
    names = [f"c{k}/{i}.png" for k in range(12) for i in range(12)]
    one, other = arrange(names, "it"), arrange(reversed(names), "it")
    assert one.names == other.names == tuple(names)


def test_names_of_careless_packers(tmp_path):
    png = put(tmp_path, "x.png") / "x.png"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.write(png, "./cat/1.png")
        packed.writestr(zipfile.ZipInfo("dog\\1.png"), png.read_bytes())
    source = open_source(str(tmp_path / "a.zip"))
    assert source.classes == ("cat", "dog")
    assert source.open(1).size == (4, 4)


@pytest.mark.parametrize("before", ["/", "../../", "././", "..\\\\"])
def test_an_archive_of_absolute_or_relative_paths_keeps_its_classes(tmp_path, before):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for name in ("cat/1.png", "dog/2.png"):
            packed.writestr(before + name, b"")
    assert open_source(tmp_path / "a.zip").classes == ("cat", "dog")


def test_a_pipe_called_like_an_image_does_not_decode(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(OSError, match="not a file"):
        open_source(tmp_path).open(0)


def test_an_archive_is_read_by_many_threads_at_once(tmp_path):
    shades = range(200)
    source = open_source(pack(put(tmp_path / "set", *(f"{shade}.png" for shade in shades)), tmp_path / "set.zip"))
    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(lambda i: int(np.asarray(source.open(i))[0, 0]), [*shades] * 3))
    assert seen == [*shades] * 3


@pytest.mark.parametrize("packed", [False, True])
def test_the_fingerprint_tells_a_change(tmp_path, packed):
    spec = put(tmp_path / "set", "a/1.png", "b/1.png")

    def fingerprint(name):
        return open_source(pack(spec, tmp_path / name) if packed else str(spec)).fingerprint()

    first = fingerprint("1.zip")
    assert fingerprint("2.zip") == first
    (spec / "a/1.png").write_bytes((spec / "a/1.png").read_bytes()[::-1])  # of the same size
    assert fingerprint("3.zip") != first


def test_a_folder_or_file_that_may_not_be_read_is_refused_by_name(tmp_path, monkeypatch):
    put(tmp_path / "set", "cat/1.png", "dog/1.png")
    archive = pack(tmp_path / "set", tmp_path / "set.zip")
    scan, opened = os.scandir, Path.open  # permissions do not bind root, who may run the tests

    def scandir(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    def locked(self, *args, **how):
        if self.name == "set.zip":
            raise PermissionError(13, "Permission denied", str(self))
        return opened(self, *args, **how)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Path, "open", locked)
    message = refusal(str(tmp_path / "set"))
    assert f"'{tmp_path / 'set/dog'}' cannot be listed (Permission denied)" in message
    assert "cannot be read ([Errno 13] Permission denied" in refusal(archive)


def test_a_link_that_leads_back_ends(tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat/all").symlink_to(tmp_path, target_is_directory=True)
    assert len(open_source(str(tmp_path))) == 2


def test_what_does_not_exist_names_the_nearest(tmp_path):
    assert "did you mean 'digits'" in refusal("digit")
    put(tmp_path, "faces/1.png")
    message = refusal(str(tmp_path / "facse"))
    assert "does not exist" in message
    assert f"did you mean '{tmp_path / 'faces'}'" in message
    assert "a folder of images" in message
    assert ".zip" in message
    assert "does not exist" in refusal("")
    assert "did you mean" not in refusal(str(tmp_path / "quite else"))


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    put(tmp_path, "1.png")
    message = refusal(str(tmp_path / "1.png"))
    assert "cannot be read as images" in message
    assert "did you mean" not in message


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ((), "is empty"),
        (("notes.txt", "more/notes.txt"), "holds files but no images ('more/notes.txt', 'notes.txt')"),
        (("1.png", "cat/1.png"), "mixes loose images (1: '1.png') with images in subfolders (1)"),
        (("cat/1.png", "dog/"), "class folders without images (1: 'dog')"),
        (("cat/1.png", "dog/notes.txt"), "class folders without images (1: 'dog')"),
    ],
)
def test_layouts_that_are_refused(tmp_path, names, expected, packed):
    (tmp_path / "set").mkdir()
    spec = put(tmp_path / "set", *names)
    message = refusal(pack(spec, tmp_path / "set.zip") if packed else str(spec))
    assert expected in message
    assert "set" in message


def test_a_broken_archive_is_refused(tmp_path):
    whole = pack(put(tmp_path / "set", *(f"{i}.png" for i in range(9))), tmp_path / "whole.zip")
    content = (tmp_path / "whole.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: len(content) // 2])
    (tmp_path / "foreign.zip").write_text("not a zip")
    (tmp_path / "unnamed").write_bytes(content)
    assert "expected a whole zip" in refusal(str(tmp_path / "cut.zip"))
    assert "expected a whole zip" in refusal(str(tmp_path / "foreign.zip"))
    assert len(open_source(whole)) == len(open_source(str(tmp_path / "unnamed"))) == 9


def test_an_encrypted_archive_is_refused(tmp_path):
    content = bytearray(Path(pack(put(tmp_path / "set", "1.png"), tmp_path / "set.zip")).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the directory's entry
    (tmp_path / "set.zip").write_bytes(content)
    assert "without a password" in refusal(str(tmp_path / "set.zip"))


def test_an_index_takes_few_bytes_an_entry():
    count = 20_000  # benchmarks/data.py measures a million: under 200 MB
    names = [f"n{i % 100:08d}/img_{i * 7919 % count:09d}.jpg" for i in range(count)]
    tracemalloc.start()
    layout = arrange(iter(names), "it")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(layout.names) == count
    assert most / count < 200, most / count
