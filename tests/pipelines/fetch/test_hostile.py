"""What hostile manifests and servers try, and the reason each of them gets."""

import dataclasses
import gzip
import ipaddress
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from open_diht.filters.download import FetchError, Reason
from open_diht.pipelines.fetch.addresses import Allowed, is_public
from open_diht.pipelines.fetch.fetcher import Fetched, Fetcher
from open_diht.pipelines.fetch.settings import DownloadSettings
from tests.common.hostile_images import BOMBS, chunk


# ---- addresses: nobody is asked, whatever listens there
def refused(fetcher: Fetcher, url: Any) -> FetchError:
    with pytest.raises(FetchError) as error:
        fetcher.fetch(url)
    return error.value


BLOCKED = Reason.BLOCKED_ADDRESS
PLACES = """
127.0.0.1/a.jpg 127.0.0.1:8080/a.jpg localhost/a.jpg LOCALHOST./a.jpg 127.1/a.jpg 2130706433/a.jpg
0177.0.0.1/a.jpg 0x7f.1/a.jpg 0x7f000001/a.jpg ①②⑦.⓪.⓪.①/a.jpg 127。0。0。1/a.jpg 0.0.0.0/a.jpg
0/a.jpg 10.0.0.5/a.jpg 172.16.3.4/a.jpg 192.168.1.1/a.jpg 100.100.100.200/latest/meta-data/
169.254.169.254/latest/meta-data/iam 2852039166/latest/meta-data/iam 168.63.129.16/machine
192.0.0.192/opc/v2/ 224.0.0.251/a.jpg 255.255.255.255/a.jpg 240.0.0.1/a.jpg 198.18.0.1/a.jpg
[::1]/a.jpg [::]/a.jpg [::ffff:127.0.0.1]/a.jpg [::ffff:a9fe:a9fe]/a.jpg [::127.0.0.1]/a.jpg
[fd00:ec2::254]/a.jpg [fe80::1]/a.jpg [fe80::1%25eth0]/a.jpg [ff02::1]/a.jpg [2002:7f00:1::]/a.jpg
[64:ff9b::7f00:1]/a.jpg [64:ff9b:1::1]/a.jpg [2001:0:7f00:1::]/a.jpg
[2606:2800:21f:cb07:0:5efe:10.0.0.1]/a.jpg [2606:2800:21f:cb07:200:5efe:a9fe:a9fe]/a.jpg
[2001:db8::1]/a.jpg [fec0::1]/a.jpg
"""
"""Addresses of `http://` that are not public, in every spelling."""
NO_URLS = """
http://example.org@127.0.0.1/a.jpg http://127.0.0.1:80@example.org/a.jpg http://127.0.0.1%2f.example.org/a.jpg
file:///etc/passwd ftp://127.0.0.1/a.jpg data:image/png;base64,iVBORw0KGgo= gopher://127.0.0.1:70/
javascript:alert(1) //127.0.0.1/a.jpg a.jpg http:///a.jpg http://[::1/a.jpg
http://example.org:99999/a.jpg http://example.org:0/a.jpg
http://..example.org/a.jpg
"""
URLS: list[tuple[str | None, Reason]] = [
    *((f"http://{place}", BLOCKED) for place in PLACES.split()),
    *(
        (url, Reason.BLOCKED_PORT)
        for url in ("http://127.0.0.1:22/", "http://[::1]:6379/", "https://example.org:25/")
    ),
    *(
        (url, Reason.BAD_URL)
        for url in (*NO_URLS.split(), "http://example.org\\@127.0.0.1/a.jpg", "", "   ", None)
    ),
    *(
        (url, Reason.BAD_URL)
        for url in ("http://a b/c.jpg", "http://example.org/a\r\nHost: localhost")
    ),
    *(
        (url, Reason.BAD_URL)
        for url in ("http://example.org\x00.jpg", "http://" + "a" * 64 + ".org/a.jpg")
    ),
    ("http://example.org/" + "a" * 9_000, Reason.BAD_URL),
]


