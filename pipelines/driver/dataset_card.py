"""The card of a run's results, of what the run knows."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from open_diht.common.version import program_version
from open_diht.pipelines.driver.funnel import FunnelRecord
from open_diht.pipelines.plan import Plan, Unit
from open_diht.pipelines.report.dataset_card import Config, Provenance, render_card
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.store.layout import KINDS, Layout
from open_diht.pipelines.store.storage import StorePath, each, open_parts

_OWN = "Image-text pairs of the publisher's own"
"""Title of data sets that have no home."""
_NOT_STATED = ("", "unknown", "yours")
"""What descriptions of data sets say where they name no licence."""


def card_of(settings: RunSettings, layout: Layout, plan: Plan, units: Sequence[Unit], funnel: FunnelRecord) -> str:
    """The card of the results of `units`."""
    dataset = settings.dataset
    provenance = Provenance(
        title=dataset.title if dataset.homepage else _OWN,
        homepage=dataset.homepage,
        source_licence=None if dataset.licence in _NOT_STATED else dataset.licence,
        licence=settings.licence,
        input=settings.input,
        commits=plan.pins,
        preset=settings.preset.as_dict(),
        stages=settings.stages,
        version=program_version(),
        plan=plan.fingerprint,
    )
    kinds = (_config(layout, kind, units) for kind in KINDS)
    return render_card(funnel, provenance, [kind for kind in kinds if kind is not None])


def _config(layout: Layout, kind: str, units: Sequence[Unit]) -> Config | None:
    """A kind of rows, None where there are none. Parts of several files may have different columns."""
    paths = [layout.part(kind, name) for name in (*(unit.name for unit in units), "unreadable")]
    rows, schemas = 0, dict[pa.Schema, None]()
    for part in each(_footer, paths, layout.root):
        if part is not None:
            rows += part.num_rows  # footers are large, and a run has as many as units
            schemas[part.schema.to_arrow_schema().remove_metadata()] = None
    if not schemas:
        return None
    try:
        return Config(kind, rows, pa.unify_schemas(list(schemas), promote_options="permissive"))
    except (pa.ArrowInvalid, pa.ArrowTypeError):  # text in one file, numbers in another
        fields = {field.name: field for schema in schemas for field in schema}
        return Config(kind, rows, pa.schema(fields.values()), agrees=False)


def _footer(path: StorePath) -> pq.FileMetaData | None:
    try:
        with open_parts(path) as file:
            return pq.ParquetFile(file).metadata
    except FileNotFoundError:
        return None
