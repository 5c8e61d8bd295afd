"""Texts that the spotter finds, by their shape and the size of the image, and its false hits.

    python -m benchmarks.text_shapes --fonts DIR [--part test] [--count 150] [--sides 256] [--enlarge 1 2]

A piece of a LAION caption is drawn onto a photograph of the sample at 640 px. The image is reduced
to the longest side at which it would be stored, and compressed. A hit is an image whose caption
overlaps what was read in it; a false hit is one of 20 other captions that does so although it does
not overlap the piece. Every second photograph without text is read as well. The parts
`development` and `test` share no font family, row of captions or photograph. DIR has the fonts, as .ttf and
.otf; families that are not in PLAIN draw `stylized` text. Intervals are Wilson's, 95 %.
"""

from __future__ import annotations

import csv
import io
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.label_set import laion_captions, samples_folder
from benchmarks.measuring import parser_of, print_table
from benchmarks.overlap_false_positives import piece_of
from benchmarks.spotting import SAMPLE
from open_diht.common.statistics import wilson
from open_diht.filters.spotting.decode import decode_image
from open_diht.filters.spotting.ocr.engine import Engine
from open_diht.filters.spotting.overlap import TOLERANT, SpottedText, overlap
from open_diht.filters.spotting.settings import SpotterSettings

SIDE: Final = 640
OTHERS: Final = 20
PLAIN: Final = ("Andika", "Cabin", "DejaVu", "Karla", "Lato", "OldStandard", "Play", "Quattrocento", "Roboto")
CAPITALS: Final = {"tiny": (0.019, 0.03), "stacked": (0.023, 0.045)}
"""Height of capitals as a fraction of the image's longest side; of all other shapes ANY_CAPITALS."""
ANY_CAPITALS: Final = (0.03, 0.1)
SHAPES: Final = ("straight", "stylized", "turned", "curved", "tiny", "stacked")
COLUMN: Final = {"style": "outline", "cap": 22, "pitch": 1.5, "step": 120}
COLUMNS: Final[dict[str, dict[str, Any]]] = {
    "outlined, 22 px, 1.5 apart": {},
    **{f"{cap} px": {"cap": cap} for cap in (9, 12, 15, 29)},
    **{f"{pitch} apart": {"pitch": pitch} for pitch in (1.2, 2, 2.5)},
    "on a plate": {"style": "plate"},
    **{f"letters alone, {step} levels": {"style": "color", "step": step} for step in (120, 70, 40)},
    "alone, 70 levels, 12 px, 2 apart": {"style": "color", "step": 70, "cap": 12, "pitch": 2},
}
"""Columns of letters for `--columns`: what differs from COLUMN."""
UNLABELED_TEXT: Final = {"images/0037.jpg", "images/0164.jpg"}
"""Photographs with small text that their rows do not mention."""
Layer = Image.Image
"""A drawing of letters, mode RGBA."""


def draw(rows: Sequence[str], font: ImageFont.FreeTypeFont, pitch: float, style: str, dark: bool) -> Layer:
    """Return rows of letters, centered: one line, or the letters of a column.

    Args:
        rows: the texts.
        font: their font.
        pitch: distance of their base lines, in capitals.
        style: `outline`, `plate`, or `color` for letters alone.
        dark: whether the letters are dark.
    """
    _, top, _, bottom = font.getbbox("H")
    cap, wide = bottom - top, max(1, round(font.size / 14)) if style == "outline" else 0
    ink, other = ((20, 20, 60), (250, 250, 240))[:: 1 if dark else -1]
    size = round(max(map(font.getlength, rows)) + cap), round(cap * (2 + pitch * (len(rows) - 1)))
    layer = Image.new("RGBA", size, (*other, 255) if style == "plate" else (*ink, 0))
    for index, row in enumerate(rows):
        at = size[0] / 2, cap * (1.4 + pitch * index)
        ImageDraw.Draw(layer).text(at, row, ink, font, anchor="ms", stroke_width=wide, stroke_fill=other)
    return layer


