"""The end of a run: sums of the commit records, the conservation check from the data, examples for the report,
subset.npy."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from filters.presets import Preset
from pipelines.commit import published, read_json
from pipelines.datasets import Dataset
from pipelines.decisions import CASCADE, DEAD, NOT_AT_HAND, judge_captions
from pipelines.layout import Layout
from pipelines.manifests import UnreadableFile, read_pictures
from pipelines.plan import Plan
from pipelines.stages.decide import broken_unit, example_of
from pipelines.stages.spotting import load_records

EXAMPLES = 8
"""Examples of each reason in the report."""


class NotConserved(RuntimeError):
    """Rows were lost or doubled: a bug, or an output folder that was tampered with."""


def summarise(layout: Layout, plan: Plan, preset: Preset, stages: Iterable[str], dataset: str) -> dict[str, Any]:
    """The content of funnel.json, without examples and seconds."""
    rejected: Counter[str] = Counter()
    dead: Counter[str] = Counter()
    histograms: dict[str, Counter[int]] = {}
    rows = kept = broken = 0
    for unit in plan.units:
        read, decided = read_json(layout.commit("captions", unit.name)), read_json(layout.commit("decide", unit.name))
        rows += read["rows"]
        broken += read["broken"] is not None
        kept += decided["kept"]
        rejected.update(decided["rejected"])
        dead.update(decided["dead"])
        for name, counts in decided["histograms"].items():
            histograms.setdefault(name, Counter()).update({int(k): n for k, n in counts.items()})
    stages = list(stages)
    steps, left = [], rows - sum(dead.values())
    for stage, reason in CASCADE:
        if stage in stages or reason in ("no_caption", "caption_length"):
            left -= rejected[reason]
            steps.append({"stage": stage, "reason": reason, "rejected": rejected[reason], "left": left})
    return {
        "dataset": dataset,
        "preset": preset.name,
        "stages": stages,
        "rows_in": rows,
        "steps": steps,
        "rejected": {reason: n for reason, n in sorted(rejected.items())},
        "dead_letter": {
            "rows": sum(dead.values()),
            "units": broken + len(plan.unreadable),
            "by_error": dict(sorted(dead.items())),
        },
        "kept": kept,
        "keep_rate": kept / rows if rows else 0.0,
        "histograms": {
            name: {str(k): n for k, n in sorted(counts.items())} for name, counts in sorted(histograms.items())
        },
    }


def check_conservation(layout: Layout, plan: Plan, funnel: dict[str, Any]) -> None:
    """Rows in = kept + rejected by exactly one reason + dead letters, counted from the files; per unit, and in all.

    Raises:
        NotConserved: it does not hold; the message names the unit and the numbers.
    """
    expected = {f"part-{unit.name}.parquet" for unit in plan.units} | {"part-unreadable.parquet"}
    for kind in ("kept", "rejected", "dead_letter"):
        for path in (layout.root / kind).glob("*.parquet"):
            if path.name not in expected:
                raise NotConserved(f"{path} belongs to no unit of this run; remove it")
    reasons: Counter[str] = Counter()
    total = 0
    for unit in plan.units:
        record = read_json(layout.commit("captions", unit.name))
        kept, rejected = (_rows(layout, kind, unit.name) for kind in ("kept", "rejected"))
        dead = _dead_rows(layout, unit.name)
        if layout.part("rejected", unit.name).exists():
            column = pq.read_table(layout.part("rejected", unit.name), columns=["reason"])["reason"]
            if column.null_count:
                raise NotConserved(f"unit {unit.name}: {column.null_count} rejected rows without a reason")
            reasons.update(column.to_pylist())
        if record["rows"] != kept + rejected + dead:
            raise NotConserved(
                f"unit {unit.name}: {record['rows']} rows in, but kept {kept} + "
                f"rejected {rejected} + dead letters {dead}"
            )
        total += kept + rejected + dead
    if total != funnel["rows_in"] or dict(reasons) != {r: n for r, n in funnel["rejected"].items() if n}:
        raise NotConserved(
            f"{funnel['rows_in']} rows in, {total} out; rejected by data "
            f"{dict(reasons)}, by records {funnel['rejected']}"
        )


def _rows(layout: Layout, kind: str, unit: str) -> int:
    path = layout.part(kind, unit)
    return int(pq.read_metadata(path).num_rows) if path.exists() else 0


def _dead_rows(layout: Layout, unit: str) -> int:
    path = layout.part("dead_letter", unit)
    if not path.exists():
        return 0
    ordinals = pq.read_table(path, columns=["ordinal"])["ordinal"]
    return len(ordinals) - ordinals.null_count  # entries without ordinal stand for units, not rows


def collect_examples(
    layout: Layout, plan: Plan, dataset: Dataset, preset: Preset, captions_decide: bool, spotting: bool
) -> dict[str, list[dict[str, Any]]]:
    """Up to `EXAMPLES` rows of each reason with all evidence, from the first units that offer them."""
    wanted: dict[str, list[tuple[str, int]]] = {}
    for unit in plan.units:
        for reason, ordinals in read_json(layout.commit("decide", unit.name))["examples"].items():
            room = EXAMPLES - len(wanted.setdefault(reason, []))
            wanted[reason] += [(unit.name, ordinal) for ordinal in ordinals[:room]]
        if len(wanted) > len(CASCADE) and all(len(rows) >= EXAMPLES for rows in wanted.values()):
            break
    examples: dict[str, list[dict[str, Any]]] = {reason: [] for reason in wanted}
    spans = {unit.name: unit.span for unit in plan.units}
    for name in sorted({unit for rows in wanted.values() for unit, _ in rows}):
        rows = pq.read_table(layout.data("captions", name))
        place_of = {ordinal: place for place, ordinal in enumerate(rows["ordinal"].to_pylist())}
        read = read_json(layout.commit("captions", name))
        records = load_records(layout, name, -(-read["rows"] // plan.picture_rows)) if spotting else None
        record_of = {row["ordinal"]: row for row in records.to_pylist()} if records is not None else {}
        mine = sorted(
            (ordinal, reason) for reason, chosen in wanted.items() for unit, ordinal in chosen if unit == name
        )
        pictures = _pictures(spans[name], dataset, sorted({ordinal for ordinal, _ in mine})) if plan.pictures else {}
        for ordinal, reason in mine:
            one = rows.slice(place_of[ordinal], 1)
            verdict = judge_captions(one, preset, captions_decide)
            example = example_of(one, 0, preset, verdict, record_of.get(ordinal))
            example["picture"] = pictures.get(ordinal)
            examples[reason].append(example)
    return {("dead_letter" if reason == DEAD else reason): rows for reason, rows in examples.items()}


def _pictures(span: Any, dataset: Dataset, ordinals: list[int]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    with contextlib.suppress(UnreadableFile):  # its rows are dead letters already, and shown without pictures
        for ordinal, picture in read_pictures(span, dataset, np.array(ordinals, np.int64)):
            if isinstance(picture, bytes):
                found[int(ordinal)] = picture
    return found


def write_subset(layout: Layout, plan: Plan) -> int:
    """subset.npy in DataComp's format: the survivors' uids as pairs of unsigned 64-bit numbers, sorted, each once.
    Returns how many."""
    halves = [np.zeros((0, 2), np.uint64)]
    for unit in plan.units:
        path = layout.part("kept", unit.name)
        if path.exists():
            uids = pq.read_table(path, columns=["uid"])["uid"].to_pylist()
            halves.append(np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in uids], np.uint64).reshape(-1, 2))
    pairs = np.unique(np.concatenate(halves), axis=0)
    subset = np.ascontiguousarray(pairs).view(np.dtype("u8,u8")).reshape(-1)
    with published(layout.root / "subset.npy") as temporary, open(temporary, "wb") as out:
        np.save(out, subset)
    return len(subset)


def unreadable_letters(plan: Plan) -> pa.Table | None:
    """Dead letters of the files that could not be opened at all."""
    return pa.concat_tables([broken_unit(entry, None) for entry in plan.unreadable]) if plan.unreadable else None


def not_at_hand_note(funnel: dict[str, Any]) -> str | None:
    """What to tell a person whose rows passed the captions but have no picture here."""
    waiting = funnel["rejected"].get(NOT_AT_HAND, 0)
    if not waiting:
        return None
    return (
        f"{waiting:,} rows passed the caption filters, but their pictures are not at hand "
        "(urls only): they are kept apart, in rejected/ with "
        f"reason {NOT_AT_HAND}. STAGES=captions,export keeps them on their captions alone."
    )
