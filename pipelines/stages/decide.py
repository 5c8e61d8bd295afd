"""Stage `decide`: apply thresholds to annotations, and write kept, rejected and dead-letter rows.

This needs no parsing and no OCR.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.filters.cascade import (
    DEAD,
    NOT_READ,
    Decisions,
    StageFilter,
    apply_cascade,
    conditions_of,
    stage_of,
)
from open_diht.filters.columns import STORED
from open_diht.filters.output import output_rows, rejected_rows
from open_diht.filters.presets import Preset
from open_diht.filters.several_captions import BATCH_ROWS as SEVERAL_ROWS
from open_diht.filters.several_captions import captions_in
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.manifests import UnreadableFile, info_of, read
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.annotator import DuplicateFiles, Made, RunStage
from open_diht.pipelines.stages.captions import BATCH_ROWS, DEAD_LETTERS
from open_diht.pipelines.stages.columns import annotated_rows
from open_diht.pipelines.stages.dedup.findings import (
    Entries,
    reject_duplicates,
)
from open_diht.pipelines.stages.image_records import image_records
from open_diht.pipelines.stages.shards import remove_shards
from open_diht.pipelines.stages.tally import Tally
from open_diht.pipelines.store.commit import TableFile, publish_table, read_json, remove
from open_diht.pipelines.store.layout import KINDS, Layout
from open_diht.pipelines.store.records import (
    Broken,
    CaptionRecord,
    CommitRecord,
    Fingerprints,
    fingerprint_of,
)
from open_diht.pipelines.store.storage import row_groups


class _Annotations:
    """The annotated rows of a unit, in order."""

    def __init__(self, groups: Iterator[pa.Table]):
        self._groups = groups
        self._left = next(groups)

    def take(self, ordinals: NDArray[np.int64]) -> tuple[pa.Table, pa.Table]:
        """Return two tables: the rows with these ordinals, and the other rows before the last of
        these ordinals."""
        last = ordinals[-1] if len(ordinals) else -1
        while not self._left.num_rows or self._left["ordinal"][-1].as_py() < last:
            if (group := next(self._groups, None)) is None:
                break
            self._left = pa.concat_tables([self._left, group]) if self._left.num_rows else group
        count = int(np.searchsorted(np.asarray(self._left["ordinal"]), last, side="right"))
        rows, self._left = self._left.slice(0, count), self._left.slice(count)
        if np.array_equal(np.asarray(rows["ordinal"]), ordinals):
            return rows, rows.slice(0, 0)
        there = np.isin(np.asarray(rows["ordinal"]), ordinals)
        return rows.filter(there), rows.filter(~there)

    def rest(self) -> Iterator[pa.Table]:
        """Yield all remaining rows."""
        yield self._left
        yield from self._groups


@dataclass
class DecideStage(Stage):
    """The stage that decides every row; see `Stage`."""

    layout: Layout
    dataset: Dataset
    preset: Preset
    stages: tuple[str, ...]
    """The stages that decide."""
    fingerprint: Fingerprints
    """Fingerprint of each unit. It changes with the unit's annotations, the filters and the
    duplicates searched for."""
    examples: int
    """Most examples for each reason that a unit offers to the report."""
    duplicate_files: tuple[DuplicateFiles, ...] = ()
    """Files of the kinds of duplicates that the run compares. The stage uses only those of kinds
    that reject."""
    own: tuple[StageFilter, ...] = ()
    """Filters that stages bring: `score`, decontamination and plugins."""
    name: str = field(default="decide", init=False)

    @cached_property
    def _stage_of(self) -> dict[str, str]:
        return stage_of(self.preset, self.own)

    @cached_property
    def _entries(self) -> Entries:
        return Entries(self.layout)

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        span = self._plan.span(unit)
        read_record: CaptionRecord = read_json(self.layout.commit("captions", unit))
        heartbeat.expect(read_record["rows"])
        records = image_records(self.layout, unit, self._plan.image_units(read_record), self.stages)
        duplicates = self.duplicates(self._plan.number(unit))
        annotations = _Annotations(annotated_rows(self.layout, unit, self.preset))
        several = self.dataset.several_captions
        tally = Tally()
        done = 0
        lost = list[pa.Table]()
        parts = [TableFile(self.layout.part(kind, unit)) for kind in KINDS]
        with parts[0] as kept, parts[1] as rejected, parts[2] as dead:

            def lose(stage: str, dead_letters: pa.Table) -> None:
                dead.write(dead_letters)
                tally.lose(stage, dead_letters)

            if self.layout.dead(unit).exists():
                for broken in row_groups(self.layout.dead(unit)):
                    lose("manifest", broken)
            if read_record["broken"]:
                dead.write(broken_unit(read_record["broken"], unit))
            try:
                caption_column = None if several else info_of(span, self.dataset).roles.caption
                batch_rows = SEVERAL_ROWS if several else BATCH_ROWS
                for batch in read(span, self.dataset, batch_rows=batch_rows, images=True):
                    rows, passed = annotations.take(batch.ordinals)
                    if rows.num_rows < len(batch.ordinals):
                        raise RuntimeError(
                            f"{span.path}: rows were read that are not annotated; remove "
                            f"{self.layout.commit('captions', unit)} and run the same command again"
                        )
                    lost.append(passed)
                    done += len(batch.ordinals)
                    decisions, good, bad = self.decide(
                        unit, batch.table, rows, records, duplicates, caption_column
                    )
                    rows = decisions.rows
                    kept.write(good)
                    rejected.write(bad)
                    tally.kept += rows["ordinal"].filter(pa.array(decisions.passed)).to_pylist()
                    if errors := decisions.unreadable():
                        gone = rows.take(pa.array([*errors]))
                        lose(
                            "spotting",
                            dead_letters(gone, span.path, unit, "spotting", errors.values()),
                        )
                    self._count(tally, decisions)
                    heartbeat.beat(done)
            except UnreadableFile as error:
                # Images are in separate pages, which may be damaged while those of the captions are
                # intact.
                for rest in (*lost, *annotations.rest()):
                    same = repeat((error.error, error.message), rest.num_rows)
                    lose("manifest", dead_letters(rest, error.path, unit, "manifest", same))
                    if several:
                        tally.captions[DEAD] += captions_in(rest)
            else:
                if done != read_record["good"]:
                    raise RuntimeError(
                        f"{span.path}: {done:,} rows were read, but {read_record['good']:,} are"
                        " annotated"
                    )
        publish_table(
            self.layout.data(self.name, unit),
            pa.table({"ordinal": pa.array(tally.kept, pa.int64())}),
        )
        files = (
            *(self.layout.part(kind, unit) for kind in KINDS),
            self.layout.data(self.name, unit),
        )
        return tally.record(), files

    def duplicates(self, unit: int) -> dict[str, pa.Table]:
        """Return the entries of a unit, by its number in the plan, for each kind of duplicates that
        rejects."""
        return {
            one.kind: self._entries.of(one, unit) for one in self.duplicate_files if one.rejects
        }

    def decide(
        self,
        unit: str,
        original: pa.Table,
        rows: pa.Table,
        records: pa.Table | None,
        duplicates: Mapping[str, pa.Table],
        caption_column: str | None,
    ) -> tuple[Decisions, pa.Table, pa.Table]:
        """Return the decisions on annotated rows of a unit, and the rows of kept/ and rejected/.
        For `original` and `caption_column` see `output_rows`."""
        decisions = apply_cascade(
            rows, records, self.preset, self.stages, self.own, self.layout, unit
        )
        copies = reject_duplicates(decisions.rows, decisions.reasons, duplicates, unit)
        table = output_rows(original, decisions, caption_column)
        rejected = rejected_rows(table, decisions.reasons, self._stage_of, copies)
        return decisions, table.filter(pa.array(decisions.passed)), rejected

    def _count(self, tally: Tally, decisions: Decisions) -> None:
        rows = decisions.rows
        counts = decisions.counts
        overlaps = decisions.overlaps
        reasons = decisions.reasons.tolist()
        tally.rows.update(reasons)
        if decisions.each is not None:
            tally.captions.update(decisions.each.settled(decisions.reasons).tolist())
        if counts is not None:
            tally.histograms["complexity"].update(counts.complexity[counts.parsed].tolist())
            tally.histograms["actions"].update(counts.n_actions[decisions.asked].tolist())
        for one in self.preset.columns:
            tally.histograms[STORED + one.reason].update(
                one.places(rows[STORED + one.reason]).tolist()
            )
        for one in conditions_of(self.own):
            values = decisions.measured[one.reason].drop_null()
            tally.histograms[STORED + one.reason].update(one.places(values).tolist())
        tally.histograms["overlap"].update(overlaps[overlaps != NOT_READ].tolist())
        for reason, uid, ordinal in zip(
            reasons, rows["uid"].to_pylist(), rows["ordinal"].to_pylist(), strict=True
        ):
            tally.example(reason, uid, ordinal, self.examples)


def dead_letters(
    rows: pa.Table, path: str, unit: str, stage: str, why: Iterable[tuple[str, str]]
) -> pa.Table:
    """Return dead letters for rows that cannot be decided or written. `why` has the error and
    message of each row."""
    known = rows.select(["ordinal", "uid", "caption"]).to_pylist()
    where = {"file": path, "unit": unit, "stage": stage}
    letters = [
        {**row, **where, "error": error, "message": text}
        for row, (error, text) in zip(known, why, strict=True)
    ]
    return pa.Table.from_pylist(letters, DEAD_LETTERS)


def broken_unit(broken: Broken, unit: str | None, stage: str = "manifest") -> pa.Table:
    """Return the dead letter, without ordinal and row, of a unit or file (unit None) that failed or
    is incomplete."""
    row = {"file": broken["path"], "unit": unit, "stage": stage}
    return pa.Table.from_pylist(
        [{**row, "error": broken["error"], "message": broken["message"]}], DEAD_LETTERS
    )


class Decision(RunStage):
    """Stage `decide` on the driver, which every run has."""

    name = "decide"
    opens_paths = opens_loose = False

    @classmethod
    def runs(cls, settings: RunSettings) -> bool:
        return True

    @classmethod
    def contribute(cls, made: Made) -> None:
        """Decide the outdated units."""
        settings = made.settings
        work = made.work
        layout = work.layout
        findings = made.findings
        names = work.alive(made.states)
        fingerprints = {
            unit: fingerprint_of(made.states[unit], findings.fingerprint) for unit in names
        }
        stage = DecideStage(
            layout,
            settings.dataset,
            settings.preset,
            settings.stages,
            Fingerprints.published(layout, cls.name, fingerprints),
            # The report takes `EXAMPLES` of the first units that have any, so few units must offer
            # that many, while records of many units stay small. Of all units of the plan: those
            # alive vary by run.
            examples=max(1, min(12, 48 // max(1, len(work.plan.units)))),
            duplicate_files=findings.files,
            own=made.filters,
        )
        missing = work.missing(stage, names)
        if not made.annotated and any(missing.values()):
            work.say(
                f"reusing the stored annotations: applying preset {settings.preset.name!r} and"
                f" stages {','.join(settings.stages)} without parsing or OCR"
            )
        work.run(stage, list(missing), of=len(missing))
        work.give_up_changed()
        # Earlier decisions and shards of failed units would contradict the funnel.
        for unit in work.quarantined:
            remove(layout.commit(cls.name, unit))
            remove(layout.commit("export", unit))
            remove_shards(layout, unit)
            for kind in KINDS:
                remove(layout.part(kind, unit))
        made.decided = {unit: fingerprints[unit] for unit in work.alive(names)}
