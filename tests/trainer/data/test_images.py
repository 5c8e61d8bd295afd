"""The images of a batch: one tensor, in shared memory where a worker makes it."""

from __future__ import annotations

import re

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from open_diht.trainer.data.images import Images


def test_images_lie_in_the_order_they_came() -> None:
    given = [torch.rand(3, 4, 5) for _ in range(7)]
    images = Images(7)
    assert images.tensor is None
    for image in given:
        images.add(image)
    assert images.tensor is not None and torch.equal(images.tensor, torch.stack(given))


@pytest.mark.parametrize("other", [torch.rand(1, 4, 5), torch.rand(3, 5, 4), torch.rand(3, 4, 5, dtype=torch.float64)])
def test_an_image_of_another_shape_or_type_is_refused(other: torch.Tensor) -> None:
    images = Images(2)
    images.add(torch.rand(3, 4, 5))
    said = f"{tuple(other.shape)} {other.dtype} after (3, 4, 5) torch.float32"
    with pytest.raises(ValueError, match=re.escape(said)):
        images.add(other)


def test_the_layout_of_the_images_is_kept() -> None:
    """Decoded pixels come with the channels last; each image is then one copy of consecutive bytes."""
    image = torch.arange(4 * 5 * 3, dtype=torch.uint8).reshape(4, 5, 3).permute(2, 0, 1)
    images = Images(2)
    images.add(image)
    images.add(image.contiguous())  # another layout, the same pixels
    found = images.tensor
    assert found is not None and found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, torch.stack([image, image]))
    expanded = Images(2)
    expanded.add(torch.ones(1, 1, 1).expand(3, 4, 5))
    assert expanded.tensor is not None and expanded.tensor.is_contiguous()  # a view of one number gets room for all


class Stacks(Dataset[tuple[torch.Tensor, bool]]):
    """Item i: five images full of i, and whether they were in shared memory before they were sent."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, bool]:
        images = Images(5)
        for _ in range(5):
            images.add(torch.full((8, 8, 3), index, dtype=torch.uint8).permute(2, 0, 1))
        assert images.tensor is not None
        return images.tensor, images.tensor.is_shared()


def test_workers_write_them_where_the_training_reads_them() -> None:
    loader = DataLoader(Stacks(), batch_size=None, sampler=range(12), num_workers=2, collate_fn=lambda item: item)
    found = list(loader)
    assert all(shared for _, shared in found)
    assert all(
        torch.equal(images, torch.full((5, 3, 8, 8), n, dtype=torch.uint8)) for n, (images, _) in enumerate(found)
    )
    assert not Stacks()[0][1]
