"""One batch: what an image costs that cannot be read or that the teacher fails on, and when it is
the teacher."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from open_diht.pipelines.teachers.extract import Features, TeacherFailed, extracted, prepared
from open_diht.pipelines.teachers.teacher import find_teacher


def image(size: tuple[int, int]) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size).save(content, "PNG")
    return content.getvalue()


class Told:
    """A teacher that answers as it is told; the feature of an image is its width."""

    device = "cuda:1"

    def __init__(self, answer: Callable[[list[Any]], Any] = lambda images: None):
        self.answer = answer
        self.asked: list[int] = []

    def transform(self, image: Image.Image) -> Image.Image:
        if image.width == 6:
            raise ValueError("too narrow to be prepared")
        return image

    def features(self, images: list[Any]) -> Any:
        self.asked.append(len(images))
        found = self.answer(images)
        if isinstance(found, Exception):
            raise found
        return (
            np.array([[float(each.width)] for each in images], np.float32)
            if found is None
            else found
        )


def ask(told: Any, *sizes: int, more: tuple[bytes | None, ...] = ()) -> Features:
    contents = [*(image((size, size)) for size in sizes), *more]
    return extracted([prepared(content, told) for content in contents], told)


def errors(found: Features) -> dict[int, str]:
    return {place: bad.error for place, bad in found.bad.items()}


def test_a_line_of_pixels_is_not_blown_up(tiny: tuple[str, str]) -> None:
    teacher = find_teacher(*tiny).load()
    found = extracted(
        [prepared(image(size), teacher) for size in ((3000, 1), (1, 1), (32, 32))], teacher
    )
    assert not found.bad and found.rows.any(axis=1).all()


def test_features_beyond_float16_cost_their_rows() -> None:
    found = ask(Told(lambda images: np.array([[1.0], [1e9], [np.nan]])), 9, 8, 7)
    assert errors(found) == {1: "not_finite", 2: "not_finite"} and found.rows.tolist() == [
        [1],
        [0],
        [0],
    ]


@pytest.mark.parametrize(
    "error", [ValueError("an odd image"), RuntimeError("shape mismatch"), ZeroDivisionError("0")]
)
def test_an_image_that_the_teacher_fails_on_costs_its_row(error: Exception) -> None:
    told = Told(lambda images: error if any(each.width == 8 for each in images) else None)
    found = ask(told, 9, 8, 7, 6, more=(b"<html>", None))
    assert errors(found) == {
        1: "teacher_failed",
        3: "teacher_failed",
        4: "not_an_image",
        5: "missing_image",
    }
    assert found.rows.tolist() == [[9], [0], [7], [0], [0], [0]]
    assert found.bad[1].message == f"{type(error).__name__}: {error}"
    assert "too narrow" in found.bad[3].message and told.asked == [3, 1, 1, 1]


def test_alone_in_its_batch_it_is_the_image() -> None:
    found = ask(Told(lambda images: ValueError("odd")), 8)
    assert errors(found) == {0: "teacher_failed"} and found.rows.shape == (1, 0)


def test_a_teacher_that_fails_on_all_has_failed_itself() -> None:
    with pytest.raises(
        TeacherFailed, match=r"failed on cuda:1: RuntimeError: CUDA .*on each of these images alone"
    ):
        ask(Told(lambda images: RuntimeError("CUDA error: device-side assert")), 9, 8)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"
        ),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("alone", [False, True])
def test_want_of_memory_is_no_images_fault(error: Exception, alone: bool) -> None:
    told = Told(lambda images: ValueError("odd") if alone and len(images) > 1 else error)
    with pytest.raises(TeacherFailed, match="lower --batch-size, or use fewer --workers"):
        ask(told, 9, 8)
    assert told.asked == ([2, 1] if alone else [2])


def test_an_error_that_nobody_expects_ends_the_run() -> None:
    class Odd(Exception):
        pass

    with pytest.raises(Odd):
        ask(Told(lambda images: Odd()), 9)
