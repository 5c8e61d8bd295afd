"""Fetch one URL: its bytes, or the reason why it failed."""

import email.utils
import http.client
import random
import ssl
import string
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.message import Message
from functools import cached_property
from typing import TypeVar
from urllib.parse import quote

from open_diht.filters.download import FetchError, Reason
from open_diht.pipelines.fetch.addresses import Allowed
from open_diht.pipelines.fetch.body import read_body, read_start
from open_diht.pipelines.fetch.connection import (
    Dial,
    GuardedConnection,
    dial,
    response,
    tls_context,
)
from open_diht.pipelines.fetch.resolver import Resolve, SystemResolver, checked_addresses
from open_diht.pipelines.fetch.robots import MAX_BYTES, Robots
from open_diht.pipelines.fetch.settings import DownloadSettings
from open_diht.pipelines.fetch.urls import Target, parse_url

_REDIRECTS = (301, 302, 303, 307, 308)
_TEMPORARY = (408, 429, 502, 503, 504)
_ROBOTS_REDIRECTS = 5  # RFC 9309 asks for at least so many, whatever `max_redirects` allows images
T = TypeVar("T")


@dataclass(frozen=True)
class Fetched:
    body: bytes
    """The decompressed body."""
    headers: Message
    """Headers of the last response."""
    url: str
    """Final URL, after redirects."""
    attempts: int
    """Number of attempts made."""
    size: int | None = None
    """Bytes of the whole content as the headers announce them, if only its first ones were
    fetched."""


