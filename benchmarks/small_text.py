"""Measure what each effort of the text spotter finds of small text in photographs of streets, and
what it costs.

    python -m benchmarks.small_text [--data FOLDER] [--repeats 3]

The words are those that people transcribed in images 1 to 212 of ICDAR 2015, "Incidental Scene
Text" (three letters or more). The images are fetched from a public repository into FOLDER and serve
as a measure alone: their license is unknown, so they must not be passed on. Settings were chosen on
images 1 to 100; 101 to 212 chose nothing. As in a run, images are stored with 512 pixels on the
longer side.

- Recall, by a word's height where the image has 336 pixels on the longer side, as for a ViT-L/14 at
  336: a line at the middle of the word contains it, and has a score of .8 or more.
- Legible: the small recognizer reads a word in the box that people drew, at 336 or 512 pixels, with
  a score of .8.
- Captions: "A sign that says WORD", with the longest word of an image (five letters or more, the
  first of equals). By the plain rule each should be rejected for its own image, and for no other
  one whose words do not share five letters.
- Ordinary pictures are those of data/sample at 512 pixels. Cost is CPU time of one thread for all
  of them, as a ratio to low; efforts take turns. Found are captions whose text is in the image;
  other rejected captions are false.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from benchmarks.measuring import in_turn, parser_of, print_table, processor, ratios
from open_diht.common.command_line import OK, exit_status
from open_diht.common.pinned import check_pinned
from open_diht.eval.errors import FetchFailed
from open_diht.eval.fetch.download import download
from open_diht.filters.spotting.folding import fold
from open_diht.filters.spotting.ocr.detection import Pixels, Quad
from open_diht.filters.spotting.ocr.engine import Engine, Line
from open_diht.filters.spotting.ocr.jpeg import decode_jpeg
from open_diht.filters.spotting.ocr.lines import cut_line, to_strip
from open_diht.filters.spotting.overlap import PAPER, overlap
from open_diht.filters.spotting.settings import EFFORTS, Spotted, SpotterSettings
from open_diht.filters.spotting.worker import answers
from open_diht.pipelines.fetch.settings import DownloadSettings
from open_diht.pipelines.fetch.tool import load_tool

REPOSITORY = "minsu1206/OCRdistill/885d1416608d3e26e031e624cc7d474a16a84edc"
PLACES = {
    "ch4_training_images": "img_{}.jpg",
    "ch4_training_localization_transcription_gt": "gt_img_{}.txt",
}
SHA256 = "eb42a9f088041408ee95e4931b29c81aae245090463e212f1b034b3d5a792b77"
"""Digest of FOLDER with all images and transcriptions."""
IMAGES = range(1, 213)
DEVELOPMENT = 100
SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample"
SIDES = (336, 512)
HEIGHTS = (0, 3, 4, 5, 6, 7, 8, 10, 14)
"""Least heights of the groups of words, in pixels."""


@dataclass(frozen=True)
class Word:
    text: str
    middle: tuple[float, float]
    """In pixels of the stored image."""
    height: float
    """At 336 pixels."""
    legible: tuple[bool, ...]
    """At each of SIDES."""


@dataclass(frozen=True)
class Picture:
    """A stored image and its words."""

    data: bytes
    words: Sequence[Word]
    folded: Sequence[str]
    """All transcribed texts, shorter ones too."""

    @property
    def quoted(self) -> Word | None:
        """The word that the caption quotes, or None without one that is long enough."""
        long = (word for word in self.words if letters(word.text) >= PAPER.min_chars)
        return max(long, key=lambda word: letters(word.text), default=None)


def letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def fetched(folder: Path, address: str) -> list[Picture]:
    """Return the pictures, fetched into `folder` if they are not there. Raises `FetchFailed`."""
    for number in IMAGES:
        for place, name in PLACES.items():
            file = name.format(number)
            download(f"{address}/{REPOSITORY}/{place}/{file}", folder / file)
    check_pinned(folder, SHA256, FetchFailed, "remove it and run the same command again")
    reader = Engine(SpotterSettings(model="small"))
    return [
        picture([folder / name.format(number) for name in PLACES.values()], reader)
        for number in IMAGES
    ]


def picture(files: Sequence[Path], reader: Engine) -> Picture:
    """Read an image and its transcription: eight coordinates and a text a line, ### for what people
    cannot read."""
    image, transcription = files
    data = image.read_bytes()
    pixels: Pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)  # type: ignore[assignment]
    longest = max(pixels.shape)
    kept = stored([data])[0]
    views = [
        cv2.resize(pixels, None, fx=s / longest, fy=s / longest, interpolation=cv2.INTER_AREA)
        for s in SIDES
    ]
    rows = [line.split(",", 8) for line in transcription.read_text("utf-8-sig").splitlines()]
    words = []
    for *numbers, text in (row for row in rows if row[-1] != "###" and letters(row[-1]) >= 3):
        quad = np.array(numbers, np.float64).reshape(4, 2)
        sides = np.linalg.norm(quad[[0, 1]] - quad[[3, 2]], axis=1)
        legible = tuple(
            legibly(view, np.rint(quad * side / longest).astype(np.int32), text, reader)  # type: ignore[arg-type]
            for view, side in zip(views, SIDES, strict=True)
        )
        x, y = quad.mean(axis=0) * SIDES[1] / longest
        words.append(Word(text, (x, y), sides.mean() * SIDES[0] / longest, legible))
    return Picture(kept, words, [fold(row[-1]).chars for row in rows if row[-1] != "###"])


def legibly(view: Pixels, box: Quad, text: str, reader: Engine) -> bool:
    crop, turned = cut_line(view, box)
    said = reader.read([[Line(to_strip(crop), (), turned)]])[0] if crop.size else []
    return any(line.score >= 0.8 and fold(line.text).chars == fold(text).chars for line in said)


def stored(files: Iterable[bytes]) -> list[bytes]:
    """Return images as a run stores them, without those that it does not."""
    resizer = load_tool()[1](DownloadSettings())
    return [data for data, *_ in (resizer(io.BytesIO(file)) for file in files) if data]


def read(engine: Engine, files: Sequence[bytes]) -> list[list[Spotted]]:
    """Return the lines of each image, read as in the OCR process of a run."""
    size = engine.settings.batch
    limits = engine.settings.limits
    some = (files[at : at + size] for at in range(0, len(files), size))
    said = (reply for batch in some for reply in answers(batch, limits, engine, decode_jpeg))
    return [
        [Spotted(text=text, score=score, box=box) for text, score, box in reply["spotted"]]
        for reply in said
    ]


def rejects(text: str, lines: Sequence[Spotted]) -> bool:
    return (
        overlap(text, [(line.text, line.score) for line in lines], PAPER).length >= PAPER.min_chars
    )


def finds(word: Word, lines: Sequence[Spotted]) -> bool:
    """Return whether a line at the middle of a word contains it."""
    return any(
        line.score >= 0.8
        and fold(word.text).chars in fold(line.text).chars
        and cv2.pointPolygonTest(np.array(line.box, np.float32), word.middle, True) >= -4
        for line in lines
    )


def caption(word: Word) -> str:
    return f"A sign that says {word.text}"


def print_recall(
    pictures: Sequence[Picture], lines: Mapping[str, Sequence[Sequence[Spotted]]]
) -> None:
    """Print the recall by height: of the efforts, and of the small recognizer in boxes that people
    drew."""
    pairs = [(word, index) for index, one in enumerate(pictures) for word in one.words]
    group = np.searchsorted(HEIGHTS, [word.height for word, _ in pairs], side="right") - 1
    found = {
        name: [finds(word, some[index]) for word, index in pairs] for name, some in lines.items()
    }
    found |= {
        f"legible at {side} px": [word.legible[at] for word, _ in pairs]
        for at, side in enumerate(SIDES)
    }
    groups = [group == at for at in range(len(HEIGHTS))] + [group >= 0]
    heights = [
        *(f"{low}-{high}" for low, high in pairwise(HEIGHTS)),
        f"{HEIGHTS[-1]} and more",
        "all",
    ]
    print(f"\nRecall by height (px where the longer side has {SIDES[0]}):\n")
    recalls = [[f"{np.mean(np.array(of)[those]):.2f}" for of in found.values()] for those in groups]
    rows = zip(heights, groups, recalls, strict=True)
    print_table(
        ["height", "words", *found],
        [[name, int(those.sum()), *cells] for name, those, cells in rows],
    )


def decisions(pictures: Sequence[Picture], lines: Sequence[Sequence[Spotted]]) -> list[str]:
    """Return how many captions are rejected for their own images, of each legibility, and for
    others."""
    quoted = [(index, one.quoted) for index, one in enumerate(pictures) if one.quoted]
    own = np.array([rejects(caption(word), lines[index]) for index, word in quoted])
    legible = np.array([(*word.legible, True) for _, word in quoted])
    first = np.array([index < DEVELOPMENT for index, _ in quoted])
    cells = [
        f"{(own & first & those).sum()} + {(own & ~first & those).sum()} of {those.sum()}"
        for those in legible.T
    ]
    others = [
        rejects(caption(word), lines[other])
        for index, word in quoted
        for other, _ in quoted
        if other != index and not shares(caption(word), pictures[other])
    ]
    return [*cells, f"{sum(others)} of {len(others):,}"]


def shares(text: str, one: Picture) -> bool:
    """Return whether a caption repeats letters of an image according to its transcription."""
    chars = fold(text).chars
    length = PAPER.min_chars
    return any(
        chars[at : at + length] in said
        for said in one.folded
        for at in range(len(chars) - length + 1)
    )


def sample() -> tuple[dict[str, bytes], list[tuple[str, str, bool]]]:
    """Return the ordinary pictures, by name, and each caption with its picture's name and whether
    its text is there."""
    files = {
        path.name: kept
        for path in sorted((SAMPLE / "images").iterdir())
        for kept in stored([path.read_bytes()])
    }
    with (SAMPLE / "manifest.tsv").open(encoding="utf-8", newline="") as rows:
        manifest = list(csv.DictReader(rows, delimiter="\t", quoting=csv.QUOTE_NONE))
    with (SAMPLE / "expected.tsv").open(encoding="utf-8") as rows:
        styles = [row["style"] for row in csv.DictReader(rows, delimiter="\t")]
    pairs = [
        (Path(row["image_path"]).name, row["caption"], style)
        for row, style in zip(manifest, styles, strict=True)
    ]
    return files, [
        (name, said, style == "text_overlap") for name, said, style in pairs if name in files
    ]


def measure(options: argparse.Namespace) -> int:
    pictures = fetched(options.data, options.address)
    engines: dict[str, Engine] = {
        name: Engine(SpotterSettings(effort=name).resolved()) for name in EFFORTS
    }
    lines = {name: read(engine, [one.data for one in pictures]) for name, engine in engines.items()}
    print(processor())
    print_recall(pictures, lines)
    files, captions = sample()
    ordinary: dict[str, dict[str, list[Spotted]]] = {}

    def read_all(name: str) -> None:
        ordinary[name] = dict(zip(files, read(engines[name], list(files.values())), strict=True))

    sides = {name: partial(read_all, name) for name in engines}
    costs = in_turn(sides, options.repeats, time.process_time)

    def row(name: str) -> list[str]:
        low, middle, high = ratios(costs[name], costs["low"])
        judged = [(own, rejects(said, ordinary[name][file])) for file, said, own in captions]
        groups = [
            [rejected for own, rejected in judged if own == wanted] for wanted in (True, False)
        ]
        counts = [f"{sum(some)} of {len(some)}" for some in groups]
        return [
            name,
            *decisions(pictures, lines[name]),
            f"{middle:.2f} ({low:.2f} to {high:.2f})",
            *counts,
        ]

    print(
        f"\nCaptions rejected, images 1-{DEVELOPMENT} + the others; {len(files)} ordinary"
        " pictures:\n"
    )
    head = [
        "effort",
        *(f"legible at {side}" for side in SIDES),
        "all",
        "false",
        "ordinary cost",
        "found",
        "false",
    ]
    print_table(head, map(row, engines))
    return OK


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Return 0, or 2 if a file cannot be fetched."""
    parser = parser_of("benchmarks.small_text", __doc__)
    parser.add_argument(
        "--data", type=Path, default=Path("out/small-text"), help="default out/small-text"
    )
    parser.add_argument(
        "--address",
        default="https://raw.githubusercontent.com",
        help="of GitHub's files, or a copy",
    )
    parser.add_argument("--repeats", type=int, default=3)
    return exit_status(lambda: measure(parser.parse_args(arguments)), wrong_use=(FetchFailed,))


if __name__ == "__main__":
    sys.exit(main())
