"""Print the sizes of files, then download them. Each file is complete, recorded, and checked if its
hash is known."""

import hashlib
import itertools
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pooch
import requests

from open_diht.common.files import publish_bytes, sync
from open_diht.common.naming import counted
from open_diht.common.stores import in_words
from open_diht.eval.errors import FetchFailed

Say = Callable[[str], None]
SUMS = "SHA256SUMS"
RETRIES = 3
WAIT_S = 30.0  # silence of a server after which a try is given up; slow transfers may take longer
LINES = 20
"""Approximate number of progress lines for a set of many files. At most twice as many are
printed."""
PLAIN = {"Accept-Encoding": "identity"}  # without it, a length could count compressed bytes

pooch.get_logger().setLevel("WARNING")


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file on a server and its local path."""

    url: str
    path: Path
    size: int | None = None
    """Size in bytes. With None the server is asked."""
    digest: str | None = None
    """`sha256:hex`, `md5:hex` or `git:hex`, published by the source or known to us. With None
    nothing is checked."""
    transfer: Callable[[Path], Path] | None = None
    """Downloads the file into a folder and returns its path there. With None pooch downloads
    `url`."""


def download(
    url: str, path: Path, digest: str | None = None, transfer: Callable[[Path], Path] | None = None
) -> None:
    """Download a file to `path`, unless it exists. The file appears complete and with the given
    hash, or not at all; an incomplete file is in the folder `<path>.part`. Raises `FetchFailed`,
    also if the hash differs or the server sends a web page instead."""
    if path.exists():
        return
    folder = path.with_name(f"{path.name}.part")
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
    try:
        folder.mkdir(parents=True)
        arrived = transfer(folder) if transfer else _from_url(url, path, folder)
        if (
            digest is not None
            and (found := named_digest(arrived, digest.partition(":")[0])) != digest
        ):
            raise FetchFailed(
                f"{url}: expected {digest}, got {found}; nothing was kept. Run the same command"
                " again; if it fails again, the file probably changed at its source"
            )
        # Flush before renaming: after a crash, a complete name must not have partial content.
        sync(arrived)
        os.replace(arrived, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _from_url(url: str, path: Path, folder: Path) -> Path:
    def refuse(answer: requests.Response, **_: Any) -> None:
        _refuse_status(url, answer)
        kind = answer.headers.get("Content-Type", "")
        if answer.ok and not answer.is_redirect and kind.startswith("text/html"):
            # Google Drive does this.
            raise FetchFailed(
                f"{url} returns a web page instead of the file (perhaps too many requests, or it"
                f" was moved). Save it with a browser as {path} and run the same command again"
            )

    source = pooch.create(
        folder, "", registry={path.name: None}, urls={path.name: url}, retry_if_failed=RETRIES
    )
    transfer = pooch.HTTPDownloader(timeout=WAIT_S, headers=PLAIN, hooks={"response": refuse})
    try:
        return Path(source.fetch(path.name, downloader=transfer))
    except requests.RequestException as error:
        raise FetchFailed(
            f"{url} could not be fetched ({in_words(error)}); run the same command again"
        ) from None


def size_of(url: str) -> int | None:
    """Return the size in bytes that the server states. Return None if it states none. Raises
    `FetchFailed`."""
    try:
        answer = requests.head(url, headers=PLAIN, allow_redirects=True, timeout=WAIT_S)
    except requests.RequestException as error:
        raise FetchFailed(f"the size of {url} could not be read ({in_words(error)})") from None
    _refuse_status(url, answer)
    return (
        int(answer.headers["Content-Length"])
        if answer.ok and "Content-Length" in answer.headers
        else None
    )


def _refuse_status(url: str, answer: requests.Response) -> None:
    if answer.status_code in (401, 403, 404):
        what = "does not exist" if answer.status_code == 404 else "is refused"
        raise FetchFailed(f"{url} {what} ({answer.status_code})")


def named_digest(path: Path, algorithm: str) -> str:
    """Return a file's `algorithm:hex`, by sha256, md5 or git (git's name of the content, sha1 with
    a header)."""
    # git hashes a header with the size before the content.
    started = (
        hashlib.sha1(f"blob {path.stat().st_size}\0".encode())
        if algorithm == "git"
        else hashlib.new(algorithm)
    )
    with path.open("rb") as content:
        return f"{algorithm}:{hashlib.file_digest(content, lambda: started).hexdigest()}"


class Fetcher:
    """Downloads files into the data folder `root`, or with `sizes_only` prints their sizes.
    `root`/SHA256SUMS keeps the hash of every file that `get` downloads, even after the file is
    unpacked, moved or removed. `sha256sum --check --ignore-missing SHA256SUMS` checks the files
    that are still in their place."""

    def __init__(self, root: Path, say: Say, *, sizes_only: bool = False, zero_shot: bool = False):
        self.root = root
        self.say = say
        self.sizes_only = sizes_only
        self.zero_shot = zero_shot
        self._sums = self._recorded()

    def _recorded(self) -> dict[str, str]:
        """Return the digests in `SUMS`, as sha256:..., by name."""
        file = self.root / SUMS
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        return {
            name: f"sha256:{found}" for found, _, name in (line.partition("  ") for line in lines)
        }

    def announce(self, what: str, size: int | None, how: str) -> bool:
        """Print a download that does not go through `get`, and return whether to perform it."""
        self.say(f"{what}: {'size not published' if size is None else _bytes(size)}, {how}")
        return not self.sizes_only

    def get(self, what: str, remotes: Sequence[Remote]) -> bool:
        """Download the files that are missing. Return True if all exist now, False if only sizes
        were requested. Nothing is downloaded if the known sizes exceed the free space."""
        missing = [remote for remote in remotes if not remote.path.exists()]
        if not missing:
            return not self.sizes_only
        # Ask for unknown sizes first, because the disk is checked for all files at once.
        missing = [
            replace(remote, size=size_of(remote.url)) if remote.size is None else remote
            for remote in missing
        ]
        # The folder may not exist yet.
        existing = next(
            one for one in (self.root.absolute(), *self.root.absolute().parents) if one.exists()
        )
        total = sum(remote.size or 0 for remote in missing)
        free = shutil.disk_usage(existing).free
        files = counted(len(missing), "file")
        unknown = sum(remote.size is None for remote in missing)
        more = f" and {unknown} whose server states no size" if unknown else ""
        self.say(f"{what}: {files}, {_bytes(total)}{more}, into {self.root} ({_bytes(free)} free)")
        if self.sizes_only:
            return False
        if total > free:
            raise FetchFailed(
                f"{what}: {_bytes(total)} to fetch, {_bytes(free)} free in {self.root}; name"
                " another --data"
            )
        unchecked = 0
        for number, remote in enumerate(missing, start=1):
            name = str(
                remote.path.relative_to(self.root)
                if remote.path.is_relative_to(self.root)
                else remote.path
            )
            # A hash recorded at the first download checks a later one, where the source publishes
            # none.
            recorded = self._sums.get(name)
            unchecked += remote.digest is None and recorded is None
            download(remote.url, remote.path, remote.digest or recorded, remote.transfer)
            self._record(what, name, recorded, named_digest(remote.path, "sha256"))
            if number < len(missing) and number % max(1, len(missing) // LINES) == 0:
                self.say(f"{what}: {number} of {files}")
        kept = (
            f"; no hash is published for {unchecked}, kept in {SUMS} to compare with later"
            if unchecked
            else ""
        )
        self.say(f"{what}: {files} fetched, {len(missing) - unchecked} checked by hash{kept}")
        return True

    def _record(self, what: str, name: str, recorded: str | None, now: str) -> None:
        if recorded == now:
            return
        if recorded is not None:
            self.say(
                f"{what}: {name} differs from an earlier download, and so does its published hash"
            )
            others = {other: found for other, found in self._recorded().items() if other != name}
            publish_bytes(
                self.root / SUMS, "".join(itertools.starmap(_sum, others.items())).encode()
            )
        self._sums[name] = now
        # A line is appended in one write, so fetches into this folder at the same time lose none of
        # each other's.
        with (self.root / SUMS).open("ab", buffering=0) as sums:
            sums.write(_sum(name, now).encode())


def _sum(name: str, digest: str) -> str:
    return f"{digest.removeprefix('sha256:')}  {name}\n"


def _bytes(size: int) -> str:
    unit, name = (1e9, "GB") if size >= 1e9 else (1e6, "MB") if size >= 1e6 else (1e3, "kB")
    return f"{size / unit:.1f} {name}"
