"""Paths of the files in an output folder."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from open_diht.pipelines.store.storage import StorePath, is_local

KINDS = ("kept", "rejected", "dead_letter")
"""Kinds of results. Each kind has a folder with at most one part file of a unit, which may have no
rows."""
CARD = "README.md"
"""Name of the data set card."""
CROISSANT = "croissant.json"
"""Name of the description of the data set for programs, with its provenance."""
CARD_MARK = (
    "<!-- A card of open-diht; without this line it is yours, and the next publication leaves it"
    " alone. -->"
)
_OF_STAGES = ("commits", "data", "dead", "failed", "progress", "begun", "deaths")
"""Subfolders that a stage may have in its folder of `work/`."""


@dataclass(frozen=True)
class Layout:
    """Paths of one output folder."""

    root: StorePath

    @property
    def work(self) -> StorePath:
        """Folder of annotations and commit records, needed to resume and to decide by another
        preset."""
        return self.root / "work"

    @property
    def scratch(self) -> Path:
        """Local folder of the progress files and logs: `work`, or a folder of this machine if
        `work` is in a store."""
        work = self.work
        if is_local(work):
            return work
        name = hashlib.sha256(str(self.root).encode()).hexdigest()[:12]
        # Containers have users without names.
        return Path(tempfile.gettempdir()) / f"diht-{os.getuid()}-{name}"

    @property
    def plan(self) -> StorePath:
        """File of the plan, see `open_diht.pipelines.manifests.plan`."""
        return self.work / "plan.json"

    @property
    def exported(self) -> StorePath:
        """Commit record of the subset and the shards or indexes. It names the decisions that they
        were made from."""
        return self.work / "exported.json"

    def commits(self, stage: str) -> StorePath:
        return self.work / stage / "commits"

    def commit(self, stage: str, unit: str) -> StorePath:
        return self.commits(stage) / f"{unit}.json"

    def fingerprints(self, stage: str) -> StorePath:
        """Return the path of a stage's `Fingerprints`. Each stage has its own file, because a
        worker that outlives its driver must not read the fingerprints of a later stage."""
        return self.work / stage / "fingerprints.json"

    def failed(self, stage: str, unit: str) -> StorePath:
        """Return the path of the record of a unit that is quarantined in a stage."""
        return self.work / stage / "failed" / f"{unit}.json"

    def data(self, stage: str, unit: str) -> StorePath:
        """Return the path of the table with a stage's results for a unit."""
        return self.work / stage / "data" / f"{unit}.parquet"

    def slices(self, stage: str, unit: str) -> StorePath:
        """Return the path of a stage's records for a unit, mostly in slices (see
        stages/slices.py)."""
        return self.work / stage / "data" / f"{unit}.slices"

    def dead(self, unit: str) -> StorePath:
        """Return the path of the table of those manifest rows of a unit that could not be read."""
        return self.work / "captions" / "dead" / f"{unit}.parquet"

    def marks(self, stage: str) -> StorePath:
        """Return the folder with a file for each unit that a worker is running. The driver sees it
        wherever the worker is."""
        return self.work / stage / "progress"

    def progress(self, stage: str, unit: str) -> Path:
        """Return the path of the file with the progress of a running unit, see `Heartbeat`. If the
        output is on a disk, this is the file in `marks`."""
        return self.scratch / stage / "progress" / unit

    def deaths(self, stage: str, unit: str) -> StorePath:
        """Return the path of the record of deaths of workers that were running a unit."""
        return self.work / stage / "deaths" / f"{unit}.json"

    def part(self, kind: str, unit: str) -> StorePath:
        """Return the path of a unit's file of results of a kind, one of `KINDS`."""
        return self.root / kind / f"part-{unit}.parquet"

    def index(self, unit: str) -> StorePath:
        """Return the path of the index of all samples of a tar. `unit` is the tar's first unit that
        has not failed."""
        return self.work / "index" / "data" / f"{unit}.npz"

    @property
    def indexes(self) -> StorePath:
        """Folder of the indexes of kept samples in the input's tars."""
        return self.root / "index"

    def shards(self, unit: str) -> StorePath:
        """Return the common prefix of the paths of a unit's shards, without number and ending."""
        return self.root / "shards" / unit

    def folders(self) -> Iterator[StorePath]:
        """Yield the folders in which killed runs may leave temporary files, whether they exist or
        not. Folders of `work/` without a folder `commits` or `progress` may be the user's and are
        left out."""
        shards = self.root / "shards"
        kinds = (*KINDS, "targets")
        yield from (
            self.root,
            *(self.root / kind for kind in kinds),
            shards,
            shards / ".index",
            self.indexes,
        )
        yield self.work
        for stage in self.work.iterdir() if self.work.is_dir() else ():
            if (stage / "progress").is_dir() or (stage / "commits").is_dir():
                yield from (stage, *(stage / name for name in _OF_STAGES))


def image_unit_name(unit: str, image_unit: int) -> str:
    """Return the name of an image unit, given its caption unit and its number in the caption
    unit."""
    return f"{unit}.{image_unit:04d}"


def place_of(image_unit: str) -> tuple[str, int]:
    """Return the caption unit of an image unit, and the number of the image unit in the caption
    unit."""
    unit, _, number = image_unit.rpartition(".")
    return unit, int(number)


def unit_of(name: str) -> str:
    """Return the caption unit of an image unit or of a segment; a caption unit is returned
    unchanged."""
    return name.partition(".")[0]


def segment_name(image_unit: str, segment: int) -> str:
    return f"{image_unit}.g{segment}"
