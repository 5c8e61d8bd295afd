"""Check the files of an output against its records, and the rows of each kind against each other, all by counting."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, NotRequired, TypedDict

import numpy as np
import pyarrow as pa

from open_diht.common.files import sha256_file
from open_diht.common.naming import counted
from open_diht.common.shard_index import BadIndex, Shard, caption_hash, scan
from open_diht.common.stores import many_at_once
from open_diht.pipelines.driver.conservation import Damaged, NotConserved, check_captions, readable
from open_diht.pipelines.driver.publish import is_of_the_user
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.stages.captions import CaptionRecord
from open_diht.pipelines.stages.dedup.findings import PAIR, UID, DuplicateFiles, duplicates_stage, file_name
from open_diht.pipelines.stages.dedup.keys import uid_of
from open_diht.pipelines.stages.shards import ExportRecord, kept_rows
from open_diht.pipelines.stages.subset import subset_of
from open_diht.pipelines.stages.tally import DecideRecord
from open_diht.pipelines.stages.tar_indexes import kept_index, read_index, tars_of
from open_diht.pipelines.store.commit import CorruptRecord, read_json
from open_diht.pipelines.store.layout import CARD, KINDS, Layout
from open_diht.pipelines.store.records import fingerprint_of
from open_diht.pipelines.store.shapes import conforms
from open_diht.pipelines.store.storage import (
    StorePath,
    each,
    is_local,
    read_table,
    row_count,
    size_of,
    sizes,
    stamps,
)
from open_diht.pipelines.verify.findings import Findings

KEPT, REJECTED, DEAD = KINDS
UNWRITTEN = "unwritten"
"""The end of rows that could not be read when they were to be written, whatever was decided about them."""
_READ = (*KINDS, "work", "shards", "index", "funnel.json", "run.json", "subset.npy", CARD)
"""Files and folders of an output that are opened without a record that names them."""


def is_plain(name: object) -> bool:
    """Return whether a text is a name in a folder, and no path that leads elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\0"} & {*name}


class Vouching(TypedDict):
    """The fields of all records that name files."""

    files: NotRequired[dict[str, int]]
    hashes: NotRequired[dict[str, str]]
    shards: NotRequired[list[Shard]]


def irregular(root: StorePath) -> Iterator[tuple[StorePath, str]]:
    """Yield what would be opened in an output on a disk and is neither a regular file nor a folder, with the reason.
    Reading a pipe or a device may never end, and a link may lead to files of this machine that are not of the output.
    Links within the output are good."""
    if not is_local(root):
        return
    top = Path(os.path.realpath(root))
    folders = [top]
    while folders:
        folder = folders.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            if folder == top and entry.name not in _READ:
                continue
            path = Path(entry.path)
            if entry.is_symlink():
                real = Path(os.path.realpath(path))
                if not real.is_relative_to(top) or real.relative_to(top).parts[:1] not in {(name,) for name in _READ}:
                    yield root / path.relative_to(top), "is a link that leads out of the output"
                    continue
            try:
                mode = entry.stat().st_mode
            except FileNotFoundError:  # a broken link; the file is missing by its record
                continue
            if S_ISDIR(mode):
                folders += [path] if not entry.is_symlink() else []
            elif not S_ISREG(mode):
                yield root / path.relative_to(top), "is not a regular file"


