"""Stage `decide`: annotations and thresholds to kept, rejected and dead letters. No parse, no OCR: a million rows a
minute and core."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.filters.columns import STORED
from open_diht.filters.presets import Preset
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.manifests import Batch, Broken, Span, UnreadableFile, info_of, read
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.captions import BATCH_ROWS, DEAD, CaptionRecord
from open_diht.pipelines.stages.columns import annotated_rows
from open_diht.pipelines.stages.decisions import DEAD as DEAD_REASON
from open_diht.pipelines.stages.decisions import KEPT, NOT_READ, Reasons, stage_of
from open_diht.pipelines.stages.dedup.findings import DuplicateFiles, Duplicates, Entries, Findings, reject_duplicates
from open_diht.pipelines.stages.image_records import image_records
from open_diht.pipelines.stages.judge import Judge, conditions_of, steps_of
from open_diht.pipelines.stages.output import output_rows, rejected_rows
from open_diht.pipelines.stages.shards import remove_shards
from open_diht.pipelines.stages.tally import Tally
from open_diht.pipelines.stages.verdicts import Verdict, judge
from open_diht.pipelines.store.commit import TableFile, publish_table, read_json, remove
from open_diht.pipelines.store.fingerprints import Fingerprints, fingerprint_of
from open_diht.pipelines.store.layout import KINDS, Layout
from open_diht.pipelines.store.storage import row_groups

VERSION = 5  # raise it when equal annotations and thresholds may be decided otherwise


class _Annotations:
    """The annotated rows of a unit in order, read as they are asked for."""

    def __init__(self, groups: Iterator[pa.Table]):
        self._groups = groups
        self._left = next(groups)

    def take(self, ordinals: NDArray[np.int64]) -> tuple[pa.Table, pa.Table]:
        """Return the rows with these ordinals, and the rows up to the last of them that have others."""
        last = ordinals[-1] if len(ordinals) else -1
        parts: list[pa.Table] = []
        while True:
            count = int(np.searchsorted(np.asarray(self._left["ordinal"]), last, side="right"))
            parts.append(self._left.slice(0, count))
            self._left = self._left.slice(count)
            group = None if self._left.num_rows else next(self._groups, None)
            if group is None:
                break
            self._left = group
        rows = pa.concat_tables(parts)
        if np.array_equal(np.asarray(rows["ordinal"]), ordinals):
            return rows, rows.slice(0, 0)
        there = np.isin(np.asarray(rows["ordinal"]), ordinals)
        return rows.filter(pa.array(there)), rows.filter(pa.array(~there))

    def rest(self) -> Iterator[pa.Table]:
        """All rows that are left."""
        yield self._left
        yield from self._groups


@dataclass
class DecideStage(Stage):
    """See `Stage`."""

    layout: Layout
    dataset: Dataset
    preset: Preset
    stages: tuple[str, ...]
    """Those that decide."""
    fingerprint: Fingerprints
    """Of each unit: changes with its annotations, the thresholds and the stages."""
    examples: int
    """Examples a unit offers the report for each reason."""
    duplicate_files: tuple[DuplicateFiles, ...] = ()
    """Of the kinds that were asked; only those that reject matter."""
    judges: tuple[Judge, ...] = ()
    """Of stages of the user's."""
    name: str = field(default="decide", init=False)

    @cached_property
    def _captions_of(self) -> dict[str, str | None]:
        return {}

    @cached_property
    def _stage_of(self) -> dict[str, str]:
        return stage_of(self.preset, steps_of(self.judges))

    @cached_property
    def _entries(self) -> Entries:
        return Entries(self.layout)

    def process(self, unit: str, before: dict[str, Any] | None, heartbeat: Heartbeat) -> Done:
        span = self._plan.span(unit)
        read_record: CaptionRecord = read_json(self.layout.commit("captions", unit))
        heartbeat.expect(read_record["rows"])
        records = image_records(self.layout, unit, self._plan.image_units(read_record), self.stages)
        duplicates = Duplicates(self._entries, self.duplicate_files, self._plan.number(unit))
        annotations = _Annotations(annotated_rows(self.layout, unit, self.preset))
        tally, done, lost = Tally(), 0, list[pa.Table]()
        parts = [TableFile(self.layout.part(kind, unit)) for kind in KINDS]
        with parts[0] as kept, parts[1] as rejected, parts[2] as dead:
            if self.layout.dead(unit).exists():
                for broken in row_groups(self.layout.dead(unit)):
                    dead.write(broken)
                    tally.lose("manifest", broken)
            if read_record["broken"]:
                dead.write(broken_unit(read_record["broken"], unit))
            try:
                for batch in read(span, self.dataset, batch_rows=BATCH_ROWS, images=True):
                    rows, passed = annotations.take(batch.ordinals)
                    if rows.num_rows < len(batch.ordinals):
                        raise RuntimeError(
                            f"{span.path}: rows were read that are not annotated; remove "
                            f"{self.layout.commit('captions', unit)} and run the same command again"
                        )
                    if passed.num_rows:
                        lost.append(passed)
                    done += len(batch.ordinals)
                    self._decide(batch, rows, records, span, unit, duplicates, (kept, rejected, dead), tally)
                    heartbeat.beat(done)
            except UnreadableFile as error:
                # Images lie in pages of their own: these may be broken where the captions were not. Such rows cannot be
                # written out.
                for rest in (*lost, *annotations.rest()):
                    why = (pa.array([text] * rest.num_rows, pa.string()) for text in (error.error, error.message))
                    letters = _dead_letters(rest, error.path, unit, "manifest", *why)
                    dead.write(letters)
                    tally.lose("manifest", letters)
            else:
                if done != read_record["good"]:
                    raise RuntimeError(
                        f"{span.path}: {done:,} rows were read where {read_record['good']:,} are annotated"
                    )
        publish_table(self.layout.data(self.name, unit), pa.table({"ordinal": pa.array(tally.kept, pa.int64())}))
        files = (*(self.layout.part(kind, unit) for kind in KINDS), self.layout.data(self.name, unit))
        return tally.record(), files

    def _decide(
        self,
        batch: Batch,
        rows: pa.Table,
        records: pa.Table | None,
        span: Span,
        unit: str,
        duplicates: Duplicates,
        parts: tuple[TableFile, TableFile, TableFile],
        tally: Tally,
    ) -> None:
        verdict = judge(rows, records, self.preset, self.stages, self.layout, unit, self.judges)
        reasons, found = verdict.reasons, verdict.found
        copies = reject_duplicates(rows, reasons, duplicates, unit)
        table = output_rows(batch.table, rows, records, verdict, self._caption_column(span))
        kept, rejected, dead = parts
        stay = pa.array(reasons == KEPT)
        kept.write(table.filter(stay))
        tally.kept += rows["ordinal"].filter(stay).to_pylist()
        rejected.write(rejected_rows(table, reasons, self._stage_of, copies))
        gone = np.flatnonzero(reasons == DEAD_REASON)
        if len(gone) and records is not None and found is not None:
            theirs = records.take(pa.array(found[gone]))
            dead_rows = rows.take(pa.array(gone))
            dead_letters = _dead_letters(dead_rows, span.path, unit, "spotting", theirs["status"], theirs["message"])
            dead.write(dead_letters)
            tally.lose("spotting", dead_letters)
        self._count(tally, rows, reasons, verdict)

    def _caption_column(self, span: Span) -> str | None:
        """The column of a file that is the caption."""
        if self._captions_of.get(span.path) is None:
            self._captions_of[span.path] = info_of(span, self.dataset).roles.caption
        return self._captions_of[span.path]

    def _count(self, tally: Tally, rows: pa.Table, reasons: Reasons, verdict: Verdict) -> None:
        tally.rows.update(reasons.tolist())
        captions, overlaps = verdict.captions, verdict.overlaps
        if captions.decisions is not None:
            tally.histograms["complexity"].update(captions.decisions.complexity[captions.decisions.parsed].tolist())
            tally.histograms["actions"].update(captions.decisions.n_actions[captions.asked].tolist())
        for one in self.preset.columns:
            name = STORED + one.reason
            tally.histograms[name].update(one.places(rows[name]).tolist())
        for one in conditions_of(self.judges):
            tally.histograms[STORED + one.reason].update(one.places(verdict.measured[one.reason].drop_null()).tolist())
        tally.histograms["overlap"].update(overlaps[overlaps != NOT_READ].tolist())
        uids, ordinals = rows["uid"].to_pylist(), rows["ordinal"].to_pylist()
        for reason, uid, ordinal in zip(reasons.tolist(), uids, ordinals, strict=True):
            tally.example(reason, uid, ordinal, self.examples)


