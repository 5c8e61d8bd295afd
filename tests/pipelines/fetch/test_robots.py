"""What a host's robots.txt permits; and each host is asked for it once, whatever it answers."""

import dataclasses
import gzip
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from open_diht.filters.download import FetchError, Reason
from open_diht.pipelines.fetch import robots
from open_diht.pipelines.fetch.fetcher import Fetcher
from open_diht.pipelines.fetch.robots import MAX_BYTES, MAX_RULES, Robots, denial, rules_of
from open_diht.pipelines.fetch.settings import DownloadSettings
from open_diht.pipelines.fetch.urls import parse_url

BODY = b"\xff\xd8 an image"
ROBOTS = "/robots.txt"
NAMES = ("diht", "img2dataset")


def _denial(text: str | bytes, path: str) -> str | None:
    """The rule that denies a path, as its line."""
    content = text.encode() if isinstance(text, str) else text
    rule = denial(rules_of(content, NAMES), path)
    return None if rule is None else str(rule)


# ---- rules, as RFC 9309 has them
@pytest.mark.parametrize(
    ("rules", "path", "denied"),
    [
        ("Disallow: /", "/a.jpg", True),
        ("Disallow:", "/a.jpg", False),
        ("Disallow: /img", "/img/a.jpg", True),
        ("Disallow: /img", "/images.jpg", False),
        ("Disallow: /img", "/a/img/b.jpg", False),
        ("Disallow: /IMG", "/img/a.jpg", False),
        ("Disallow: img", "/img/a.jpg", False),
        ("disALLOW :/img # ours", "/img/a.jpg", True),
        # the longest rule wins, in any order, and Allow at the same length
        ("Disallow: /\nAllow: /img/", "/img/a.jpg", False),
        ("Allow: /\nDisallow: /img/", "/img/a.jpg", True),
        ("Disallow: /img\nAllow: /img", "/img/a.jpg", False),
        ("Allow: /img\nDisallow: /*.jpg", "/img/a.jpg", True),
        # * and $
        ("Disallow: /*.jpg$", "/a/b.jpg", True),
        ("Disallow: /*.jpg$", "/a/b.jpg?w=9", False),
        ("Disallow: /*.jpg", "/a/b.jpg?w=9", True),
        ("Disallow: /*?", "/a.jpg?w=9", True),
        ("Disallow: *", "/a.jpg", True),
        ("Disallow: /a*b*c$", "/a-b-c-b-c", True),
        ("Disallow: /a*b*c$", "/a-c-b", False),
        ("Disallow: /ab*b$", "/ab", False),
        ("Disallow: /a$", "/a", True),
        ("Disallow: /a$", "/a/", False),
        ("Disallow: /a*$", "/a.jpg", True),
        ("Disallow: /a$b", "/a$b.jpg", True),
        # escapes of either side
        ("Disallow: /käse", "/k%C3%A4se.jpg", True),
        ("Disallow: /k%c3%a4se", "/k%C3%A4se.jpg", True),
        ("Disallow: /%7Ejoe", "/~joe/a.jpg", True),
        ("Disallow: /a%2A", "/a*.jpg", True),
        ("Disallow: /a%2A", "/ab.jpg", False),
    ],
)
def test_rules(rules: str, path: str, denied: bool) -> None:
    for end in ("\n", "\r\n", "\r"):
        text = f"User-agent: *\n{rules}\n".replace("\n", end)
        assert (_denial(text, path) is not None) == denied


@pytest.mark.parametrize(
    ("text", "denied"),
    [
        ("Disallow: /", False),
        ("User-agent: otherbot\nDisallow: /", False),
        ("User-agent: DiHT\nDisallow: /", True),
        ("user-agent:diht/9.9 (any)\ndisallow:/", True),
        ("User-agent: dihtbot\nDisallow: /", False),
        ("User-agent: img2dataset\nDisallow: /", True),
        ("\N{BYTE ORDER MARK}User-agent: *\nDisallow: /", True),
        # the group for us counts, and not the one for all, in any order
        ("User-agent: *\nDisallow: /\n\nUser-agent: diht\nDisallow: /x", False),
        ("User-agent: diht\nDisallow: /\n\nUser-agent: *\nAllow: /", True),
        ("User-agent: diht\nDisallow:\n\nUser-agent: *\nDisallow: /", False),
        # groups of several names, and several groups of a name
        ("User-agent: otherbot\nUser-agent: diht\nDisallow: /", True),
        ("User-agent: otherbot\nSitemap: /s\n\nUser-agent: diht\nDisallow: /", True),
        ("User-agent: diht\nDisallow: /x\nUser-agent: otherbot\nDisallow: /", False),
        ("User-agent: diht\nDisallow: /x\n\nUser-agent: diht\nDisallow: /", True),
    ],
)
def test_groups(text: str, denied: bool) -> None:
    assert (_denial(text, "/a.jpg") is not None) == denied


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"<!DOCTYPE html><html><body>User-agent: *<br>Disallow: /</body></html>",
        bytes(range(256)) * 40,
        "User-agent: *\nDisallow: /".encode("utf-16"),
        b"\0" * MAX_BYTES,
        b"User-agent: *\n" * 30_000,
    ],
    ids=["empty", "html", "bytes", "utf-16", "zeros", "agents"],
)
def test_what_is_no_robots_txt_denies_nothing(text: bytes) -> None:
    assert _denial(text, "/a.jpg") is None


