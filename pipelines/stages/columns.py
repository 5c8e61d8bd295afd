"""Stage `columns`: store the values that the preset's conditions on columns compare.

See `open_diht.filters.columns`. The values are stored before captions are parsed, so that other
thresholds do not run this stage again. Only rows that pass the conditions are parsed, fetched and
read.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.common.command_line import WrongUse
from open_diht.filters import language
from open_diht.filters.cascade import cascade
from open_diht.filters.columns import STORED, ColumnCondition
from open_diht.filters.presets import Preset
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.manifests import UnreadableFile, info_of, read
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.annotator import Annotator
from open_diht.pipelines.stages.rows import columns_of, role_of, values_of
from open_diht.pipelines.store.commit import TableFile
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import CommitRecord, fingerprint_of
from open_diht.pipelines.store.storage import row_groups

VERSION = 3
"""Increase the version when the same column of a file may give other values."""
# Numbers and words, not parses: more rows than in stage `captions` fit into memory
BATCH_ROWS = 10_000
COLUMNS = "columns"


def values_fingerprint(dataset: Dataset, conditions: Sequence[ColumnCondition]) -> str:
    """Return a fingerprint of how the values that conditions compare are read. Return "" without
    conditions."""

    def how(name: str) -> list[Any]:
        role = role_of(name, dataset)
        return [name, role, dataset.roles.given().get(role), dataset.aliases.get(role)]

    if not conditions:
        return ""
    identified = [language.provenance()] if _identifies(conditions) else []
    return fingerprint_of(VERSION, [how(one.reason) for one in conditions], *identified)


def _identifies(conditions: Sequence[ColumnCondition]) -> bool:
    return any(one.reason in language.NAMES for one in conditions) and language.is_installed()


@dataclass
class ColumnStage(Annotator):
    """See `Annotator`. Part of a run if the preset has conditions on columns, whatever stages are
    requested."""

    layout: Layout
    dataset: Dataset
    conditions: tuple[ColumnCondition, ...]
    fingerprint: str
    """Fingerprint of how columns are read."""
    name: str = field(default=COLUMNS, init=False)
    opens_paths = opens_loose = False

    @classmethod
    def runs(cls, settings: RunSettings) -> bool:
        return bool(settings.preset.columns)

    @classmethod
    def of_run(cls, settings: RunSettings, work: Work) -> Self:
        dataset = settings.dataset
        conditions = settings.preset.columns
        parts: list[Any] = [VERSION, dataset.roles.given(), dataset.aliases, dataset.swap_size]
        if _identifies(conditions):
            work.models[COLUMNS] = {"language": language.provenance()}
            parts.append(language.provenance())
        return cls(work.layout, dataset, conditions, fingerprint_of(*parts))

    @classmethod
    def check(cls, settings: RunSettings, plan: Plan | None, say: Callable[[str], None]) -> None:
        """Check that all files have the columns that the preset's conditions need."""
        preset = settings.preset
        conditions = settings.preset.columns
        for reason, steps in Counter(step.reason for step in cascade(preset)).items():
            if steps > 1:
                raise WrongUse(
                    f"preset {preset.name}: {reason} is the reason of two filters; rename your"
                    " column or filter"
                )
        for info in plan.infos if plan is not None else ():
            names = [column.name for column in info.columns]
            places = columns_of(conditions, info.roles, settings.dataset, names, info.path)
            if len(places) < len(conditions):
                try:
                    language.check_identifier()
                except ModuleNotFoundError as error:
                    raise WrongUse(str(error)) from error
            for one in [one for one in conditions if one.reason in places]:
                column = info.column(places[one.reason])
                kinds = ("integer", "floating", "text", "null") if one.numeric else None
                if column.kind in ("image", "texts", "other") or (
                    kinds and column.kind not in kinds
                ):
                    raise WrongUse(
                        f"{info.path}: column '{column.name}' is {column.type}, which"
                        f" columns.{one.reason} of the preset cannot compare with"
                        f" {'numbers' if one.numeric else 'words'}; choose another column"
                    )

    @property
    def kinds(self) -> dict[str, str]:
        """Return, by the reason of each condition, whether the condition's values are stored as
        numbers or as words."""
        return {one.reason: "numbers" if one.numeric else "words" for one in self.conditions}

    def current(self, unit: str, record: CommitRecord | None) -> CommitRecord | None:
        known = super().current(unit, record)
        return known if known is not None and self.kinds.items() <= known["kinds"].items() else None

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        span = self._plan.span(unit)
        heartbeat.expect(span.rows)
        path = self.layout.data(self.name, unit)
        rows = 0
        with TableFile(path, _schema(self.conditions)) as file:
            try:
                info = info_of(span, self.dataset)
                names = [column.name for column in info.columns]
                places = columns_of(self.conditions, info.roles, self.dataset, names)
                for batch in read(span, self.dataset, batch_rows=BATCH_ROWS):
                    values = values_of(batch, places, self.conditions)
                    file.write(
                        pa.table({"ordinal": batch.ordinals, **values}, _schema(self.conditions))
                    )
                    rows += batch.rows
                    heartbeat.beat(rows)
            except UnreadableFile:  # stage captions reports it
                pass
        return {"rows": rows, "kinds": self.kinds}, [path]


def _schema(conditions: Sequence[ColumnCondition]) -> pa.Schema:
    values = [
        (STORED + one.reason, pa.float64() if one.numeric else pa.string()) for one in conditions
    ]
    return pa.schema([("ordinal", pa.int64()), *values])


class ColumnValues:
    """The values that stage `columns` has stored for a unit."""

    def __init__(self, layout: Layout, unit: str, conditions: Sequence[ColumnCondition]):
        known = pa.concat_tables(row_groups(layout.data(COLUMNS, unit), _schema(conditions).names))
        self._ordinals = np.asarray(known["ordinal"])
        self._values = known.drop_columns("ordinal")

    def of(self, ordinals: NDArray[np.int64]) -> pa.Table:
        """Return the values of rows of the unit, under the names that filters look for."""
        return self._values.take(pa.array(np.searchsorted(self._ordinals, ordinals)))


def annotated_rows(
    layout: Layout,
    unit: str,
    preset: Preset,
    columns: list[str] | None = None,
    between: tuple[str, int, int] | None = None,
) -> Iterator[pa.Table]:
    """Yield a unit's rows from stage `captions`, with the values that the preset's conditions
    compare. `columns` and `between` are passed to `row_groups`; `columns` must include
    `ordinal`."""
    groups = row_groups(layout.data("captions", unit), columns, between=between)
    if not preset.columns:
        yield from groups
        return
    known = ColumnValues(layout, unit, preset.columns)
    for rows in groups:
        values = known.of(np.asarray(rows["ordinal"]))
        yield pa.table([*rows.columns, *values.columns], [*rows.column_names, *values.column_names])
