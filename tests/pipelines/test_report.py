"""The report: complete, self-contained, and safe to open whatever the captions say."""

from __future__ import annotations

import base64
import io
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from open_diht.common.html import TextSpan, attribute, marked, plain
from open_diht.pipelines.report import render_report, write_report
from open_diht.pipelines.report.charts import anchor, bin_counts, percent
from open_diht.pipelines.report.data import read_example, read_funnel
from open_diht.pipelines.report.graph import draw_graph
from open_diht.pipelines.report.page import MAX_EXAMPLES
from open_diht.pipelines.report.thumbnail import SIDE, ImageNotShown, draw_image, make_thumbnail, shrink
from tests.common.hostile_images import flat_png
from tests.common.html_tags import HOSTILE, Tags


def jpeg(width: int = 800, height: int = 400) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (40, 90, 120)).save(buffer, "JPEG")
    return buffer.getvalue()


def example(**changes: Any) -> dict[str, Any]:
    caption = "A brown dog catching a red ball"
    return {
        "uid": "ab" * 16,
        "caption": caption,
        "parsed": caption,
        "objects": [{"text": "dog", "start": 8, "end": 11}, {"text": "ball", "start": 27, "end": 31}],
        "attributes": [
            {"object": index, "text": text, "kind": "colour"} for index, text in enumerate(("brown", "red"))
        ],
        "actions": [
            {
                "verb": "catching",
                "start": 12,
                "end": 20,
                "score": 0.97,
                "accepted": True,
                "participants": [{"object": 0, "role": "subject"}, {"object": 1, "role": "object"}],
            }
        ],
        "relations": [{"source": 0, "target": 1, "text": "with"}],
        "complexity": 2,
        "image": None,
        "width": 0,
        "height": 0,
        "spotted": [],
        "overlap": None,
        "overlap_text": "",
        "overlap_span": None,
        "message": "",
        **changes,
    }


def funnel(**changes: Any) -> dict[str, Any]:
    return {
        "dataset": "sample",
        "preset": "paper",
        "stages": ["captions", "spotting"],
        "rows_in": 1298,
        "steps": [
            {"stage": "captions", "reason": "action", "rejected": 1000, "left": 294},
            {"stage": "spotting", "reason": "text_spotting", "rejected": 94, "left": 200},
        ],
        "rejected": {"action": 1000, "text_spotting": 94},
        "dead_letter": {"rows": 4, "units": 1, "by_error": {"truncated": 3, "empty": 1}},
        "kept": 200,
        "keep_rate": 200 / 1298,
        "histograms": {"complexity": {"0": 10, "2": 30}, "actions": {"0": 7}, "overlap": {"0": 50, "40": 3}},
        "seconds": {"captions": 1.5},
        "examples": {"action": [example()], "kept": [example()], "dead_letter": [example(message="truncated")]},
        **changes,
    }


def test_the_page_has_every_section_and_is_well_formed() -> None:
    page = render_report(funnel(), notes=["A note."])
    assert Tags(page).open == []
    assert "Of 1,298 rows, <b>200 were kept</b>: a rate of 15.4 %." in page
    for text in ("Funnel", "What the steps mean", "Distributions", "Rejected: ", "Dead letter", "A note.", "Kept"):
        assert text in page
    for name in ("action", "kept", "dead_letter"):
        assert f'id="{anchor(name)}"' in page
    assert "1 whole unit " in page
    assert "do not add up" not in page


@pytest.mark.parametrize("names", [(), ("action",), ("action", "kept", "dead_letter", "unheard of")])
def test_every_link_has_its_target(names: tuple[str, ...]) -> None:
    tags = Tags(render_report(funnel(examples={name: [example()] for name in names}))).tags
    ids = {attrs["id"] for _, attrs in tags if "id" in attrs}
    assert {str(attrs["href"])[1:] for tag, attrs in tags if tag == "a"} == ids


@pytest.mark.parametrize("raw", [{}, {"rows_in": 0, "steps": None, "examples": None, "histograms": []}])
def test_an_empty_run_has_a_report(raw: dict[str, Any]) -> None:
    page = render_report(raw)
    assert Tags(page).open == []
    assert "No rows came in" in page
    assert page.count("Not measured.") == 3


def test_counts_that_do_not_add_up_are_said() -> None:
    assert "+5 rows are unaccounted for" in render_report(funnel(rows_in=1303))