def bent(layer: Layer, rng: random.Random) -> Layer:
    """Return a line bent over or under a circle, along about 70 to 180 degrees of it.

    Args:
        layer: the line.
        rng: draws the circle.
    """
    pixels = np.asarray(layer)
    height, width = pixels.shape[:2]
    turn, over = rng.uniform(1.2, 3.2), rng.random() < 2 / 3
    radius = width / turn
    across, down = np.meshgrid(*[np.arange(round(2 * (radius + height))) - radius - height] * 2)
    distance, angle = np.hypot(across, down), np.arctan2(across, -down if over else down)
    x, y = (angle / turn + 0.5) * width, (radius - distance) * (1 if over else -1) + height / 2
    curved = cv2.remap(pixels, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)
    curved[np.abs(angle) > turn / 2] = 0
    return Image.fromarray(curved).crop(Image.fromarray(curved).getbbox())


def render(
    shape: str, piece: str, fonts: Sequence[Path], photo: Path, rng: random.Random, **fixed: Any
) -> Image.Image | None:
    """Return a photograph with a text on it; None if it does not fit.

    Args:
        shape: one of SHAPES.
        piece: the text.
        fonts: files to choose from.
        photo: the photograph.
        rng: draws everything else.
        fixed: what is not drawn: style, `cap` (height of capitals, in pixels of SIDE), `pitch` (see
            `draw`), `step` (levels between letters alone and the mean of what is below them).
    """
    file = str(rng.choice([font for font in fonts if font.name.startswith(PLAIN) == (shape != "stylized")]))
    _, top, _, bottom = ImageFont.truetype(file, 100).getbbox("H")
    cap = fixed.get("cap", SIDE * float(np.exp(rng.uniform(*np.log(CAPITALS.get(shape, ANY_CAPITALS))))))
    font = ImageFont.truetype(file, round(100 * cap / (bottom - top)))
    style, dark = fixed.get("style", rng.choice(("outline", "plate", "color"))), rng.random() < 0.5
    text = piece.upper() if rng.random() < 0.4 else piece
    rows = list(text.replace(" ", "")) if shape == "stacked" else [text]
    layer = draw(rows, font, fixed.get("pitch", rng.uniform(1.3, 2)), style, dark)
    if shape == "curved":
        layer = bent(layer, rng)
    elif shape == "turned":
        degrees = rng.choice((90, 270, rng.uniform(10, 40), rng.uniform(-40, -10)))
        layer = layer.rotate(degrees, Image.Resampling.BICUBIC, expand=True)
    image = Image.open(photo).convert("RGB")
    image = image.resize([round(side * SIDE / max(image.size)) for side in image.size])
    if layer.width + 8 > image.width or layer.height + 8 > image.height:
        return None
    left, top = (rng.randint(4, most - own - 4) for most, own in zip(image.size, layer.size, strict=True))
    if style == "color":  # `step` levels from the mean of what is below, up to 40 less or more by channel
        mean = float(np.mean(np.asarray(image.crop((left, top, left + layer.width, top + layer.height)).convert("L"))))
        step = fixed.get("step", rng.uniform(70, 180)) * (1 if mean < 128 else -1)
        color = tuple(round(min(255, max(0, mean + step + rng.uniform(-40, 40)))) for _ in "RGB")
        layer.paste((*color, 255), mask=layer.getchannel("A"))
    image.paste(layer, (left, top), layer)
    return image


def stored(image: Image.Image, side: int) -> bytes:
    """Return an image as a JPEG file.

    Args:
        image: the image.
        side: its longest side in the file, in pixels.
    """
    file = io.BytesIO()
    size = [max(1, round(own * side / max(image.size))) for own in image.size]
    image.resize(size, Image.Resampling.LANCZOS).save(file, "JPEG", quality=85)
    return file.getvalue()


def photographs() -> list[Path]:
    """Return the sample's photographs without text."""
    tables = (
        csv.DictReader((SAMPLE.parent / name).open(encoding="utf-8"), delimiter="\t", quoting=csv.QUOTE_NONE)
        for name in ("manifest.tsv", "expected.tsv")
    )
    styles = [(row["image_path"], known["style"]) for row, known in zip(*tables, strict=True)]
    other = {path for path, style in styles if style.startswith(("text_", "broken"))} | UNLABELED_TEXT
    return [SAMPLE.parent / path for path in sorted({path for path, _ in styles} - other)]


