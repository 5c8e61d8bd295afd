"""Recognize lines of text: PP-OCRv6's recognizer over many lines at once.

A line is padded to one of the widths of `WIDTHS`, never to that of its neighbors, so its reading
does not depend on them.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from open_diht.filters.spotting.ocr.detection import Floats, Pixels
from open_diht.filters.spotting.ocr.lines import HEIGHT, MAX_WIDTH

Reading = tuple[str, float]
"""Text, and the mean probability of its characters; ("", 0.0) if nothing is read."""

WIDTHS: Final = (
    *range(32, 128, 16),
    *range(128, 256, 32),
    *range(256, 512, 64),
    *range(512, 1024, 128),
    *range(1024, 2048, 256),
    *range(2048, MAX_WIDTH, 384),
    MAX_WIDTH,
)
"""Widths that lines are padded to, in pixels. There are few, and batch sizes are powers of two,
because every new shape may cost a network memory."""
SCORE_DIGITS: Final = 5
"""Digits of scores that are kept: the last digits of a float32 depend on the processor."""


def read_strips(
    strips: Sequence[Pixels],
    network: Callable[[Floats], Floats],
    alphabet: Sequence[str],
    batch: int,
) -> list[Reading]:
    """Return the reading of each strip (see `lines.to_strip`), in order. The network maps
    float32 (lines, 3, HEIGHT, width) to probabilities (lines, steps, classes): class 0 is the
    blank of CTC, the others are the alphabet. A batch has at most `batch` lines, rounded down to
    a power of two."""
    readings: list[Reading] = [("", 0.0)] * len(strips)
    by_width: dict[int, list[int]] = {}
    for index, strip in enumerate(strips):
        by_width.setdefault(padded_width(strip.shape[1]), []).append(index)
    for width, indices in by_width.items():
        for some in _powers_of_two(indices, batch):
            probabilities = network(_padded([strips[index] for index in some], width))
            for index, one in zip(some, probabilities, strict=True):
                readings[index] = decode(one, alphabet)
    return readings


def padded_width(width: int) -> int:
    """Return the smallest of `WIDTHS` that holds a line."""
    return next(candidate for candidate in WIDTHS if candidate >= width)


def decode(probabilities: Floats, alphabet: Sequence[str]) -> Reading:
    """Decode the most likely class of each step of probabilities (steps, classes), without
    repetitions and blanks (Graves et al., Connectionist Temporal Classification, ICML 2006). Class
    0 is the blank, the others the alphabet.
    """
    classes = probabilities.argmax(axis=1)
    said = classes != 0
    said[1:] &= classes[1:] != classes[:-1]  # CTC merges repetitions that no blank separates
    steps = np.flatnonzero(said)
    if not steps.size:
        return "", 0.0
    chosen = classes[steps]
    score = round(float(probabilities[steps, chosen].mean()), SCORE_DIGITS)
    return "".join([alphabet[index - 1] for index in chosen]), score


def _powers_of_two(indices: Sequence[int], most: int) -> Iterator[Sequence[int]]:
    size = 1 << (most.bit_length() - 1)  # the largest power of two up to `most`
    while indices:
        while size > len(indices):
            size //= 2
        yield indices[:size]
        indices = indices[size:]


def _padded(strips: Sequence[Pixels], width: int) -> Floats:
    """Return lines of one width of `WIDTHS` as the network's input: -1 to 1, and 0 after the end of
    a line."""
    lines = np.zeros((len(strips), 3, HEIGHT, width), np.float32)
    for line, strip in zip(lines, strips, strict=True):
        part = line[:, :, : strip.shape[1]]
        np.divide(strip.transpose(2, 0, 1), 127.5, out=part, dtype=np.float32)
        part -= 1.0
    return lines
