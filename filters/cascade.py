"""The cascade: the ordered filters of a preset, which decide each row and name the reason of the
first that rejects it.

Without filters of stages, `apply_cascade` is a pure function of annotations and a preset. It needs
no Beam, no file and no run:

    annotations = CaptionAnnotator().annotate(captions)
    rows = annotations.append_column("caption", pa.array(captions))
    apply_cascade(rows, None, load_preset("paper"), ["captions"]).reasons
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.common.spelling import spelled
from open_diht.filters.base import Bools, CaptionEvidence, ImageEvidence
from open_diht.filters.captions.annotate import SCHEMA
from open_diht.filters.captions.rules import CaptionDecisions, decide_captions
from open_diht.filters.columns import ColumnCondition
from open_diht.filters.download import EXPLANATIONS
from open_diht.filters.presets import Preset
from open_diht.filters.score import CLIP_SCORE, MASKED_SCORE, NEG_CLIP_LOSS, NOT_SCORED, ScoreRule
from open_diht.filters.several_captions import OTHERS, each_caption
from open_diht.filters.spotting.overlap import overlap_lengths

NOT_AT_HAND = "image_not_available"
DUPLICATE_PAIR = "duplicate_pair"
DUPLICATE_IMAGE = "duplicate_image"
DUPLICATE_SEMANTIC = "duplicate_semantic"

NO_REASON = ""
DEAD = "dead_letter"
NOT_DECIDED = "not_decided"
"""Decision of rows of failed units. Like `DEAD` it is not a reason. The next run tries these rows
again."""
UNREAD = "unread"
"""Status of a downloaded image in a run without stage `spotting`."""
DOWNLOAD_FAILED = "download:"
"""Prefix of the status of an image that was not fetched; the reason follows."""
NOT_READ = -1
"""Overlap of an image that was not read."""

Reasons = NDArray[np.object_]

LINE = pa.struct(
    [("text", pa.string()), ("score", pa.float32()), ("box", pa.list_(pa.list_(pa.float32())))]
)
RECORD = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("status", pa.string()),
        ("message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("spotted", pa.list_(LINE)),
        ("sha256", pa.binary(32)),
        ("bytes", pa.int64()),
    ]
)
"""One row per requested image. `status` is ok or the reason why there is no result. Boxes are four
corners (x, y) in pixels of the original. `sha256` and `bytes` describe the image as stored, and are
null if its bytes were not read."""

_SCORES = {
    CLIP_SCORE: "The similarity of a model's embeddings of image and caption is too low",
    MASKED_SCORE: "The similarity of the image without its text and the caption is too low",
    NEG_CLIP_LOSS: (
        "The similarity of image and caption, corrected for their similarity to other rows, is"
        " too low"
    ),
}


class NotLookedAt(RuntimeError):
    """Rows pass the filters so far, but lack the annotations that the next filter needs."""


@dataclass(frozen=True)
class Step:
    """One reason of the cascade."""

    stage: str
    """The stage of this step; a run without the stage skips the step, unless `always`."""
    reason: str
    explanation: str
    always: bool = False
    """Whether every run takes this step, whatever its stages."""
    rare: bool = False
    """Whether the funnel shows this step only if it rejected a row."""


class StageFilter(Protocol):
    """A filter that a stage brings (`score`, decontamination, a plugin): a small picklable object
    that decides by the stage's annotations."""

    @property
    def steps(self) -> Sequence[Step]:
        """The filter's reasons, in cascade order. There are none if the built-in cascade has
        them."""

    @property
    def fingerprint(self) -> str:
        """A text that changes with the filter's thresholds."""

    def reasons(self, layout: Any, unit: str, rows: pa.Table) -> Reasons:
        """Decide some rows of a unit.

        Args:
            layout: the output folder, a `pipelines.store.layout.Layout`.
            unit: name of the caption unit.
            rows: n rows of the unit (`ordinal`, `uid`, `caption`, ...).

        Returns:
            (n,) of dtype object: the reason of each row, `NO_REASON` for rows that pass.
        """


@runtime_checkable
class MeasuringFilter(StageFilter, Protocol):
    """A filter that exposes its numbers in columns of kept/ and rejected/. Histograms show the
    numbers with conditions."""

    @property
    def conditions(self) -> Sequence[ColumnCondition]:
        """The conditions on the numbers; the reason of each is the name of its column."""

    def measured(self, layout: Any, unit: str, rows: pa.Table) -> pa.Table:
        """Return the numbers of some rows by column name, null for missing numbers."""


@runtime_checkable
class DecidesByNumbers(MeasuringFilter, Protocol):
    """A filter whose reasons follow from its numbers, so that the cascade looks rows up once."""

    def reasons_of(self, values: pa.Table) -> Reasons:
        """Return the reason of each row from its numbers, as `measured` returns them."""


