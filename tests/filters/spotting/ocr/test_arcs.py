"""A circle through a band of text pixels, and the band unrolled."""

import math

import numpy as np
import pytest

from open_diht.filters.spotting.ocr.arcs import Arc, box_of, find_arc, unroll
from open_diht.filters.spotting.ocr.detection import find_contours, text_box
from open_diht.filters.spotting.ocr.lines import HEIGHT
from open_diht.filters.spotting.settings import SpotterSettings

SIZE = 300
CENTRE = (150.0, 160.0)
RADIUS = 100.0
THICKNESS = 10.0
SETTINGS = SpotterSettings()


def polar() -> tuple[np.ndarray, np.ndarray]:
    """Distance from the center and angle of every pixel."""
    down, across = np.mgrid[:SIZE, :SIZE].astype(float)
    return np.hypot(across - CENTRE[0], down - CENTRE[1]), np.arctan2(
        down - CENTRE[1], across - CENTRE[0]
    )


def band(middle: float, half: float, probability: float = 0.9) -> np.ndarray:
    """A map with a band of text pixels along the circle, around an angle."""
    distance, angle = polar()
    turn = np.abs((angle - middle + math.pi) % (2 * math.pi) - math.pi)
    return np.where(
        (np.abs(distance - RADIUS) < THICKNESS / 2) & (turn < half), probability, 0
    ).astype(np.float32)


def found(probabilities: np.ndarray, scale: tuple[float, float] = (1.0, 1.0)) -> Arc | None:
    contour, *_ = find_contours(probabilities, SETTINGS.pixel_threshold)
    return find_arc(contour, probabilities, scale, SETTINGS)


@pytest.mark.parametrize(
    ("middle", "clockwise"),
    [(-math.pi / 2, True), (math.pi / 2, False), (-2.0, True), (1.0, False)],
)
def test_an_arc_is_found_where_no_straight_line_is(middle, clockwise):
    probabilities = band(middle, 1.0)
    (contour,) = find_contours(probabilities, SETTINGS.pixel_threshold)
    assert text_box(contour, probabilities, SETTINGS) is None
    arc = found(probabilities)
    assert arc is not None
    assert arc.center == pytest.approx(CENTRE, abs=5) and arc.radius == pytest.approx(RADIUS, abs=5)
    assert THICKNESS < arc.thickness < 3 * THICKNESS, (
        "letters reach beyond the core that the detector marks"
    )
    assert (arc.stop > arc.start) is clockwise, (
        "the upper half is read clockwise, the lower one counter-clockwise"
    )
    assert abs(arc.stop - arc.start) == pytest.approx(2.0, abs=0.3)


def test_pixels_of_the_image_count_where_the_map_is_smaller():
    arc = found(band(-math.pi / 2, 1.0), (2.0, 2.0))
    assert arc is not None
    assert arc.center == pytest.approx((300, 320), abs=10) and arc.radius == pytest.approx(
        200, abs=10
    )


@pytest.mark.parametrize(
    "probabilities",
    [
        band(0.0, 1.0, 0.5),
        band(0.0, 0.15),
        np.pad(np.full((20, 200), 0.9, np.float32), ((20, 260), (20, 80))),
    ],
    ids=["unsure", "short", "straight"],
)
def test_what_is_no_arc(probabilities):
    assert found(probabilities) is None


@pytest.mark.parametrize(
    ("start", "stop"), [(-2.5, -0.6), (2.5, 0.6)], ids=["upper half", "lower half"]
)
def test_an_unrolled_arc_reads_from_left_to_right(start, stop):
    """Red grows to the right and blue downwards in the image; so they do in the line."""
    pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
    pixels[..., 2] = np.linspace(0, 255, SIZE)
    pixels[..., 0] = np.linspace(0, 255, SIZE)[:, None]
    line = unroll(pixels, Arc(CENTRE, RADIUS, 20.0, start, stop)).astype(int)
    assert line.shape[0] == HEIGHT and line.shape[1] == pytest.approx(
        HEIGHT * 1.9 * RADIUS / 20, abs=1
    )
    assert (np.diff(line[24, :, 2]) >= 0).all()
    middle = line.shape[1] // 2
    assert (np.diff(line[:, middle, 0]) >= 0).all()


def test_its_box_stays_in_the_image():
    box = box_of(Arc(CENTRE, RADIUS, 20.0, -math.pi, 0.0), (200, 300))
    assert box.tolist() == [[40, 50], [200, 50], [200, 160], [40, 160]]
