"""Stage `decide`: annotations and thresholds to kept, rejected and dead letters. No parse, no OCR: a million rows a
minute and core."""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from filters.presets import Preset
from filters.spotting.overlap import overlap
from pipelines.datasets import Dataset
from pipelines.decisions import DEAD as DEAD_REASON
from pipelines.decisions import KEPT, NOT_READ, CaptionVerdict, Reasons, stage_of
from pipelines.engine.judge import Judge, steps_of
from pipelines.engine.progress import Heartbeat
from pipelines.engine.stage import Done, Stage
from pipelines.manifests import Batch, Span, UnreadableFile, info_of, read
from pipelines.stages.captions import BATCH_ROWS, DEAD
from pipelines.stages.output import output_rows, rejected_rows
from pipelines.stages.picture_records import picture_records
from pipelines.stages.said import Duplicates, Entries, Said, reject_duplicates
from pipelines.stages.verdicts import judge
from pipelines.store.commit import TableFile, publish_table, read_json
from pipelines.store.fingerprints import Fingerprints
from pipelines.store.layout import KINDS, Layout
from pipelines.store.storage import row_groups

EXAMPLE_CHARS = 10_000
"""As much of a caption is shown in the report."""


@dataclass
class _Tally:
    """What the commit record says of a unit."""

    rows: Counter[str] = field(default_factory=Counter)
    dead: Counter[str] = field(default_factory=Counter)
    """Dead letters by error."""
    lost: Counter[str] = field(default_factory=Counter)
    """The same by the stage that met them."""
    histograms: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    examples: dict[str, list[tuple[str, int]]] = field(default_factory=lambda: defaultdict(list))
    kept: list[int] = field(default_factory=list)
    """Ordinals of the rows in kept/, in their order there."""

    def lose(self, stage: str, letters: pa.Table) -> None:
        """Count dead letters."""
        self.dead.update(letters["error"].to_pylist())
        self.lost[stage] += letters.num_rows

    def example(self, reason: str, uid: str, ordinal: int, most: int) -> None:
        """Remember the rows with the lowest uids: a fixed choice that is random with respect to content."""
        key = (
            "".join(chr(0x10FF - ord(char)) for char in uid),
            ordinal,
        )  # the heap drops its smallest, so order is turned round
        push = heapq.heappush if len(self.examples[reason]) < most else heapq.heappushpop
        push(self.examples[reason], key)

    def ordinals(self, reason: str) -> list[int]:
        return [ordinal for _, ordinal in sorted(self.examples[reason], reverse=True)]