def cascade(preset: Preset, own: Sequence[StageFilter] = ()) -> tuple[Step, ...]:
    """Return the steps of a preset, in order. `own` has the filters that stages bring: `score`,
    decontamination and plugins. Their steps come after those of the preset, but before those for
    duplicates. Duplicates that the preset keeps have no step.
    """
    dedup = preset.dedup
    same_image = "The same image is in an earlier row."
    duplicates = (
        (dedup.pairs, DUPLICATE_PAIR, "The same pair of image and caption is in an earlier row."),
        (dedup.images, DUPLICATE_IMAGE, same_image),
        (
            dedup.semantic,
            DUPLICATE_SEMANTIC,
            "The image is a near copy of another, by their embeddings.",
        ),
    )
    return (
        *(
            Step(
                "columns" if isinstance(one, ColumnCondition) else "captions",
                one.reason,
                one.explanation,
                always=not one.needs_annotations,
            )
            for one in preset.caption_filters
        ),
        *(Step("download", str(reason), text, rare=True) for reason, text in EXPLANATIONS.items()),
        Step(
            "spotting",
            NOT_AT_HAND,
            "There is no image for the row, so it cannot be checked for text.",
        ),
        *(Step("spotting", one.reason, one.explanation) for one in preset.image_filters),
        *_score_steps(preset.score),
        *(step for one in own for step in one.steps),
        *(Step("dedup", reason, text) for rejects, reason, text in duplicates if rejects),
    )


def _score_steps(rule: ScoreRule) -> Iterator[Step]:
    if rule.thresholds:
        absent = (
            "There is no score for the row: it has no readable image, or its image or caption"
            " cannot be embedded."
        )
        yield Step("score", NOT_SCORED, absent, rare=True)
    for reason, (least, keep) in rule.thresholds.items():
        what = (
            f"below {least:g}" if least is not None else f"not among the highest {keep:.4g} of all"
        )
        yield Step("score", reason, f"{_SCORES[reason]}: {what}.")


def refuse_scores(preset: Preset, user: str) -> None:
    """Raise ValueError if a preset decides by CLIP scores, which the class `user` cannot
    compute."""
    if preset.score.thresholds:
        raise ValueError(
            f"preset {preset.name!r} needs CLIP scores, which {user} does not compute; leave out"
            f" its section `score`, or run `{spelled('filter', score_model='NAME')}`"
        )


def stage_of(preset: Preset, own: Sequence[StageFilter] = ()) -> dict[str, str]:
    """Return the stage of each reason of the `cascade`."""
    return {step.reason: step.stage for step in cascade(preset, own)}


def conditions_of(own: Sequence[StageFilter]) -> list[ColumnCondition]:
    """Return the conditions of the filters that expose their numbers."""
    return [
        condition for one in own if isinstance(one, MeasuringFilter) for condition in one.conditions
    ]


@dataclass(frozen=True)
class EachCaption:
    """The decisions on the m captions of n rows that may have several."""

    owners: NDArray[np.int64]
    """(m,): index of the row of each caption, ascending."""
    captions: pa.Array
    """(m,): the captions."""
    reasons: Reasons
    """(m,): the reason of each caption, as in `Decisions.reasons`."""

    def settled(self, rows: Reasons) -> Reasons:
        """Return the final reason of each caption (m,), given the final reasons of the rows (n,).
        A caption that passed gets the reason of its row. If the row is in the dead-letter table,
        all its captions do.
        """
        of_row = rows[self.owners]
        return np.where((self.reasons == NO_REASON) | (of_row == DEAD), of_row, self.reasons)


