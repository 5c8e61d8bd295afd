"""How often the overlap rule is wrong, in both directions: the plain window rule of the paper
compared with ours.

1. Strings of random LAION rows against 5,000 captions: nearly every match is an accident.
2. A piece of the caption with typical OCR errors (joined, cut, one or two wrong letters): every
   miss is a loss.

Only odd rows of the caption samples are used, because the table of common words was counted on the
even ones.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.figures.figure import Figure, Side
from benchmarks.weights.label_set import cc3m_captions, laion_captions, samples_folder
from open_diht.filters.spotting.folding import fold
from open_diht.filters.spotting.overlap import (
    PAPER,
    TOLERANT,
    OverlapRule,
    SpottedText,
    overlap_lengths,
)

KIND = "quality"
MINUTES = 1
PEERS = None
RULES: dict[str, OverlapRule] = {
    "the rule of `paper`": PAPER,
    "that of `strict` and `balanced`": TOLERANT,
}
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
    "no error": lambda piece, rng: piece,
    "upper case, words joined": lambda piece, rng: piece.upper().replace(" ", ""),
    "last letter lost": lambda piece, rng: piece[:-1],
    "one letter too many": lambda piece, rng: piece + rng.choice("nIl1"),
    "one wrong letter": lambda piece, rng: wrong_letters(piece, 1, rng),
    "two wrong letters": lambda piece, rng: wrong_letters(piece, 2, rng),
    "joined, one wrong letter": lambda piece, rng: wrong_letters(piece, 1, rng).replace(" ", ""),
}


Read = Sequence[tuple[str, Sequence[SpottedText]]]
"""Captions, each with the text in its image."""


def rates(name: str, work: str, cases: Mapping[str, Read]) -> list[Figure]:
    """Return how many captions of each case each rule drops."""
    figures = []
    for rule, how in RULES.items():
        sides = [
            Side(case, "", {}, [rate([text for text, _ in read], [line for _, line in read], how)])
            for case, read in cases.items()
        ]
        figures.append(Figure(name, f"% dropped by {rule}", work, sides, ""))
    return figures


def measure(quick: bool, work: Path) -> list[Figure]:
    rng = random.Random(1)
    folder = samples_folder(None)
    count = 200 if quick else 5_000
    samples = {
        name: [" ".join(caption.split()) for caption in captions[1::2] if caption][:count]
        for name, captions in (("LAION", laion_captions(folder)), ("CC3M", cc3m_captions(folder)))
    }
    accidents: dict[str, Read] = {}
    for name, captions in samples.items():
        for amount, blocks in (("a few lines", 1), ("a page", 5)):
            read = []
            for caption in captions:
                texts = samples["LAION"]
                drawn = [text for _ in range(blocks) if (text := rng.choice(texts)) != caption]
                if lines := [line for text in drawn for line in as_lines(text, rng, 6)]:
                    read.append((caption, lines))
            accidents[f"captions of {name}, {amount} of others"] = read
    pieces = [
        (caption, piece)
        for caption in samples["LAION"][:3_000]
        if (piece := piece_of(caption, rng))
    ]
    hits: dict[str, Read] = {
        damage: [(caption, [(change(piece, rng), SCORE)]) for caption, piece in pieces]
        for damage, change in ERRORS.items()
    }
    return [
        *rates("accidents", "captions next to text of other captions, which is wrong", accidents),
        *rates("hits", f"{len(pieces):,} captions of LAION next to a piece of them", hits),
    ]
