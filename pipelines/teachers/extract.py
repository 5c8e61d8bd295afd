"""Extract the teacher's features of one batch of images.

The row of an image that cannot be decoded holds zeros. If the teacher fails on a batch, its images
are tried one by one, and those on which it fails again get zeros too. The whole batch fails if the
teacher runs out of memory, or fails on every one of several images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from open_diht.common.crops import middle
from open_diht.filters.spotting.decode import DecodeLimits, UnreadableImage, decode_image
from open_diht.pipelines.teachers.teacher import LoadedTeacher

NO_IMAGE = "missing_image"
NOT_FINITE = "not_finite"
TEACHER_FAILED = "teacher_failed"


@dataclass(frozen=True)
class Bad:
    """The reason why an image has no features."""

    error: str
    message: str


@dataclass(frozen=True)
class Features:
    """The features of a batch."""

    rows: npt.NDArray[np.float16]
    """(n, d) with zeros for bad images. d is 0 if the teacher returned no features."""
    bad: dict[int, Bad]
    """Reasons by row."""


class TeacherFailed(RuntimeError):
    """The teacher failed on a batch."""


def prepared(content: bytes | None, teacher: LoadedTeacher) -> Any:
    """Return the teacher's input tensor for an image, or `Bad`. `content` is None for a sample
    without image."""
    try:
        image = _image(content)
    except UnreadableImage as error:
        return Bad(str(error.reason) if content is not None else NO_IMAGE, error.message)
    try:
        return teacher.transform(image)
    except ERRORS as error:
        return Bad(TEACHER_FAILED, _in_words(error))


def extracted(images: Sequence[Any], teacher: LoadedTeacher) -> Features:
    """Return the features of a batch of images that `prepared` has converted. Raise TeacherFailed
    if memory ran out, or if the teacher failed on each of several images."""
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
            bad[place] = Bad(NOT_FINITE, "a feature is not a number, or exceeds 65,504 in size")
    return Features(rows, bad)


def _found(images: list[Any], teacher: LoadedTeacher) -> list[npt.NDArray[np.float16] | Bad]:
    """Return the features of each image, or the reason why it has none."""
    try:
        return [*_half(teacher.features(images))]
    except ERRORS as error:
        if _lacks_memory(error):
            raise _failed(teacher, error) from error
        if len(images) == 1:
            return [Bad(TEACHER_FAILED, _in_words(error))]
        first = error
    found = [row for image in images for row in _found([image], teacher)]
    if all(isinstance(each, Bad) for each in found):  # then the images are probably not the cause
        raise _failed(teacher, first) from first
    return found


def _failed(teacher: LoadedTeacher, error: Exception) -> TeacherFailed:
    remedy = (
        "lower --batch-size, or use fewer --workers (each loads the teacher)"
        if _lacks_memory(error)
        else "it also fails on each of these images alone"
    )
    return TeacherFailed(
        f"the teacher failed on {teacher.device}: {_in_words(error)}; {remedy}. Finished shards are"
        " kept"
    )


def _image(content: bytes | None) -> Image.Image:
    pixels = decode_image(content or b"", DecodeLimits(decode_side=0)).pixels
    return middle(Image.fromarray(np.ascontiguousarray(pixels[:, :, ::-1])))  # BGR to RGB


ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    OSError,
    MemoryError,
)
"""Errors that models and their preprocessing raise; most of torch's are RuntimeErrors."""


def _lacks_memory(error: Exception) -> bool:
    """Return whether GPU or main memory ran out, by the message, because torch's CPU allocator has
    no error class."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in words)


def _half(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    with np.errstate(over="ignore"):
        # Values beyond float16 become infinite, which marks the row as bad.
        return features.astype(np.float16)


def _in_words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