def test_a_line_at_the_limit_of_bytes_is_not_read_by_halves() -> None:
    head = b"User-agent: *\nDisallow: /last\n"
    filler = b"#" * (MAX_BYTES - len(head) - len(b"\nDisallow: /"))
    text = head + filler + b"\nDisallow: /images"
    assert len(text) > MAX_BYTES
    assert _denial(text[:MAX_BYTES], "/a.jpg") is None
    assert _denial(text[:MAX_BYTES], "/last.jpg") == "Disallow: /last"
    whole = text.replace(b"##", b"#", 1)[: MAX_BYTES - 1]
    assert _denial(whole, "/a.jpg") == "Disallow: /", "below the limit, the last line is whole"


def test_the_number_of_rules_is_bounded() -> None:
    lines = [b"User-agent: *", *(b"Disallow: /%d$" % n for n in range(MAX_RULES + 1))]
    text = b"\n".join(lines)
    assert len(text) < MAX_BYTES and len(rules_of(text, NAMES)) == MAX_RULES
    assert _denial(text, f"/{MAX_RULES - 1}") and not _denial(text, f"/{MAX_RULES}")


def test_memory_is_bounded_and_the_first_host_is_forgotten_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []

    def read(target: Any) -> bytes:
        asked.append(target.host)
        return b"User-agent: *\n" + b"".join(b"Disallow: /%d\n" % n for n in range(100))

    known = Robots(read, NAMES)
    known.check(parse_url("http://0.example.org/a"))
    monkeypatch.setattr(robots, "_MAX_MEMORY", 4 * known._memory)
    for n in range(1, 9):
        known.check(parse_url(f"http://{n}.example.org/a"))
    assert known._memory <= robots._MAX_MEMORY and len(known._hosts) == 4
    for n in (8, 5, 4):
        known.check(parse_url(f"http://{n}.example.org/a"))
    assert asked == [*(f"{n}.example.org" for n in range(9)), "4.example.org"]


# ---- hosts
def _refusal(fetcher: Fetcher, url: str) -> FetchError:
    with pytest.raises(FetchError) as error:
        fetcher.fetch(url)
    return error.value


def _says(web: Any, text: str) -> None:
    web.page(ROBOTS, text.encode())


def test_a_denied_image_is_not_requested(web: Any, fetcher: Fetcher) -> None:
    _says(web, "User-agent: *\nDisallow: /no/")
    url = web.page("/no/a.jpg", BODY)
    error = _refusal(fetcher, url)
    assert error.reason is Reason.ROBOTS_DENIED and "Disallow: /no/" in error.message
    assert not web.asked and len(web.robots) == 1
    assert fetcher.fetch(web.page("/yes/a.jpg", BODY)).body == BODY
    assert web.asked == ["/yes/a.jpg"] and len(web.robots) == 1
    assert web.robots[0]["User-Agent"].startswith("diht/") and "Range" not in web.robots[0]


def test_a_user_agent_of_ones_own_is_addressed_by_its_first_word(
    web: Any, settings: DownloadSettings
) -> None:
    _says(web, "User-agent: MyBot\nDisallow: /\nUser-agent: diht\nAllow: /")
    url = web.page("/a.jpg", BODY)
    mine = Fetcher(dataclasses.replace(settings, user_agent="mybot/2.0 (me@example.org)"))
    assert _refusal(mine, url).reason is Reason.ROBOTS_DENIED
    assert Fetcher(settings).fetch(url).body == BODY


def test_it_is_not_read_where_one_has_the_right(web: Any, settings: DownloadSettings) -> None:
    _says(web, "User-agent: *\nDisallow: /")
    fetcher = Fetcher(dataclasses.replace(settings, respect_robots=False))
    assert fetcher.fetch(web.page("/a.jpg", BODY)).body == BODY and not web.robots


