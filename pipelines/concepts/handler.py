"""One batch of images to features of the teacher, as Beam's RunInference calls it.

An image that cannot be decoded costs its row. Where the teacher fails on a batch, its images are tried one by one:
those that it fails on alone cost their rows. It is the teacher that failed, and with it the batch, where it had too
little memory, or failed on every image of several.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from apache_beam.ml.inference.base import ModelHandler
from PIL import Image

from filters.spotting.decode import DecodeLimits, UnreadableImage, decode_image
from pipelines.concepts.teacher import LoadedTeacher, Teacher

GOOD = "ok"
NO_IMAGE = "missing_image"
NOT_FINITE = "not_finite"
TEACHER_FAILED = "teacher_failed"
MAX_ASPECT = 20
"""Longer images lose their ends: teachers resize the shorter side, which would blow up a line of pixels, and look at
the middle."""


@dataclass(frozen=True)
class Images:
    """Some images of a unit, in its order; the one with `batches` set comes last and holds none."""

    unit: str
    number: int
    keys: tuple[str, ...] = ()
    contents: tuple[bytes | None, ...] = ()
    batches: int | None = None
    broken: dict[str, str] | None = None

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class Features:
    """What became of them."""

    of: Images
    status: tuple[str, ...] = ()
    """`ok`, or why there are no features."""
    messages: tuple[str, ...] = ()
    rows: npt.NDArray[np.float16] = field(default_factory=lambda: np.zeros((0, 0), np.float16))
    """(n, d); zeros where the status is not ok."""
    failed: str | None = None
    """Why there is nothing: the teacher failed, whatever the images are."""


class TeacherFailed(RuntimeError):
    """The teacher cannot do a batch; the message names unit, batch and remedy."""


class TeacherHandler(ModelHandler[Images, Features, LoadedTeacher]):
    """The teacher as Beam calls it: load once per worker process, then batch after batch."""

    def __init__(self, teacher: Teacher, device: str, threads: int):
        super().__init__()
        self._teacher, self._device, self._threads = teacher, device, threads

    def load_model(self) -> LoadedTeacher:
        import torch

        torch.set_num_threads(self._threads)
        return self._teacher.load(self._device)

    def run_inference(
        self, batch: Sequence[Images] | Images, model: LoadedTeacher, inference_args: dict[str, Any] | None = None
    ) -> Iterable[Features]:
        assert isinstance(batch, Images)
        status, messages, images = [], [], []
        for content in batch.contents:
            try:
                images.append(_image(content))
                status.append(GOOD)
                messages.append("")
            except UnreadableImage as error:
                status.append(str(error.reason) if content is not None else NO_IMAGE)
                messages.append(error.message)
        try:
            found = self._found(batch, images, model) if images else []
        except TeacherFailed as error:
            return [Features(batch, failed=str(error))]
        width = max((len(row) for row in found if isinstance(row, np.ndarray)), default=0)
        rows = np.zeros((len(batch), width), np.float16)
        for place, row in zip([n for n, said in enumerate(status) if said == GOOD], found, strict=True):
            if not isinstance(row, np.ndarray):
                status[place], messages[place] = TEACHER_FAILED, row
            elif np.isfinite(row).all():
                rows[place] = row
            else:
                status[place], messages[place] = NOT_FINITE, "a feature is no number, or above 65,504"
        return [Features(batch, tuple(status), tuple(messages), rows)]

    def _found(
        self, batch: Images, images: list[Image.Image], model: LoadedTeacher
    ) -> list[npt.NDArray[np.float16] | str]:
        """For each image its features, or why there are none."""
        try:
            return [*_half(model.features(images))]
        except _ERRORS as error:
            if _lacks_memory(error):
                raise self._failed(batch, error) from error
            if len(images) == 1:
                return [_in_words(error)]
            first = error
        found: list[npt.NDArray[np.float16] | str] = []
        for image in images:
            try:
                found += [*_half(model.features([image]))]
            except _ERRORS as error:
                if _lacks_memory(error):
                    raise self._failed(batch, error) from error
                found.append(_in_words(error))
        if all(isinstance(each, str) for each in found):
            raise self._failed(batch, first) from first
        return found

    def _failed(self, batch: Images, error: Exception) -> TeacherFailed:
        lacks = _lacks_memory(error)
        remedy = (
            "lower --batch-size, or --workers, each of which holds the teacher"
            if lacks
            else "it fails on each of these images alone, too"
        )
        return TeacherFailed(
            f"teacher {self._teacher.name} on {self._device} failed on {batch.unit}.tar, batch {batch.number} of "
            f"{len(batch)} images, from key {batch.keys[0]} on: {_in_words(error)}; {remedy}; what is done stays"
        )

    def should_skip_batching(self) -> bool:
        return True  # `Images` is a batch already

    def get_num_bytes(self, batch: Sequence[Images] | Images) -> int:
        assert isinstance(batch, Images)
        return sum(len(content or b"") for content in batch.contents)

    def get_metrics_namespace(self) -> str:
        return "concepts"


def _image(content: bytes | None) -> Image.Image:
    pixels = decode_image(content or b"", DecodeLimits(decode_side=0)).pixels
    height, width = pixels.shape[:2]
    top, left = max(0, (height - MAX_ASPECT * width) // 2), max(0, (width - MAX_ASPECT * height) // 2)
    middle = pixels[top : height - top, left : width - left, ::-1]
    return Image.fromarray(np.ascontiguousarray(middle))


_ERRORS = (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, OSError, MemoryError)
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
