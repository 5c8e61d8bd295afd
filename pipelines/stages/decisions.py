"""The cascade: which rows survive, and the first reason why the others do not. Pure functions of annotations and a
preset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.filters.base import CaptionEvidence, Filter, ImageEvidence
from open_diht.filters.captions.annotate import SCHEMA
from open_diht.filters.captions.rules import CaptionDecisions, decide_captions
from open_diht.filters.columns import ColumnCondition
from open_diht.filters.presets import Preset
from open_diht.filters.score import CLIP_SCORE, NEG_CLIP_LOSS, NOT_SCORED, ScoreRule
from open_diht.filters.spotting.overlap import overlap_lengths
from open_diht.pipelines.fetch.reasons import EXPLANATIONS

NOT_AT_HAND = "image_not_available"
DUPLICATE_PAIR, DUPLICATE_IMAGE, DUPLICATE_SEMANTIC = "duplicate_pair", "duplicate_image", "duplicate_semantic"

KEPT = ""
DEAD = "dead_letter"
NOT_DECIDED = "not_decided"
"""Rows of units that are set aside; like `DEAD` no reason, for the next run decides them."""
UNREAD = "unread"
"""Status of an image that is at hand where no stage is asked for that reads it."""
DOWNLOAD_FAILED = "download:"
"""Begins the status of an image that was not fetched; the reason follows."""
NOT_READ = -1
"""Overlap of an image that was not read."""

Reasons = NDArray[np.object_]


@dataclass(frozen=True)
class Step:
    """One reason of the cascade."""

    stage: str
    """The stage without which it is not asked."""
    reason: str
    explanation: str
    always: bool = False
    """Asked in every run, whatever its stages."""
    rare: bool = False
    """Shown only where it rejected a row."""


def cascade(preset: Preset, own: Sequence[Step] = ()) -> tuple[Step, ...]:
    """The steps in the order in which they are asked; a row is rejected by the first that applies. A step whose
    duplicates the preset leaves alone is left out. `own`: those of stages of the user's."""
    rule = preset.dedup
    duplicates = (
        (rule.pairs, DUPLICATE_PAIR, "The same url with the same caption is kept already."),
        (
            rule.images,
            DUPLICATE_IMAGE,
            "The very same image is kept already, with another caption or from another url.",
        ),
        (rule.semantic, DUPLICATE_SEMANTIC, "An image whose embedding is almost the same is kept already."),
    )
    absent = "There is no image for the row, so it cannot be checked for text."
    return (
        *(_step(_caption_stage(one), one, always=not one.needs_annotations) for one in preset.caption_filters),
        *(Step("download", str(reason), text, rare=True) for reason, text in EXPLANATIONS.items()),
        Step("spotting", NOT_AT_HAND, absent),
        *(_step("spotting", one) for one in preset.image_filters),
        *_score_steps(preset.score),
        *own,
        *(Step("dedup", reason, text) for rejects, reason, text in duplicates if rejects),
    )


def _score_steps(rule: ScoreRule) -> Iterator[Step]:
    if rule.thresholds:
        absent = (
            "There is no image for the row, or none that can be read, so there is nothing to compare with its caption."
        )
        yield Step("score", NOT_SCORED, absent, rare=True)
    for reason, (least, keep) in rule.thresholds.items():
        what = "below " + f"{least:g}" if least is not None else f"not among the highest {keep:.4g} of all"
        yield Step("score", reason, f"{_SCORES[reason]}: {what}.")


_SCORES = {
    CLIP_SCORE: "Image and caption are not alike enough, by the similarity of a model's embeddings",
    NEG_CLIP_LOSS: "Image and caption are not more alike than they are to those of other rows, by the score corrected "
    "for these",
}


def _step(stage: str, known: Filter, always: bool = False) -> Step:
    return Step(stage, known.reason, known.explanation, always=always)


def _caption_stage(one: Filter) -> str:
    return "columns" if isinstance(one, ColumnCondition) else "captions"