def test_requests_at_a_time_wait_for_one(web: Any, settings: DownloadSettings) -> None:
    at_once = threading.Event()

    def slow(handler: Any) -> None:
        at_once.wait(0.2)
        handler.reply(b"User-agent: *\nDisallow: /no")

    web.pages[ROBOTS] = slow
    web.page("*", BODY)
    fetcher = Fetcher(dataclasses.replace(settings, timeout=20.0, connect_timeout=10.0))

    def fetch(n: int) -> str:
        try:
            return fetcher.fetch(web.url(f"/{'no' if n % 2 else 'yes'}/{n}")).body.decode("latin-1")
        except FetchError as error:
            return str(error.reason)

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(fetch, range(32)))
    assert found == [BODY.decode("latin-1"), "robots_denied"] * 16
    assert len(web.robots) == 1 and len(web.asked) == 16


def test_every_redirect_asks_its_own_host(web: Any, settings: DownloadSettings) -> None:
    """Scheme, host and port make a host; its rules are for the page that a redirect leads to."""
    _says(web, "User-agent: *\nDisallow: /no")
    port = web.server_address[1]
    names = {"one.example.org": ["127.0.0.1"], "two.example.org": ["127.0.0.1"]}
    fetcher = Fetcher(settings, resolve=lambda host, port, timeout: names[host])
    web.page("/go", b"", ("Location", f"http://two.example.org:{port}/no.jpg"), status=302)
    error = _refusal(fetcher, f"http://one.example.org:{port}/go")
    assert error.reason is Reason.ROBOTS_DENIED and web.asked == ["/go"]
    assert [request["Host"] for request in web.robots] == [
        f"one.example.org:{port}",
        f"two.example.org:{port}",
    ]


DENIES = b"User-agent: *\nDisallow: /"
Page = Callable[[Any], None]


def _reply(body: bytes, *headers: tuple[str, str], **more: Any) -> Page:
    return lambda handler: handler.reply(body, *headers, **more)


def _raw(data: bytes) -> Page:
    return lambda handler: handler.raw(data)


def _gigabyte(handler: Any) -> None:
    """It denies in its first line, announces a gigabyte, and sends until nobody reads."""
    handler.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n" + DENIES + b"\n")
    while True:
        handler.raw(b"Disallow: /xxxx\n" * 4_096)


