"""Images of rows, wherever they are: with the manifest, or downloaded.

A part of a caption unit whose file has urls and no images may have been downloaded (stages/download.py). Then its
images lie in tars beside its records, which say for every url asked for where its image is, or why there is none.
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

from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.fetch.records import FETCHED, OK
from open_diht.pipelines.manifests import MissingImage, Span, read_images
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.names import generation_name, image_unit_name
from open_diht.pipelines.store.storage import StorePath, is_local, open_parts, read_table, stamps

STAGE = "download"
_MANY = 100
"""Images, each a request, that take longer than the whole tar."""


def downloaded_state(layout: Layout, image_unit: str) -> list[Any] | None:
    """What changes when images of an image unit are downloaded, or anew; None where none ever were: how they are
    stored, how many generations there are, and a digest of what was found, for the web changes."""
    return state_of(read_json(layout.commit(STAGE, image_unit)))


def state_of(record: dict[str, Any] | None) -> list[Any] | None:
    """The same of an image unit's commit record."""
    return [record["fingerprint"], record["generations"], record["found"]] if record else None


def images_at_hand(layout: Layout, with_manifests: bool) -> bool:
    """Whether there are any images: they came with the manifests, or were downloaded, in this run or before."""
    return with_manifests or bool(stamps(layout.commits(STAGE), ".json"))


def load_downloads(layout: Layout, image_unit: str) -> pa.Table | None:
    """Return the records of an image unit by ordinal, a table of `FETCHED`, the last of each row; None where nothing
    was downloaded for it."""
    record = read_json(layout.commit(STAGE, image_unit))
    if record is None:
        return None
    names = [generation_name(image_unit, generation) for generation in range(record["generations"])]
    tables = [read_table(layout.data(STAGE, name)) for name in names]
    return last_of_each(pa.concat_tables([FETCHED.empty_table(), *tables]))


def last_of_each(records: pa.Table) -> pa.Table:
    """Return records of several generations by ordinal: a row that was done again has its last one."""
    ordinals = np.asarray(records["ordinal"])
    order = np.argsort(ordinals, kind="stable")
    is_last = ordinals[order] != np.append(ordinals[order][1:], -1)
    return records.take(pa.array(order[is_last]))


def tar_path(layout: Layout, name: str) -> StorePath:
    """Where a tar of images lies."""
    return layout.data(STAGE, "any").with_name(name)


def images_of(
    layout: Layout,
    unit: str,
    span: Span,
    image_rows: int,
    dataset: Dataset,
    ordinals: Sequence[int] | npt.NDArray[np.int64],
) -> Iterator[tuple[int, bytes | MissingImage]]:
    """Yields the images of chosen rows of a caption unit, in order, as `read_images` does: (ordinal, bytes), or why
    there are none.

    Args:
        layout: of the output folder.
        unit: the caption unit.
        span: its rows.
        image_rows: rows of an image unit, as the plan has it.
        dataset: how rows are read.
        ordinals: places of the rows inside the unit, strictly ascending.
    """

    def downloads(ordinal: int) -> str | None:
        image_unit = image_unit_name(unit, ordinal // image_rows)
        return image_unit if known[ordinal // image_rows] else None

    numbers = [int(ordinal) for ordinal in ordinals]
    image_units = {number // image_rows for number in numbers}
    known = {image_unit: layout.commit(STAGE, image_unit_name(unit, image_unit)).exists() for image_unit in image_units}
    for name, group in groupby(numbers, downloads):  # what comes with the manifest is read in one go
        if name is None:
            yield from read_images(span, dataset, list(group))
        else:
            yield from _downloaded(layout, load_downloads(layout, name), list(group))


def original_sizes(layout: Layout, image_unit: str) -> dict[int, tuple[int, int]]:
    """Width and height of downloaded images before they were reduced, by ordinal."""
    records = load_downloads(layout, image_unit)
    if records is None:
        return {}
    columns = (records[name].to_pylist() for name in ("ordinal", "status", "width", "height"))
    return {ordinal: (width, height) for ordinal, status, width, height in zip(*columns, strict=True) if status == OK}


def _downloaded(
    layout: Layout, records: pa.Table | None, wanted: list[int]
) -> Iterator[tuple[int, bytes | MissingImage]]:
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
                yield ordinal, MissingImage(reason="image_not_available", message=why)
                continue
            name = row["shard"]
            if name not in files:
                files[name] = stack.enter_context(_opened(tar_path(layout, name), of_shard[name]))
            files[name].seek(row["offset"])
            yield ordinal, files[name].read(row["bytes"])


@contextlib.contextmanager
def _opened(tar: StorePath, images: int) -> Iterator[IO[bytes]]:
    """A tar of which so many images are wanted. They lie in it in the order in which they came, so a remote one is
    fetched whole where they are many."""
    if is_local(tar) or images < _MANY:
        with open_parts(tar) as file:
            yield file
        return
    with tempfile.NamedTemporaryFile(prefix="diht-", suffix=".tar") as copy:
        tar.fs.get_file(tar.path, copy.name)
        yield cast(IO[bytes], copy)
