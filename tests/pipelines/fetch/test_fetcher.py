"""What an honest server may expect, and what it takes to be asked again."""

import dataclasses
import gzip
import hashlib
import ipaddress
import ssl
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from open_diht.filters.download import FetchError, Reason
from open_diht.pipelines.fetch.fetcher import Fetcher
from open_diht.pipelines.fetch.opener import Expected, digests_of, expected_of, is_nobodys
from open_diht.pipelines.fetch.settings import DownloadSettings
from open_diht.pipelines.fetch.urls import parse_url

BODY = b"\xff\xd8 an image"


def _in_turn(*pages: Any) -> Any:
    """A page that answers with each of `pages` once, then with the last."""
    left = list(pages)
    lock = threading.Lock()

    def page(handler: Any) -> None:
        with lock:
            now = left.pop(0) if len(left) > 1 else left[0]
        now(handler)

    return page


def _status(status: int, *headers: tuple[str, str]) -> Any:
    return lambda handler: handler.reply(b"", *headers, status=status)


def _good(handler: Any) -> None:
    handler.reply(BODY)


def _patient(settings: DownloadSettings, **more: Any) -> tuple[Fetcher, list[float]]:
    waits: list[float] = []
    return Fetcher(dataclasses.replace(settings, retries=2, **more), sleep=waits.append), waits


# ---- honest answers
def test_who_asks(web: Any, fetcher: Fetcher) -> None:
    fetcher.fetch(web.page("/a.jpg", BODY))
    (headers,) = web.seen
    assert headers["User-Agent"].startswith("diht/")
    assert headers["Accept"] == "image/jpeg,image/png,image/gif,image/webp,image/bmp,*/*;q=0.1", (
        "what can be read"
    )
    assert headers["Host"] == web.place
    assert not {"Cookie", "Authorization", "Referer"} & headers.keys()


def test_redirects_are_followed(web: Any, fetcher: Fetcher) -> None:
    web.page("/1", b"", ("Location", "/2"), status=301)
    web.page("/2", b"", ("Location", web.url("/3?x=y")), status=307)
    web.page("/3?x=y", BODY)
    assert fetcher.fetch(web.url("/1")).url == web.url("/3?x=y")


@pytest.mark.parametrize(
    ("sent", "asked"),
    [
        ("/bilder/Käse.png".encode(), "/bilder/K%C3%A4se.png"),
        ("/É/猫.png".encode(), "/%C3%89/%E7%8C%AB.png"),
        ("/K\u00e4se%20b.png".encode("iso-8859-1"), "/K%E4se%20b.png"),
    ],
)
def test_redirects_to_letters_that_are_not_escaped_are_followed(web, fetcher, sent, asked):
    web.page("/1", b"", ("Location", sent.decode("iso-8859-1")), status=301)
    web.page(asked, BODY)
    assert fetcher.fetch(web.url("/1")).url == web.url(asked)


@pytest.mark.parametrize("behind", [b"", b"\0" * 512, b"rubbish"])
def test_gzip_of_several_members(web: Any, fetcher: Fetcher, behind: bytes) -> None:
    """As of a server that compresses block by block; padding and rubbish behind it are no part of
    the body."""
    packed = (
        b"".join(gzip.compress(BODY[start : start + 4]) for start in range(0, len(BODY), 4))
        + behind
    )
    web.page("/a", packed, ("Content-Encoding", "gzip"))
    web.page("/b", b"".join([gzip.compress(bytes(100_000))] * 50), ("Content-Encoding", "gzip"))
    assert fetcher.fetch(web.url("/a")).body == BODY
    cut = gzip.compress(BODY) + gzip.compress(BODY)[:-3]
    web.page("/c", cut, ("Content-Encoding", "gzip"))
    for page, reason in (("/b", Reason.TOO_LARGE), ("/c", Reason.BAD_RESPONSE)):
        with pytest.raises(FetchError) as raised:
            fetcher.fetch(web.url(page))
        assert raised.value.reason == reason


@pytest.mark.parametrize("chunked", [False, True])
def test_gzip_that_nobody_asked_for(web: Any, fetcher: Fetcher, chunked: bool) -> None:
    packed = gzip.compress(BODY)
    if chunked:
        head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
        web.pages["/a"] = lambda handler: handler.raw(
            head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(packed), packed)
        )
    else:
        web.page("/a", packed, ("Content-Encoding", "gzip"))
    assert fetcher.fetch(web.url("/a")).body == BODY


