"""The end of a run: sums of the commit records, the conservation check from the data, examples for the report."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from filters.presets import Preset
from pipelines.datasets import Dataset
from pipelines.decisions import DEAD, NOT_AT_HAND, NOT_DECIDED, Step, cascade, judge_captions
from pipelines.manifests import FileChanged, UnreadableFile
from pipelines.plan import Plan, Unit
from pipelines.settings import RunSettings
from pipelines.stages.decide import broken_unit, example_of
from pipelines.stages.downloads import pictures_of
from pipelines.stages.picture_records import picture_records
from pipelines.stages.said import UID
from pipelines.store.commit import read_json
from pipelines.store.layout import Layout
from pipelines.store.storage import Place, each, read_table, row_count, row_groups

_T = TypeVar("_T")
EXAMPLES = 8
"""Examples of each reason in the report."""


class NotConserved(RuntimeError):
    """Rows were lost or doubled: a bug, or an output folder that was tampered with."""


def summarise(
    layout: Layout, units: Sequence[Unit], plan: Plan, settings: RunSettings, own: Sequence[Step] = ()
) -> dict[str, Any]:
    """The content of funnel.json, without examples, seconds, and what `count_set_aside` adds.

    Args:
        units: those that were decided.
        plan: what there was to do; rows of other units count as not decided, and so do those that stand behind the
            break of a unit that could not be read to its end, where the plan has counted them.
        settings: of the run.
        own: steps of stages of the user's.
    """
    rejected: Counter[str] = Counter()
    dead: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    histograms: dict[str, Counter[int]] = {}
    rows = kept = broken = unread = unparsed = 0

    def records(unit: Unit) -> tuple[Any, Any]:
        return read_json(layout.commit("captions", unit.name)), read_json(layout.commit("decide", unit.name))

    for unit, (read, decided) in zip(units, each(records, units, layout.root), strict=True):
        rows += read["rows"]
        unparsed += read.get("unparsed", 0)
        if read["broken"] is not None:
            broken += 1
            unread += unit.span.rows - read["rows"] if unit.span.exact else 0
        kept += decided["kept"]
        rejected.update(decided["rejected"])
        dead.update(decided["dead"])
        lost.update(decided["lost"])
        for name, counts in decided["histograms"].items():
            histograms.setdefault(name, Counter()).update({int(k): n for k, n in counts.items()})
    stages = list(settings.stages)
    not_decided = _not_decided(layout, plan, units)
    not_decided["rows"] += unread
    rows += not_decided["rows"]
    return {
        "dataset": settings.dataset.name,
        "preset": settings.preset.name,
        "stages": stages,
        "rows_in": rows,
        "steps": _steps(cascade(settings.preset, own), settings.stages, rows, not_decided["rows"], lost, rejected),
        "rejected": {reason: n for reason, n in sorted(rejected.items())},
        "dead_letter": {
            "rows": sum(dead.values()),
            "units": broken + len(plan.unreadable),
            "by_error": dict(sorted(dead.items())),
        },
        "not_decided": not_decided,
        "kept": kept,
        "keep_rate": kept / rows if rows else 0.0,
        **({"unparsed": unparsed} if unparsed else {}),
        "histograms": {
            name: {str(k): n for k, n in sorted(counts.items())} for name, counts in sorted(histograms.items())
        },
    }


def _not_decided(layout: Layout, plan: Plan, decided: Sequence[Unit]) -> dict[str, int]:
    """Units that are set aside and their rows: as many as were read, or else as the plan counts; `uncounted` are the
    units of which neither is known, and whose rows are in no sum."""
    names = {unit.name for unit in decided}
    found = {"rows": 0, "units": 0, "uncounted": 0}
    for unit in plan.units:
        if unit.name not in names:
            record = read_json(layout.commit("captions", unit.name))
            known = record["rows"] if record else unit.span.rows if unit.span.exact else None
            found["units"] += 1
            found["uncounted"] += known is None
            found["rows"] += known or 0
    return found


def _steps(
    known: Sequence[Step],
    stages: Sequence[str],
    rows: int,
    not_decided: int,
    lost: Mapping[str, int],
    rejected: Mapping[str, int],
) -> list[dict[str, Any]]:
    """What was left after each step. Rows that a step did not reject, but that went to the dead letter or were not
    decided there, are its `lost`."""
    read = {"stage": "spotting", "reason": DEAD}  # the first that needs the pictures to have been read
    taken: list[tuple[dict[str, str], int, int]] = [
        ({"stage": "set aside", "reason": NOT_DECIDED}, 0, not_decided),
        ({"stage": "manifest", "reason": DEAD}, 0, lost.get("manifest", 0)),
    ]
    for step in known:
        if step.reason == NOT_AT_HAND:
            taken.append((read, 0, lost.get("spotting", 0)))
        n = rejected.get(step.reason, 0)
        if n or step.always or (step.stage in stages and not step.rare):
            said = {"stage": step.stage, "reason": step.reason, "explanation": step.explanation}
            taken.append((said, n, 0))
    steps: list[dict[str, Any]] = []
    for said, gone, away in taken:
        rows -= gone + away
        if away:
            steps.append({**said, "rejected": 0, "lost": away, "left": rows})
        elif said["reason"] not in (NOT_DECIDED, DEAD):
            steps.append({**said, "rejected": gone, "left": rows})
    return steps


def count_set_aside(funnel: dict[str, Any], set_aside: Mapping[str, Mapping[str, Any]]) -> None:
    """Add the units that are set aside to a funnel: those that were not decided, and those that were not exported."""
    funnel["dead_letter"]["units"] += len(set_aside)
    funnel["set_aside"] = {unit: record["stage"] for unit, record in sorted(set_aside.items())}


def check_conservation(layout: Layout, units: Sequence[Unit], funnel: dict[str, Any]) -> None:
    """Rows in = kept + rejected by exactly one reason + dead letters + not decided, counted from the files; per unit,
    and in all.

    Raises:
        NotConserved: it does not hold; the message names the unit and the numbers.
    """
    expected = {f"part-{unit.name}.parquet" for unit in units} | {"part-unreadable.parquet"}
    for kind in ("kept", "rejected", "dead_letter"):
        for path in (layout.root / kind).glob("*.parquet"):
            if path.name not in expected:
                raise NotConserved(f"{path} belongs to no unit of this run; remove it")
    reasons: Counter[str] = Counter()
    total = 0
    for rows, rejected in each(lambda unit: _check_unit(layout, unit.name), units, layout.root):
        total += rows
        reasons.update(rejected)
    total += funnel["not_decided"]["rows"]
    if total != funnel["rows_in"] or dict(reasons) != {r: n for r, n in funnel["rejected"].items() if n}:
        raise NotConserved(
            f"{funnel['rows_in']} rows in, {total} out; rejected by data "
            f"{dict(reasons)}, by records {funnel['rejected']}"
        )


def _check_unit(layout: Layout, unit: str) -> tuple[int, Counter[str]]:
    """Rows of a unit's files, and how many were rejected for each reason."""
    record = read_json(layout.commit("captions", unit))
    kept = _readable(row_count, layout.part("kept", unit))
    reasons = _column(layout.part("rejected", unit), "reason")
    # Entries without ordinal stand for units, not rows.
    ordinals = _column(layout.part("dead_letter", unit), "ordinal")
    dead = len(ordinals) - ordinals.null_count
    rejected = Counter({entry["values"]: entry["counts"] for entry in reasons.value_counts().to_pylist()})
    if None in rejected:
        raise NotConserved(f"unit {unit}: {rejected[None]} rejected rows without a reason")
    if record["rows"] != kept + len(reasons) + dead:
        raise NotConserved(
            f"unit {unit}: {record['rows']} rows in, but kept {kept} + rejected {len(reasons)} + dead letters {dead}; "
            f"remove {layout.commit('decide', unit)}, and the same command decides the unit again"
        )
    return record["rows"], rejected


