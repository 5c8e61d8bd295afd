"""Find what other thresholds would keep. Rows in memory are decided by the same function as in a run.

Three things do not depend on thresholds alone. If a row passes a filter only now, it may be that no run has examined
its image, scored it or shown it to a stage of the user: such rows are counted separately, as uncertain. Rows rejected
by scores or user stages stay rejected, and so do duplicates of kinds that the preset rejects. Duplicate pairs are
recomputed, as in a run, if `pairs_are_known`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from open_diht.filters.base import Bools
from open_diht.filters.cascade import (
    DUPLICATE_IMAGE,
    DUPLICATE_PAIR,
    DUPLICATE_SEMANTIC,
    KEPT,
    Reasons,
    apply_cascade,
    cascade,
)
from open_diht.filters.presets import Preset
from open_diht.pipelines.pilot.estimate import Estimate, share
from open_diht.pipelines.stages.dedup.exact_stages import Pairs
from open_diht.pipelines.view.output import Output
from open_diht.pipelines.view.sample import Sample


@dataclass(frozen=True)
class Decided:
    """The decision of a preset on a sample."""

    sample: Sample
    reasons: tuple[Reasons, ...]
    """Reasons for the rows of each piece."""

    @property
    def kept(self) -> tuple[Bools, ...]:
        """Mask of the rows of each piece that are certainly kept."""
        pairs = zip(self.sample.pieces, self.reasons, strict=True)
        return tuple((why == KEPT) & ~piece.unexamined for piece, why in pairs)

    @property
    def uncertain(self) -> int:
        """Number of rows that are kept if they pass the stages that have not examined them."""
        return sum(int((why == KEPT).sum()) for why in self.reasons) - self.kept_rows

    @property
    def kept_rows(self) -> int:
        """Number of rows that are certainly kept."""
        return sum(int(kept.sum()) for kept in self.kept)

    @property
    def share(self) -> Estimate:
        """The fraction of the annotated rows of the output that is certainly kept."""
        counts = [int(kept.sum()) for kept in self.kept]
        rows = [len(piece) for piece in self.sample.pieces]
        return share(counts, rows, sum(rows) if self.sample.whole else max(self.sample.all_rows, sum(rows)))

    @property
    def rejected(self) -> Counter[str]:
        """Rows by reason, including dead-letter rows."""
        counts: Counter[str] = Counter()
        for reasons in self.reasons:
            counts.update(reasons[reasons != KEPT].tolist())
        return counts


def decide(output: Output, sample: Sample, preset: Preset) -> Decided:
    """Decide the rows of a sample by a preset."""
    decided = Decided(
        sample,
        tuple(apply_cascade(piece.rows, piece.records, preset, output.stages).reasons for piece in sample.pieces),
    )
    asked = "dedup" in output.stages
    rejects = {
        DUPLICATE_PAIR: asked and preset.dedup.pairs,
        DUPLICATE_IMAGE: asked and preset.dedup.images,
        DUPLICATE_SEMANTIC: asked and preset.dedup.semantic,
    }
    # Scores are not in memory, so rows that they reject stay rejected.
    steps = (step for one in (output.preset, preset) for step in cascade(one) if step.stage != "score")
    by_thresholds = {step.reason for step in steps}
    _stay(decided, lambda reason: reason not in by_thresholds and reason not in rejects)
    if rejects[DUPLICATE_PAIR] and pairs_are_known(output, sample):
        _find_pairs(decided)
        rejects[DUPLICATE_PAIR] = False  # recomputed, so recorded ones do not stay
    _stay(decided, lambda reason: rejects.get(reason, False))
    return decided


def pairs_are_known(output: Output, sample: Sample) -> bool:
    """Return whether duplicate pairs can be found in a sample: it holds all rows, and either all of them
    have a URL or the run reads images."""
    urls = all(np.asarray(piece.rows["has_url"]).all() for piece in sample.pieces)
    return sample.whole and (urls or "spotting" in output.stages)


def _stay(decided: Decided, stays: Callable[[str], bool]) -> None:
    """Reject rows that the run has rejected for a reason that `stays` accepts."""
    for piece, reasons in zip(decided.sample.pieces, decided.reasons, strict=True):
        names = [name for name in dict.fromkeys(piece.recorded.tolist()) if name != KEPT and stays(name)]
        which = (reasons == KEPT) & np.isin(piece.recorded.astype(str), names)
        reasons[which] = piece.recorded[which]


def _find_pairs(decided: Decided) -> None:
    """Reject all but the first of equal pairs among the kept rows."""
    kept, keys = [np.flatnonzero(reasons == KEPT) for reasons in decided.reasons], []
    for piece, places in zip(decided.sample.pieces, kept, strict=True):
        pairs, digests = Pairs(), {}
        pairs.add(piece.rows.take(pa.array(places, pa.int64())))
        if piece.records is not None:
            known = zip(piece.records["ordinal"].to_pylist(), piece.records["sha256"].to_pylist(), strict=True)
            digests = {ordinal: digest for ordinal, digest in known if digest is not None}
        keys.append(pairs.keys(piece.unit, digests))
    # The array without rows keeps the shape (0, 2) if there are no keys.
    _, first = np.unique(np.concatenate([np.empty((0, 2), np.uint64), *keys]), axis=0, return_index=True)
    again = np.ones(sum(map(len, kept)), bool)
    again[first] = False
    begin = 0
    for reasons, places in zip(decided.reasons, kept, strict=True):
        reasons[places[again[begin : begin + len(places)]]] = DUPLICATE_PAIR
        begin += len(places)
