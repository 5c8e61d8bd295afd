"""Bytes and what follows on the device have the bits of open_clip's transforms, which compute in
float32 at once."""

from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from open_diht.trainer.config import TransformSettings
from open_diht.trainer.transforms import Pixels, preprocessing, transform

OWN = TransformSettings(crop_scale=(0.4, 0.9), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.7))


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(
        0, 256, (height, width, 3), np.uint8
    )
    return Image.fromarray(pixels)


def peer(own: TransformSettings, size: int, training: bool) -> Any:
    seen = {
        key: value
        for key, value in preprocessing(own, size).items()
        if key in ("mean", "std", "interpolation")
    }
    cut = {"aug_cfg": {"scale": own.crop_scale}} if training else {"resize_mode": "shortest"}
    return open_clip.image_transform(size, is_train=training, **seen, **cut)


@settings(max_examples=30, deadline=None)
@given(
    width=st.integers(1, 90), height=st.integers(1, 90), size=st.integers(1, 48),
    training=st.booleans(), own=st.sampled_from([TransformSettings(), OWN]),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_the_bits_are_those_of_open_clip(width, height, size, training, own, seed):
    image = noise(width, height)
    torch.manual_seed(seed)
    expected = peer(own, size, training)(image)
    torch.manual_seed(seed)
    found = transform(own, size, training=training)(image)
    assert found.dtype == torch.uint8
    assert torch.equal(Pixels(own)(found[None])[0], expected)


def test_every_byte_in_every_layout_becomes_the_same_float() -> None:
    own = TransformSettings()
    images = (
        torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(2, 3, -1, -1).contiguous()
    )
    expected = torch.stack(
        [(images[:, c].float() / 255 - own.mean[c]) / own.std[c] for c in range(3)], dim=1
    )
    for layout in (torch.contiguous_format, torch.channels_last):
        found = Pixels(own)(images.contiguous(memory_format=layout))
        assert torch.equal(found, expected) and found.is_contiguous()
    # They are not written to.
    assert images.dtype == torch.uint8 and int(images[0, 0, 15, 15]) == 255


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_transform_of_ones_own_has_made_stays(dtype: torch.dtype) -> None:
    images = torch.rand(2, 3, 4, 4).to(dtype)
    assert Pixels(TransformSettings())(images) is images


def test_training_draws_from_torch() -> None:
    draw = transform(TransformSettings(), 32, training=True)
    torch.manual_seed(0)
    one = draw(noise(64, 64))
    torch.manual_seed(0)
    assert torch.equal(draw(noise(64, 64)), one)
    assert not torch.equal(draw(noise(64, 64)), one)
