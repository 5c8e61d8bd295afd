"""What the tests of text-spotting share: weights, images with text, one running spotter."""

from collections.abc import Callable, Iterator

import pytest
from PIL import Image, ImageDraw, ImageFont

from open_diht.filters.spotting.spotter import SpotterSettings, TextSpotter
from tests.common.hostile_images import encode


@pytest.fixture
def render() -> Callable[..., bytes]:
    """render(text, size=40, background="white", fill="black", format="PNG"): an image file."""
    return _render


def _render(
    text: str,
    *,
    size: int = 40,
    background: str = "white",
    fill: str = "black",
    format: str = "PNG",
) -> bytes:
    """An image file with one line of text, in the font that comes with Pillow."""
    image = Image.new("RGB", (640, 360), background)
    ImageDraw.Draw(image).text((40, 140), text, fill=fill, font=ImageFont.load_default(size))
    return encode(image, format)


@pytest.fixture(scope="session")
def spotter(ocr_models) -> Iterator[TextSpotter]:
    """A spotter with default settings, shared to save the start of its process."""
    with TextSpotter(SpotterSettings()) as running:
        yield running
