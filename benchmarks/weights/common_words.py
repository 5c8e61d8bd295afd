"""Count the words that are common in captions, and so say little about one image.

`filters/spotting/common_words.txt` lists the words found in at least one of a thousand captions of
a sample. Its counts come from three public caption samples (the header of the file names them);
make it again with

    python -m benchmarks.weights.common_words --output common_words.txt NAME=FILE ...

where FILE holds one caption per line.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.measuring import parser_of
from open_diht.filters.spotting.folding import fold
from open_diht.filters.spotting.overlap import LEAST_CHANCE


def count_chances(captions: Iterable[str]) -> dict[str, float]:
    """Return folded words with the fraction of captions that have them, if it is at least
    `LEAST_CHANCE`. Raises ValueError without captions."""
    rows = 0
    counts: Counter[str] = Counter()
    for caption in captions:
        rows += 1
        counts.update(set(fold(caption).words()))
    if not rows:
        raise ValueError("no captions to count; give files with one caption per line")
    return {word: count / rows for word, count in counts.items() if count / rows >= LEAST_CHANCE}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the table from named caption files. A word's chance is its largest fraction among the
    files."""
    parser = parser_of("benchmarks.weights.common_words", __doc__)
    parser.add_argument("--output", type=Path, required=True, help="the table to write")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="NAME=FILE",
        help="one caption per line; NAME is kept as provenance",
    )
    options = parser.parse_args(arguments)
    header = [
        "# Words found in at least one of a thousand captions of a sample; word, tab, largest share"
        " among the samples."
    ]
    chances: dict[str, float] = {}
    for source in options.sources:
        name, _, path = source.partition("=")
        captions = Path(path).read_text(encoding="utf-8").splitlines()
        header.append(f"# counted in: {name} ({len(captions)} captions)")
        for word, chance in count_chances(captions).items():
            chances[word] = max(chance, chances.get(word, 0.0))
    header.append(
        "# Word counts are facts; no caption is reproduced. Made by `python -m"
        " benchmarks.weights.common_words`."
    )
    rows = [
        f"{word}\t{chance:.4f}"
        for word, chance in sorted(chances.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    options.output.write_text("\n".join([*header, *rows]) + "\n", encoding="utf-8")
    print(f"{len(rows)} words in {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