def _endless_headers(handler: Any) -> None:
    handler.raw(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.raw(b"X-A: " + b"a" * 1_000 + b"\r\n")


def _slow(handler: Any) -> None:
    handler.drip(b"HTTP/1.1 200 OK\r\n" * 99)


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PACKED = [("Content-Encoding", "gzip")]
LOOP = _reply(b"", ("Location", ROBOTS), status=301)
METADATA = ("Location", "http://169.254.169.254/robots.txt")
ANSWERS: list[tuple[str, Page, Reason | None]] = [
    *((str(status), _reply(DENIES, status=status), None) for status in (400, 401, 403, 404, 410)),
    *(
        (str(status), _reply(b"", status=status), Reason.ROBOTS_DENIED)
        for status in (408, 429, 500, 501, 502, 503, 504, 599, 600)
    ),
    ("empty", _reply(b""), None),
    ("no content", _raw(b"HTTP/1.1 204 No Content\r\n\r\n"), None),
    ("denies", _reply(DENIES), Reason.ROBOTS_DENIED),
    ("html", _reply(b"<html>User-agent: *</html>", ("Content-Type", "text/html")), None),
    ("bytes", _reply(bytes(range(256)) * 99), None),
    ("noindex for itself", _reply(b"", ("X-Robots-Tag", "noindex")), None),
    ("a gigabyte", _gigabyte, Reason.ROBOTS_DENIED),
    ("packed", _reply(gzip.compress(DENIES), *PACKED), Reason.ROBOTS_DENIED),
    ("a bomb", _reply(gzip.compress(DENIES + b"\n" * 9**8), *PACKED), Reason.ROBOTS_DENIED),
    ("not packed", _reply(b"Allow: /", *PACKED), Reason.ROBOTS_DENIED),
    ("encoded", _reply(b"Allow: /", ("Content-Encoding", "br")), Reason.ROBOTS_DENIED),
    ("truncated", _reply(b"Allow: /", length=900), Reason.ROBOTS_DENIED),
    ("chunks without end", _raw(CHUNKED + b"8\r\nAllow: /\r\n"), Reason.ROBOTS_DENIED),
    ("not HTTP", _raw(b"SSH-2.0-OpenSSH_9.2\r\n"), Reason.ROBOTS_DENIED),
    ("endless headers", _endless_headers, Reason.ROBOTS_DENIED),
    ("a redirect loop", LOOP, None),
    ("a redirect to nowhere", _reply(b"", status=301), Reason.ROBOTS_DENIED),
    ("a redirect to metadata", _reply(b"", METADATA, status=302), Reason.BLOCKED_ADDRESS),
    ("closed at once", lambda handler: None, Reason.CONNECT_FAILED),
    ("a byte now and then", _slow, Reason.TIMEOUT),
]


@pytest.mark.parametrize(
    ("page", "reason"), [row[1:] for row in ANSWERS], ids=[row[0] for row in ANSWERS]
)
def test_answers(page: Page, reason: Reason | None, web: Any, settings: DownloadSettings) -> None:
    """A host whose robots.txt cannot be read is asked for nothing else, for now."""
    web.pages[ROBOTS] = page
    url = web.page("/a.jpg", BODY)
    fetcher = Fetcher(settings)
    for _ in range(2):
        if reason is None:
            assert fetcher.fetch(url).body == BODY
        else:
            error = _refusal(fetcher, url)
            assert error.reason is reason and error.message.startswith("robots.txt: ")
    assert bool(web.asked) == (reason is None)
    assert len(web.robots) == (6 if page is LOOP else 1), "once, and not again"


@pytest.mark.parametrize(("hops", "denied"), [(5, True), (6, False)])
def test_five_redirects_are_followed_to_any_host(
    hops: int, denied: bool, web: Any, settings: DownloadSettings
) -> None:
    """Whatever an image may; what is found there is for the host that was to be asked."""
    place = f"http://other.example.org:{web.server_address[1]}"
    web.pages[ROBOTS] = _reply(b"", ("Location", f"{place}/1"), status=301)
    for hop in range(1, hops):
        web.page(f"/{hop}", b"", ("Location", f"/{hop + 1}"), status=302)
    web.page(f"/{hops}", DENIES)
    url = web.page("/a.jpg", BODY)
    fetcher = Fetcher(
        dataclasses.replace(settings, max_redirects=0), resolve=lambda *args: ["127.0.0.1"]
    )
    if denied:
        assert _refusal(fetcher, url).reason is Reason.ROBOTS_DENIED and "/a.jpg" not in web.asked
    else:
        assert fetcher.fetch(url).body == BODY


def test_failures_that_may_pass_are_tried_again(web: Any, settings: DownloadSettings) -> None:
    answers = [_reply(b"", status=503), _reply(b"Allow: /", length=900), _reply(DENIES)]
    web.pages[ROBOTS] = lambda handler: answers[len(web.robots) - 1](handler)
    fetcher = Fetcher(dataclasses.replace(settings, retries=2), sleep=lambda seconds: None)
    error = _refusal(fetcher, web.page("/a.jpg", BODY))
    assert "Disallow: /" in error.message and len(web.robots) == 3


def test_a_failure_is_forgotten_and_an_answer_is_kept(
    web: Any, fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.pages[ROBOTS] = _reply(b"", status=503)
    url = web.page("/a.jpg", BODY)
    monkeypatch.setattr(robots, "_FAILED_S", -1.0)
    assert _refusal(fetcher, url).reason is Reason.ROBOTS_DENIED
    _says(web, "User-agent: *\nAllow: /")
    assert fetcher.fetch(url).body == fetcher.fetch(url).body == BODY
    assert len(web.robots) == 2


def test_a_host_that_never_answers_costs_one_wait_of_all_its_images(
    silent_port: int, settings: DownloadSettings
) -> None:
    connections: list[int] = []

    def dial(address: Any, port: int, timeout: float) -> Any:
        from open_diht.pipelines.fetch.connection import dial as connect

        connections.append(port)
        return connect(address, port, timeout)

    quick = dataclasses.replace(settings, allow=(f"127.0.0.1:{silent_port}",), timeout=0.3)
    fetcher = Fetcher(quick, dial=dial)
    for n in range(5):
        error = _refusal(fetcher, f"http://127.0.0.1:{silent_port}/{n}")
        assert error.reason is Reason.TIMEOUT
    assert connections == [silent_port]


def test_an_error_of_ours_keeps_no_thread_waiting_and_is_not_remembered() -> None:
    began = threading.Barrier(2)
    broken = True

    def read(target: Any) -> bytes:
        if broken:
            began.wait(10)
            raise MemoryError
        return b""

    known = Robots(read, NAMES)
    target = parse_url("http://example.org/a")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(known.check, target)
        began.wait(10)
        assert isinstance(first.exception(10), MemoryError)
    broken = False
    known.check(target)