class _Annotations:
    """The annotated rows of a unit in order, read as they are asked for."""

    def __init__(self, groups: Iterator[pa.Table]):
        self._groups = groups
        self._left = next(groups)

    def take(self, count: int) -> pa.Table:
        """The next rows, fewer where these are the last."""
        parts = [self._left.slice(0, count)]
        while more := count - sum(part.num_rows for part in parts):
            group = next(self._groups, None)
            if group is None:
                break
            self._left = group
            parts.append(group.slice(0, more))
        self._left = self._left.slice(parts[-1].num_rows)
        return pa.concat_tables(parts)

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
    said: tuple[Said, ...] = ()
    """What was said of duplicates; only kinds that reject matter."""
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
        span, read_record = self._plan.span(unit), read_json(self.layout.commit("captions", unit))
        heartbeat.expect(read_record["rows"])
        records = picture_records(self.layout, unit, self._plan.pieces(read_record["rows"]), self.stages)
        duplicates = Duplicates(self._entries, self.said, self._plan.number(unit))
        annotations = _Annotations(row_groups(self.layout.data("captions", unit)))
        tally, done = _Tally(), 0
        parts = [TableFile(self.layout.part(kind, unit)) for kind in KINDS]
        with parts[0] as kept, parts[1] as rejected, parts[2] as dead:
            if self.layout.dead(unit).exists():
                for broken in row_groups(self.layout.dead(unit)):
                    dead.write(broken)
                    tally.lose("manifest", broken)
            if read_record["broken"]:
                dead.write(broken_unit(read_record["broken"], unit))
            try:
                for batch in read(span, self.dataset, batch_rows=BATCH_ROWS, pictures=True):
                    rows = annotations.take(len(batch.ordinals))
                    done += len(batch.ordinals)
                    self._decide(batch, rows, records, span, unit, duplicates, (kept, rejected, dead), tally)
                    heartbeat.beat(done)
            except UnreadableFile as error:
                # Pictures lie in pages of their own: these may be broken where the captions were not. What is left
                # cannot be written out.
                for rest in annotations.rest():
                    why = (pa.array([text] * rest.num_rows, pa.string()) for text in (error.error, error.message))
                    lost = _dead_letters(rest, error.path, unit, "manifest", *why)
                    dead.write(lost)
                    tally.lose("manifest", lost)
            else:
                if done != read_record["good"]:
                    raise RuntimeError(
                        f"{span.path}: {done:,} rows were read where {read_record['good']:,} are annotated"
                    )
        publish_table(self.layout.data(self.name, unit), pa.table({"ordinal": pa.array(tally.kept, pa.int64())}))
        files = (*(self.layout.part(kind, unit) for kind in KINDS), self.layout.data(self.name, unit))
        return self._record(tally), files

    def _record(self, tally: _Tally) -> dict[str, Any]:
        return {
            "rows": sum(tally.rows.values()),
            "kept": tally.rows[KEPT],
            "rejected": {reason: n for reason, n in sorted(tally.rows.items()) if reason not in (KEPT, DEAD_REASON)},
            "dead": dict(sorted(tally.dead.items())),
            "lost": dict(sorted(tally.lost.items())),
            "histograms": {
                name: {str(k): n for k, n in sorted(counts.items())} for name, counts in tally.histograms.items()
            },
            "examples": {reason or "kept": tally.ordinals(reason) for reason in tally.examples},
        }

    def _decide(
        self,
        batch: Batch,
        rows: pa.Table,
        records: pa.Table | None,
        span: Span,
        unit: str,
        duplicates: Duplicates,
        parts: tuple[TableFile, TableFile, TableFile],
        tally: _Tally,
    ) -> None:
        verdict = judge(rows, records, self.preset, self.stages, self.layout, unit, self.judges)
        reasons, overlaps, found = verdict.reasons, verdict.overlaps, verdict.found
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
            letters = _dead_letters(dead_rows, span.path, unit, "spotting", theirs["status"], theirs["message"])
            dead.write(letters)
            tally.lose("spotting", letters)
        self._count(tally, rows, reasons, verdict.captions, overlaps)

    def _caption_column(self, span: Span) -> str | None:
        """The column of a file that is the caption."""
        if self._captions_of.get(span.path) is None:
            self._captions_of[span.path] = info_of(span, self.dataset).roles.caption
        return self._captions_of[span.path]

    def _count(
        self, tally: _Tally, rows: pa.Table, reasons: Reasons, verdict: CaptionVerdict, overlaps: NDArray[np.int64]
    ) -> None:
        tally.rows.update(reasons.tolist())
        if verdict.decisions is not None:
            tally.histograms["complexity"].update(verdict.decisions.complexity.tolist())
            tally.histograms["actions"].update(verdict.decisions.n_actions.tolist())
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


def broken_unit(broken: dict[str, str], unit: str | None, stage: str = "manifest") -> pa.Table:
    """The dead letter of a unit or file that could not be read to its end: no ordinal, no row."""
    row = {
        "file": broken["path"],
        "unit": unit,
        "stage": stage,
        "error": broken["error"],
        "message": broken["message"],
    }
    return pa.Table.from_pylist([row], DEAD)


def example_of(
    rows: pa.Table,
    place: int,
    preset: Preset,
    verdict: CaptionVerdict,
    record: dict[str, Any] | None,
) -> dict[str, Any]:
    """A row as the report shows it: its caption's graph, what was spotted, what overlaps."""
    row = rows.slice(place, 1).to_pylist()[0]
    decided = verdict.decisions
    accepted = decided.accepted[place].as_py() if decided else []
    example = {
        "uid": row["uid"],
        "caption": (row["caption"] or "")[:EXAMPLE_CHARS],
        "parsed": row.get("parsed") or "",
        "objects": row.get("objects") or [],
        "attributes": [one for one in row.get("attributes") or [] if preset.captions.counts(one["kind"], one["score"])],
        "relations": row.get("relations") or [],
        "actions": [
            {**action, "accepted": yes} for action, yes in zip(row.get("actions") or [], accepted, strict=True)
        ],
        "complexity": int(decided.complexity[place]) if decided else None,
        "picture": None,
        "width": record["width"] if record else None,
        "height": record["height"] if record else None,
        "spotted": (record["spotted"] or []) if record else [],
        "overlap": None,
        "overlap_text": "",
        "overlap_span": None,
        "message": record["message"] if record else "",
    }
    if record and record["status"] == "ok":
        lines = [(line["text"], line["score"]) for line in record["spotted"] or []]
        best = overlap(example["caption"], lines, preset.text_spotting)
        example |= {
            "overlap": best.length,
            "overlap_text": best.text,
            "overlap_span": list(best.where) if best.where else None,
        }
    return example
