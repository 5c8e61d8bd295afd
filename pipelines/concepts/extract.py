"""One batch of images to features of the teacher.

An image that cannot be decoded costs its row. Where the teacher fails on a batch, its images are tried one by one:
those that it fails on alone cost their rows. It is the teacher that failed, and with it the batch, where it had too
little memory, or failed on every image of several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from open_diht.filters.spotting.decode import DecodeLimits, UnreadableImage, decode_image
from open_diht.pipelines.concepts.teacher import LoadedTeacher

NO_IMAGE = "missing_image"
NOT_FINITE = "not_finite"
TEACHER_FAILED = "teacher_failed"
MAX_ASPECT = 20
"""Longer images lose their ends: teachers resize the shorter side, which would blow up a line of pixels, and look at
the middle."""


@dataclass(frozen=True)
class Bad:
    """Why an image has no features."""

    error: str
    message: str


@dataclass(frozen=True)
class Features:
    """Of a batch."""

    rows: npt.NDArray[np.float16]
    """(n, d); zeros where an image is bad; d is 0 where all are."""
    bad: dict[int, Bad]
    """By row."""


class TeacherFailed(RuntimeError):
    """The teacher cannot do a batch; the message names the remedy."""


def prepared(content: bytes | None, teacher: LoadedTeacher) -> Any:
    """The tensor of an image for the teacher, or `Bad`."""
    try:
        image = _image(content)
    except UnreadableImage as error:
        return Bad(str(error.reason) if content is not None else NO_IMAGE, error.message)
    try:
        return teacher.transform(image)
    except ERRORS as error:
        return Bad(TEACHER_FAILED, _in_words(error))


def extracted(images: Sequence[Any], teacher: LoadedTeacher) -> Features:
    """The features of images that are `prepared`.

    Raises:
        TeacherFailed: it is not an image's fault.
    """
    bad = {place: image for place, image in enumerate(images) if isinstance(image, Bad)}
    places = [place for place in range(len(images)) if place not in bad]
    found = _found([images[place] for place in places], teacher) if places else []
    width = max((len(row) for row in found if isinstance(row, np.ndarray)), default=0)
    rows = np.zeros((len(images), width), np.float16)
    for place, row in zip(places, found, strict=True):
        if not isinstance(row, np.ndarray):
            bad[place] = row
        elif np.isfinite(row).all():
            rows[place] = row
        else:
            bad[place] = Bad(NOT_FINITE, "a feature is no number, or above 65,504")
    return Features(rows, bad)


def _found(images: list[Any], teacher: LoadedTeacher) -> list[npt.NDArray[np.float16] | Bad]:
    """For each image its features, or why there are none."""
    try:
        return [*_half(teacher.features(images))]
    except ERRORS as error:
        if _lacks_memory(error):
            raise _failed(teacher, error) from error
        if len(images) == 1:
            return [Bad(TEACHER_FAILED, _in_words(error))]
        first = error
    found: list[npt.NDArray[np.float16] | Bad] = []
    for image in images:
        try:
            found += [*_half(teacher.features([image]))]
        except ERRORS as error:
            if _lacks_memory(error):
                raise _failed(teacher, error) from error
            found.append(Bad(TEACHER_FAILED, _in_words(error)))
    if all(isinstance(each, Bad) for each in found):
        raise _failed(teacher, first) from first
    return found


def _failed(teacher: LoadedTeacher, error: Exception) -> TeacherFailed:
    remedy = (
        "lower --batch-size, or --workers, each of which holds the teacher"
        if _lacks_memory(error)
        else "it fails on each of these images alone, too"
    )
    return TeacherFailed(f"the teacher failed on {teacher.device}: {_in_words(error)}; {remedy}; what is done stays")


def _image(content: bytes | None) -> Image.Image:
    pixels = decode_image(content or b"", DecodeLimits(decode_side=0)).pixels
    height, width = pixels.shape[:2]
    top, left = max(0, (height - MAX_ASPECT * width) // 2), max(0, (width - MAX_ASPECT * height) // 2)
    middle = pixels[top : height - top, left : width - left, ::-1]
    return Image.fromarray(np.ascontiguousarray(middle))


ERRORS = (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, OSError, MemoryError)
"""What models and their preprocessing raise; torch's errors are RuntimeErrors."""


def _lacks_memory(error: Exception) -> bool:
    """Memory of a GPU (torch.OutOfMemoryError) or of the machine, for which torch's allocator has no class."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def _half(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):  # what is beyond float16 becomes infinite, and costs its row
        return features.astype(np.float16)


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
