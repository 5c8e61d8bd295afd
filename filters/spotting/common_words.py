"""The probability that a word is in any caption, for common words, which say little about one
image.

The table `common_words.txt` lists the words found in at least one of a thousand captions of a
sample; a word that is not in it is rarer in all of them. Its counts come from three public caption
samples (the header of the file names them); regenerate it with

    python -m open_diht.filters.spotting.common_words --output common_words.txt NAME=FILE ...

where FILE holds one caption per line.
"""

from __future__ import annotations

import argparse
import importlib.resources
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from open_diht.filters.spotting.folding import fold

TABLE: Final = "common_words.txt"
LEAST_CHANCE: Final = 0.001


@lru_cache(maxsize=1)
def word_chances() -> Mapping[str, float]:
    """Return folded word -> fraction of captions with it, the largest of the samples, for every word
    whose fraction is `LEAST_CHANCE` or more."""
    lines = importlib.resources.files(__package__).joinpath(TABLE).read_text(encoding="utf-8").splitlines()
    pairs = (line.split("\t") for line in lines if line and not line.startswith("#"))
    return MappingProxyType({word: float(chance) for word, chance in pairs})


def count_chances(captions: Iterable[str]) -> dict[str, float]:
    """Return folded word -> fraction of the captions with it, for the words whose fraction is
    `LEAST_CHANCE` or more.

    Raises:
        ValueError: there are no captions.
    """
    rows = 0
    counts: Counter[str] = Counter()
    for caption in captions:
        rows += 1
        counts.update(set(fold(caption).words()))
    if not rows:
        raise ValueError("no captions to count; give files with one caption per line")
    return {word: count / rows for word, count in counts.items() if count / rows >= LEAST_CHANCE}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table from named caption files: a word's chance is its largest fraction among the files."""
    parser = argparse.ArgumentParser(
        prog="python -m open_diht.filters.spotting.common_words", description="Count common caption words."
    )
    parser.add_argument("--output", type=Path, required=True, help="the table to write")
    parser.add_argument(
        "sources", nargs="+", metavar="NAME=FILE", help="one caption per line; NAME is kept as provenance"
    )
    options = parser.parse_args(arguments)
    header = [
        "# Words found in at least one of a thousand captions of a sample; word, tab, largest share among the samples."
    ]
    chances: dict[str, float] = {}
    for source in options.sources:
        name, _, path = source.partition("=")
        captions = Path(path).read_text(encoding="utf-8").splitlines()
        header.append(f"# counted in: {name} ({len(captions)} captions)")
        for word, chance in count_chances(captions).items():
            chances[word] = max(chance, chances.get(word, 0.0))
    header.append(
        "# Word counts are facts; no caption is reproduced. Made by `python -m "
        "open_diht.filters.spotting.common_words`."
    )
    rows = [f"{word}\t{chance:.4f}" for word, chance in sorted(chances.items(), key=lambda pair: (-pair[1], pair[0]))]
    options.output.write_text("\n".join([*header, *rows]) + "\n", encoding="utf-8")
    print(f"{len(rows)} words in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
