"""How often the overlap rule is wrong, in both directions: the plain window rule of the paper
compared with ours.

    python -m benchmarks.overlap_false_positives [--captions FOLDER]

1. Strings of random LAION rows against 5,000 captions: nearly every match is an accident.
2. A piece of the caption with typical OCR errors (joined, cut, one or two wrong letters): every
   miss is a loss.

Only odd rows of the caption samples are used, because the table of common words was counted on the
even ones.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence

from benchmarks.measuring import parser_of, print_table
from benchmarks.weights.label_set import cc3m_captions, laion_captions, samples_folder
from open_diht.filters.spotting.folding import fold
from open_diht.filters.spotting.overlap import (
    PAPER,
    TOLERANT,
    OverlapRule,
    SpottedText,
    overlap_lengths,
)

RULES: dict[str, OverlapRule] = {"plain": PAPER, "ours": TOLERANT}
SCORE = 0.95
LEAST_PIECE = 8  # letters and digits of the shortest piece of a caption that is drawn


def rate(
    captions: Sequence[str], spotted: Sequence[Sequence[SpottedText]], rule: OverlapRule
) -> float:
    """Return the percentage of rows that the rule drops."""
    lengths = overlap_lengths(captions, spotted, rule)
    return 100 * sum(length >= rule.min_chars for length in lengths) / len(lengths)


def as_lines(caption: str, rng: random.Random, most: int) -> list[SpottedText]:
    """Return a caption as OCR would read it from an image: lines of one to four words."""
    words = caption.split()
    lines: list[SpottedText] = []
    while words and len(lines) < most:
        count = rng.randint(1, 4)
        lines.append((" ".join(words[:count]), SCORE))
        words = words[count:]
    return lines


def piece_of(caption: str, rng: random.Random) -> str | None:
    """Draw one to five neighboring ASCII words, in all LEAST_PIECE or more characters. Return None
    after ten draws."""
    words = caption.split()
    for _ in range(10):
        start = rng.randrange(len(words))
        count = rng.randint(1, 5)
        piece = " ".join(words[start : start + count])
        if len(fold(piece).chars) >= LEAST_PIECE and piece.isascii():
            return piece
    return None


def wrong_letters(piece: str, count: int, rng: random.Random) -> str:
    places = [index for index, char in enumerate(piece) if char.isalpha()]
    letters = list(piece)
    for index in rng.sample(places, min(count, len(places))):
        letters[index] = rng.choice(
            [char for char in string.ascii_lowercase if char != letters[index].lower()]
        )
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


def false_positives(samples: dict[str, list[str]], rng: random.Random) -> None:
    """Print table 1. The text comes from the first sample."""
    texts = next(iter(samples.values()))
    rows = []
    for name, captions in samples.items():
        for amount, blocks in (("a few lines", 1), ("a page of lines", 5)):
            pairs = []
            for caption in captions[:5000]:
                drawn = [text for _ in range(blocks) if (text := rng.choice(texts)) != caption]
                if lines := [line for text in drawn for line in as_lines(text, rng, 6)]:
                    pairs.append((caption, lines))
            columns = [caption for caption, _ in pairs], [lines for _, lines in pairs]
            rows.append(
                [
                    name,
                    amount,
                    str(len(pairs)),
                    *(f"{rate(*columns, rule):.2f}" for rule in RULES.values()),
                ]
            )
    print("Accidents, in percent: text of other rows\n")
    print_table(["captions", "text in the image", "rows", *RULES], rows)


def synthetic_hits(captions: Sequence[str], rng: random.Random) -> None:
    pieces = [(caption, piece) for caption in captions[:3000] if (piece := piece_of(caption, rng))]
    rows = []
    for name, damage in ERRORS.items():
        spotted = [[(damage(piece, rng), SCORE)] for _, piece in pieces]
        rates = [
            f"{rate([caption for caption, _ in pieces], spotted, rule):.1f}"
            for rule in RULES.values()
        ]
        rows.append([name, str(len(pieces)), *rates])
    print("\nHits, in percent: a piece of the caption with errors\n")
    print_table(["errors", "rows", *RULES], rows)


def main() -> None:
    parser = parser_of("benchmarks.overlap_false_positives", __doc__)
    parser.add_argument("--captions", help="folder of the caption samples")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    folder = samples_folder(options.captions)
    rng = random.Random(options.seed)
    samples = {
        name: [" ".join(caption.split()) for caption in captions[1::2] if caption]
        for name, captions in (("LAION", laion_captions(folder)), ("CC3M", cc3m_captions(folder)))
    }
    false_positives(samples, rng)
    synthetic_hits(samples["LAION"], rng)


if __name__ == "__main__":
    main()
