"""What is known of the images of a unit's rows: read, downloaded or not."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import pyarrow as pa

from open_diht.pipelines.fetch.records import OK
from open_diht.pipelines.stages.decisions import DOWNLOAD_FAILED, UNREAD
from open_diht.pipelines.stages.images import DOWNLOAD, load_downloads
from open_diht.pipelines.stages.spotting import SCHEMA, load_records
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.names import image_unit_name


def image_records(layout: Layout, unit: str, image_units: Iterable[int], stages: Collection[str]) -> pa.Table | None:
    """The records of a caption unit that the cascade judges, a table of `stages.spotting.SCHEMA` by ordinal.

    Args:
        layout: of the output folder.
        unit: the caption unit.
        image_units: numbers of those of its image units that are asked for.
        stages: those that decide. Without `spotting` an image that was downloaded has status `UNREAD`; with `download`
            one that was not has `DOWNLOAD_FAILED` and the reason.

    Returns:
        None where neither stage decides anything of this unit.
    """
    numbers = list(image_units)
    records = load_records(layout, unit, numbers) if "spotting" in stages else None
    if DOWNLOAD not in stages:
        return records
    found = [load_downloads(layout, image_unit_name(unit, image_unit)) for image_unit in numbers]
    tables = [table for table in found if table is not None]
    if not tables:
        return records
    downloads = pa.concat_tables(tables)
    statuses, messages = downloads["status"].to_pylist(), downloads["message"].to_pylist()
    if records is None:
        ordinals = downloads["ordinal"]
        ours = [UNREAD if status == OK else DOWNLOAD_FAILED + status for status in statuses]
        given = {"ordinal": ordinals, "status": pa.array(ours, pa.string()), "message": pa.array(messages, pa.string())}
        return _as_records(given, downloads.num_rows)
    failed = {
        ordinal: (DOWNLOAD_FAILED + status, message)
        for ordinal, status, message in zip(downloads["ordinal"].to_pylist(), statuses, messages, strict=True)
        if status != OK
    }
    if not failed:
        return records
    places = np.flatnonzero(np.isin(np.asarray(records["ordinal"]), list(failed)))
    status, message = records["status"].to_pylist(), records["message"].to_pylist()
    for place in places.tolist():
        status[place], message[place] = failed[records["ordinal"][place].as_py()]
    for name, values in (("status", status), ("message", message)):
        records = records.set_column(records.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return records


def _as_records(given: dict[str, pa.Array], rows: int) -> pa.Table:
    columns = {field.name: given.get(field.name, pa.nulls(rows, field.type)) for field in SCHEMA}
    return pa.table(columns, schema=SCHEMA)
