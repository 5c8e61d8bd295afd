"""Fetching the files of a set: how large they are is said first, what arrives is checked, and its hash is kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from open_diht.eval.errors import FetchFailed
from open_diht.eval.fetch.checksums import Sums, digest_of
from open_diht.eval.fetch.download import download, size_of

Say = Callable[[str], None]
LINES = 20
"""Lines on how far a set of many files is, about."""


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file on a server, and where it goes."""

    url: str
    path: Path
    size: int | None = None
    """Bytes; None where its server has to be asked."""
    digest: str | None = None
    """`sha256:hex`, `md5:hex` or `git:hex` that its source publishes or we know; None where there is none."""
    token: str | None = None


class Fetcher:
    """Fetches into the data folder `root` and tells by `say`; with `sizes_only` it tells and fetches nothing."""

    def __init__(self, root: Path, say: Say, *, sizes_only: bool = False, zero_shot: bool = False):
        self.root, self.say, self.sizes_only, self.zero_shot = root, say, sizes_only, zero_shot
        self._sums = Sums(root)

    def announce(self, what: str, size: int | None, how: str) -> bool:
        """Say what would be fetched by other means than files; whether to go on."""
        self.say(f"{what}: {'size not published' if size is None else _bytes(size)}, {how}")
        return not self.sizes_only

    def get(self, what: str, remotes: Sequence[Remote]) -> bool:
        """Fetch those that are not there; whether all are there now (False: only sizes were asked for). Raises
        `FetchFailed`, before anything is fetched where the disk is too small."""
        missing = [_sized(one) for one in remotes if not one.path.exists()]
        if not missing:
            return not self.sizes_only
        total, free = sum(one.size or 0 for one in missing), _free(self.root)
        unsaid = sum(one.size is None for one in missing)
        unknown = f" and {unsaid} of a size that their server does not say" if unsaid else ""
        self.say(f"{what}: {_count(len(missing))}, {_bytes(total)}{unknown}, into {self.root} ({_bytes(free)} free)")
        if self.sizes_only:
            return False
        if total > free:
            raise FetchFailed(
                f"{what}: {_bytes(total)} to fetch, {_bytes(free)} free in {self.root}; name another --data"
            )
        first = 0
        for number, one in enumerate(missing, start=1):
            first += self._get(what, one)
            if number < len(missing) and number % max(1, len(missing) // LINES) == 0:
                self.say(f"{what}: {number} of {_count(len(missing))}")
        checked = len(missing) - first
        kept = f"; no hash is published for {first}, kept in SHA256SUMS to compare with later" if first else ""
        self.say(f"{what}: {_count(len(missing))} fetched, {checked} checked by hash{kept}")
        return True

    def _get(self, what: str, one: Remote) -> bool:
        """Whether this was the first fetch of a file for which there is no hash."""
        known = self._sums.known(one.path)
        download(one.url, one.path, digest=one.digest or known, token=one.token)
        found = digest_of(one.path, "sha256")
        if known not in (None, found):
            self.say(
                f"{what}: {one.path.name} is another file than when it was first fetched; so is its published hash"
            )
        self._sums.keep(one.path, found)
        return one.digest is None and known is None


def _sized(one: Remote) -> Remote:
    return one if one.size is not None else replace(one, size=size_of(one.url, one.token))


def _free(folder: Path) -> int:
    """Bytes on the disk of a folder that may not be there yet."""
    there = next(one for one in (folder.absolute(), *folder.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free


def _count(files: int) -> str:
    return f"{files:,} file{'s' if files != 1 else ''}"


def _bytes(size: int) -> str:
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB") if size >= 1e6 else (1e3, "kB")
    return f"{size / unit:.1f} {name}"
