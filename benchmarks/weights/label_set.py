"""Read captions, and the labels that a language model gave them.

Captions of others are labeled by row number (labels/GUIDE.md explains how the labels were made).
They are read from `data/captions`, which has no addresses, or from a folder with the same files as
published.
"""

from __future__ import annotations

import csv
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

_PARTS = {"train": "train", "dev": "development", "test": "test"}
HERE = Path(__file__).resolve().parents[1]
LAION = Path("img2dataset/test_10000.parquet")
CC3M = Path("cc3m_validation/Validation_GCC-1.1.0-Validation.tsv")

Bools = NDArray[np.bool_]
Readings = tuple[frozenset[str], ...]
"""Verb words of the stated actions, one set per reading. The tuple is empty if there is no
reading."""


@dataclass(frozen=True)
class Labelled:
    row: int
    caption: str
    action: bool
    complex: bool
    verbs: frozenset[str]
    part: str
    """train, development (thresholds are chosen there) or test. A hash of the row number divides
    LAION's rows."""
    medium: Readings = ()
    """Verb words of each reading under the medium guideline."""
    lenient: Readings = ()
    """Verb words of each reading under the lenient guideline."""
    lenient_complex: tuple[bool, ...] = ()
    """True for each reading under the lenient guideline that calls the caption complex."""

    def share(self, verb: str) -> float:
        """Return the fraction of this row's readings, 0 to 1, that call a verb word stated."""
        readings = (self.verbs, *self.medium, *self.lenient)
        return sum(_letters(verb) in map(_letters, words) for words in readings) / len(readings)

    @property
    def complex_share(self) -> float:
        """Return the fraction of this row's readings, 0 to 1, that call it complex."""
        readings = (self.complex, *self.lenient_complex)
        return sum(readings) / len(readings)


@dataclass(frozen=True)
class Truth:
    """Labels of captions from two readings, and the mask of captions that are counted."""

    says: Bools
    counted: Bools

    @staticmethod
    def of(readings: Sequence[Sequence[bool]]) -> Truth:
        """Build labels from two readings per caption. A caption counts if they agree. Without
        readings it is False."""
        first, second = np.array([reading or (False, False) for reading in readings], bool).T
        # Captions on which the readings differ are not counted.
        return Truth(first, first == second)

    def __str__(self) -> str:
        return f"{int((self.says & self.counted).sum())} of {int(self.counted.sum())}"


def truths(labelled: Sequence[Labelled]) -> tuple[dict[str, Truth], dict[str, Truth]]:
    """Return the labels of actions and complexity, by guideline. `laion400m_sample.tsv` has one
    strict label per row."""
    actions = {
        "strict": Truth.of([(e.action, e.action) for e in labelled]),
        "medium": Truth.of([tuple(map(bool, e.medium)) for e in labelled]),
        "lenient": Truth.of([tuple(map(bool, e.lenient)) for e in labelled]),
    }
    complexity = {
        "strict": Truth.of([(e.complex, e.complex) for e in labelled]),
        "lenient": Truth.of([e.lenient_complex for e in labelled]),
    }
    return actions, complexity


def samples_folder(argument: str | None = None) -> Path:
    """Return the folder of the caption samples: the argument, $DIHT_SAMPLES, or `data/captions`.
    If files are missing, exit with a message that names them."""
    folder = Path(argument or os.environ.get("DIHT_SAMPLES") or HERE.parent / "data" / "captions")
    missing = [str(part) for part in (LAION, CC3M) if not (folder / part).is_file()]
    if missing:
        sys.exit(
            f"caption samples not found: {folder} lacks {', '.join(missing)}; give "
            "the folder with --captions or DIHT_SAMPLES"
        )
    return folder


def numbered(captions: Sequence[str], row: int) -> str:
    """Return the caption of a row of any number: after the last caption they begin again, each with
    the row's number. Equal captions of a batch would be annotated once."""
    return captions[row % len(captions)] + (f" {row}" if row >= len(captions) else "")


def laion_captions(folder: Path) -> list[str]:
    return [
        str(text) for text in pq.read_table(folder / LAION, columns=["TEXT"])["TEXT"].to_pylist()
    ]


def laion_hosts(folder: Path) -> list[str]:
    """Return the host of each LAION-400M caption's image, with the port if the URL has one. If the
    file has no URLs, exit with a message."""
    if "URL" not in pq.read_schema(folder / LAION).names:
        sys.exit(
            f"{folder / LAION} has no addresses; give the folder of the published file with"
            " --captions"
        )
    return [
        urlsplit(str(url)).netloc
        for url in pq.read_table(folder / LAION, columns=["URL"])["URL"].to_pylist()
    ]


def cc3m_captions(folder: Path) -> list[str]:
    with open(folder / CC3M, encoding="utf-8") as lines:
        return [line.split("\t")[0] for line in lines]


def laion_labels(folder: Path) -> list[Labelled]:
    """Return the labelled LAION captions, all 10,000."""
    actions = {int(entry["row"]): entry for entry in _entries("laion400m_actions.tsv")}
    complex_ = {int(entry["row"]): entry for entry in _entries("laion400m_complex.tsv")}
    return [
        replace(
            entry,
            medium=_readings(actions.get(entry.row, {}), "medium"),
            lenient=_readings(actions.get(entry.row, {}), "lenient"),
            lenient_complex=tuple(
                complex_[entry.row][reader] == "1"
                for reader in ("first", "second")
                if entry.row in complex_
            ),
        )
        for entry in _labelled("laion400m_sample.tsv", laion_captions(folder))
    ]


def _readings(read: Mapping[str, str], kind: str) -> Readings:
    return tuple(
        frozenset(read[name].split())
        for name in (f"{kind}_first", f"{kind}_second")
        if name in read
    )


def _letters(verb: str) -> str:
    return re.sub(r"[^a-z]", "", verb.lower())


def written_labels(name: str = "written.tsv") -> list[Labelled]:
    """Return the captions of a file of captions written for training, of kinds that are rare in
    LAION or hard, with labels of actions only."""
    return [
        Labelled(
            row,
            entry["caption"],
            bool(entry["verbs"]),
            False,
            frozenset(entry["verbs"].split()),
            "train",
            lenient=(frozenset(entry["lenient"].split()),),
        )
        for row, entry in enumerate(_entries(name))
    ]


def double_readings(laion: Sequence[Labelled]) -> dict[str, list[tuple[bool, ...]]]:
    """Return pairs of independent readings of LAION captions, by guideline and question."""
    strict = list(_entries("laion400m_readings.tsv"))
    found: dict[str, list[tuple[bool, ...]]] = {
        f"strict annotations of `{question}`": [
            (entry[f"{question}_first"] == "1", entry[f"{question}_second"] == "1")
            for entry in strict
        ]
        for question in ("action", "complex")
    }
    read = [entry for entry in laion if entry.medium]
    found["medium annotations of `action`"] = [tuple(map(bool, entry.medium)) for entry in read]
    found["lenient annotations of `action`"] = [tuple(map(bool, entry.lenient)) for entry in read]
    found["lenient annotations of `complex`"] = [entry.lenient_complex for entry in laion]
    return found


def cc3m_labels(folder: Path) -> list[Labelled]:
    """Return the labelled CC3M captions, as extra training material for actions. `complex` is not
    labelled there."""
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
