"""The cascade: which rows survive, and the first reason why the others do not. Pure functions of annotations and a
preset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from filters.captions.rules import CaptionDecisions, decide_captions
from filters.presets import Preset
from filters.spotting.overlap import overlap_lengths
from pipelines.fetch.reasons import Reason

NO_CAPTION, CAPTION_LENGTH, COMPLEXITY, ACTION = "no_caption", "caption_length", "complexity", "action"
DOWNLOADS = tuple(str(reason) for reason in Reason)
"""Why a picture was not fetched: each is a reason of its own."""
NOT_AT_HAND, TOO_SMALL, TEXT_SPOTTING = "picture_not_at_hand", "picture_too_small", "text_spotting"
DUPLICATE_PAIR, DUPLICATE_PICTURE, DUPLICATE_SEMANTIC = "duplicate_pair", "duplicate_picture", "duplicate_semantic"

CASCADE = (
    ("captions", NO_CAPTION),
    ("captions", CAPTION_LENGTH),
    ("captions", COMPLEXITY),
    ("captions", ACTION),
    *(("download", reason) for reason in DOWNLOADS),
    ("spotting", NOT_AT_HAND),
    ("spotting", TOO_SMALL),
    ("spotting", TEXT_SPOTTING),
    ("dedup", DUPLICATE_PAIR),
    ("dedup", DUPLICATE_PICTURE),
    ("dedup", DUPLICATE_SEMANTIC),
)
"""(stage, reason) in the order in which they are asked; a row is rejected by the first that applies."""
STAGE_OF = {reason: stage for stage, reason in CASCADE}

KEPT = ""
DEAD = "dead_letter"
NOT_DECIDED = "not_decided"
"""Rows of units that are set aside; like `DEAD` no reason, for the next run decides them."""
UNREAD = "unread"
"""Status of a picture that is at hand where no stage is asked for that reads it."""
DOWNLOAD_FAILED = "download:"
"""Begins the status of a picture that was not fetched; the reason follows."""
NOT_READ = -1
"""Overlap of a picture that was not read."""

Reasons = NDArray[np.object_]


@dataclass(frozen=True)
class CaptionVerdict:
    """What the caption rules say of a table of annotated rows."""

    reasons: Reasons
    """The reason of each row, `KEPT` where it survives."""
    decisions: CaptionDecisions | None
    """None where captions were not asked about."""


def judge_captions(rows: pa.Table, preset: Preset, asked: bool) -> CaptionVerdict:
    """`rows` has `caption` and, where `asked`, the annotation columns. Rows without a caption never survive."""
    lengths = pc.utf8_length(rows["caption"])
    missing = np.asarray(pc.is_null(rows["caption"]))
    reasons: Reasons = np.full(rows.num_rows, KEPT, object)
    decisions = decide_captions(rows, preset.captions) if asked else None
    if decisions is not None:  # later reasons first: the first of the cascade is written last
        reasons[decisions.n_actions < preset.captions.min_actions] = ACTION
        reasons[decisions.complexity < preset.captions.min_complexity] = COMPLEXITY
    reasons[np.asarray(pc.fill_null(lengths, 0)) > preset.captions.max_chars] = CAPTION_LENGTH
    reasons[missing] = NO_CAPTION
    return CaptionVerdict(reasons, decisions)


@dataclass(frozen=True)
class PictureVerdict:
    """What the picture rules say of rows with a spotting record."""

    reasons: Reasons
    """`KEPT`, a reason of the cascade, or `DEAD` (see the record's own status)."""
    overlaps: NDArray[np.int64]
    """Characters of the caption found in the picture; `NOT_READ` where nobody looked."""


def judge_pictures(captions: list[str], records: pa.Table, preset: Preset) -> PictureVerdict:
    """`records` are rows of `stages.spotting.SCHEMA`, one per caption."""
    statuses = records["status"].to_pylist()
    spotted = [[(line["text"], line["score"]) for line in lines or []] for lines in records["spotted"].to_pylist()]
    overlaps = np.array(overlap_lengths(captions, spotted, preset.text_spotting), np.int64).reshape(-1)
    sides = zip(records["width"].to_pylist(), records["height"].to_pylist(), strict=True)
    small = np.array(
        [status == "ok" and min(size) < preset.pictures.min_side for status, size in zip(statuses, sides, strict=True)],
        bool,
    )
    reasons: Reasons = np.full(len(captions), KEPT, object)
    reasons[overlaps >= preset.text_spotting.min_chars] = TEXT_SPOTTING
    reasons[small] = TOO_SMALL
    for place, status in enumerate(statuses):
        if status == UNREAD:
            overlaps[place] = NOT_READ
        elif status.startswith(DOWNLOAD_FAILED):
            reasons[place] = status.removeprefix(DOWNLOAD_FAILED)
            overlaps[place] = NOT_READ
        elif status == NOT_AT_HAND:
            reasons[place] = NOT_AT_HAND
        elif status != "ok":
            reasons[place] = DEAD
    return PictureVerdict(reasons, overlaps)
