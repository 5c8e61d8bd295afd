"""PP-OCRv6's networks with our own pre- and post-processing, which follows PaddleOCR's.

It runs in the child process of `worker.py`. `paddle.PaddleEngine` is the reference; a test compares
the two line by line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from open_diht.filters.spotting.decode import DecodedImage
from open_diht.filters.spotting.ocr.alphabets import load_recogniser
from open_diht.filters.spotting.ocr.arcs import box_of, find_arc, unroll
from open_diht.filters.spotting.ocr.detection import (
    Floats,
    Pixels,
    Quad,
    common_shapes,
    detector_input,
    find_contours,
    in_image,
    reading_order,
    resized_input,
    text_box,
)
from open_diht.filters.spotting.ocr.detector_graph import load_detector
from open_diht.filters.spotting.ocr.faint import Found, faint_region, merge, moved
from open_diht.filters.spotting.ocr.lines import cut_line, to_strip
from open_diht.filters.spotting.ocr.networks import Network, load_network
from open_diht.filters.spotting.ocr.recognition import Reading, read_strips
from open_diht.filters.spotting.ocr.stacked import find_columns, lay_out, says_a_word
from open_diht.filters.spotting.settings import Box, Spotted, SpotterSettings
from open_diht.filters.spotting.weights import ModelSize, find_models


@dataclass(frozen=True)
class Line:
    """A line of text that was found but not read yet."""

    strip: Pixels
    """See `lines.to_strip`."""
    box: Box
    """See `Spotted.box`."""
    either_way: bool
    """True if the strip may be upside down: it was turned (see `lines.cut_line`), or an arc."""
    parts: tuple[int, ...] = ()
    """For a column, whose letters the strip shows side by side: indices of its lines among the
    image's lines."""


