"""Batches come in order, and the next one is on its way to a GPU while one is computed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import PILToTensor

from open_diht.trainer.data import DataError, DataSettings, Source
from open_diht.trainer.data.feed import Feed, one_ahead
from open_diht.trainer.data.files import ImageFiles


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_a_copy_begins_before_the_batch_before_it_is_handed_out(n: int) -> None:
    done: list[str] = []

    def source() -> Iterator[int]:
        for number in range(n):
            done.append(f"read {number}")
            yield number

    def begin(number: int) -> int:
        done.append(f"copy {number}")
        return number

    for number in one_ahead(source(), begin, lambda number: done.append(f"wait {number}")):
        done.append(f"step {number}")
    expected = ["read 0", "copy 0"] if n else []
    for number in range(n):
        following = [f"read {number + 1}", f"copy {number + 1}"] if number + 1 < n else []
        expected += [f"wait {number}", *following, f"step {number}"]
    assert done == expected


def test_an_error_of_a_batch_comes_through() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(one_ahead(source(), lambda number: number, lambda number: None))


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = []
    for number in range(5):
        found.append(tmp_path / f"{number}.png")
        Image.fromarray(np.full((3, 4, 3), 10 * number, np.uint8)).save(found[-1])
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_the_order_of_the_files(paths: list[Path], workers: int) -> None:
    files = ImageFiles(paths, 2, PILToTensor(), 12)
    feed = Feed(files, DataSettings(sources=(Source(path="none"),), workers=workers))
    batches = [images for images, _ in feed(0, 0, files.batches)]
    feed.close()
    assert [tuple(images.shape) for images in batches] == [(2, 3, 3, 4), (2, 3, 3, 4), (1, 3, 3, 4)]
    assert torch.cat(batches)[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40]


def test_no_files_are_no_batches() -> None:
    assert ImageFiles([], 2, PILToTensor(), 12).batches == 0


def test_a_file_that_is_no_image_is_named(paths: list[Path]) -> None:
    paths[1].write_text("<html>")
    with pytest.raises(
        DataError, match=r"1\.png cannot be read as an image; take it out of the folder"
    ):
        ImageFiles(paths, 2, PILToTensor(), 12).batch(0, 0)
    with pytest.raises(
        DataError, match=r"0\.png .*4 x 3 pixels; at most 11 .*data\.max_pixels sets the limit"
    ):
        ImageFiles(paths, 2, PILToTensor(), 11).batch(0, 0)
