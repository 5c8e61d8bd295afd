"""What is found of duplicates: which row, of which earlier row, and how alike."""

from __future__ import annotations

import pyarrow as pa

ENTRIES = pa.schema(
    [
        ("unit", pa.int32()),
        ("ordinal", pa.int64()),
        ("first_unit", pa.int32()),
        ("first_ordinal", pa.int64()),
        ("duplicate_of", pa.string()),
        ("similarity", pa.float32()),
    ]
)
"""A duplicate: its place (`unit` counts the units of the plan, from 0), the place and uid of the row it duplicates, and
their cosine similarity (null where they are equal). Files of it are sorted by unit and ordinal."""
