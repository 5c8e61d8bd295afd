"""Where the detector looks again, and which lines of the two looks count."""

from dataclasses import replace

import numpy as np
import pytest

from open_diht.filters.spotting.ocr.arcs import Arc
from open_diht.filters.spotting.ocr.detection import STRIDE
from open_diht.filters.spotting.ocr.faint import Found, Region, faint_region, merge, moved
from open_diht.filters.spotting.settings import SpotterSettings

SETTINGS = SpotterSettings(effort="low")
SIZE = (192, 256)  # of the map, and of the image


def text_map(*patches: tuple[int, int, int, int, float]) -> np.ndarray:
    """A map with patches (left, top, right, bottom, probability)."""
    probabilities = np.zeros(SIZE, np.float32)
    for left, top, right, bottom, probability in patches:
        probabilities[top:bottom, left:right] = probability
    return probabilities


def box(left: int, top: int, right: int, bottom: int) -> Found:
    return np.array(((left, top), (right, top), (right, bottom), (left, bottom)), np.int32), None


def region(
    probabilities: np.ndarray, *found: Found, settings: SpotterSettings = SETTINGS
) -> Region | None:
    return faint_region(probabilities, SIZE, [line for line, _ in found], settings)


def test_faint_pixels_outside_of_lines_are_looked_at_again_in_pixels_of_the_image():
    """Up to twice as large, with a margin of 16 pixels; the sides are whole strides."""
    found = region(text_map((100, 80, 140, 88, 0.15)))
    assert found == Region((84, 64, 156, 104), height=64, width=128)
    assert found.height % STRIDE == found.width % STRIDE == 0
    found = faint_region(text_map((100, 80, 140, 88, 0.15)), (384, 768), [], SETTINGS)
    assert found is not None and found.box == (252, 128, 468, 208)


@pytest.mark.parametrize(
    ("probabilities", "lines"),
    [
        (text_map(), []), (text_map((100, 80, 140, 88, 0.05)), []),
        (text_map((100, 80, 103, 83, 0.9)), []),
        (text_map((60, 60, 160, 80, 0.9)), [box(50, 50, 170, 90)]),
        (text_map((0, 0, 256, 192, 0.15)), []),
    ],
    ids=["nothing", "too faint", "a speck", "a large line", "all of it"],
)  # fmt: skip
def test_no_second_look(probabilities, lines):
    settings = replace(SETTINGS, limit_side=256)  # nothing that fills the image can be enlarged
    assert region(probabilities, *lines, settings=settings) is None


def test_thin_lines_are_looked_at_again_because_parts_may_be_missing():
    assert region(text_map(), box(60, 60, 160, 100)) is None
    found = region(text_map(), box(60, 60, 160, 70))
    assert found is not None and found.box == (44, 44, 177, 87)


def test_a_region_is_enlarged_to_the_limit_at_most_and_can_be_turned_off():
    everything = text_map((0, 0, 256, 192, 0.15))
    assert region(everything) == Region((0, 0, 256, 192), height=288, width=384)
    assert region(everything, settings=replace(SETTINGS, enlarge_faint=1)) is None


def test_another_detector_sees_more_around_the_places_and_what_cannot_be_enlarged():
    closer = replace(SETTINGS, limit_side=256, closer="small")
    found = region(text_map((100, 80, 140, 88, 0.15)), settings=closer)
    assert found is not None and found.box == (52, 32, 188, 136)
    everything = text_map((0, 0, 256, 192, 0.15))
    assert region(everything, settings=closer) == Region((0, 0, 256, 192), height=192, width=256)
    for off in (
        replace(closer, enlarge_faint=1),
        replace(closer, closer="tiny"),
    ):
        # The same as `model`.
        assert region(everything, settings=off) is None


def test_of_a_line_found_twice_the_closer_look_counts_and_of_a_piece_the_first():
    line = box(10, 10, 90, 30)
    again = box(12, 11, 95, 29)
    other = box(10, 60, 90, 80)
    # The middle of either lies in the other.
    piece = box(30, 61, 72, 79)
    new = box(100, 100, 150, 120)
    merged = merge([line, other], [again, piece, new])
    assert [one[0].tolist() for one in merged] == [one[0].tolist() for one in (other, again, new)]


def test_lines_of_a_region_are_moved_to_their_place_in_the_image():
    quad, arc = moved((box(1, 2, 3, 4)[0], Arc((5.0, 6.0), 7.0, 1.0, 0.0, 1.0)), 10, 20)
    assert quad.tolist() == [[11, 22], [13, 22], [13, 24], [11, 24]]
    assert arc == Arc((15.0, 26.0), 7.0, 1.0, 0.0, 1.0)
    assert moved(box(1, 2, 3, 4), 10, 20)[1] is None
