"""Compare what an output says of earlier outputs (`--against`) with the keys that it has copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import pyarrow as pa

from open_diht.common.command_line import WrongUse
from open_diht.common.naming import counted, listing
from open_diht.filters.earlier import NEAR, PAIR, UID
from open_diht.filters.presets import Preset
from open_diht.pipelines.conservation import readable
from open_diht.pipelines.report.funnel import ComparedEarlier
from open_diht.pipelines.stages.against import (
    AGAINST,
    IMPORTED,
    OWN,
    AgainstFilter,
    LookUpStage,
    NearStage,
    find_earlier,
    imported_fingerprint,
)
from open_diht.pipelines.stages.annotator import DuplicateFiles
from open_diht.pipelines.stages.dedup.findings import part_name
from open_diht.pipelines.stages.keys import ENTRIES
from open_diht.pipelines.stages.slices import BadSlices
from open_diht.pipelines.store.records import Fingerprints, WholeRunRecord
from open_diht.pipelines.store.shapes import conforms
from open_diht.pipelines.store.storage import StorePath, read_table
from open_diht.pipelines.verify.structure import Structure


class _Imported(TypedDict):
    """The fields of a commit record of stage `IMPORTED` that are read."""

    fingerprint: str
    rows: int


def against_filter(
    structure: Structure, run: WholeRunRecord, preset: Preset
) -> AgainstFilter | None:
    """Check the earlier outputs in run.json, and look the rows up again among the keys that the run
    has copied from them. Return the run's filter of rows of earlier outputs, or None if the run had
    none or its records are altered."""
    layout = structure.layout
    found = structure.found
    funnel = structure.funnel
    about = run["models"].get(AGAINST)
    path = layout.root / "run.json"
    if funnel and funnel.get("earlier") != about:
        what = "names other earlier outputs, kinds or counts than run.json"
        found.differ("provenance", layout.root / "funnel.json", what)
    if about is None:
        return None
    if not conforms(about, ComparedEarlier):
        found.differ("provenance", path, "has no record of its earlier outputs of this version")
        return None
    kinds = tuple(about["kinds"])
    rule = preset.against
    distance = rule.distance if NEAR in kinds else None
    if kinds not in (rule.kinds, (UID, PAIR)) or about["distance"] != distance:
        found.differ("provenance", path, "compares earlier outputs otherwise than its preset says")
        return None
    names = tuple(one["name"] for one in about["outputs"])
    identities = [one["identity"] for one in about["outputs"]]
    made = imported_fingerprint(kinds, identities)
    copied = {
        name: record["rows"]
        for name in structure.commits(IMPORTED)
        if (record := structure.record(layout.commit(IMPORTED, name), _Imported))
        and record["fingerprint"] == made
    }
    if sum(copied.values()) != about["earlier_rows"]:
        what = f"{about['earlier_rows']:,} rows of earlier outputs, and {sum(copied.values()):,} by"
        found.differ("provenance", path, f"{what} the keys that were copied from them")
        return None
    _check_earlier(structure, names, identities, kinds)
    skip = frozenset(funnel["set_aside"] if funnel else ())
    files = tuple(
        DuplicateFiles(f"{AGAINST}_{kind}", about["ranges"], True) for kind in kinds if kind != NEAR
    )
    try:
        for kind in kinds:
            if kind != NEAR:
                stage = LookUpStage(layout, kind, about["ranges"], (*copied,), skip, "")
                for number in range(about["ranges"]):
                    again = pa.concat_tables([ENTRIES.empty_table(), *stage.found(number)])
                    _compare_entries(structure, layout.data(stage.name, part_name(number)), again)
            else:
                near = NearStage(layout, (*copied,), Fingerprints(layout.fingerprints(AGAINST)))
                near.setup()
                for unit in structure.decided:
                    again = near.found(unit)
                    _compare_entries(structure, layout.data(near.name, unit), again)
    except (BadSlices, OSError, pa.ArrowException) as error:
        found.differ("structure", layout.work / OWN, f"cannot be looked up again: {error}")
        return None
    what = f"{counted(about['earlier_rows'], 'row')} of {listing(list(names))}"
    found.checked.append(("decisions", f"all rows looked up again among {what}"))
    return AgainstFilter(layout, names, files, distance, "")


def _check_earlier(
    structure: Structure, names: Sequence[str], identities: Sequence[str], kinds: Sequence[str]
) -> None:
    """Compare the keys of the earlier outputs with those that were copied, as far as they are still
    there."""
    for name, identity in zip(names, identities, strict=True):
        try:
            (now,) = find_earlier([name], structure.layout.root, kinds)
        except WrongUse as error:
            structure.found.skip(f"{error}; its keys as they were copied are checked")
            continue
        if now.identity != identity:
            structure.found.skip(
                f"earlier output {name} has other keys now than were copied; the copied ones are"
                " checked"
            )


def _compare_entries(structure: Structure, path: StorePath, again: pa.Table) -> None:
    if not readable(read_table, path).equals(again):
        what = "does not name the rows whose keys the earlier outputs have, or not their uids"
        structure.found.differ("decisions", path, what)
