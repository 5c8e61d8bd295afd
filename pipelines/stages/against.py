"""Rows that earlier outputs already have: `--against`.

A finished output has the keys of the rows that passed its filters: their uids, digests of their
pairs and of the bytes of their images, and perceptual hashes if its preset asked for them. They are
copied into this run's OUTPUT, in ranges like those of `dedup`, so that no earlier image is read and
an output can be verified after the earlier one has gone. Then the rows that this run's filters keep
are looked up, range by range. What is found only annotates the rows; `AgainstFilter` decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from open_diht.common.command_line import WrongUse
from open_diht.common.naming import listing
from open_diht.common.spelling import spelled_option
from open_diht.filters import copies
from open_diht.filters.cascade import NO_REASON, Reasons, Step
from open_diht.filters.columns import ColumnCondition
from open_diht.filters.decontamination import MOST_BITS
from open_diht.filters.earlier import BYTES, DUPLICATE_EARLIER, EVIDENCE, NEAR, PAIR, PIXELS, UID
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.engine.work import Work
from open_diht.pipelines.manifests.outputs import plan_of, root_of
from open_diht.pipelines.manifests.plan import Plan, load_plan
from open_diht.pipelines.report.funnel import ComparedEarlier, FunnelRecord
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.annotator import DuplicateFiles, Made, RunStage
from open_diht.pipelines.stages.decontamination import IMAGE_HASHES
from open_diht.pipelines.stages.dedup import findings
from open_diht.pipelines.stages.dedup.deduplication import MEMORY
from open_diht.pipelines.stages.dedup.exact import duplicates, ranges_of
from open_diht.pipelines.stages.dedup.exact_stages import KeyStage, keys_stage, read_keys
from open_diht.pipelines.stages.dedup.findings import (
    Entries,
    duplicates_stage,
    part_name,
    write_entries,
)
from open_diht.pipelines.stages.images import DOWNLOAD, images_at_hand
from open_diht.pipelines.stages.keys import (
    ENTRIES,
    PARTS,
    Halves,
    halves_of_digests,
    halves_of_uids,
    key_parts,
    key_records,
    uid_of,
)
from open_diht.pipelines.stages.score.stored import stored_rows
from open_diht.pipelines.stages.slices import pack
from open_diht.pipelines.store.commit import RunFailed, publish_bytes, publish_table, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import (
    CommitRecord,
    Fingerprints,
    Vouched,
    caption_record,
    fingerprint_of,
)
from open_diht.pipelines.store.shapes import read_record
from open_diht.pipelines.store.storage import StorePath, each, is_local, read_table, stamps

AGAINST = "against"
"""Name of the stage. `--against` asks for it, not STAGES."""
OWN = "against_keys"
IMPORTED = "against_earlier"
VERSION = 1
"""Increase it when equal rows may be compared differently."""
_STORED_BY = {PAIR: keys_stage(findings.PAIR), BYTES: keys_stage(findings.IMAGE)}
"""The stages of an earlier run whose files have the keys of a kind. Those of uids are the pairs'
cited values."""
_HASHES = pa.schema([("uid", pa.string()), ("hashes", pa.binary())])


def range_stage(kind: str) -> str:
    """Return the name of the stage that looks up the keys of a kind, or near copies."""
    return duplicates_stage(f"{AGAINST}_{kind}")


# ---- earlier outputs


@dataclass(frozen=True)
class Earlier:
    """An earlier output, and the units whose keys it has."""

    name: str
    layout: Layout
    units: tuple[str, ...]
    identity: str
    """A hash that changes with its keys."""
    keyed: bool
    """Whether it has keys of the bytes of images next to their hashes, which may be of fewer
    rows."""


def find_earlier(names: Sequence[str], root: StorePath, kinds: Sequence[str]) -> list[Earlier]:
    """Return the earlier outputs that --against or a preset names. `root` is the output of this
    run, and `kinds` are compared. Raise WrongUse, in one line, if one is not finished, or lacks the
    keys of a kind."""
    found: list[Earlier] = []
    for name in names:
        where = spelled_option(AGAINST, name)
        if not name:
            raise WrongUse(
                f"{spelled_option(AGAINST, ','.join(names))}: one of the names is empty; name the"
                " OUTPUT of each earlier run, separated by commas"
            )
        try:
            layout = Layout(_absolute(root_of(name)))
            plan = plan_of(layout)
        except WrongUse as error:
            raise WrongUse(f"{where}: {error}") from error
        if layout.root == _absolute(root):
            raise WrongUse(f"{where} is the OUTPUT of this run; name earlier ones")
        if layout.root in [one.layout.root for one in found]:
            raise WrongUse(f"{where} is named twice; name each earlier output once")
        found.append(_earlier(name, layout, plan, kinds))
    return found


def _absolute(root: StorePath) -> StorePath:
    """Return the path of an output as workers with other working folders find it."""
    return root.resolve() if is_local(root) else root


def _earlier(name: str, layout: Layout, plan: Plan, kinds: Sequence[str]) -> Earlier:
    where = spelled_option(AGAINST, name)
    funnel = read_record(layout.root / "funnel.json", FunnelRecord)
    if funnel is None:
        raise WrongUse(
            f"{where}: its run has not finished (there is no funnel.json); finish it with the same"
            " command first"
        )
    units = tuple(unit.name for unit in plan.units if unit.name not in funnel["set_aside"])
    pairs = _records(layout, _STORED_BY[PAIR], units)
    if not pairs:
        raise WrongUse(
            f"{where}: keys of its rows are missing or have changed; run its command again, which"
            " makes them from its annotations"
        )
    images = _records(layout, _STORED_BY[BYTES], units) if BYTES in kinds else []
    hashed = sorted(stamps(layout.commits(IMAGE_HASHES), ".json")) if BYTES in kinds else []
    hashes = _records(layout, IMAGE_HASHES, hashed)
    if sum(record["images"] for record in hashes) < sum(record["rows"] for record in pairs):
        hashes = []  # a run with another preset has let more rows pass, and hashed none of them
    if PIXELS in kinds and not hashes:
        raise WrongUse(
            f"{where} has no hashes of its images, or they have changed; run its command again"
            " with against.images: pixels or near in its preset, or set it to bytes in this one"
        )
    if BYTES in kinds and not images and not hashes:
        raise WrongUse(
            f"{where} has no keys of its images, or they have changed; run its command again with"
            " stage spotting or dedup.images, or set against.images of this preset to none"
        )
    state = [
        [[record["fingerprint"], record.get("images")] for record in some]
        for some in (pairs, images, hashes)
    ]
    return Earlier(name, layout, units, fingerprint_of(name, units, state), bool(images))


def _records(layout: Layout, stage: str, units: Sequence[str]) -> list[CommitRecord]:
    """Return the commit records of units of a stage, or none if one of them is missing, its files
    are not intact, or a run that has not finished has begun to replace them."""
    vouched = Vouched(layout)
    paths = [layout.commit(stage, unit) for unit in units]
    records = list(each(vouched.current, paths, layout.root))
    if not all(records):
        return []
    if stage == IMAGE_HASHES:  # it has one fingerprint for all units
        return records
    last: Mapping[str, str] = read_json(layout.fingerprints(stage)) or {}
    current = all(record["fingerprint"] == last.get(record["unit"]) for record in records)
    return records if current else []


def _hashes_of(layout: Layout, plan: Plan, unit: str) -> pa.Table:
    return stored_rows(layout, IMAGE_HASHES, plan, unit, ["ordinal", "sha256", "pixels", "hashes"])


def imported_fingerprint(kinds: Sequence[str], identities: Sequence[str]) -> str:
    """Return the fingerprint of the keys that are copied from outputs with these identities."""
    return fingerprint_of(VERSION, list(kinds), list(identities))


# ---- passes


def _publish_keys(path: StorePath, records: NDArray[np.void]) -> StorePath:
    publish_bytes(path, pack(records, key_parts(records), PARTS))
    return path


def _check_intact(layout: Layout, stage: str, unit: str) -> None:
    """Raise RuntimeError if a file of keys is not the one that its run has published."""
    path = layout.slices(stage, unit)
    record: CommitRecord | None = read_json(layout.commit(stage, unit))
    known = (record or {}).get("hashes", {}).values()
    if known and hashlib.sha256(path.read_bytes()).hexdigest() not in known:
        raise RuntimeError(
            f"{path} has been damaged; remove {layout.commit(stage, unit)} and run the command of"
            f" {layout.root} again"
        )


def _keys_of_images(
    stored: pa.Table, kind: str, ordinals: NDArray[np.int64], uids: Halves
) -> NDArray[np.void]:
    """Return the keys of the bytes or pixels of those rows (n,) of which they are stored.
    `ordinals` ascend."""
    rows, places = _of_rows(stored, {BYTES: "sha256", PIXELS: "pixels"}[kind], ordinals)
    return key_records(halves_of_digests(rows.to_pylist()), ordinals[places], uids[places])


def _of_rows(
    stored: pa.Table, column: str, ordinals: NDArray[np.int64]
) -> tuple[pa.ChunkedArray, NDArray[np.int64]]:
    """Return the values of a column that are not null, for some rows, and the places of their rows
    in `ordinals`, which ascend."""
    asked = pc.is_in(stored["ordinal"], value_set=pa.array(ordinals))
    rows = stored.filter(pc.and_(asked, pc.is_valid(stored[column])))
    return rows[column], np.searchsorted(ordinals, np.asarray(rows["ordinal"]))


@dataclass
class ImportStage(Stage):
    """A `Stage` that copies the keys of a unit of an earlier output. The names of its own units
    begin with the number of that output and a hyphen."""

    layout: Layout
    outputs: tuple[Earlier, ...]
    kinds: tuple[str, ...]
    fingerprint: str
    name: str = field(default=IMPORTED, init=False)
    part_of = AGAINST

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        number, _, earlier_unit = unit.partition("-")
        output = self.outputs[int(number)]
        layout = output.layout
        _check_intact(layout, _STORED_BY[PAIR], earlier_unit)
        pairs = read_keys(layout.slices(_STORED_BY[PAIR], earlier_unit))
        pairs = pairs[np.argsort(pairs["ordinal"], kind="stable")]
        ordinals = pairs["ordinal"].astype(np.int64)
        uids = np.stack([pairs["cited_high"], pairs["cited_low"]], axis=1)
        stored = None
        if PIXELS in self.kinds or (BYTES in self.kinds and not output.keyed):
            stored = _hashes_of(layout, self._plans[int(number)], earlier_unit)
            if not np.isin(ordinals, stored["ordinal"]).all():
                raise RuntimeError(
                    f"{layout.root} has hashes of some of its images only; run its command again"
                    " with against.images: near in its preset, or set it to bytes or none in this"
                )
        files = []
        for kind in self.kinds:
            path = self.layout.slices(self.name, f"{unit}-{kind}")
            if kind == UID:
                files.append(_publish_keys(path, key_records(uids, ordinals, uids)))
            elif kind == NEAR:
                hashes, places = _of_rows(stored, "hashes", ordinals)
                names = [uid_of(*halves) for halves in uids[places].tolist()]
                path = self.layout.data(self.name, f"{unit}-{kind}")
                publish_table(path, pa.table([names, hashes], schema=_HASHES))
                files.append(path)
            elif kind == PIXELS or (kind == BYTES and not output.keyed):
                files.append(_publish_keys(path, _keys_of_images(stored, kind, ordinals, uids)))
            else:
                _check_intact(layout, _STORED_BY[kind], earlier_unit)
                keys = read_keys(layout.slices(_STORED_BY[kind], earlier_unit))
                # The keys of images may be of a run whose filters kept other rows.
                keys = keys[np.isin(keys["ordinal"], pairs["ordinal"])]
                files.append(_publish_keys(path, keys))
        return {"rows": len(pairs)}, files

    @cached_property
    def _plans(self) -> list[Plan]:
        return [load_plan(one.layout.plan) for one in self.outputs]


@dataclass
class OwnKeysStage(KeyStage):
    """A `Stage` that writes the keys of all kinds of the rows of a unit that the filters keep."""

    kinds: tuple[str, ...] = ()
    part_of = AGAINST

    def __post_init__(self) -> None:
        self.name = OWN

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        record = caption_record(self.layout, unit)
        rows = self.survivors(unit)
        ordinals = rows.ordinals
        uids = halves_of_uids(rows.uids)
        stored = _hashes_of(self.layout, self._plan, unit) if PIXELS in self.kinds else None
        if stored is None:
            asked = ordinals.tolist() if BYTES in self.kinds else [*rows.bare]
            digests = self.digests(unit, asked)
        else:
            values, places = _of_rows(stored, "sha256", ordinals)
            digests = dict(zip(ordinals[places].tolist(), values.to_pylist(), strict=True))
        read = np.array([ordinal in digests for ordinal in ordinals.tolist()], bool)
        files = []
        for kind in self.kinds:
            if kind == UID:
                # A uid that was made from a row says what its pair says, or less without a URL. It
                # was made in another run if the manifest is the result of one.
                own = rows.own_uids if record["own_uids"] else np.zeros(len(ordinals), bool)
                keys = key_records(uids[own], ordinals[own], uids[own])
            elif kind == PAIR:
                # A unit of the earlier output may have the same name.
                keys = key_records(rows.keys(f"{AGAINST} {unit}", digests), ordinals, uids)
            elif kind == BYTES:
                seen = halves_of_digests([digests[one] for one in ordinals[read].tolist()])
                keys = key_records(seen, ordinals[read], uids[read])
            elif kind == PIXELS:
                keys = _keys_of_images(stored, kind, ordinals, uids)
            else:
                continue  # near copies are looked up by the stored hashes themselves
            files.append(_publish_keys(self.layout.slices(self.name, f"{unit}-{kind}"), keys))
        return {"rows": len(ordinals)}, files


@dataclass
class LookUpStage(Stage):
    """A `Stage` whose units are ranges of keys of a kind. Each looks the keys of this run's units
    up among those of the earlier ones."""

    layout: Layout
    kind: str
    ranges: int
    earlier: tuple[str, ...]
    """The imported units."""
    skip: frozenset[str]
    """Quarantined units."""
    fingerprint: str
    part_of = AGAINST

    def __post_init__(self) -> None:
        self.name = range_stage(self.kind)

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        count = write_entries(self.layout.data(self.name, unit), self.found(int(unit)))
        return {"rows": count}, [self.layout.data(self.name, unit)]

    def found(self, number: int) -> Iterator[pa.Table]:
        """Yield the rows whose keys are in a range and earlier, as tables of `ENTRIES` sorted by
        unit and ordinal. `first_unit` is the number of the earlier output."""
        outputs = np.array([int(name.partition("-")[0]) for name in self.earlier], np.int32)
        for table in duplicates(self._slices(number)):
            unit = np.asarray(table["unit"])
            first = np.asarray(table["first_unit"])
            mine = np.flatnonzero((unit >= len(outputs)) & (first < len(outputs)))
            if len(mine):
                columns = {name: table[name].take(pa.array(mine)) for name in ENTRIES.names}
                columns["unit"] = unit[mine] - len(outputs)
                columns["first_unit"] = outputs[first[mine]]
                yield pa.table(columns, schema=ENTRIES)

    def _slices(self, number: int) -> Iterator[tuple[int, NDArray[np.void]]]:
        """Yield the keys of the range: those of the earlier units, then those of this run's."""
        width = PARTS // self.ranges
        first = number * width
        for place, name in enumerate(self.earlier):
            path = self.layout.slices(IMPORTED, f"{name}-{self.kind}")
            yield place, read_keys(path, first, first + width)
        for place, unit in enumerate(self._plan.units):
            if unit.name not in self.skip:
                path = self.layout.slices(OWN, f"{unit.name}-{self.kind}")
                yield len(self.earlier) + place, read_keys(path, first, first + width)


