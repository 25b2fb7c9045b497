"""Sources that are no trees of files: arrays, tables, words with options, Hugging Face."""

import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

from ditkit.data.shapes import SHAPES
from ditkit.data.source import open_source
from ditkit.data.table import MissingFilesError
from tests.test_data_kinds import fill, png, refusal, shade, shades

PIXELS = np.arange(5 * 6 * 7 * 3, dtype=np.int64).astype(np.uint8).reshape(5, 6, 7, 3)


@pytest.mark.parametrize("name", ["a.npy", "stored.npz", "deflated.npz"])
@pytest.mark.parametrize("shape", ["NHWC", "NCHW", "NHW"])
def test_arrays_of_every_layout(tmp_path, name, shape):
    array = {"NHWC": PIXELS, "NCHW": PIXELS.transpose(0, 3, 1, 2), "NHW": PIXELS[..., 0]}[shape]
    save = {"a.npy": np.save, "stored.npz": np.savez, "deflated.npz": np.savez_compressed}[name]
    save(tmp_path / name, array)
    source = open_source(tmp_path / name)
    assert len(source) == 5
    np.testing.assert_array_equal(np.asarray(source.open(4)), PIXELS[4, ..., 0] if shape == "NHW" else PIXELS[4])


def test_the_labels_of_an_array(tmp_path):
    np.savez(tmp_path / "a.npz", PIXELS, [10, 2, 2, 10, 9])
    source = open_source(tmp_path / "a.npz")
    assert source.classes == ("2", "9", "10")
    assert source.labels.tolist() == [2, 0, 0, 2, 1]
    np.savez(tmp_path / "b.npz", images=PIXELS, labels=[1, 0, 0, 1, 1], classes=["cat", "dog", "eel"])
    named = open_source(tmp_path / "b.npz")
    assert named.classes == ("cat", "dog", "eel")
    assert named.labels.tolist() == [1, 0, 0, 1, 1]
    assert named.fingerprint() != source.fingerprint()


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"arr_0": PIXELS / 255}, "float64 of shape (5, 6, 7, 3) with values 0..1: expected uint8"),
        ({"arr_0": PIXELS[0]}, None),
        ({"arr_0": PIXELS[0, 0]}, "expected N images as"),
        ({"arr_0": np.zeros((2, 9, 9, 9), np.uint8)}, "1 to 4 channels"),
        ({"arr_0": PIXELS[:0]}, "(0, 6, 7, 3)"),
        ({"other": PIXELS, "b": PIXELS}, "holds 'other' (5, 6, 7, 3), 'b' (5, 6, 7, 3)"),
        ({"arr_0": PIXELS, "arr_1": [1, 2]}, "expected 5 whole numbers"),
        ({"arr_0": PIXELS, "arr_1": [1, 2, 3, 4, 5], "classes": ["a"]}, "names 1 classes"),
        ({"arr_0": PIXELS, "arr_1": [0, 0, 0, 0, 1], "classes": "a"}, "names 1 classes"),
        ({"arr_0": np.array([None, {}])}, "it is pickled"),
    ],
)
def test_arrays_that_are_refused(tmp_path, arrays, expected):
    np.savez(tmp_path / "a.npz", **arrays)
    if expected is None:
        assert len(open_source(tmp_path / "a.npz")) == 6
    else:
        assert expected in refusal(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_an_array_cut_short_is_refused(tmp_path, name):
    (np.save if name == "a.npy" else np.savez)(tmp_path / name, PIXELS)
    content = (tmp_path / name).read_bytes()
    for cut in (0, 3, len(content) // 2, len(content) - 1):
        (tmp_path / name).write_bytes(content[:cut])
        assert "cannot be read" in refusal(tmp_path / name)


TABLE = [("x/a.png", "dog", "a dog"), ("x/b.png", "cat", "a, cat"), ("c.png", "dog", "")]


def table(root, name, rows=TABLE, columns=("file_name", "label", "caption")):
    for k, (file, *_) in enumerate(rows):
        fill(root, {file: k})
    if name.endswith(".jsonl"):
        lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    else:
        lines = [",".join(columns), *(",".join(f'"{value}"' for value in row) for row in rows)]
    (root / name).write_text("\n".join(lines), encoding="utf-8-sig")
    return str(root / name)


@pytest.mark.parametrize("name", ["metadata.jsonl", "any.jsonl", "metadata.csv", "any.csv"])
def test_a_table_names_files_labels_and_captions(tmp_path, name):
    spec = table(tmp_path, name)
    source = open_source(tmp_path if name.startswith("metadata") else spec)
    assert [source.name(i) for i in range(3)] == ["x/a.png", "x/b.png", "c.png"]
    assert shades(source) == [0, 1, 2]
    assert source.classes == ("cat", "dog")
    assert source.labels.tolist() == [1, 0, 1]
    assert list(source.captions) == ["a dog", "a, cat", ""]
    assert source.captions.missing.tolist() == [2]
    before = source.fingerprint()
    table(tmp_path, name, [*TABLE[:2], ("c.png", "cat", "")])
    assert open_source(spec).fingerprint() != before


def test_a_table_of_files_alone_and_of_maps(tmp_path):
    plain = open_source(table(tmp_path, "a.csv", [("1.png",), ("2.png",)], ["Path"]))
    assert plain.labels is plain.captions is None
    rows = [("1.png", "m/1.png"), ("2.png", "m/2.png")]
    fill(tmp_path, {"m/1.png": 100, "m/2.png": 200})
    mapped = open_source(table(tmp_path, "b.jsonl", rows, ["file_name", "mask_file_name"]))
    assert [shade(mapped.extras["mask"](i)) for i in range(2)] == [100, 200]


def test_captions_may_begin_after_the_first_row(tmp_path):
    fill(tmp_path, {"1.png": 1, "2.png": 2, "3.png": 3})
    rows = [{"file": "1.png"}, {"file": "2.png", "text": "two"}, {"file": "3.png", "caption": "three"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source(tmp_path / "a.jsonl")
    assert list(source.captions) == ["", "two", "three"]
    assert source.captions.missing.tolist() == [0]


def test_a_column_without_a_name_says_nothing(tmp_path):
    fill(tmp_path, {"1.png": 1, "2.png": 2, "a.csv": ",file\n0,1.png\n1,2.png\n"})  # as pandas writes its index
    source = open_source(tmp_path / "a.csv")
    assert source.labels is source.captions is None
    assert shades(source) == [1, 2]


def test_number_labels_keep_their_order(tmp_path):
    source = open_source(table(tmp_path, "a.jsonl", [("1.png", 10), ("2.png", 9)], ["file", "class"]))
    assert source.classes == ("9", "10")
    assert source.labels.tolist() == [1, 0]


def test_all_missing_files_are_listed_and_ten_are_shown(tmp_path):
    spec = table(tmp_path, "a.csv", [(f"{i}.png",) for i in range(30)], ["file"])
    for i in range(3, 30, 2):
        (tmp_path / f"{i}.png").unlink()
    with pytest.raises(MissingFilesError) as caught:
        open_source(spec)
    assert caught.value.files == tuple(f"{i}.png" for i in range(3, 30, 2))
    assert "14 of 30 files that do not exist" in str(caught.value)
    assert "'21.png', ...)" in str(caught.value)
    assert "'23.png'" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", "", "is empty"),
        ("t.csv", "file,label\n", "is empty"),
        ("t.jsonl", "\n", "is empty"),
        ("t.csv", "picture,kind\na.png,x\n", "has the columns 'picture', 'kind': expected one of files"),
        ("t.csv", "file,label\na.png\n", "line 2 has 1 values, the first line 2"),
        ("t.csv", "file,label\na.png,x,y\n", "line 2 has 3 values, the first line 2"),
        ("t.csv", "file,label\na.png,x\nb.png,\n", "no label for 1 of 2 images ('b.png')"),
        ("t.csv", "file,label\na.png,x\na.png,y\n", "'a.png' as 'x' and as 'y' (rows 1 and 2)"),
        ("t.csv", "file,label\na.png,x\nb.png,x\na.png,x\n", "'a.png' twice (rows 1 and 3)"),
        ("t.csv", "file,file\na.png,b.png\n", "the first line names the column 'file' twice"),
        ("t.csv", b"file\n\xff.png\n", "is not UTF-8 (byte 0xff)"),
        ("t.jsonl", '{"file": "a.png"}\n{"file":', "line 2"),
        ("t.jsonl", '["a.png"]\n', "line 1 is no object"),
        ("t.jsonl", '{"file": "a.png"}\n{"label": 3}', "row 2 has no file (None)"),
        ("t.jsonl", b'{"file": "\xff"}', "is not UTF-8"),
        ("t.jsonl", "[" * 100_000, "line 1: it nests too deep"),
        ("t.jsonl", '{"file": "a.png", "label": "\\ud800"}', "half of one"),
        ("t.jsonl", '{"file": "a.png", "caption": "\\uD800"}', "half of one"),
        ("t.jsonl", '{"file": "a.png"}\n{"file": "b.png", "label": 3}', "no label for 1 of 2 images"),
        (
            "t.jsonl",
            '{"file": "a.png", "mask_file": "b.png"}\n{"file": "b.png"}',
            "no mask for 1 of 2 images ('b.png')",
        ),
        (
            "t.jsonl",
            '{"file": "a.png"}\n{"file": "b.png", "mask_file": "a.png"}',
            "no mask for 1 of 2 images ('a.png')",
        ),
        ("t.parquet", b"", "needs pyarrow"),
    ],
)
def test_tables_that_are_refused(tmp_path, monkeypatch, name, content, expected):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    fill(tmp_path, {"a.png": 1, "b.png": 2, name: content})
    assert expected in refusal(tmp_path / name)


@pytest.fixture
def fake_parquet(monkeypatch):
    """As much of pyarrow as is read: a file's rows are JSON, two to a batch."""

    class InvalidError(ValueError):
        pass

    class ParquetFile:
        def __init__(self, path):
            text = path.read_text()
            if not text.startswith("["):
                raise InvalidError(
                    "Parquet magic bytes not found in footer.\nEither the file is corrupted or no parquet file"
                )
            self.rows = json.loads(text)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def iter_batches(self):
            for start in range(0, len(self.rows), 2):
                yield types.SimpleNamespace(to_pylist=lambda start=start: self.rows[start : start + 2])

    parquet = types.ModuleType("pyarrow.parquet")
    parquet.ParquetFile = ParquetFile
    module = types.ModuleType("pyarrow")
    module.ArrowInvalid, module.parquet = InvalidError, parquet
    monkeypatch.setitem(sys.modules, "pyarrow", module)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)


def test_a_table_of_parquet(fake_parquet, tmp_path):
    rows = [{"file_name": f"{i}.png", "label": f"c{i % 2}", "text": "a" * i or None} for i in range(5)]
    fill(tmp_path, {**{f"{i}.png": i for i in range(5)}, "metadata.parquet": json.dumps(rows)})
    for spec in (tmp_path, tmp_path / "metadata.parquet"):
        source = open_source(spec)
        assert shades(source) == [0, 1, 2, 3, 4]
        assert source.classes == ("c0", "c1")
        assert source.labels.tolist() == [0, 1, 0, 1, 0]
        assert list(source.captions) == ["", "a", "aa", "aaa", "aaaa"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("PAR1", "cannot be read (Parquet magic bytes not found in footer. Either"),
        ('[{"picture": "a.png"}]', "has the columns 'picture': expected one of files"),
        ('[{"image": {"bytes": "x"}}]', "row 1 holds the picture itself: expected the name of a file"),
        ("[]", "is empty"),
    ],
)
def test_tables_of_parquet_that_are_refused(fake_parquet, tmp_path, content, expected):
    fill(tmp_path, {"t.parquet": content})
    assert expected in refusal(tmp_path / "t.parquet")


