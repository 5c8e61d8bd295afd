"""Decide the rows of a unit by the annotations of captions and images that are stored so far."""

from collections.abc import Collection, Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from open_diht.filters.cascade import (
    DOWNLOAD_FAILED,
    RECORD,
    UNREAD,
    Decisions,
    StageFilter,
    apply_cascade,
)
from open_diht.filters.presets import Preset
from open_diht.pipelines.fetch.records import ARRIVED
from open_diht.pipelines.stages.columns import annotated_rows
from open_diht.pipelines.stages.images import DOWNLOAD, load_downloads
from open_diht.pipelines.stages.spotting import load_records
from open_diht.pipelines.store.layout import Layout, image_unit_name


def image_records(
    layout: Layout, unit: str, image_units: Iterable[int], stages: Collection[str]
) -> pa.Table | None:
    """Return a caption unit's image records for the cascade, a table of `RECORD` by ordinal. Return
    None if no image stage (`spotting`, `download`) decides anything for this unit. `stages` are the
    stages that decide. Without `spotting`, the status of a downloaded image is `UNREAD`. With
    `download`, the status of a failed image is `DOWNLOAD_FAILED` and the reason."""
    numbers = list(image_units)
    records = load_records(layout, unit, numbers) if "spotting" in stages else None
    if DOWNLOAD not in stages:
        return records
    of_units = [load_downloads(layout, image_unit_name(unit, number)) for number in numbers]
    tables = [table for table in of_units if table is not None]
    if not tables:
        return records
    downloads = pa.concat_tables(tables)
    statuses = downloads["status"].to_pylist()
    messages = downloads["message"].to_pylist()
    statuses = [UNREAD if status == ARRIVED else DOWNLOAD_FAILED + status for status in statuses]
    if records is None:
        n = len(statuses)
        given = {"ordinal": downloads["ordinal"], "status": statuses, "message": messages}
        return pa.table(
            [given.get(field.name, pa.nulls(n, field.type)) for field in RECORD], schema=RECORD
        )
    told = zip(downloads["ordinal"].to_pylist(), zip(statuses, messages, strict=True), strict=True)
    failed = {ordinal: why for ordinal, why in told if why[0] != UNREAD}
    if not failed:
        return records
    ours = zip(
        *(records[name].to_pylist() for name in ("ordinal", "status", "message")), strict=True
    )
    merged = [failed.get(ordinal, (status, message)) for ordinal, status, message in ours]
    for name, values in zip(("status", "message"), zip(*merged, strict=True), strict=True):
        records = records.set_column(
            records.schema.get_field_index(name), name, pa.array(values, pa.string())
        )
    return records


def decided_rows(
    layout: Layout,
    unit: str,
    image_units: Iterable[int],
    preset: Preset,
    stages: Collection[str],
    stage_filters: Sequence[StageFilter] = (),
    span: tuple[int, int] | None = None,
) -> Iterator[tuple[pa.Table, Decisions]]:
    """Yield the annotated rows of a caption unit, in groups, with the decisions of `stages` about
    them. `span`, [first, stop), limits the ordinals. Duplicates are not considered. Stage `decide`
    applies the cascade itself, because it reads the manifest again and may find fewer rows there
    than are annotated."""
    records = image_records(layout, unit, image_units, stages)
    for rows in annotated_rows(layout, unit, preset, between=span and ("ordinal", *span)):
        if span is not None:
            rows = rows.filter((pc.field("ordinal") >= span[0]) & (pc.field("ordinal") < span[1]))
        yield rows, apply_cascade(rows, records, preset, stages, stage_filters, layout, unit)
