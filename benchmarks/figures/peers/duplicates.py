"""Exact duplicates among keys in Parquet files, by DuckDB and by datatrove."""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

Find = Callable[[str], int]


def duckdb(temporary: str, memory: str = "") -> Find:
    """Return a function that writes the positions of the later rows of each key, and returns their
    number. `memory` is DuckDB's limit; by default it is 80 % of the machine's."""
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"SET threads = 1; SET temp_directory = '{temporary}'")
    if memory:
        connection.execute(f"SET memory_limit = '{memory}'")

    def find(folder: str) -> int:
        query = (
            f"SELECT unit, ordinal FROM read_parquet('{folder}/*.parquet') QUALIFY row_number()"
            " OVER (PARTITION BY high, low ORDER BY unit, ordinal) > 1"
        )
        connection.execute(f"COPY ({query}) TO '{temporary}/found.parquet'")
        return pq.read_metadata(f"{temporary}/found.parquet").num_rows

    return find


def datatrove(temporary: str) -> Find:
    """Return a function that runs the two steps that find duplicates, without the third, which
    drops them."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup.exact_dedup import (
        ExactDedupConfig,
        ExactDedupSignature,
        ExactFindDedups,
    )

    def key(document: Document) -> bytes:
        return document.text  # type: ignore[no-any-return] # bytes here

    key.__annotations__["return"] = bytes  # it looks here for the type that it hashes
    config = ExactDedupConfig(content_getter=key)

    def documents(file: Path) -> Iterator[Document]:
        table = pq.read_table(file, columns=["high", "low"])
        rows = np.stack([table["high"].to_numpy(), table["low"].to_numpy()], axis=1).tobytes()
        for first in range(0, len(rows), 16):
            yield Document(text=rows[first : first + 16], id="")

    def find(folder: str) -> int:
        signatures, found = Path(temporary, "signatures"), Path(temporary, "found")
        for old in (signatures, found):
            shutil.rmtree(old, ignore_errors=True)
        files = sorted(Path(folder).glob("*.parquet"))
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bars
            for rank, file in enumerate(files):
                step = ExactDedupSignature(str(signatures), config)
                step.run(documents(file), rank, len(files))
            ExactFindDedups(str(signatures), str(found), config, lines_to_buffer=10_000).run()
        return sum(path.stat().st_size for path in found.rglob("*.c4_dup")) // 4

    return find
