"""The types of records on disk, and commit records.

A unit is done only if its commit record exists, with all files that the record vouches for. The
type of `funnel.json` is in `report/funnel.py`, next to what sums it up.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NotRequired, Self, TypedDict, cast

from open_diht.common.shard_index import IndexCounts, Shard
from open_diht.pipelines.store.commit import (
    CorruptRecord,
    RunFailed,
    publish_json,
    read_json,
    remove,
    take_digest,
)
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.storage import StorePath, each, size_of, sizes

Models = dict[str, dict[str, Any]]
"""Facts about the models and settings of stages, by stage, as run.json has them. Each stage,
including those of plugins, chooses its own."""


class Broken(TypedDict):
    """Why a file could not be read completely, in the form stored in plans and commit records."""

    path: str
    error: str
    message: str


class CommitRecord(TypedDict, total=False):
    """Keys that commit records may have, for readers of records of any stage. Types such as
    `DecideRecord` have the keys that all records of one stage have."""

    unit: str
    stage: str  # `Stage.part_of` if that is set, else the name of the stage
    fingerprint: str  # see `Stage.fingerprint`
    # fencing token of the run that wrote the record, see `locking`; a number in older records
    token: str | int
    seconds: float  # by the clock, of the runs that made or extended the results
    cpu_seconds: float  # of the worker and its helpers in these runs; missing in older records
    files: dict[str, int]  # bytes of each file that the record vouches for, by path in OUTPUT
    # SHA-256 of those of these files that were published with it; missing in older records.
    hashes: dict[str, str]
    # Records of caption units and of passes over them have these.
    rows: int
    rejected: dict[str, int]  # see `DecideRecord`
    dead: int | dict[str, int]  # see `CaptionRecord` and `DecideRecord`
    # Records of image units have these.
    segments: int  # number of segments
    covers: list[str]  # names of the sets of rows that they contain
    images: (
        int  # number of times that a row's image was asked for: `spotting`, and stages that encode
    )
    bad: int  # number of these without an embedding: stages that encode
    temperature: float  # the model's own: `score`
    downloads: list[Any] | None  # `state_of` the downloads that were read: `spotting`
    root: str | None  # `images_root` of the data set: `spotting`
    # Records of stage `download` have these.
    found: str  # digest of the results
    urls: int  # number of rows asked for
    asked: int  # number of URLs that the last run requested, but for known dead links
    unreachable: int  # number of these that were not reached
    statuses: dict[str, int]  # number of rows by status
    bytes: int  # size of the stored images
    limits: dict[str, object]  # see `DownloadSettings.limits`
    # Records of other stages have these.
    kinds: dict[str, str]  # "numbers" or "words", by stored name: `columns`
    annotated: bool  # this and the next five: see `CaptionRecord`
    lean: bool
    columns: dict[str, object]
    values: dict[str, str]
    extent: int
    slow: str | None
    shards: list[Shard]  # see `ExportRecord`
    comparing_seconds: float  # part of `seconds`: the pass that corrects scores
    threshold: float | None  # the pass over all units that finds the thresholds of scores
    clusters: int  # this and the next: the pass over all units that finds centroids
    dimension: int
    # Layout.exported has these.
    leaves: bool  # whether the input's tars stay
    uids: int  # number of uids in subset.npy
    left: IndexCounts  # see `Export.make`


class CaptionRecord(TypedDict):
    """The fields of a `captions` commit record, in addition to those of all records."""

    annotated: bool
    """Whether captions were parsed."""
    rows: int
    good: int
    dead: int
    """`rows` = `good` + `dead`."""
    extent: int
    """Index after the last row that was read; larger than `rows` if rows before it are damaged."""
    own_uids: int
    """Number of good rows whose uid is the manifest's."""
    without_url: int
    lean: bool
    """See `RunSettings.lean`."""
    unparsed: int
    """Number of captions of good rows that were not parsed because of `lean`."""
    moves: dict[str, float] | None
    """Sums of the changes by second opinions, see `Moves`, or None if the run asks for no second
    opinions."""
    columns: dict[str, object]
    """Conditions on manifest columns, in the form of a preset. Rows that they reject were not
    parsed."""
    values: NotRequired[dict[str, str]]
    """Maps the name of each of these conditions to its `values_fingerprint`."""
    captions: NotRequired[int]
    """Number of captions of the good rows, if a row may have several."""
    slow: str | None
    """See `CaptionParser.slow`."""
    broken: Broken | None