def test_a_file_may_come_again_with_another_caption(tmp_path):
    rows = [("1.png", "one"), ("1.png", "uno")]
    assert list(open_source(table(tmp_path, "a.csv", rows, ["file", "text"])).captions) == ["one", "uno"]


def test_shapes_depend_on_seed_and_index_alone():
    few, many, other = (open_source(f"shapes:size=32,{o}") for o in ("num=9", "num=1000", "num=9,seed=1"))
    assert len(few) == 9
    assert len(open_source("shapes")) == 10_000
    assert few.classes == tuple(SHAPES)
    assert few.labels.tolist() == [*range(8), 0]
    for i in range(9):
        np.testing.assert_array_equal(np.asarray(few.open(i)), np.asarray(many.open(i)))
        assert few.captions[i] == many.captions[i]
        assert f" {few.classes[few.labels[i]]} " in few.captions[i]
    assert any(few.captions[i] != other.captions[i] for i in range(9))
    assert len({s.fingerprint() for s in (few, many, other)}) == 3


def test_shapes_mask_and_edges_belong_to_the_picture():
    source = open_source("shapes:size=48x64,num=16")
    for i in range(16):
        picture, mask = np.asarray(source.open(i)), np.asarray(source.extras["mask"](i))
        edges = np.asarray(source.extras["edges"](i))
        assert picture.shape == (48, 64, 3)
        assert mask.shape == edges.shape == (48, 64)
        assert set(np.unique(mask)) == set(np.unique(edges)) == {0, 255}
        inside, outside = (picture[(mask == value) & (edges == 0)] for value in (255, 0))
        assert len(np.unique(inside, axis=0)) == len(np.unique(outside, axis=0)) == 1
        assert (inside[0] != outside[0]).any()


