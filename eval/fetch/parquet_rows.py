"""Convert the hub's parquet files with images into a file of rows and image files.

`open_diht.eval.data.selections` reads the result.
"""

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
"""Rows that are converted at once, images included."""


def write_rows(files: Sequence[Path], target: Path) -> int:
    """Write the rows to `target`/rows.jsonl and their images to `target`/images, completely or not at all.

    Equal images with the same suffix are written once, named by their content; the path below `target` replaces the
    image in its column.
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
                raise FetchFailed(
                    f"{path} cannot be converted to rows ({error}); if it is damaged, remove it and run again"
                ) from None
        if not count:
            raise FetchFailed(f"there are no rows in {', '.join(str(path) for path in files)}")
    return count


def _saved(value: Any, building: Path) -> Any:
    """Return a column's value; an image in the hub's form {bytes, path} is written and replaced by its path."""
    if not (isinstance(value, dict) and set(value) == {"bytes", "path"} and value["bytes"]):
        return value
    # Named by content, so that equal images with the same suffix are one file.
    name = f"images/{hashlib.sha256(value['bytes']).hexdigest()[:24]}{Path(value['path'] or '').suffix.lower()}"
    if not (building / name).exists():
        (building / name).write_bytes(value["bytes"])
    return name
