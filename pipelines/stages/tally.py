"""Counts of stage `decide` for a unit, and its commit record."""

import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import pyarrow as pa

from open_diht.filters.cascade import DEAD, NO_REASON
from open_diht.pipelines.store.records import DecideRecord

VERSION = 7
"""Increase the version when equal annotations and thresholds may lead to other decisions."""


@dataclass
class Tally:
    """The counts of a unit, which become its commit record."""

    rows: Counter[str] = field(default_factory=Counter)
    captions: Counter[str] = field(default_factory=Counter)
    """Number of captions by reason, see `DecideRecord`; empty if rows have one caption each."""
    dead: Counter[str] = field(default_factory=Counter)
    """Number of rows among the dead letters, by error."""
    lost: Counter[str] = field(default_factory=Counter)
    """Number of rows among the dead letters, by the stage that failed."""
    histograms: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    examples: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))
    kept: list[int] = field(default_factory=list)
    """Ordinals of the rows in kept/, in file order."""

    def lose(self, stage: str, dead_letters: pa.Table) -> None:
        """Count dead letters."""
        self.dead.update(dead_letters["error"].to_pylist())
        self.lost[stage] += dead_letters.num_rows

    def example(self, reason: str, uid: str, ordinal: int, most: int) -> None:
        """Keep the rows with the lowest uids as examples: deterministic, yet random by content if
        uids are hashes."""
        # The heap drops its smallest item, so the order is reversed.
        key = "".join(chr(0x10FF - ord(char)) for char in uid), ordinal
        push = heapq.heappush if len(self.examples[reason]) < most else heapq.heappushpop
        push(self.examples[reason], key)

    def record(self) -> DecideRecord:
        record: DecideRecord = {
            "rows": sum(self.rows.values()),
            "kept": self.rows[NO_REASON],
            "rejected": {
                reason: n
                for reason, n in sorted(self.rows.items())
                if reason not in (NO_REASON, DEAD)
            },
            "dead": dict(sorted(self.dead.items())),
            "lost": dict(sorted(self.lost.items())),
            "histograms": {
                name: {str(k): n for k, n in sorted(counts.items())}
                for name, counts in self.histograms.items()
            },
            "examples": {
                reason or "kept": [ordinal for _, ordinal in sorted(found, reverse=True)]
                for reason, found in self.examples.items()
            },
        }
        if self.captions:
            record["captions"] = dict(sorted(self.captions.items()))
        return record