class ColumnRecord(TypedDict):
    """The field of a `columns` commit record, in addition to those of all records."""

    kinds: dict[str, str]
    """"numbers" or "words", by stored name."""


class DecideRecord(TypedDict):
    """The fields of a `decide` commit record, in addition to those of all records."""

    rows: int
    kept: int
    rejected: dict[str, int]
    """Number of rows by reason."""
    dead: dict[str, int]
    """Number of rows among the dead letters, by error."""
    lost: dict[str, int]
    """Number of rows among the dead letters, by the stage that failed."""
    histograms: dict[str, dict[str, int]]
    """Number of rows by value for complexity, actions and overlap, and by bin for columns, scores
    and other numbers that have conditions."""
    captions: NotRequired[dict[str, int]]
    """Number of captions by reason, if a row may have several: `KEPT` if they passed, `DEAD` in
    dead-letter rows."""
    examples: dict[str, list[int]]
    """Ordinals of example rows, by reason, "kept" or `DEAD`."""


class ExportRecord(TypedDict):
    """The fields of an `export` commit record, in addition to those of all records."""

    rows: int
    shards: list[Shard]


class InputFile(TypedDict):
    """A readable input file in a plan."""

    path: str
    rows: int | None
    bytes: int
    fingerprint: str
    urls_only: NotRequired[bool]  # whether it has URLs and no images


class SpanRecord(TypedDict):
    """A `Span` without what the plan's `files` and inspections have."""

    path: str
    format: str
    start: int
    stop: int
    rows: int
    exact: bool
    fingerprint: NotRequired[str]  # plans of early versions have only the fingerprint of the file


class UnitRecord(TypedDict):
    name: str
    span: SpanRecord


class PlanRecord(TypedDict):
    """The fields of `plan.json`, see `Plan`."""

    fingerprint: str
    units: list[UnitRecord]
    image_rows: int
    images: bool
    unreadable: list[Broken]
    rows: int
    files: list[InputFile]
    pins: NotRequired[dict[str, str]]
    inspected: NotRequired[dict[str, Any]]
    """`Plan.infos`; plans of early versions have none."""


class SourceRecord(TypedDict):
    """How a run read its input."""

    name: NotRequired[str]
    input: NotRequired[str]
    roles: NotRequired[dict[str, str | list[str] | None]]
    read_as: NotRequired[dict[str, object]]
    commits: NotRequired[dict[str, str]]


class RunRecord(TypedDict):
    """The fields of `run.json` by which an output is read."""

    preset: dict[str, object]
    stages: list[str]
    dataset: SourceRecord
    command: NotRequired[list[str]]
    plugins: NotRequired[list[str]]


class WholeRunRecord(RunRecord):
    """All fields of `run.json`. Those that only people read may be absent."""

    models: Models
    files: list[InputFile]
    plan: dict[str, object]
    """The plan's fingerprint and number of units."""
    export: NotRequired[str]
    began: NotRequired[str]
    """In the form 2026-01-31T12:00:00Z."""
    seconds: NotRequired[float]
    workers: NotRequired[int]
    runner: NotRequired[str]
    versions: NotRequired[dict[str, str]]


def caption_record(layout: Layout, unit: str) -> CaptionRecord:
    """Return the `captions` commit record of a unit. Raise RunFailed if it is missing."""
    record: CaptionRecord | None = read_json(layout.commit("captions", unit))
    if record is None:
        raise gone(layout, "captions", unit)
    return record


def gone(layout: Layout, stage: str, unit: str) -> RunFailed:
    """Return the error of a commit record that is missing."""
    return RunFailed(
        f"the commit record of unit {unit} of stage {stage} in {layout.root} is gone; run the same"
        " command to resume"
    )


