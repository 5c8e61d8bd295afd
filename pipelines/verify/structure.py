"""Check the files of an output against its records, and the rows of each kind against each other,
all by counting."""

from __future__ import annotations

import os
import posixpath
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import file_digest, sha256
from itertools import zip_longest
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import Any, NamedTuple, NotRequired, TypedDict, TypeVar, cast, get_type_hints

import numpy as np
import pyarrow as pa

from open_diht.common.files import sha256_file
from open_diht.common.images import BadImage
from open_diht.common.naming import counted
from open_diht.common.shard_index import BadIndex, Shard, hash64
from open_diht.common.stores import many_at_once
from open_diht.common.tar_stream import TarStream
from open_diht.filters.cascade import RECORD
from open_diht.pipelines.conservation import (
    Damaged,
    NotConserved,
    check_captions,
    columns_of,
)
from open_diht.pipelines.funnel import summarise
from open_diht.pipelines.manifests.files import read_part
from open_diht.pipelines.manifests.plan import Plan
from open_diht.pipelines.report.funnel import FunnelRecord
from open_diht.pipelines.settings import RunSettings
from open_diht.pipelines.stages.annotator import DuplicateFiles
from open_diht.pipelines.stages.captions import DEAD_LETTERS
from open_diht.pipelines.stages.decide import broken_unit
from open_diht.pipelines.stages.dedup.exact_stages import keys_stage
from open_diht.pipelines.stages.dedup.findings import (
    IMAGE,
    PAIR,
    SEMANTIC,
    duplicates_stage,
)
from open_diht.pipelines.stages.dedup.semantic_stages import MemberStage
from open_diht.pipelines.stages.export import counts_of, manifest_of, sizes_of
from open_diht.pipelines.stages.image_records import image_records
from open_diht.pipelines.stages.images import DOWNLOAD
from open_diht.pipelines.stages.keys import uid_of
from open_diht.pipelines.stages.shards import (
    PER_SHARD,
    exported_rows,
    key_of,
    members_of,
    shard_path,
)
from open_diht.pipelines.stages.spotting import load_records
from open_diht.pipelines.stages.subset import subset_of
from open_diht.pipelines.stages.tar_indexes import kept_index, kept_samples, read_index, tars_of
from open_diht.pipelines.store.commit import CorruptRecord, read_json
from open_diht.pipelines.store.layout import CARD, CROISSANT, KINDS, Layout
from open_diht.pipelines.store.ownership import is_of_the_user
from open_diht.pipelines.store.records import (
    Broken,
    CaptionRecord,
    DecideRecord,
    ExportRecord,
    Models,
    fingerprint_of,
)
from open_diht.pipelines.store.shapes import conforms
from open_diht.pipelines.store.storage import Row, StorePath, each, is_local
from open_diht.pipelines.verify.findings import Part, Verification

KEPT, REJECTED, DEAD = KINDS
UNWRITTEN = "unwritten"
"""The end of rows that could not be read when they were to be written, whatever was decided about
them."""
_READ = (
    *KINDS,
    "work",
    "shards",
    "index",
    "selection",
    "embeddings",
    "funnel.json",
    "run.json",
    "subset.npy",
    CARD,
)
"""Files and folders of an output that are opened without a record that names them."""
_DAMAGE = (
    *(Damaged, CorruptRecord, BadIndex, BadImage, OSError, pa.ArrowException),
    *(LookupError, ValueError, TypeError, AttributeError),
)
"""Errors that altered files raise where they are read."""
_OF_RUN = ("run.json", "funnel.json", "subset.npy", "report.html", CARD, CROISSANT)
"""Files that a run writes into OUTPUT itself."""
_READ_WHOLE = (*KINDS, "shards", "index")
"""Folders in which readers of the results read every file."""
_RECORDS = ("funnel.json", "work/exported.json")
"""Records that are of no unit."""
_SUMMED = (
    *("rows_in", "kept", "keep_rate", "rejected", "dead_letter", "not_decided"),
    *("unparsed", "moves", "histograms", "captions"),
)
"""Entries of the results that are made from the records of all units."""


def is_plain(name: object) -> bool:
    """Return whether a name is that of an entry of one folder that `files_of` would list: not
    hidden, and without a separator that would lead elsewhere."""
    return isinstance(name, str) and name[:1] not in ("", ".") and not {"/", "\0"} & {*name}


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())


