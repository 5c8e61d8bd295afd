"""Collect example rows of each reason, with all evidence, for the report."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import pyarrow as pa

from open_diht.filters.captions.explain import explain
from open_diht.filters.cascade import (
    NO_REASON,
    Decisions,
    MeasuringFilter,
    NotLookedAt,
    StageFilter,
    apply_caption_filters,
    cascade,
    with_one_caption,
)
from open_diht.filters.presets import Preset
from open_diht.filters.spotting.overlap import overlap
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.manifests import FileChanged, UnreadableFile
from open_diht.pipelines.manifests.plan import Plan, Unit
from open_diht.pipelines.report.example import Example, Line
from open_diht.pipelines.stages.columns import annotated_rows
from open_diht.pipelines.stages.image_records import image_records
from open_diht.pipelines.stages.images import images_of
from open_diht.pipelines.stages.rows import Reading
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import DecideRecord, caption_record

EXAMPLES = 8
"""Maximum number of examples of each reason in the report."""
EXAMPLE_CHARS = 10_000
"""Maximum number of characters of a caption in an example; a page shows fewer."""
_SAME_SCORE = 1e-3  # tolerance: scores are stored with four digits


def collect_examples(
    layout: Layout,
    plan: Plan,
    units: Sequence[Unit],
    dataset: Dataset,
    preset: Preset,
    stages: Sequence[str],
    stage_filters: Sequence[StageFilter] = (),
) -> dict[str, list[Example]]:
    """Return up to `EXAMPLES` rows of each reason, and of kept and dead-letter rows, from the first
    units with any."""
    wanted: dict[str, list[tuple[str, int]]] = {}
    for unit in units:
        decided: DecideRecord = read_json(layout.commit("decide", unit.name))
        for reason, ordinals in decided["examples"].items():
            room = EXAMPLES - len(wanted.setdefault(reason, []))
            wanted[reason] += [(unit.name, ordinal) for ordinal in ordinals[:room]]
        if len(wanted) > len(cascade(preset)) and all(
            len(rows) >= EXAMPLES for rows in wanted.values()
        ):
            break
    examples: dict[str, list[Example]] = {reason: [] for reason in wanted}
    spans = {unit.name: unit.span for unit in units}
    for name in sorted({unit for rows in wanted.values() for unit, _ in rows}):
        read = caption_record(layout, name)
        records = image_records(layout, name, plan.image_units(read), stages)
        record_of = (
            {row["ordinal"]: row for row in records.to_pylist()} if records is not None else {}
        )
        mine = sorted(
            (ordinal, reason)
            for reason, chosen in wanted.items()
            for unit, ordinal in chosen
            if unit == name
        )
        shown = sorted({ordinal for ordinal, _ in mine})
        groups = annotated_rows(layout, name, preset)
        rows = pa.concat_tables(
            group.filter(np.isin(np.asarray(group["ordinal"]), shown)) for group in groups
        )
        place_of = {ordinal: index for index, ordinal in enumerate(rows["ordinal"].to_pylist())}
        measured = _measured(layout, name, rows, stage_filters)
        images = _images(images_of(layout, name, spans[name], plan.image_rows, dataset, shown))
        for ordinal, reason in mine:
            one = with_one_caption(
                rows.slice(place_of[ordinal], 1), record_of.get(ordinal), preset, stages
            )
            decisions = apply_caption_filters(one, preset, "captions" in stages)
            # Otherwise the records of its image come from an earlier run.
            passed = decisions.reasons[0] == NO_REASON
            example = example_of(one, preset, decisions, record_of.get(ordinal) if passed else None)
            example["image"] = images.get(ordinal)
            example["measured"] = measured.get(ordinal, {}) if passed else {}
            examples[reason].append(example)
    return examples


def _measured(
    layout: Layout, unit: str, rows: pa.Table, stage_filters: Sequence[StageFilter]
) -> dict[int, dict[str, float | str | None]]:
    """Return by ordinal the numbers that stages' filters measured for a row. Rows without numbers
    are omitted."""
    numbers: dict[int, dict[str, float | str | None]] = {}
    for one in (one for one in stage_filters if isinstance(one, MeasuringFilter)):
        for ordinal in rows["ordinal"].to_pylist():
            with contextlib.suppress(NotLookedAt):
                mine = rows.filter(pa.array(np.asarray(rows["ordinal"]) == ordinal))
                numbers.setdefault(ordinal, {}).update(
                    one.measured(layout, unit, mine).to_pylist()[0]
                )
    return numbers


def _images(images: Iterable[tuple[int, Any]]) -> dict[int, bytes]:
    readable: dict[int, bytes] = {}
    # The run reports an unreadable or changed file elsewhere; rows whose images it hides are shown
    # without them.
    with contextlib.suppress(UnreadableFile, FileChanged):
        for ordinal, image in images:
            if isinstance(image, bytes):
                readable[ordinal] = image
    return readable


def example_of(
    one_row: pa.Table, preset: Preset, decisions: Decisions, record: Reading | None
) -> Example:
    """Return a row as the report shows it: the graph of its caption, the spotted text and the
    overlap. `record` is its row of `RECORD`, or None to leave out what was read in its image."""
    row = one_row.to_pylist()[0]
    decided = decisions.counts if decisions.asked[0] else None
    if decided is None:  # leave out annotations that only an earlier run may have made
        row = {name: row[name] for name in ("uid", "caption")}
    accepted = decided.accepted[0].as_py() if decided else []
    actions, attributes, relations = _with_reasons(row, preset.captions.second_opinion)
    example: Example = {
        "uid": row["uid"],
        "caption": (row["caption"] or "")[:EXAMPLE_CHARS],
        "parsed": row.get("parsed") or "",
        "objects": row.get("objects") or [],
        "attributes": [
            one for one in attributes if preset.captions.counts(one["kind"], one["score"])
        ],
        "relations": relations,
        "actions": [
            action | {"accepted": yes} for action, yes in zip(actions, accepted, strict=True)
        ],
        "complexity": int(decided.complexity[0]) if decided and decided.parsed[0] else None,
        "image": None,
        "width": record["width"] if record else None,
        "height": record["height"] if record else None,
        "spotted": cast(list[Line], record["spotted"] or []) if record else [],
        "overlap": None,
        "overlap_text": "",
        "overlap_span": None,
        "measured": {},
        "message": (record["message"] or "") if record else "",
    }
    if record and record["status"] == "ok":
        lines = [(line["text"], line["score"]) for line in example["spotted"]]
        best = overlap(example["caption"], lines, preset.text_spotting)
        example |= {"overlap": best.length, "overlap_text": best.text, "overlap_span": best.where}
    return example


def _with_reasons(row: Mapping[str, Any], second_opinion: bool) -> tuple[list[Any], ...]:
    """Return the actions, attributes and relations of a row, each with the recomputed `reasons` for
    its score. If the scores differ from the stored ones, something else annotated the row, so leave
    out all reasons.
    """
    stored = tuple(row.get(name) or [] for name in ("actions", "attributes", "relations"))
    if not any(stored):
        return stored
    explained = explain(row["caption"], second_opinion)
    computed = (explained.actions, explained.attributes, explained.relations)
    pairs = [
        (one, other)
        for ours, theirs in zip(stored, computed, strict=True)
        for one, other in zip(ours, theirs, strict=False)
    ]
    if [*map(len, stored)] != [*map(len, computed)] or any(
        abs(one["score"] - evidence.score) > _SAME_SCORE for one, evidence in pairs
    ):
        return stored
    return tuple(
        [
            {**one, "reasons": [(text, round(odds, 2)) for text, odds in evidence.reasons]}
            for one, evidence in zip(ours, theirs, strict=True)
        ]
        for ours, theirs in zip(stored, computed, strict=True)
    )
