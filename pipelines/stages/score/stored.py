"""Read what stage `score` has stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.stages.images import last_of_each
from open_diht.pipelines.stages.segments import segments_of
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import row_groups

SCORE = "score"
VERSION = 3
"""Increase it when equal images and captions may get other embeddings, or the files other columns."""
IMAGES, TEXTS, MASKED = "image_embedding", "text_embedding", "masked_text"
"""Columns of the stage's files, next to ordinal, uid, status (ok, or why there is no score), message, the scores and
`TEXT_AREA`. `MASKED` is the digest of the text that was painted over for the masked score, see `masks.ImageText`."""


def stored_scores(
    layout: Layout, plan: Plan, unit: str, columns: Sequence[str], ordinals: NDArray[np.int64] | None = None
) -> pa.Table:
    """Return the stored rows of a caption unit, by ordinal; of a row that was scored again, the last. If nothing is
    stored, the table has no rows and only the column `ordinal`. Columns include `ordinal`; rows are those with these
    ordinals (n,), None: all."""
    parts = list(_stored(layout, plan, unit, list(columns), ordinals))
    if not parts:
        return pa.table({"ordinal": pa.array([], pa.int64())})
    return last_of_each(pa.concat_tables(parts).combine_chunks())


def _stored(
    layout: Layout, plan: Plan, unit: str, columns: list[str], ordinals: NDArray[np.int64] | None
) -> Iterator[pa.Table]:
    numbers = plan.image_units(read_json(layout.commit("captions", unit)))
    for path in segments_of(layout, SCORE, unit, numbers):
        for group in row_groups(path, columns):
            yield group if ordinals is None else group.filter(among(group, ordinals))


def among(rows: pa.Table, ordinals: NDArray[np.int64]) -> pa.Array:
    """Return the mask (rows,) of the rows of a table with these ordinals."""
    return pc.is_in(rows["ordinal"], value_set=pa.array(ordinals, pa.int64()))
