"""Pairs that a crawl has and a curated set has not: captions of products, and images that show their caption.

Alt texts of LAION, as img2dataset's tests have ten thousand of them, to be put beside images that they do not belong
to; and captions drawn into images, which a reader of text would match without looking. Both are decided by CAT like any
other pair.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from open_diht.common.files import published
from open_diht.eval.fetch.writing import jpeg, write_tar
from open_diht.study.verdicts import Decided, decided, run_filter

WIDTH, HEIGHT = 320, 240
_SIZES = (18, 22, 26)
_LETTER = 0.52
"""Width of a letter of Pillow's own font, in units of its size."""


def laion_captions(manifest: Path, output: Path) -> list[Decided]:
    """The captions of a parquet file with columns URL and TEXT, and what C and A say of them; `output` is the folder of
    the run that decides."""
    run_filter("--dataset", "custom", "--input", str(manifest), "--output", str(output), "--stages", "captions")
    return [one for _, one in sorted(decided(output, "uid").items())]


def drawn_images(captions: Sequence[str], seed: int) -> Iterator[Image.Image]:
    """Each caption in an image of its own: black or white on a colour, in one of three sizes."""
    generator = np.random.default_rng(seed)
    for caption in captions:
        colour = tuple(int(part) for part in generator.integers(0, 256, 3))
        size = int(generator.choice(_SIZES))
        image = Image.new("RGB", (WIDTH, HEIGHT), colour)
        ink = "black" if sum(colour) > 380 else "white"
        text = "\n".join(textwrap.wrap(caption, int((WIDTH - 20) / (size * _LETTER))))
        place = (WIDTH / 2, HEIGHT / 2)
        font = ImageFont.load_default(size)
        ImageDraw.Draw(image).multiline_text(place, text, font=font, fill=ink, anchor="mm", align="center")
        yield image


def write_drawn(path: Path, captions: Sequence[str], seed: int) -> None:
    """The same as a tar in the webdataset layout, which the filter reads."""
    images = drawn_images(captions, seed)
    samples = (
        (f"{number:06d}", {"jpg": jpeg(image, 90), "txt": caption})
        for number, (image, caption) in enumerate(zip(images, captions, strict=True))
    )
    with published(path) as temporary:
        write_tar(temporary, samples)


def drawn_verdicts(tar: Path, output: Path) -> dict[str, Decided]:
    """What CAT says of the pairs of such a tar, by their keys."""
    run_filter("--dataset", "custom", "--input", str(tar), "--output", str(output), "--stages", "captions,spotting")
    return decided(output, "__key__")
