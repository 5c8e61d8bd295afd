"""Which text is found in images: straight, turned, along arcs, stacked, faint, small, photographed; and false hits.

    python -m benchmarks.text_shapes [--part test] [--count 25] [--sides ours PaddleOCR] [--curves]

A piece of a caption of the sample is drawn onto a photograph without text. A hit is an image whose caption overlaps
what was read in it, a false hit one of twenty other captions that has nothing of the piece and overlaps nevertheless.
`development` and `test` share neither fonts nor captions: thresholds were chosen on the first, with the system's DejaVu
and Pillow's own font; `test` has the fonts of the packages in TEST_FONTS, which the extra `dev` installs. `--curves`
says instead how many are found by the size of the font, straight and upward, and by the opacity of the letters.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import io
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.rendered_text import photographs
from open_diht.filters.spotting.decode import DecodeLimits, decode_image
from open_diht.filters.spotting.folding import fold
from open_diht.filters.spotting.ocr.engine import Engine
from open_diht.filters.spotting.ocr.paddle import PaddleEngine
from open_diht.filters.spotting.overlap import TOLERANT, overlap
from open_diht.filters.spotting.settings import SpotterSettings

DEVELOPMENT_FONTS: Final = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf", "")
"""Of the system; "" is Pillow's own."""
TEST_FONTS: Final = {
    "font_roboto": ("Roboto-Regular.ttf", "Roboto-Black.ttf"),
    "font_lato": ("Lato-Bold.ttf", "Lato-Italic.ttf"),
    "font_caladea": ("Caladea-Regular.ttf", "Caladea-Bold.ttf"),
    "font_fredoka_one": ("FredokaOne-Regular.ttf",),
    "font_source_serif_pro": ("SourceSerifPro-Bold.ttf", "SourceSerifPro-It.ttf"),
}
SIDE: Final = 640
SIZES: Final = (8, 10, 12, 14, 16, 20, 24, 32)
"""Of fonts, in pixels of an image of SIDE; capitals are seven tenths of it."""
OPACITIES: Final = (50, 70, 90, 110, 130, 160, 200)
"""Of 255, of the letters; their outline has a third."""
OTHERS: Final = 20
SIDES: Final[dict[str, type[Engine] | type[PaddleEngine]]] = {"ours": Engine, "PaddleOCR": PaddleEngine}
Layer = Image.Image
"""Letters on nothing: mode RGBA."""


@dataclass(frozen=True)
class Ink:
    """How text is drawn."""

    font: str
    """File of the font; "" for Pillow's own."""
    height: int
    """In pixels."""
    colours: tuple[tuple[int, ...], tuple[int, ...]]
    """Of the letters and of their outline or plate, RGBA."""
    plate: bool
    """On a plate, else outlined."""

    def load(self) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
        return ImageFont.truetype(self.font, self.height) if self.font else ImageFont.load_default(self.height)