def _no_dial(address: Any, port: int, timeout: float) -> socket.socket:
    raise AssertionError(f"{address} port {port} was connected to")


@pytest.mark.parametrize(("url", "reason"), URLS, ids=lambda value: repr(value)[:48])
def test_no_request_leaves(url: str | None, reason: Reason) -> None:
    fetcher = Fetcher(DownloadSettings(retries=0), dial=_no_dial)
    error = refused(fetcher, url)
    assert error.reason is reason, str(error)
    fetcher.close()


# ---- names: what they resolve to is what counts, and it is resolved once
class Names:
    """A resolver that gives its answers in turn, the last one for ever."""

    def __init__(self, *answers: list[str]):
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, host: str, port: int, timeout: float) -> list[str]:
        self.asked += 1
        return self.answers[min(self.asked, len(self.answers)) - 1]


@pytest.mark.parametrize(
    "answer",
    [
        *[["127.0.0.1"], ["93.184.215.14", "127.0.0.1"], ["93.184.215.14", "::1"]],
        *[
            ["2606:2800:21f:cb07::1", "fd00::1"],
            ["::ffff:10.0.0.1"],
            ["169.254.169.254"],
            ["64:ff9b::a9fe:a9fe"],
        ],
    ],
    ids=str,
)
def test_every_address_of_a_name_is_checked(answer: list[str]) -> None:
    fetcher = Fetcher(DownloadSettings(retries=0), resolve=Names(answer), dial=_no_dial)
    error = refused(fetcher, "http://images.example.org/a.jpg")
    assert error.reason is Reason.BLOCKED_ADDRESS


def test_dns_rebinding_meets_the_checked_address(
    web: Any, settings: DownloadSettings, make_jpeg: Any
) -> None:
    """The name is public when it is checked and this machine a moment later: the connections, of
    robots.txt and of the image, go where was checked."""
    web.page("/a.jpg", make_jpeg())
    dialled = []

    def dial(address: Any, port: int, timeout: float) -> socket.socket:
        from open_diht.pipelines.fetch.connection import dial as connect

        dialled.append(str(address))
        # The test's stand-in for the web.
        return connect(type(address)("127.0.0.1"), web.server_address[1], timeout)

    names = Names(["93.184.215.14"], ["93.184.215.14"], ["127.0.0.1"])
    fetcher = Fetcher(settings, resolve=names, dial=dial)
    assert fetcher.fetch("http://rebind.example.org/a.jpg").body == make_jpeg()
    assert (dialled, names.asked) == (["93.184.215.14"] * 2, 2) and len(web.robots) == 1
    # The next request resolves anew, and is checked anew.
    error = refused(fetcher, "http://rebind.example.org/a.jpg")
    assert error.reason is Reason.BLOCKED_ADDRESS and len(dialled) == 2


def test_every_hop_is_resolved_and_checked(web: Any, settings: DownloadSettings) -> None:
    web.page("/go", b"", ("Location", "http://inside.example.org/secret"), status=302)
    names = {"outside.example.org": ["127.0.0.1"], "inside.example.org": ["10.0.0.7"]}
    fetcher = Fetcher(settings, resolve=lambda host, port, timeout: names[host])
    error = refused(fetcher, f"http://outside.example.org:{web.server_address[1]}/go")
    assert error.reason is Reason.BLOCKED_ADDRESS and "10.0.0.7" in error.message


# ---- responses

Page = Callable[[Any], None]


def _reply(body: bytes, *headers: tuple[str, str], **more: Any) -> Page:
    return lambda handler: handler.reply(body, *headers, **more)


def _to(location: str, status: int = 302) -> Page:
    return _reply(b"", ("Location", location), status=status)


def _raw(data: bytes) -> Page:
    return lambda handler: handler.raw(data)


def _forever(start: bytes, again: bytes) -> Page:
    def page(handler: Any) -> None:
        handler.raw(start)
        while True:
            handler.raw(again)

    return page


def _robots(*values: str) -> Page:
    return _reply(GOOD, *(("X-Robots-Tag", value) for value in values))