@dataclass(frozen=True)
class Decisions:
    """The decisions on a table of n annotated rows, each with its reason and evidence."""

    reasons: Reasons
    """(n,): the reason of each row; `NO_REASON` if no filter rejects it, `DEAD` if its image cannot
    be read."""
    counts: CaptionDecisions | None
    """The preset's counts for each row's one caption, or None without stage `captions`."""
    asked: Bools
    """(n,): whether a row reached the caption filters, that is, no condition on a column rejected
    it."""
    overlaps: NDArray[np.int64]
    """(n,): characters of the longest match of caption and text in the image. It is `NOT_READ` if
    the image was not read, or if a filter on captions or columns rejects the row."""
    rows: pa.Table
    """The n rows. A row that has several captions has the one that its decision is about."""
    found: NDArray[np.int64] | None = None
    """(n,): index of each row's record in `records`, or -1 if a filter on captions or columns
    rejects the row. None: no records."""
    records: pa.Table | None = None
    """Rows of `RECORD`, of images. None: images decide nothing."""
    measured: dict[str, pa.Array] = field(default_factory=dict)
    """The numbers of `MeasuringFilter`s by column, (n,) each, null also for rows that an earlier
    filter rejects."""
    each: EachCaption | None = None
    """The decision on every caption, or None if rows have one caption each."""

    @property
    def passed(self) -> Bools:
        """(n,): whether a row passes all filters."""
        return np.asarray(self.reasons == NO_REASON)

    def unreadable(self) -> dict[int, tuple[str, str]]:
        """Return why images cannot be read.

        Returns:
            The error and its message for each row whose image cannot be read, by the index of the
            row.
        """
        if self.records is None or self.found is None:
            return {}
        dead = np.flatnonzero(self.reasons == DEAD)
        theirs = self.records.take(pa.array(self.found[dead]))
        why = zip(theirs["status"].to_pylist(), theirs["message"].to_pylist(), strict=True)
        return dict(zip(dead.tolist(), why, strict=True))


def apply_cascade(
    rows: pa.Table,
    records: pa.Table | None,
    preset: Preset,
    stages: Collection[str],
    own: Sequence[StageFilter] = (),
    layout: Any = None,
    unit: str = "",
) -> Decisions:
    """Apply the cascade to annotated rows, except for duplicates, which need all rows of a data
    set.

    Args:
        rows: n rows with `caption`, the columns of `filters.captions.annotate.SCHEMA` if `stages`
            has "captions", the values that the preset's conditions compare
            (`filters.columns.STORED`), and `ordinal` if there are records or `own`.
        records: images by ascending `ordinal`, rows of `RECORD`, or None if images decide nothing,
            or do not decide yet. Image filters decide only if there are records.
        preset: the filters and their thresholds. Conditions on columns always decide.
        stages: the stages that decide. Without "captions", filters that need annotations are
            skipped. Rows without a caption are always rejected.
        own: filters that stages bring (`score`, decontamination and plugins). They always decide,
            each on the rows that earlier filters keep.
        layout: the output folder, which holds the annotations that `own` reads.
        unit: name of the unit of the rows, for `own`.

    Returns:
        The decisions and their evidence. A row has evidence only up to the stage whose filter
        rejects it, so that the result does not depend on what other presets annotated before. A row
        with several captions is decided by the first that passes, or if none passes by the first
        that got furthest; `own` decides it once, with that caption.

    Raises:
        NotLookedAt: a row passes the caption filters and has no record, or lacks annotations that
            `own` needs.
    """
    captions, owners = each_caption(rows)
    decided = _apply_caption_filters(captions, preset, "captions" in stages)
    if records is not None:
        decided = _apply_images(captions, records, decided, preset)
    if owners is not None:
        decided = _one_of_each(captions, owners, decided, preset)
    reasons = decided.reasons
    measured = dict[str, pa.Array]()
    for one in own:
        assert layout is not None
        alive = np.flatnonzero(reasons == NO_REASON)
        mine = decided.rows.take(pa.array(alive))
        values = one.measured(layout, unit, mine) if isinstance(one, MeasuringFilter) else None
        if isinstance(one, DecidesByNumbers):
            reasons[alive] = one.reasons_of(values)
        else:
            reasons[alive] = one.reasons(layout, unit, mine)
        if values is not None:
            indices = np.full(len(reasons), -1, np.int64)
            indices[alive] = np.arange(len(alive))
            values = values.take(pa.array(indices, mask=indices < 0))
            measured |= {name: values[name].combine_chunks() for name in values.column_names}
    return replace(decided, measured=measured)


def with_one_caption(
    rows: pa.Table, record: Mapping[str, Any] | None, preset: Preset, stages: Collection[str]
) -> pa.Table:
    """Return a row with the one caption that its decision is about. `record` describes its image,
    as a row of `RECORD`. It is None if no image was read."""
    if OTHERS not in rows.column_names:
        return rows
    records = None if record is None else pa.Table.from_pylist([dict(record)], RECORD)
    return apply_cascade(rows, records, preset, stages).rows


