"""Stage `captions`: read manifest rows, annotate captions, and put broken rows into the dead-letter
table."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.common.command_line import WrongUse
from open_diht.common.naming import counted
from open_diht.filters.captions.annotate import SCHEMA, CaptionAnnotator, Moves, provenance
from open_diht.filters.captions.opinion import OpinionMissing, opinion_fingerprint
from open_diht.filters.columns import STORED, ColumnCondition, as_section, condition_of
from open_diht.filters.several_captions import BATCH_ROWS as SEVERAL_ROWS
from open_diht.filters.several_captions import OTHERS, captions_in, nested, others_field
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.manifests import BadRow, Batch, UnreadableFile, read
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.annotator import Annotator
from open_diht.pipelines.stages.columns import ColumnValues, values_fingerprint
from open_diht.pipelines.stages.rows import ROW, identities
from open_diht.pipelines.stages.segments import WantedRows
from open_diht.pipelines.store.commit import TableFile
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import Broken, CaptionRecord, CommitRecord, fingerprint_of

CAPTIONS = "captions"
# A batch and its annotations are in memory at once, and a row group of the file is read back whole.
BATCH_ROWS = 2_000

DEAD_LETTERS = pa.schema(
    [
        ("file", pa.string()),
        ("unit", pa.string()),
        ("ordinal", pa.int64()),
        ("uid", pa.string()),
        ("caption", pa.string()),
        ("stage", pa.string()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("raw", pa.binary()),
    ]
)
"""A row of the dead-letter table: the place and the error, and for a bad row of the manifest the
row as far as it was read. `ordinal` is the row's index in the unit, and null if a whole file or
unit failed."""


@dataclass
class CaptionStage(Annotator):
    """See `Annotator`. Part of every run. If it is not requested, rows not annotated before only
    get identities."""

    layout: Layout
    dataset: Dataset
    fingerprint: str
    """Fingerprint of model, code and weights."""
    annotate: bool = True
    """Whether to parse captions. False if the stage is not requested."""
    lean: bool = False
    """See `RunSettings.lean`."""
    second_opinion: bool = False
    """See `CaptionRule.second_opinion`."""
    fuller: str | None = None
    """Fingerprint of full annotations. With `lean` these are accepted too, since they include all
    that is needed."""
    conditions: tuple[ColumnCondition, ...] = ()
    """The preset's conditions on columns. Rows that they reject are not parsed."""
    name: str = field(default=CAPTIONS, init=False)

    @classmethod
    def runs(cls, settings: RunSettings) -> bool:
        return True

    @classmethod
    def of_run(cls, settings: RunSettings, work: Work) -> Self:
        annotate = CAPTIONS in settings.stages
        lean = settings.lean
        opinion = settings.preset.captions.second_opinion
        work.models[CAPTIONS] = provenance(lean, opinion) if annotate else {}
        return cls(
            work.layout,
            settings.dataset,
            annotations_fingerprint(settings),
            annotate,
            lean,
            opinion,
            fuller=fingerprint_of(provenance(second_opinion=opinion))
            if annotate and lean
            else None,
            conditions=settings.preset.columns,
        )

    @classmethod
    def check(cls, settings: RunSettings, plan: Plan | None, say: Callable[[str], None]) -> None:
        preset = settings.preset
        if settings.lean and (
            CAPTIONS not in settings.stages or not {*settings.stages} <= {CAPTIONS, "export"}
        ):
            raise WrongUse(
                f"--lean with stages {','.join(settings.stages)}: it works on captions alone; pass"
                " --stages captions or captions,export, or leave --lean out"
            )
        if settings.lean and preset.captions.min_actions < 1:
            raise WrongUse(
                f"--lean with preset {preset.name!r}, which requires no action: captions without a"
                " verb may be kept and must be parsed; leave --lean out"
            )
        if CAPTIONS in settings.stages and preset.captions.second_opinion:
            try:
                opinion_fingerprint()
            except OpinionMissing as error:
                raise WrongUse(f"preset {preset.name!r}: {error}") from error

    def announce(
        self, work: Work, todo: Sequence[str], records: Sequence[CommitRecord], of: int
    ) -> str | None:
        units = counted(of, "unit")
        lean = sum(bool(record["lean"]) for record in records)
        wider = sum(not record["lean"] and not self.parsed(record) for record in records)
        changed = sum(bool(record["annotated"]) for record in records) - lean - wider
        reasons = (
            [f"{lean:,} of {units}, annotated by a lean run, which did not parse all captions"]
            if lean
            else []
        )
        other = (
            "annotated when the conditions on columns did not pass all of these rows, or compared"
            " other values"
        )
        reasons += [f"{wider:,} of {units}, {other}"] if wider else []
        reasons += (
            [f"{changed:,} of {units}, annotated by another model, version or setting"]
            if changed
            else []
        )
        return f"annotating again: {'; '.join(reasons)}" if reasons else None

    def total(self, work: Work, todo: Sequence[str]) -> int | None:
        spans = [work.plan.span(unit) for unit in todo]
        return sum(span.rows for span in spans) if all(span.exact for span in spans) else None

    def finish(self, work: Work, todo: Sequence[str]) -> None:
        """Report if captions had to be parsed by spaCy itself."""
        slow = (
            record["slow"]
            for _, record in work.records(CAPTIONS, todo)
            if record is not None and record["slow"]
        )
        if why := next(slow, None):
            work.say(f"{CAPTIONS}: parsed by spaCy itself, about three times slower: {why}")

    def setup(self) -> None:
        self._annotator = (
            CaptionAnnotator(self.lean, self.second_opinion) if self.annotate else None
        )
        self._unparsed = 0
        gc.collect()
        gc.freeze()  # a model consists of many objects, which every full collection would scan

    def teardown(self) -> None:
        self._annotator = None
        gc.unfreeze()

    def current(self, unit: str, record: CommitRecord | None) -> CommitRecord | None:
        if not self.annotate:
            return record  # existing annotations hold at least what is needed
        is_fuller = (
            record is not None and self.fuller is not None and record["fingerprint"] == self.fuller
        )
        known = record if is_fuller else super().current(unit, record)
        return known if known and known["annotated"] and self.parsed(known) else None

    def parsed(self, record: CommitRecord) -> bool:
        """Return whether every row that passes the conditions was parsed. It was if the conditions
        still reject all skipped rows."""
        then = [condition_of(*one) for one in record["columns"].items()]
        values = record.get("values", {})
        if any(values.get(one.reason) != self._values.get(one.reason) for one in then):
            return False  # the skipped rows were rejected for other values of a column
        return all(any(now.implies(one) for now in self.conditions) for one in then)

    @cached_property
    def _values(self) -> dict[str, str]:
        return {one.reason: values_fingerprint(self.dataset, [one]) for one in self.conditions}

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        span = self._plan.span(unit)
        heartbeat.expect(span.rows)
        rows = 0
        extent = 0
        own_uids = 0
        without_url = 0
        captions = 0
        self._unparsed = 0
        several = self.dataset.several_captions
        if self._annotator is not None:
            self._annotator.moves = Moves()
        values = (
            ColumnValues(self.layout, unit, self.conditions)
            if self.annotate and self.conditions
            else None
        )
        broken: Broken | None = None
        schema = pa.schema([*ROW, *SCHEMA]) if self.annotate else ROW
        schema = schema.append(others_field(self.annotate)) if several else schema
        batch_rows = SEVERAL_ROWS if several else BATCH_ROWS
        with (
            TableFile(self.layout.data(self.name, unit), schema) as good,
            TableFile(self.layout.dead(unit)) as dead,
        ):
            try:
                for batch in read(span, self.dataset, batch_rows=batch_rows):
                    parse = np.ones(len(batch.ordinals), bool)
                    if values is not None:
                        # Rows that a condition on the manifest's columns rejects are not parsed.
                        theirs = values.of(batch.ordinals)
                        for one in self.conditions:
                            parse &= ~one.rejects_values(theirs[STORED + one.reason])
                    table = self.rows_of(batch, parse)
                    good.write(table)
                    captions += captions_in(table) if several else 0
                    if batch.bad:
                        dead.write(_dead_letters(batch.bad, span.path, unit))
                    rows += batch.rows
                    extent = 1 + max(
                        [*batch.ordinals[-1:].tolist(), *(row.ordinal for row in batch.bad[-1:])]
                    )
                    own_uids += sum(batch.own_uids)
                    without_url += batch.urls.count(None)
                    heartbeat.beat(rows)
            except UnreadableFile as error:
                # Rows that cannot be read are lost; the others are kept.
                broken = error.record
        if span.exact and broken is None and rows != span.rows:
            raise RuntimeError(
                f"{span.path}: {rows:,} rows were read, but the plan counts {span.rows:,}"
            )
        record: CaptionRecord = {
            "annotated": self.annotate,
            "rows": rows,
            "good": good.rows,
            "dead": dead.rows,
            "extent": extent,
            "own_uids": own_uids,
            "without_url": without_url,
            "lean": self.lean,
            "unparsed": self._unparsed,
            "moves": (
                asdict(self._annotator.moves) if self._annotator and self.second_opinion else None
            ),
            "columns": (
                {one.reason: as_section(one) for one in self.conditions} if self.annotate else {}
            ),
            "values": self._values if self.annotate else {},
            "slow": self._annotator.slow if self._annotator else None,
            "broken": broken,
        }
        if several:
            record["captions"] = captions
        return record, (self.layout.data(self.name, unit), self.layout.dead(unit))

    def rows_of(self, batch: Batch, parse: NDArray[np.bool_]) -> pa.Table:
        """Annotate the n good rows of a batch, between `setup` and `teardown`. `parse` (n,) is the
        mask of the rows to parse."""
        table = identities(batch)
        annotations = self._annotations([caption or "" for caption in batch.captions], parse)
        if annotations is not None:
            table = pa.table(
                [*table.columns, *annotations.columns], schema=pa.schema([*ROW, *SCHEMA])
            )
        if not self.dataset.several_captions:
            return table
        # A file may have a single one of the columns.
        others = batch.others or [[]] * table.num_rows
        flat = [caption for captions in others for caption in captions]
        counts = np.array([len(captions) for captions in others], np.int64)
        annotations = self._annotations(flat, np.repeat(parse, counts))
        return table.append_column(OTHERS, nested(others, annotations))

    def _annotations(self, captions: Sequence[str], parse: NDArray[np.bool_]) -> pa.Table | None:
        """Annotate captions, null where the mask `parse` (captions,) is false. Return None without
        the stage."""
        if self._annotator is None:
            return None
        chosen = [caption for caption, is_asked in zip(captions, parse, strict=True) if is_asked]
        annotations = self._annotator.annotate(chosen)
        self._unparsed += annotations["objects"].null_count
        if len(chosen) < len(parse):
            annotations = annotations.take(pa.array(np.cumsum(parse) - 1, mask=~parse))
        return annotations


def annotations_fingerprint(settings: RunSettings) -> str:
    """Return the fingerprint of model, code and weights of caption annotations, or of nothing
    without the stage."""
    return fingerprint_of(
        provenance(settings.lean, settings.preset.captions.second_opinion)
        if CAPTIONS in settings.stages
        else {}
    )


def wanted_rows(settings: RunSettings) -> WantedRows:
    """Return the rows of a run whose images are wanted."""
    values = values_fingerprint(settings.dataset, settings.preset.columns)
    return WantedRows(
        settings.preset, CAPTIONS in settings.stages, annotations_fingerprint(settings), values
    )


def _dead_letters(bad: list[BadRow], path: str, unit: str) -> pa.Table:
    where = {"file": path, "unit": unit, "stage": "manifest"}
    return pa.Table.from_pylist([{**where, **asdict(row)} for row in bad], DEAD_LETTERS)
