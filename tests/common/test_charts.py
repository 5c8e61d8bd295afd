"""Charts say all that was measured, keep their labels apart, and a file of one is SVG that any
viewer reads."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.common.html.charts import (
    HIGH,
    WIDE,
    Point,
    Series,
    apart,
    bar,
    bin_counts,
    histogram,
    interval_bar,
    line_chart,
    svg_file,
)
from open_diht.common.html.text import text_width
from tests.common.html_tags import HOSTILE, Tags

LINES = [
    Series("up", (Point(1, -3, -4, -2), Point(4, 5, 4, 7))),
    Series("down & <out>", (Point(1, -3, -9, -1), Point(4, 5.1, 5, 6))),
]


def test_all_points_and_names_are_in_the_picture() -> None:
    found = ElementTree.fromstring(svg_file(line_chart("Title", "k", "points", LINES, (1, 2, 4))))
    name = "{http://www.w3.org/2000/svg}"
    dots = found.findall(f".//{name}circle")
    assert len(dots) == 4
    assert all(
        0 < float(dot.attrib["cx"]) < WIDE and 0 < float(dot.attrib["cy"]) < HIGH for dot in dots
    )
    texts = [text.text for text in found.findall(f".//{name}text")]
    assert {"Title", "k (logarithmic)", "points", "up", "down & <out>", "1", "2", "4", "0"} <= set(
        texts
    )


def test_a_long_name_makes_room_for_itself() -> None:
    name = "injected, against random of the same size"
    svg = line_chart("Title", "k", "points", [Series(name, LINES[0].points)], (1, 4))
    begin = float(re.search(rf'x="([\d.]+)" y="[\d.]+">{name}<', svg)[1])  # type: ignore[index]
    assert begin + text_width(name, 12) <= WIDE
    assert max(float(x) for x in re.findall(r'cx="([\d.]+)"', svg)) < begin


@pytest.mark.parametrize("count", [1, 3, 9])
def test_names_at_the_ends_do_not_cover_each_other(count: int) -> None:
    lines = [
        Series(f"line {number}", (Point(1, 5, 5, 5), Point(2, 5, 5, 5))) for number in range(count)
    ]
    svg = line_chart("Title", "k", "points", lines, (1, 2), zero=False)
    heights = sorted(float(y) for y in re.findall(r'y="([\d.]+)">line', svg))
    assert len(heights) == count and all(
        after - before >= 14.9 for before, after in pairwise(heights)
    )


def test_the_line_at_zero_is_shown_where_it_is_asked_for() -> None:
    high = [Series("high", (Point(1, 70, 69, 71),))]
    assert ">0</text>" in line_chart("Title", "k", "points", high, (1,))
    assert ">0</text>" not in line_chart("Title", "k", "points", high, (1,), zero=False)


def test_large_numbers_have_their_size_as_a_letter() -> None:
    line = Series("a run", (Point(17_408, 0, 0, 0), Point(1.28e10, 4.38e8, 4.38e8, 4.38e8)))
    chart = line_chart("Title", "samples seen", "worth", [line], (500, 17_408, 2e6, 1.28e10))
    texts = re.findall(r">([^<>]+)</text>", chart)
    assert {"500", "17.408k", "2M", "12.8B", "100M", "400M"} <= {*texts}
    assert "a run, 12.8B: 438,000,000.0 [" in chart


def test_a_chart_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no points"):
        line_chart("Title", "k", "points", [], (1, 2))


def test_hostile_words_are_text() -> None:
    chart = line_chart(HOSTILE, HOSTILE, HOSTILE, [Series(HOSTILE, (Point(1, 1, 1, 1),))], (1,))
    for drawn in (chart, histogram(HOSTILE, HOSTILE, [(HOSTILE, 1)])):
        page = Tags(drawn)
        assert page.open == [] and not {"script", "img"} & {tag for tag, _ in page.tags}


def test_bars_stay_inside() -> None:
    assert "left:100.00%" in interval_bar(1.0, 0.99, 1.0, None)
    assert "left:0.00%;width:1.00%" in interval_bar(-0.02, -0.05, 0.01, None)
    assert "chance" not in interval_bar(0.5, None, None, None)
    assert re.findall(r' width="([\d.]+)"', bar([("left", 0.7), ("took", 0.9), ("dead", -1)])) == [
        "70.000",
        "30.000",
    ]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({0: 1, 2: 3}, [("0", 1), ("1", 0), ("2", 3)]),
        ({3: 1}, [("0", 0), ("1", 0), ("2", 0), ("3", 1)]),
    ],
)
def test_few_values_are_columns_of_their_own(
    counts: dict[int, int], expected: list[tuple[str, int]]
) -> None:
    assert bin_counts(counts) == expected


@pytest.mark.parametrize("high", [16, 17, 99, 10_000_000])
def test_many_values_become_ranges_that_lose_nothing(high: int) -> None:
    columns = bin_counts({0: 5, 1: 2, high: 4})
    assert sum(count for _, count in columns) == 11
    assert columns[0] == ("0", 5)
    assert len(columns) <= 17


@given(st.lists(st.floats(0, 200), max_size=8))
def test_labels_keep_their_order_and_their_distance(heights: list[float]) -> None:
    placed = apart(heights, 15.0, 200.0)
    order = sorted(range(len(heights)), key=lambda place: heights[place])
    assert all(placed[here] - placed[before] >= 15 - 1e-9 for before, here in pairwise(order))
    assert all(height <= 200 for height in placed)
    assert apart([100.0, 20.0, 60.0], 15.0, 200.0) == [100.0, 20.0, 60.0]