@dataclass
class NearStage(Stage):
    """A `Stage` over caption units that finds the nearest earlier image of each row, by its hashes.
    Those of all earlier images are in memory."""

    layout: Layout
    earlier: tuple[str, ...]
    fingerprint: Fingerprints
    name: str = field(default=range_stage(NEAR), init=False)
    part_of = AGAINST

    def setup(self) -> None:
        tables = [read_table(self.layout.data(IMPORTED, f"{name}-{NEAR}")) for name in self.earlier]
        outputs = [int(name.partition("-")[0]) for name in self.earlier]
        self._outputs = np.repeat(outputs, [table.num_rows for table in tables])
        known = pa.concat_tables([_HASHES.empty_table(), *tables])
        self._uids = known["uid"]
        looks = _looks(known["hashes"])["bits"]
        seen = looks.any(axis=2)  # a view in which there is too little to see has no bit
        self._index = copies.HashIndex(looks[seen], np.nonzero(seen)[0])

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        table = self.found(unit)
        path = self.layout.data(self.name, unit)
        publish_table(path, table)
        return {"rows": table.num_rows}, [path]

    def found(self, unit: str) -> pa.Table:
        """Return the rows of a unit that are near an earlier image, as a table of `ENTRIES`.
        `first_unit` is the number of the earlier output, `similarity` the bits that differ."""
        rows = _hashes_of(self.layout, self._plan, unit)
        rows = rows.filter(pc.is_valid(rows["hashes"]))
        image, bits = self._index.nearest(_looks(rows["hashes"]), MOST_BITS)
        found = np.flatnonzero(image >= 0)
        columns = [
            np.full(len(found), self._plan.number(unit), np.int32),
            rows["ordinal"].take(pa.array(found)),
            self._outputs[image[found]].astype(np.int32),
            pa.nulls(len(found), pa.int64()),
            self._uids.take(pa.array(image[found])),
            bits[found].astype(np.float32),
        ]
        return pa.table(columns, schema=ENTRIES)


