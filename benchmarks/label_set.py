"""The hand labels and the captions they belong to.

Labels are committed as row numbers (GUIDE.md says how they were made); the captions are not ours to ship. They are read
from a folder with `img2dataset/test_10000.parquet` (10,000 LAION-400M captions, column TEXT) and
`cc3m_validation/Validation_GCC-1.1.0-Validation.tsv`.
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

HERE = Path(__file__).resolve().parent
LAION = Path("img2dataset/test_10000.parquet")
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
    test: bool


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
    """The labelled LAION captions, train and test."""
    return _labelled("laion400m_sample.tsv", laion_captions(folder))


def cc3m_labels(folder: Path) -> list[Labelled]:
    """The labelled CC3M captions: extra training material for actions; `complex` is not labelled there."""
    return _labelled("cc3m_validation.tsv", cc3m_captions(folder))


def _labelled(name: str, captions: Sequence[str]) -> list[Labelled]:
    with open(HERE / "labels" / name, encoding="utf-8", newline="") as lines:
        return [
            Labelled(
                int(entry["row"]),
                captions[int(entry["row"])],
                entry["action"] == "1",
                entry.get("complex") == "1",
                frozenset(entry["verbs"].lower().split()),
                entry.get("part") == "test",
            )
            for entry in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]