def everywhere_hostile() -> dict[str, Any]:
    one = example(
        caption=HOSTILE,
        parsed=HOSTILE + "x",
        uid=HOSTILE,
        objects=[{"text": HOSTILE, "start": 0, "end": 5}],
        attributes=[{"object": 0, "text": HOSTILE, "kind": HOSTILE, "reasons": [[HOSTILE, 1e400], [HOSTILE, -1.5]]}],
        actions=[
            {
                "verb": HOSTILE,
                "start": 0,
                "end": 4,
                "score": 0.1,
                "accepted": False,
                "participants": [{"object": 0, "role": HOSTILE}],
                "reasons": [[HOSTILE, 2.0], [HOSTILE, HOSTILE], HOSTILE, [HOSTILE]],
            }
        ],
        relations=[{"source": 0, "target": 0, "text": HOSTILE, "reasons": [[HOSTILE, "1"]]}],
        image="data:image/jpeg;base64," + base64.b64encode(jpeg()).decode(),
        spotted=[{"text": HOSTILE, "score": 0.9, "box": [[0, 0], [9, 0], [9, 9], [0, 9]]}],
        overlap=8,
        overlap_text=HOSTILE,
        overlap_span=[0, 8],
        message=HOSTILE,
    )
    return funnel(
        dataset=HOSTILE,
        preset=HOSTILE,
        stages=[HOSTILE],
        steps=[{"stage": HOSTILE, "reason": HOSTILE, "rejected": 1000, "left": 298}],
        rejected={HOSTILE: 1094},
        dead_letter={"rows": 4, "units": 0, "by_error": {HOSTILE: 4}},
        seconds={HOSTILE: 1.0},
        examples={HOSTILE: [one, example(image=HOSTILE)], "kept": [one], "dead_letter": [one]},
    )


