"""Check the files of an output against its records, and the rows of each kind against each other, all by counting."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import tempfile
from collections import Counter
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, NotRequired, TypedDict

import numpy as np
import pyarrow as pa

from open_diht.common.files import sha256_file
from open_diht.common.naming import counted
from open_diht.common.shard_index import BadIndex, Shard, caption_hash, scan
from open_diht.common.stores import many_at_once
from open_diht.pipelines.driver.conservation import Damaged, NotConserved, check_captions, columns_of, readable
from open_diht.pipelines.driver.funnel import summarise
from open_diht.pipelines.driver.publish import is_of_the_user
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.captions import CaptionRecord
from open_diht.pipelines.stages.dedup.findings import PAIR, UID, DuplicateFiles, duplicates_stage
from open_diht.pipelines.stages.dedup.keys import uid_of
from open_diht.pipelines.stages.shards import ExportRecord, kept_rows
from open_diht.pipelines.stages.subset import subset_of
from open_diht.pipelines.stages.tally import DecideRecord
from open_diht.pipelines.stages.tar_indexes import kept_index, read_index, tars_of
from open_diht.pipelines.store.commit import CorruptRecord, read_json
from open_diht.pipelines.store.layout import CARD, KINDS, Layout
from open_diht.pipelines.store.records import fingerprint_of
from open_diht.pipelines.store.shapes import conforms
from open_diht.pipelines.store.storage import StorePath, each, is_local, row_count
from open_diht.pipelines.verify.findings import Findings

KEPT, REJECTED, DEAD = KINDS
UNWRITTEN = "unwritten"
"""The end of rows that could not be read when they were to be written, whatever was decided about them."""
_READ = (*KINDS, "work", "shards", "index", "funnel.json", "run.json", "subset.npy", CARD)
"""Files and folders of an output that are opened without a record that names them."""
_RECORDS = ("funnel.json", "work/exported.json")
"""Records that are of no unit."""
_SUMMED = (
    *("rows_in", "kept", "keep_rate", "rejected", "dead_letter", "not_decided"),
    *("unparsed", "moves", "histograms", "captions"),
)
"""Entries of the results that are made from the records of all units."""


def is_plain(name: object) -> bool:
    """Return whether a text is a name in a folder that `files_of` looks at, and no path that leads elsewhere."""
    return isinstance(name, str) and name[:1] not in ("", ".") and not {"/", "\0"} & {*name}


class Vouching(TypedDict):
    """The fields of all records that name files."""

    files: NotRequired[dict[str, int]]
    hashes: NotRequired[dict[str, str]]
    shards: NotRequired[list[Shard]]


def files_of(root: StorePath, found: Findings) -> dict[str, int | None]:
    """Return the sizes of the files of an output, by their names in it. On a disk, report what would be opened and is
    neither a regular file nor a folder, and return None for it: reading a pipe or a device may never end, and a link
    may lead to files of this machine that are not of the output. Links to files of the output are good."""
    if not is_local(root):
        inside, listed = "/" + root.path.strip("/"), dict[str, Any]()
        for about in root.fs.ls(root.path, detail=True):
            if about["type"] == "directory" and posixpath.basename(about["name"].rstrip("/")) in _READ:
                listed |= root.fs.find(about["name"], detail=True)
            elif about["type"] != "directory":
                listed[about["name"]] = about
        return {
            posixpath.relpath("/" + name.strip("/"), inside): int(about["size"] or 0) for name, about in listed.items()
        }

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):  # no output, which the caller reports
            raise error

    top, sizes = Path(os.path.realpath(root)), dict[str, int | None]()
    for folder, folders, names in os.walk(top, onerror=fail):
        paths = [Path(folder, name) for name in sorted([*folders, *names]) if not name.startswith(".")]
        folders[:] = [name for name in folders if not name.startswith(".") and (Path(folder) != top or name in _READ)]
        for path in paths:
            what, name = None, path.relative_to(top)
            try:
                mode, size = path.stat().st_mode, path.stat().st_size
            except OSError:  # a link that leads nowhere
                sizes[name.as_posix()] = None
                continue
            if path.is_symlink() and top not in path.resolve().parents:
                what = "is a link that leads out of the output"
            elif S_ISDIR(mode) and path.is_symlink():
                what = "is a link to a folder"
            elif not S_ISREG(mode) and not S_ISDIR(mode):
                what = "is not a regular file"
            sizes[name.as_posix()] = size if what is None and S_ISREG(mode) else None
            if what is not None and name.parts[0] in _READ:
                found.differ("structure", root / name, what)
    return sizes


class Structure:
    """The checks of files and counts of one output. `unit` comes before `check`."""

    def __init__(self, layout: Layout, plan: Plan, files: dict[str, int | None], found: Findings):
        """Read the records of all units. `files` is the result of `files_of`."""
        self.layout, self.plan, self.files, self.found = layout, plan, files, found
        self.funnel: Any = self.record(layout.root / "funnel.json", FunnelRecord)
        """The results, or None if they are missing or damaged."""
        there = {*self.commits("decide")}
        failed = self.funnel["set_aside"] if self.funnel else {unit.name for unit in plan.units} - there
        names = [unit.name for unit in plan.units if unit.name in there or unit.name not in failed]
        self.decided = self._records("decide", names, DecideRecord, "fingerprint", "kept", "rejected", "dead")
        """Parts of the `decide` record of each decided unit, in the order of the plan; there may be many units."""
        self.annotated = self._records("captions", [*self.decided], CaptionRecord, "good", "dead", "rows", "broken")
        """Parts of the `captions` record of each decided unit whose record is not damaged."""
        if not self.funnel:
            what = f"no run has finished: {len(self.decided):,} of {counted(len(plan.units), 'unit')} are decided"
            found.differ("structure", layout.root, f"{what}; the same command of the run resumes it")

    def commits(self, stage: str) -> list[str]:
        """Return the names of the units that a stage has committed."""
        head, end = f"work/{stage}/commits/", ".json"
        names = (name for name in self.files if name.startswith(head) and name.endswith(end))
        return sorted(name[len(head) : -len(end)] for name in names)

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

    def _records(self, stage: str, units: list[str], kind: Any, *keys: str) -> dict[str, dict[str, Any]]:
        records = each(lambda unit: self.record(self.layout.commit(stage, unit), kind), units, self.layout.root)
        found = zip(units, records, strict=True)
        return {unit: {key: record.get(key) for key in keys} for unit, record in found if record}

    def check(self, settings: RunSettings | None) -> None:
        """Make all checks but those of `unit`. `settings` are the run's, None if its record is damaged."""
        self._check_records()
        if self.funnel:
            self._check_units(self.funnel)
            self._check_sums(self.funnel, settings)
            self._check_exports(self.funnel)

    # ---- files against records

    def _check_records(self) -> None:
        root, found, records, files, unknown, hashes = self.layout.root, self.found, 0, 0, 0, dict[str, str]()
        names = sorted(name for name in self.files if name in _RECORDS or re.match("work/[^/]+/commits/", name))
        vouching = many_at_once(lambda name: self.record(root / name, Vouching), names)
        for name, record in zip(names, vouching, strict=True):
            if record is None:
                continue
            if "files" not in record:
                found.skip(f"the files of {root / name}, which lists none")
                continue
            known = {f"shards/{one['shard']}": one["sha256"] for one in record.get("shards", ()) if "path" not in one}
            known |= record.get("hashes", {})
            records += 1
            for file, size in record["files"].items():
                if file == CARD and is_of_the_user(root / CARD):
                    continue
                files, unknown = files + 1, unknown + (file not in known)
                if (there := self._size(root / name, file)) is None:
                    continue
                if there != size:
                    found.differ("structure", root / file, f"has {there:,} bytes, and {size:,} by its record")
                elif file in known:
                    hashes[file] = known[file]
        for file, digest in zip(hashes, many_at_once(self._sha256, hashes), strict=True):
            if digest != hashes[file]:
                found.differ("structure", root / file, "has another content than by its record (SHA-256)")
        what = f"{counted(files, 'file')} of {counted(records, 'record')} by size, {files - unknown:,} by SHA-256"
        found.checked.append(("structure", what))
        if unknown:
            found.skip(f"the content of {counted(unknown, 'file')} whose record has no SHA-256")

    def _size(self, record: StorePath, name: str) -> int | None:
        """Return the size of a file that a record names. Otherwise report why there is none, and return None. A record
        of a stranger may have any name, and only files of the output are opened."""
        if (size := self.files.get(name)) is None:
            file = self.layout.root / name if all(map(is_plain, name.split("/"))) else record
            what = f"names {name}, which is not in the output" if file is record else "is missing"
            self.found.differ("structure", file, "is not a regular file" if name in self.files else what)
        return size

    def _sha256(self, name: str) -> str:
        with (self.layout.root / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

    # ---- rows

    def unit(self, unit: str) -> pa.Table | None:
        """Check the rows of a decided unit by their uids. Return those that were read: `ordinal`, ascending, `uid`, and
        `end`, one of `KINDS` or `UNWRITTEN`. Return None if a file is damaged."""
        layout, record, captions = self.layout, self.decided[unit], self.annotated.get(unit)
        try:  # kinds without rows have no file; a missing one is found by its record
            read = columns_of(layout.data("captions", unit), "ordinal", "uid")
            chosen = columns_of(layout.data("decide", unit), "ordinal")["ordinal"]
            kept = columns_of(layout.part(KEPT, unit), "uid")["uid"].to_pylist()
            rejected = columns_of(layout.part(REJECTED, unit), "uid", "reason")
            dead = columns_of(layout.part(DEAD, unit), "ordinal", "stage")
            unread = columns_of(layout.dead(unit), "ordinal")
        except Damaged as damaged:
            self.found.differ("structure", damaged.path, "cannot be read")
            return None
        if captions is None:
            return None
        dead = dead.filter(dead["ordinal"].is_valid())  # others are about the unit
        for path, there, known in (
            (layout.data("captions", unit), read.num_rows, captions["good"]),
            (layout.dead(unit), unread.num_rows, captions["dead"]),
            (layout.part(KEPT, unit), len(kept), record["kept"]),
            (layout.part(REJECTED, unit), dict(Counter(rejected["reason"].to_pylist())), record["rejected"]),
            (layout.part(DEAD, unit), dead.num_rows, sum(record["dead"].values())),
            (f"unit {unit}", len(kept) + rejected.num_rows + dead.num_rows, captions["rows"]),
        ):
            if there != known:
                self.found.differ("structure", path, f"rows: {there}, and {known} by its record")
        ordinals, ends = np.asarray(read["ordinal"]), np.full(read.num_rows, REJECTED, object)
        ends[np.isin(ordinals, chosen)] = KEPT
        stages = np.asarray(dead["stage"].to_pylist(), object)
        for end, stage in ((DEAD, "spotting"), (UNWRITTEN, "manifest")):
            ends[np.isin(ordinals, np.asarray(dead["ordinal"])[stages == stage])] = end
        for kind, uids in ((KEPT, kept), (REJECTED, rejected["uid"].to_pylist())):
            self._compare_uids(layout.part(kind, unit), uids, read["uid"].filter(pa.array(ends == kind)).to_pylist())
        return read.append_column("end", pa.array(ends, pa.string()))

    def _compare_uids(self, path: StorePath, there: list[str], expected: list[str]) -> None:
        many, few = Counter(there) - Counter(expected), Counter(expected) - Counter(there)
        for uid in many:
            self.found.differ("structure", path, "is not there, or once less, by work/", uid)
        for uid in few:
            self.found.differ("structure", path, "is missing", uid)
        if there != expected and not many and not few:
            uid = next(one for one, other in zip(there, expected, strict=True) if one != other)
            self.found.differ("structure", path, "is out of order", uid)

    def _check_units(self, funnel: Any) -> None:
        """Check that all result files are of units that the last run has decided, or not processed."""
        layout, found = self.layout, self.found
        ours = {f"{kind}/part-{unit}.parquet" for kind in KINDS for unit in (*self.decided, "unreadable")}
        for name in sorted(self.files.keys() - ours):
            if posixpath.dirname(name) in KINDS and name.endswith(".parquet"):
                found.differ("structure", layout.root / name, "belongs to no decided unit")
        current = self.record(layout.fingerprints("decide")) or {}
        for unit, record in self.decided.items():
            if record["fingerprint"] != current.get(unit):
                what = "was decided by another preset or other annotations than the last run has"
                found.differ("structure", layout.commit("decide", unit), what)
        broken, path = len(self.plan.unreadable) + len(funnel["set_aside"]), layout.part(DEAD, "unreadable")
        try:
            if (there := readable(row_count, path)) != broken:
                found.differ("structure", path, f"rows: {there}, and {broken} files or units were not processed")
        except Damaged:
            found.differ("structure", path, "cannot be read")

    def _check_sums(self, funnel: Any, settings: RunSettings | None) -> None:
        """Compare the numbers of the results with the records of all units."""
        layout, found = self.layout, self.found
        if settings is None or len(self.annotated) < len(self.decided):
            found.skip("the sums in funnel.json: records of the run are damaged")
            return
        units = [unit for unit in self.plan.units if unit.name in self.decided]
        path, summed = layout.root / "funnel.json", [*_SUMMED]
        try:
            sums: Any = summarise(layout, units, self.plan, settings)
        except (CorruptRecord, LookupError, TypeError, ValueError, AttributeError) as error:
            found.differ("structure", path, f"cannot be compared with the records of all units ({error})")
            return
        sums["dead_letter"]["units"] += len(funnel["set_aside"])
        if len(units) < len(self.plan.units):
            # The annotations of undecided units may have come or gone since.
            sums["rows_in"] += funnel["not_decided"]["rows"] - sums["not_decided"]["rows"]
            sums["not_decided"] |= {name: funnel["not_decided"][name] for name in ("rows", "uncounted")}
            sums["keep_rate"] = sums["kept"] / sums["rows_in"] if sums["rows_in"] else 0.0
            summed.remove("captions")
        left, by_steps = funnel["rows_in"], Counter[str]()
        for step in funnel["steps"]:  # their texts and order are of the version and the plugins of the run
            left -= step["rejected"] + step.get("lost", 0)
            by_steps[step["reason"]] += step["rejected"]
            if step["left"] != left:
                found.differ(
                    "structure", path, f"steps: {step['left']} left after {step['reason']}, and {left} by them"
                )
        if by_steps != Counter(sums["rejected"]):
            found.differ("structure", path, "steps: reject other numbers than the records of all units")
        for name in summed:
            by_units, stated = sums.get(name), funnel.get(name)
            while isinstance(by_units, dict) and isinstance(stated, dict) and by_units != stated:  # down to the number
                key = next(key for key in {**by_units, **stated} if by_units.get(key) != stated.get(key))
                name, by_units, stated = f"{name}.{key}", by_units.get(key), stated.get(key)
            if by_units != stated:
                found.differ("structure", path, f"{name}: {stated}, and {by_units} by all units")
        ends = {"kept": sums["kept"], "rejected": sum(sums["rejected"].values())}
        ends |= {"dead letters": sums["dead_letter"]["rows"], "not decided": sums["not_decided"]["rows"]}
        what = " + ".join(f"{count:,} {end}" for end, count in ends.items())
        found.checked.append(("structure", f"{sums['rows_in']:,} rows in = {what}; the uid of each in its file"))
        if "captions" in funnel:
            try:
                check_captions(layout, units, funnel["captions"])
            except (NotConserved, FileNotFoundError) as error:
                found.differ("structure", path, str(error))

    # ---- exports

    def duplicate_files(self) -> tuple[DuplicateFiles, ...]:
        """Return the files of the kinds of duplicates that the last run has searched for. An earlier run may have left
        more files, but those of one run share a fingerprint."""
        found = []
        for kind, about in (self.funnel["duplicates"] if self.funnel else {}).items():
            if not is_plain(kind):
                self.found.differ("structure", self.layout.root / "funnel.json", f"names duplicates of kind {kind!r}")
                continue
            stage = duplicates_stage(kind)
            records = [self.record(self.layout.commit(stage, name)) or {} for name in self.commits(stage)]
            made = [record.get("fingerprint") for record in records]
            count = next((n for n, one in enumerate(made) if one != made[0]), len(made))
            found.append(DuplicateFiles(kind, count, about["rejected"]))
        return tuple(found)

    def _check_exports(self, funnel: Any) -> None:
        layout, subset, exports = self.layout, self.layout.root / "subset.npy", "export" in funnel["stages"]
        # A unit that failed in the export was decided before, and is in no export.
        units = [unit for unit in self.plan.units if unit.name in self.decided and unit.name not in funnel["set_aside"]]
        with tempfile.TemporaryDirectory(prefix="diht-verify-") as folder:
            target = Path(folder) / "subset.npy"
            try:
                listed = subset_of(layout, units, self.duplicate_files(), target)
            except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
                self.found.skip(f"{subset}, and whether uids are unique: {' '.join(str(error).split())}")
                return
            if exports and (self.files.get(subset.name) is None or self._sha256(subset.name) != sha256_file(target)):
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
        layout, found, shards, there = self.layout, self.found, list[Any](), {*self.commits("export")}
        folder = layout.indexes if leaves else layout.root / "shards"
        parts = tars_of(self.plan, self.decided) if leaves else {unit: [unit] for unit in self.decided}
        for first, units in parts.items():
            path = layout.commit("export", first)
            if first not in there or (record := self.record(path, ExportRecord)) is None:
                continue
            if sum(one["rows"] for one in record["shards"]) != sum(self.decided[unit]["kept"] for unit in units):
                found.differ("structure", path, "was exported from other decisions")
            shards += record["shards"]
            try:
                rows = [row for unit in units for row in kept_rows(layout, unit, ("uid", "caption"))]
                known = {(row["uid"], caption_hash(row["caption"].encode("utf-8", "replace"))) for row in rows}
            except (OSError, pa.ArrowException, ValueError, TypeError, LookupError, AttributeError):
                continue  # reported with kept/
            for shard in record["shards"]:
                name = kept_index(layout, shard["shard"]).name if leaves else shard["shard"]
                if self._size(path, f"{folder.name}/{name}") is not None:
                    self._check_tar(folder / name, shard["samples"], known, leaves)
        ours = {f"shards/{shard['shard']}" for shard in shards}
        for name in () if leaves else sorted(self.files.keys() - ours):
            if posixpath.dirname(name) == "shards" and name.endswith(".tar"):  # a training reads all tars there
                found.differ("structure", layout.root / name, "is in no record")
        if shards and (self.record(folder / "manifest.json") or {}).get("shards") != shards:
            found.differ("structure", folder / "manifest.json", "does not list what the records list")
        return len(shards)

    def _check_tar(self, path: StorePath, samples: int, known: set[tuple[str, int]], is_index: bool) -> None:
        """Compare the samples of a tar or its index with the uids and captions in kept/."""
        try:
            if is_index:
                index = read_index(path)
            else:
                with path.open("rb") as file:
                    index = scan(path.name, file)
        except (OSError, BadIndex) as error:
            self.found.differ("structure", path, f"cannot be compared: {' '.join(str(error).split())}")
            return
        for high, low, text in index.rows[["uid_high", "uid_low", "caption_hash"]].tolist():
            if (uid_of(high, low), text) not in known:
                self.found.differ("structure", path, "is not in kept/ with this caption", uid_of(high, low))
        for problem in index.problems:
            self.found.differ("structure", path, problem)
        if len(index.keys) != samples:
            self.found.differ("structure", path, f"samples: {len(index.keys)}, and {samples} by its record")