def test_shapes_show_the_same_scene_at_any_size():
    small, large = open_source("shapes:size=32,num=8"), open_source("shapes:size=128,num=8")
    for i in range(8):
        assert small.captions[i] == large.captions[i]
        shrunk = np.asarray(large.open(i).resize((32, 32), Image.Resampling.BOX), dtype=float)
        assert np.abs(shrunk - np.asarray(small.open(i))).mean() < 3


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("shapes:size=0", "size=0 cannot be: expected pixels or HEIGHTxWIDTH, each from 4"),
        ("shapes:size=big", "size=big"),
        ("shapes:num=-1", "a whole number from 1"),
        ("shapes:nun=5", "did you mean 'num'"),
        ("shapes:num=5,num=6", "num twice"),
        ("shape", "did you mean 'shapes'"),
        ("shape:size=64", "did you mean 'shapes'"),
        ("hf:", "has no name"),
    ],
)
def test_words_with_options_that_are_refused(spec, expected):
    assert expected in refusal(spec)


class FakeRows:
    """As much of ``datasets.Dataset`` as is read."""

    _fingerprint = "f"

    def __init__(self, columns, features):
        self.columns, self.features = columns, features

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        return self.columns[key] if isinstance(key, str) else {k: v[key] for k, v in self.columns.items()}

    def cast_column(self, column, feature):
        assert feature.decode is False
        return self