class Structure:
    """The checks of files and counts of one output. `unit` comes before `check`."""

    def __init__(self, layout: Layout, plan: Plan, found: Findings):
        self.layout, self.plan, self.found = layout, plan, found
        self.funnel: Any = self.record(layout.root / "funnel.json", FunnelRecord)
        """The results, or None if they are missing or damaged."""
        there = stamps(layout.commits("decide"), ".json")
        failed = self.funnel["set_aside"] if self.funnel else {unit.name for unit in plan.units} - there.keys()
        names = [unit.name for unit in plan.units if unit.name in there or unit.name not in failed]
        records = each(lambda unit: self.record(layout.commit("decide", unit), DecideRecord), names, layout.root)
        self.decided: dict[str, dict[str, Any]] = {
            unit: {key: record.get(key) for key in ("fingerprint", "kept", "rejected", "dead")}
            for unit, record in zip(names, records, strict=True)
            if record
        }
        """Parts of the `decide` record of each decided unit, in the order of the plan; there may be many units."""
        if not self.funnel:
            what = f"no run has finished: {len(self.decided):,} of {counted(len(plan.units), 'unit')} are decided"
            found.differ("structure", layout.root, f"{what}; the same command of the run resumes it")

    def record(self, path: StorePath, kind: Any = dict[str, object]) -> Any:
        """Return a JSON object of a type. Report a file that is missing or holds something else, and return None."""
        try:
            record = read_json(path)
        except CorruptRecord:
            record = ""
        if conforms(record, kind):
            return record
        what = "is missing; the same command of the run writes it" if record is None else "is no record of this version"
        self.found.differ("structure", path, what)
        return None

    def check(self) -> None:
        """Make all checks but those of `unit`."""
        self._check_records()
        if self.funnel:
            self._check_counts(self.funnel)
            self._check_exports(self.funnel)

    # ---- files against records

    def _check_records(self) -> None:
        layout, records, files, hashed = self.layout, 0, 0, 0
        paths = [path for path in (layout.root / "funnel.json", layout.exported) if size_of(path) is not None]
        for stage in sorted(path.name for path in layout.work.iterdir()):
            paths += [layout.commit(stage, name) for name in sorted(stamps(layout.commits(stage), ".json"))]
        for path, record in zip(paths, many_at_once(self._vouching, paths), strict=True):
            if record is None:
                continue
            if "files" not in record:
                self.found.skip(f"the files of {path}, which lists none")
                continue
            known = {f"shards/{one['shard']}": one["sha256"] for one in record.get("shards", ()) if "path" not in one}
            known |= record.get("hashes", {})
            there = {name: self._inside(path, name) for name in record["files"]}
            asked = [(file, record["files"][name], known.get(name)) for name, file in there.items() if file is not None]
            if path.name == "funnel.json" and is_of_the_user(layout.root / CARD):
                asked = [one for one in asked if one[0].name != CARD]
            for (file, *_), what in zip(asked, many_at_once(_differs, asked), strict=True):
                if what is not None:
                    self.found.differ("structure", file, what)
            records, files = records + 1, files + len(asked)
            hashed += sum(digest is not None for *_, digest in asked)
        what = f"{counted(files, 'file')} of {counted(records, 'record')} by size, {hashed:,} by SHA-256"
        self.found.checked.append(("structure", what))
        if hashed < files:
            self.found.skip(f"the content of {counted(files - hashed, 'file')} whose record has no SHA-256")

    def _vouching(self, path: StorePath) -> Any:
        return self.record(path, Vouching)

    def _inside(self, record: StorePath, name: str) -> StorePath | None:
        """Return the path of a file that a record names. Report a name that leads out of the output, and return None:
        its author may have written any name, and no other file is opened."""
        root = self.layout.root
        if "://" not in name and all(map(is_plain, name.split("/"))):
            path = root / name
            if not is_local(path) or Path(os.path.realpath(path)).is_relative_to(os.path.realpath(str(root))):
                return path
        self.found.differ("structure", record, f"names {name}, which is not in the output")
        return None

    # ---- rows

    def unit(self, unit: str) -> pa.Table | None:
        """Check the rows of a decided unit by their uids. Return those that were read: `ordinal`, ascending, `uid`, and
        `end`, one of `KINDS` or `UNWRITTEN`. Return None if a file is damaged."""
        layout, record = self.layout, self.decided[unit]
        captions = self.record(layout.commit("captions", unit), CaptionRecord)
        try:
            read = self._table(layout.data("captions", unit), "ordinal", "uid")
            chosen = self._table(layout.data("decide", unit), "ordinal")["ordinal"]
            kept = self._table(layout.part(KEPT, unit), "uid")["uid"].to_pylist()
            rejected = self._table(layout.part(REJECTED, unit), "uid", "reason")
            dead = self._table(layout.part(DEAD, unit), "ordinal", "stage")
            unread = self._table(layout.dead(unit), "ordinal")
        except Damaged as damaged:
            self.found.differ("structure", damaged.path, "cannot be read")
            return None
        if captions is None:
            return None
        dead = dead.filter(dead["ordinal"].is_valid())  # others are about the unit
        counts = {
            layout.data("captions", unit): (read.num_rows, captions["good"]),
            layout.dead(unit): (unread.num_rows, captions["dead"]),
            layout.part(KEPT, unit): (len(kept), record["kept"]),
            layout.part(REJECTED, unit): (Counter(rejected["reason"].to_pylist()), Counter(record["rejected"])),
            layout.part(DEAD, unit): (dead.num_rows, sum(record["dead"].values())),
            f"unit {unit}": (len(kept) + rejected.num_rows + dead.num_rows, captions["rows"]),
        }
        for path, (there, known) in counts.items():
            if there != known:
                there, known = (dict(one) if isinstance(one, Counter) else one for one in (there, known))
                self.found.differ("structure", path, f"rows: {there}, and {known} by its record")
        ordinals, ends = np.asarray(read["ordinal"]), np.full(read.num_rows, REJECTED, object)
        ends[np.isin(ordinals, chosen)] = KEPT
        for end, stage in ((DEAD, "spotting"), (UNWRITTEN, "manifest")):
            ends[np.isin(ordinals, [row["ordinal"] for row in dead.to_pylist() if row["stage"] == stage])] = end
        rows = pa.table({"ordinal": read["ordinal"], "uid": read["uid"], "end": pa.array(ends, pa.string())})
        for kind, uids in ((KEPT, kept), (REJECTED, rejected["uid"].to_pylist())):
            self._compare_uids(layout.part(kind, unit), uids, read["uid"].filter(pa.array(ends == kind)).to_pylist())
        return rows

    def _table(self, path: StorePath, *columns: str) -> pa.Table:
        try:
            return readable(lambda path: read_table(path, [*columns]), path)
        except FileNotFoundError:  # kinds without rows have no file; a missing one is found by its record
            types = {name: pa.int64() if name == "ordinal" else pa.string() for name in columns}
            return pa.table({name: pa.array([], kind) for name, kind in types.items()})

    def _compare_uids(self, path: StorePath, there: list[str], expected: list[str]) -> None:
        many, few = Counter(there) - Counter(expected), Counter(expected) - Counter(there)
        for uid in many:
            self.found.differ("structure", path, "is not there, or once less, by work/", uid)
        for uid in few:
            self.found.differ("structure", path, "is missing", uid)
        if there != expected and not many and not few:
            uid = next(one for one, other in zip(there, expected, strict=True) if one != other)
            self.found.differ("structure", path, "is out of order", uid)

    def _check_counts(self, funnel: Any) -> None:
        layout = self.layout
        for kind in KINDS:
            ours = {f"part-{unit}.parquet" for unit in self.decided} | {"part-unreadable.parquet"}
            for name in sizes(layout.root / kind):
                if name.endswith(".parquet") and name not in ours:
                    self.found.differ("structure", layout.root / kind / name, "belongs to no decided unit")
        current = self.record(layout.fingerprints("decide")) or {}
        for unit, record in self.decided.items():
            if record["fingerprint"] != current.get(unit):
                what = "was decided by another preset or other annotations than the last run has"
                self.found.differ("structure", layout.commit("decide", unit), what)
        broken, path = len(self.plan.unreadable) + len(funnel["set_aside"]), layout.part(DEAD, "unreadable")
        try:
            if (there := readable(row_count, path)) != broken:
                self.found.differ("structure", path, f"rows: {there}, and {broken} files or units were not processed")
        except Damaged:
            self.found.differ("structure", path, "cannot be read")
        reasons = sum((Counter(record["rejected"]) for record in self.decided.values()), Counter[str]())
        kept = sum(record["kept"] for record in self.decided.values())
        dead = sum(sum(record["dead"].values()) for record in self.decided.values())
        ends = (kept, dict(reasons), dead, kept + reasons.total() + dead + funnel["not_decided"]["rows"])
        rejected = {reason: n for reason, n in funnel["rejected"].items() if n}
        known = (funnel["kept"], rejected, funnel["dead_letter"]["rows"], funnel["rows_in"])
        for name, one, other in zip(("kept", "rejected", "dead letters", "rows in"), ends, known, strict=True):
            if one != other:
                self.found.differ("structure", layout.root / "funnel.json", f"{name}: {other}, and {one} by all units")
        sums = f"{funnel['rows_in']:,} rows in = {kept:,} kept + {reasons.total():,} rejected + {dead:,} dead letters"
        sums += f" + {funnel['not_decided']['rows']:,} not decided; the uid of each in its file"
        self.found.checked.append(("structure", sums))
        if "captions" in funnel:
            try:
                units = [unit for unit in self.plan.units if unit.name in self.decided]
                check_captions(layout, units, funnel["captions"])
            except (NotConserved, FileNotFoundError) as error:
                self.found.differ("structure", layout.root / "funnel.json", str(error))

    # ---- exports

    def duplicate_files(self) -> list[DuplicateFiles]:
        """Return the files of the kinds of duplicates that the last run has searched for. An earlier run may have left
        more files, but those of one run share a fingerprint."""
        found = []
        for kind, about in (self.funnel["duplicates"] if self.funnel else {}).items():
            if not is_plain(kind):
                self.found.differ("structure", self.layout.root / "funnel.json", f"names duplicates of kind {kind!r}")
                continue
            commits = self.layout.commits(duplicates_stage(kind))
            paths = [commits / f"{file_name(number)}.json" for number in range(len(stamps(commits, ".json")))]
            made = [*map(_fingerprint, paths)]
            count = next((n for n, one in enumerate(made) if one != made[0]), len(made))
            found.append(DuplicateFiles(kind, count, about["rejected"]))
        return found

    def _check_exports(self, funnel: Any) -> None:
        layout, subset, exports = self.layout, self.layout.root / "subset.npy", "export" in funnel["stages"]
        # A unit that failed in the export was decided before, and is in no export.
        units = [unit for unit in self.plan.units if unit.name in self.decided and unit.name not in funnel["set_aside"]]
        with tempfile.TemporaryDirectory(prefix="diht-verify-") as folder:
            target = Path(folder) / "subset.npy"
            try:
                listed = subset_of(layout, units, self.duplicate_files(), target)
            except (OSError, pa.ArrowException, KeyError, ValueError) as error:
                self.found.skip(f"{subset}, and whether uids are unique: {' '.join(str(error).split())}")
                return
            if exports and _differs((subset, target.stat().st_size, sha256_file(target))) is not None:
                self.found.differ("structure", subset, f"does not hold the {counted(listed, 'uid')} of kept/")
        pairs, uids = (funnel["duplicates"].get(kind, {"found": 0, "rejected": False}) for kind in (PAIR, UID))
        repeated = sum(self.decided[unit.name]["kept"] for unit in units) - listed
        # A uid of several pairs is in no subset, so its first row is missing there as well.
        if repeated > 2 * uids["found"] + (0 if pairs["rejected"] else pairs["found"]):
            what = f"has {counted(repeated, 'row')} with the uid of another one, more than the run has found duplicates"
            self.found.differ("structure", layout.root / KEPT, what)
        what = "uids are unique" + (f", but for those of {counted(repeated, 'known duplicate')}" if repeated else "")
        self.found.checked.append(("structure", what))
        if not exports:
            self.found.skip("exports: the run made none")
            return
        if (exported := self.record(layout.exported)) is None:
            return
        decided = {unit: record["fingerprint"] for unit, record in self.decided.items()}
        if exported.get("fingerprint") != fingerprint_of(decided):
            self.found.differ("structure", layout.exported, "the exports were made from other decisions")
        tars = counted(self._check_tars(bool(exported.get("leaves"))), "tar")
        self.found.checked.append(("structure", f"subset.npy and the samples of {tars} against kept/"))

    def _check_tars(self, leaves: bool) -> int:
        """Compare the samples of shards, or of the indexes of the input's tars, with kept/. Return their number."""
        layout, shards = self.layout, list[Any]()
        folder, there = layout.indexes if leaves else layout.root / "shards", stamps(layout.commits("export"), ".json")
        parts = tars_of(self.plan, self.decided) if leaves else {unit: [unit] for unit in self.decided}
        for first, units in parts.items():
            record = self.record(layout.commit("export", first), ExportRecord) if first in there else None
            if record is None:
                continue
            try:
                rows = [row for unit in units for row in kept_rows(layout, unit, ("uid", "caption"))]
            except (OSError, pa.ArrowException, ValueError):
                continue  # reported with kept/
            known = {(row["uid"], caption_hash(row["caption"].encode("utf-8", "replace"))) for row in rows}
            for shard in record["shards"]:
                name = kept_index(layout, shard["shard"]).name if leaves else shard["shard"]
                shards.append(shard)
                path = self._inside(layout.commit("export", first), f"{folder.name}/{name}")
                if path is None or (what := _irregular(path)) is not None:
                    if path is not None:
                        self.found.differ("structure", path, what or "")
                    continue
                try:
                    if leaves:
                        index = read_index(path)
                    else:
                        with path.open("rb") as file:
                            index = scan(path.name, file)
                except (OSError, BadIndex) as error:
                    self.found.differ("structure", path, f"cannot be compared: {' '.join(str(error).split())}")
                    continue
                for high, low, text in index.rows[["uid_high", "uid_low", "caption_hash"]].tolist():
                    if (uid_of(high, low), text) not in known:
                        self.found.differ("structure", path, "is not in kept/ with this caption", uid_of(high, low))
                for problem in index.problems:
                    self.found.differ("structure", path, problem)
                if len(index.keys) != shard["samples"]:
                    what = f"samples: {len(index.keys)}, and {shard['samples']} by its record"
                    self.found.differ("structure", path, what)
            if sum(one["rows"] for one in record["shards"]) != sum(self.decided[unit]["kept"] for unit in units):
                self.found.differ("structure", layout.commit("export", first), "was exported from other decisions")
        for name in sizes(folder).keys() - {shard["shard"] for shard in shards} if not leaves else ():
            if name.endswith(".tar") and name.rpartition("-")[0] in self.plan:
                self.found.differ("structure", folder / name, "is in no record")
        if shards and (self.record(folder / "manifest.json") or {}).get("shards") != shards:
            self.found.differ("structure", folder / "manifest.json", "does not list what the records list")
        return len(shards)


