"""How often the overlap rule is wrong, in both directions: the plain window rule of the paper beside ours.

    python benchmarks/overlap_false_positives.py [--captions FILE ...] [--rendered 200]

1. Strings of one row against the caption of another row: every match is an accident.
2. A piece of the caption with the errors OCR makes (joined, cut, one or two wrong letters): every miss is a loss.
3. A piece of the caption rendered onto a photograph and read by the real spotter, by text height.

Captions come from files (.parquet with a column TEXT, .tsv with the caption first, .txt): one caption per row. Only odd
rows are used, because the table of common words was counted on the even rows of these samples.
"""

from __future__ import annotations

import argparse
import random
import string
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.rendered_text import photographs, render_onto_photo  # noqa: E402
from open_diht.filters.spotting.folding import fold  # noqa: E402
from open_diht.filters.spotting.overlap import PAPER, TOLERANT, OverlapRule, SpottedText, overlap_lengths  # noqa: E402
from open_diht.filters.spotting.spotter import SpotterError, Spotting, TextSpotter  # noqa: E402
from open_diht.filters.spotting.weights import WeightsMissing  # noqa: E402

SAMPLES = ROOT.parent / "shared" / "samples"
DEFAULT_CAPTIONS = (
    SAMPLES / "img2dataset" / "test_10000.parquet",
    SAMPLES / "cc3m_validation" / "Validation_GCC-1.1.0-Validation.tsv",
)
RULES: dict[str, OverlapRule] = {"plain": PAPER, "ours": TOLERANT}
SCORE = 0.95
LEAST_PIECE = 8  # letters and digits of the shortest piece of a caption that counts as overlapping text


