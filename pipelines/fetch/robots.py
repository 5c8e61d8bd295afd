"""The rules of a host's robots.txt (RFC 9309), fetched once by each process.

Python's own `urllib.robotparser` knows neither `*` nor `$` before Python 3.15, and takes the first
rule that matches in place of the longest. With it, `Disallow: /*.jpg$` would deny nothing.
"""

import math
import re
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from open_diht.filters.download import FetchError, Reason
from open_diht.pipelines.fetch.settings import UNREACHED
from open_diht.pipelines.fetch.urls import Target

MAX_BYTES = 500 * 2**10
"""Bytes of a robots.txt that are read; RFC 9309 asks for at least so many."""
MAX_RULES = 5_000
"""Rules of one host that count, the first in the file. A path is compared with each, which takes
7 ms for so many, and up to 50 ms if they have asterisks."""
_KEPT_S = 86_400.0  # RFC 9309: a copy should not be used for longer
# A host that does not answer would cost each of its rows a timeout; for longer, a short failure
# would cost a popular host all its rows.
_FAILED_S = 60.0
_MAX_MEMORY = 64 * 2**20
"""Bytes in memory of all rules: about thirty thousand hosts with the usual few rules."""
_OF_HOST, _OF_RULE, _OF_PIECE = 1_800, 200, 50
"""Bytes in memory next to the text, measured with `tracemalloc`."""
_THEIR_OWN = (*UNREACHED, Reason.BLOCKED_PORT, Reason.BLOCKED_ADDRESS, Reason.UNEXPECTED_ERROR)
"""Reasons that a request for the image would have met too."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A line `Allow` or `Disallow`."""

    allows: bool
    pieces: tuple[bytes, ...]
    """The pattern between its asterisks, without percent-encoding."""
    to_the_end: bool
    """Whether the pattern ends with `$`."""

    @property
    def length(self) -> int:
        return sum(map(len, self.pieces)) + len(self.pieces) + self.to_the_end

    @property
    def memory(self) -> int:
        return self.length + _OF_PIECE * len(self.pieces) + _OF_RULE

    def __str__(self) -> str:
        pattern = b"*".join(self.pieces).decode("utf-8", "replace")
        return (
            f"{'Allow' if self.allows else 'Disallow'}: {pattern}{'$' if self.to_the_end else ''}"
        )

    def matches(self, path: bytes) -> bool:
        """Return whether a path without percent-encoding matches. The time is linear in the length
        of the path, unlike that of a regular expression with many asterisks."""
        first, *others = self.pieces
        if not path.startswith(first):
            return False
        at = len(first)
        if self.to_the_end:
            if not others:
                return len(path) == at
            last = others.pop()
            if len(path) - len(last) < at or not path.endswith(last):
                return False
            path = path[: len(path) - len(last)]
        for piece in others:
            if (found := path.find(piece, at)) < 0:
                return False
            at = found + len(piece)
        return True


def rules_of(text: bytes, names: Collection[str]) -> tuple[Rule, ...]:
    """Return the rules of a robots.txt for a crawler, those that win first.

    Args:
        text: The first bytes of the file, in any encoding, also if it is no robots.txt at all.
        names: Product tokens of the crawler in lower case. Groups of all of them apply together;
            if the file has none, those for `*`.

    Returns:
        The rules by decreasing length of their pattern, `Allow` before `Disallow`. Lines that are
        no rules are passed over.
    """
    lines = text.removeprefix(b"\xef\xbb\xbf").splitlines()
    if len(text) >= MAX_BYTES:
        del lines[-1:]  # half a line could deny more than the whole
    ours: set[Rule] = set()
    anyone: set[Rule] = set()
    named = for_us = for_anyone = in_head = False
    for line in lines:
        key, _, rest = line.partition(b"#")[0].partition(b":")
        key, value = key.strip().lower(), rest.strip()
        if key == b"user-agent":
            if not in_head:
                for_us, for_anyone, in_head = False, False, True
            agent = (value.partition(b"/")[0].split() or [b""])[0].lower().decode("latin-1")
            for_us |= agent in names
            for_anyone |= agent == "*"
            named |= for_us
        elif key in (b"allow", b"disallow"):
            in_head = False
            kinds = [kind for kind, holds in ((ours, for_us), (anyone, for_anyone)) if holds]
            if value and kinds:
                end = value.endswith(b"$")
                pieces = re.sub(rb"\*+", b"*", value.removesuffix(b"$")).split(b"*")
                rule = Rule(key == b"allow", tuple(map(unquote_to_bytes, pieces)), end)
                for kind in kinds:
                    if len(kind) < MAX_RULES:
                        kind.add(rule)
    return tuple(
        sorted(ours if named else anyone, key=lambda rule: (-rule.length, not rule.allows))
    )


def denial(rules: Sequence[Rule], path: str) -> Rule | None:
    """Return the rule that denies a path and query, or None if it is allowed."""
    plain = unquote_to_bytes(path)
    winner = next((rule for rule in rules if rule.matches(plain)), None)
    return winner if winner is not None and not winner.allows else None


@dataclass(slots=True)
class _Host:
    answer: Future[tuple[Rule, ...] | FetchError] = field(default_factory=Future)
    until: float = math.inf
    memory: int = _OF_HOST


class Robots:
    """The rules of hosts, safe to use from many threads. Threads that ask for one host at a time
    wait for one request. Memory is bounded: the host that was added first is forgotten first.

    Args:
        read: Returns the first `MAX_BYTES` of the robots.txt of a target's host, within limits in
            time of its own. Raises FetchError if the host was not reached, or may not be asked.
        names: See `rules_of`.
    """

    def __init__(self, read: Callable[[Target], bytes], names: Collection[str]):
        self._read = read
        self._names = names
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}
        self._memory = 0

    def check(self, target: Target) -> None:
        """Raise FetchError if a target may not be requested: robots_denied, or the reason why its
        host was not reached."""
        name = f"{target.scheme}://{target.authority}"
        with self._lock:
            host = self._hosts.get(name)
            first = host is None or host.until < time.monotonic()
            if host is None or first:
                self._forget(name)
                host = self._hosts[name] = _Host()
                self._memory += host.memory
        if first:
            self._ask(name, host, target)
        answer = host.answer.result()
        if isinstance(answer, FetchError):
            # A copy, because each raise of one exception adds to its traceback.
            raise FetchError(answer.reason, answer.message)
        if (rule := denial(answer, target.path)) is not None:
            raise FetchError(Reason.ROBOTS_DENIED, f"robots.txt: {rule}"[:300])

    def _ask(self, name: str, host: _Host, target: Target) -> None:
        answer: tuple[Rule, ...] | FetchError
        try:
            answer = rules_of(self._read(target), self._names)
            kept = _KEPT_S
        except FetchError as error:
            reason = error.reason if error.reason in _THEIR_OWN else Reason.ROBOTS_DENIED
            answer = FetchError(reason, f"robots.txt: {error.message}")
            kept = _FAILED_S
        except BaseException as error:  # the threads that wait must not wait forever
            with self._lock:
                self._forget(name)
            host.answer.set_exception(error)
            raise
        with self._lock:
            host.until = time.monotonic() + kept
            if not isinstance(answer, FetchError) and self._hosts.get(name) is host:
                more = sum(rule.memory for rule in answer)
                host.memory += more
                self._memory += more
            while self._memory > _MAX_MEMORY:
                self._forget(next(iter(self._hosts)))
        host.answer.set_result(answer)

    def _forget(self, name: str) -> None:
        if host := self._hosts.pop(name, None):
            self._memory -= host.memory
