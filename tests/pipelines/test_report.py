"""The report: complete, self-contained, and safe to open whatever the captions say."""

import io
import os
import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from open_diht.common.html.text import TextSpan, anchor, attribute, marked, percent, plain
from open_diht.pipelines.report.card import draw_card
from open_diht.pipelines.report.example import Example
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.report.graph import draw_graph
from open_diht.pipelines.report.page import MAX_EXAMPLES, render_report
from open_diht.pipelines.report.thumbnail import SIDE, ImageNotShown, shrink
from tests.common.hostile_images import encode, flat_png
from tests.common.html_tags import HOSTILE, Tags
from tests.pipelines.results import funnel


def jpeg(width: int = 800, height: int = 400) -> bytes:
    return encode(Image.new("RGB", (width, height), (40, 90, 120)), "JPEG")


def example(**changes: Any) -> Example:
    caption = "A brown dog catching a red ball"
    found: dict[str, Any] = {
        "uid": "ab" * 16, "caption": caption, "parsed": caption,
        "objects": [{"text": "dog", "start": 8, "end": 11},
                    {"text": "ball", "start": 27, "end": 31}],
        "attributes": [
            {"object": index, "text": text, "kind": "colour", "score": 0.5}
            for index, text in enumerate(("brown", "red"))
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
        "relations": [{"source": 0, "target": 1, "text": "with", "score": 0.25}], "complexity": 2,
        "image": None, "width": 0, "height": 0, "spotted": [], "overlap": None, "overlap_text": "",
        "overlap_span": None, "measured": {}, "message": "", **changes,
    }  # fmt: skip
    return found  # type: ignore[return-value]


def report(
    examples: dict[str, list[Example]] | None = None, run: FunnelRecord | None = None
) -> str:
    return render_report(run or funnel(), examples or {}, notes=["A note."])


ALL = {"action": [example()], "kept": [example()], "dead_letter": [example(message="truncated")]}


def test_the_page_has_every_section_and_is_well_formed() -> None:
    page = report(ALL)
    assert Tags(page).open == []
    assert "Of 1,298 rows, <b>200 were kept</b>: a rate of 15.4 %." in page
    for text in (
        "Funnel",
        "What the steps mean",
        "Distributions",
        "Rejected: ",
        "Dead letter",
        "A note.",
        "Kept",
    ):
        assert text in page
    for name in ("action", "kept", "dead_letter"):
        assert f'id="{anchor(name)}"' in page
    assert (
        "1 file or unit " in page
        and "open_diht.pipelines.verify" in page
        and "do not add up" not in page
    )


@pytest.mark.parametrize(
    "names", [(), ("action",), ("action", "kept", "dead_letter", "unheard of")]
)
def test_every_link_has_its_target(names: tuple[str, ...]) -> None:
    tags = Tags(report({name: [example()] for name in names})).tags
    ids = {attrs["id"] for _, attrs in tags if "id" in attrs}
    assert {str(attrs["href"])[1:] for tag, attrs in tags if tag == "a"} == ids


def test_an_empty_run_has_a_report() -> None:
    page = report(run=funnel(rows_in=0, kept=0, steps=[], rejected={}, histograms={}))
    assert Tags(page).open == []
    assert "No rows came in" in page and page.count("Not measured.") == 3


def test_counts_that_do_not_add_up_are_said() -> None:
    assert "+5 rows are unaccounted for" in report(run=funnel(rows_in=1303))


def everywhere_hostile() -> str:
    one = example(
        caption=HOSTILE,
        parsed=HOSTILE + "x",
        uid=HOSTILE,
        objects=[{"text": HOSTILE, "start": 0, "end": 5}],
        attributes=[{"object": 0, "text": HOSTILE, "kind": HOSTILE, "score": 1,
                     "reasons": [(HOSTILE, -1.5)]}],
        actions=[
            {
                "verb": HOSTILE, "start": 0, "end": 4, "score": 0.1, "accepted": False,
                "participants": [{"object": 0, "role": HOSTILE}], "reasons": [(HOSTILE, 2.0)],
            }
        ],
        relations=[{"source": 0, "target": 0, "text": HOSTILE, "score": 1,
                    "reasons": [(HOSTILE, 1)]}],
        image=jpeg(),
        spotted=[{"text": HOSTILE, "score": 0.9, "box": [[0, 0], [9, 0], [9, 9], [0, 9]]}],
        overlap=8,
        overlap_text=HOSTILE,
        overlap_span=(0, 8),
        measured={HOSTILE: 1.0},
        message=HOSTILE,
    )  # fmt: skip
    run = funnel(
        dataset=HOSTILE,
        preset=HOSTILE,
        stages=[HOSTILE],
        steps=[
            {
                "stage": HOSTILE,
                "reason": HOSTILE,
                "explanation": HOSTILE,
                "rejected": 1000,
                "left": 298,
            }
        ],
        rejected={HOSTILE: 1094},
        dead_letter={"rows": 4, "units": 0, "by_error": {HOSTILE: 4}, "first": HOSTILE},
        histograms={HOSTILE: {"0": 1}},
        columns={HOSTILE: {"labels": {"0": HOSTILE}, "thresholds": [0]}},
        seconds={HOSTILE: 1.0},
    )
    examples = {
        HOSTILE: [one, example(image=HOSTILE.encode("utf-8", "replace"))],
        "kept": [one],
        "dead_letter": [one],
    }
    return render_report(run, examples, notes=[HOSTILE])


def test_hostile_text_is_shown_and_does_nothing() -> None:
    page = everywhere_hostile()
    parsed = Tags(page)
    assert parsed.open == []
    assert not {"script", "img", "iframe", "object", "link", "foreignobject"} & {
        tag for tag, _ in parsed.tags
    }
    assert not [name for _, attrs in parsed.tags for name in attrs if name.startswith("on")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not set(page) & set("\u202e\u202c\x00\ud800")
    assert "U+202E" in page


def test_what_the_verifier_went_by_stands_for_and_against() -> None:
    one = example()
    one["actions"][0]["reasons"] = [("said of dog", 1.31), ("title case", -0.52)]
    one["attributes"][0]["reasons"] = [("group colour", 0.7)]
    one["relations"][0]["reasons"] = [("with noun", -0.2)]
    page = draw_card(one)
    words = re.sub(
        r"<[^>]+>", "|", page[page.index('<details class="beliefs">') :].split("</details>")[0]
    )
    cells = [cell.strip() for cell in words.split("|") if cell.strip()]
    assert cells[cells.index("catching") :] == [
        *("catching", "0.97", "said of dog", "+1.3", "title case", "-0.5"),
        *("brown, of dog", "0.50", "group colour", "+0.7"),
        *("dog with ball", "0.25", "with noun", "-0.2"),
    ]


def test_an_example_without_reasons_says_nothing_of_them() -> None:
    assert "beliefs" not in draw_card(example())


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = everywhere_hostile()
    assert "default-src 'none'" in page
    for tag, attrs in Tags(page).tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            value = attrs.get(name)
            assert value is None or value.startswith(("#", "data:image/jpeg;base64,")), (tag, value)
    assert not re.search(r"url\(|@import|https?://", page)


def test_examples_and_their_size_are_bounded() -> None:
    noise = encode(
        Image.frombytes("RGB", (700, 700), os.urandom(3 * 700 * 700)), "JPEG", quality=95
    )
    many = [example(image=noise, caption="word " * 50_000, parsed="word " * 50_000)] * 40
    page = report({"kept": many})
    assert page.count('<article class="card">') == MAX_EXAMPLES + 1  # and the legend
    assert len(page) < 3_000_000


def test_the_overlap_is_marked_in_the_original_caption() -> None:
    card = draw_card(example(parsed="other text", overlap=5, overlap_span=(2, 7)))
    assert "A <mark>brown</mark> dog" in card and "parsed as" in card
    assert "parsed as" not in draw_card(example())


def test_marks_survive_overlapping_and_wrong_spans() -> None:
    html = marked(
        "abc<d",
        [
            TextSpan(0, 2, "t-object"),
            TextSpan(1, 5, "overlap"),
            TextSpan(-1, 3, "x"),
            TextSpan(3, 99, "x"),
        ],
    )
    inside = html.removeprefix('<bdi dir="auto">').removesuffix("</bdi>")
    assert re.sub(r"<[^>]+>", "", inside) == "abc&lt;d"
    assert html.count("<mark>") == 2 and "x" not in inside


def test_a_long_caption_is_cut_around_its_overlap() -> None:
    html = marked("x" * 5000 + "NEEDLE" + "y" * 5000, [TextSpan(5000, 5006, "overlap")], limit=200)
    assert "<mark>NEEDLE</mark>" in html and len(html) < 400
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
    graph = example(
        objects=[
            {"text": f"object number {index}", "start": 0, "end": 1} for index in range(count)
        ],
        attributes=[
            {"object": index, "text": f"attribute{n}"}
            for index in range(count)
            for n in range(index % 6)
        ],
        actions=[
            {
                "verb": f"doing{index}",
                "score": 0.5,
                "accepted": index % 2 == 0,
                "participants": [{"object": n, "role": "subject"} for n in range(index, count, 2)],
            }
            for index in range(count)
        ],
        relations=[
            {"source": a, "target": b, "text": "near"} for a in range(count) for b in range(a)
        ],
    )
    svg = draw_graph(graph)
    nodes = boxes_of(svg, "g-object") + boxes_of(svg, "g-pill")
    root = ElementTree.fromstring(svg)
    for shape in root.iter("ellipse"):
        cx, cy, rx, ry = (float(shape.get(name, "nan")) for name in ("cx", "cy", "rx", "ry"))
        nodes.append((cx - rx, cy - ry, cx + rx, cy + ry))
    assert len(boxes_of(svg, "g-object")) == count
    wide = float(root.get("width", "nan"))
    high = float(root.get("height", "nan"))
    for index, (left, top, right, bottom) in enumerate(nodes):
        assert left >= 0 and top >= 0 and right <= wide and bottom <= high
        for other in nodes[:index]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top


def test_a_graph_shows_scores_roles_and_what_was_not_accepted() -> None:
    graph = example()
    graph["actions"].append(
        {"verb": "ball", "start": 0, "end": 1, "score": 0.04, "accepted": False, "participants": []}
    )
    svg = draw_graph(graph)
    assert ">0.97<" in svg and ">subject<" in svg and ">with<" in svg and ">brown<" in svg
    assert svg.count('class="g-action off"') == 1 and svg.count('class="g-score"') == 2


def test_a_graph_with_indices_that_lead_nowhere_is_drawn_without_them() -> None:
    graph = example(
        attributes=[{"object": 7, "text": "lost"}],
        relations=[
            {"source": 0, "target": 9, "text": "to"},
            {"source": -1, "target": 0, "text": "to"},
        ],
    )
    graph["actions"][0]["participants"] = [
        {"object": 5, "role": "subject"},
        {"object": -1, "role": "object"},
    ]
    svg = draw_graph(graph)
    assert "lost" not in svg and "g-relation" not in svg and "g-role" not in svg


def test_a_graph_without_end_says_what_is_not_drawn() -> None:
    go = {"verb": "go", "score": 0.5, "accepted": True, "participants": []}
    svg = draw_graph(example(objects=[{"text": "thing"}] * 100, actions=[go] * 50))
    assert "86 more objects, 38 more actions" in svg
    assert draw_graph(example(objects=[], actions=[])) == ""


def test_boxes_are_drawn_in_pixels_of_the_original() -> None:
    spotted = [
        {"text": "HELLO", "score": score, "box": [[100, 50], [900, 50], [900, 150], [100, 150]]}
        for score in (0.95, 0.6, 0.2)
    ]
    html = draw_card(example(image=jpeg(1600, 800), width=1600, height=800, spotted=spotted))
    assert 'viewBox="0 0 1600 800"' in html and f'width="{SIDE}" height="180"' in html
    assert 'points="100.0,50.0 900.0,50.0 900.0,150.0 100.0,150.0"' in html
    assert all(f'<g class="{grade}">' in html for grade in ("good", "fair", "poor"))
    assert "<li>" in html


def test_beside_a_masked_score_the_image_is_shown_without_its_text() -> None:
    image = Image.new("RGB", (720, 360), (10, 120, 200))
    image.paste((255, 255, 255), (100, 100, 500, 200))
    content = encode(image, "PNG")
    # In pixels of the original, twice as large.
    box = [
        [180, 180],
        [1020, 180],
        [1020, 420],
        [180, 420],
    ]
    spotted = [{"text": "HELLO", "score": 0.9, "box": box}]
    given = {"image": content, "width": 1440, "height": 720, "spotted": spotted}
    for area, shown in ((0.19, 1), (0.0, 0), (None, 0)):
        html = draw_card(example(**given, measured={"masked_score": 0.3, "text_area": area}))
        assert html.count('alt="image of the row without its text"') == shown
    masked = np.asarray(Image.open(io.BytesIO(shrink(content, [box], (1440, 720)).data)))
    assert (abs(masked.astype(int) - [10, 120, 200]) <= 3).all(), "but for what JPEG does"


@pytest.mark.parametrize("shape", [(4000, 10), (10, 4000), (1, 1), (200, 100)])
def test_thumbnails_fit_whatever_the_shape(shape: tuple[int, int]) -> None:
    thumbnail = shrink(jpeg(*shape))
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


@pytest.mark.parametrize(
    "content", [b"", b"<html>not found</html>", jpeg()[:300], b"\xff\xd8\xff\xe0"]
)
def test_an_image_that_cannot_be_read_says_why(content: bytes) -> None:
    assert "Image not shown: " in draw_card(example(image=content))


def test_shares_are_words_where_numbers_would_mislead() -> None:
    assert percent(None) == "n/a"
    assert percent(0.0001) == "< 0.1 %"
    assert percent(0.0) == "0.0 %"
    assert percent(1.0) == "100.0 %"