def _one_of_each(
    captions: pa.Table, owners: NDArray[np.int64], decided: Decisions, preset: Preset
) -> Decisions:
    """Combine the decisions on `captions` (see `each_caption`) into those on the rows, which may
    have several."""
    places = {step.reason: place for place, step in enumerate(cascade(preset))}
    # One image is read for all captions of a row, so `NO_REASON` and `DEAD` do not meet in it.
    reached = np.array([places.get(reason, len(places)) for reason in decided.reasons], np.int64)
    order = np.lexsort((-reached, owners))  # stable: the first caption of those that got as far
    best = order[np.unique(owners[order], return_index=True)[1]]
    counts = decided.counts
    if counts is not None:
        values = {one.name: getattr(counts, one.name) for one in fields(counts)}
        counts = CaptionDecisions(
            **{
                n: v[best] if isinstance(v, np.ndarray) else v.take(pa.array(best))
                for n, v in values.items()
            }
        )
    return replace(
        decided,
        reasons=decided.reasons[best],
        counts=counts,
        asked=decided.asked[best],
        overlaps=decided.overlaps[best],
        rows=captions.take(pa.array(best)),
        found=None if decided.found is None else decided.found[best],
        each=EachCaption(owners, captions["caption"].combine_chunks(), decided.reasons),
    )


def _apply_caption_filters(rows: pa.Table, preset: Preset, annotated: bool) -> Decisions:
    """Apply the filters on captions and manifest columns to rows with one caption each, with
    `annotated` also those that need annotations."""
    given = rows
    rejected = {one.reason: one.rejects(CaptionEvidence(rows, None)) for one in preset.columns}
    asked = np.ones(rows.num_rows, bool)
    for by_column in rejected.values():
        asked &= ~by_column
    if annotated and not asked.all():
        # The presets of earlier runs decided whether the other rows were parsed.
        kept = pa.array(np.arange(rows.num_rows), mask=~asked)
        for name in SCHEMA.names:
            column = rows[name].combine_chunks().take(kept)
            rows = rows.set_column(rows.column_names.index(name), name, column)
    evidence = CaptionEvidence(rows, decide_captions(rows, preset.captions) if annotated else None)
    reasons: Reasons = np.full(rows.num_rows, NO_REASON, object)
    for one in reversed(preset.caption_filters):
        # Written last, the first filter of the cascade wins.
        if annotated or not one.needs_annotations:
            known = rejected.get(one.reason)
            reasons[one.rejects(evidence) if known is None else known] = one.reason
    overlaps = np.full(rows.num_rows, NOT_READ, np.int64)
    return Decisions(reasons, evidence.decided, asked, overlaps, given)


def _apply_images(
    rows: pa.Table, records: pa.Table, decided: Decisions, preset: Preset
) -> Decisions:
    """Apply the filters on images to the rows that pass the filters on captions; see
    `apply_cascade`."""
    reasons = decided.reasons
    overlaps = decided.overlaps
    alive = np.flatnonzero(reasons == NO_REASON)
    found = np.full(len(reasons), -1, np.int64)
    found[alive] = _indices(np.asarray(rows["ordinal"])[alive], np.asarray(records["ordinal"]))
    if (found[alive] < 0).any():
        raise NotLookedAt("rows pass their captions, and no stage has looked at their images")
    captions = rows["caption"].take(pa.array(alive)).to_pylist()
    reasons[alive], overlaps[alive] = apply_image_filters(
        captions, records.take(pa.array(found[alive])), preset
    )
    return replace(decided, found=found, records=records)


def apply_image_filters(
    captions: list[str], records: pa.Table, preset: Preset
) -> tuple[Reasons, NDArray[np.int64]]:
    """Apply the filters on images to n rows of `RECORD`. Return their reasons and overlaps (n,),
    see `Decisions`."""
    reasons: Reasons = np.full(len(captions), DEAD, object)
    overlaps = np.full(len(captions), NOT_READ, np.int64)
    statuses = records["status"].to_pylist()
    for index, status in enumerate(statuses):
        if status == NOT_AT_HAND:
            reasons[index] = NOT_AT_HAND
        elif status == UNREAD:
            reasons[index] = NO_REASON
        elif status.startswith(DOWNLOAD_FAILED):
            reasons[index] = status.removeprefix(DOWNLOAD_FAILED)
    read = np.flatnonzero([status == "ok" for status in statuses])
    records = records.take(pa.array(read))
    mine = [captions[index] for index in read]
    spotted = [
        [(line["text"], line["score"]) for line in lines or []]
        for lines in records["spotted"].to_pylist()
    ]
    evidence = ImageEvidence(
        mine,
        records,
        np.array(overlap_lengths(mine, spotted, preset.text_spotting), np.int64).reshape(-1),
    )
    overlaps[read], reasons[read] = evidence.overlaps, NO_REASON
    for one in reversed(preset.image_filters):
        reasons[read[one.rejects(evidence)]] = one.reason
    return reasons, overlaps


def _indices(ordinals: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the index of each ordinal in ascending `known`. An ordinal that is missing there gets
    -1."""
    if not len(known):
        return np.full(len(ordinals), -1, np.int64)
    indices = np.searchsorted(known, ordinals)
    indices[indices == len(known)] = 0
    return np.where(known[indices] == ordinals, indices, -1)
