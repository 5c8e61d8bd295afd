"""Find what other thresholds would keep. Rows in memory are decided by the same function as in a
run.

The rows are all those of an output, or a random sample, which is drawn in pieces, since annotations
are stored in files. A piece has rows of the row group of a randomly drawn row. The same number of
random rows is taken from every such row group that has as many, so rows of these groups have about
the same chance.

Three things do not depend on thresholds alone. If a row passes a filter only now, it may be that no
run has examined its image, scored it or shown it to a stage of the user: such rows are counted
separately, as uncertain. Rows rejected by scores or user stages stay rejected, and so do duplicates
of kinds that the preset rejects. Duplicate pairs are recomputed, as in a run, if `pairs_are_known`.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.filters.base import Bools
from open_diht.filters.cascade import (
    DUPLICATE_IMAGE,
    DUPLICATE_PAIR,
    DUPLICATE_SEMANTIC,
    NO_REASON,
    RECORD,
    UNREAD,
    Reasons,
    apply_cascade,
    cascade,
)
from open_diht.filters.presets import Preset
from open_diht.pipelines.output import Output
from open_diht.pipelines.pilot.estimate import Estimate, share
from open_diht.pipelines.stages.columns import annotated_rows
from open_diht.pipelines.stages.dedup.exact_stages import Pairs
from open_diht.pipelines.stages.image_records import image_records
from open_diht.pipelines.store.storage import each
from open_diht.pipelines.view.options import ROWS

PIECES = 40
"""Maximum number of pieces of a sample: each costs the read of a row group, and fewer would widen
the interval, since rows of a piece are alike."""
_BUILT_IN = {"captions", "download", "spotting", "score", "dedup", "export"}
SECONDS = 20.0
"""Seconds after which no more pieces of a sample are read. People wait about as long for a page."""


@dataclass(frozen=True)
class Piece:
    """Annotated rows of a unit."""

    unit: str
    rows: pa.Table
    records: pa.Table | None
    """Records of the rows' images, with `UNREAD` for missing records, or None if images decide
    nothing."""
    unexamined: Bools
    """Mask of the rows that a deciding stage after the captions has not examined: no run has read
    the text in their image, the run has computed no score for them, or a stage of the user has not
    seen them."""
    recorded: Reasons
    """Reasons why the run rejected rows; `NO_REASON` for all others and for undecided rows."""

    def __len__(self) -> int:
        return self.rows.num_rows


@dataclass(frozen=True)
class Sample:
    """The rows to decide."""

    pieces: tuple[Piece, ...]
    all_rows: int
    """Rows of the annotated units, including rows that could not be read. For a unit without a
    count, the plan's estimate is added."""
    whole: bool
    """Whether the sample holds all readable rows of the annotated units, except units whose files
    are missing."""
    seed: int

    @property
    def rows(self) -> int:
        return sum(map(len, self.pieces))