def read_captions(path: Path) -> list[str]:
    """The captions of the odd rows, white space made single."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = pq.read_table(path)["TEXT"].to_pylist()
    else:
        rows = [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    return [" ".join(row.split()) for row in rows[1::2] if row]


def rate(captions: Sequence[str], spotted: Sequence[Sequence[SpottedText]], rule: OverlapRule) -> float:
    """Proportion of rows that the rule drops, in percent."""
    lengths = overlap_lengths(captions, spotted, rule)
    return 100 * sum(length >= rule.min_chars for length in lengths) / len(lengths)


def as_lines(caption: str, rng: random.Random, most: int) -> list[SpottedText]:
    """A caption as OCR would give it from an image: lines of one to four words, at most so many."""
    words = caption.split()
    lines: list[SpottedText] = []
    while words and len(lines) < most:
        count = rng.randint(1, 4)
        lines.append((" ".join(words[:count]), SCORE))
        words = words[count:]
    return lines


def piece_of(caption: str, rng: random.Random) -> str | None:
    """One to five neighbouring words with at least LEAST_PIECE letters; None where the caption has none."""
    words = caption.split()
    for _ in range(10):
        start, count = rng.randrange(len(words)), rng.randint(1, 5)
        piece = " ".join(words[start : start + count])
        if len(fold(piece).chars) >= LEAST_PIECE and piece.isascii():
            return piece
    return None


def wrong_letters(piece: str, count: int, rng: random.Random) -> str:
    places = [index for index, char in enumerate(piece) if char.isalpha()]
    letters = list(piece)
    for index in rng.sample(places, min(count, len(places))):
        letters[index] = rng.choice([char for char in string.ascii_lowercase if char != letters[index].lower()])
    return "".join(letters)


ERRORS: dict[str, Callable[[str, random.Random], str]] = {
    "none": lambda piece, rng: piece,
    "upper case, words joined": lambda piece, rng: piece.upper().replace(" ", ""),
    "last letter lost": lambda piece, rng: piece[:-1],
    "one letter too many": lambda piece, rng: piece + rng.choice("nIl1"),
    "one wrong letter": lambda piece, rng: wrong_letters(piece, 1, rng),
    "two wrong letters": lambda piece, rng: wrong_letters(piece, 2, rng),
    "joined, one wrong letter": lambda piece, rng: wrong_letters(piece, 1, rng).replace(" ", ""),
}


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def false_positives(samples: dict[str, list[str]], rng: random.Random) -> None:
    """Table 1."""
    texts = next(iter(samples.values()))
    rows = []
    for name, captions in samples.items():
        for amount, blocks in (("a few lines", 1), ("a page of lines", 5)):
            pairs = [
                (captions[row], [line for _ in range(blocks) for line in as_lines(rng.choice(texts), rng, 6)])
                for row in range(min(5000, len(captions)))
            ]
            pairs = [(caption, lines) for caption, lines in pairs if lines]
            columns = [caption for caption, _ in pairs], [lines for _, lines in pairs]
            rows.append([name, amount, str(len(pairs)), *(f"{rate(*columns, rule):.2f} %" for rule in RULES.values())])
    print_table("Accidents: text of other rows", ["captions", "text in the image", "rows", *RULES], rows)


def synthetic_hits(captions: Sequence[str], rng: random.Random) -> None:
    """Table 2."""
    pieces = [(caption, piece) for caption in captions[:3000] if (piece := piece_of(caption, rng))]
    rows = []
    for name, damage in ERRORS.items():
        spotted = [[(damage(piece, rng), SCORE)] for _, piece in pieces]
        rates = [f"{rate([caption for caption, _ in pieces], spotted, rule):.1f} %" for rule in RULES.values()]
        rows.append([name, str(len(pieces)), *rates])
    print_table("Hits: a piece of the caption with errors", ["errors", "rows", *RULES], rows)


def rendered_hits(captions: Sequence[str], count: int, rng: random.Random) -> None:
    """Table 3, and its strings against the captions of other rows."""
    photos = photographs()
    rows, all_captions, all_spotted = [], [], []
    with TextSpotter() as spotter:
        for height in (10, 14, 20, 32):
            pairs = []
            for caption in rng.sample(list(captions), len(captions)):
                piece = piece_of(caption, rng)
                image = render_onto_photo(piece, height, rng.choice((512, 640)), rng, photos) if piece else None
                if image:
                    pairs.append((caption, image))
                if len(pairs) == max(1, count // 4):
                    break
            spotted = [
                [(line.text, line.score) for line in result.spotted] if isinstance(result, Spotting) else []
                for result in spotter.spot(image.data for _, image in pairs)
            ]
            texts = [caption for caption, _ in pairs]
            rows.append(
                [f"{height} px", str(len(pairs)), *(f"{rate(texts, spotted, rule):.1f} %" for rule in RULES.values())]
            )
            all_captions += texts
            all_spotted += spotted
    print_table("Hits: rendered and read by the real spotter", ["text height", "images", *RULES], rows)
    others = [rng.choice(captions) for _ in range(40 * len(all_spotted))]
    rates = [f"{rate(others, all_spotted * 40, rule):.2f} %" for rule in RULES.values()]
    print_table("Accidents: the strings read, other captions", ["pairs", *RULES], [[str(len(others)), *rates]])


def main(arguments: Sequence[str] | None = None) -> int:
    """0, also where the captions are not at hand: then it says so and measures nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, nargs="+", default=DEFAULT_CAPTIONS, help="caption files")
    parser.add_argument("--rendered", type=int, default=200, help="images to render and read; 0 skips the OCR part")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    missing = [str(path) for path in options.captions if not path.is_file()]
    if missing:
        print(f"skipped: no captions at {', '.join(missing)}; name your own with --captions FILE")
        return 0
    rng = random.Random(options.seed)
    samples = {path.name: read_captions(path) for path in options.captions}
    first = next(iter(samples.values()))
    false_positives(samples, rng)
    synthetic_hits(first, rng)
    if options.rendered:
        try:
            rendered_hits(first, options.rendered, rng)
        except (ImportError, WeightsMissing, SpotterError) as error:
            print(f"\nskipped the rendered part: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
