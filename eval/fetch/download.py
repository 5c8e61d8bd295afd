"""Downloading a file so that it is whole or absent: in pieces, continued where it broke off, checked, and published
at the end."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import requests

from open_diht.eval.errors import FetchFailed
from open_diht.eval.fetch.checksums import digest_of

TRIES = 4
PIECE = 1 << 16  # of a transfer that breaks off, the piece it was in is lost
WAIT_S = 30.0
Sleep = Callable[[float], None]


class NotThere(FetchFailed):
    """The server says that there is no such file."""


def download(
    url: str, path: Path, *, digest: str | None = None, token: str | None = None, sleep: Sleep = time.sleep
) -> bool:
    """Fetch `url` to `path`; returns False where it is there already.

    What arrived of a broken transfer waits under `<path>.part` and is continued, also by the next run. Raises
    `NotThere` for a 404, `FetchFailed` for content that has not the `digest` (`sha256:...`, `md5:...`, `git:...`), of
    which nothing is kept, for a web page in place of the file, and for everything else that several tries do not mend.
    """
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    trouble = ""
    for attempt in range(TRIES):
        if attempt:
            sleep(2.0**attempt)
        try:
            if _continue(url, part, token):
                _check(url, part, digest)
                os.replace(part, path)
                return True
            trouble = "the connection ended early"
        except requests.RequestException as error:
            trouble = f"{type(error).__name__}: {error}"
    raise FetchFailed(f"{url} could not be fetched in {TRIES} tries ({trouble}); run the same command again")


def size_of(url: str, token: str | None = None) -> int | None:
    """Bytes of the file as its server says; None where it does not. Raises `NotThere` and `FetchFailed`."""
    try:
        answer = requests.head(url, headers=_headers(token), allow_redirects=True, timeout=WAIT_S)
    except requests.RequestException as error:
        raise FetchFailed(f"{url} could not be asked for its size ({type(error).__name__}: {error})") from None
    _refused(url, answer.status_code)
    return int(answer.headers["Content-Length"]) if answer.ok and "Content-Length" in answer.headers else None


def _check(url: str, part: Path, digest: str | None) -> None:
    if digest is not None and (found := digest_of(part, digest.partition(":")[0])) != digest:
        part.unlink()
        raise FetchFailed(
            f"{url}: {found} arrived and {digest} is expected; nothing was kept. Run the same command again; if it "
            "stays so, the file was changed at its source"
        )


def _headers(token: str | None) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}  # else lengths are those of the compressed form
    return headers | ({"Authorization": f"Bearer {token}"} if token else {})


def _refused(url: str, status: int) -> None:
    if status == 404:
        raise NotThere(f"{url} does not exist (404)")
    if status in (401, 403):
        raise FetchFailed(f"{url} is not open to all ({status}): accept its terms and set HF_TOKEN")


def _continue(url: str, part: Path, token: str | None) -> bool:
    """Append what is missing to `part`; whether it is whole then."""
    have = part.stat().st_size if part.exists() else 0
    headers = _headers(token)
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=WAIT_S) as answer:
        _refused(url, answer.status_code)
        if answer.ok and answer.headers.get("Content-Type", "").startswith("text/html"):  # as Google Drive does
            raise FetchFailed(
                f"{url} gives a web page instead of the file: too many have asked for it, or it was moved. Save it "
                f"with a browser as {part.with_suffix('')} and run the same command again"
            )
        if answer.status_code == 416:  # nothing is missing, or the file on the server has changed
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if total == str(have):
                return True
            part.unlink()
            return False
        answer.raise_for_status()
        fresh = answer.status_code != 206
        expected = int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
        with part.open("wb" if fresh else "ab") as out:
            written = 0
            for piece in answer.iter_content(PIECE):
                out.write(piece)
                written += len(piece)
            out.flush()
            os.fsync(out.fileno())
    return expected is None or written == expected
