"""The fetcher in the place of urllib's own machinery, for code that calls `urllib.request.urlopen`.

img2dataset does. Its downloader stays as it is; every request it makes goes through the fetcher, and what fails comes
back in the one form it keeps: a text, "reason: message".
"""

from __future__ import annotations

import contextlib
import io
import threading
import urllib.request
import urllib.response
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from open_diht.pipelines.fetch.fetcher import Fetched, Fetcher
from open_diht.pipelines.fetch.hashes import MISMATCH, Expected, digests_of, is_nobodys
from open_diht.pipelines.fetch.reasons import FetchError, Reason
from open_diht.pipelines.fetch.urls import parse_url

_ONE_AT_A_TIME = threading.RLock()  # the opener is the process's, and so is what img2dataset does to standard error


@dataclass
class Notes:
    """What the answers of one shard do not tell: attempts, digests, and errors that are ours and not the web's. By
    address, as `str(parse_url(url))` spells it."""

    attempts: dict[str, int] = field(default_factory=lambda: defaultdict(lambda: 1))
    digests: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of the bytes as fetched, by kind: sha256, and md5 where a row needs it."""
    bug: Exception | None = None
    """The first exception that is no FetchError: the shard must fail with it, and not its rows."""


class GuardedOpener(urllib.request.OpenerDirector):
    """Opens addresses by a fetcher: no proxies from the environment, no file or ftp, no redirect unchecked."""

    def __init__(self, fetcher: Fetcher, expected: Mapping[str, Sequence[Expected | None]]):
        super().__init__()
        self._fetcher, self._expected = fetcher, expected
        self.notes = Notes()

    def open(self, fullurl: Any, data: Any = None, timeout: Any = None) -> Any:
        """Returns an answer that is read already. Raises FetchError, whose text is "reason: message"."""
        url = fullurl if isinstance(fullurl, str) else fullurl.full_url
        try:
            if data is not None:
                raise FetchError(Reason.BAD_URL, "images are asked for, nothing is sent")
            fetched = self._fetched(url, str(parse_url(url)))
            return urllib.response.addinfourl(io.BytesIO(fetched.body), fetched.headers, fetched.url, 200)
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
def opening_by(fetcher: Fetcher, expected: Mapping[str, Sequence[Expected | None]] | None = None) -> Iterator[Notes]:
    """While the block runs, `urllib.request.urlopen` of this process asks by the fetcher; one block at a time.

    Args:
        fetcher: asks the servers.
        expected: for each address the hashes of the rows that share it. What is the image of none of them is refused.
    """
    opener = GuardedOpener(fetcher, expected or {})
    with _ONE_AT_A_TIME:
        urllib.request.install_opener(opener)
        try:
            yield opener.notes
        finally:
            urllib.request.install_opener(None)  # type: ignore[arg-type]  # the documented default is built anew