def test_a_body_that_ends_with_the_connection(web: Any, fetcher: Fetcher) -> None:
    web.pages["/a"] = lambda handler: handler.raw(b"HTTP/1.0 200 OK\r\n\r\n" + BODY)
    assert fetcher.fetch(web.url("/a")).body == BODY


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("http://Example.ORG", "http://example.org/"),
        (" http://example.org/a b.jpg\n", "http://example.org/a%20b.jpg"),
        ("http://example.org/grün.jpg?q=ä#top", "http://example.org/gr%C3%BCn.jpg?q=%C3%A4"),
        ("http://example.org/a%20b%2Fc.jpg", "http://example.org/a%20b%2Fc.jpg"),
        ("https://bücher.example:8443/a", "https://xn--bcher-kva.example:8443/a"),
        ("http://example.org:80/", "http://example.org/"),
        ("https://example.org:443/x?u=http://y/z", "https://example.org/x?u=http://y/z"),
        ("http://my_images.example.org/a|b.jpg", "http://my_images.example.org/a%7Cb.jpg"),
        ("http://[2606:2800:21f::1]:8080/", "http://[2606:2800:21f::1]:8080/"),
    ],
)
def test_addresses_as_manifests_have_them(given: str, asked: str) -> None:
    assert str(parse_url(given)) == asked
    assert str(parse_url(asked)) == asked, "written once, it stays"


# ---- opt-out
@pytest.mark.parametrize(
    "value",
    ["all", "nofollow", "googlebot: noindex", "otherbot: noai, noimageai", "max-snippet: 5"],
)
def test_others_are_addressed(web: Any, fetcher: Fetcher, value: str) -> None:
    assert fetcher.fetch(web.page("/a", BODY, ("X-Robots-Tag", value))).body == BODY


def test_opt_out_may_be_ignored_where_one_has_the_right(
    web: Any, settings: DownloadSettings
) -> None:
    fetcher = Fetcher(dataclasses.replace(settings, respect_opt_out=False))
    assert fetcher.fetch(web.page("/a", BODY, ("X-Robots-Tag", "noai"))).body == BODY


# ---- asking again
@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_what_may_pass_is_asked_again(web: Any, settings: DownloadSettings, status: int) -> None:
    web.pages["/a"] = _in_turn(_status(status), _status(status), _good)
    fetcher, waits = _patient(settings, backoff=1.0)
    assert fetcher.fetch(web.url("/a")).attempts == 3 == len(web.asked)
    assert 0.75 <= waits[0] <= 1.25 and 1.5 <= waits[1] <= 2.5, "twice as long each time"


def test_a_broken_connection_is_asked_again(web: Any, settings: DownloadSettings) -> None:
    web.pages["/a"] = _in_turn(
        lambda handler: None, lambda handler: handler.reply(BODY, length=99), _good
    )
    fetcher, _ = _patient(settings)
    assert fetcher.fetch(web.url("/a")).attempts == 3


def test_a_bounded_number_of_times(web: Any, settings: DownloadSettings) -> None:
    web.pages["/a"] = _status(503)
    fetcher, waits = _patient(settings)
    with pytest.raises(FetchError) as error:
        fetcher.fetch(web.url("/a"))
    assert (error.value.reason, error.value.attempts) == (Reason.HTTP_STATUS, 3)
    assert len(web.asked) == 3 and len(waits) == 2


FINAL = [_status(status) for status in (400, 401, 403, 404, 410, 451, 500)]
FINAL += [
    _good,
    _status(429, ("Retry-After", "3600")),
    lambda handler: handler.reply(b"abc", ("X-Robots-Tag", "noai")),
]


@pytest.mark.parametrize("page", FINAL)
def test_what_will_not_pass_is_asked_once(web, settings, page):
    """Other statuses, a body that is too large, a server that wants more patience, and one that
    says no."""
    web.pages["/a"] = page
    fetcher, waits = _patient(settings, max_bytes=5, max_wait=10)
    with pytest.raises(FetchError):
        fetcher.fetch(web.url("/a"))
    assert len(web.asked) == 1 and not waits


