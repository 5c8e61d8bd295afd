"""Replace urllib's opener with the fetcher, for code that calls `urllib.request.urlopen`.

img2dataset is such code. Its downloader stays unchanged: every request it makes goes through the
fetcher, and failures come back in the only form that it keeps, a text "reason: message".
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import threading
import urllib.request
import urllib.response
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from open_diht.filters.download import FetchError, Reason
from open_diht.pipelines.fetch.fetcher import Fetched, Fetcher
from open_diht.pipelines.fetch.records import RequestedRow
from open_diht.pipelines.fetch.urls import parse_url

# The opener is process-wide, and so is img2dataset's handling of stderr.
_ONE_AT_A_TIME = threading.RLock()


@dataclass
class Notes:
    """Facts about one shard's requests that the responses do not carry: attempts, digests and our
    own bugs. Keys are URLs as spelled by `str(parse_url(url))`."""

    attempts: dict[str, int] = field(default_factory=lambda: defaultdict(lambda: 1))
    digests: dict[str, dict[str, str]] = field(default_factory=dict)
    """Hex digests of the fetched bytes by kind: sha256, and md5 where a row needs it."""
    bug: Exception | None = None
    """The first exception other than FetchError. It must fail the whole shard, not just its
    rows."""


class GuardedOpener(urllib.request.OpenerDirector):
    """An opener that uses a fetcher: no proxies, no file or ftp, every redirect checked."""

    def __init__(self, fetcher: Fetcher, expected: Mapping[str, Sequence[Expected | None]]):
        super().__init__()
        self._fetcher = fetcher
        self._expected = expected
        self.notes = Notes()

    def open(self, fullurl: Any, data: Any = None, timeout: Any = None) -> Any:
        """Return a response whose body is already read. The timeout is ignored; the fetcher has its
        own. Raise FetchError, whose text is "reason: message". Any other exception is raised too,
        and the first is kept in `notes.bug`."""
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        try:
            if data is not None:
                raise FetchError(Reason.BAD_URL, "downloads send no data")
            fetched = self._fetched(url, str(parse_url(url)))
            return urllib.response.addinfourl(
                io.BytesIO(fetched.body), fetched.headers, fetched.url, 200
            )
        except FetchError:
            raise
        except Exception as error:
            self.notes.bug = self.notes.bug or error
            raise

    def _fetched(self, url: str, address: str) -> Fetched:
        try:
            fetched = self._fetcher.fetch(url)
        except FetchError as error:
            self.notes.attempts[address] = error.attempts
            raise
        self.notes.attempts[address] = fetched.attempts
        rows = self._expected.get(address, ())
        digests = self.notes.digests[address] = digests_of(fetched.body, rows)
        if is_nobodys(digests, rows):
            raise FetchError(Reason.HASH_MISMATCH, MISMATCH)
        return fetched


@contextlib.contextmanager
def opening_by(
    fetcher: Fetcher, expected: Mapping[str, Sequence[Expected | None]] | None = None
) -> Iterator[Notes]:
    """Route this process's `urllib.request.urlopen` through the fetcher while the block runs. Only
    one thread at a time can be in such a block. `expected` has for each URL the hashes of the rows
    that share it. A file that contradicts all these hashes is refused."""
    opener = GuardedOpener(fetcher, expected or {})
    with _ONE_AT_A_TIME:
        urllib.request.install_opener(opener)
        try:
            yield opener.notes
        finally:
            # urlopen then builds its default opener again.
            urllib.request.install_opener(None)  # type: ignore[arg-type]


MISMATCH = "the image does not match the manifest's hash"
_KINDS: tuple[Literal["sha256", "md5"], ...] = ("sha256", "md5")


@dataclass(frozen=True)
class Expected:
    """The hash that a row states for its image file."""

    kind: str
    """sha256 or md5."""
    digest: str
    """Hex digits, lower case."""

    def holds(self, digests: Mapping[str, str]) -> bool:
        """Return whether a file with these digests (by kind) matches the row's hash."""
        return digests[self.kind] == self.digest


def expected_of(row: RequestedRow) -> Expected | None:
    """Return the hash that a row states: its SHA-256, or its MD5 if it has no SHA-256. Return None
    without any."""
    for kind in _KINDS:
        if digest := (row[kind] or "").strip().lower():
            return Expected(kind, digest)
    return None


def digests_of(body: bytes, rows: Iterable[Expected | None]) -> dict[str, str]:
    """Return a file's hex digests by kind: SHA-256, and MD5 if one of the rows that share the file
    needs it."""
    kinds = {"sha256"} | {row.kind for row in rows if row}
    return {
        kind: hashlib.new(kind, body, usedforsecurity=False).hexdigest() for kind in sorted(kinds)
    }


def is_nobodys(digests: Mapping[str, str], rows: Collection[Expected | None]) -> bool:
    """Return whether a file contradicts the hash of every row that shares it. A row without a hash
    (None) accepts any file. Return False without rows."""
    return bool(rows) and all(row is not None and not row.holds(digests) for row in rows)