def straight(text: str, ink: Ink, rng: random.Random) -> Layer:
    font, edge = ink.load(), max(1, ink.height // 14)
    left, top, right, bottom = ImageDraw.Draw(Image.new("L", (1, 1))).textbbox((0, 0), text, font, stroke_width=edge)
    letters, paper = ink.colours
    layer = Image.new("RGBA", (int(right - left) + 12, int(bottom - top) + 8), paper if ink.plate else (0, 0, 0, 0))
    outline = {} if ink.plate else {"stroke_width": edge, "stroke_fill": paper}
    ImageDraw.Draw(layer).text((6 - left, 4 - top), text, letters, font, **outline)  # type: ignore[arg-type]
    return layer


def upward(text: str, ink: Ink, rng: random.Random) -> Layer:
    return straight(text, ink, rng).transpose(Image.Transpose.ROTATE_90)


def downward(text: str, ink: Ink, rng: random.Random) -> Layer:
    return straight(text, ink, rng).transpose(Image.Transpose.ROTATE_270)


def arc(text: str, ink: Ink, rng: random.Random) -> Layer:
    """Bent over (two of three) or under a circle, along a third to two thirds of it."""
    line = np.asarray(straight(text, ink, rng))
    height, width = line.shape[:2]
    turn = rng.uniform(2.0, 4.0)
    radius, over = width / turn, rng.random() < 2 / 3
    size = int(2 * (radius + height))
    across, down = np.meshgrid(np.arange(size) - size / 2, np.arange(size) - size / 2)
    distance, angle = np.hypot(across, down), np.arctan2(across, -down if over else down)
    x = (angle / turn + 0.5) * width
    y = radius + height / 2 - distance if over else distance - radius + height / 2
    bent = cv2.remap(line, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)
    bent[np.abs(angle) > turn / 2] = 0
    layer = Image.fromarray(bent)
    return layer.crop(layer.getbbox())


def stacked(text: str, ink: Ink, rng: random.Random) -> Layer:
    """Upright letters in a column, as on shop signs."""
    letters = [straight(letter, ink, rng) for letter in text if letter.strip()]
    pitch = max(letter.height for letter in letters) if ink.plate else int(ink.height * rng.uniform(0.9, 1.2))
    wide = max(letter.width for letter in letters)
    column = Image.new("RGBA", (wide, pitch * len(letters) + 8), ink.colours[1] if ink.plate else (0, 0, 0, 0))
    for index, letter in enumerate(letters):
        column.alpha_composite(letter, ((wide - letter.width) // 2, index * pitch))
    return column


def perspective(text: str, ink: Ink, rng: random.Random) -> Layer:
    line = np.asarray(straight(text, ink, rng))
    height, width = line.shape[:2]
    slant, squeeze = rng.uniform(-0.35, 0.35) * width * 0.5, rng.uniform(0.5, 0.9)
    shift, depth = max(0.0, -slant), height * (1 - squeeze) / 2
    corners = [(0, shift), (width, shift + slant + depth), (width, shift + slant + height - depth), (0, shift + height)]
    source = np.array(((0, 0), (width, 0), (width, height), (0, height)), np.float32)
    matrix = cv2.getPerspectiveTransform(source, np.array(corners, np.float32))
    return Image.fromarray(cv2.warpPerspective(line, matrix, (width, int(height + abs(slant) + height))))


SHAPES: Final[dict[str, Callable[[str, Ink, random.Random], Layer]]] = {
    "straight": straight,
    "upward": upward,
    "downward": downward,
    "arc": arc,
    "stacked": stacked,
    "faint": straight,
    "small": straight,
    "perspective": perspective,
}


def make_ink(shape: str, fonts: Sequence[str], rng: random.Random) -> Ink:
    height = rng.randint(11, 14) if shape == "small" else rng.randint(22, 44)
    dark = rng.random() < 0.5
    letters, paper = ((20, 20, 60), (250, 250, 240)) if dark else ((255, 255, 255), (20, 20, 20))
    if shape == "faint":
        opacity = rng.randint(70, 110)
        return Ink(rng.choice(fonts), height, ((*letters, opacity), (*paper, opacity // 3)), False)
    return Ink(rng.choice(fonts), height, ((*letters, 255), (*paper, 255)), rng.random() < 0.5)


@dataclass(frozen=True)
class Example:
    """An image with a piece of its caption in it."""

    shape: str
    data: bytes
    piece: str
    """What is written in it."""
    caption: str


def piece_of(caption: str, shape: str, rng: random.Random) -> str | None:
    """Neighbouring words with 8 to 24 letters, stacked ones a word of 6 to 10; None where the caption has none."""
    words, (least, most) = caption.split(), (6, 10) if shape == "stacked" else (8, 24)
    for _ in range(20):
        start, count = rng.randrange(len(words)), 1 if shape == "stacked" else rng.randint(1, 4)
        piece = " ".join(words[start : start + count])
        found = overlap(caption, [(piece, 1.0)], TOLERANT).length >= TOLERANT.min_chars
        if piece.isascii() and found and least <= len(fold(piece).chars) <= most:
            return piece
    return None


def render(
    shape: str,
    captions: Sequence[str],
    fonts: Sequence[str],
    rng: random.Random,
    change: Callable[[Ink], Ink] = lambda ink: ink,
) -> Example:
    """An image of the given shape of text, in ink that was changed; tries captions and places until one fits."""
    photos = photographs()
    while True:
        caption = rng.choice(captions)
        piece = piece_of(caption, shape, rng)
        if piece is None:
            continue
        ink = change(make_ink(shape, fonts, rng))
        layer = SHAPES[shape](piece if rng.random() < 0.6 else piece.upper(), ink, rng)
        photo = Image.open(rng.choice(photos)).convert("RGB")
        scale = SIDE / max(photo.size)
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)))
        if layer.width + 16 > photo.width or layer.height + 16 > photo.height:
            continue
        at = rng.randint(8, photo.width - layer.width - 8), rng.randint(8, photo.height - layer.height - 8)
        photo.paste(layer, at, layer)
        if shape == "perspective":
            photo = photo.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1)))
        file = io.BytesIO()
        photo.save(file, "JPEG", quality=rng.choice((60, 75, 90)))
        return Example(shape, file.getvalue(), piece, caption)