def test_retry_after_is_obeyed(web: Any, settings: DownloadSettings) -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=9), usegmt=True)
    web.pages["/a"] = _in_turn(
        _status(429, ("Retry-After", "7")), _status(503, ("Retry-After", soon)), _good
    )
    fetcher, waits = _patient(settings, max_wait=10)
    assert fetcher.fetch(web.url("/a")).attempts == 3
    assert waits[0] == 7 and 6 <= waits[1] <= 9


# ---- proxies and TLS
def test_proxies_of_the_environment_are_not_used(
    web: Any, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetcher.fetch(web.page("/a", BODY)).body == BODY


def _certificate(folder: Path) -> Path:
    """A key and a certificate for this machine that nobody has signed but itself."""
    x509 = pytest.importorskip("cryptography.x509", reason="cryptography is not installed")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "images.example.org")])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    )
    day = timedelta(days=1)
    builder = builder.serial_number(1).not_valid_before(now - day).not_valid_after(now + day)
    names = [x509.DNSName("images.example.org"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "both.pem"
    path.write_bytes(
        private + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    )
    return path


def test_tls(
    web: Any, settings: DownloadSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The certificate must be trusted and name the host, whatever address the host resolved to."""
    pem = _certificate(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    web.socket = server.wrap_socket(web.socket, server_side=True)
    web.page("/a", BODY * 1_000)
    port = web.server_address[1]

    def fetch(host: str) -> bytes:
        fetcher = Fetcher(settings, resolve=lambda *args: ["127.0.0.1"])
        return fetcher.fetch(f"https://{host}:{port}/a").body

    with pytest.raises(FetchError, match="self-signed") as error:
        fetch("images.example.org")
    assert error.value.reason is Reason.CONNECT_FAILED
    monkeypatch.setenv("SSL_CERT_FILE", str(pem))
    assert fetch("images.example.org") == BODY * 1_000
    assert fetch("127.0.0.1") == BODY * 1_000
    with pytest.raises(FetchError, match=r"(?i)hostname mismatch"):
        fetch("other.example.org")


# ---- settings
@pytest.mark.parametrize(
    "wrong",
    [
        *[
            {"threads": 0},
            {"threads": 10**11},
            {"threads": "64"},
            {"max_bytes": 10**24},
            {"retries": 10**15},
        ],
        *[
            {"timeout": 0},
            {"timeout": float("nan")},
            {"retries": -1},
            {"quality": 101},
            {"ports": (0,)},
        ],
        *[{"allow": ("localhost",)}, {"user_agent": "a\r\nb"}, {"user_agent": " "}],
    ],
    ids=str,
)
def test_wrong_settings(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be|127\.0\.0\.1"):
        DownloadSettings(**wrong)


# ---- the manifest's hashes: what a row expects, and whose image a file is


SHA = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY).hexdigest()
OURS = Expected("sha256", SHA)
OTHER = Expected("sha256", "0" * 64)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"sha256": SHA, "md5": "0" * 32}, OURS),
        ({"sha256": f"\t{SHA.upper()} ", "md5": None}, OURS),
        ({"sha256": " ", "md5": MD5.upper()}, Expected("md5", MD5)),
        ({"sha256": None, "md5": MD5}, Expected("md5", MD5)),
        ({"sha256": None, "md5": None}, None),
        ({"sha256": "", "md5": " "}, None),
    ],
)
def test_what_a_row_expects(row: Any, expected: Expected | None) -> None:
    assert expected_of(row) == expected


def test_digests_are_those_that_rows_need() -> None:
    assert digests_of(BODY, []) == digests_of(BODY, [None, OTHER]) == {"sha256": SHA}
    assert digests_of(BODY, [Expected("md5", "0" * 32)]) == {"sha256": SHA, "md5": MD5}


@pytest.mark.parametrize(
    ("rows", "nobodys"),
    [
        *[
            ([OTHER], True),
            ([OTHER, Expected("md5", "0" * 32)], True),
            ([OTHER, Expected("md5", MD5)], False),
        ],
        *[([OTHER, OURS], False), ([OTHER, None], False), ([], False)],
    ],
)
def test_a_file_that_is_the_image_of_no_row(rows: list[Expected | None], nobodys: bool) -> None:
    assert is_nobodys(digests_of(BODY, rows), rows) is nobodys
