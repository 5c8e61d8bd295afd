"""From an image to the detector's input, and from its map to boxes."""

import cv2
import numpy as np
import pytest

from open_diht.filters.spotting.ocr.detection import (
    common_shapes,
    detector_input,
    find_contours,
    in_image,
    reading_order,
    score_inside,
    text_box,
)
from open_diht.filters.spotting.ocr.lines import HEIGHT, MAX_WIDTH, cut_line, to_strip
from open_diht.filters.spotting.settings import SpotterSettings


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((768, 512), (384, 256)), ((100, 384), (96, 384)), ((3000, 3), (384, 32)),
        ((1, 1), (32, 32)), ((40, 33), (32, 32)),
    ],
)  # fmt: skip
def test_sides_are_multiples_of_the_stride(size, expected):
    assert detector_input(np.zeros((*size, 3), np.uint8), 384).shape == (1, 3, *expected)


def test_common_shapes_are_those_of_common_images():
    for size in ((512, 512), (600, 800), (640, 480), (800, 533), (1000, 1500)):
        assert detector_input(np.zeros((*size, 3), np.uint8), 384).shape in common_shapes(384)
    assert len(common_shapes(384)) == 5


def test_channels_are_normalized_each_by_its_own():
    pixels = np.full((64, 64, 3), (255, 0, 102), np.uint8)
    planes = detector_input(pixels, 384)[0]
    assert planes[:, 5, 5] == pytest.approx(
        [(1 - 0.485) / 0.229, -0.456 / 0.224, (0.4 - 0.406) / 0.225], abs=1e-5
    )


def text_map(*patches: tuple[int, int, int, int, float]) -> np.ndarray:
    """A map of 100 x 200 with patches (top, bottom, left, right, probability)."""
    probabilities = np.zeros((100, 200), np.float32)
    for top, bottom, left, right, probability in patches:
        probabilities[top:bottom, left:right] = probability
    return probabilities


def boxes(probabilities: np.ndarray) -> list[np.ndarray]:
    settings = SpotterSettings()
    found = (
        text_box(contour, probabilities, settings) for contour in find_contours(probabilities, 0.2)
    )
    return [box for box in found if box is not None]


def test_a_patch_becomes_a_box_grown_to_its_letters():
    """By area x 1.4 / perimeter: (99 x 9) x 1.4 / 216, about 6 pixels a side."""
    (box,) = boxes(text_map((40, 50, 50, 150, 0.9)))
    assert box.tolist() == [[44, 34], [155, 34], [155, 55], [44, 55]]
    assert in_image(box, (200, 100), (400, 100)).tolist() == [
        [88, 34],
        [310, 34],
        [310, 55],
        [88, 55],
    ]
    assert in_image(box - 50, (200, 100), (400, 100)).min() == 0, "corners stay in the image"


@pytest.mark.parametrize(
    "patch", [(40, 50, 50, 150, 0.4), (40, 42, 50, 150, 0.9)], ids=["unlikely", "too thin"]
)
def test_patches_that_are_no_text(patch):
    assert boxes(text_map(patch)) == []


def test_the_score_is_the_mean_inside():
    probabilities = text_map((0, 10, 0, 10, 1.0))
    assert score_inside(probabilities, np.array([[0, 0], [9, 0], [9, 9], [0, 9]])) == pytest.approx(
        1.0
    )
    assert score_inside(
        probabilities, np.array([[0, 0], [19, 0], [19, 9], [0, 9]])
    ) == pytest.approx(0.5)
    assert 0 < score_inside(probabilities, np.array([[-5, -5], [9, -5], [9, 9], [-5, 9]])) <= 1, (
        "also at the border"
    )


def test_reading_order_takes_what_stands_on_one_line_from_left_to_right():
    starts = [(90, 52), (10, 55), (50, 100), (40, 20)]
    quads = [np.array([start, start, start, start]) for start in starts]
    assert [starts[index] for index in reading_order(quads)] == [
        (40, 20),
        (10, 55),
        (90, 52),
        (50, 100),
    ]


def test_lines_are_cut_and_tall_ones_turned():
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[10:20, 10:60] = 200  # wide
    pixels[30:90, 70:80, 0] = np.arange(60)[:, None]  # tall, brighter downwards
    wide, turned = cut_line(pixels, np.array([[10, 10], [60, 10], [60, 20], [10, 20]], np.int32))
    assert wide.shape == (10, 50, 3) and not turned and (wide == 200).all()
    tall, turned = cut_line(pixels, np.array([[70, 30], [80, 30], [80, 90], [70, 90]], np.int32))
    assert tall.shape == (10, 60, 3) and turned
    assert (np.diff(tall[5, :, 0].astype(int)) > 0).all(), (
        "text that reads downwards reads to the right now"
    )
    assert cut_line(pixels, np.zeros((4, 2), np.int32))[0].size == 0


@pytest.mark.parametrize(("length", "thickness"), [(400, 200), (150, 400)])
def test_large_boxes_that_lean_are_cut_at_twice_the_height_of_a_strip(length, thickness):
    across = np.array((0.96, 0.28))
    down = np.array((-0.28, 0.96))
    start = np.array((150, 20))
    corners = [
        start,
        start + length * across,
        start + length * across + thickness * down,
        start + thickness * down,
    ]
    image = np.zeros((700, 700, 3), np.uint8)
    cv2.fillPoly(
        image,
        [np.array(corners[:2] + [(a + b) / 2 for a, b in (corners[1:3], corners[3::-3])], int)],
        (200,) * 3,
    )
    crop, turned = cut_line(image, np.array(corners, np.int32))
    assert turned == (thickness > length)
    assert min(crop.shape[:2]) == 2 * HEIGHT
    assert crop.shape[1] / crop.shape[0] == pytest.approx(
        max(length, thickness) / min(length, thickness), rel=0.02
    )
    upright = np.rot90(crop, -1) if turned else crop
    height, width = upright.shape[:2]
    assert (upright[5 : height // 2 - 5, 5 : width - 5, 0] == 200).all()
    assert (upright[height // 2 + 5 :, :, 0] == 0).all()


def test_strips_have_one_height_and_keep_their_proportions():
    assert to_strip(np.zeros((24, 50, 3), np.uint8)).shape == (HEIGHT, 100, 3)
    assert to_strip(np.zeros((2, 900, 3), np.uint8)).shape == (HEIGHT, MAX_WIDTH, 3)
