"""Read what stage `score` has stored, and apply thresholds on it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.filters.cascade import NO_REASON, NotLookedAt, Reasons, Step
from open_diht.filters.columns import ColumnCondition
from open_diht.filters.score import (
    CLIP_SCORE,
    MASKED_SCORE,
    NEG_CLIP_LOSS,
    NOT_SCORED,
    TEXT_AREA,
    ScoreRule,
)
from open_diht.pipelines.manifests.plan import Plan, load_plan
from open_diht.pipelines.stages.encoding import READABLE
from open_diht.pipelines.stages.images import last_of_each
from open_diht.pipelines.stages.segments import segments_of
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import caption_record
from open_diht.pipelines.store.storage import read_table, row_groups

SCORE = "score"
VERSION = 3
"""Increase the version when equal images and captions may get other embeddings, or the files other
columns."""
IMAGES = "image_embedding"
TEXTS = "text_embedding"
MASKED = "masked_text"
"""Columns of the stage's files, next to ordinal, uid, status (ok, or why there is no score),
message, the scores and `TEXT_AREA`. `MASKED` is the digest of the text that was painted over for
the masked score, see `stage.ImageText`."""


def stored_rows(
    layout: Layout,
    stage: str,
    plan: Plan,
    unit: str,
    columns: Sequence[str],
    ordinals: NDArray[np.int64] | None = None,
) -> pa.Table:
    """Return the rows of a caption unit that a stage over image units has stored, by ordinal. If a
    row was stored again, only the last result is returned. If nothing is stored, the columns but
    `ordinal` are of type null. `columns` include `ordinal`; `ordinals` (n,) chooses rows, and None
    chooses all."""
    paths = segments_of(layout, stage, unit, plan.image_units(caption_record(layout, unit)))
    groups = (group for path in paths for group in row_groups(path, list(columns)))
    parts = [
        group if ordinals is None else group.filter(among(group, ordinals)) for group in groups
    ]
    if not parts:
        return pa.table(
            {
                name: pa.array([], pa.int64()) if name == "ordinal" else pa.nulls(0)
                for name in columns
            }
        )
    return last_of_each(pa.concat_tables(parts).combine_chunks())


def among(rows: pa.Table, ordinals: NDArray[np.int64]) -> pa.Array:
    """Return the mask (rows,) of the rows of a table with these ordinals."""
    return pc.is_in(rows["ordinal"], value_set=pa.array(ordinals, pa.int64()))


@dataclass(frozen=True)
class ScoreFilter:
    """A `DecidesByNumbers` filter that decides by stored scores."""

    conditions: Sequence[ColumnCondition]
    """The conditions in cascade order. Thresholds given as fractions of the rows are numbers by
    now."""
    rejects: bool
    """Whether rows without a score are rejected. They are if there is any threshold."""
    masked: bool
    """True if images were also scored without their text."""
    corrected: bool
    """Whether the corrected score was computed."""
    fingerprint: str
    steps: Sequence[Step] = ()
    """Empty, because the steps are in the program's own cascade."""
    _last: dict[str, pa.Table] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, rule: ScoreRule, asked: Mapping[str, float | None], fingerprint: str) -> Self:
        """Return the filter of a rule. `asked` has the threshold of each of the rule's scores with
        one, by reason."""
        conditions = [
            ColumnCondition(reason=name, min=least, missing="keep")
            for name, least in asked.items()
            if least is not None
        ]
        return cls(
            tuple(conditions),
            bool(asked),
            rule.masked is not None,
            rule.negatives is not None,
            fingerprint,
        )

    def measured(self, layout: Layout, unit: str, rows: pa.Table) -> pa.Table:
        known = self._known(layout, unit)
        scored = np.asarray(known["ordinal"])
        ordinals = np.asarray(rows["ordinal"])
        if not np.isin(ordinals, scored).all():
            raise NotLookedAt(
                f"unit {unit}: stage score has not read the images of some rows, so they cannot be"
                " decided"
            )
        return known.take(pa.array(np.searchsorted(scored, ordinals))).drop_columns("ordinal")

    def reasons(self, layout: Layout, unit: str, rows: pa.Table) -> Reasons:
        return self.reasons_of(self.measured(layout, unit, rows))

    def reasons_of(self, values: pa.Table) -> Reasons:
        reasons: Reasons = np.full(values.num_rows, NO_REASON, object)
        for one in reversed(self.conditions):
            # Written last, the first condition of the cascade wins.
            reasons[one.rejects_values(values[one.reason])] = one.reason
        if self.rejects:
            reasons[np.asarray(pc.is_null(values[CLIP_SCORE]))] = NOT_SCORED
        return reasons

    def _known(self, layout: Layout, unit: str) -> pa.Table:
        """Return the scores of a unit by ordinal, null for missing ones. The scores of the last
        unit are cached."""
        if unit not in self._last:
            self._last.clear()
            self._last[unit] = self._read(layout, unit)
        return self._last[unit]

    def _read(self, layout: Layout, unit: str) -> pa.Table:
        names = [CLIP_SCORE, *([MASKED_SCORE, TEXT_AREA] if self.masked else [])]
        table = stored_rows(
            layout, SCORE, load_plan(layout.plan), unit, ["ordinal", "status", *names]
        )
        if not table.num_rows:
            names += [NEG_CLIP_LOSS] if self.corrected else []
            return pa.table(
                {
                    "ordinal": pa.array([], pa.int64()),
                    **{name: pa.array([], pa.float32()) for name in names},
                }
            )
        scored = pc.equal(table["status"], READABLE)
        columns = {
            name: pc.if_else(scored, table[name], pa.scalar(None, pa.float32())) for name in names
        }
        columns = {"ordinal": table["ordinal"], **columns}
        if self.corrected:
            corrected = read_table(layout.data(NEG_CLIP_LOSS, unit))
            places = pc.index_in(table["ordinal"], value_set=corrected["ordinal"])
            columns[NEG_CLIP_LOSS] = corrected[NEG_CLIP_LOSS].combine_chunks().take(places)
        return pa.table(columns).combine_chunks()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_last": {}}
