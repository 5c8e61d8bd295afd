"""Download the files and archives in a task's `fetch` entry to where its sources expect them."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_diht.common.fields import BadValue, Positive, converted
from open_diht.common.files import published_folder
from open_diht.eval.errors import FetchFailed, WrongUse
from open_diht.eval.fetch.archives import below, unpack
from open_diht.eval.fetch.download import Fetcher, Remote
from open_diht.eval.fetch.hub import HubSet

ARCHIVES = "archives"
"""Folder below the data folder for archives that are not yet unpacked, and folders that are not yet
complete."""
DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="
"""Address of Google Drive's files by id, without the confirmation page about virus scans."""
ROWS = "rows.jsonl"
BATCH = 64
"""Rows of a parquet file that are converted at once. A row may hold an image of several
megabytes."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    file: str
    """A file's address, or its name in the data set `hub`. A name in `hub` that ends in "/" is a
    folder."""
    hub: str = ""
    """`owner/name` of a data set on the hub."""
    drive: str = ""
    """The id of `file` on Google Drive, in place of `hub` or a URL."""
    each: str = ""
    """Path below the data folder of a list of names that an earlier entry fetches. Each name is
    then a file in the folder `to`; `file` is its address with {name}, or {0}, {1}, ... for the
    name's parts between underscores."""
    to: str = ""
    """Target of the file or folder, below the data folder."""
    unpack: Mapping[str, str] = field(default_factory=dict)
    """Maps members of a zip or tar, or folders in it (with a "/" at the end), to targets. The
    archive is removed afterwards."""
    rows: str = ""
    """The folder for `rows.jsonl` and images, made from the parquet files of `hub` whose names
    begin with `file`."""
    size: Positive | None = None
    """Size in bytes, approximate for a file of `each`. None asks the server. It is unused for
    `hub`, which lists sizes."""
    digest: str | None = None
    """`md5:...`, `sha256:...` or `git:...`, if known; unused for a file of `hub` or `each`."""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.to, self.unpack, self.rows))) != 1 or (self.many and self.unpack):
            raise ValueError(
                f"{self.file} takes one of `to`, `unpack` and `rows`, and a folder no `unpack`"
            )
        if (self.file.endswith("/") or self.rows) and not self.hub:
            raise ValueError(
                f"{self.file} stands for several files, which only a data set of the hub has"
            )
        if self.hub and self.drive:
            raise ValueError(f"{self.file} lies on the hub or on Google Drive, not on both")

    @property
    def many(self) -> bool:
        """True if the entry names several files."""
        return bool(self.each or self.rows) or self.file.endswith("/")

    @property
    def targets(self) -> list[str]:
        """Targets of the entry below the data folder."""
        return list(self.unpack.values()) or [self.to or self.rows]


def fetch_files(name: str, entries: Sequence[Any], fetcher: Fetcher) -> None:
    """Download the files that `fetch.files` of a task lists. Raises `WrongUse` for an invalid
    entry."""
    try:
        listed: tuple[FileEntry, ...] = converted(
            tuple[FileEntry, ...], list(entries), "fetch.files"
        )
    except BadValue as error:
        raise WrongUse(f"task {name}: {error}") from None
    missing = [
        entry
        for entry in listed
        if not all((fetcher.root / target).exists() for target in entry.targets)
    ]
    if not missing:
        fetcher.say(f"{name}: already in {fetcher.root}")
        return
    # List each data set of the hub once.
    hubs = {hub: HubSet(hub) for hub in dict.fromkeys(entry.hub for entry in missing) if hub}
    single = [entry for entry in missing if not entry.many]
    remotes = [_remote(entry, hubs, fetcher.root) for entry in single]
    if fetcher.get(name, remotes):
        for entry, remote in zip(single, remotes, strict=True):
            if entry.unpack:
                unpack(
                    remote.path,
                    {inside: fetcher.root / target for inside, target in entry.unpack.items()},
                )
                remote.path.unlink()
    for entry in missing:
        if entry.many:
            _fetch_folder(name, entry, hubs, fetcher)
    if not fetcher.sizes_only:
        fetcher.say(f"{name}: in {fetcher.root}")