def test_hostile_text_is_shown_and_does_nothing() -> None:
    page = render_report(everywhere_hostile(), notes=[HOSTILE])
    parsed = Tags(page)
    assert parsed.open == []
    assert not {"script", "img", "iframe", "object", "link", "foreignobject"} & {tag for tag, _ in parsed.tags}
    assert not [name for _, attrs in parsed.tags for name in attrs if name.startswith("on")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not set(page) & set("\u202e\u202c\x00\ud800")
    assert "U+202E" in page


def test_what_the_verifier_went_by_stands_for_and_against() -> None:
    one = example()
    one["actions"][0]["reasons"] = [["said of dog", 1.31], ["title case", -0.52]]
    one["attributes"][0]["reasons"] = [["group colour", 0.7]]
    one["relations"][0]["reasons"] = [["with noun", -0.2]]
    page = render_report(funnel(examples={"kept": [one]}))
    words = re.sub(r"<[^>]+>", "|", page[page.index('<details class="beliefs">') :].split("</details>")[0])
    cells = [cell.strip() for cell in words.split("|") if cell.strip()]
    assert cells[cells.index("catching") :] == [
        *("catching", "0.97", "said of dog", "+1.3", "title case", "-0.5"),
        *("brown, of dog", "0.00", "group colour", "+0.7"),
        *("dog with ball", "0.00", "with noun", "-0.2"),
    ]


def test_an_example_without_reasons_says_nothing_of_them() -> None:
    assert "beliefs" not in render_report(funnel(examples={"kept": [example()]})).split("</style>")[1]


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = render_report(everywhere_hostile())
    assert "default-src 'none'" in page
    for tag, attrs in Tags(page).tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:image/jpeg;base64,")), (tag, value)
    assert not re.search(r"url\(|@import|https?://", page)


def test_writing_is_atomic_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out" / "report.html"
    write_report(funnel(), path)
    before = path.read_bytes()
    assert before.startswith(b"<!doctype html>")
    assert os.stat(path).st_mode & 0o777 == 0o644

    def broken(handle: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="disk full"):
        write_report(funnel(kept=1), path)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == ["report.html"]


def test_examples_and_their_size_are_bounded() -> None:
    noise = io.BytesIO()
    Image.frombytes("RGB", (700, 700), os.urandom(3 * 700 * 700)).save(noise, "JPEG", quality=95)
    image = "data:image/jpeg;base64," + base64.b64encode(noise.getvalue()).decode()
    many = [example(image=image, caption="word " * 50_000, parsed="word " * 50_000)] * 40
    page = render_report(funnel(examples={"kept": many}))
    assert page.count('<article class="card">') == MAX_EXAMPLES + 1  # and the legend
    assert len(page) < 3_000_000


def test_the_overlap_is_marked_in_the_original_caption() -> None:
    page = render_report(funnel(examples={"kept": [example(parsed="other text", overlap=5, overlap_span=[2, 7])]}))
    assert "A <mark>brown</mark> dog" in page
    assert "parsed as" in page
    assert "parsed as" not in render_report(funnel())


def test_marks_survive_overlapping_and_wrong_spans() -> None:
    html = marked(
        "abc<d", [TextSpan(0, 2, "t-object"), TextSpan(1, 5, "overlap"), TextSpan(-1, 3, "x"), TextSpan(3, 99, "x")]
    )
    inside = html.removeprefix('<bdi dir="auto">').removesuffix("</bdi>")
    assert re.sub(r"<[^>]+>", "", inside) == "abc&lt;d"
    assert html.count("<mark>") == 2
    assert "x" not in inside


def test_a_long_caption_is_cut_around_its_overlap() -> None:
    html = marked("x" * 5000 + "NEEDLE" + "y" * 5000, [TextSpan(5000, 5006, "overlap")], limit=200)
    assert "<mark>NEEDLE</mark>" in html
    assert len(html) < 400
    assert html.count("\u2026") == 2


def test_attribute_text_is_one_bounded_line() -> None:
    assert attribute("a\nb\u2028c") == "a b c"
    assert len(plain("x" * 999, 20)) == 20
    assert attribute('"') == "&quot;"


def boxes_of(svg: str, css: str) -> list[tuple[float, float, float, float]]:
    root = ElementTree.fromstring(svg)
    found = []
    for rect in root.iter("rect"):
        if rect.get("class") == css:
            x, y, w, h = (float(rect.get(name, "nan")) for name in ("x", "y", "width", "height"))
            found.append((x, y, x + w, y + h))
    return found


@pytest.mark.parametrize("count", range(1, 11))
def test_no_two_nodes_of_a_graph_lie_on_each_other(count: int) -> None:
    raw = example(
        objects=[{"text": f"object number {index}", "start": 0, "end": 1} for index in range(count)],
        attributes=[{"object": index, "text": f"attribute{n}"} for index in range(count) for n in range(index % 6)],
        actions=[
            {
                "verb": f"doing{index}",
                "score": 0.5,
                "accepted": index % 2 == 0,
                "participants": [{"object": n, "role": "subject"} for n in range(index, count, 2)],
            }
            for index in range(count)
        ],
        relations=[{"source": a, "target": b, "text": "near"} for a in range(count) for b in range(a)],
    )
    svg = draw_graph(read_example(raw).graph)
    nodes = boxes_of(svg, "g-object") + boxes_of(svg, "g-pill")
    root = ElementTree.fromstring(svg)
    for shape in root.iter("ellipse"):
        cx, cy, rx, ry = (float(shape.get(name, "nan")) for name in ("cx", "cy", "rx", "ry"))
        nodes.append((cx - rx, cy - ry, cx + rx, cy + ry))
    assert len(boxes_of(svg, "g-object")) == count
    wide, high = float(root.get("width", "nan")), float(root.get("height", "nan"))
    for index, (left, top, right, bottom) in enumerate(nodes):
        assert left >= 0 and top >= 0 and right <= wide and bottom <= high
        for other in nodes[:index]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_a_graph_shows_scores_roles_and_what_was_not_accepted() -> None:
    raw = example()
    raw["actions"].append({"verb": "ball", "score": None, "accepted": False, "participants": []})
    svg = draw_graph(read_example(raw).graph)
    assert ">0.97<" in svg and ">subject<" in svg and ">with<" in svg and ">brown<" in svg
    assert svg.count('class="g-action off"') == 1
    assert svg.count('class="g-score"') == 1


def test_a_graph_with_indices_that_lead_nowhere_is_drawn_without_them() -> None:
    raw = example(
        attributes=[{"object": 7, "text": "lost"}],
        relations=[{"source": 0, "target": 9, "text": "to"}, {"source": -1, "target": 0, "text": "to"}],
    )
    raw["actions"][0]["participants"] = [{"object": 5, "role": "subject"}, {"object": None, "role": "object"}]
    svg = draw_graph(read_example(raw).graph)
    assert "lost" not in svg and "g-relation" not in svg and "g-role" not in svg


def test_a_graph_without_end_says_what_is_not_drawn() -> None:
    raw = example(objects=[{"text": "thing"}] * 100, actions=[{"verb": "go"}] * 50)
    svg = draw_graph(read_example(raw).graph)
    assert "86 more objects, 38 more actions" in svg
    assert draw_graph(read_example({}).graph) == ""


def test_boxes_are_drawn_in_pixels_of_the_original(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(1600, 800))
    spotted = [
        {"text": "HELLO", "score": score, "box": [[100, 50], [900, 50], [900, 150], [100, 150]]}
        for score in (0.95, 0.6, 0.2)
    ]
    html = draw_image(read_example(example(image=str(path), width=1600, height=800, spotted=spotted)))
    assert 'viewBox="0 0 1600 800"' in html
    assert f'width="{SIDE}" height="180"' in html
    assert 'points="100.0,50.0 900.0,50.0 900.0,150.0 100.0,150.0"' in html
    assert all(f'<g class="{grade}">' in html for grade in ("good", "fair", "poor"))
    assert "<li>" in html


@pytest.mark.parametrize("shape", [(4000, 10), (10, 4000), (1, 1), (200, 100)])
def test_thumbnails_fit_whatever_the_shape(tmp_path: Path, shape: tuple[int, int]) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(jpeg(*shape))
    thumbnail = make_thumbnail(str(path))
    assert max(thumbnail.width, thumbnail.height) <= SIDE
    assert (thumbnail.original_width, thumbnail.original_height) == shape
    assert Image.open(io.BytesIO(thumbnail.data)).format == "JPEG"


def test_a_large_image_is_shown_only_where_that_costs_little_memory() -> None:
    """The driver decodes it: a PNG of a few kB whole, a JPEG at an eighth of its size."""
    with pytest.raises(ImageNotShown, match="5000 x 5000"):
        shrink(flat_png(5000))
    assert shrink(flat_png(3000)).original_width == 3000
    assert shrink(jpeg(6000, 4000)).width == SIDE
    with pytest.raises(ImageNotShown, match="8000 x 8000"):
        shrink(jpeg(8000, 8000))


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", jpeg()[:300], b"\xff\xd8\xff\xe0"])
def test_an_image_that_cannot_be_opened_shows_its_message(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    assert "Image not shown: " in draw_image(read_example(example(image=str(path))))


@pytest.mark.parametrize("source", ["/nowhere/a.jpg", "/dev/zero", "a\0b", "data:image/jpeg,abc", "data:;base64,%%%"])
def test_an_image_that_is_not_there_has_a_reason(source: str) -> None:
    with pytest.raises(ImageNotShown):
        make_thumbnail(source)


def test_boxes_that_are_not_numbers_are_left_out() -> None:
    raw = example(spotted=[{"text": "x", "score": float("nan"), "box": [[0, float("nan")], [1, "b"], [2], None]}])
    assert read_example(raw).spotted[0].box == ()


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({0: 1, 2: 3}, [("0", 1), ("1", 0), ("2", 3)]),
        ({3: 1}, [("0", 0), ("1", 0), ("2", 0), ("3", 1)]),
    ],
)
def test_few_values_are_columns_of_their_own(counts: dict[int, int], expected: list[tuple[str, int]]) -> None:
    assert bin_counts(counts) == expected


@pytest.mark.parametrize("high", [16, 17, 99, 10_000_000])
def test_many_values_become_ranges_that_lose_nothing(high: int) -> None:
    counts = {0: 5, 1: 2, high: 4}
    columns = bin_counts(counts)
    assert sum(count for _, count in columns) == 11
    assert columns[0] == ("0", 5)
    assert len(columns) <= 17


def test_shares_are_words_where_numbers_would_mislead() -> None:
    assert percent(None) == "n/a"
    assert percent(0.0001) == "&lt; 0.1 %"
    assert percent(0.0) == "0.0 %"
    assert percent(1.0) == "100.0 %"


def test_wrong_kinds_become_empty() -> None:
    run = read_funnel({"rows_in": "12", "kept": None, "steps": [3, {"rejected": "x"}], "examples": {"kept": [1, {}]}})
    assert (run.rows_in, run.kept, len(run.steps), len(run.examples["kept"])) == (12, 0, 1, 1)