@pytest.fixture
def fake_hub(monkeypatch):
    image = type("Image", (), {"__init__": lambda self, decode=True: setattr(self, "decode", decode)})
    text, names = type("Value", (), {})(), types.SimpleNamespace(names=["cat", "dog"])
    columns = {
        "img": [{"bytes": png(k), "path": f"{k}.png"} for k in range(4)],
        "depth": [{"bytes": png(9 - k), "path": None} for k in range(4)],
        "label": [1, 0, 0, 1],
        "fine": ["x10", "x9", "x9", "x9"],
        "text": ["a", "b", None, "d"],
    }
    features = {"img": image(), "depth": image(), "label": names, "fine": text, "text": text}
    rows = FakeRows(columns, features)
    module = types.ModuleType("datasets")
    module.Image = image
    module.load_from_disk = lambda path: rows
    module.load_dataset = lambda name, config=None, data_files=None: {"test": None, "train": rows}
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_hugging_face_data_set(fake_hub, tmp_path):
    fill(tmp_path, {"dataset_info.json": "{}"})
    for spec in ("hf:org/name", str(tmp_path)):
        source = open_source(spec)
        assert shades(source) == [0, 1, 2, 3]
        assert source.classes == ("cat", "dog")
        assert source.labels.tolist() == [1, 0, 0, 1]
        assert list(source.captions) == ["a", "b", "", "d"]
        assert shade(source.extras["depth"](3)) == 6
    chosen = open_source("hf:org/name:image=depth,label=fine,split=train")
    assert shades(chosen) == [9, 8, 7, 6]
    assert chosen.classes == ("x9", "x10")
    assert "did you mean 'train'" in refusal("hf:org/name:split=trian")
    assert "did you mean 'fine'" in refusal("hf:org/name:label=fin")


def test_a_hugging_face_data_set_of_which_some_rows_lack_a_label(fake_hub):
    import datasets

    datasets.load_dataset("org/name")["train"].columns["label"] = [1, None, 0, -1]
    assert "no label for 2 of 4 images ('row 1', 'row 3')" in refusal("hf:org/name")


def test_a_hugging_face_data_set_without_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "datasets", None)
    fill(tmp_path, {"dataset_dict.json": "{}"})
    for spec in ("hf:org/name", tmp_path):
        assert "pip install 'ditkit[hfdata]'" in refusal(spec)