def stage_of(preset: Preset, own: Sequence[Step] = ()) -> dict[str, str]:
    """The stage of each reason of the cascade."""
    return {step.reason: step.stage for step in cascade(preset, own)}


@dataclass(frozen=True)
class CaptionVerdict:
    """What the caption filters say of a table of annotated rows."""

    reasons: Reasons
    """The reason of each row, `KEPT` where it survives."""
    decisions: CaptionDecisions | None
    """None where captions were not asked about."""
    asked: NDArray[np.bool_]
    """Of each row whether its caption mattered: the manifest's own columns had not rejected it before."""


def judge_captions(rows: pa.Table, preset: Preset, asked: bool) -> CaptionVerdict:
    """What the caption filters say of `rows`, which have `caption`, the values of the preset's `columns` and, where
    `asked`, the annotation columns. Rows without a caption never survive."""
    rejected = {one.reason: one.rejects(CaptionEvidence(rows, None)) for one in preset.columns}
    survive = np.ones(rows.num_rows, bool)
    for by_column in rejected.values():
        survive &= ~by_column
    # Whether others were parsed depends on the presets of earlier runs.
    parsed = _without_annotations(rows, ~survive) if asked and not survive.all() else rows
    evidence = CaptionEvidence(parsed, decide_captions(parsed, preset.captions) if asked else None)
    reasons: Reasons = np.full(rows.num_rows, KEPT, object)
    for one in reversed(preset.caption_filters):  # the first of the cascade is written last
        if asked or not one.needs_annotations:
            known = rejected.get(one.reason)
            reasons[one.rejects(evidence) if known is None else known] = one.reason
    return CaptionVerdict(reasons, evidence.decided, survive)


def _without_annotations(rows: pa.Table, which: NDArray[np.bool_]) -> pa.Table:
    for name in SCHEMA.names:
        column = rows[name].combine_chunks()
        rows = rows.set_column(
            rows.column_names.index(name), name, column.take(pa.array(np.arange(len(column)), mask=which))
        )
    return rows


@dataclass(frozen=True)
class ImageVerdict:
    """What the image filters say of rows with a spotting record."""

    reasons: Reasons
    """`KEPT`, a reason of the cascade, or `DEAD` (see the record's own status)."""
    overlaps: NDArray[np.int64]
    """Characters of the caption found in the image; `NOT_READ` where nobody looked."""


def judge_images(captions: list[str], records: pa.Table, preset: Preset) -> ImageVerdict:
    """`records` are rows of `stages.spotting.SCHEMA`, one per caption."""
    statuses = records["status"].to_pylist()
    reasons: Reasons = np.full(len(captions), DEAD, object)
    overlaps = np.full(len(captions), NOT_READ, np.int64)
    for index, status in enumerate(statuses):
        if status == NOT_AT_HAND:
            reasons[index] = NOT_AT_HAND
        elif status == UNREAD:
            reasons[index] = KEPT
        elif status.startswith(DOWNLOAD_FAILED):
            reasons[index] = status.removeprefix(DOWNLOAD_FAILED)
    read = np.flatnonzero(np.asarray(pc.equal(records["status"], "ok")))
    evidence = _read(captions, records.take(pa.array(read)), read, preset)
    overlaps[read], reasons[read] = evidence.overlaps, KEPT
    for one in reversed(preset.image_filters):
        reasons[read[one.rejects(evidence)]] = one.reason
    return ImageVerdict(reasons, overlaps)


def _read(captions: list[str], records: pa.Table, places: NDArray[np.int64], preset: Preset) -> ImageEvidence:
    mine = [captions[place] for place in places]
    spotted = [[(line["text"], line["score"]) for line in lines or []] for lines in records["spotted"].to_pylist()]
    overlaps = np.array(overlap_lengths(mine, spotted, preset.text_spotting), np.int64).reshape(-1)
    return ImageEvidence(mine, records, overlaps)
