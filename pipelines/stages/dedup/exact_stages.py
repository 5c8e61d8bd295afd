"""Stages that find exact duplicates: they write each unit's keys, then compare ranges of all keys.

Pairs come first, then images. Each kind covers only rows that nothing has rejected before, so that
no rejected row replaces one that stays. Whether a uid belongs to one pair is checked over all rows,
since a subset names rows by uid alone.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from open_diht.filters.cascade import StageFilter
from open_diht.filters.presets import Preset
from open_diht.filters.several_captions import OTHER_CAPTIONS, OTHERS, captions_of
from open_diht.pipelines.datasets import Dataset
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.manifests import MissingImage, UnreadableFile, make_uid
from open_diht.pipelines.stages.annotator import DuplicateFiles
from open_diht.pipelines.stages.dedup.exact import duplicates, shared
from open_diht.pipelines.stages.dedup.findings import (
    IMAGE,
    PAIR,
    UID,
    Entries,
    duplicates_stage,
    write_entries,
)
from open_diht.pipelines.stages.image_records import decided_rows
from open_diht.pipelines.stages.images import images_of
from open_diht.pipelines.stages.keys import (
    KEY,
    PARTS,
    Halves,
    halves_of_digests,
    halves_of_uids,
    key_parts,
    key_records,
    spread,
)
from open_diht.pipelines.stages.rows import ROW
from open_diht.pipelines.stages.segments import WantedRows
from open_diht.pipelines.stages.slices import pack, read_slice
from open_diht.pipelines.stages.spotting import load_records
from open_diht.pipelines.store.commit import publish_bytes, read_json
from open_diht.pipelines.store.layout import Layout, image_unit_name
from open_diht.pipelines.store.records import CommitRecord, Fingerprints
from open_diht.pipelines.store.storage import StorePath, read_range, row_groups


def keys_stage(kind: str) -> str:
    """Return the name of the stage that writes the keys of a kind."""
    return f"{kind}_keys"


@dataclass(frozen=True)
class Competitors:
    """The rows of a unit that nothing has rejected so far, ordinals ascending."""

    ordinals: NDArray[np.int64]
    uids: Halves


def competitors(
    layout: Layout, unit: str, number: int, before: tuple[DuplicateFiles, ...], entries: Entries
) -> Competitors:
    """Return the survivors of the filters, without the duplicates of kinds in `before` that
    reject."""
    records = read_keys(layout.slices(keys_stage(PAIR), unit))
    records = records[np.argsort(records["ordinal"], kind="stable")]
    for files in before:
        if files.rejects:
            records = records[
                ~np.isin(records["ordinal"], np.asarray(entries.of(files, number)["ordinal"]))
            ]
    uids = np.stack([records["cited_high"], records["cited_low"]], axis=1)
    return Competitors(records["ordinal"].astype(np.int64), uids)


class Pairs:
    """Digests that tell the pairs of a unit apart, without their captions, which may be long."""

    def __init__(self) -> None:
        self._ordinals: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
        self.uids: list[str] = []
        self.pairs: list[bytes] = []
        self.bare: dict[int, tuple[int, bytes]] = {}
        """Rows without URL, by ordinal: their index and the digest of their caption."""
        self._nameless: dict[int, str] = {}
        """The uids that rows have without URL, stand-in and id, by index."""

    @property
    def ordinals(self) -> NDArray[np.int64]:
        return np.concatenate(self._ordinals)

    def add(self, rows: pa.Table) -> None:
        """Add rows of `ROW`, with the column `OTHERS` if rows may have several captions."""
        ordinals = np.asarray(rows["ordinal"]).astype(np.int64)
        bare = np.flatnonzero(~np.asarray(rows["has_url"], bool))
        for place, caption in zip(
            bare.tolist(), captions_of(rows.take(pa.array(bare))), strict=True
        ):
            digest = hashlib.sha256(caption.encode()).digest()
            self._nameless[len(self.pairs) + place] = make_uid(url=None, caption=caption)
            self.bare[int(ordinals[place])] = len(self.pairs) + place, digest
        self._ordinals.append(ordinals)
        self.uids += rows["uid"].to_pylist()
        self.pairs += rows["pair"].to_pylist()

    @property
    def own_uids(self) -> NDArray[np.bool_]:
        """Return whether the uid of each row (n,) was not made from its caption and image name."""
        made = [
            self._nameless.get(place) if pair is None else pair.hex()
            for place, pair in enumerate(self.pairs)
        ]
        return np.array([uid != one for uid, one in zip(self.uids, made, strict=True)], bool)

    def keys(self, unit: str, digests: Mapping[int, bytes]) -> Halves:
        """Return keys that equal pairs share. A row without URL is identified by the bytes of its
        image if they were read, and otherwise by the image's stand-in. A row without URL, bytes and
        stand-in equals no other row.
        """
        pairs = list(self.pairs)
        for ordinal, (place, caption) in self.bare.items():
            if ordinal in digests:
                pairs[place] = hashlib.sha256(digests[ordinal] + caption).digest()
            elif pairs[place] is None:
                pairs[place] = hashlib.sha256(f"{unit} {ordinal}".encode()).digest()
        return halves_of_digests(pairs)


def read_keys(path: StorePath, first: int = 0, stop: int = PARTS) -> NDArray[np.void]:
    """Return the keys of parts [first, stop) of a unit's file of keys, of dtype `KEY`."""
    return read_slice(partial(read_range, path), KEY, PARTS, first, stop, str(path))


