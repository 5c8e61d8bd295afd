"""The hand labels and the captions they belong to.

Labels are committed as row numbers (GUIDE.md says how they were made); the captions are not ours to ship. They are read
from a folder with `img2dataset/test_10000.parquet` (10,000 LAION-400M captions, column TEXT) and
`cc3m_validation/Validation_GCC-1.1.0-Validation.tsv`.
"""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.parquet as pq

_PARTS = {"train": "train", "dev": "development", "test": "test"}
HERE = Path(__file__).resolve().parent
LAION = Path("img2dataset/test_10000.parquet")
OPEN = "?"
CC3M = Path("cc3m_validation/Validation_GCC-1.1.0-Validation.tsv")


@dataclass(frozen=True)
class Labelled:
    """One labelled caption."""

    row: int
    caption: str
    action: bool
    complex: bool
    verbs: frozenset[str]
    """Verb words of the stated actions, lower case."""
    part: str
    """train, development (thresholds are chosen there) or test, by a hash of the row number."""
    plain: frozenset[str] = frozenset()
    """Verb words of what the plain readers call done by or to something visible; none where they did not read."""
    open: bool = False
    """Whether the plain readers differ and nobody decided: rows of the test part."""
    plain_readings: tuple[frozenset[str], ...] = ()
    """What each of the two plain readers found, where they read the row."""

    def share(self, verb: str) -> float:
        """Of the readings of this row, the share that calls a verb word stated: 0 to 1. The careful label counts for
        the two readings that it stands for."""
        readings = (self.verbs, self.verbs, *self.plain_readings)
        return sum(_letters(verb) in map(_letters, words) for words in readings) / len(readings)


def samples_folder(argument: str | None = None) -> Path:
    """The folder of the caption samples: the argument, $DIHT_SAMPLES, or ../shared/samples beside the checkout.

    Exits with a message that names what is missing.
    """
    folder = Path(argument or os.environ.get("DIHT_SAMPLES") or HERE.parent.parent / "shared" / "samples")
    missing = [str(part) for part in (LAION, CC3M) if not (folder / part).is_file()]
    if missing:
        sys.exit(
            f"caption samples not found: {folder} lacks {', '.join(missing)}; give "
            "the folder with --captions or DIHT_SAMPLES"
        )
    return folder


def laion_captions(folder: Path) -> list[str]:
    """The 10,000 LAION-400M captions."""
    return [str(text) for text in pq.read_table(folder / LAION, columns=["TEXT"])["TEXT"].to_pylist()]


def cc3m_captions(folder: Path) -> list[str]:
    """The validation captions of Conceptual Captions."""
    with open(folder / CC3M, encoding="utf-8") as lines:
        return [line.split("\t")[0] for line in lines]


def laion_labels(folder: Path) -> list[Labelled]:
    """The labelled LAION captions, all 10,000."""
    plain = {int(entry["row"]): entry for entry in _entries("laion400m_plain_actions.tsv")}
    labelled = _labelled("laion400m_sample.tsv", laion_captions(folder))
    return [_plainly_read(entry, plain[entry.row]) if entry.row in plain else entry for entry in labelled]


def _plainly_read(entry: Labelled, read: dict[str, str]) -> Labelled:
    return replace(
        entry,
        plain=frozenset(read["decision"].replace(OPEN, "").split()),
        open=read["decision"] == OPEN,
        plain_readings=(frozenset(read["first"].split()), frozenset(read["second"].split())),
    )


def _letters(verb: str) -> str:
    return re.sub(r"[^a-z]", "", verb.lower())


def written_labels() -> list[Labelled]:
    """Captions written for training: short ones of kinds that are rare in LAION; actions only."""
    return [
        Labelled(row, entry["caption"], bool(entry["verbs"]), False, frozenset(entry["verbs"].split()), "train")
        for row, entry in enumerate(_entries("written.tsv"))
    ]


def generous_readings() -> dict[int, bool]:
    """Rows that no reader called complex: whether a third, generous one finds something said of something."""
    return {int(entry["row"]): entry["something_said"] == "1" for entry in _entries("laion400m_generous.tsv")}


def plain_readings() -> list[tuple[bool, bool]]:
    """Of each row that the two plain readers read: whether the first, the second found an action."""
    return [(bool(entry["first"]), bool(entry["second"])) for entry in _entries("laion400m_plain_actions.tsv")]


def readings() -> list[tuple[tuple[bool, bool], tuple[bool, bool]]]:
    """The two independent readings of the rows that were read so: (first, second) of action and of complex."""
    return [
        tuple(
            (entry[f"{question}_first"] == "1", entry[f"{question}_second"] == "1")
            for question in ("action", "complex")
        )  # type: ignore[misc]
        for entry in _entries("laion400m_readings.tsv")
    ]


def cc3m_labels(folder: Path) -> list[Labelled]:
    """The labelled CC3M captions: extra training material for actions; `complex` is not labelled there."""
    return _labelled("cc3m_validation.tsv", cc3m_captions(folder))


def _labelled(name: str, captions: Sequence[str]) -> list[Labelled]:
    return [
        Labelled(
            int(entry["row"]),
            captions[int(entry["row"])],
            entry["action"] == "1",
            entry.get("complex") == "1",
            frozenset(entry["verbs"].lower().split()),
            _PARTS[entry.get("part", "train")],
        )
        for entry in _entries(name)
    ]


def _entries(name: str) -> Iterator[dict[str, str]]:
    with open(HERE / "labels" / name, encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
