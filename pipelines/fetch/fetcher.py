"""One address to the bytes behind it, or the reason why not."""

from __future__ import annotations

import email.utils
import random
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import Message
from functools import cached_property

from open_diht.pipelines.fetch.addresses import Allowed
from open_diht.pipelines.fetch.body import read_body
from open_diht.pipelines.fetch.connection import Dial, GuardedConnection, dial, response, tls_context
from open_diht.pipelines.fetch.opt_out import opts_out, robot_names
from open_diht.pipelines.fetch.reasons import FetchError, Reason
from open_diht.pipelines.fetch.resolver import Resolve, SystemResolver, checked_addresses
from open_diht.pipelines.fetch.settings import DownloadSettings
from open_diht.pipelines.fetch.urls import Target, parse_url

_REDIRECTS = (301, 302, 303, 307, 308)
_TEMPORARY = (408, 429, 502, 503, 504)


@dataclass(frozen=True)
class Fetched:
    """What a server sent."""

    body: bytes
    """Unpacked."""
    headers: Message
    """Of the last response."""
    url: str
    """Where it came from in the end."""
    attempts: int
    """How often was asked."""


class Fetcher:
    """Fetches addresses; may be used by many threads at a time. See the package for what it guarantees.

    Args:
        settings: bounds and manners.
        resolve, dial, sleep: for tests; the system's own where left out.
    """

    def __init__(
        self,
        settings: DownloadSettings,
        *,
        resolve: Resolve | None = None,
        dial: Dial = dial,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self._settings = settings
        self._own_resolver = SystemResolver(settings.threads) if resolve is None else None
        self._resolve: Resolve = resolve or self._own_resolver or SystemResolver(1)
        self._dial, self._sleep = dial, sleep
        self._allowed = tuple(Allowed.parse(text) for text in settings.allow)
        self._names = robot_names(settings.user_agent)

    @cached_property
    def _context(self) -> ssl.SSLContext:
        return tls_context()  # reads some hundred certificates: only where https is asked

    def close(self) -> None:
        """Ends its threads."""
        if self._own_resolver:
            self._own_resolver.close()

    def fetch(self, url: str | None) -> Fetched:
        """Returns what is at an address. Asks again, a bounded number of times, where the failure may pass.

        Raises:
            FetchError: the last attempt's; its `attempts` counts them.
        """
        target = parse_url(url)
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._attempt(target, attempt)
            except FetchError as error:
                error.attempts = attempt
                wait = self._wait(error, attempt)
                if wait is None:
                    raise
                self._sleep(wait)

    def _wait(self, error: FetchError, attempt: int) -> float | None:
        """Seconds until the next attempt; None where there is to be none."""
        settings = self._settings
        if not error.temporary or attempt > settings.retries:
            return None
        if error.retry_after is not None:
            return error.retry_after if error.retry_after <= settings.max_wait else None
        return min(settings.max_wait, settings.backoff * 2 ** (attempt - 1) * random.uniform(0.75, 1.25))

    def _attempt(self, target: Target, attempt: int) -> Fetched:
        settings, deadline = self._settings, time.monotonic() + self._settings.timeout
        for _ in range(settings.max_redirects + 1):
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
            with response(connection, target, settings.user_agent) as answer:
                if answer.status not in (200, *_REDIRECTS):
                    raise FetchError(
                        Reason.HTTP_STATUS,
                        f"{answer.status} {answer.reason}"[:200],
                        temporary=answer.status in _TEMPORARY,
                        retry_after=_seconds(answer.getheader("Retry-After")),
                    )
                if settings.respect_opt_out and (header := opts_out(answer.getheaders(), self._names)):
                    raise FetchError(Reason.OPT_OUT, header[:200])
                if answer.status in _REDIRECTS:  # only now: who sends us on may say no as well
                    target = _redirected(answer.getheader("Location"), target)
                    continue
                # Chunks come with lengths, and TLS with frames: twice the size is room enough.
                connection.allow_body(2 * settings.max_bytes + settings.max_header_bytes)
                return Fetched(read_body(answer, settings.max_bytes), answer.headers, str(target), attempt)
        raise FetchError(Reason.TOO_MANY_REDIRECTS, f"more than {settings.max_redirects}, the last to {target}"[:300])


def _redirected(location: str | None, target: Target) -> Target:
    if not location:
        raise FetchError(Reason.BAD_RESPONSE, f"{target.host}: a redirect to nowhere")
    return parse_url(location, target)


def _seconds(retry_after: str | None) -> float | None:
    """Reads Retry-After: seconds or a date; None where it is neither, or absent. Raises nothing, whatever it says."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)  # infinite where there are hundreds of digits
    try:
        when = email.utils.parsedate_to_datetime(text)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):  # no date, or one that no calendar has
        return None
