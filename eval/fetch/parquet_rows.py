"""Parquet files of the hub, images inside, as a file of rows with images beside it
(`open_diht.eval.data.selections`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from open_diht.common.files import published_folder
from open_diht.eval.errors import FetchFailed

ROWS = "rows.jsonl"
BATCH = 64
"""Rows in memory at once, images included."""


def write_rows(files: Sequence[Path], target: Path) -> int:
    """Write the rows of `files` to `target`/rows.jsonl and the images in them to `target`/images, the same one once,
    under the name of its content, which stands in its column; returns how many rows. Whole or not at all.

    Raises `FetchFailed` for what is no parquet file, or has no rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    with published_folder(target) as building, (building / ROWS).open("w", encoding="utf-8") as out:
        (building / "images").mkdir()
        for path in files:
            try:
                for batch in pq.ParquetFile(path).iter_batches(BATCH):
                    for row in batch.to_pylist():
                        out.write(json.dumps({name: _saved(value, building) for name, value in row.items()}) + "\n")
                        count += 1
            except (pa.ArrowException, OSError, TypeError, ValueError) as error:
                raise FetchFailed(f"{path} is no parquet file of rows ({error}); remove it and run again") from None
        if not count:
            raise FetchFailed(f"there are no rows in {', '.join(str(path) for path in files)}")
    return count


def _saved(value: Any, building: Path) -> Any:
    """The value of a column; of an image, as the hub stores them ({bytes, path}), where its content was written."""
    if not (isinstance(value, dict) and set(value) == {"bytes", "path"} and value["bytes"]):
        return value
    name = f"images/{hashlib.sha256(value['bytes']).hexdigest()[:24]}{Path(value['path'] or '').suffix.lower()}"
    if not (building / name).exists():
        (building / name).write_bytes(value["bytes"])
    return name