def _fetch_folder(
    name: str, entry: FileEntry, hubs: Mapping[str, HubSet], fetcher: Fetcher
) -> None:
    """Download all files of an entry that is a folder: they are collected below ARCHIVES until all
    are there."""
    target = fetcher.root / (entry.to or entry.rows)
    building = fetcher.root / ARCHIVES / (entry.to or entry.rows)
    if entry.hub:
        remotes = [
            hubs[entry.hub].remote(file, below(building, file.removeprefix(entry.file)))
            for file in hubs[entry.hub].files
            if file.startswith(entry.file)
        ]
    elif not (fetcher.root / entry.each).is_file():
        size = f", about {entry.size / 1e3:.0f} kB each" if entry.size else ""
        fetcher.say(f"{name}: and the files that {entry.each} names{size}")
        return
    else:
        names = (fetcher.root / entry.each).read_text(encoding="utf-8").split()
        # A name that is listed twice is fetched once.
        addresses = {
            key: entry.file.format(*key.split("_"), name=key) for key in dict.fromkeys(names)
        }
        remotes = [
            Remote(url=url, path=below(building, key), size=entry.size)
            for key, url in addresses.items()
        ]
    if not remotes:
        raise FetchFailed(
            f"{name}: there are no files in {entry.file} of {entry.hub or entry.each}"
        )
    if fetcher.get(name, remotes):
        target.parent.mkdir(parents=True, exist_ok=True)
        if entry.rows:
            write_rows([remote.path for remote in remotes], target)
            shutil.rmtree(building)
        else:
            building.replace(target)


def _remote(entry: FileEntry, hubs: Mapping[str, HubSet], root: Path) -> Remote:
    # The hash keeps archives of one name apart, here and in the record of their hashes.
    place = hashlib.sha256(f"{entry.hub}{entry.drive}/{entry.file}".encode()).hexdigest()[:8]
    path = root / (entry.to or f"{ARCHIVES}/{place}-{entry.file.rpartition('/')[2]}")
    if entry.hub:
        return hubs[entry.hub].remote(entry.file, path)
    return Remote(
        url=f"{DRIVE}{entry.drive}" if entry.drive else entry.file,
        path=path,
        size=entry.size,
        digest=entry.digest,
    )


def write_rows(files: Sequence[Path], target: Path) -> int:
    """Write the rows to `target`/rows.jsonl and their images to `target`/images, completely or not
    at all. Images are named by content, so equal ones with the same suffix are written once. In its
    column, an image is replaced by its path below `target`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 0
    with published_folder(target) as building, (building / ROWS).open("w", encoding="utf-8") as out:
        (building / "images").mkdir()
        for path in files:
            try:
                for batch in pq.ParquetFile(path).iter_batches(BATCH):
                    for row in batch.to_pylist():
                        out.write(
                            json.dumps(
                                {name: _saved(value, building) for name, value in row.items()}
                            )
                            + "\n"
                        )
                        count += 1
            except (pa.ArrowException, OSError, TypeError, ValueError) as error:
                raise FetchFailed(
                    f"{path} cannot be converted to rows ({error}); if it is damaged, remove it and"
                    " run again"
                ) from None
        if not count:
            raise FetchFailed(f"there are no rows in {', '.join(str(path) for path in files)}")
    return count


def _saved(value: Any, building: Path) -> Any:
    """Return a column's value; an image in the hub's form {bytes, path} is written and replaced by
    its path."""
    if not (isinstance(value, dict) and set(value) == {"bytes", "path"} and value["bytes"]):
        return value
    # Named by content, so that equal images with the same suffix are one file.
    digest = hashlib.sha256(value["bytes"]).hexdigest()[:24]
    name = f"images/{digest}{Path(value['path'] or '').suffix.lower()}"
    if not (building / name).exists():
        (building / name).write_bytes(value["bytes"])
    return name
