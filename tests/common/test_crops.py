"""Crops that a teacher and a training share: equal everywhere, and inside the image."""

import numpy as np
import pytest
from PIL import Image

from open_diht.common.crops import crop_box, crop_of, cropped, middle


@pytest.mark.parametrize(
    ("size", "seen"),
    [((3000, 2), (40, 2)), ((1, 401), (1, 21)), ((40, 2), (40, 2)), ((1, 20), (1, 20))],
)
def test_lines_of_pixels_lose_their_ends(size: tuple[int, int], seen: tuple[int, int]) -> None:
    assert middle(Image.new("RGB", size)).size == seen


def test_draws_are_the_same_on_every_machine_and_differ_by_seed_key_and_crop() -> None:
    assert crop_of(3, "k", 1)[:2].tolist() == [0.1847897622076301, 0.06243969619929002]
    seen = {
        tuple(crop_of(seed, key, crop)) for seed in (0, 1) for key in ("a", "b") for crop in (0, 1)
    }
    assert len(seen) == 8
    many = np.array([crop_of(0, f"{n}", 0) for n in range(4000)])
    assert many.shape == (4000, 4) and many.min() >= 0 and many.max() < 1
    assert (
        np.abs(many.mean(0) - 0.5).max() < 0.02
        and np.abs(np.corrcoef(many.T) - np.eye(4)).max() < 0.06
    )


@pytest.mark.parametrize(
    "size", [(640, 480), (480, 640), (300, 300), (1, 1), (3, 500), (2000, 100)]
)
@pytest.mark.parametrize("scale", [(0.9, 1.0), (0.08, 1.0), (1.0, 1.0)])
def test_boxes_are_in_the_image_and_keep_area_and_ratio_if_they_can(
    size: tuple[int, int], scale: tuple[float, float]
):
    width, height = size
    for n in range(300):
        left, top, right, bottom = crop_box(crop_of(0, f"{n}", 0), width, height, scale)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        if min(size) > 200:
            assert (
                scale[0] - 0.01
                <= (right - left) * (bottom - top) / (width * height)
                <= scale[1] + 0.01
            )
            assert 0.74 < (right - left) / (bottom - top) < 1.35


def test_a_crop_is_what_torchvision_makes_of_that_box() -> None:
    functional = pytest.importorskip("torchvision.transforms.functional")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    image, (left, top, right, bottom) = Image.fromarray(pixels), (5, 7, 45, 41)
    expected = functional.resized_crop(
        image, top, left, bottom - top, right - left, [32, 32], functional.InterpolationMode.BICUBIC
    )
    assert np.array_equal(
        np.asarray(cropped(image, (left, top, right, bottom), 32)), np.asarray(expected)
    )