def _looks(hashes: pa.ChunkedArray) -> NDArray[np.void]:
    """Return stored hashes as an array (n, views) of dtype `copies.HASH`."""
    return np.frombuffer(b"".join(hashes.to_pylist()), copies.HASH).reshape(-1, copies.VIEWS)


# ---- the decision


@dataclass(frozen=True)
class AgainstFilter:
    """A `DecidesByNumbers` filter that rejects rows of earlier outputs, and exposes the
    evidence."""

    layout: Layout
    outputs: tuple[str, ...]
    """The names of the earlier outputs."""
    files: tuple[DuplicateFiles, ...]
    """The files of what was found, by kind, in the order in which it counts."""
    distance: int | None
    """Most differing bits of near copies, or None if these were not looked for."""
    fingerprint: str
    conditions: Sequence[ColumnCondition] = ()
    _last: dict[str, pa.Table] = field(default_factory=dict, compare=False, repr=False)

    @property
    def steps(self) -> Sequence[Step]:
        what = f"An earlier output has the same row: {listing(list(self.outputs))}."
        return [Step(AGAINST, DUPLICATE_EARLIER, what, always=True)]

    def reasons(self, layout: Layout, unit: str, rows: pa.Table) -> Reasons:
        return self.reasons_of(self.measured(layout, unit, rows))

    def reasons_of(self, values: pa.Table) -> Reasons:
        reasons: Reasons = np.full(values.num_rows, NO_REASON, object)
        reasons[np.asarray(pc.is_valid(values["earlier_uid"]))] = DUPLICATE_EARLIER
        return reasons

    def measured(self, layout: Layout, unit: str, rows: pa.Table) -> pa.Table:
        if unit not in self._last:
            self._last.clear()
            self._last[unit] = self._found(unit)
        known = self._last[unit]
        places = pc.index_in(rows["ordinal"], value_set=known["ordinal"].combine_chunks())
        return known.drop_columns("ordinal").take(places)

    def _found(self, unit: str) -> pa.Table:
        """Return the evidence of the rows of a unit that were found, by ordinal."""
        number = self._plan.number(unit)
        tables = [(one.kind, self._entries.of(one, number)) for one in self.files]
        if self.distance is not None:
            near = read_table(self.layout.data(range_stage(NEAR), unit))
            tables.append((NEAR, near.filter(pc.less_equal(near["similarity"], self.distance))))
        columns: dict[str, list[object]] = {name: [] for name in ("ordinal", *EVIDENCE.names)}
        known = set[int]()
        for kind, table in tables:
            how = kind.removeprefix(f"{AGAINST}_")
            for row in table.to_pylist():
                if row["ordinal"] not in known:
                    known.add(row["ordinal"])
                    found = (
                        row["ordinal"],
                        self.outputs[row["first_unit"]],
                        row["duplicate_of"],
                        how,
                        row["similarity"] or 0.0,
                    )
                    for name, value in zip(columns, found, strict=True):
                        columns[name].append(value)
        return pa.table(columns, schema=pa.schema([("ordinal", pa.int64()), *EVIDENCE]))

    @cached_property
    def _plan(self) -> Plan:
        return load_plan(self.layout.plan)

    @cached_property
    def _entries(self) -> Entries:
        return Entries(self.layout)

    def __getstate__(self) -> dict[str, object]:
        fields = {name: one for name, one in self.__dict__.items() if not name.startswith("_")}
        return {**fields, "_last": {}}