def publish_record(
    layout: Layout,
    path: StorePath,
    record: Mapping[str, object],
    files: Iterable[StorePath],
    planned: bool = True,
) -> CommitRecord:
    """Write a commit record, and return it.

    It vouches for the sizes of those `files` that exist, with the hashes of those that this process
    has published, and for the files in its entries `files` and `hashes`, which are from an earlier
    record. Raise RunFailed if the output folder has lost its plan, because the folder was removed
    meanwhile. Without `planned` it needs no plan.
    """
    if planned and not layout.plan.exists():
        raise RunFailed(removed(layout))
    known = cast(CommitRecord, record)
    given = list(files)
    sized = zip(given, each(size_of, given, layout.root), strict=True)
    there = {_name(layout, file): size for file, size in sized if size is not None}
    digests = {
        _name(layout, file): digest for file in given if (digest := take_digest(file)) is not None
    }
    hashes = known.get("hashes", {}) | {name: digests[name] for name in there if name in digests}
    whole: CommitRecord = {**known, "files": known.get("files", {}) | there}
    if hashes:
        whole["hashes"] = hashes
    publish_json(path, whole)
    take_digest(path)
    return whole


def removed(layout: Layout) -> str:
    """Return the error message for an output folder that was removed during the run."""
    return (
        f"OUTPUT {layout.root} was removed or emptied while the run was working in it"
        f" ({layout.plan} is gone); its results are lost. To start over, remove {layout.work} if"
        " units that were being worked on have made it again, and run the same command"
    )


class Vouched:
    """Checks whether the files that records vouch for exist. Each folder is listed once, on first
    use."""

    def __init__(self, layout: Layout):
        self._layout = layout
        self._listed: dict[str, dict[str, int]] = {}

    def read(self, path: StorePath) -> CommitRecord | None:
        """Return the record in a file, or {} if it is corrupt. Return None if there is no file or
        it holds null."""
        try:
            record: CommitRecord | None = read_json(path)
        except CorruptRecord:
            return {}
        return record if isinstance(record, dict) or record is None else {}

    def holds(self, record: CommitRecord) -> bool:
        """Return whether a record has `files`, and all these files exist with their recorded
        sizes."""
        return "files" in record and all(
            self._is_there(name, size) for name, size in record["files"].items()
        )

    def retract(self, path: StorePath, record: CommitRecord) -> bool:
        """Delete a record whose files are missing, unless another shard has meanwhile replaced or
        deleted it. Return whether it was deleted."""
        if self.read(path) != record:
            return False
        remove(path)
        return True

    def current(self, path: StorePath) -> CommitRecord:
        """Return the record in a file if it and all its files are intact. Otherwise return {}."""
        record = self.read(path)
        return record if record and self.holds(record) else {}

    def _is_there(self, name: str, size: int) -> bool:
        folder, _, file = name.rpartition("/")
        if folder not in self._listed:
            self._listed[folder] = sizes(
                self._layout.root / folder if folder else self._layout.root
            )
        # Another shard may have written the file since the listing.
        return self._listed[folder].get(file) == size or size_of(self._layout.root / name) == size


def _name(layout: Layout, file: StorePath) -> str:
    return str(file).removeprefix(str(layout.root)).lstrip("/")


def fingerprint_of(*parts: Any) -> str:
    """Return a hash of the parts, 16 hex digits."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of a stage's units, by unit name. Pickling sends only the path of their file
    to the workers."""

    path: StorePath

    @classmethod
    def published(cls, layout: Layout, stage: str, units: Mapping[str, str]) -> Self:
        """Write the fingerprints of a stage. The stage is made with the result, so the file exists
        before it starts."""
        path = layout.fingerprints(stage)
        publish_json(path, dict(units))
        return cls(path)

    def __getitem__(self, unit: str) -> str:
        return self._units[unit]

    @cached_property
    def _units(self) -> dict[str, str]:
        by_unit: dict[str, str] | None = read_json(self.path)
        if by_unit is None:
            raise FileNotFoundError(
                f"{self.path} is missing; is the output folder on storage that all workers see?"
            )
        return by_unit

    def __getstate__(self) -> dict[str, StorePath]:
        return {"path": self.path}
