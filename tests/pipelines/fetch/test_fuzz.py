"""Answers that no server should give: each ends as bytes or as a FetchError, in time."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from open_diht.pipelines.fetch import DownloadSettings, Fetched, Fetcher, FetchError, Reason

MANY = 10_000
"""Answers of the long test; minutes."""


class Raw:
    """A server that sends `answer` to whoever connects, as it is, and closes."""

    def __init__(self) -> None:
        self.answer, self._listener = b"", socket.create_server(("127.0.0.1", 0), backlog=64)
        self.place = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):  # the client goes when it has had enough
                connection.settimeout(5)
                connection.recv(65_536)
                connection.sendall(self.answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture(scope="module")
def raw() -> Iterator[Raw]:
    server = Raw()
    yield server
    server.close()


@pytest.fixture(scope="module")
def asking(raw: Raw) -> Iterator[Fetcher]:
    bounds = DownloadSettings(
        allow=(raw.place,), threads=2, timeout=5.0, retries=1, backoff=0, max_bytes=50_000, max_header_bytes=5_000
    )
    here = raw.place.partition(":")[0]

    def names(host: str, port: int, timeout: float) -> list[str]:  # no redirect leaves this machine
        return [host if host == here else "10.0.0.1"]

    fetcher = Fetcher(bounds, resolve=names, sleep=lambda seconds: None)
    yield fetcher
    fetcher.close()


NAMES = (
    *("Retry-After", "Location", "Content-Length", "Transfer-Encoding", "Content-Encoding", "X-Robots-Tag"),
    *("TDM-Reservation", "Content-Type", "Connection", "Set-Cookie", "X"),
)
_numbers = st.one_of(st.integers(), st.integers(10**9, 10**40), st.floats()).map(str)
_dates = st.builds(
    "{}, {} {} {} {}:{}:{} {}".format,
    st.sampled_from(["Mon", "Fri", ""]),
    st.integers(-1, 99),
    st.sampled_from(["Jan", "Feb", "Dec", "Foo"]),
    st.integers(-1, 10**30),
    *[st.integers(-1, 10**12)] * 3,
    st.sampled_from(["GMT", "+2359", "-2359", "+99999999999999", "XYZ", ""]),
)
_words = st.sampled_from(
    [
        *("chunked", "gzip", "deflate", "identity", "gzip, chunked", "noai", "diht: noindex", "1", "0", "50001"),
        *("/a", "//10.0.0.1/", "http://[::1", "http://[2606::5efe:a00:1]/", "file:///", "http://\xad/", "?", "#"),
    ]
)
_text = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=40)
VALUES = st.one_of(_numbers, _dates, _words, _text, st.text("0123456789+-", max_size=60))
HEADERS = st.lists(st.tuples(st.sampled_from(NAMES), VALUES), max_size=6)
_bodies = st.one_of(st.binary(max_size=300), st.binary(max_size=100).map(gzip.compress), st.binary().map(zlib.compress))


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Nearly HTTP: a status line, headers, a body in chunks or not, and a few bytes turned."""
    version = draw(st.sampled_from([*["HTTP/1.1"] * 6, "HTTP/1.0", "HTTP/0.9", "HTTP/9.9", "ICY", "HTTP"]))
    status = draw(st.sampled_from([*[200] * 6, 301, 302, 404, 429, 503, 100, 206, -1, 10**20]))
    headers = draw(HEADERS)
    body = draw(_bodies)
    if draw(st.booleans()):
        headers = [*headers, ("Transfer-Encoding", "chunked")]
        size = draw(st.one_of(st.just(b"%x" % len(body)), st.binary(max_size=20), st.just(b"-1"), st.just(b"f" * 40)))
        body = (
            size + b"\r\n" + body + b"\r\n" + draw(st.sampled_from([b"0\r\n\r\n", b"0\r\n", b"", b"0\r\nA: b\r\n\r\n"]))
        )
    head = f"{version} {status} {draw(_text)}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers) + "\r\n"
    answer = bytearray(head.encode("latin-1") + body)
    match draw(st.integers(0, 3)):
        case 1:
            for _ in range(draw(st.integers(1, 3))):
                answer[draw(st.integers(0, len(answer) - 1))] = draw(st.integers(0, 255))
        case 2:
            answer = answer[: draw(st.integers(1, len(answer)))]
    return bytes(answer)


def _asked(raw: Raw, asking: Fetcher, answer: bytes) -> str:
    """What came of it: `ok` or a reason; no third thing."""
    raw.answer = answer
    began = time.monotonic()
    try:
        fetched = asking.fetch(f"http://{raw.place}/x")
    except FetchError as error:
        assert error.reason is not Reason.UNEXPECTED_ERROR, f"{error} on {answer!r}"
        assert error.reason is not Reason.TIMEOUT, f"{error} on {answer!r}"
        assert error.message and error.message.isprintable() and len(error.message) < 1_000
        return str(error.reason)
    assert isinstance(fetched, Fetched) and 0 < len(fetched.body) <= 50_000
    assert time.monotonic() - began < 60
    return "ok"


_common = examples(derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@given(headers=HEADERS, status=st.sampled_from([200, 301, 429, 503]))
@examples(_common, max_examples=200)
def test_headers(raw: Raw, asking: Fetcher, headers: list[tuple[str, str]], status: int) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    _asked(raw, asking, f"HTTP/1.1 {status} said\r\n{lines}\r\nimage".encode("latin-1"))


@given(value=VALUES)
@examples(_common, max_examples=200)
def test_retry_after(raw: Raw, asking: Fetcher, value: str) -> None:
    answer = f"HTTP/1.1 503 busy\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")
    assert _asked(raw, asking, answer) in ("http_status", "bad_response")


@pytest.mark.soak
def test_many_answers(raw: Raw, asking: Fetcher, capsys: pytest.CaptureFixture[str]) -> None:
    found: Counter[str] = Counter()

    @given(answer=answers())
    @examples(_common, max_examples=MANY)
    def one(answer: bytes) -> None:
        found[_asked(raw, asking, answer)] += 1

    one()
    with capsys.disabled():
        print(f"\n{found.total():,} answers: {dict(found.most_common())}")
    assert found.total() >= MANY // 2
    assert {"ok", "http_status", "bad_response", "too_large", "opt_out"} <= found.keys(), "it reaches every part"
