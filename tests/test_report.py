"""The run report: one page that stands alone, escapes what users wrote, and does without what was not computed."""

import dataclasses
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ditkit.app import pictures
from ditkit.app.report import GuidancePoint, Metric, Neighbours, ReportData, Trajectory, page, render, write_report
from ditkit.app.report.html import element
from ditkit.base.errors import UserError

NASTY = "<script>alert('1')</script> & \"quoted\" http://example.com"
VOID = {"br", "img", "input", "link", "meta"}


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def full(name: str = "demo", channels: int = 1, size: int = 8) -> ReportData:
    """A report with every section, with ``name`` wherever a user's text can stand."""
    chw = (channels, size, size)
    return ReportData(
        name=name,
        model=name,
        parameters=1_234_567,
        data=name,
        step=4000,
        guidance=2.0,
        training_seconds=187.0,
        seconds_per_sample=0.0123,
        metrics={
            "class_accuracy": Metric(0.981, 1000, name, 0.0043),
            name: Metric(2.5),
            "recall": Metric(float("nan"), 10),
        },
        samples={name: torch.from_numpy(images(5, *chw)), "1": images(3, *chw)},
        log=[
            {"step": s, "loss": 1 / s, "lr": 1e-3, "grad_norm": 0.5, "images_per_s": 9.0, "seconds": s / 10}
            for s in range(1, 2000)
        ],
        progress={2000: images(4, *chw), 1000: images(4, *chw)},
        sweep=[
            GuidancePoint(
                4.0, {"precision": Metric(0.9, 300, "", 0.017), "frechet_distance": Metric(3.0, 300)}, images(4, *chw)
            ),
            GuidancePoint(1.0, {"precision": Metric(0.7, 300, "", 0.026), name: Metric(1.0)}),
        ],
        trajectory=Trajectory([1.0, 0.5, 0.0], [images(3, *chw)], [images(3, *chw)], [name]),
        neighbours=Neighbours(
            images(2, *chw), images(2, 3, *chw), np.ones((2, 3)), np.arange(9.0), np.arange(5.0), 3, 0.5, name, name
        ),
        feature_neighbours=Neighbours(
            images(2, *chw), images(2, 3, *chw), np.ones((2, 3)), np.arange(9.0), np.arange(5.0), 3, 0.5, name, name
        ),
        evaluations=[
            {"step": step, "metrics": {"frechet_distance": {"value": 1e4 / step, "samples": 99, "standard_error": 0.1}}}
            for step in (2000, 1000)
        ],
        protocol={"protocol hash": name, "sampling.guidance": 1.5},
        recipe=name,
        environment={name: name},
        command=name,
    )


def bare(**fields) -> ReportData:
    return ReportData(name="bare", model="DiT", parameters=1, data="digits", step=0, **fields)


