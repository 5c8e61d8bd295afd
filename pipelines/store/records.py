"""Commit records. A unit is done only if its record exists, with all files that the record vouches
for."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypedDict

from open_diht.common.shard_index import IndexCounts
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


class CommitRecord(TypedDict, total=False):
    """Keys of commit records that all or several stages have. Types such as `DecideRecord` have the
    other keys."""

    unit: str
    stage: str  # `Stage.part_of` if that is set, else the name of the stage
    fingerprint: str  # see `Stage.fingerprint`
    # fencing token of the run that wrote the record, see `locking`; a number in older records
    token: str
    seconds: float  # by the clock, of the runs that made or extended the results
    cpu_seconds: float  # of the worker and its helpers in these runs; missing in older records
    files: dict[str, int]  # bytes of each file that the record vouches for, by path in OUTPUT
    hashes: dict[
        str, str
    ]  # SHA-256 of those of these files that were published with it; missing in older records
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
    annotated: bool  # this and the next three: see `CaptionRecord`
    lean: bool
    columns: dict[str, object]
    values: dict[str, str]
    # Layout.exported has these.
    leaves: bool  # whether the input's tars stay
    uids: int  # number of uids in subset.npy
    left: IndexCounts  # see `Export.make`


def publish_record(
    layout: Layout,
    path: StorePath,
    record: Mapping[str, Any],
    files: Iterable[StorePath],
    planned: bool = True,
) -> dict[str, Any]:
    """Write a commit record, and return it.

    It vouches for the sizes of those `files` that exist, with the hashes of those that this process
    has published, and for the files in its entries `files` and `hashes`, which are from an earlier
    record. Raise RunFailed if the output folder has lost its plan, because the folder was removed
    meanwhile. Without `planned` it needs no plan.
    """
    if planned and not layout.plan.exists():
        raise RunFailed(removed(layout))
    given = list(files)
    found = zip(given, each(size_of, given, layout.root), strict=True)
    known = {_name(layout, file): size for file, size in found if size is not None}
    taken = {
        _name(layout, file): digest for file in given if (digest := take_digest(file)) is not None
    }
    hashes = {**record.get("hashes", {}), **{name: taken[name] for name in known if name in taken}}
    whole = {
        **record,
        "files": {**record.get("files", {}), **known},
        **({"hashes": hashes} if hashes else {}),
    }
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
            found: CommitRecord | None = read_json(path)
        except CorruptRecord:
            return {}
        return found if isinstance(found, dict) or found is None else {}

    def holds(self, record: Mapping[str, Any]) -> bool:
        """Return whether a record has `files`, and all these files exist with their recorded
        sizes."""
        return "files" in record and all(
            self._is_there(name, size) for name, size in record["files"].items()
        )

    def retract(self, path: StorePath, record: Mapping[str, Any]) -> bool:
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
        found: dict[str, str] | None = read_json(self.path)
        if found is None:
            raise FileNotFoundError(
                f"{self.path} is missing; is the output folder on storage that all workers see?"
            )
        return found

    def __getstate__(self) -> dict[str, StorePath]:
        return {"path": self.path}
