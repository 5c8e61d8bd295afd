"""What CAT says of pairs: a run of the product's own filter, read back as one word a pair."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from open_diht.common.command_line import WrongUse

KEPT = "kept"


class FilterFailed(WrongUse):
    """The filter ended with an error; the message has its last line."""


@dataclass(frozen=True)
class Decided:
    """A pair and what became of it."""

    caption: str
    verdict: str
    """`kept`, or the reason of its rejection."""


def run_filter(*options: str) -> None:
    """`python -m open_diht.pipelines` with these options. It goes on where an earlier run was stopped. Raises
    `FilterFailed`."""
    done = subprocess.run([sys.executable, "-m", "open_diht.pipelines", *options], stderr=subprocess.PIPE, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise FilterFailed(
            f"`python -m open_diht.pipelines {' '.join(options)}` ended with {done.returncode}: {said[-1]}"
        )


def decided(output: Path, name: str) -> dict[str, Decided]:
    """What a finished run says of every pair, by the text in its column `name`; dead letters are not among them."""
    found = {}
    for kind in ("kept", "rejected"):
        for path in sorted((output / kind).glob("*.parquet")):
            wanted = [name, "caption", *(["reason"] if kind == "rejected" else [])]
            for row in pq.read_table(path, columns=wanted).to_pylist():
                found[str(row[name])] = Decided(row["caption"], row.get("reason", KEPT))
    return found