class Outline(HTMLParser):
    """Reads a page and keeps what the tests ask about; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_page_nests_and_has_headings_ids_alts_and_headers_in_order():
    outline = Outline(render(full()))
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in outline.all("a")} <= {f"#{i}" for i in ids}
    assert outline.all("img")
    assert all(image["alt"] for image in outline.all("img"))
    assert all(header.get("scope") in ("row", "col") for header in outline.all("th"))
    assert all(a["aria-label"] for _, a in outline.tags if a.get("role") in ("img", "region"))


def test_page_needs_nothing_outside_itself():
    text = render(full(NASTY))
    outline = Outline(text)
    assert not outline.all("script")
    assert not outline.all("link")
    for _, attributes in outline.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/", "#"))
    assert not re.search(r"url\(|@import", text)
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)


def test_what_users_wrote_is_text_never_markup():
    text = render(full(NASTY))
    assert "<script" not in text
    outline, plain = Outline(text), Outline(render(full("plain")))
    assert [(tag, list(a)) for tag, a in outline.tags] == [(tag, list(a)) for tag, a in plain.tags]
    assert outline.text.count(NASTY) >= 10


def test_element_escapes_text_and_attributes_but_not_elements():
    inner = element("b", "a < b")
    made = element("p", inner, "<i>", None, title='"', hidden=True, lang=None)
    assert made == '<p title="&quot;" hidden><b>a &lt; b</b>&lt;i&gt;</p>'


def test_sections_without_data_say_why():
    outline = Outline(render(bare(missing={"sweep": "the model has no classes."}, log=[], samples={})))
    assert len(outline.all("section")) == len(page.SECTIONS)
    assert outline.text.count("Not shown: ") == len(page.SECTIONS)
    assert "Not shown: the model has no classes." in outline.text
    assert not outline.all("img")


@pytest.mark.parametrize("field", [section.field for section in page.SECTIONS])
def test_any_section_can_be_missing_alone(field):
    outline = Outline(render(dataclasses.replace(full(), **{field: None})))
    assert outline.text.count("Not shown: ") == 1


def test_every_optional_collection_has_a_section():
    optional = {f.name for f in dataclasses.fields(ReportData) if f.default is None}
    in_headline = {"guidance", "training_seconds", "seconds_per_sample"}
    assert optional - {section.field for section in page.SECTIONS} == in_headline


def test_tiles_and_tables_show_the_numbers():
    text = Outline(render(full())).text
    for shown in ("98.1%", "1,234,567", "4,000", "12.3 ms", "3 min 07 s", "of 9 checked", "2.5", "not finite"):
        assert shown in text
    assert "0.981 ± 0.0043" in text


def test_copies_are_those_that_were_measured():
    measured = Metric.read({"value": 0.002, "samples": 1000, "standard_error": 0.0014, "copies": 2, "heldout": 300})
    text = Outline(render(dataclasses.replace(full(), metrics={"copy_rate": measured}))).text
    assert "of 1,000 checked" in text
    assert "of 9 checked" not in text
    assert "Copies found2Samples" in text


def test_optional_parts_of_sections_can_be_missing():
    rgb = images(2, 3, 5, 9)
    data = bare(
        samples={"": rgb},
        log=[{"step": 1, "loss": float("nan")}, {"event": "resumed"}],
        sweep=[GuidancePoint(1.0, {})],
        trajectory=Trajectory([1.0, 0.0], [rgb]),
        neighbours=Neighbours(rgb, rgb[:, None], np.ones((2, 1)), np.zeros(3), np.zeros(0)),
    )
    outline = Outline(render(data))
    assert "the log has no finite loss" in outline.text
    assert "One row per class" not in outline.text
    assert "Copies found" not in outline.text


@pytest.mark.parametrize("log", [[{"step": 5, "loss": 0.3}], [{"step": s, "loss": 0.0, "lr": 0.0} for s in range(4)]])
def test_one_record_or_a_constant_is_still_a_chart(log):
    paths = [path["d"] for path in Outline(render(bare(log=log))).all("path")]
    assert paths
    assert not any("nan" in path or "inf" in path for path in paths)


def test_a_long_run_in_colour_stays_light():
    data = dataclasses.replace(
        full(channels=3, size=32),
        log=[{"step": s, "loss": 1 / (s + 1), "lr": 1e-4, "grad_norm": 1.0} for s in range(50_000)],
        samples={str(k): images(10, 3, 32, 32) for k in range(10)},
        progress={s: images(36, 3, 32, 32) for s in range(10)},
    )
    assert len(render(data)) < 3e6


def test_large_images_are_embedded_shrunk():
    noise = images(4, 3, 256, 300)
    assert len(render(bare(samples={"": noise}))) < 4 * 128 * 128 * 3
    assert pictures.thumbnails(noise).shape == (4, 3, 109, 128)
    assert pictures.thumbnails(noise[:, :1]).shape == (4, 1, 109, 128)


def test_report_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_report(path, bare())
    before = path.read_text(encoding="utf-8")
    assert before == render(bare())

    def full_device(self, text, **_):
        with open(self, "w") as file:
            file.write(text[: len(text) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full_device)
    with pytest.raises(UserError, match="no space left"):
        write_report(path, full())
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8") == before


def test_metric_is_read_from_an_entry_of_metrics_json():
    assert Metric.read({"value": 1, "samples": 5}) == Metric(1.0, 5, "")
    assert Metric.read({"value": 1.0, "note": "k = 3", "seed": 7}) == Metric(1.0, None, "k = 3; seed: 7")
    others = {"distance_threshold": 0.057418085634708405, "false_alarms": 0.0, "training": 50000, "error_from": "it"}
    said = "distance threshold: 0.05742; false alarms: 0; training: 50,000; error from: it"
    assert Metric.read({"value": 1.0, **others}).note == said


def test_a_value_stays_on_one_line_and_a_sentence_does_not():
    cells = Outline(render(bare(metrics={"fid": Metric(0.9941, 10_000, "few images: " * 9, 0.00077)}))).all("td")
    assert [cell["class"] for cell in cells] == ["short", "short", "short", "text"]


def test_guidance_is_shown_with_errors_and_how_many_samples():
    text = render(bare(sweep=full().sweep))
    for shown in ("of 300 samples each", "± and bars are one standard error", ">0.9 ± 0.017<", ">0.7 ± 0.026<", ">3<"):
        assert shown in text
    assert text.count('class="whiskers') == 1  # of precision; the others have no error
    bare_text = render(bare(sweep=[GuidancePoint(g, {"fid": Metric(g)}) for g in (1.0, 2.0)]))
    assert "standard error" not in bare_text
    assert 'class="whiskers' not in bare_text


@pytest.mark.parametrize(("records", "said"), [(1, None), (49, None), (50, "mean of 3 records")])
def test_a_loss_is_smoothed_where_there_is_enough_of_it(records, said):
    log = [{"step": s, "loss": 1.0 / (s + 1), "lr": 1e-3} for s in range(records)]
    text = render(bare(log=log))
    assert (said in text) if said else ("mean of" not in text and "smoothed" not in text and 'raw"' not in text)
    assert text.count('class="dots c0') == (3 if records == 1 else 0)  # two axes of the loss, one of the rate


def test_samples_without_classes_are_a_grid_and_many_classes_are_counted():
    assert "80 samples" in render(bare(samples={"": images(80, 1, 8, 8)}))
    (picture,) = Outline(render(bare(samples={"": images(80, 1, 8, 8)}))).all("img")
    assert (picture["style"] or "").startswith("width:712px")  # ten of 8 pixels, 8 times as large, and gaps
    named = {str(k): images(1, 1, 8, 8) for k in range(3)}
    assert "One row per class. " in render(bare(samples=named, classes=3))
    assert "One row per class, the first 3 of 1,000. " in render(bare(samples=named, classes=1000))


# Pictures


@given(
    n=st.integers(1, 7),
    columns=st.integers(1, 5),
    channels=st.sampled_from([1, 3]),
    padding=st.integers(0, 3),
    background=st.sampled_from([None, 0, 128, (1, 2, 3)]),
)
def test_grid_puts_every_pixel_in_its_place(n, columns, channels, padding, background):
    h, w = 3, 4
    given_NCHW = images(n, channels, h, w)
    sheet = pictures.grid(given_NCHW, columns, padding=padding, background=background)
    rows = -(-n // columns)
    assert sheet.size == (columns * (w + padding) - padding, rows * (h + padding) - padding)
    left = np.asarray(sheet.convert("RGBA")).copy()
    empty = np.zeros(4) if background is None else np.append(np.broadcast_to(background, 3), 255)
    for i in range(n):
        top, side = i // columns * (h + padding), i % columns * (w + padding)
        cell = left[top : top + h, side : side + w]
        np.testing.assert_array_equal(cell[..., :3], np.broadcast_to(given_NCHW[i].transpose(1, 2, 0), (h, w, 3)))
        assert (cell[..., 3] == 255).all()
        cell[:] = empty
    assert (left == empty).all()


def test_grid_takes_tensors_and_keeps_the_plainest_mode():
    tensor = torch.from_numpy(images(2, 1, 2, 2))
    assert pictures.grid(tensor, 2, background=255).mode == "L"
    assert pictures.grid(tensor, 2).mode == "LA"
    assert pictures.grid(tensor.expand(2, 3, 2, 2), 2, background=255).mode == "RGB"


@pytest.mark.parametrize(
    "wrong",
    [images(2, 5, 4, 4), images(2, 4, 4), images(2, 1, 4, 4) / 255, images(0, 1, 4, 4), torch.zeros(1, 1, 2, 2)],
)
def test_grid_refuses_other_layouts(wrong):
    with pytest.raises(ValueError, match="uint8 images"):
        pictures.grid(wrong, 2)


def test_grid_refuses_no_columns():
    with pytest.raises(ValueError, match="column"):
        pictures.grid(images(1, 1, 2, 2), 0)


def test_saved_png_reads_back_exactly_and_leaves_nothing_beside_it(tmp_path):
    given_NCHW = images(6, 3, 5, 5)
    pictures.save_png(tmp_path / "deep" / "sheet.png", pictures.grid(given_NCHW, 3, padding=0, background=0))
    with Image.open(tmp_path / "deep" / "sheet.png") as read:
        np.testing.assert_array_equal(np.asarray(read)[5:, :5], given_NCHW[3].transpose(1, 2, 0))
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["sheet.png"]


def test_png_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "sheet.png"
    pictures.save_png(path, pictures.grid(images(1, 1, 4, 4), 1))
    before = path.read_bytes()

    def full_device(self, data):
        with open(self, "wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full_device)
    with pytest.raises(UserError, match="no space left"):
        pictures.save_png(path, pictures.grid(images(1, 3, 9, 9), 1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
