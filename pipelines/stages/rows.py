"""Rows as the filters take them: identities, the values that conditions compare, and the text read
in images.

Runs, Beam transforms and `open_diht.Cat` share these functions, which import no Beam.
"""

import hashlib
import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from open_diht.common.command_line import WrongUse
from open_diht.common.naming import listing, nearest
from open_diht.filters import language
from open_diht.filters.columns import STORED, ColumnCondition
from open_diht.filters.spotting.decode import UnreadableImage
from open_diht.filters.spotting.spotter import Spotting, TextSpotter
from open_diht.pipelines.datasets import Dataset, Roles, load_dataset
from open_diht.pipelines.manifests import Batch, MissingImage, read_rows, roles_of
from open_diht.pipelines.manifests.formats.jsonl import EXTRA

ROW = pa.schema(
    [
        ("ordinal", pa.int64()),
        ("uid", pa.string()),
        ("pair", pa.binary(16)),
        ("has_url", pa.bool_()),
        ("caption", pa.string()),
    ]
)
"""Rows of a unit. `pair` is equal for equal pairs, see `Batch.pairs`."""


class Reading(TypedDict, total=False):
    """A row of `RECORD`; absent keys are null."""

    ordinal: int
    status: str
    message: str
    width: int | None
    height: int | None
    spotted: list[dict[str, object]] | None
    sha256: bytes | None
    bytes: int | None


Asked = tuple[int, bytes | MissingImage, tuple[int, int] | None]
"""The ordinal of a row, its image file or the reason why there is none, and the image's width and
height before the download downscaled it. Width and height are None for an image that was not
downloaded."""


@cache  # the description is a file, and callers ask for each batch
def dataset_of(caption: str, **roles: str) -> Dataset:
    """Return the data set `custom` with the column of the captions. Raises the errors of
    `Dataset.with_roles`."""
    return load_dataset("custom").with_roles(caption=caption, **roles)


def identities(batch: Batch) -> pa.Table:
    """Return the good rows of a batch as a table of `ROW`."""
    columns = {
        "ordinal": batch.ordinals,
        "uid": batch.uids,
        "pair": [None if pair is None else bytes.fromhex(pair) for pair in batch.pairs],
        "has_url": [url is not None for url in batch.urls],
        "caption": batch.captions,
    }
    return pa.table(
        {name: pa.array(values, ROW.field(name).type) for name, values in columns.items()}
    )


def columns_of(
    conditions: Sequence[ColumnCondition],
    roles: Roles,
    dataset: Dataset,
    columns: Sequence[str],
    path: str = "the manifest",
) -> dict[str, str]:
    """Return the column of each condition. It is the first of these that exists: the column of the
    role with the condition's name, the column with that name, the only column with that name in
    another case. Raise WrongUse if there is none. A condition on a language is left out if the
    manifest has no such column; the language is then identified."""
    column_of = {one.reason: _column(one.reason, roles, dataset, columns) for one in conditions}
    for name in [
        name for name, column in column_of.items() if column is None and name not in language.NAMES
    ]:
        raise WrongUse(
            f"{path}: no column or role '{name}', which a condition of the preset"
            f" needs{nearest(name, columns)}; the file has {listing(columns)}. Name another column,"
            f" or leave columns.{name} out of the preset"
        )
    return {name: column for name, column in column_of.items() if column is not None}


def columns_in(
    table: pa.Table, dataset: Dataset, conditions: Sequence[ColumnCondition], path: str
) -> dict[str, str]:
    """Return the column of each condition in a table, as `columns_of` does with the roles that a
    run would resolve. Raise BadSchema if a run would refuse the columns."""
    return (
        columns_of(conditions, roles_of(table, dataset), dataset, table.column_names, path)
        if conditions
        else {}
    )


def good_rows(
    table: pa.Table, dataset: Dataset, conditions: Sequence[ColumnCondition], path: str
) -> tuple[Batch, pa.Table]:
    """Return the good rows of a table twice: as read, and as a table of `ROW` with the values that
    conditions compare. Raise as `columns_in` does, and ModuleNotFoundError if a language must be
    identified without pycld2.
    """
    batch = read_rows(table, dataset)
    rows = identities(batch)
    for name, values in values_of(
        batch, columns_in(table, dataset, conditions, path), conditions
    ).items():
        rows = rows.append_column(name, values)
    return batch, rows


