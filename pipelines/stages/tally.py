"""What stage `decide` counts of a unit, and what its commit record says."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TypedDict

import pyarrow as pa

from open_diht.pipelines.stages.cascade import DEAD, KEPT


class DecideRecord(TypedDict):
    """A commit record of stage `decide`, beside what all records hold."""

    rows: int
    kept: int
    rejected: dict[str, int]
    """Rows by reason."""
    dead: dict[str, int]
    """Dead letters by error."""
    lost: dict[str, int]
    """The same by the stage that met them."""
    histograms: dict[str, dict[str, int]]
    """For complexity, actions and overlap: rows by value."""
    examples: dict[str, list[int]]
    """Ordinals of rows to show, by reason or "kept"."""


@dataclass
class Tally:
    """What the commit record says of a unit."""

    rows: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    """Dead letters by error."""
    lost: Counter[str] = field(default_factory=Counter)
    """The same by the stage that met them."""
    histograms: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    examples: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))
    kept: list[int] = field(default_factory=list)
    """Ordinals of the rows in kept/, in their order there."""

    def lose(self, stage: str, dead_letters: pa.Table) -> None:
        """Count dead letters."""
        self.dead.update(dead_letters["error"].to_pylist())
        self.lost[stage] += dead_letters.num_rows

    def example(self, reason: str, uid: str, ordinal: int, most: int) -> None:
        """Remember the rows with the lowest uids: a fixed choice that is random with respect to content."""
        key = (
            "".join(chr(0x10FF - ord(char)) for char in uid),
            ordinal,
        )  # the heap drops its smallest, so order is turned round
        push = heapq.heappush if len(self.examples[reason]) < most else heapq.heappushpop
        push(self.examples[reason], key)

    def ordinals(self, reason: str) -> list[int]:
        return [ordinal for _, ordinal in sorted(self.examples[reason], reverse=True)]

    def record(self) -> DecideRecord:
        """The unit's commit record."""
        return {
            "rows": sum(self.rows.values()),
            "kept": self.rows[KEPT],
            "rejected": {reason: n for reason, n in sorted(self.rows.items()) if reason not in (KEPT, DEAD)},
            "dead": dict(sorted(self.dead.items())),
            "lost": dict(sorted(self.lost.items())),
            "histograms": {
                name: {str(k): n for k, n in sorted(counts.items())} for name, counts in self.histograms.items()
            },
            "examples": {reason or "kept": self.ordinals(reason) for reason in self.examples},
        }