def fonts_of(part: str) -> list[str]:
    """Files of the part's fonts. Raises SystemExit where a package is not installed."""
    if part == "development":
        return list(DEVELOPMENT_FONTS)
    files = []
    for package, names in TEST_FONTS.items():
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(f"the font package {package.replace('_', '-')} is not installed: pip install '.[dev]'")
        files += [str(Path(spec.submodule_search_locations[0]) / "files" / name) for name in names]
    return files


def captions_of(part: str) -> list[str]:
    """The sample's captions: even rows for development, odd ones for the test."""
    manifest = Path(__file__).resolve().parents[1] / "data" / "sample" / "manifest.tsv"
    with manifest.open(encoding="utf-8", newline="") as file:
        captions = [row["caption"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    return [caption for caption in captions[part == "test" :: 2] if len(caption.split()) > 1]


def read_texts(engine: Engine | PaddleEngine, examples: Sequence[Example]) -> list[list[tuple[str, float]]]:
    found = [engine.find(decode_image(example.data, DecodeLimits())) for example in examples]
    return [[(line.text, line.score) for line in lines] for lines in engine.read(found)]  # type: ignore[arg-type]


def is_hit(caption: str, strings: Sequence[tuple[str, float]]) -> bool:
    return overlap(caption, strings, TOLERANT).length >= TOLERANT.min_chars


def of_opacity(ink: Ink, opacity: int) -> Ink:
    letters, paper = ink.colours
    return replace(ink, height=32, colours=((*letters[:3], opacity), (*paper[:3], opacity // 3)), plate=False)


def curves(captions: Sequence[str], fonts: Sequence[str], rng: random.Random, count: int) -> None:
    """Tables of how many are found by our spotter, out of `count` each."""
    engine = Engine(SpotterSettings())

    def hits(shape: str, change: Callable[[Ink], Ink]) -> int:
        examples = [render(shape, captions, fonts, rng, change) for _ in range(count)]
        found = read_texts(engine, examples)
        return sum(is_hit(one.caption, strings) for one, strings in zip(examples, found, strict=True))

    print(f"| found of {count}, font of | {' | '.join(f'{size} px' for size in SIZES)} |\n{'|---' * (len(SIZES) + 1)}|")
    for shape in ("straight", "upward"):
        found = [hits(shape, lambda ink, size=size: replace(ink, height=size)) for size in SIZES]  # type: ignore[misc]
        print(f"| {shape} | {' | '.join(map(str, found))} |", flush=True)
    print(
        f"\n| opacity of 32 px | {' | '.join(f'{o / 255:.0%}' for o in OPACITIES)} |\n{'|---' * (len(OPACITIES) + 1)}|"
    )
    found = [hits("faint", lambda ink, opacity=opacity: of_opacity(ink, opacity)) for opacity in OPACITIES]  # type: ignore[misc]
    print(f"| faint | {' | '.join(map(str, found))} |", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("development", "test"), default="test")
    parser.add_argument("--count", type=int, default=25, help="images of each shape")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--curves", action="store_true", help="by size and opacity")
    options = parser.parse_args(arguments)
    rng = random.Random(f"{options.part} {options.seed}")
    captions, fonts = captions_of(options.part), fonts_of(options.part)
    if options.curves:
        curves(captions, fonts, rng, options.count)
        return
    examples = [render(shape, captions, fonts, rng) for shape in options.shapes for _ in range(options.count)]
    others = [
        [caption for caption in rng.sample(captions, OTHERS) if not is_hit(caption, [(one.piece, 1.0)])]
        for one in examples
    ]
    print(f"| {options.part} | {' | '.join([*options.shapes, 'all', 'false hits'])} |")
    print("|---" * (len(options.shapes) + 3) + "|")
    for side in options.sides:
        strings = read_texts(SIDES[side](SpotterSettings()), examples)
        hits = Counter(one.shape for one, found in zip(examples, strings, strict=True) if is_hit(one.caption, found))
        false = sum(is_hit(caption, found) for found, some in zip(strings, others, strict=True) for caption in some)
        shares = [f"{hits[shape]} of {options.count}" for shape in options.shapes]
        whole = f"{hits.total()} of {len(examples)}"
        print(f"| {side} | {' | '.join(shares)} | {whole} | {false} of {sum(map(len, others)):,} pairs |", flush=True)


if __name__ == "__main__":
    main()
