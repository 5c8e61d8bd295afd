"""What other thresholds would keep: rows in memory, decided by the very function that a run decides by.

Three things are not decided by thresholds alone. A row that survives its caption now, and did not before, has an image
that no run has looked at: it is counted by itself, between kept and not. What a stage of the user's has rejected stays
rejected, and so do duplicates; only where all rows are at hand, duplicate pairs are found anew, as a run finds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.filters.base import Bools
from open_diht.filters.presets import Preset
from open_diht.pipelines.pilot.estimate import Estimate, share
from open_diht.pipelines.stages.cascade import (
    DUPLICATE_IMAGE,
    DUPLICATE_PAIR,
    DUPLICATE_SEMANTIC,
    KEPT,
    Reasons,
    apply_cascade,
    cascade,
)
from open_diht.pipelines.stages.dedup.exact_stages import Pairs
from open_diht.pipelines.stages.dedup.keys import Halves
from open_diht.pipelines.view.output import Output
from open_diht.pipelines.view.sample import Piece, Sample


@dataclass(frozen=True)
class Decided:
    """The verdict of a preset on a sample."""

    sample: Sample
    reasons: tuple[Reasons, ...]
    """Of the rows of each piece."""

    @property
    def kept(self) -> tuple[Bools, ...]:
        """Of the rows of each piece whether they are kept for certain."""
        return tuple(why == KEPT for why in self._known)

    @property
    def uncertain(self) -> int:
        """Rows that are kept if their image, which no run has looked at, lets them through."""
        pairs = zip(self.sample.pieces, self.reasons, strict=True)
        return sum(int(((why == KEPT) & piece.unlooked).sum()) for piece, why in pairs)

    @property
    def kept_rows(self) -> int:
        """How many are kept for certain."""
        return sum(int(kept.sum()) for kept in self.kept)

    @property
    def share(self) -> Estimate:
        """The proportion that is kept for certain, of all rows of the output."""
        counts = [int(kept.sum()) for kept in self.kept]
        rows = [len(piece) for piece in self.sample.pieces]
        return share(counts, rows, sum(rows) if self.sample.whole else max(self.sample.all_rows, sum(rows)))

    @property
    def rejected(self) -> Counter[str]:
        """Rows by reason, dead letters among them."""
        found: Counter[str] = Counter()
        for reasons in self.reasons:
            found.update(reasons[reasons != KEPT].tolist())
        return found

    @property
    def _known(self) -> list[Reasons]:
        pairs = zip(self.sample.pieces, self.reasons, strict=True)
        return [np.where((why == KEPT) & piece.unlooked, _UNCERTAIN, why) for piece, why in pairs]


_UNCERTAIN = "image not looked at"


def decide(output: Output, sample: Sample, preset: Preset) -> Decided:
    """What a preset makes of a sample."""
    found = Decided(
        sample,
        tuple(apply_cascade(piece.rows, piece.records, preset, output.stages).reasons for piece in sample.pieces),
    )
    asked = "dedup" in output.stages
    rejects = {
        DUPLICATE_PAIR: asked and preset.dedup.pairs,
        DUPLICATE_IMAGE: asked and preset.dedup.images,
        DUPLICATE_SEMANTIC: asked and preset.dedup.semantic,
    }
    by_thresholds = {step.reason for one in (output.preset, preset) for step in cascade(one)}
    _stay(found, lambda reason: reason not in by_thresholds and reason not in rejects)
    if rejects[DUPLICATE_PAIR] and pairs_are_known(output, sample):
        _find_pairs(found)
        rejects[DUPLICATE_PAIR] = False
    _stay(found, lambda reason: rejects.get(reason, False))
    return found


def pairs_are_known(output: Output, sample: Sample) -> bool:
    """Whether duplicate pairs can be found among the rows of a sample: all are there, and what tells them apart is
    known. A row without url is told by its image."""
    urls = all(np.asarray(piece.rows["has_url"]).all() for piece in sample.pieces)
    return sample.whole and (urls or "spotting" in output.stages)


def _stay(found: Decided, stays: Callable[[str], bool]) -> None:
    """Reject rows that the run has rejected for a reason that stays."""
    for piece, reasons in zip(found.sample.pieces, found.reasons, strict=True):
        names = [name for name in dict.fromkeys(piece.recorded.tolist()) if name != KEPT and stays(name)]
        which = (reasons == KEPT) & np.isin(piece.recorded.astype(str), names)
        reasons[which] = piece.recorded[which]


def _find_pairs(found: Decided) -> None:
    """Reject all but the first of equal pairs among the rows that are kept."""
    kept = [np.flatnonzero(reasons == KEPT) for reasons in found.reasons]
    keys = [_keys(piece, places) for piece, places in zip(found.sample.pieces, kept, strict=True)]
    _, first = np.unique(np.concatenate([np.empty((0, 2), np.uint64), *keys]), axis=0, return_index=True)
    again = np.ones(sum(map(len, kept)), bool)
    again[first] = False
    begin = 0
    for reasons, places in zip(found.reasons, kept, strict=True):
        reasons[places[again[begin : begin + len(places)]]] = DUPLICATE_PAIR
        begin += len(places)


def _keys(piece: Piece, places: NDArray[np.int64]) -> Halves:
    pairs = Pairs()
    digests: dict[int, bytes] = {}
    pairs.add(piece.rows.take(pa.array(places, pa.int64())))
    if piece.records is not None:
        known = zip(piece.records["ordinal"].to_pylist(), piece.records["sha256"].to_pylist(), strict=True)
        digests = {ordinal: digest for ordinal, digest in known if digest is not None}
    return pairs.keys(piece.unit, digests)
