"""CAT's decisions on pairs: runs of the product's own filter, read back as one word per pair.

Two kinds of pairs occur in a crawl but not in a curated set. The first are alt texts of LAION
(img2dataset's tests have ten thousand) with images of other pairs; CAT decides on them without T.
The second are captions drawn into images, which a model that reads text could match without looking
at anything else; CAT decides on them like on any other pair.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from open_diht.eval.errors import EvalError
from open_diht.eval.fetch.archives import jpeg
from study.images import publish_tar

WIDTH = 320
HEIGHT = 240
_SIZES = (18, 22, 26)
_LETTER = 0.52
"""Assumed mean width of a letter of Pillow's default font, in units of its size."""
KEPT = "kept"


class FilterFailed(EvalError):
    """The filter ended with an error or by a signal. The message has its last line, if any."""


@dataclass(frozen=True)
class Decided:
    caption: str
    verdict: str
    """`kept`, or the reason of the rejection."""


def run_filter(*options: str) -> None:
    """Run `python -m open_diht.pipelines` with these options; it resumes a stopped run. Raises
    `FilterFailed`."""
    command = [sys.executable, "-m", "open_diht.pipelines", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as filtering:
        # By default SIGTERM would end this process alone, and the filter still at work would bar
        # the next one.
        before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
        try:
            said = filtering.communicate()[1].strip().splitlines()
        except BaseException:
            filtering.terminate()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
    if filtering.returncode:
        raise FilterFailed(
            f"`python -m open_diht.pipelines {' '.join(options)}` ended with"
            f" {filtering.returncode}: {said[-1] if said else 'no message'}"
        )


def decided(output: Path, name: str) -> dict[str, Decided]:
    """Return the decisions of a finished run, without reading the dead-letter table."""
    found = {}
    for kind in ("kept", "rejected"):
        for path in sorted((output / kind).glob("*.parquet")):
            # Kept rows have no column of reasons.
            wanted = [name, "caption", *(["reason"] if kind == "rejected" else [])]
            for row in pq.read_table(path, columns=wanted).to_pylist():
                found[str(row[name])] = Decided(row["caption"], row.get("reason", KEPT))
    return found


def laion_captions(manifest: Path, output: Path) -> list[Decided]:
    """Return the captions of a manifest with the decisions of C and A, equal rows once. Raises
    `FilterFailed`."""
    run_filter(
        "--dataset",
        "custom",
        "--input",
        str(manifest),
        "--output",
        str(output),
        "--stages",
        "captions",
    )
    return [one for _, one in sorted(decided(output, "uid").items())]


def drawn_images(captions: Sequence[str], seed: int) -> Iterator[Image.Image]:
    """Yield an image of each caption: black or white on a color, in one of three sizes."""
    generator = np.random.default_rng(seed)
    for caption in captions:
        colour = tuple(int(part) for part in generator.integers(0, 256, 3))
        size = int(generator.choice(_SIZES))
        image = Image.new("RGB", (WIDTH, HEIGHT), colour)
        # Black on light colors, white on dark ones: the sum is between 0 and 765.
        ink = "black" if sum(colour) > 380 else "white"
        # Wrap by the assumed width of a letter, with a margin of 10 pixels on each side.
        text = "\n".join(textwrap.wrap(caption, int((WIDTH - 20) / (size * _LETTER))))
        place = (WIDTH / 2, HEIGHT / 2)
        font = ImageFont.load_default(size)
        ImageDraw.Draw(image).multiline_text(
            place, text, font=font, fill=ink, anchor="mm", align="center"
        )
        yield image


def write_drawn(path: Path, captions: Sequence[str], seed: int) -> None:
    """Write the `drawn_images` as a tar in the webdataset layout, which the filter reads."""
    pairs = enumerate(zip(drawn_images(captions, seed), captions, strict=True))
    content = (
        (f"{number:06d}", {"jpg": jpeg(image, 90), "txt": caption})
        for number, (image, caption) in pairs
    )
    publish_tar(path, content)


def drawn_verdicts(tar: Path, output: Path) -> dict[str, Decided]:
    """Return CAT's decisions on the pairs of a tar of `write_drawn`, by their keys. Raises
    `FilterFailed`."""
    run_filter(
        "--dataset",
        "custom",
        "--input",
        str(tar),
        "--output",
        str(output),
        "--stages",
        "captions,spotting",
    )
    return decided(output, "__key__")