def values_of(
    batch: Batch, places: Mapping[str, str], conditions: Sequence[ColumnCondition]
) -> dict[str, pa.Array]:
    """Return the values that conditions compare, by stored name. `places` is the result of
    `columns_of`. A language without a column is identified from the captions."""
    table = batch.table
    identified = [
        name
        for name in language.NAMES
        if name in {one.reason for one in conditions} - places.keys()
    ]
    absent = pa.nulls(table.num_rows)  # for a column that the batch lacks
    columns = {
        name: table[column] if column in table.column_names else absent
        for name, column in places.items()
    }
    if identified:
        known = list(zip(*language.identify(batch.captions), strict=True)) or [(), ()]
        columns |= {name: pa.array(known[language.NAMES.index(name)]) for name in identified}
    stored = {one.reason: one.stored(columns[one.reason]) for one in conditions}
    if EXTRA in table.column_names and pa.types.is_string(table[EXTRA].type):
        for one in conditions:
            if one.numeric and one.reason in places:
                stored[one.reason] = with_moved(
                    stored[one.reason], table[EXTRA], places[one.reason]
                )
    return {STORED + name: values for name, values in stored.items()}


def with_moved(values: pa.Array, extra: pa.ChunkedArray, column: str) -> pa.Array:
    """Return float64 values (n,) of a column, with its nulls replaced by numbers that the reader
    has moved to `EXTRA`. It moves fractions if the column's first rows hold whole numbers."""
    named = pc.match_substring(extra, json.dumps(column, ensure_ascii=False))
    lacking = np.flatnonzero(
        np.asarray(pc.and_kleene(pc.is_null(values), pc.fill_null(named, False)))
    )
    if not len(lacking):
        return values
    full = values.to_pylist()
    for row, text in zip(lacking.tolist(), extra.take(pa.array(lacking)).to_pylist(), strict=True):
        try:
            moved = json.loads(text).get(column)
            if (
                isinstance(moved, int | float)
                and not isinstance(moved, bool)
                and not math.isnan(moved)
            ):
                full[row] = float(moved)
        except (ValueError, AttributeError, OverflowError):
            # not written by the reader, but the user's own column of this name; or above the range
            # of doubles
            continue
    return pa.array(full, pa.float64())


def role_of(name: str, dataset: Dataset) -> str:
    """Return the role that a condition with this name is about, or the name itself."""
    # In swapped sets, the column in the role `height` holds the widths.
    return {"width": "height", "height": "width"}.get(name, name) if dataset.swap_size else name


def _column(name: str, roles: Roles, dataset: Dataset, columns: Sequence[str]) -> str | None:
    if (played := roles.given().get(role_of(name, dataset))) in columns:
        return played
    same = [column for column in columns if column.casefold() == name.casefold()]
    return name if name in columns else same[0] if len(same) == 1 else None


def read_texts(spotter: TextSpotter, asked: Iterable[Asked]) -> Iterator[Reading]:
    """Yield rows of `RECORD`, in order: the text in each image, or why it could not be read. The
    spotter determines how many images are in memory at a time."""
    waiting: deque[tuple[int, MissingImage | tuple[bytes, int], tuple[int, int] | None]] = deque()

    def at_hand() -> Iterator[bytes]:
        for ordinal, image, original in asked:
            if isinstance(image, MissingImage):
                waiting.append((ordinal, image, original))
                continue
            waiting.append((ordinal, (hashlib.sha256(image).digest(), len(image)), original))
            yield image

    def absent() -> Iterator[Reading]:
        while waiting and isinstance(missing := waiting[0][1], MissingImage):
            yield no_reading(waiting.popleft()[0], missing.reason, missing.message)

    for result in spotter.spot(at_hand()):
        yield from absent()
        ordinal, given, original = waiting.popleft()
        assert not isinstance(given, MissingImage)
        reading = _reading(ordinal, result, original)
        reading["sha256"], reading["bytes"] = given
        yield reading
    yield from absent()


def _reading(
    ordinal: int, result: Spotting | UnreadableImage, original: tuple[int, int] | None
) -> Reading:
    if isinstance(result, UnreadableImage):
        return no_reading(ordinal, str(result.reason), result.message)
    width, height = original or (result.width, result.height)
    x, y = width / result.width, height / result.height  # boxes are scaled to the original
    lines: list[dict[str, object]] = [
        {
            "text": s.text,
            "score": s.score,
            "box": [[corner[0] * x, corner[1] * y] for corner in s.box],
        }
        for s in result.spotted
    ]
    return {
        "ordinal": ordinal,
        "status": "ok",
        "message": "",
        "width": width,
        "height": height,
        "spotted": lines,
    }


def no_reading(ordinal: int, status: str, message: str) -> Reading:
    """Return a row of `RECORD` for an image that was not read."""
    return {"ordinal": ordinal, "status": status, "message": message}
