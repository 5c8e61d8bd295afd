"""Images with known text for the benchmarks of text-spotting: captions rendered onto photographs of scikit-image."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PHOTOS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "rocket.jpg",
    "camera.png",
    "motorcycle_left.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
)
FONTS = ("DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSansCondensed-Oblique.ttf", "DejaVuSerif-BoldItalic.ttf")


@dataclass(frozen=True, kw_only=True)
class RenderedImage:
    """A JPEG with text in it."""

    data: bytes
    """The file."""
    text: str
    """What is written in it; empty: nothing."""


def photographs() -> list[Path]:
    """The photographs that scikit-image ships; raises ImportError without it."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    return [folder / name for name in PHOTOS if (folder / name).is_file()]


def render_onto_photo(
    text: str, height: int, side: int, rng: random.Random, photos: Sequence[Path]
) -> RenderedImage | None:
    """Writes one line, `height` pixels high, onto a photo with a longest side of `side`; None where it does not fit.

    Half of the lines stand on a plate, half have an outline as subtitles have; the font is Pillow's own or, where the
    system has it, one of DejaVu's.
    """
    photo = Image.open(rng.choice(photos)).convert("RGB")
    photo.thumbnail((side, side))
    scale = side / max(photo.size)
    photo = photo.resize((round(photo.width * scale), round(photo.height * scale)))
    draw = ImageDraw.Draw(photo)
    font = _font(height, rng)
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    if right + 16 > photo.width or bottom + 16 > photo.height:
        return None
    x, y = rng.randint(8, int(photo.width - right - 8)), rng.randint(8, int(photo.height - bottom - 8))
    dark = rng.random() < 0.5
    ink, paper = ((20, 20, 60), (250, 250, 240)) if dark else ((255, 255, 255), (0, 0, 0))
    if rng.random() < 0.5:
        draw.rectangle((x + left - 6, y + top - 4, x + right + 6, y + bottom + 4), fill=paper)
        draw.text((x, y), text, font=font, fill=ink)
    else:
        draw.text((x, y), text, font=font, fill=ink, stroke_width=max(1, height // 14), stroke_fill=paper)
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=rng.choice((60, 75, 90)))
    return RenderedImage(data=file.getvalue(), text=text)


def _font(height: int, rng: random.Random) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    name = rng.choice((None, *FONTS))
    if name is not None:
        try:
            return ImageFont.truetype(name, height)
        except OSError:  # this system has no DejaVu
            pass
    return ImageFont.load_default(height)
