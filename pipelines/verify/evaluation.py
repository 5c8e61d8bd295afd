"""Compare what an output says of its decontamination with the stored table of the evaluation sets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import asdict
from typing import Any, cast

from open_diht.common.naming import counted, listing
from open_diht.filters import copies
from open_diht.filters.presets import Preset
from open_diht.pipelines.driver.conservation import Damaged, readable
from open_diht.pipelines.report.funnel import Checked, checked_in_words
from open_diht.pipelines.stages.evaluation import FINGERPRINTS, EvaluationFilter
from open_diht.pipelines.stages.evaluation_sets import EVALUATION
from open_diht.pipelines.stages.score.stored import SCORE
from open_diht.pipelines.store.commit import CorruptRecord, read_json
from open_diht.pipelines.store.records import fingerprint_of
from open_diht.pipelines.store.shapes import conforms
from open_diht.pipelines.store.storage import StorePath, each, read_table, size_of
from open_diht.pipelines.verify.structure import Structure


def evaluation_filter(
    structure: Structure, models: dict[str, dict[str, Any]], preset: Preset, stages: Collection[str]
) -> EvaluationFilter | None:
    """Check the sets, rule and counts in `models`, those of run.json. Return the run's filter of rows of evaluation
    sets. Return None if the run had none, or its table of the sets is not there."""
    layout, found, funnel, checked = structure.layout, structure.found, structure.funnel, models.get(EVALUATION)
    path = layout.root / "run.json"
    if funnel and funnel.get("checked") != checked:
        what = "names other evaluation sets, another rule or other counts than run.json"
        found.differ("provenance", layout.root / "funnel.json", what)
    if checked is None:
        return None
    if not conforms(checked, Checked):
        found.differ("provenance", path, "has no record of its evaluation sets of this version")
        return None
    embedded = preset.dedup.semantic and "dedup" in stages
    if checked["rule"] != {**asdict(preset.evaluation), "eps": preset.evaluation.eps if embedded else None}:
        found.differ("provenance", path, "names another rule of evaluation sets than its preset has")
    encoders = [models.get(name, {}).get("encoder") for name in (FINGERPRINTS, SCORE)] if embedded else []
    identity = next((one for one in encoders if one), None)
    table = layout.data(EVALUATION, f"sets-{fingerprint_of(copies.VERSION, checked['sets'], identity)}")
    if size_of(table) is None:
        what = f"{table.name}, the table of the evaluation sets that it names, is not there"
        found.differ("provenance", path, f"{what}; the sets were altered, or another version has made it")
        return None
    try:
        there = Counter(readable(lambda path: read_table(path, ["set"]), table)["set"].to_pylist())
    except (Damaged, KeyError, ValueError):
        found.differ("structure", table, "cannot be read")
        return None
    known = Counter[str]()
    for one in checked["sets"]:
        known[one["name"]] += one["images"]
    if there != known:
        found.differ("provenance", table, f"has images {dict(there)}, and {dict(known)} by run.json")
    if funnel and not funnel["set_aside"]:
        _check_counts(structure, path, checked)
    found.checked.append(("provenance", f"checked against {checked_in_words(cast(Checked, checked))}"))
    names = listing([one["name"] for one in checked["sets"]])
    return EvaluationFilter(preset.evaluation, table, names, "")


def _check_counts(structure: Structure, path: StorePath, checked: Any) -> None:
    """Compare the numbers of compared images with the records of the units."""
    layout, rows, unread = structure.layout, 0, 0
    for record in each(lambda unit: _record(layout.commit(EVALUATION, unit)), [*structure.decided], layout.root):
        rows, unread = rows + record.get("rows", 0), unread + record.get("unread", 0)
    if (rows - unread, unread) != (checked["compared"], checked["unread"]):
        what = f"{counted(checked['compared'], 'image')} compared and {checked['unread']:,} not decoded, and "
        structure.found.differ(
            "provenance", path, f"{what}{rows - unread:,} and {unread:,} by the records of all units"
        )


def _record(path: StorePath) -> dict[str, int]:
    """Return the counts in a record, or {} if it is missing or damaged, which makes them differ."""
    try:
        record = read_json(path)
    except CorruptRecord:
        return {}
    some = {name: record.get(name) for name in ("rows", "unread")} if isinstance(record, dict) else {}
    return cast(dict[str, int], some) if conforms(some, dict[str, int]) else {}