def _column(path: Place, name: str) -> pa.ChunkedArray:
    try:
        return _readable(lambda path: read_table(path, columns=[name])[name], path)
    except FileNotFoundError:
        return pa.chunked_array([], pa.string())


def _readable(read: Callable[[Place], _T], path: Place) -> _T:
    try:
        return read(path)
    except pa.ArrowInvalid as error:
        raise NotConserved(f"{path} is damaged ({error}); remove it, and the same command makes it again") from error


def collect_examples(
    layout: Layout,
    plan: Plan,
    units: Sequence[Unit],
    dataset: Dataset,
    preset: Preset,
    stages: Sequence[str],
) -> dict[str, list[dict[str, Any]]]:
    """Up to `EXAMPLES` rows of each reason with all evidence, from the first units that offer them."""
    wanted: dict[str, list[tuple[str, int]]] = {}
    for unit in units:
        for reason, ordinals in read_json(layout.commit("decide", unit.name))["examples"].items():
            room = EXAMPLES - len(wanted.setdefault(reason, []))
            wanted[reason] += [(unit.name, ordinal) for ordinal in ordinals[:room]]
        if len(wanted) > len(cascade(preset)) and all(len(rows) >= EXAMPLES for rows in wanted.values()):
            break
    examples: dict[str, list[dict[str, Any]]] = {reason: [] for reason in wanted}
    spans = {unit.name: unit.span for unit in units}
    for name in sorted({unit for rows in wanted.values() for unit, _ in rows}):
        read = read_json(layout.commit("captions", name))
        records = picture_records(layout, name, -(-read["rows"] // plan.picture_rows), stages)
        record_of = {row["ordinal"]: row for row in records.to_pylist()} if records is not None else {}
        mine = sorted(
            (ordinal, reason) for reason, chosen in wanted.items() for unit, ordinal in chosen if unit == name
        )
        asked = sorted({ordinal for ordinal, _ in mine})
        groups = row_groups(layout.data("captions", name))
        rows = pa.concat_tables(group.filter(np.isin(np.asarray(group["ordinal"]), asked)) for group in groups)
        place_of = {ordinal: place for place, ordinal in enumerate(rows["ordinal"].to_pylist())}
        pictures = _pictures(pictures_of(layout, name, spans[name], plan.picture_rows, dataset, asked))
        for ordinal, reason in mine:
            one = rows.slice(place_of[ordinal], 1)
            verdict = judge_captions(one, preset, "captions" in stages)
            example = example_of(one, 0, preset, verdict, record_of.get(ordinal))
            example["picture"] = pictures.get(ordinal)
            examples[reason].append(example)
    return {("dead_letter" if reason == DEAD else reason): rows for reason, rows in examples.items()}


def _pictures(pictures: Iterable[tuple[int, Any]]) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    # Its rows are dead letters already, or the run says of the file that it has changed; shown without pictures.
    with contextlib.suppress(UnreadableFile, FileChanged):
        for ordinal, picture in pictures:
            if isinstance(picture, bytes):
                found[ordinal] = picture
    return found


def letters_of(plan: Plan, set_aside: Mapping[str, Mapping[str, Any]]) -> pa.Table | None:
    """Dead letters of the files that could not be opened at all, and of the units that are set aside; None where there
    are none."""
    letters = [broken_unit(entry, None) for entry in plan.unreadable]
    paths = {unit.name: unit.span.path for unit in plan.units}
    for unit, record in sorted(set_aside.items()):
        last = record["tries"][-1]
        entry = {"path": paths[unit], "error": last["error"], "message": last["message"]}
        letters.append(broken_unit(entry, unit, record["stage"]))
    return pa.concat_tables(letters) if letters else None


def shared_uids_note(funnel: dict[str, Any]) -> str | None:
    """What to tell a person whose manifests give one uid to several different rows."""
    found = funnel.get("duplicates", {}).get(UID, {"found": 0})["found"]
    if not found:
        return None
    return (
        f"{found:,} rows have the uid of an earlier row with another url, picture or caption; subset.npy leaves such "
        "uids out, since each would select all of its rows"
    )


def unparsed_note(funnel: dict[str, Any]) -> str | None:
    """What to tell a person whose captions were annotated by a lean run."""
    if not (rows := funnel.get("unparsed", 0)):
        return None
    return (
        f"lean run: {rows:,} captions without a word that may be a verb were not parsed. They are rejected by Action "
        "or a filter before it; their objects, attributes and complexity are not annotated (null), and rows that "
        "Complexity would have rejected first count under Action"
    )


def duplicates_note(funnel: dict[str, Any]) -> str | None:
    """What to tell a person whose survivors hold exact duplicates that stay."""
    called = {"pair": ("identical pairs", "pairs"), "picture": ("pairs with the picture of another", "pictures")}
    stay = [
        f"{known['found']:,} {called[kind][0]} (dedup.{called[kind][1]})"
        for kind, known in funnel.get("duplicates", {}).items()
        if kind in called and known["found"] and not known["rejected"]
    ]
    if not stay:
        return None
    return f"found and kept: {', '.join(stay)}; stage dedup rejects them where the preset has that setting on"


def not_at_hand_note(funnel: dict[str, Any]) -> str | None:
    """What to tell a person whose rows passed the captions but have no picture here."""
    waiting = funnel["rejected"].get(NOT_AT_HAND, 0)
    if not waiting:
        return None
    return (
        f"{waiting:,} rows passed the caption filters, but their pictures are not at hand "
        "(urls only): they are kept apart, in rejected/ with "
        f"reason {NOT_AT_HAND}. STAGES with download fetches them; STAGES=captions,export keeps the rows on their "
        "captions alone."
    )
