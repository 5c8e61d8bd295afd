"""Stages that find duplicates: the keys of a unit's survivors, and the duplicates in a range of all keys.

First the pairs, then the pictures: each kind is asked only of rows that nothing before has rejected, so no rejected row
takes the place of one that stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from filters.presets import Preset
from pipelines.commit import TableFile, publish_bytes, publish_json, read_json, read_range, retract
from pipelines.dedup.entries import ENTRIES
from pipelines.dedup.exact import duplicates
from pipelines.dedup.keys import KEY, PARTS, Halves, halves_of_digests, halves_of_uids, key_parts, key_records
from pipelines.dedup.slices import pack, read_slice
from pipelines.datasets import Dataset
from pipelines.layout import Layout
from pipelines.manifests import MissingPicture, UnreadableFile, read_pictures
from pipelines.plan import Plan, load_plan
from pipelines.stages.spotting import load_records
from pipelines.stages.verdicts import judge

PAIR, PICTURE, SEMANTIC = "pair", "picture", "semantic"
KINDS = (PAIR, PICTURE, SEMANTIC)
"""In the order in which they are asked."""


def keys_stage(kind: str) -> str:
    """The stage that writes the keys of a kind."""
    return f"{kind}_keys"


def duplicates_stage(kind: str) -> str:
    """The stage that says which rows are duplicates of a kind."""
    return f"{kind}_duplicates"


def range_name(number: int) -> str:
    """Name of a range of keys or a group of clusters."""
    return f"{number:04d}"


@dataclass(frozen=True)
class Said:
    """What was said of a kind: where to read it, and whether it rejects."""

    kind: str
    ranges: int
    rejects: bool


@dataclass(frozen=True)
class Competitors:
    """The rows of a unit that nothing has rejected so far, ordinals ascending."""

    ordinals: NDArray[np.int64]
    uids: Halves


class Entries:
    """What was said of units' rows; footers are read once."""

    def __init__(self, layout: Layout):
        self._layout = layout
        self._footers: dict[tuple[str, int], pq.FileMetaData] = {}

    def of(self, said: Said, unit: int) -> pa.Table:
        """The entries of a unit, by its number, sorted by ordinal."""
        tables = [ENTRIES.empty_table()]
        for number in range(said.ranges):
            path = self._layout.data(duplicates_stage(said.kind), range_name(number))
            footer = self._footers.get((said.kind, number))
            if footer is None:
                footer = self._footers[said.kind, number] = pq.read_metadata(path)
            groups = [group for group in range(footer.num_row_groups) if _may_hold(footer.row_group(group), unit)]
            if groups:
                table = pq.ParquetFile(path, metadata=footer).read_row_groups(groups)
                tables.append(table.filter(pc.equal(table["unit"], unit)))
        return pa.concat_tables(tables).sort_by("ordinal")


def _may_hold(group: pq.RowGroupMetaData, unit: int) -> bool:
    statistics = group.column(0).statistics
    return statistics is None or not statistics.has_min_max or statistics.min <= unit <= statistics.max


def competitors(layout: Layout, unit: str, number: int, before: tuple[Said, ...], entries: Entries) -> Competitors:
    """The survivors of the filters, without the duplicates of kinds that reject."""
    records = read_keys(layout, PAIR, unit, 0, PARTS)
    records = records[np.argsort(records["ordinal"], kind="stable")]
    gone = [np.asarray(entries.of(said, number)["ordinal"]) for said in before if said.rejects]
    if gone:
        records = records[~np.isin(records["ordinal"], np.concatenate(gone))]
    uids = np.stack([records["uid_high"], records["uid_low"]], axis=1)
    return Competitors(records["ordinal"].astype(np.int64), uids)


def read_keys(layout: Layout, kind: str, unit: str, first: int, stop: int) -> NDArray[np.void]:
    """The key records of a unit in parts [first, stop)."""
    path = layout.slices(keys_stage(kind), unit)
    return read_slice(partial(read_range, path), KEY, PARTS, first, stop, str(path))


@dataclass
class KeyStage:
    """See `Stage`. Writes the keys of a unit: of its survivors' uids, or of the bytes of their pictures."""

    layout: Layout
    dataset: Dataset
    preset: Preset
    captions_decide: bool
    spotting_decides: bool
    kind: str
    before: tuple[Said, ...]
    """The kinds that were asked before, in order."""
    read_missing: bool
    """Whether pictures whose digest nobody has taken yet are read for it."""
    fingerprints: dict[str, str]
    """Of each unit: changes with the survivors and with what was said before."""

    @property
    def name(self) -> str:
        return keys_stage(self.kind)

    def setup(self) -> None:
        self._entries = Entries(self.layout)

    def teardown(self) -> None:
        pass

    @cached_property
    def _plan(self) -> tuple[Plan, dict[str, int]]:
        plan = load_plan(self.layout.plan)
        return plan, {unit.name: number for number, unit in enumerate(plan.units)}

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if not key.startswith("_")}

    def process(self, unit: str) -> None:
        began = time.time()
        retract(self.layout.commit(self.name, unit))
        keys, rows = self._of_pairs(unit) if self.kind == PAIR else self._of_pictures(unit)
        records = key_records(keys, rows.ordinals, rows.uids)
        publish_bytes(self.layout.slices(self.name, unit), pack(records, key_parts(records), PARTS))
        record = {
            "unit": unit,
            "fingerprint": self.fingerprints[unit],
            "rows": len(records),
            "seconds": round(time.time() - began, 3),
        }
        publish_json(self.layout.commit(self.name, unit), record)

    def _of_pairs(self, unit: str) -> tuple[Halves, Competitors]:
        annotations = pq.read_table(self.layout.data("captions", unit))
        records = self._records(unit) if self.spotting_decides else None
        verdict = judge(annotations, records, self.preset, self.captions_decide, unit)
        survive = np.flatnonzero(verdict.survive)
        rows = annotations.select(["ordinal", "uid"]).take(pa.array(survive))
        uids = halves_of_uids(rows["uid"].to_pylist())
        return uids, Competitors(np.asarray(rows["ordinal"]).astype(np.int64), uids)

    def _of_pictures(self, unit: str) -> tuple[Halves, Competitors]:
        rows = competitors(self.layout, unit, self._plan[1][unit], self.before, self._entries)
        digests = self._known_digests(unit)
        missing = [int(ordinal) for ordinal in rows.ordinals if int(ordinal) not in digests]
        if missing and self.read_missing:
            digests |= self._read_digests(unit, missing)
        have = np.array([int(ordinal) in digests for ordinal in rows.ordinals], bool)
        rows = Competitors(rows.ordinals[have], rows.uids[have])
        return halves_of_digests([digests[int(ordinal)] for ordinal in rows.ordinals]), rows

    def _records(self, unit: str) -> pa.Table:
        read = read_json(self.layout.commit("captions", unit))
        return load_records(self.layout, unit, -(-read["rows"] // self._plan[0].picture_rows))

    def _known_digests(self, unit: str) -> dict[int, bytes]:
        """SHA-256 of the pictures that spotting has read, whether or not it decides in this run."""
        records = self._records(unit)
        pairs = zip(records["ordinal"].to_pylist(), records["sha256"].to_pylist(), strict=True)
        return {ordinal: digest for ordinal, digest in pairs if digest is not None}
