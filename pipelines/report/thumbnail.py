"""An image as a small embedded JPEG, with what was read in it drawn on top."""

from __future__ import annotations

import base64
import binascii
import io
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from open_diht.common.html import attribute, show
from open_diht.filters.spotting.decode import DecodeLimits, UnreadableImage, decode_image
from open_diht.filters.spotting.settings import Spotted
from open_diht.pipelines.report.data import Example

SIDE = 360
"""Longest side of a thumbnail in pixels."""
_QUALITY = 80
_MAX_BOXES = 40
_LIMITS = DecodeLimits(decode_side=2 * SIDE, max_pixels=12_000_000)
_JPEG_LIMITS = replace(_LIMITS, max_pixels=50_000_000)
"""The driver decodes these in its own memory: up to 25 bytes a pixel, of a JPEG, which is reduced while it is decoded,
up to 6. So a hostile image costs at most 300 MB."""
_JPEG = b"\xff\xd8\xff"
_GOOD, _FAIR = 0.8, 0.5


class ImageNotShown(Exception):
    """Why there is no thumbnail."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small JPEG of an image."""

    data: bytes
    width: int
    height: int
    original_width: int
    original_height: int


def make_thumbnail(source: str) -> Thumbnail:
    """The thumbnail of a file or of a base64 data url; raises `ImageNotShown` with the reason."""
    return shrink(_from_url(source) if source.startswith("data:") else _from_file(source))


def shrink(data: bytes) -> Thumbnail:
    """The thumbnail of an image as it is stored; raises `ImageNotShown` with the reason."""
    try:
        # Bombs, truncated files and odd colour modes are this function's business, and its messages say what was found.
        decoded = decode_image(data, _JPEG_LIMITS if data.startswith(_JPEG) else _LIMITS)
    except UnreadableImage as bad:
        raise ImageNotShown(str(bad)) from bad
    image = Image.fromarray(decoded.pixels[:, :, ::-1])
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY)
    return Thumbnail(buffer.getvalue(), image.width, image.height, decoded.width, decoded.height)


def _from_url(source: str) -> bytes:
    head, _, body = source.partition(",")
    if not head.endswith(";base64"):
        raise ImageNotShown("the image's data url is not base64")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageNotShown(f"the image's data url is damaged: {error}") from error


def _from_file(source: str) -> bytes:
    path = Path(source)
    try:
        if not path.is_file():  # a pipe or a device would never end
            raise ImageNotShown(f"there is no image file {source}")
        with path.open("rb") as file:
            return file.read(_LIMITS.max_bytes + 1)
    except (OSError, ValueError) as error:
        raise ImageNotShown(f"the image file cannot be read: {error}") from error


def draw_image(example: Example) -> str:
    """The image with its boxes and the list of what they say; an empty string where the row has neither."""
    if not example.image and not example.spotted:
        return ""
    spotted = example.spotted[:_MAX_BOXES]
    parts = []
    if example.image:
        try:
            parts.append(_draw_boxes(make_thumbnail(example.image), example, spotted))
        except ImageNotShown as reason:
            parts.append(f'<p class="no-image">Image not shown: {show(str(reason))}</p>')
    if spotted:
        parts.append(_list_spotted(spotted, len(example.spotted) - len(spotted)))
    elif example.overlap is not None and example.message == "":
        parts.append('<p class="quiet">No text was read in this image.</p>')
    return f'<figure class="image">{"".join(parts)}</figure>'


def _draw_boxes(thumbnail: Thumbnail, example: Example, spotted: tuple[Spotted, ...]) -> str:
    # Boxes are in pixels of the original, which an embedded image may no longer have.
    width = example.width or thumbnail.original_width
    height = example.height or thumbnail.original_height
    unit = width / thumbnail.width  # one pixel on the page
    encoded = base64.b64encode(thumbnail.data).decode("ascii")
    boxes = "".join(_draw_box(number, item, unit, width, height) for number, item in enumerate(spotted, 1))
    label = attribute(f"image of the row with {len(spotted)} boxes of text" if spotted else "image of the row")
    return (
        f'<svg class="photo" role="img" aria-label="{label}" viewBox="0 0 {width} {height}" '
        f'width="{thumbnail.width}" height="{thumbnail.height}">'
        f'<image href="data:image/jpeg;base64,{encoded}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none"/>{boxes}</svg>'
    )


def _draw_box(number: int, item: Spotted, unit: float, width: int, height: int) -> str:
    if not item.box:
        return ""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in item.box)
    chip = 8 * unit
    x = min(max(min(x for x, _ in item.box), chip), width - chip)
    y = min(max(min(y for _, y in item.box), chip), height - chip)
    return (
        f'<g class="{_grade(item.score)}"><title>{attribute(item.text)} ({item.score:.2f})</title>'
        f'<polygon class="casing" points="{points}"/><polygon class="line" points="{points}"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{chip:.2f}"/>'
        f'<text x="{x:.1f}" y="{y + 3.6 * unit:.1f}" font-size="{10 * unit:.2f}" text-anchor="middle">{number}</text>'
        "</g>"
    )


def _list_spotted(spotted: tuple[Spotted, ...], more: int) -> str:
    rows = "".join(
        f'<li><span class="chip {_grade(item.score)}">{number}</span> {show(item.text, 120)} '
        f'<span class="number">{item.score:.2f}</span></li>'
        for number, item in enumerate(spotted, 1)
    )
    rest = f'<li class="quiet">and {more:,} more</li>' if more else ""
    return f'<ol class="spotted">{rows}{rest}</ol>'


def _grade(score: float) -> str:
    return "good" if score >= _GOOD else "fair" if score >= _FAIR else "poor"