def _dead_letters(rows: pa.Table, path: str, unit: str, stage: str, errors: pa.Array, messages: pa.Array) -> pa.Table:
    """Dead letters of rows that were read, but cannot be judged or written out."""
    n = rows.num_rows
    columns = {
        "file": pa.array([path] * n, pa.string()),
        "unit": pa.array([unit] * n, pa.string()),
        "ordinal": rows["ordinal"],
        "uid": rows["uid"],
        "caption": rows["caption"],
        "stage": pa.array([stage] * n, pa.string()),
        "error": errors,
        "message": messages,
        "raw": pa.nulls(n, pa.binary()),
    }
    return pa.table(columns, schema=DEAD)


def broken_unit(broken: Broken, unit: str | None, stage: str = "manifest") -> pa.Table:
    """The dead letter of a unit or file that could not be read to its end: no ordinal, no row."""
    row = {
        "file": broken["path"],
        "unit": unit,
        "stage": stage,
        "error": broken["error"],
        "message": broken["message"],
    }
    return pa.Table.from_pylist([row], DEAD)


class Decisions:
    """The stage's part in a run."""

    def __init__(self, settings: RunSettings, work: Work, judges: tuple[Judge, ...]):
        """`judges` are of stages of the user's."""
        self.settings, self.work, self.judges = settings, work, judges
        self._only_decides = not work.seconds  # nothing was annotated

    def survivors(self, sources: Mapping[str, Sequence[Any]]) -> dict[str, str]:
        """For each unit what it depends on who survives the filters; `sources` are what its annotations depend on."""
        base = fingerprint_of(
            self.settings.preset.filters_fingerprint,
            VERSION,
            [stage for stage in self.settings.stages if stage not in ("dedup", "export")],
            self.settings.dataset.images_root,
            *(one.fingerprint for one in self.judges),
        )
        return {unit: fingerprint_of(base, parts) for unit, parts in sources.items()}

    def make(self, survivors: Mapping[str, str], findings: Findings) -> dict[str, str]:
        """Decide what is not; for each unit what its decisions depend on. `findings` are of duplicates."""
        names = self.work.alive(survivors)
        fingerprints = {unit: fingerprint_of(survivors[unit], findings.fingerprint) for unit in names}
        stage = DecideStage(
            self.work.layout,
            self.settings.dataset,
            self.settings.preset,
            self.settings.stages,
            Fingerprints.published(self.work.layout, "decide", fingerprints),
            examples=max(1, min(12, 48 // max(1, len(self.work.plan.units)))),  # not of those alive: they differ by run
            duplicate_files=findings.files,
            judges=self.judges,
        )
        missing = self.work.missing(stage, names)
        if self._only_decides and any(missing.values()):
            self.work.say(
                f"the annotations are there: thresholds of preset {self.settings.preset.name!r} and "
                f"stages {','.join(self.settings.stages)} are applied to them, without a new parse or OCR"
            )
        self.work.run(stage, list(missing), of=len(missing))
        self.work.give_up_changed()
        self._take_back()
        return {unit: fingerprints[unit] for unit in self.work.alive(names)}

    def _take_back(self) -> None:
        """Remove what an earlier run decided of units that are set aside: it would contradict the funnel."""
        layout = self.work.layout
        for unit in self.work.set_aside:
            remove(layout.commit("decide", unit))
            remove(layout.commit("export", unit))
            remove_shards(layout, unit)
            for kind in KINDS:
                remove(layout.part(kind, unit))