def _fingerprint(path: StorePath) -> object:
    """Return the fingerprint in a record, or None if the record is missing or damaged, which is reported elsewhere."""
    try:
        record = read_json(path)
    except CorruptRecord:
        return None
    return record.get("fingerprint") if isinstance(record, dict) else None


def _irregular(path: StorePath) -> str | None:
    """Return why a file is not opened, if it is there and is not a regular one."""
    if not is_local(path):
        return None
    try:
        return None if S_ISREG(path.stat().st_mode) else "is not a regular file"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _differs(asked: tuple[StorePath, int, str | None]) -> str | None:
    """Return how a file differs from its recorded size and hash, if it does."""
    path, size, digest = asked
    if (what := _irregular(path)) is not None:
        return what
    if (there := size_of(path)) is None:
        return "is missing"
    if there != size:
        return f"has {there:,} bytes, and {size:,} by its record"
    other = digest is not None and _sha256(path, size) != digest
    return "has another content than by its record (SHA-256)" if other else None


def _sha256(path: StorePath, size: int) -> str | None:
    """Return the SHA-256 of a file, or None without a file. At most one byte more than its recorded size is read."""
    digest, left = hashlib.sha256(), size + 1
    try:
        with path.open("rb") as file:
            while piece := file.read(min(left, 2**20)):
                digest.update(piece)
                left -= len(piece)
    except FileNotFoundError:
        return None
    return digest.hexdigest()
