"""PP-OCRv6's networks with pre- and post-processing of our own, which follows PaddleOCR's.

Runs in the child process of `worker.py`. `paddle.PaddleEngine` is the reference; a test compares the two line by line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2

from filters.spotting.ocr.detection import (
    Pixels,
    Quad,
    detector_input,
    find_contours,
    in_image,
    reading_order,
    text_box,
)
from filters.spotting.ocr.lines import cut_line, to_strip
from filters.spotting.ocr.networks import Network, alphabet_of
from filters.spotting.ocr.recognition import Reading, read_strips
from filters.spotting.pictures import Picture
from filters.spotting.settings import Box, Spotted, SpotterSettings
from filters.spotting.weights import ModelSize, find_models


@dataclass(frozen=True)
class Line:
    """A line of text that was found and not read yet."""

    strip: Pixels
    """See `lines.to_strip`."""
    box: Box
    """See `Spotted.box`."""
    tall: bool
    """Whether it was taller than wide and has been turned."""


class Engine:
    """The loaded networks: a detector, a recogniser, and a larger one for the lines that the first is not sure of.

    The small recogniser takes five times the time of the tiny one, but only one line in twenty is doubtful; reading
    those once more finds nearly all that the small one alone finds.
    """

    def __init__(self, settings: SpotterSettings) -> None:
        cv2.setNumThreads(1)
        self.settings = settings
        self._detect = Network(find_models(settings.model, settings.models).detection)
        self._first = _Recogniser(settings.model, settings)
        second = settings.second_reader
        self._second = _Recogniser(second, settings) if second else None

    def find(self, picture: Picture) -> list[Line]:
        """The lines of text in an image, from top to bottom; they hold all that `read` needs of it."""
        settings, pixels = self.settings, picture.pixels
        size = pixels.shape[1], pixels.shape[0]
        probabilities = self._detect(detector_input(pixels, settings.limit_side))[0, 0]
        map_size = probabilities.shape[1], probabilities.shape[0]
        contours = find_contours(probabilities, settings.pixel_threshold)
        found = (text_box(contour, probabilities, settings) for contour in contours)
        boxes = [in_image(box, map_size, size) for box in found if box is not None]
        scale = picture.width / size[0], picture.height / size[1]
        lines = []
        for index in reading_order(boxes):
            crop, tall = cut_line(pixels, boxes[index])
            if crop.size:
                lines.append(Line(to_strip(crop), _corners(boxes[index], *scale), tall))
        return lines

    def read(self, found: Sequence[Sequence[Line]]) -> list[list[Spotted]]:
        """What the lines of each of several images say, without those that cannot be read."""
        readings = iter(self._read_lines([line for lines in found for line in lines]))
        spotted = [[(line, *next(readings)) for line in lines] for lines in found]
        least = self.settings.min_score
        return [
            [
                Spotted(text=text, score=score, box=line.box)
                for line, text, score in lines
                if text.strip() and score >= least
            ]
            for lines in spotted
        ]

    def _read_lines(self, lines: Sequence[Line]) -> list[Reading]:
        settings = self.settings
        readings = self._first.read([line.strip for line in lines], settings.lines_at_once)
        if self._second is None:
            return readings
        for index, (text, score) in enumerate(readings):
            if settings.min_score <= score < settings.reread_below and len(text) >= settings.reread_chars:
                # One by one: its results in a batch differ in the last digits, and doubtful lines are few.
                (readings[index],) = self._second.read([lines[index].strip], 1)
        return readings


class _Recogniser:
    def __init__(self, size: ModelSize, settings: SpotterSettings) -> None:
        folder = find_models(size, settings.models).recognition
        self._network, self._alphabet = Network(folder), alphabet_of(folder)

    def read(self, strips: Sequence[Pixels], batch: int) -> list[Reading]:
        return read_strips(strips, self._network, self._alphabet, batch)


def _corners(box: Quad, across: float, down: float) -> Any:
    return tuple((round(float(x) * across, 1), round(float(y) * down, 1)) for x, y in box)
