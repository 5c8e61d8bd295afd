"""What CAT says of pairs: runs of the product's own filter, read back as one word a pair.

Also pairs that a crawl has and a curated set has not: alt texts of LAION, as img2dataset's tests have ten thousand of
them, for images that they do not belong to; and captions drawn into images, which a reader of text would match without
looking. Both are decided by CAT like any other pair.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from open_diht.common.command_line import WrongUse
from open_diht.common.files import published
from open_diht.eval.fetch.writing import jpeg, write_tar

WIDTH, HEIGHT = 320, 240
_SIZES = (18, 22, 26)
_LETTER = 0.52
"""Width of a letter of Pillow's own font, in units of its size."""
KEPT = "kept"


class FilterFailed(WrongUse):
    """The filter ended with an error; the message has its last line."""


@dataclass(frozen=True)
class Decided:
    """A pair and what became of it."""

    caption: str
    verdict: str
    """`kept`, or the reason of its rejection."""


def run_filter(*options: str) -> None:
    """`python -m open_diht.pipelines` with these options. It goes on where an earlier run was stopped. Raises
    `FilterFailed`."""
    done = subprocess.run([sys.executable, "-m", "open_diht.pipelines", *options], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise FilterFailed(
            f"`python -m open_diht.pipelines {' '.join(options)}` ended with {done.returncode}: {said[-1]}"
        )


def decided(output: Path, name: str) -> dict[str, Decided]:
    """What a finished run says of every pair, by the text in its column `name`; dead letters are not among them."""
    found = {}
    for kind in ("kept", "rejected"):
        for path in sorted((output / kind).glob("*.parquet")):
            wanted = [name, "caption", *(["reason"] if kind == "rejected" else [])]
            for row in pq.read_table(path, columns=wanted).to_pylist():
                found[str(row[name])] = Decided(row["caption"], row.get("reason", KEPT))
    return found


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