# ---- the run


class Against(RunStage):
    """The comparison with earlier outputs on the driver."""

    name = AGAINST
    opens_paths = opens_loose = False

    @classmethod
    def runs(cls, settings: RunSettings) -> bool:
        return bool(settings.earlier)

    @classmethod
    def check(cls, settings: RunSettings, plan: Plan | None, say: Callable[[str], None]) -> None:
        """Check before the first unit that each earlier output has the keys."""
        if cls.runs(settings):
            kinds = (UID, PAIR) if plan is None else _kinds(settings, plan)
            find_earlier(settings.earlier, settings.output, kinds)

    @classmethod
    def contribute(cls, made: Made) -> None:
        """Look all rows up that the filters keep, and add the filter of those that are found."""
        if not cls.runs(made.settings):
            return
        found = _compare(made)
        made.filters = (*made.filters, found)
        made.states = {
            unit: fingerprint_of(state, found.fingerprint) for unit, state in made.states.items()
        }

    @classmethod
    def count(cls, made: Made, funnel: FunnelRecord) -> None:
        if about := made.work.models.get(AGAINST):
            funnel["earlier"] = cast(ComparedEarlier, about)


def _kinds(settings: RunSettings, plan: Plan) -> tuple[str, ...]:
    """Return what is compared: uids and pairs, and images where there are any."""
    return settings.preset.against.kinds if _with_images(settings, plan) else (UID, PAIR)