class Fetcher:
    """A fetcher of URLs, safe to use from many threads. The package docstring lists its guarantees.
    By default `resolve`, `dial` and `sleep` are the system's; tests replace them."""

    def __init__(
        self,
        settings: DownloadSettings,
        *,
        resolve: Resolve | None = None,
        dial: Dial = dial,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._settings = settings
        self._resolve: Resolve = resolve or SystemResolver(settings.threads)
        self._dial = dial
        self._sleep = sleep
        self._allowed = tuple(Allowed.parse(text) for text in settings.allow)
        own = settings.user_agent.split()[0].partition("/")[0].lower()
        self._names = (own, "img2dataset")  # by which a server may address us
        self._robots = Robots(self._robots_txt, self._names)

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return tls_context()  # loads some hundred certificates, so only when https is first needed

    def close(self) -> None:
        """Shut down the resolver's threads."""
        if isinstance(self._resolve, SystemResolver):
            self._resolve.close()

    def fetch(self, url: str | None, first: int | None = None) -> Fetched:
        """Return the content of a URL, or its `first` bytes, retrying temporary failures up to
        `settings.retries` times. A failure is final if the server asks to wait longer than
        `settings.max_wait`. Raise the FetchError of the last attempt, with the number of attempts
        made."""
        target = parse_url(url)
        return self._retried(lambda attempt: self._attempt(target, attempt, first))

    def _retried(self, ask: Callable[[int], T]) -> T:
        attempt = 0
        while True:
            attempt += 1
            try:
                return ask(attempt)
            except FetchError as error:
                error.attempts = attempt
                wait = self._wait(error, attempt)
                if wait is None:
                    raise
                self._sleep(wait)

    def _wait(self, error: FetchError, attempt: int) -> float | None:
        """Return the seconds to wait before the next attempt. Return None to give up."""
        settings = self._settings
        if not error.temporary or attempt > settings.retries:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= settings.max_wait else None
        # Random, so that clients do not retry at the same time.
        return min(
            settings.max_wait, settings.backoff * 2 ** (attempt - 1) * random.uniform(0.75, 1.25)
        )

    def _attempt(self, target: Target, attempt: int, first: int | None) -> Fetched:
        settings = self._settings
        deadline = time.monotonic() + self._settings.timeout
        for _ in range(settings.max_redirects + 1):
            if settings.respect_robots:
                began = time.monotonic()
                self._robots.check(target)
                deadline += time.monotonic() - began  # a robots.txt has limits of its own
            with self._answer(target, deadline, first) as (connection, answer):
                if answer.status not in (200, *_REDIRECTS, *((206,) if first else ())):
                    raise _refusal(answer)
                if settings.respect_opt_out and (
                    header := opts_out(answer.getheaders(), self._names)
                ):
                    raise FetchError(Reason.OPT_OUT, header[:200])
                if answer.status in _REDIRECTS:
                    # Only now, since a redirecting server may opt out as well.
                    target = _redirected(answer.getheader("Location"), target)
                    continue
                # Chunk framing counts as received bytes too; twice the size leaves room for it.
                connection.allow_body(2 * settings.max_bytes + settings.max_header_bytes)
                if first is not None:
                    size = _announced(answer)
                    return Fetched(answer.read(first), answer.headers, str(target), attempt, size)
                return Fetched(
                    read_body(answer, settings.max_bytes), answer.headers, str(target), attempt
                )
        raise FetchError(
            Reason.TOO_MANY_REDIRECTS,
            f"more than {settings.max_redirects}, the last to {target}"[:300],
        )

    def _robots_txt(self, target: Target) -> bytes:
        """Return the first bytes of a host's robots.txt. It is empty, so that all is allowed, after
        any status of 4xx that is not temporary, and after too many redirects. Raise FetchError if
        it cannot be read, so that nothing is allowed."""

        def ask(attempt: int) -> bytes:
            page = replace(target, path="/robots.txt")
            deadline = time.monotonic() + self._settings.timeout
            for _ in range(_ROBOTS_REDIRECTS + 1):
                with self._answer(page, deadline) as (connection, answer):
                    if answer.status in _REDIRECTS:
                        page = _redirected(answer.getheader("Location"), page)
                        continue
                    if 400 <= answer.status < 500 and answer.status not in _TEMPORARY:
                        return b""
                    if not 200 <= answer.status < 300:
                        raise _refusal(answer)
                    connection.allow_body(2 * MAX_BYTES + self._settings.max_header_bytes)
                    return read_start(answer, MAX_BYTES)
            return b""

        return self._retried(ask)

    @contextmanager
    def _answer(
        self, target: Target, deadline: float, first: int | None = None
    ) -> Iterator[tuple[GuardedConnection, http.client.HTTPResponse]]:
        """Request a target from a checked address of its host; see `response`."""
        settings = self._settings
        addresses = checked_addresses(
            target,
            self._resolve,
            max(0.0, min(settings.connect_timeout, deadline - time.monotonic())),
            settings.ports,
            self._allowed,
        )
        connection = GuardedConnection(
            target,
            addresses,
            deadline=deadline,
            connect_timeout=settings.connect_timeout,
            max_header_bytes=settings.max_header_bytes,
            context=self._context if target.scheme == "https" else None,
            dial=self._dial,
        )
        with response(connection, target, settings.user_agent, first) as answer:
            yield connection, answer


def _refusal(answer: http.client.HTTPResponse) -> FetchError:
    return FetchError(
        Reason.HTTP_STATUS,
        f"{answer.status} {answer.reason}"[:200],
        temporary=answer.status in _TEMPORARY,
        retry_after=_seconds(answer.getheader("Retry-After")),
    )


def _announced(answer: http.client.HTTPResponse) -> int | None:
    """Return the bytes of the whole content, from Content-Range or Content-Length."""
    if answer.status == 200:
        return answer.length
    size = (answer.getheader("Content-Range") or "").rpartition("/")[2].strip()
    return int(size) if size.isascii() and size.isdecimal() and len(size) < 16 else None


def _redirected(location: str | None, target: Target) -> Target:
    if not location:
        raise FetchError(Reason.BAD_RESPONSE, f"{target.host}: a redirect to nowhere")
    # A header's bytes arrive as ISO-8859-1. Servers that do not escape other letters than ASCII
    # send them as UTF-8.
    sent = location.encode("iso-8859-1")
    try:
        return parse_url(sent.decode("utf-8"), target)
    except UnicodeDecodeError:  # of another encoding, whose bytes are sent back
        return parse_url(quote(sent, safe=string.printable), target)


def _seconds(retry_after: str | None) -> float | None:
    """Parse Retry-After, seconds or a date. Return None if it is absent or invalid."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)  # infinite if there are hundreds of digits
    try:
        when = email.utils.parsedate_to_datetime(text)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):  # not a date, or out of the calendar's range
        return None


DIRECTIVES = ("noai", "noimageai", "noindex", "noimageindex")
"""X-Robots-Tag directives that are obeyed. `none` means noindex and nofollow, and is obeyed too."""
# Directives with a value after a colon, so not names of robots.
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")


def opts_out(headers: Iterable[tuple[str, str]], names: Iterable[str]) -> str | None:
    """Return the header that opts out, or None. `X-Robots-Tag: noai` addresses all robots,
    `X-Robots-Tag: diht: noai` only diht. `names` are in lower case. A name applies to the
    directives after it in the same header, also if a proxy has joined several headers with commas.
    `TDM-Reservation: 1` reserves text and data mining and also opts out.
    """
    ours = {"*", *names}
    for header, value in headers:
        if header.lower() == "tdm-reservation" and value.strip() == "1":
            return f"{header}: {value}"
        if header.lower() == "x-robots-tag" and _refuses(value, ours):
            return f"{header}: {value}"
    return None


def _refuses(value: str, ours: set[str]) -> bool:
    addressed = True
    for item in value.lower().split(","):
        directive = item.strip()
        name, colon, rest = directive.partition(":")
        # A name has no space; the rest of a date does, which the comma after its weekday has cut
        # off.
        if colon and " " not in name.strip() and name.strip() not in _WITH_VALUE:
            addressed = name.strip() in ours
            directive = rest.strip()
        if addressed and (directive in DIRECTIVES or directive == "none"):
            return True
    return False
