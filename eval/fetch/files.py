"""Sets that are published as files and archives: what a task's `fetch` entry lists, put where its sources look."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.fields import BadValue, Positive, converted
from common.files import published, published_folder
from eval.errors import FetchFailed, WrongUse
from eval.fetch.fetcher import Fetcher, Remote
from eval.fetch.hub import HubSet

ARCHIVES = "archives"
"""Folder below the data folder where archives wait to be unpacked."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """An entry of `fetch.files`."""

    file: str
    """Address, or the name of a file of the data set `hub`, of which a name that ends in "/" is a folder."""
    hub: str = ""
    """`owner/name` of a data set on the hub."""
    each: str = ""
    """A list of names below the data folder, which an entry before this one brings: `file` is then the pattern of an
    address over {name} and its parts between underscores, {0}, {1}, ..., and `to` a folder."""
    to: str = ""
    """Where the file, or the folder, goes, below the data folder."""
    unpack: Mapping[str, str] = field(default_factory=dict)
    """Or, for a zip: members, or folders in it that end in "/", and where they go; the archive is then removed."""
    size: Positive | None = None
    """Bytes, where they are known, of a file of `each` about; else the server is asked."""
    digest: str | None = None
    """`md5:...`, `sha256:...` or `git:...`, where it is known."""

    @property
    def many(self) -> bool:
        """Whether it stands for a folder of files."""
        return bool(self.each) or self.file.endswith("/")


def fetch_files(name: str, entries: Sequence[Any], fetcher: Fetcher) -> None:
    """What the task `name` lists. Raises `WrongUse` for an entry that says nothing, `FetchFailed`."""
    listed = [_listed(name, entry) for entry in entries]
    missing = [one for one in listed if not all((fetcher.root / target).exists() for target in _targets(one))]
    if not missing:
        fetcher.say(f"{name}: at hand in {fetcher.root}")
        return
    hubs = {hub: HubSet(hub) for hub in dict.fromkeys(one.hub for one in missing) if hub}
    single = [one for one in missing if not one.many]
    remotes = [_remote(one, hubs, fetcher.root) for one in single]
    if fetcher.get(name, remotes):
        for one, remote in zip(single, remotes, strict=True):
            if one.unpack:
                unpack(remote.path, {inside: fetcher.root / target for inside, target in one.unpack.items()})
                remote.path.unlink()
    for one in missing:
        if one.many:
            _fetch_folder(name, one, hubs, fetcher)
    if not fetcher.sizes_only:
        fetcher.say(f"{name}: in {fetcher.root}")


def _fetch_folder(name: str, one: Listed, hubs: Mapping[str, HubSet], fetcher: Fetcher) -> None:
    """All files of an entry that is a folder, which appears when it is whole; what came before waits in ARCHIVES."""
    building = fetcher.root / ARCHIVES / one.to
    if one.hub:
        remotes = [
            hubs[one.hub].remote(file, _below(building, file.removeprefix(one.file)))
            for file in hubs[one.hub].files
            if file.startswith(one.file)
        ]
    elif not (fetcher.root / one.each).is_file():
        fetcher.say(f"{name}: and the files that {one.each} names, about {(one.size or 0) / 1e3:.0f} kB each")
        return
    else:
        names = (fetcher.root / one.each).read_text(encoding="utf-8").split()
        addresses = {found: one.file.format(*found.split("_"), name=found) for found in dict.fromkeys(names)}
        remotes = [Remote(url=url, path=_below(building, found), size=one.size) for found, url in addresses.items()]
    if not remotes:
        raise FetchFailed(f"{name}: there are no files in {one.file} of {one.hub or one.each}")
    if fetcher.get(name, remotes):
        target = fetcher.root / one.to
        target.parent.mkdir(parents=True, exist_ok=True)
        building.replace(target)


def unpack(archive: Path, members: Mapping[str, Path]) -> None:
    """Members of a zip, and whole folders of it ("name/"), each to its path, whole or not at all. Raises `FetchFailed`
    where one is not in it."""
    try:
        with zipfile.ZipFile(archive) as packed:
            for inside, target in members.items():
                files = [one for one in packed.namelist() if not one.endswith("/")]
                names = [one for one in files if one == inside or (inside.endswith("/") and one.startswith(inside))]
                if not names:
                    raise FetchFailed(f"{archive} has no {inside}; it was changed at its source")
                if not inside.endswith("/"):
                    with published(target) as building:
                        _copy(packed, inside, building)
                    continue
                with published_folder(target) as folder:
                    for one in names:
                        _copy(packed, one, _below(folder, one.removeprefix(inside)))
    except zipfile.BadZipFile as error:
        raise FetchFailed(f"{archive} is no zip ({error}); remove it and run the same command again") from None


def _copy(packed: zipfile.ZipFile, member: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with packed.open(member) as source, path.open("wb") as out:
        shutil.copyfileobj(source, out)


def _below(folder: Path, name: str) -> Path:
    if name.startswith("/") or ".." in Path(name).parts:
        raise FetchFailed(f"{name!r} leads out of its folder; nothing was kept")
    return folder / name


def _listed(name: str, entry: Any) -> Listed:
    try:
        one: Listed = converted(Listed, entry, "fetch.files")
    except BadValue as error:
        raise WrongUse(f"task {name}: {error}") from None
    if bool(one.to) == bool(one.unpack) or (one.many and not one.to):
        raise WrongUse(f"task {name}: {one.file} takes either `to` or `unpack`, and a folder `to`")
    if one.file.endswith("/") and not one.hub:
        raise WrongUse(f"task {name}: {one.file} is a folder, which only a data set of the hub has")
    return one


def _targets(one: Listed) -> list[str]:
    return [one.to] if one.to else list(one.unpack.values())


def _remote(one: Listed, hubs: Mapping[str, HubSet], root: Path) -> Remote:
    path = root / (one.to or f"{ARCHIVES}/{one.file.rpartition('/')[2]}")
    if one.hub:
        return hubs[one.hub].remote(one.file, path)
    return Remote(url=one.file, path=path, size=one.size, digest=one.digest)
