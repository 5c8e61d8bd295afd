"""Letters that stand one below the other make up a word; lines of text do not."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from open_diht.filters.spotting.ocr.detection import Quad
from open_diht.filters.spotting.ocr.stacked import Column, find_columns, lay_out, says_a_word

LETTER = (30, 40)  # width and height


def box(left: int, top: int, size: tuple[int, int] = LETTER) -> Quad:
    right = left + size[0]
    bottom = top + size[1]
    return np.array(((left, top), (right, top), (right, bottom), (left, bottom)), np.int32)


def column(count: int, left: int = 100, pitch: int = 50) -> list[Quad]:
    return [box(left, 10 + pitch * index) for index in range(count)]


def parts(boxes: list[Quad]) -> list[tuple[int, ...]]:
    return [found.parts for found in find_columns(boxes)]


def test_boxes_one_below_the_other_are_a_column_from_top_to_bottom():
    (found,) = find_columns(column(5)[::-1])
    assert found.parts == (4, 3, 2, 1, 0)
    assert (found.left, found.top, found.right, found.bottom) == (100, 10, 130, 250)
    assert found.corners.tolist() == [[100, 10], [130, 10], [130, 250], [100, 250]]


def test_letters_that_were_overlooked_leave_a_gap_that_is_bridged():
    boxes = column(6)
    assert parts([boxes[0], boxes[3]]) == [] and parts(
        [boxes[0], boxes[1], boxes[3], boxes[5]]
    ) == [(0, 1, 2, 3)]


def test_neighbouring_columns_stay_apart():
    assert parts([*column(4), *column(4, left=200)]) == [(0, 1, 2, 3), (4, 5, 6, 7)]


@pytest.mark.parametrize(
    "boxes",
    [
        column(2, pitch=34), [box(100, 10 + 50 * index, (200, 40)) for index in range(6)],
        [box(100 + 60 * index, 10 + 50 * index) for index in range(6)],
        [box(100, 10 + 200 * index) for index in range(6)], [],
    ],
    ids=["too short", "lines of a page", "a staircase", "far apart", "none"],
)  # fmt: skip
def test_what_is_no_column(boxes):
    assert parts(boxes) == []


def test_one_tall_box_may_be_a_column():
    assert parts([box(10, 10, (30, 200))]) == [(0,)]


def stacked(word: str) -> np.ndarray:  # type: ignore[type-arg]
    image = Image.new("RGB", (60, 60 * len(word)), "white")
    for index, letter in enumerate(word):
        ImageDraw.Draw(image).text(
            (30, 30 + 60 * index), letter, "black", ImageFont.load_default(44), anchor="mm"
        )
    return np.asarray(image)


@pytest.mark.parametrize("word", ["HOTELS", "divide"])
def test_letters_are_laid_side_by_side(word):
    """As many patches of ink, beside each other, as the word has letters; the dot of an i is no
    letter."""
    pixels = stacked(word)
    (found,) = find_columns([box(0, 0, (60, 60 * len(word)))])
    line = lay_out(pixels, found)
    assert line is not None
    height, width = line.shape[:2]
    assert height < 60 and width < 60 * len(word)
    inked = (line.min(axis=2) < 128).any(axis=0)
    assert np.count_nonzero(np.diff(inked.astype(int), prepend=0) == 1) == len(word)


@pytest.mark.parametrize("word", ["I", "NO"])
def test_too_few_letters_are_not_laid_out(word):
    assert lay_out(stacked(word), Column((0,), 0, 0, 60, 60 * len(word))) is None


def test_an_empty_strip_has_no_letters():
    (found,) = find_columns([box(0, 0, (30, 200))])
    assert lay_out(np.full((300, 100, 3), 200, np.uint8), found) is None


def test_which_texts_are_words():
    assert says_a_word("H0TEL")
    assert not says_a_word("A-B-C")