def draw(output: Output, rows: int = ROWS, seed: int = 0, seconds: float = SECONDS) -> Sample:
    """Return the readable rows of the annotated units if these have at most `rows`. Otherwise
    return a sample of at most `rows`, and begin no piece after `seconds`."""
    listing = output.listing()
    units = [unit for unit in (*listing.decided, *listing.undecided) if unit in output.plan]
    sizes = list(each(partial(_size, output), units, output.layout.root))
    decided = frozenset(listing.decided)
    total = sum(sizes)
    if total <= rows:
        asked = ((unit, None) for unit in sorted(units, key=output.order))
        pieces = _read(output, asked, decided, None)
        return Sample(tuple(pieces), total, True, seed)
    began = time.monotonic()
    found = []
    count = min(PIECES, rows)
    for piece in _read(output, _drawn(units, sizes, seed, count), decided, (rows // count, seed)):
        found.append(piece)
        if time.monotonic() - began > seconds:
            break
    return Sample(tuple(found), total, False, seed)


def _size(output: Output, unit: str) -> int:
    """Return the number of rows of a unit as `Sample.all_rows` counts them."""
    span = output.plan.span(unit)
    # Counted rows in place of an estimate.
    record = None if span.exact else output.captions_record(unit)
    return record["rows"] if record else span.rows


def _drawn(
    units: Sequence[str], sizes: Sequence[int], seed: int, count: int
) -> Iterator[tuple[str, int | None]]:
    """Yield `count` random rows of all units, as (unit, place in the unit)."""
    dice = random.Random(seed)
    ends = list(accumulate(sizes))
    for _ in range(count):
        place = dice.randrange(ends[-1])
        number = int(np.searchsorted(ends, place, side="right"))
        yield units[number], place - (ends[number] - sizes[number])


def _read(
    output: Output,
    asked: Iterator[tuple[str, int | None]],
    decided: frozenset[str],
    some: tuple[int, int] | None,
) -> Iterator[Piece]:
    """Yield the rows of whole units, or of the row groups that contain the rows `asked`. `some` is
    (most rows to draw from each row group, seed)."""
    for number, (unit, place) in enumerate(asked):
        between = None if place is None else ("ordinal", place, place + 1)
        try:
            tables = list(annotated_rows(output.layout, unit, output.preset, between=between))
            rows = pa.concat_tables(tables)
            if some is not None and rows.num_rows > some[0]:
                dice = np.random.default_rng((some[1], number))
                rows = rows.take(
                    pa.array(np.sort(dice.choice(rows.num_rows, some[0], replace=False)))
                )
            if rows.num_rows:
                yield _piece(output, unit, rows, unit in decided)
        except FileNotFoundError:  # the unit is being redone at this moment, or a file is missing
            continue


def _piece(output: Output, unit: str, rows: pa.Table, decided: bool) -> Piece:
    ordinals = np.asarray(rows["ordinal"]).astype(np.int64)
    numbers = np.unique(ordinals // output.plan.image_rows).tolist()
    records = image_records(output.layout, unit, numbers, output.stages)
    # A decided unit without records of downloads has its images in the manifest.
    if records is None and (
        "spotting" in output.stages or ("download" in output.stages and not decided)
    ):
        records = RECORD.empty_table()
    recorded = (
        output.reasons(unit, ordinals) if decided else np.full(len(ordinals), NO_REASON, object)
    )
    unexamined = np.zeros(len(ordinals), bool)
    if records is not None:
        unexamined = ~np.isin(ordinals, np.asarray(records["ordinal"]))
        records = _with_unread(records, ordinals)
    if output.preset.score.thresholds or set(output.stages) - _BUILT_IN:
        # Scores, decontamination and plugins saw the rows that the filters before them kept.
        before = [
            step.reason for step in cascade(output.preset) if step.stage not in ("score", "dedup")
        ]
        unexamined |= np.isin(recorded.astype(str), before) if decided else True
    return Piece(unit, rows, records, unexamined, recorded)


def _with_unread(records: pa.Table, ordinals: NDArray[np.int64]) -> pa.Table:
    """Return the records of these rows, with `UNREAD` for missing records."""
    known = np.asarray(records["ordinal"]).astype(np.int64)
    missing = np.setdiff1d(ordinals, known)
    columns = {field.name: pa.nulls(len(missing), field.type) for field in RECORD}
    columns |= {
        "ordinal": pa.array(missing, pa.int64()),
        "status": pa.array([UNREAD] * len(missing), pa.string()),
    }
    mine = records.filter(pa.array(np.isin(known, ordinals))).select(RECORD.names).cast(RECORD)
    return pa.concat_tables([mine, pa.table(columns, schema=RECORD)]).sort_by("ordinal")


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
        return tuple((why == NO_REASON) & ~piece.unexamined for piece, why in pairs)

    @property
    def uncertain(self) -> int:
        """Number of rows that are kept only if they pass the stages that have not examined them."""
        return sum(int((why == NO_REASON).sum()) for why in self.reasons) - self.kept_rows

    @property
    def kept_rows(self) -> int:
        """Number of rows that are certainly kept."""
        return sum(int(kept.sum()) for kept in self.kept)

    @property
    def share(self) -> Estimate:
        """The fraction of the output's annotated rows that is certainly kept."""
        counts = [int(kept.sum()) for kept in self.kept]
        rows = [len(piece) for piece in self.sample.pieces]
        return share(
            counts, rows, sum(rows) if self.sample.whole else max(self.sample.all_rows, sum(rows))
        )

    @property
    def rejected(self) -> Counter[str]:
        """Number of rows by reason, including dead-letter rows."""
        counts: Counter[str] = Counter()
        for reasons in self.reasons:
            counts.update(reasons[reasons != NO_REASON].tolist())
        return counts


def decide(output: Output, sample: Sample, preset: Preset) -> Decided:
    decided = Decided(
        sample,
        tuple(
            apply_cascade(piece.rows, piece.records, preset, output.stages).reasons
            for piece in sample.pieces
        ),
    )
    asked = "dedup" in output.stages
    rejects = {
        DUPLICATE_PAIR: asked and preset.dedup.pairs,
        DUPLICATE_IMAGE: asked and preset.dedup.images,
        DUPLICATE_SEMANTIC: asked and preset.dedup.semantic,
    }
    # Scores are not in memory, so rows that they reject stay rejected.
    steps = (
        step for one in (output.preset, preset) for step in cascade(one) if step.stage != "score"
    )
    by_thresholds = {step.reason for step in steps}
    _stay(decided, lambda reason: reason not in by_thresholds and reason not in rejects)
    if rejects[DUPLICATE_PAIR] and pairs_are_known(output, sample):
        _find_pairs(decided)
        rejects[DUPLICATE_PAIR] = False  # recomputed, so recorded ones do not stay
    _stay(decided, lambda reason: rejects.get(reason, False))
    return decided


def pairs_are_known(output: Output, sample: Sample) -> bool:
    """Return whether duplicate pairs can be found in a sample. The sample must hold all rows, and
    either all rows have a URL or the run reads images."""
    urls = all(np.asarray(piece.rows["has_url"]).all() for piece in sample.pieces)
    return sample.whole and (urls or "spotting" in output.stages)


def _stay(decided: Decided, stays: Callable[[str], bool]) -> None:
    """Reject rows that the run has rejected for a reason that `stays` accepts."""
    for piece, reasons in zip(decided.sample.pieces, decided.reasons, strict=True):
        names = [
            name
            for name in dict.fromkeys(piece.recorded.tolist())
            if name != NO_REASON and stays(name)
        ]
        which = (reasons == NO_REASON) & np.isin(piece.recorded.astype(str), names)
        reasons[which] = piece.recorded[which]


def _find_pairs(decided: Decided) -> None:
    """Reject all but the first of equal pairs among the kept rows."""
    kept = [np.flatnonzero(reasons == NO_REASON) for reasons in decided.reasons]
    keys = []
    for piece, places in zip(decided.sample.pieces, kept, strict=True):
        pairs = Pairs()
        digests = {}
        pairs.add(piece.rows.take(pa.array(places, pa.int64())))
        if piece.records is not None:
            known = zip(
                piece.records["ordinal"].to_pylist(),
                piece.records["sha256"].to_pylist(),
                strict=True,
            )
            digests = {ordinal: digest for ordinal, digest in known if digest is not None}
        keys.append(pairs.keys(piece.unit, digests))
    # The array without rows keeps the shape (0, 2) if there are no keys.
    _, first = np.unique(
        np.concatenate([np.empty((0, 2), np.uint64), *keys]), axis=0, return_index=True
    )
    again = np.ones(sum(map(len, kept)), bool)
    again[first] = False
    begin = 0
    for reasons, places in zip(decided.reasons, kept, strict=True):
        reasons[places[again[begin : begin + len(places)]]] = DUPLICATE_PAIR
        begin += len(places)