def _slow_body(handler: Any) -> None:
    handler.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
    handler.drip(b"a" * 900)


GOOD = b"\xff" * 5_000
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GZIP_BOMB = gzip.compress(b"\0" * 50_000_000)
RESPONSES: list[tuple[str, Page, Reason]] = [
    ("redirect to metadata", _to("http://169.254.169.254/latest/meta-data/"), BLOCKED),
    ("redirect to loopback", _to("http://127.0.0.1/"), BLOCKED),
    ("redirect to loopback, other port", _to("http://127.0.0.1:8080/"), BLOCKED),
    ("redirect to IPv6 loopback", _to("http://[::1]/", 307), BLOCKED),
    ("redirect to a decimal address", _to("//2130706433/", 301), BLOCKED),
    ("redirect to a database", _to("http://127.0.0.1:6379/", 308), Reason.BLOCKED_PORT),
    ("redirect to a file", _to("file:///etc/passwd"), Reason.BAD_URL),
    ("redirect with a user", _to("http://a:b@127.0.0.1/"), Reason.BAD_URL),
    ("redirect to nowhere", _reply(b"", status=301), Reason.BAD_RESPONSE),
    ("redirect loop", _to("/x"), Reason.TOO_MANY_REDIRECTS),
    ("not found", _reply(b"", status=404), Reason.HTTP_STATUS),
    ("gone", _reply(b"", status=410), Reason.HTTP_STATUS),
    ("forbidden", _reply(b"", status=403), Reason.HTTP_STATUS),
    ("server error", _reply(b"", status=500), Reason.HTTP_STATUS),
    ("no content", _reply(b"", status=204), Reason.HTTP_STATUS),
    ("too many requests", _reply(b"", status=429), Reason.HTTP_STATUS),
    ("announced too large", _reply(b"x", length=10**12), Reason.TOO_LARGE),
    (
        "too large without announcement",
        _forever(b"HTTP/1.1 200 OK\r\n\r\n", b"\xff" * 10_000),
        Reason.TOO_LARGE,
    ),
    (
        "endless chunk extensions",
        _forever(CHUNKED, b"1;" + b"x" * 5_000 + b"\r\n\xff\r\n"),
        Reason.TOO_LARGE,
    ),
    ("gzip bomb", _reply(GZIP_BOMB, ("Content-Encoding", "gzip")), Reason.TOO_LARGE),
    (
        "deflate bomb",
        _reply(zlib.compress(b"\0" * 50_000_000), ("Content-Encoding", "deflate")),
        Reason.TOO_LARGE,
    ),
    ("gzip that is none", _reply(GOOD, ("Content-Encoding", "gzip")), Reason.BAD_RESPONSE),
    (
        "gzip without end",
        _reply(gzip.compress(GOOD)[:-9], ("Content-Encoding", "gzip")),
        Reason.BAD_RESPONSE,
    ),
    ("encoding nobody asked for", _reply(GOOD, ("Content-Encoding", "br")), Reason.BAD_RESPONSE),
    ("two encodings", _reply(GOOD, ("Content-Encoding", "gzip, gzip")), Reason.BAD_RESPONSE),
    ("shorter than announced", _reply(GOOD, length=6_000), Reason.BAD_RESPONSE),
    ("empty", _reply(b""), Reason.BAD_RESPONSE),
    (
        "negative length",
        _raw(b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n"),
        Reason.BAD_RESPONSE,
    ),
    ("chunks that are none", _raw(CHUNKED + b"zz\r\nabc"), Reason.BAD_RESPONSE),
    ("chunks without end", _raw(CHUNKED + b"5\r\nabcde\r\n"), Reason.BAD_RESPONSE),
    ("not HTTP", _raw(b"SSH-2.0-OpenSSH_9.2\r\n"), Reason.BAD_RESPONSE),
    (
        "an endless line",
        lambda handler: handler.raw(b"HTTP/1.1 200 " + b"a" * 1_000_000),
        Reason.BAD_RESPONSE,
    ),
    (
        "endless headers",
        _forever(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 1_000 + b"\r\n"),
        Reason.BAD_RESPONSE,
    ),
    (
        "many headers",
        _raw(b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"),
        Reason.BAD_RESPONSE,
    ),
    (
        "endless interim answers",
        _forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        Reason.BAD_RESPONSE,
    ),
    ("closed at once", lambda handler: None, Reason.CONNECT_FAILED),
    ("slow headers", lambda handler: handler.drip(b"HTTP/1.1 200 OK\r\n" * 50), Reason.TIMEOUT),
    ("slow body", _slow_body, Reason.TIMEOUT),
    ("noai", _reply(GOOD, ("X-Robots-Tag", "noai")), Reason.OPT_OUT),
    ("noimageai", _reply(GOOD, ("X-Robots-Tag", "nofollow, NoImageAI")), Reason.OPT_OUT),
    ("noindex", _reply(GOOD, ("x-robots-tag", "noindex")), Reason.OPT_OUT),
    ("noimageindex", _reply(GOOD, ("X-Robots-Tag", "noimageindex")), Reason.OPT_OUT),
    ("none", _reply(GOOD, ("X-Robots-Tag", "none")), Reason.OPT_OUT),
    ("noai for us", _reply(GOOD, ("X-Robots-Tag", "diht: noai")), Reason.OPT_OUT),
    (
        "noai for the tool",
        _reply(GOOD, ("X-Robots-Tag", "otherbot: noindex, img2dataset: noai")),
        Reason.OPT_OUT,
    ),
    ("noai in a second header", _robots("otherbot: noai", "noai"), Reason.OPT_OUT),
    (
        "noai after a date",
        _robots("unavailable_after: Wed, 25 Jun 2030 15:00:00 PST, noai"),
        Reason.OPT_OUT,
    ),
    ("mining reserved", _reply(GOOD, ("TDM-Reservation", "1")), Reason.OPT_OUT),
    (
        "noai on a redirect",
        _reply(b"", ("Location", "/y"), ("X-Robots-Tag", "noai"), status=301),
        Reason.OPT_OUT,
    ),
    (
        "no mining, on a redirect",
        _reply(b"", ("Location", "/y"), ("TDM-Reservation", "1"), status=302),
        Reason.OPT_OUT,
    ),
]


@pytest.mark.parametrize(
    ("page", "reason"), [row[1:] for row in RESPONSES], ids=[row[0] for row in RESPONSES]
)
def test_responses(page: Page, reason: Reason, web: Any, settings: DownloadSettings) -> None:
    web.pages["/x"] = page
    fetcher = Fetcher(settings)
    began = time.monotonic()
    error = refused(fetcher, web.url("/x"))
    fetcher.close()
    assert error.reason is reason, str(error)
    assert error.message
    assert time.monotonic() - began < 10 * settings.timeout, (
        "an end in time, however slow this machine"
    )


def test_nobody_is_sent_on_by_who_says_no(web: Any, fetcher: Fetcher) -> None:
    web.page("/x", b"", ("Location", "/y"), ("X-Robots-Tag", "diht: noindex"), status=307)
    web.page("/y", GOOD)
    error = refused(fetcher, web.url("/x"))
    assert error.reason is Reason.OPT_OUT and web.asked == ["/x"]


RETRY_AFTER = [
    *[
        "+99999999999999",
        "9" * 30,
        "9" * 5_000,
        "Fri, 31 Dec 999999999999999999999999999999 23:59:59 GMT",
    ],
    *["Fri, 31 Dec 9999 23:59:59 -2359", "Mon, 01 Jan 0001 00:00:00 +2359"],
    *[
        "Wed, 21 Oct 2026 99:99:99 +99999999999999999999",
        "Wed, 21 Oct 2026 07:28:00 +99999999",
        "-1",
        "nan",
        "²",
    ],
    *[",,,", "\x1b[31m"],
]


@pytest.mark.parametrize("value", RETRY_AFTER, ids=lambda value: repr(value)[:30])
def test_retry_after_that_no_calendar_has(web: Any, settings: DownloadSettings, value: str) -> None:
    web.page("/x", b"", ("Retry-After", value), status=503)
    fetcher = Fetcher(dataclasses.replace(settings, retries=1), sleep=lambda seconds: None)
    error = refused(fetcher, web.url("/x"))
    assert error.reason is Reason.HTTP_STATUS


def test_an_error_of_ours_costs_its_row(
    web: Any, settings: DownloadSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it is that we have not thought of."""

    def broken(*args: Any) -> Any:
        raise OverflowError("date value out of range")

    monkeypatch.setattr("open_diht.pipelines.fetch.fetcher.read_body", broken)
    with pytest.raises(FetchError, match="OverflowError: date value out of range") as error:
        Fetcher(settings).fetch(web.page("/x", GOOD))
    assert error.value.reason is Reason.UNEXPECTED_ERROR and not error.value.temporary


def test_a_server_writes_no_codes_to_the_terminal(web: Any, fetcher: Fetcher) -> None:
    web.pages["/x"] = lambda handler: handler.raw(b"HTTP/1.1 404 \x1b[2J\x9b31mgone\r\n\r\n")
    error = refused(fetcher, web.url("/x"))
    assert error.message.isprintable() and "gone" in error.message


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_server_without_a_word(scheme: str, silent_port: int, settings: DownloadSettings) -> None:
    fetcher = Fetcher(
        dataclasses.replace(settings, allow=(f"127.0.0.1:{silent_port}",), timeout=0.2)
    )
    assert refused(fetcher, f"{scheme}://127.0.0.1:{silent_port}/").reason is Reason.TIMEOUT


def test_tls_with_a_server_that_has_none(web: Any, fetcher: Fetcher) -> None:
    error = refused(fetcher, f"https://{web.place}/")
    assert error.reason is Reason.CONNECT_FAILED


def test_nobody_listens(settings: DownloadSettings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refuses
        port = taken.getsockname()[1]
        fetcher = Fetcher(dataclasses.replace(settings, allow=(f"127.0.0.1:{port}",)))
        error = refused(fetcher, f"http://127.0.0.1:{port}/")
    assert error.reason is Reason.CONNECT_FAILED and not error.temporary


def test_a_resolver_without_an_answer(
    settings: DownloadSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **more: over.wait(30))
    fetcher = Fetcher(dataclasses.replace(settings, connect_timeout=0.1, respect_robots=False))
    error = refused(fetcher, "http://example.org/")
    over.set()
    assert error.reason is Reason.DNS_FAILED and error.temporary
    fetcher.close()


# ---- bodies: what arrives and is no image that we want
def _png_bomb() -> bytes:
    """The header of an image of ten gigapixels, and pixels for none of them."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 9_000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def bodies(good: bytes, png: bytes) -> list[tuple[str, bytes, dict[str, str], str]]:
    return [
        ("good", good, {}, "ok"),
        ("png", png, {}, "ok"),
        ("html.jpg", b"<!DOCTYPE html><html><body>404</body></html>", {}, "not_an_image"),
        ("svg.jpg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', {}, "not_an_image"),
        ("noise.jpg", bytes(range(256)) * 8, {}, "not_an_image"),
        ("half.jpg", good[: len(good) // 2], {}, "not_an_image"),
        ("bomb.png", _png_bomb(), {}, "too_many_pixels"),
        (
            "postscript.jpg",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            {},
            "not_an_image",
        ),
        ("scans.jpg", BOMBS["a JPEG of 1,000 scans"][0](), {}, "not_an_image"),
        ("tile.tiff", BOMBS["a TIFF of one tile"][0](), {}, "not_an_image"),
        ("comments.gif", BOMBS["a GIF of 400,000 comments"][0](), {}, "not_an_image"),
        ("other.jpg", good, {"sha256": "0" * 64}, "hash_mismatch"),
        ("other5.jpg", good, {"md5": "f" * 32}, "hash_mismatch"),
    ]


def test_bodies(web: Any, settings: DownloadSettings, make_jpeg: Any, tmp_path: Any) -> None:
    pytest.importorskip(
        "img2dataset", reason="img2dataset is not installed: pip install '.[download]'"
    )
    from open_diht.pipelines.fetch.records import REQUESTED
    from open_diht.pipelines.fetch.shard import fetch_shard

    rows = []
    expected = []
    for index, (name, body, hashes, status) in enumerate(
        bodies(make_jpeg(), make_jpeg(kind="PNG"))
    ):
        url = web.page(f"/{name}", body, ("Content-Type", "image/jpeg"))
        rows.append(
            {"ordinal": index, "uid": f"{index:032x}", "caption": name, "url": url, **hashes}
        )
        expected.append((name, status))
    settings = dataclasses.replace(settings, max_bytes=3_000_000)
    fetcher = Fetcher(settings)
    records, _ = fetch_shard(
        pa.Table.from_pylist(rows, REQUESTED), tmp_path, "s", settings, fetcher
    )
    fetcher.close()
    assert [(rows[r["ordinal"]]["caption"], r["status"]) for r in records.to_pylist()] == expected


# ---- answers that no server should give, drawn: each ends as bytes or as a FetchError, in time

MANY = 10_000
"""Answers of the long test; minutes."""


@pytest.fixture
def asking(web: Any, settings: DownloadSettings) -> Iterator[Fetcher]:
    bounds = dataclasses.replace(
        settings, timeout=5.0, connect_timeout=5.0, retries=1, max_bytes=50_000
    )
    bounds = dataclasses.replace(bounds, max_header_bytes=5_000, backoff=0, threads=2)
    here = web.place.partition(":")[0]

    def names(host: str, port: int, timeout: float) -> list[str]:  # no redirect leaves this machine
        return [host if host == here else "10.0.0.1"]

    fetcher = Fetcher(bounds, resolve=names, sleep=lambda seconds: None)
    yield fetcher
    fetcher.close()


HEADER_NAMES = (
    *(
        "Retry-After",
        "Location",
        "Content-Length",
        "Transfer-Encoding",
        "Content-Encoding",
        "X-Robots-Tag",
    ),
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
        *(
            "chunked",
            "gzip",
            "deflate",
            "identity",
            "gzip, chunked",
            "noai",
            "diht: noindex",
            "1",
            "0",
            "50001",
        ),
        *(
            "/a",
            "//10.0.0.1/",
            "http://[::1",
            "http://[2606::5efe:a00:1]/",
            "file:///",
            "http://\xad/",
            "?",
            "#",
        ),
    ]
)
_text = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=40)
VALUES = st.one_of(_numbers, _dates, _words, _text, st.text("0123456789+-", max_size=60))
HEADERS = st.lists(st.tuples(st.sampled_from(HEADER_NAMES), VALUES), max_size=6)
_bodies = st.one_of(
    st.binary(max_size=300),
    st.binary(max_size=100).map(gzip.compress),
    st.binary().map(zlib.compress),
)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Nearly HTTP: a status line, headers, a body in chunks or not, and a few bytes turned."""
    version = draw(
        st.sampled_from([*["HTTP/1.1"] * 6, "HTTP/1.0", "HTTP/0.9", "HTTP/9.9", "ICY", "HTTP"])
    )
    status = draw(st.sampled_from([*[200] * 6, 301, 302, 404, 429, 503, 100, 206, -1, 10**20]))
    headers = draw(HEADERS)
    body = draw(_bodies)
    if draw(st.booleans()):
        headers = [*headers, ("Transfer-Encoding", "chunked")]
        size = draw(
            st.one_of(
                st.just(b"%x" % len(body)),
                st.binary(max_size=20),
                st.just(b"-1"),
                st.just(b"f" * 40),
            )
        )
        body = (
            size
            + b"\r\n"
            + body
            + b"\r\n"
            + draw(st.sampled_from([b"0\r\n\r\n", b"0\r\n", b"", b"0\r\nA: b\r\n\r\n"]))
        )
    head = (
        f"{version} {status} {draw(_text)}\r\n"
        + "".join(f"{name}: {value}\r\n" for name, value in headers)
        + "\r\n"
    )
    answer = bytearray(head.encode("latin-1") + body)
    match draw(st.integers(0, 3)):
        case 1:
            for _ in range(draw(st.integers(1, 3))):
                answer[draw(st.integers(0, len(answer) - 1))] = draw(st.integers(0, 255))
        case 2:
            answer = answer[: draw(st.integers(1, len(answer)))]
    return bytes(answer)


def _asked(web: Any, asking: Fetcher, answer: bytes) -> str:
    """What came of it: `ok` or a reason; no third thing."""
    web.pages["*"] = _raw(answer)
    began = time.monotonic()
    try:
        fetched = asking.fetch(web.url("/x"))
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
def test_headers(web: Any, asking: Fetcher, headers: list[tuple[str, str]], status: int) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    _asked(web, asking, f"HTTP/1.1 {status} said\r\n{lines}\r\nimage".encode("latin-1"))


@pytest.mark.soak
def test_many_answers(web: Any, asking: Fetcher, capsys: pytest.CaptureFixture[str]) -> None:
    found: Counter[str] = Counter()

    @given(answer=answers())
    @examples(_common, max_examples=MANY)
    def one(answer: bytes) -> None:
        found[_asked(web, asking, answer)] += 1

    one()
    with capsys.disabled():
        print(f"\n{found.total():,} answers: {dict(found.most_common())}")
    assert found.total() >= MANY // 2
    assert {
        "ok",
        "http_status",
        "bad_response",
        "too_large",
        "opt_out",
    } <= found.keys(), "it reaches every part"


# ---- public addresses, and the ones that are allowed besides
@pytest.mark.parametrize(
    "text",
    [
        "8.8.8.8",
        "93.184.215.14",
        "172.32.0.1",
        "2606:2800:21f:cb07::1",
        "2a00:1450::1",
        "64:ff9b::808:808",
    ],
)
def test_public(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@given(st.ip_addresses(v=4))
def test_no_private_address_is_public(address: ipaddress.IPv4Address) -> None:
    if address.is_private or address.is_multicast or address.is_loopback or address.is_link_local:
        assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_a_disguise_makes_no_address_public(address: ipaddress.IPv4Address) -> None:
    """Of all forms that hold an IPv4 address, NAT64 alone is public, and as public as what is in
    it."""
    number = int(address)
    site = int(ipaddress.IPv6Address("2606:2800:21f:cb07::"))
    forms = {
        "compatible": number, "mapped": 0xFFFF << 32 | number, "translated": 0xFFFF << 48 | number,
        "6to4": 0x2002 << 112 | number << 80 | 1, "Teredo server": 0x2001 << 112 | number << 64,
        "Teredo client": 0x2001 << 112 | (number ^ 0xFFFF_FFFF),
        "NAT64 of one's own": 0x64FF9B0001 << 80 | number, "ISATAP": site | 0x5EFE << 32 | number,
        "ISATAP, unique": site | 0x0200_5EFE << 32 | number,
    }  # fmt: skip
    for form, disguised in forms.items():
        assert not is_public(ipaddress.IPv6Address(disguised)), form
    assert is_public(ipaddress.IPv6Address(0x64FF9B << 96 | number)) == is_public(address)


def test_allowed() -> None:
    one = Allowed.parse("127.0.0.1:8000")
    assert one.covers(ipaddress.ip_address("127.0.0.1"), 8000)
    assert not one.covers(ipaddress.ip_address("127.0.0.1"), 80)
    assert not one.covers(ipaddress.ip_address("127.0.0.2"), 8000)
    assert Allowed.parse("10.1.0.0/16:80").covers(ipaddress.ip_address("10.1.2.3"), 80)
    assert Allowed.parse("[fd00::1]:80").covers(ipaddress.ip_address("fd00::1"), 80)


@pytest.mark.parametrize(
    "text", ["", "127.0.0.1", "localhost:80", "127.0.0.1:", "127.0.0.1:0", "10.0.0.1/8:80", "::1"]
)
def test_what_allows_nothing(text: str) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:8000|has no port"):
        Allowed.parse(text)
