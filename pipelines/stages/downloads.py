"""Pictures of rows, wherever they are: with the manifest, or downloaded.

A piece of a caption unit whose file has urls and no pictures may have been downloaded (stages/download.py). Then its
pictures lie in tars beside its records, which say for every url asked for where its picture is, or why there is none.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipelines.datasets import Dataset
from pipelines.fetch.records import FETCHED, OK
from pipelines.manifests import MissingPicture, Span, read_pictures
from pipelines.store.commit import read_json
from pipelines.store.layout import Layout
from pipelines.store.names import generation_name, piece_name
from pipelines.store.storage import Place, is_local, open_parts, read_table, stamps

STAGE = "download"
_MANY = 100
"""Pictures, each a request, that take longer than the whole tar."""


def downloaded_state(layout: Layout, piece: str) -> list[Any] | None:
    """What changes when pictures of a piece are downloaded, or anew; None where none ever were: how they are stored,
    how many generations there are, and a digest of what was found, for the web changes."""
    return state_of(read_json(layout.commit(STAGE, piece)))


def state_of(record: dict[str, Any] | None) -> list[Any] | None:
    """The same of a piece's commit record."""
    return [record["fingerprint"], record["generations"], record["found"]] if record else None


def pictures_at_hand(layout: Layout, with_manifests: bool) -> bool:
    """Whether there are any pictures: they came with the manifests, or were downloaded, in this run or before."""
    return with_manifests or bool(stamps(layout.commits(STAGE), ".json"))


def load_downloads(layout: Layout, piece: str) -> pa.Table | None:
    """The records of a piece by ordinal, a table of `FETCHED`; None where nothing was downloaded for it."""
    record = read_json(layout.commit(STAGE, piece))
    if record is None:
        return None
    names = [generation_name(piece, generation) for generation in range(record["generations"])]
    tables = [read_table(layout.data(STAGE, name)) for name in names]
    return pa.concat_tables(tables).sort_by("ordinal") if tables else FETCHED.empty_table()


def shard_place(layout: Layout, name: str) -> Place:
    """Where a tar of pictures lies."""
    return layout.data(STAGE, "any").with_name(name)


def pictures_of(
    layout: Layout,
    unit: str,
    span: Span,
    picture_rows: int,
    dataset: Dataset,
    ordinals: Sequence[int] | npt.NDArray[np.int64],
) -> Iterator[tuple[int, bytes | MissingPicture]]:
    """Yields the pictures of chosen rows of a caption unit, in order, as `read_pictures` does: (ordinal, bytes), or why
    there are none.

    Args:
        layout: of the output folder.
        unit: the caption unit.
        span: its rows.
        picture_rows: rows of a piece, as the plan has it.
        dataset: how rows are read.
        ordinals: places of the rows inside the unit, strictly ascending.
    """

    def downloads(ordinal: int) -> str | None:
        piece = piece_name(unit, ordinal // picture_rows)
        return piece if known[ordinal // picture_rows] else None

    numbers = [int(ordinal) for ordinal in ordinals]
    pieces = {number // picture_rows for number in numbers}
    known = {piece: layout.commit(STAGE, piece_name(unit, piece)).exists() for piece in pieces}
    for name, group in groupby(numbers, downloads):  # what comes with the manifest is read in one go
        if name is None:
            yield from read_pictures(span, dataset, list(group))
        else:
            yield from _downloaded(layout, load_downloads(layout, name), list(group))


def original_sizes(layout: Layout, piece: str) -> dict[int, tuple[int, int]]:
    """Width and height of downloaded pictures before they were reduced, by ordinal."""
    records = load_downloads(layout, piece)
    if records is None:
        return {}
    columns = (records[name].to_pylist() for name in ("ordinal", "status", "width", "height"))
    return {ordinal: (width, height) for ordinal, status, width, height in zip(*columns, strict=True) if status == OK}


def _downloaded(
    layout: Layout, records: pa.Table | None, wanted: list[int]
) -> Iterator[tuple[int, bytes | MissingPicture]]:
    records = FETCHED.empty_table() if records is None else records
    chosen = records.filter(pa.array(np.isin(np.asarray(records["ordinal"]), wanted)))
    found = {row["ordinal"]: row for row in chosen.to_pylist()}
    of_shard = Counter(row["shard"] for row in found.values() if row["status"] == OK)
    with contextlib.ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for ordinal in wanted:
            row = found.get(ordinal)
            if row is None or row["status"] != OK:
                why = f"not downloaded: {row['status']}: {row['message']}" if row else "not downloaded yet"
                yield ordinal, MissingPicture(reason="picture_not_at_hand", message=why)
                continue
            name = row["shard"]
            if name not in files:
                files[name] = stack.enter_context(_opened(shard_place(layout, name), of_shard[name]))
            files[name].seek(row["offset"])
            yield ordinal, files[name].read(row["bytes"])


@contextlib.contextmanager
def _opened(tar: Place, pictures: int) -> Iterator[IO[bytes]]:
    """A tar of which so many pictures are wanted. They lie in it in the order in which they came, so a remote one is
    fetched whole where they are many."""
    if is_local(tar) or pictures < _MANY:
        with open_parts(tar) as file:
            yield file
        return
    with tempfile.NamedTemporaryFile(prefix="diht-", suffix=".tar") as copy:
        tar.fs.get_file(tar.path, copy.name)
        yield cast(IO[bytes], copy)