class SampledImages(NamedTuple):
    """Images of a unit that were read again from the input."""

    path: str
    """The unit's file, where it is now."""
    digests: dict[int, bytes | None]
    """SHA-256 of each image as an export has it, by ordinal. None: an export leaves it out."""


Images = Mapping[str, SampledImages]
"""Images that were read again, by unit."""


T = TypeVar("T")
Object = dict[str, object]
"""Any JSON object."""


class Decided(TypedDict):
    """The parts of a `DecideRecord` that are kept of each unit; there may be many units."""

    fingerprint: str
    kept: int
    rejected: dict[str, int]
    dead: dict[str, int]


class Annotated(TypedDict):
    """The parts of a `CaptionRecord` that are kept of each unit."""

    good: int
    dead: int
    rows: int
    broken: Broken | None
    captions: int | None


class Counted(TypedDict):
    """The count of rows in a commit record."""

    rows: int


class Vouching(TypedDict):
    """The fields of all records that name files."""

    unit: NotRequired[str]
    files: NotRequired[dict[str, int]]
    hashes: NotRequired[dict[str, str]]
    shards: NotRequired[list[Shard]]


def files_of(root: StorePath, found: Verification) -> dict[str, int | None]:
    """Return the sizes of the files of an output, by their names in it. On a disk, refuse
    everything but regular files and folders: report it, and return None. Reading a pipe or a device
    may never end, and a link may lead to files of this machine outside the output. Links to files
    of the output are good.
    """
    if not is_local(root):
        inside = "/" + root.path.strip("/")
        listed = dict[str, Any]()
        for about in root.fs.ls(root.path, detail=True):
            if (
                about["type"] == "directory"
                and posixpath.basename(about["name"].rstrip("/")) in _READ
            ):
                listed |= root.fs.find(about["name"], detail=True)
            elif about["type"] != "directory":
                listed[about["name"]] = about
        named = {
            posixpath.relpath("/" + name.strip("/"), inside): about
            for name, about in listed.items()
        }
        return {
            name: int(about["size"] or 0) for name, about in named.items() if "/." not in f"/{name}"
        }

    def fail(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError | NotADirectoryError):
            # No output, which the caller reports.
            raise error

    top = Path(os.path.realpath(root))
    sizes = dict[str, int | None]()
    for folder, folders, names in os.walk(top, onerror=fail):
        paths = [
            Path(folder, name) for name in sorted([*folders, *names]) if not name.startswith(".")
        ]
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and (Path(folder) != top or name in _READ)
        ]
        for path in paths:
            what = None
            name = path.relative_to(top)
            try:
                mode = path.stat().st_mode
                size = path.stat().st_size
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

    def __init__(
        self, layout: Layout, plan: Plan, files: dict[str, int | None], found: Verification
    ):
        """Read the records of all units. `files` is the result of `files_of`."""
        self.layout = layout
        self.plan = plan
        self.files = files
        self.found = found
        self._converted = 0
        """Images in shards that may have been converted, so that their bytes are not those that
        were read."""
        self.funnel = self.record(layout.root / "funnel.json", FunnelRecord)
        """The results, or None if they are missing or damaged."""
        there = {*self.commits("decide")}
        failed = (
            self.funnel["set_aside"] if self.funnel else {unit.name for unit in plan.units} - there
        )
        names = [unit.name for unit in plan.units if unit.name in there or unit.name not in failed]
        self.decided = self._records("decide", names, DecideRecord, Decided)
        """Parts of the record of each decided unit, in the order of the plan."""
        self.annotated = self._records("captions", [*self.decided], CaptionRecord, Annotated)
        """Parts of the record of each decided unit whose record is not damaged."""
        if not self.funnel:
            what = (
                f"no run has finished: {len(self.decided):,} of {counted(len(plan.units), 'unit')}"
                " are decided"
            )
            found.differ(
                "structure", layout.root, f"{what}; the same command of the run resumes it"
            )

    def commits(self, stage: str) -> list[str]:
        """Return the names of the units that a stage has committed."""
        head = f"work/{stage}/commits/"
        end = ".json"
        names = (name for name in self.files if name.startswith(head) and name.endswith(end))
        return sorted(name[len(head) : -len(end)] for name in names)

    def record(self, path: StorePath, kind: type[T]) -> T | None:
        """Return a JSON object of a type. Report a file that is missing or holds something else,
        and return None."""
        try:
            record = read_json(path)
        except CorruptRecord:
            record = ""
        if conforms(record, kind):
            return cast(T, record)
        what = (
            "is missing; the same command of the run writes it"
            if record is None
            else "is no record of this version"
        )
        self.found.differ("structure", path, what)
        return None

    def _records(
        self, stage: str, units: list[str], kind: type[object], part: type[T]
    ) -> dict[str, T]:
        """Return the keys of `part` of the commit records of units. The records have the type
        `kind`; absent keys are None."""
        keys = get_type_hints(part)
        records = each(
            lambda unit: self.record(self.layout.commit(stage, unit), kind), units, self.layout.root
        )
        found = zip(units, records, strict=True)
        return {
            unit: cast(T, {key: cast(Object, record).get(key) for key in keys})
            for unit, record in found
            if record
        }

    def check(self, settings: RunSettings | None, models: Models, images: Images) -> None:
        """Make all checks but those of `unit`. `settings` and `models` are those of run.json;
        without settings, its record is damaged. `images` are those that were read again."""
        self._check_records()
        if self.funnel:
            self._check_units(self.funnel, self._check_exports(self.funnel, models, images))
            self._check_sums(self.funnel, settings)

    # ---- files against records

    def _check_records(self) -> None:
        root = self.layout.root
        found = self.found
        records = 0
        files = 0
        unknown = 0
        hashes = dict[str, str]()
        names = sorted(
            name for name in self.files if name in _RECORDS or re.match("work/[^/]+/commits/", name)
        )
        vouching = many_at_once(lambda name: self.record(root / name, Vouching), names)
        for name, record in zip(names, vouching, strict=True):
            if record is None:
                continue
            if (unit := record.get("unit")) not in (
                None,
                posixpath.basename(name).removesuffix(".json"),
            ):
                found.differ("structure", root / name, f"is the record of unit {unit}")
            if "files" not in record:
                found.skip(f"the files of {root / name}, which lists none")
                continue
            known = {
                f"shards/{one['shard']}": one["sha256"]
                for one in record.get("shards", ())
                if "path" not in one
            }
            known |= record.get("hashes", {})
            records += 1
            for file, size in record["files"].items():
                if file == CARD and is_of_the_user(root / CARD):
                    found.skip(
                        f"{root / CARD}: it does not have the mark of a card that a run has written"
                    )
                    continue
                files, unknown = files + 1, unknown + (file not in known)
                if (there := self._size(root / name, file)) is None:
                    continue
                if there != size:
                    found.differ(
                        "structure", root / file, f"has {there:,} bytes, and {size:,} by its record"
                    )
                elif file in known:
                    hashes[file] = known[file]
        for file, digest in zip(hashes, many_at_once(self._sha256, hashes), strict=True):
            if digest != hashes[file]:
                found.differ(
                    "structure", root / file, "has another content than by its record (SHA-256)"
                )
        what = (
            f"{counted(files, 'file')} of {counted(records, 'record')} by size, {files - unknown:,}"
            " by SHA-256"
        )
        found.checked.append(("structure", what))
        if unknown:
            found.skip(f"the content of {counted(unknown, 'file')} whose record has no SHA-256")

    def _size(self, record: StorePath, name: str) -> int | None:
        """Return the size of a file that a record names. Otherwise report why there is none, and
        return None. A record of a stranger may have any name, and only files of the output are
        opened."""
        if (size := self.files.get(name)) is None:
            file = self.layout.root / name if all(map(is_plain, name.split("/"))) else record
            what = f"names {name}, which is not in the output" if file is record else "is missing"
            self.found.differ(
                "structure", file, "is not a regular file" if name in self.files else what
            )
        return size

    def _sha256(self, name: str) -> str:
        with (self.layout.root / name).open("rb") as file:
            return file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]

    # ---- rows

    def unit(self, unit: str) -> pa.Table | None:
        """Check the rows of a decided unit by their uids. Return those that were read: `ordinal`,
        ascending, `uid`, and `end`, one of `KINDS` or `UNWRITTEN`. Return None if a file is
        damaged."""
        layout = self.layout
        record = self.decided[unit]
        captions = self.annotated.get(unit)
        try:  # kinds without rows have no file; a missing one is found by its record
            read = columns_of(layout.data("captions", unit), "ordinal", "uid")
            chosen = columns_of(layout.data("decide", unit), "ordinal")["ordinal"]
            kept = columns_of(layout.part(KEPT, unit), "uid")["uid"].to_pylist()
            rejected = columns_of(layout.part(REJECTED, unit), "uid", "reason")
            dead = self._dead_letters(layout.part(DEAD, unit))
            unread = self._dead_letters(layout.dead(unit))
        except Damaged as damaged:
            self.found.differ("structure", damaged.path, "cannot be read")
            return None
        if captions is None:
            return None
        try:
            self._check_dead_letters(unit, dead, unread)
        except _DAMAGE as error:
            self.found.differ(
                "structure",
                layout.part(DEAD, unit),
                f"cannot be compared with work/: {_words(error)}",
            )
        dead = dead.filter(dead["ordinal"].is_valid())  # others are about the unit
        for path, there, known in (
            (layout.data("captions", unit), read.num_rows, captions["good"]),
            (layout.dead(unit), unread.num_rows, captions["dead"]),
            (layout.part(KEPT, unit), len(kept), record["kept"]),
            (
                layout.part(REJECTED, unit),
                dict(Counter(rejected["reason"].to_pylist())),
                record["rejected"],
            ),
            (layout.part(DEAD, unit), dict(Counter(dead["error"].to_pylist())), record["dead"]),
            (f"unit {unit}", len(kept) + rejected.num_rows + dead.num_rows, captions["rows"]),
        ):
            if there != known:
                self.found.differ("structure", path, f"rows: {there}, and {known} by its record")
        ordinals = np.asarray(read["ordinal"])
        ends = np.full(read.num_rows, REJECTED, object)
        ends[np.isin(ordinals, chosen)] = KEPT
        stages = np.asarray(dead["stage"].to_pylist(), object)
        for end, stage in ((DEAD, "spotting"), (UNWRITTEN, "manifest")):
            ends[np.isin(ordinals, np.asarray(dead["ordinal"])[stages == stage])] = end
        for kind, uids in ((KEPT, kept), (REJECTED, rejected["uid"].to_pylist())):
            self._compare_uids(
                layout.part(kind, unit),
                uids,
                read["uid"].filter(pa.array(ends == kind)).to_pylist(),
            )
        return read.append_column("end", pa.array(ends, pa.string()))

    def _dead_letters(self, path: StorePath) -> pa.Table:
        """Return a table of dead letters. Raise Damaged if it cannot be read or has other
        columns."""
        table = columns_of(path)
        if table.column_names and table.schema != DEAD_LETTERS:
            raise Damaged(path, "other columns or types than dead letters have")
        return table if table.column_names else DEAD_LETTERS.empty_table()

    def _check_dead_letters(self, unit: str, dead: pa.Table, unread: pa.Table) -> None:
        """Compare the dead letters of a unit with its rows that could not be read, and with its
        annotations."""
        layout = self.layout
        path = self.layout.part(DEAD, unit)
        broken = self.annotated[unit]["broken"]
        expected = unread.to_pylist() + (broken_unit(broken, unit).to_pylist() if broken else [])
        there = dead.to_pylist()
        lost = [row["ordinal"] for row in there[len(expected) :]]
        if lost:
            rows = columns_of(layout.data("captions", unit), "ordinal", "uid", "caption")
            rows = rows.filter(np.isin(np.asarray(rows["ordinal"]), lost))
            known = {row["ordinal"]: row for row in rows.to_pylist()}
            numbers = {ordinal // self.plan.image_rows for ordinal in lost if ordinal is not None}
            stages = self.funnel["stages"] if self.funnel else ("spotting", DOWNLOAD)
            records = image_records(layout, unit, sorted(numbers), stages) if numbers else None
            why = (
                {row["ordinal"]: (row["status"], row["message"]) for row in records.to_pylist()}
                if records
                else {}
            )
            for row in there[len(expected) :]:
                # Only the run has seen why a row could not be written.
                error = row["error"], row["message"]
                error = why.get(row["ordinal"], ("", "")) if row["stage"] == "spotting" else error
                stage = "spotting" if row["stage"] == "spotting" else "manifest"
                about = {
                    "file": self.plan.span(unit).path,
                    "unit": unit,
                    "stage": stage,
                    "raw": None,
                }
                found = known.get(row["ordinal"], {"uid": None, "caption": None})
                if self.annotated[unit]["captions"] is not None:
                    # The row may be there for another of its captions.
                    found = {**found, "caption": row["caption"]}
                expected.append({**row, **found, **about, "error": error[0], "message": error[1]})
        for was, now in zip_longest(there, expected):
            if was != now:
                named = [
                    name
                    for name in DEAD_LETTERS.names
                    if was is None or now is None or was[name] != now[name]
                ]
                what = f"has another {', '.join(named)} than work/ has"
                self.found.differ("structure", path, what, (now or was)["uid"])

    def _compare_uids(self, path: StorePath, there: list[str], expected: list[str]) -> None:
        many = Counter(there) - Counter(expected)
        few = Counter(expected) - Counter(there)
        for uid in many:
            self.found.differ("structure", path, "is not there, or once less, by work/", uid)
        for uid in few:
            self.found.differ("structure", path, "is missing", uid)
        if there != expected and not many and not few:
            uid = next(one for one, other in zip(there, expected, strict=True) if one != other)
            self.found.differ("structure", path, "is out of order", uid)

    def _check_units(self, funnel: FunnelRecord, exported: set[str]) -> None:
        """Check that all result files are of units that the last run has decided, or not processed.
        `exported` are the names of the files of exports."""
        layout = self.layout
        plan = self.plan
        found = self.found
        path = layout.part(DEAD, "unreadable")
        ours = {f"{kind}/part-{unit}.parquet" for kind in KINDS for unit in self.decided}
        ours |= {f"{DEAD}/{path.name}", *exported}
        for name in sorted(self.files.keys() - ours):
            if "/" in name and name.partition("/")[0] in _READ_WHOLE:
                # A reader of the results takes all files there.
                found.differ(
                    "structure",
                    layout.root / name,
                    "is not of this run: no unit that it has decided wrote it",
                )
        others = [name for name, size in self.files.items() if "/" not in name and size is not None]
        if others := sorted({*others} - {*_OF_RUN}):
            found.skip(
                f"{counted(len(others), 'file')} in {layout.root} that no run writes, such as"
                f" {others[0]}"
            )
        current = self.record(layout.fingerprints("decide"), Object) or {}
        for unit, record in self.decided.items():
            if record["fingerprint"] != current.get(unit):
                what = "was decided by another preset or other annotations than the last run has"
                found.differ("structure", layout.commit("decide", unit), what)
        failed = [
            (unit, stage) for unit, stage in sorted(funnel["set_aside"].items()) if unit in plan
        ]
        blank = {"error": None, "message": None}
        expected = [row for one in plan.unreadable for row in broken_unit(one, None).to_pylist()]
        for unit, stage in failed:
            lost = broken_unit(
                {"path": plan.span(unit).path, "error": "", "message": ""}, unit, stage
            )
            expected += [{**row, **blank} for row in lost.to_pylist()]
        try:
            there = self._dead_letters(path).to_pylist()
        except Damaged:
            found.differ("structure", path, "cannot be read")
            return
        # Only the run has seen why a unit failed.
        there = [
            *there[: len(plan.unreadable)],
            *({**row, **blank} for row in there[len(plan.unreadable) :]),
        ]
        if there != expected:
            what = (
                f"does not list the {counted(len(expected), 'file')} and units that were not"
                " processed"
            )
            found.differ("structure", path, what)
        if failed:
            found.skip(f"why {counted(len(failed), 'unit')} failed: only the run has seen it")

    def _check_sums(self, funnel: FunnelRecord, settings: RunSettings | None) -> None:
        """Compare the numbers of the results with the records of all units."""
        layout = self.layout
        found = self.found
        if settings is None or len(self.annotated) < len(self.decided):
            found.skip("the sums in funnel.json: records of the run are damaged")
            return
        self._check_duplicates(funnel, settings)
        units = [unit for unit in self.plan.units if unit.name in self.decided]
        path = layout.root / "funnel.json"
        summed = [*_SUMMED]
        try:
            sums = summarise(layout, units, self.plan, settings)
        except _DAMAGE as error:
            found.differ(
                "structure",
                path,
                f"cannot be compared with the records of all units ({_words(error)})",
            )
            return
        sums["dead_letter"]["units"] += len(funnel["set_aside"])
        if len(units) < len(self.plan.units):
            # The annotations of undecided units may have come or gone since.
            sums["rows_in"] += funnel["not_decided"]["rows"] - sums["not_decided"]["rows"]
            sums["not_decided"]["rows"] = funnel["not_decided"]["rows"]
            sums["not_decided"]["uncounted"] = funnel["not_decided"]["uncounted"]
            sums["keep_rate"] = sums["kept"] / sums["rows_in"] if sums["rows_in"] else 0.0
            summed.remove("captions")
        left = funnel["rows_in"]
        by_steps = Counter[str]()
        for step in funnel["steps"]:
            # Their texts and order are of the version and the plugins of the run.
            left -= step["rejected"] + step.get("lost", 0)
            by_steps[step["reason"]] += step["rejected"]
            if step["left"] != left:
                found.differ(
                    "structure",
                    path,
                    f"steps: {step['left']} left after {step['reason']}, and {left} by them",
                )
        if by_steps != Counter(sums["rejected"]):
            found.differ(
                "structure", path, "steps: reject other numbers than the records of all units"
            )
        for name in summed:
            by_units = cast(Object, sums).get(name)
            stated = cast(Object, funnel).get(name)
            while isinstance(by_units, dict) and isinstance(stated, dict) and by_units != stated:
                # Down to the number.
                key = next(
                    key for key in {**by_units, **stated} if by_units.get(key) != stated.get(key)
                )
                name, by_units, stated = f"{name}.{key}", by_units.get(key), stated.get(key)
            if by_units != stated:
                found.differ("structure", path, f"{name}: {stated}, and {by_units} by all units")
        ends = {"kept": sums["kept"], "rejected": sum(sums["rejected"].values())}
        ends |= {
            "dead letters": sums["dead_letter"]["rows"],
            "not decided": sums["not_decided"]["rows"],
        }
        what = " + ".join(f"{count:,} {end}" for end, count in ends.items())
        found.checked.append(
            ("structure", f"{sums['rows_in']:,} rows in = {what}; the uid of each in its file")
        )
        if "captions" in funnel:
            try:
                check_captions(layout, units, funnel["captions"])
            except (NotConserved, FileNotFoundError) as error:
                found.differ("structure", path, str(error))

    # ---- exports

    def duplicate_files(self) -> tuple[DuplicateFiles, ...]:
        """Return the files of the kinds of duplicates that the last run has searched for. An
        earlier run may have left more files, but those of one run share a fingerprint."""
        found = []
        for kind, about in (self.funnel["duplicates"] if self.funnel else {}).items():
            if not is_plain(kind):
                self.found.differ(
                    "structure",
                    self.layout.root / "funnel.json",
                    f"names duplicates of kind {kind!r}",
                )
                continue
            stage = duplicates_stage(kind)
            records = [
                self.record(self.layout.commit(stage, name), Object) or {}
                for name in self.commits(stage)
            ]
            made = [record.get("fingerprint") for record in records]
            count = next((n for n, one in enumerate(made) if one != made[0]), len(made))
            found.append(DuplicateFiles(kind, count, about["rejected"]))
        return tuple(found)

    def _check_duplicates(self, funnel: FunnelRecord, settings: RunSettings) -> None:
        """Compare the numbers of duplicates with the records of the passes that have searched for
        them."""
        rule = settings.preset.dedup
        asked = "dedup" in settings.stages
        rejects = {PAIR: rule.pairs, IMAGE: rule.images, SEMANTIC: True}
        for files in self.duplicate_files():
            stage = duplicates_stage(files.kind)
            stated = cast(Object, funnel["duplicates"][files.kind])
            of_units = MemberStage.name if files.kind == SEMANTIC else keys_stage(files.kind)
            sums: dict[str, object] = {"rejected": asked and rejects.get(files.kind, False)}
            sums["found"] = self._total(stage, self.commits(stage)[: files.count])
            if not funnel["set_aside"]:  # a unit may have failed after it was compared
                sums["compared"] = self._total(of_units, self.decided)
            for name, value in sums.items():
                if stated[name] != value:
                    what = (
                        f"duplicates.{files.kind}.{name}: {stated[name]}, and {value} by the preset"
                        " and the records"
                    )
                    self.found.differ("structure", self.layout.root / "funnel.json", what)

    def _total(self, stage: str, names: Iterable[str]) -> int:
        records = each(
            lambda name: self.record(self.layout.commit(stage, name), Counted),
            names,
            self.layout.root,
        )
        return sum(record["rows"] for record in records if record)

    def _check_exports(self, funnel: FunnelRecord, models: Models, images: Images) -> set[str]:
        """Check the subset, and the shards or indexes. Return the names of the files in their
        folders."""
        layout = self.layout
        subset = self.layout.root / "subset.npy"
        found = self.found
        if "export" not in funnel["stages"]:
            found.skip("exports: the run made none")
            return set()
        # A unit that failed in the export was decided before, and is in no export.
        units = [
            unit
            for unit in self.plan.units
            if unit.name in self.decided and unit.name not in funnel["set_aside"]
        ]
        with tempfile.TemporaryDirectory(prefix="diht-verify-") as folder:
            target = Path(folder) / subset.name
            listed = None
            try:
                listed = subset_of(layout, units, self.duplicate_files(), target)
            except _DAMAGE as error:
                found.skip(f"{subset}: {_words(error)}")
            if listed is not None and (
                self.files.get(subset.name) is None
                or self._sha256(subset.name) != sha256_file(target)
            ):
                found.differ(
                    "structure", subset, f"does not hold the {counted(listed, 'uid')} of kept/"
                )
        exported = self.record(layout.exported, Object) or {}
        decided = {unit.name: self.decided[unit.name]["fingerprint"] for unit in units}
        if exported and exported.get("fingerprint") != fingerprint_of(decided):
            found.differ("structure", layout.exported, "the exports were made from other decisions")
        leaves = bool(exported.get("leaves"))
        shards = self._check_shards([unit.name for unit in units], leaves, images)
        left = counts_of(shards) if leaves and shards else {}
        for file, name, stated, now in (
            (layout.exported, "uids", exported.get("uids", listed), listed),
            (
                layout.root / "run.json",
                "models.subset.uids",
                models.get("subset", {}).get("uids", listed),
                listed,
            ),
            (layout.exported, "left", exported.get("left", left), left),
            (layout.root / "funnel.json", "left", funnel["left"], left),
        ):
            if now is not None and stated != now:
                found.differ(
                    "structure",
                    file,
                    f"{name}: {stated}, and {now} by kept/ and the records of the exports",
                )
        exports = layout.indexes if leaves else layout.root / "shards"
        lists = (
            {"manifest.json": manifest_of(shards), "sizes.json": sizes_of(shards)} if shards else {}
        )
        if leaves:
            lists.pop("sizes.json", None)
        for name, content in lists.items():
            if self.record(exports / name, Object) != content:
                found.differ("structure", exports / name, "does not list what the records list")
        names = [
            kept_index(layout, shard["shard"]).name if leaves else shard["shard"]
            for shard in shards
        ]
        found.checked.append(
            (
                "structure",
                f"subset.npy and the samples of {counted(len(shards), 'tar')} against kept/",
            )
        )
        return {f"{exports.name}/{name}" for name in (*names, *lists)}

    def _check_shards(self, units: list[str], leaves: bool, images: Images) -> list[Shard]:
        """Compare shards, or the indexes of the input's tars, with kept/. Return what their records
        list."""
        layout = self.layout
        shards: list[Shard] = []
        if not self.commits("export"):  # a run without images
            return shards
        for first, names in (
            tars_of(self.plan, units) if leaves else {unit: [unit] for unit in units}
        ).items():
            path = layout.commit("export", first)
            if (record := self.record(path, ExportRecord)) is None:
                continue
            try:
                now = (
                    self._index(first, names, images)
                    if leaves
                    else self._tars(first, images.get(first))
                )
                pairs = zip_longest(record["shards"], now, fillvalue=dict[str, Any]())
                again = cast(list[Shard], [{**was, **one} for was, one in pairs])
                if again != record["shards"] or record["rows"] != sum(
                    one["samples"] for one in again
                ):
                    self.found.differ(
                        "structure",
                        path,
                        "lists other shards or samples than its files and kept/ have",
                    )
                shards += again if leaves else record["shards"]
            except _DAMAGE as error:
                self.found.differ(
                    "structure", path, f"cannot be compared with kept/: {_words(error)}"
                )
        if self._converted:
            what = (
                "images in shards/ that are PNG and not the bytes that were read, as those that the"
                " export converts"
            )
            self.found.skip(
                f"{self._converted:,} {what}: with the input, sampled ones are compared"
            )
        return shards

    def _index(self, first: str, names: list[str], images: Images) -> list[Mapping[str, object]]:
        """Check the index of the survivors of a tar. Return what its record should list."""
        layout = self.layout
        index = read_index(self.layout.index(first))
        path = self.plan.span(first).path
        kept, shard = kept_samples(
            layout, index, [unit for unit in self.plan.units if unit.span.path == path]
        )
        there = read_index(kept_index(layout, index.name))
        plain = {"rows": None, "starts": None}  # arrays, which are compared apart
        if not np.array_equal(there.rows, kept.rows) or {**vars(there), **plain} != {
            **vars(kept),
            **plain,
        }:
            self.found.differ(
                "structure", kept_index(layout, index.name), "does not list the samples of kept/"
            )
        for unit in names:
            span = self.plan.span(unit)
            now = images.get(unit)
            places = index.rows_between(span.start, span.stop)
            for ordinal, digest in now.digests.items() if now else ():
                assert now
                row = index.rows[places[ordinal]]
                start = int(row["image_at"])
                stop = int(row["image_at"] + row["image_size"])
                content = read_part(now.path, start, stop)
                if places[ordinal] >= 0 and (
                    sha256(content).digest() != digest or hash64(content) != row["image_hash"]
                ):
                    what = f"has another image in bytes {start} to {stop} of {now.path}"
                    self.found.differ(
                        "input", layout.index(first), what, uid_of(row["uid_high"], row["uid_low"])
                    )
        return [{**shard}]

    def _tars(self, unit: str, images: SampledImages | None) -> list[Mapping[str, object]]:
        """Check the shards of a unit. Return what its record should list, without their SHA-256."""
        assert self.funnel  # `check` looks at exports only with it
        kept, ordinals = exported_rows(self.layout, unit)
        numbers = np.unique(ordinals // self.plan.image_rows).tolist()
        records = (
            load_records(self.layout, unit, numbers)
            if "spotting" in self.funnel["stages"]
            else RECORD.empty_table()
        )
        read = zip(records["ordinal"].to_pylist(), records["sha256"].to_pylist(), strict=True)
        digests = {ordinal: digest for ordinal, digest in read if digest}
        sampled = images.digests if images else {}
        shards: list[Mapping[str, object]] = []
        for number, start in enumerate(range(0, len(ordinals), PER_SHARD)):
            path = shard_path(self.layout, unit, number)
            if self._size(self.layout.commit("export", unit), f"shards/{path.name}") is None:
                continue
            part = kept.slice(start, PER_SHARD).to_pylist()
            rows = zip(part, ordinals[start : start + PER_SHARD].tolist(), strict=True)
            samples = self._check_tar(path, rows, digests, sampled)
            shards.append({"shard": path.name, "rows": len(part), "samples": samples})
        return shards

    def _check_tar(
        self,
        path: StorePath,
        rows: Iterable[tuple[Row, int]],
        digests: Mapping[int, bytes],
        sampled: Mapping[int, bytes | None],
    ) -> int:
        """Compare each member of a shard with kept/, and each image with the digest of what was
        read. `sampled` has the digests of members that were made again from the input. Return the
        number of samples."""
        with path.open("rb") as file:
            tar = TarStream(file)
            samples = 0
            members = ((member.name, tar.content(member)) for member in tar)
            ahead = next(members, None)
            for row, ordinal in rows:
                expected = sampled.get(ordinal, digests.get(ordinal))
                if ahead is None or ahead[0].rpartition(".")[0] != key_of(row, ordinal):
                    if expected is not None:
                        self.found.differ(
                            "structure",
                            path,
                            "has no sample, although its image was read",
                            row["uid"],
                        )
                    continue
                digest = sha256(ahead[1]).digest()
                # Otherwise None: it cannot be exported.
                unknown = expected is None and ordinal not in sampled
                if not unknown and expected != digest:
                    if ordinal not in sampled and ahead[0].endswith(".png"):
                        self._converted += 1
                    else:
                        part: Part = "input" if ordinal in sampled else "structure"
                        self.found.differ(part, path, "has another image than was read", row["uid"])
                for member in members_of(row, ordinal, ahead[1]):
                    if ahead != member:
                        what = (
                            f"has {ahead[0] if ahead else 'its end'} in place of {member[0]} by"
                            " kept/"
                        )
                        self.found.differ("structure", path, what, row["uid"])
                        return samples
                    ahead = next(members, None)
                samples += 1
            if ahead is not None:
                self.found.differ("structure", path, f"has {ahead[0]}, which is of no row in kept/")
        return samples
