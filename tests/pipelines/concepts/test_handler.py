"""One batch: what an image costs that cannot be read or that the teacher fails on, and when it is the teacher."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.concepts.handler import Features, Images, TeacherHandler
from pipelines.concepts.teacher import find_teacher


def image(size: tuple[int, int]) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size).save(content, "PNG")
    return content.getvalue()


def batch_of(*sizes: tuple[int, int]) -> Images:
    return Images("unit", 7, tuple("abcdefgh"[: len(sizes)]), tuple(image(size) for size in sizes))


class Told:
    """A teacher that answers as it is told; the feature of an image is its width."""

    def __init__(self, answer: Callable[[list[Any]], Any]):
        self.answer = answer
        self.asked: list[int] = []

    def features(self, images: list[Any]) -> Any:
        self.asked.append(len(images))
        found = self.answer(images)
        if isinstance(found, Exception):
            raise found
        return np.array([[float(each.width)] for each in images], np.float32) if found is None else found


@pytest.fixture
def ask(tiny: tuple[str, str]) -> Callable[..., Features]:
    handler = TeacherHandler(find_teacher(*tiny), "cuda:1", 1)

    def ask(batch: Images, told: Any) -> Features:
        (found,) = handler.run_inference(batch, told)
        return found

    return ask


def test_a_line_of_pixels_is_not_blown_up(tiny: tuple[str, str]) -> None:
    handler = TeacherHandler(find_teacher(*tiny), "cpu", 1)
    (found,) = handler.run_inference(batch_of((3000, 1), (1, 1), (32, 32)), handler.load_model())
    assert found.status == ("ok",) * 3


def test_features_beyond_float16_cost_their_rows(ask: Any) -> None:
    told = Told(lambda images: np.array([[1.0], [1e9], [np.nan]]))
    found = ask(batch_of((9, 9), (8, 8), (7, 7)), told)
    assert found.status == ("ok", "not_finite", "not_finite") and found.rows.tolist() == [[1], [0], [0]]


@pytest.mark.parametrize("error", [ValueError("an odd image"), RuntimeError("shape mismatch"), ZeroDivisionError("0")])
def test_an_image_that_the_teacher_fails_on_costs_its_row(error: Exception, ask: Any) -> None:
    told = Told(lambda images: error if any(each.width == 8 for each in images) else None)
    batch = batch_of((9, 9), (8, 8), (7, 7))
    broken = Images("unit", 7, (*batch.keys, "d"), (*batch.contents, b"<html>"))
    found = ask(broken, told)
    assert found.failed is None
    assert found.status == ("ok", "teacher_failed", "ok", "not_an_image")
    assert found.rows.tolist() == [[9], [0], [7], [0]]
    assert found.messages[1] == f"{type(error).__name__}: {error}"
    assert told.asked == [3, 1, 1, 1]


def test_alone_in_its_batch_it_is_the_image(ask: Any) -> None:
    found = ask(batch_of((8, 8)), Told(lambda images: ValueError("odd")))
    assert found.status == ("teacher_failed",) and found.rows.shape == (1, 0)


def test_a_teacher_that_fails_on_all_has_failed_itself(ask: Any) -> None:
    found = ask(batch_of((9, 9), (8, 8)), Told(lambda images: RuntimeError("CUDA error: device-side assert")))
    assert found.failed is not None and not found.status
    for words in ("timm:test_resnet on cuda:1", "unit.tar, batch 7 of 2 images, from key a on", "device-side assert",
                  "on each of these images alone"):  # fmt: skip
        assert words in found.failed


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("alone", [False, True])
def test_want_of_memory_is_no_images_fault(error: Exception, alone: bool, ask: Any) -> None:
    told = Told(lambda images: ValueError("odd") if alone and len(images) > 1 else error)
    found = ask(batch_of((9, 9), (8, 8)), told)
    assert found.failed is not None and "lower --batch-size, or --workers" in found.failed
    assert told.asked == ([2, 1] if alone else [2])


def test_an_error_that_nobody_expects_ends_the_run(ask: Any) -> None:
    class Odd(Exception):
        pass

    with pytest.raises(Odd):
        ask(batch_of((9, 9)), Told(lambda images: Odd()))
