"""Charts are SVG that any viewer reads, with everything inside."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from open_diht.study.charts import HIGH, WIDE, Point, Series, line_chart

LINES = [
    Series("up", (Point(1, -3, -4, -2), Point(4, 5, 4, 7))),
    Series("down & <out>", (Point(1, -3, -9, -1), Point(4, 5.1, 5, 6))),
]


def test_all_points_and_names_are_in_the_picture() -> None:
    found = ElementTree.fromstring(line_chart("Title", "k", "points", LINES, (1, 2, 4)))
    name = "{http://www.w3.org/2000/svg}"
    dots = found.findall(f".//{name}circle")
    assert len(dots) == 4
    assert all(0 < float(dot.attrib["cx"]) < WIDE and 0 < float(dot.attrib["cy"]) < HIGH for dot in dots)
    said = [text.text for text in found.findall(f".//{name}text")]
    assert {"Title", "k", "points", "up", "down & <out>", "1", "2", "4", "0"} <= set(said)


def test_names_at_the_ends_do_not_cover_each_other() -> None:
    svg = line_chart("Title", "k", "points", LINES, (1, 2, 4))
    heights = sorted(float(y) for y in re.findall(r'<text x="553.0" y="([\d.]+)"', svg))
    assert len(heights) == 2 and heights[1] - heights[0] >= 14.9


def test_a_chart_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no points"):
        line_chart("Title", "k", "points", [], (1, 2))