class Engine:
    """The loaded networks: a detector, a recognizer, and by default a larger recognizer for
    doubtful lines.

    The small recognizer takes five times the time of the tiny one, but only one line in twenty is
    doubtful; reading those a second time finds nearly everything that the small one alone finds.
    """

    def __init__(self, settings: SpotterSettings) -> None:
        cv2.setNumThreads(1)
        self.settings = settings
        self._detect = _detector(settings.model, settings)
        closer = settings.closer_look
        self._closer = _detector(closer, settings) if closer else self._detect
        self._first = _Recogniser(settings.model, settings)
        second = settings.second_reader
        self._second = _Recogniser(second, settings) if second else None

    def find(self, image: DecodedImage) -> list[Line]:
        """Return the lines of text in an image, from top to bottom, then columns of letters, for
        `read`."""
        settings = self.settings
        pixels = image.pixels
        found, probabilities = self._look(
            pixels, detector_input(pixels, settings.limit_side), self._detect
        )
        region = faint_region(probabilities, pixels.shape, [box for box, _ in found], settings)
        if region is not None:
            left, top, right, bottom = region.box
            part = np.ascontiguousarray(pixels[top:bottom, left:right])
            closer, _ = self._look(
                part, resized_input(part, region.height, region.width), self._closer
            )
            found = merge(found, [moved(one, left, top) for one in closer])
        return self._cut(image, found)

    def _look(self, pixels: Pixels, planes: Floats, detect: Network) -> tuple[list[Found], Floats]:
        """Return the lines that a detector finds in pixels (height, width, 3), given as its input,
        and its map."""
        settings = self.settings
        size = (pixels.shape[1], pixels.shape[0])
        (probabilities,) = detect(planes)[0]
        map_size = probabilities.shape[1], probabilities.shape[0]
        scale = size[0] / map_size[0], size[1] / map_size[1]
        found: list[Found] = []
        for contour in find_contours(probabilities, settings.pixel_threshold):
            box = text_box(contour, probabilities, settings)
            if box is not None:
                found.append((in_image(box, map_size, size), None))
            elif arc := find_arc(contour, probabilities, scale, settings):
                found.append((box_of(arc, size), arc))
        return found, probabilities

    def _cut(self, image: DecodedImage, found: Sequence[Found]) -> list[Line]:
        pixels = image.pixels
        across = image.width / pixels.shape[1]
        down = image.height / pixels.shape[0]
        lines = []
        boxes = []
        for index in reading_order([box for box, _ in found]):
            box, arc = found[index]
            crop, either_way = (unroll(pixels, arc), True) if arc else cut_line(pixels, box)
            if crop.size:
                lines.append(Line(to_strip(crop), _corners(box, across, down), either_way))
                boxes.append(box)
        for column in find_columns(boxes):
            letters = lay_out(pixels, column)
            if letters is not None:
                lines.append(
                    Line(
                        to_strip(letters),
                        _corners(column.corners, across, down),
                        False,
                        column.parts,
                    )
                )
        return lines

    def read(self, found: Sequence[Sequence[Line]]) -> list[list[Spotted]]:
        """Return the text of each of several images: first the readable lines, then the words of
        letters in columns."""
        lines = [[line for line in some if not line.parts] for some in found]
        readings = self._read_images(lines)
        columns = [
            [line for line in some if line.parts and self._may_be_a_word(line, known)]
            for some, known in zip(found, readings, strict=True)
        ]
        words = [
            [
                self._surer(word, [known[part] for part in column.parts])
                for column, word in zip(some, said, strict=True)
            ]
            for some, said, known in zip(columns, self._read_images(columns), readings, strict=True)
        ]
        return [
            [
                *self._spotted(lines[image], readings[image]),
                *(
                    line
                    for line in self._spotted(columns[image], words[image])
                    if says_a_word(line.text)
                ),
            ]
            for image in range(len(found))
        ]

    def _may_be_a_word(self, column: Line, readings: Sequence[Reading]) -> bool:
        """Return whether to read the letters of a column: it has several parts, or a bad reading as
        a turned line."""
        return len(column.parts) > 1 or readings[column.parts[0]][1] < self.settings.turn_below

    def _surer(self, word: Reading, parts: Sequence[Reading]) -> Reading:
        """Return the surer reading of a column: its letters together, or its parts if two or more
        of them count."""
        read = [(text.strip(), score) for text, score in parts if self._counts(text, score)]
        if len(read) < 2:
            return word
        joined = "".join(text for text, _ in read), sum(score for _, score in read) / len(read)
        return max(word, joined, key=lambda reading: reading[1])

    def _spotted(self, lines: Sequence[Line], readings: Sequence[Reading]) -> list[Spotted]:
        return [
            Spotted(text=text, score=score, box=line.box)
            for line, (text, score) in zip(lines, readings, strict=True)
            if self._counts(text, score)
        ]

    def _counts(self, text: str, score: float) -> bool:
        return bool(text.strip()) and score >= self.settings.min_score

    def _read_images(self, images: Sequence[Sequence[Line]]) -> list[list[Reading]]:
        readings = iter(self._read_lines([line for lines in images for line in lines]))
        return [[next(readings) for _ in lines] for lines in images]

    def _read_lines(self, lines: Sequence[Line]) -> list[Reading]:
        settings = self.settings
        strips = [line.strip for line in lines]
        readings = self._first.read(strips, settings.lines_at_once)
        either = [
            index
            for index, line in enumerate(lines)
            if line.either_way and readings[index][1] < settings.turn_below
        ]
        turned = [strips[index][::-1, ::-1] for index in either]  # by 180 degrees
        for index, strip, other in zip(
            either, turned, self._first.read(turned, settings.lines_at_once), strict=True
        ):
            if other[1] > readings[index][1]:
                readings[index], strips[index] = other, strip
        if self._second is None:
            return readings
        for index, (text, score) in enumerate(readings):
            if (
                settings.min_score <= score < settings.reread_below
                and len(text) >= settings.reread_chars
            ):
                # One by one: results in a batch differ in the last digits, and doubtful lines are
                # few.
                (readings[index],) = self._second.read([strips[index]], 1)
        return readings


def _detector(size: ModelSize, settings: SpotterSettings) -> Network:
    path = find_models(size, settings.models).detection / "inference.onnx"
    return load_network(
        load_detector(path, settings.precision), settings, common_shapes(settings.limit_side)
    )


class _Recogniser:
    def __init__(self, size: ModelSize, settings: SpotterSettings) -> None:
        model, self._alphabet = load_recogniser(
            find_models(size, settings.models).recognition, settings.alphabet
        )
        self._network = load_network(model, settings)

    def read(self, strips: Sequence[Pixels], batch: int) -> list[Reading]:
        return read_strips(strips, self._network, self._alphabet, batch)


def _corners(box: Quad, across: float, down: float) -> Any:
    return tuple((round(float(x) * across, 1), round(float(y) * down, 1)) for x, y in box)
