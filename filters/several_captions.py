"""Rows with several captions.

The further captions of a row are nested, with any annotations, in its column `others`. So stages
still see one row for all its captions, and the filters take the captions apart with `each_caption`.
Data sets with one caption per row have no such column.
"""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.filters.captions.annotate import SCHEMA

OTHERS = "others"
"""Column with the captions after the first of a row."""
OTHER_CAPTIONS = f"{OTHERS}.list.element.caption"
"""Path of these captions' texts in a Parquet file, for reading the texts without the
annotations."""
BATCH_ROWS = 200
"""Rows of a batch, each of which may have as many captions as `manifests.types.MAX_CAPTIONS`
permits."""


def others_field(annotated: bool) -> pa.Field:
    """Return the field of the column `OTHERS`. `annotated` says whether captions are parsed."""
    return pa.field(
        OTHERS, pa.list_(pa.struct([("caption", pa.string()), *(SCHEMA if annotated else ())]))
    )


def nested(captions: Sequence[Sequence[str]], annotations: pa.Table | None) -> pa.ListArray:
    """Return the column `OTHERS` of n rows. `annotations` has a row of `SCHEMA` per caption, or is
    None."""
    flat = pa.array([text for texts in captions for text in texts], pa.string())
    columns = (
        [flat]
        if annotations is None
        else [flat, *(one.combine_chunks() for one in annotations.columns)]
    )
    offsets = np.concatenate([[0], np.cumsum([len(texts) for texts in captions])]).astype(np.int32)
    type = others_field(annotations is not None).type
    values = pa.StructArray.from_arrays(columns, fields=list(type.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets), values, type=type)


def captions_in(rows: pa.Table) -> int:
    """Return the number of captions of some rows. A row without a caption counts as one."""
    return int(rows.num_rows + (pc.sum(pc.list_value_length(rows[OTHERS])).as_py() or 0))


def captions_of(rows: pa.Table) -> list[str]:
    """Return one text per row, with all its captions. Rows with equal captions have equal texts."""
    first = [caption or "" for caption in rows["caption"].to_pylist()]
    if OTHERS not in rows.column_names:
        return first
    others = iter(pc.struct_field(pc.list_flatten(rows[OTHERS]), "caption").to_pylist())
    counts = pc.list_value_length(rows[OTHERS]).to_pylist()
    return [
        "\0".join([one, *islice(others, count)]) for one, count in zip(first, counts, strict=True)
    ]


def each_caption(rows: pa.Table) -> tuple[pa.Table, NDArray[np.int64] | None]:
    """Return a table with one row per caption, in the order of the rows and with their other
    columns, and (m,) the index of each caption's row. If the column `OTHERS` is missing, return the
    rows themselves and None.
    """
    if OTHERS not in rows.column_names:
        return rows, None
    counts = np.asarray(pc.fill_null(pc.list_value_length(rows[OTHERS]), 0)).astype(np.int64)
    owners = np.repeat(np.arange(rows.num_rows), counts)
    first = rows.drop_columns(OTHERS)
    flat = pc.list_flatten(rows[OTHERS])
    own = pa.Table.from_batches(
        map(pa.RecordBatch.from_struct_array, flat.chunks), pa.schema(list(flat.type))
    )
    own = own.select([name for name in own.column_names if name in first.column_names])
    shared = first.drop_columns(own.column_names).take(pa.array(owners))
    further = pa.table([*shared.columns, *own.columns], [*shared.column_names, *own.column_names])
    every = pa.concat_tables([first, further.select(first.column_names).cast(first.schema)])
    owners = np.concatenate([np.arange(rows.num_rows), owners])
    order = np.argsort(owners, kind="stable")
    return every.take(pa.array(order)), owners[order]