def families(folder: Path, odd: int) -> list[Path]:
    """Return the fonts of every second family (the first six letters of a file's name), at most six
    of each.

    Args:
        folder: the folder of fonts.
        odd: 0 or 1.
    """
    known: dict[str, list[Path]] = {}
    for file in sorted(path for path in folder.rglob("*") if path.suffix in (".ttf", ".otf")):
        known.setdefault(re.split("[-_.]", file.name)[0][:6], []).append(file)
    return [file for name in sorted(known)[odd::2] for file in known[name][:6]]


def is_hit(caption: str, strings: Sequence[SpottedText]) -> bool:
    return overlap(caption, strings).length >= TOLERANT.min_chars


def main() -> None:
    """Print a table for each side."""
    parser = parser_of("benchmarks.text_shapes", __doc__)
    parser.add_argument("--fonts", type=Path, required=True)
    parser.add_argument("--part", choices=("development", "test"), default="test")
    parser.add_argument("--count", type=int, default=150, help="images of each shape")
    parser.add_argument("--sides", type=int, nargs="+", default=[256], help="longest sides of the stored images")
    parser.add_argument("--enlarge", type=int, nargs="+", default=[1, 2], help="values of enlarge_faint")
    parser.add_argument("--columns", action="store_true", help="columns of letters, by their properties")
    options = parser.parse_args()
    odd, rng = int(options.part == "test"), random.Random(options.part)
    fonts, photos = families(options.fonts, odd), photographs()[odd::2]
    captions = [caption for caption in laion_captions(samples_folder())[odd::2] if len(caption.split()) > 1]
    wanted = COLUMNS if options.columns else {shape: {} for shape in SHAPES}
    examples: list[tuple[str, Image.Image, str, str]] = []
    for name, fixed in wanted.items():
        shape = "stacked" if options.columns else name
        while sum(one[0] == name for one in examples) < options.count:
            caption = rng.choice(captions)
            piece = piece_of(caption, rng)
            if piece is None or not is_hit(caption, [(piece, 1.0)]) or len(piece) > (12 if shape == "stacked" else 26):
                continue
            known = COLUMN | fixed if options.columns else {}
            if image := render(shape, piece, fonts, rng.choice(photos), rng, **known):
                examples.append((name, image, piece, caption))
    examples += [("no text", Image.open(photo).convert("RGB"), "", "") for photo in photos]
    others = [[one for one in rng.sample(captions, OTHERS) if not is_hit(one, [(e[2], 1.0)])] for e in examples]
    engines = [Engine(SpotterSettings(enlarge_faint=factor)) for factor in options.enlarge]
    for side in options.sides:
        files = [stored(image, side) for _, image, _, _ in examples]
        columns: list[list[object]] = []
        before: list[bool] = []  # the hits of the first engine
        for engine in engines:
            lines = [engine.find(decode_image(file, engine.settings.limits)) for file in files]
            read = [[(line.text, line.score) for line in some] for some in engine.read(lines)]
            hits = [is_hit(caption, some) for (_, _, _, caption), some in zip(examples, read, strict=True)]
            false = sum(is_hit(one, some) for some, mine in zip(read, others, strict=True) for one in mine)
            shapes = [[hit for hit, one in zip(hits, examples, strict=True) if one[0] == shape] for shape in wanted]
            all_but_last = [hit for some in shapes[:-1] for hit in some]
            found = [f"{sum(some) / len(some):.2f}" for some in (*shapes, all_but_last)]
            low, high = wilson(sum(all_but_last), len(all_but_last))
            before = before or hits
            gained, lost = (sum(a > b for a, b in zip(*pair, strict=True)) for pair in ((hits, before), (before, hits)))
            columns.append([*found, f"{low:.2f}", f"{high:.2f}", false, gained, lost])
        pairs = sum(map(len, others))
        print(f"\n{side} px: {options.count} images of each shape, {len(photos)} without text, {pairs} false pairs\n")
        names = [*wanted, "all but the last", "low", "high", "false hits", "gained", "lost"]
        head = ["text", *(f"enlarge_faint {factor}" for factor in options.enlarge)]
        print_table(head, zip(names, *columns, strict=True))


if __name__ == "__main__":
    main()
