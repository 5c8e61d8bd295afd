"""What annotations and thresholds say of rows by themselves: the cascade up to the duplicates. Shared by the stages
that must agree on it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.filters.presets import Preset
from open_diht.pipelines.stages.decisions import KEPT, NOT_READ, CaptionVerdict, Reasons, judge_captions, judge_images
from open_diht.pipelines.stages.judge import Judge, MeasuringJudge
from open_diht.pipelines.store.layout import Layout


class NotLookedAt(RuntimeError):
    """Rows survive their captions, and nobody has looked at their images."""


@dataclass(frozen=True)
class Verdict:
    """Of a table of annotated rows."""

    captions: CaptionVerdict
    reasons: Reasons
    """`KEPT`, a reason of the cascade, or `DEAD`."""
    overlaps: NDArray[np.int64]
    """Characters of the caption found in the image; `NOT_READ` where it was not asked for."""
    found: NDArray[np.int64] | None
    """The place of each row's spotting record, -1 where its cascade ended before; None where spotting is not asked."""
    measured: dict[str, pa.Array] = field(default_factory=dict)
    """What judges went by, by the name of its column; null where a row's cascade ended before."""


def judge(
    rows: pa.Table,
    records: pa.Table | None,
    preset: Preset,
    stages: Collection[str],
    layout: Layout,
    unit: str,
    judges: Sequence[Judge] = (),
) -> Verdict:
    """The verdict on rows of a unit.

    Args:
        rows: rows of `stages.captions`, with annotations where captions decide.
        records: what `image_records` says of the unit, None where images decide nothing.
        preset: the thresholds.
        stages: those that are asked for.
        layout: of the output folder.
        unit: its name.
        judges: of stages of the user's.

    Raises:
        NotLookedAt: a row survives its caption, and no spotting unit has looked at it.
    """
    verdict = judge_by_filters(rows, records, preset, stages, unit)
    for one in judges:
        alive = np.flatnonzero(verdict.reasons == KEPT)
        mine = rows.take(pa.array(alive))
        verdict.reasons[alive] = one.reasons(layout, unit, mine)
        if isinstance(one, MeasuringJudge):
            places = np.full(rows.num_rows, -1, np.int64)
            places[alive] = np.arange(len(alive))
            found = one.measured(layout, unit, mine).take(pa.array(places, mask=places < 0))
            verdict.measured.update(zip(found.column_names, (column.combine_chunks() for column in found), strict=True))
    return verdict


def judge_by_filters(
    rows: pa.Table, records: pa.Table | None, preset: Preset, stages: Collection[str], unit: str
) -> Verdict:
    """The same without the judges of stages of the user's: what can be said of rows wherever they are."""
    captions = judge_captions(rows, preset, "captions" in stages)
    reasons = captions.reasons.copy()
    overlaps = np.full(len(reasons), NOT_READ, np.int64)
    if records is None:
        return Verdict(captions, reasons, overlaps, None)
    found = _records_of(rows, records)
    alive = np.flatnonzero(reasons == KEPT)
    if (found[alive] < 0).any():
        raise NotLookedAt(f"unit {unit}: rows that no spotting unit has looked at; nothing is decided of them")
    theirs = records.take(pa.array(found[alive]))
    images = judge_images(rows["caption"].take(pa.array(alive)).to_pylist(), theirs, preset)
    reasons[alive], overlaps[alive] = images.reasons, images.overlaps
    # A row shows evidence as far as its cascade came, whatever other presets had read besides.
    found[np.setdiff1d(np.arange(len(found)), alive)] = -1
    return Verdict(captions, reasons, overlaps, found)


def _records_of(rows: pa.Table, records: pa.Table) -> NDArray[np.int64]:
    """For each row the place of its spotting record, -1 where it has none."""
    ordinals, known = np.asarray(rows["ordinal"]), np.asarray(records["ordinal"])
    places = np.searchsorted(known, ordinals)
    places[places == len(known)] = 0
    return np.where(known[places] == ordinals, places, -1) if len(known) else np.full(len(ordinals), -1, np.int64)
