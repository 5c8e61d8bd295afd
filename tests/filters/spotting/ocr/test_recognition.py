"""Lines in batches of fixed widths, and what the classes of the steps spell."""

from itertools import pairwise

import numpy as np
import pytest

from open_diht.filters.spotting.ocr.lines import HEIGHT, MAX_WIDTH
from open_diht.filters.spotting.ocr.recognition import WIDTHS, decode, padded_width, read_strips


def steps(*classes: int, of: int = 4, sure: float = 0.7) -> np.ndarray:
    """Probabilities (steps, classes) with these classes the likeliest."""
    rest = (1 - sure) / (of - 1)
    return np.array(
        [[sure if index == one else rest for index in range(of)] for one in classes], np.float32
    )


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        ((1, 2, 3), "abc"),
        ((1, 1, 0, 1), "aa"),
        ((0, 2, 2, 2, 0), "b"),
        ((0, 0), ""),
        ((3, 3, 1), "ca"),
    ],
)
def test_repetitions_and_blanks_are_dropped(classes, text):
    assert decode(steps(*classes), "abc")[0] == text


def test_the_score_is_the_mean_over_the_characters_only():
    probabilities = np.concatenate([steps(1, sure=0.9), steps(0, sure=0.4), steps(2, sure=0.5)])
    assert decode(probabilities, "abc") == ("ab", 0.7)
    assert decode(steps(0), "abc") == ("", 0.0)


def test_widths_rise_and_waste_at_most_a_third():
    assert list(WIDTHS) == sorted(set(WIDTHS)) and WIDTHS[-1] == MAX_WIDTH
    assert all(wide <= 1.5 * narrow for narrow, wide in pairwise(WIDTHS))
    assert [padded_width(width) for width in (1, 32, 33, 300, MAX_WIDTH)] == [
        32,
        32,
        48,
        320,
        MAX_WIDTH,
    ]


def test_lines_are_batched_by_width_and_come_back_in_order():
    """A stub network spells a line's grey; what it is given tells how lines were batched and
    padded."""
    shapes = []

    def network(batch: np.ndarray) -> np.ndarray:
        shapes.append(batch.shape)
        assert batch[..., 30:].max() <= 0 or batch.shape[-1] > 32, (
            "0, the middle grey, stands beyond a line's end"
        )
        greys = np.rint((batch[:, 0, 0, 0] + 1) * 127.5).astype(int)
        return np.stack([steps(grey) for grey in greys])

    grey_and_width = [(1, 30), (2, 200), (3, 20), (1, 32), (2, 210), (3, 31)]
    strips = [np.full((HEIGHT, width, 3), grey, np.uint8) for grey, width in grey_and_width]
    assert [text for text, _ in read_strips(strips, network, "abc", 3)] == list("abcabc")
    assert sorted(shapes) == [(2, 3, HEIGHT, 32), (2, 3, HEIGHT, 32), (2, 3, HEIGHT, 224)]
    assert read_strips([], network, "abc", 3) == []
