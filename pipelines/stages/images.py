"""Read the images of rows, whether they come with the manifest or were downloaded.

Stage `download` writes the images of an image unit into tars, and for every requested row a record
that says where its image is, or why there is none.
"""

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
from open_diht.pipelines.fetch.records import ARRIVED, FETCHED
from open_diht.pipelines.manifests import MissingImage, Span, read_images
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.layout import Layout, image_unit_name, segment_name
from open_diht.pipelines.store.records import CommitRecord
from open_diht.pipelines.store.storage import StorePath, is_local, open_parts, read_table, stamps

DOWNLOAD = "download"
_MANY = 100
"""From this many wanted images on, fetching a remote tar whole is faster than one request per
image."""


def state_of(record: CommitRecord | None) -> list[Any] | None:
    """Return a state that changes when images of an image unit are downloaded: how images are
    stored, the number of segments, and a digest of the results. Return None if the stage has not
    processed the unit."""
    return [record["fingerprint"], record["segments"], record["found"]] if record else None


def images_at_hand(layout: Layout, with_manifests: bool) -> bool:
    """Return whether there may be images: with the manifests, or downloaded in this or an earlier
    run."""
    return with_manifests or bool(stamps(layout.commits(DOWNLOAD), ".json"))


def load_downloads(layout: Layout, image_unit: str) -> pa.Table | None:
    """Return the last download record of each row of an image unit, a table of `FETCHED` by
    ordinal. Return None if stage `download` has not processed the unit."""
    record: CommitRecord | None = read_json(layout.commit(DOWNLOAD, image_unit))
    if record is None:
        return None
    names = [segment_name(image_unit, segment) for segment in range(record["segments"])]
    tables = [read_table(layout.data(DOWNLOAD, name)) for name in names]
    return last_of_each(pa.concat_tables([FETCHED.empty_table(), *tables]))


def last_of_each(records: pa.Table) -> pa.Table:
    """Return the last record of each row, by ordinal, from the records of several segments."""
    ordinals = np.asarray(records["ordinal"])
    order = np.argsort(ordinals, kind="stable")
    is_last = ordinals[order] != np.append(ordinals[order][1:], -1)
    return records.take(pa.array(order[is_last]))


def tar_path(layout: Layout, name: str) -> StorePath:
    return layout.data(DOWNLOAD, "any").with_name(name)


def images_of(
    layout: Layout,
    unit: str,
    span: Span,
    image_rows: int,
    dataset: Dataset,
    ordinals: Sequence[int] | npt.NDArray[np.int64],
) -> Iterator[tuple[int, bytes | MissingImage]]:
    """Yield the images of chosen rows of a caption unit, in order: the ordinal, and the bytes or
    the reason why there are none. The ordinals are strictly ascending. Errors are those of
    `read_images`."""

    def downloads(ordinal: int) -> str | None:
        image_unit = image_unit_name(unit, ordinal // image_rows)
        return image_unit if known[ordinal // image_rows] else None

    numbers = [int(ordinal) for ordinal in ordinals]
    image_units = {number // image_rows for number in numbers}
    known = {
        number: layout.commit(DOWNLOAD, image_unit_name(unit, number)).exists()
        for number in image_units
    }
    for name, group in groupby(numbers, downloads):
        # Consecutive images of the manifest are read in one pass.
        if name is None:
            yield from read_images(span, dataset, list(group))
        else:
            yield from _downloaded(layout, load_downloads(layout, name), list(group))


def original_sizes(layout: Layout, image_unit: str) -> dict[int, tuple[int, int]]:
    """Return the width and height of downloaded images before they were downscaled, by ordinal."""
    downloads = load_downloads(layout, image_unit)
    if downloads is None:
        return {}
    columns = (downloads[name].to_pylist() for name in ("ordinal", "status", "width", "height"))
    return {
        ordinal: (width, height)
        for ordinal, status, width, height in zip(*columns, strict=True)
        if status == ARRIVED
    }


def _downloaded(
    layout: Layout, downloads: pa.Table | None, wanted: list[int]
) -> Iterator[tuple[int, bytes | MissingImage]]:
    downloads = FETCHED.empty_table() if downloads is None else downloads
    chosen = downloads.filter(pa.array(np.isin(np.asarray(downloads["ordinal"]), wanted)))
    row_of = {row["ordinal"]: row for row in chosen.to_pylist()}
    of_shard = Counter(row["shard"] for row in row_of.values() if row["status"] == ARRIVED)
    with contextlib.ExitStack() as stack:
        files: dict[str, IO[bytes]] = {}
        for ordinal in wanted:
            row = row_of.get(ordinal)
            if row is None or row["status"] != ARRIVED:
                why = (
                    f"not downloaded: {row['status']}: {row['message']}"
                    if row
                    else "not downloaded yet"
                )
                yield ordinal, MissingImage(reason="image_not_available", message=why)
                continue
            name = row["shard"]
            if name not in files:
                files[name] = stack.enter_context(_opened(tar_path(layout, name), of_shard[name]))
            files[name].seek(row["offset"])
            yield ordinal, files[name].read(row["bytes"])


@contextlib.contextmanager
def _opened(tar: StorePath, images: int) -> Iterator[IO[bytes]]:
    """Open a tar from which `images` images are wanted. They are stored in order of download, so a
    remote tar is fetched whole if many are wanted."""
    if is_local(tar) or images < _MANY:
        with open_parts(tar) as file:
            yield file
        return
    with tempfile.NamedTemporaryFile(prefix="diht-", suffix=".tar") as copy:
        tar.fs.get_file(tar.path, copy.name)
        yield cast(IO[bytes], copy)