@dataclass
class KeyStage(Stage):
    """A `Stage` that writes a unit's keys: pairs or image bytes of its survivors, or uids of all
    its rows."""

    layout: Layout
    dataset: Dataset
    preset: Preset
    stages: tuple[str, ...]
    """The requested stages."""
    kind: str
    before: tuple[DuplicateFiles, ...]
    """The kinds that were compared before, in order."""
    read_missing: bool
    """Whether to read images whose digest is not known yet."""
    fingerprint: Fingerprints
    """Fingerprint of each unit. It changes with the survivors and with the findings of earlier
    kinds that reject."""
    own: tuple[StageFilter, ...] = ()
    """Filters that stages bring: `score`, decontamination and plugins."""
    part_of = "dedup"

    def __post_init__(self) -> None:
        self.name = keys_stage(self.kind)

    def setup(self) -> None:
        self._entries = Entries(self.layout)

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        of_kind = {PAIR: self._of_pairs, IMAGE: self._of_images, UID: self._of_uids}
        records = of_kind[self.kind](unit)
        publish_bytes(self.layout.slices(self.name, unit), pack(records, key_parts(records), PARTS))
        return {"rows": len(records)}, [self.layout.slices(self.name, unit)]

    def _of_pairs(self, unit: str) -> NDArray[np.void]:
        kept = self.survivors(unit)
        keys = kept.keys(unit, self.digests(unit, list(kept.bare)))
        return key_records(keys, kept.ordinals, halves_of_uids(kept.uids))

    def survivors(self, unit: str) -> Pairs:
        """Return the rows of a unit that the filters keep."""
        kept = Pairs()
        units = self._image_units(unit)
        for read, decisions in decided_rows(
            self.layout, unit, units, self.preset, self.stages, self.own
        ):
            rows = read.select([name for name in (*ROW.names, OTHERS) if name in read.column_names])
            kept.add(rows.filter(pa.array(decisions.passed)))
        return kept

    def _of_uids(self, unit: str) -> NDArray[np.void]:
        every = Pairs()
        for rows in row_groups(self.layout.data("captions", unit), [*ROW.names, OTHER_CAPTIONS]):
            every.add(rows)
        digests = (
            self.digests(unit, self._spotted(unit))
            if every.bare and "spotting" in self.stages
            else {}
        )
        pairs = spread(every.keys(unit, digests))
        # The survivors alone; their images were read if needed.
        known = read_keys(self.layout.slices(keys_stage(PAIR), unit))
        places = np.searchsorted(every.ordinals, known["ordinal"])
        pairs[places] = np.stack([known["high"], known["low"]], axis=1)
        return key_records(halves_of_uids(every.uids), every.ordinals, pairs)

    def _spotted(self, unit: str) -> list[int]:
        """Return the ordinals of the rows whose images this run's stage `spotting` reads."""
        wanted = WantedRows(self.preset, "captions" in self.stages, annotations="")
        names = [image_unit_name(unit, number) for number in self._image_units(unit)]
        rows = [
            wanted.ordinals(self.layout, name, self._plan.image_rows).tolist() for name in names
        ]
        return [ordinal for some in rows for ordinal in some]

    def _of_images(self, unit: str) -> NDArray[np.void]:
        rows = competitors(self.layout, unit, self._plan.number(unit), self.before, self._entries)
        digests = self.digests(unit, rows.ordinals.tolist())
        have = np.array([ordinal in digests for ordinal in rows.ordinals.tolist()], bool)
        rows = Competitors(rows.ordinals[have], rows.uids[have])
        keys = halves_of_digests([digests[ordinal] for ordinal in rows.ordinals.tolist()])
        return key_records(keys, rows.ordinals, rows.uids)

    def _image_units(self, unit: str) -> range:
        read = read_json(self.layout.commit("captions", unit))
        return self._plan.image_units(read)

    def digests(self, unit: str, ordinals: list[int]) -> dict[int, bytes]:
        """Return the SHA-256 of these rows' images, by ordinal, as far as they are known. With
        `read_missing`, read the other images. An image is known if this run's stage `spotting` has
        read it. Records of earlier runs are not used, because they may be of other files, as below
        another --images-root."""
        digests: dict[int, bytes] = {}
        if ordinals and "spotting" in self.stages:
            records = load_records(self.layout, unit, self._image_units(unit))
            records = records.filter(np.isin(np.asarray(records["ordinal"]), ordinals))
            pairs = zip(records["ordinal"].to_pylist(), records["sha256"].to_pylist(), strict=True)
            digests = {ordinal: digest for ordinal, digest in pairs if digest is not None}
        missing = [ordinal for ordinal in ordinals if ordinal not in digests]
        if missing and self.read_missing:
            digests |= dict(self._read_digests(unit, missing))
        return digests

    def _read_digests(self, unit: str, ordinals: list[int]) -> Iterator[tuple[int, bytes]]:
        plan = self._plan
        images = images_of(
            self.layout, unit, plan.span(unit), plan.image_rows, self.dataset, ordinals
        )
        try:
            for ordinal, image in images:
                if not isinstance(image, MissingImage):
                    yield ordinal, hashlib.sha256(image).digest()
        except UnreadableFile:
            # The other images cannot be compared; stage decide writes the dead letters.
            return


@dataclass
class RangeStage(Stage):
    """A `Stage` whose units are ranges of keys. Each unit reads its slice of every caption unit's
    keys."""

    layout: Layout
    kind: str
    ranges: int
    skip: frozenset[str]
    """Quarantined units."""
    fingerprint: str
    part_of = "dedup"

    def __post_init__(self) -> None:
        self.name = duplicates_stage(self.kind)

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        width = PARTS // self.ranges
        first = int(unit) * width
        stage = keys_stage(self.kind)
        names = [(number, planned.name) for number, planned in enumerate(self._plan.units)]
        slices = (
            (number, read_keys(self.layout.slices(stage, name), first, first + width))
            for number, name in names
            if name not in self.skip
        )
        found = (shared if self.kind == UID else duplicates)(slices)
        count = write_entries(self.layout.data(self.name, unit), found)
        return {"rows": count}, [self.layout.data(self.name, unit)]
