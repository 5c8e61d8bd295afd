"""Rows that are in memory already, with the identities and captions that the same rows of a file would have."""

from __future__ import annotations

import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]

from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.manifests.batches import to_batch
from open_diht.pipelines.manifests.columns import column_of, plain
from open_diht.pipelines.manifests.schema import resolve_roles
from open_diht.pipelines.manifests.types import Batch, Chunk


def read_rows(table: pa.Table, dataset: Dataset) -> Batch:
    """Reads a table as `read` reads a file: its rows, good and bad.

    Raises:
        BadSchema: a needed column is missing, ambiguous, repeated or of the wrong type.
    """
    roles = resolve_roles([column_of(field.name, field.type) for field in table.schema], dataset, "the batch")
    return to_batch(Chunk(ordinals=list(range(table.num_rows)), table=plain(table), bad=[]), roles)
