"""Images of files: in their order, through the workers that read shards too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import PILToTensor

from open_diht.trainer.data import DataError, DataSettings, Source
from open_diht.trainer.data.feed import Feed
from open_diht.trainer.data.files import ImageFiles


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = []
    for number in range(5):
        found.append(tmp_path / f"{number}.png")
        Image.fromarray(np.full((3, 4, 3), 10 * number, np.uint8)).save(found[-1])
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_the_order_of_the_files(paths: list[Path], workers: int) -> None:
    files = ImageFiles(paths, 2, PILToTensor())
    feed = Feed(files, DataSettings(sources=(Source(path="none"),), workers=workers))
    batches = [images for images, _ in feed(0, 0, files.batches)]
    feed.close()
    assert [tuple(images.shape) for images in batches] == [(2, 3, 3, 4), (2, 3, 3, 4), (1, 3, 3, 4)]
    assert torch.cat(batches)[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40]


def test_no_files_are_no_batches() -> None:
    assert ImageFiles([], 2, PILToTensor()).batches == 0


def test_a_file_that_is_no_image_is_named(paths: list[Path]) -> None:
    paths[1].write_text("<html>")
    with pytest.raises(DataError, match=r"1\.png is not an image, take it out of the folder"):
        ImageFiles(paths, 2, PILToTensor()).batch(0, 0)
