"""The score that a share of the rows reaches, exactly, in memory that does not grow with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from open_diht.filters.score import CLIP_SCORE, NEG_CLIP_LOSS
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.stages.score.rows import rows_of
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import read_table

THRESHOLDS = "score_thresholds"
_HALF = 16

Scores = Iterable[NDArray[np.float32]]


@dataclass
class ThresholdStage(Stage):
    """See `Stage`. Its units are the scores of which a share is asked for; each reads the scores of all units twice."""

    layout: Layout
    keep: Mapping[str, float]
    """The share of each."""
    rows: int
    """That come to the rule, in all."""
    skip: frozenset[str]
    fingerprint: Mapping[str, str]
    name: str = field(default=THRESHOLDS, init=False)
    part_of = "score"

    def process(self, unit: str, before: dict[str, Any] | None, heartbeat: Heartbeat) -> Done:
        kept = rows_kept(self.keep[unit], self.rows)
        threshold = kth_largest(lambda: self._scores(unit), kept) if kept else None
        return {"rows": self.rows, "kept": kept, "threshold": threshold}, []

    def _scores(self, score: str) -> Iterator[NDArray[np.float32]]:
        for name in (one.name for one in self._plan.units if one.name not in self.skip):
            if score == CLIP_SCORE:
                yield rows_of(self.layout, name)["score"]
            else:
                yield np.asarray(read_table(self.layout.data(NEG_CLIP_LOSS, name), columns=[NEG_CLIP_LOSS])[0])


def rows_kept(share: float, rows: int) -> int:
    """How many rows a share is: rounded up, so that it is at least one of any."""
    return math.ceil(share * rows - 1e-9)  # the share is a decimal fraction, of which binary ones fall short


def kth_largest(scores: Callable[[], Scores], k: int) -> float:
    """The k-th largest of all scores, k from 1: found by the upper half of their bits, then by the lower one.

    Args:
        scores: gives them all, in parts; called twice.
        k: at most as many as there are.
    """
    upper, left = _bin_of(scores, k, lambda keys: keys >> _HALF)
    lower, _ = _bin_of(scores, left, lambda keys: keys[keys >> _HALF == upper] & (2**_HALF - 1))
    key = np.uint32(upper << _HALF | lower)
    bits = key & np.uint32(2**31 - 1) if key >> 31 else ~key
    return float(np.array([bits], np.uint32).view(np.float32)[0])


def _bin_of(scores: Callable[[], Scores], k: int, bins: Callable[[NDArray[Any]], NDArray[Any]]) -> tuple[int, int]:
    """The bin in which the k-th largest is, and the how-manieth largest of that bin it is."""
    counts = np.zeros(2**_HALF, np.int64)
    for part in scores():
        counts += np.bincount(bins(_keys(part)), minlength=2**_HALF)
    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, k))
    return 2**_HALF - 1 - place, k - int(above[place] - counts[::-1][place])


def _keys(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Whole numbers in the order of the scores."""
    bits = np.ascontiguousarray(scores + np.float32(0.0)).view(np.uint32)  # -0.0 is 0.0
    return np.where(bits >> 31, ~bits, bits | np.uint32(2**31)).astype(np.int64)