def _with_images(settings: RunSettings, plan: Plan) -> bool:
    return images_at_hand(Layout(settings.output), plan.images or DOWNLOAD in settings.stages)


def _found_again(settings: RunSettings, kinds: Sequence[str]) -> tuple[Earlier, ...]:
    """Return the earlier outputs, which were intact when the run began."""
    try:
        return tuple(find_earlier(settings.earlier, settings.output, kinds))
    except WrongUse as error:
        raise RunFailed(
            f"{error}; committed work is kept. Then run the same command to resume"
        ) from error


def _compare(made: Made) -> AgainstFilter:
    settings = made.settings
    work = made.work
    layout = work.layout
    rule = settings.preset.against
    kinds = _kinds(settings, work.plan)
    outputs = _found_again(settings, kinds)
    earlier = tuple(
        f"{number:04d}-{unit}" for number, one in enumerate(outputs) for unit in one.units
    )
    identities = imported_fingerprint(kinds, [one.identity for one in outputs])
    work.complete(ImportStage(layout, outputs, kinds, identities), earlier, quiet=True, fatal=True)
    if [one.identity for one in _found_again(settings, kinds)] != [one.identity for one in outputs]:
        raise RunFailed(
            f"{spelled_option(AGAINST, ','.join(settings.earlier))} has changed while its keys were"
            " copied; run the same command to resume once no run is at work there"
        )
    known = {unit: fingerprint_of(VERSION, kinds, state) for unit, state in made.states.items()}
    keys = OwnKeysStage(
        layout,
        settings.dataset,
        settings.preset,
        settings.stages,
        findings.PAIR,
        (),
        _with_images(settings, work.plan),
        Fingerprints.published(layout, OWN, known),
        made.filters,
        kinds=kinds,
    )
    work.complete(keys, work.alive(known), quiet=True)
    names = work.alive(known)
    everything = fingerprint_of(identities, [known[unit] for unit in names])
    compared = work.total(OWN, names)
    rows = compared + work.total(IMPORTED, earlier)
    ranges = ranges_of(rows, MEMORY)
    skip = frozenset(work.quarantined)
    files = []
    for kind in kinds:
        if kind == NEAR:
            continue
        stage = LookUpStage(layout, kind, ranges, earlier, skip, fingerprint_of(everything, ranges))
        work.complete(stage, [part_name(one) for one in range(ranges)], quiet=True, fatal=True)
        files.append(DuplicateFiles(f"{AGAINST}_{kind}", ranges, rejects=True))
    if NEAR in kinds:
        _find_near(work, earlier, {unit: fingerprint_of(identities, known[unit]) for unit in names})
    work.models[AGAINST] = {
        "outputs": [{"name": one.name, "identity": one.identity} for one in outputs],
        "kinds": list(kinds),
        "distance": rule.distance if NEAR in kinds else None,
        "ranges": ranges,
        "compared": compared,
        "earlier_rows": rows - compared,
    }
    return AgainstFilter(
        layout,
        tuple(one.name for one in outputs),
        tuple(files),
        rule.distance if NEAR in kinds else None,
        fingerprint_of(everything, rule.distance),
    )


def _find_near(work: Work, earlier: tuple[str, ...], known: Mapping[str, str]) -> None:
    published = Fingerprints.published(work.layout, range_stage(NEAR), known)
    work.complete(NearStage(work.layout, earlier, published), list(known), quiet=True)
