"""A web server on this machine that answers as the worst of the web does, and a fetcher that may
ask it."""

import dataclasses
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from open_diht.pipelines.fetch.fetcher import Fetcher
from open_diht.pipelines.fetch.settings import DownloadSettings
from tests.common.hostile_images import encode

Page = Callable[["Handler"], None]
ROBOTS = "/robots.txt"


def jpeg(
    size: tuple[int, int] = (40, 30),
    colour: tuple[int, int, int] = (200, 30, 30),
    kind: str = "JPEG",
) -> bytes:
    return encode(Image.new("RGB", size, colour), kind)


class Handler(http.server.BaseHTTPRequestHandler):
    server: "Web"  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        if self.path == ROBOTS:
            with self.server.lock:
                self.server.robots.append(dict(self.headers.items()))
            page = self.server.pages.get(ROBOTS)
        else:
            with self.server.lock:
                self.server.asked.append(self.path)
                self.server.seen.append(dict(self.headers.items()))
            page = self.server.pages.get(self.path) or self.server.pages.get("*")
        try:
            if page is None:
                self.reply(b"no such page", status=404)
            else:
                page(self)
        except OSError:  # the client has gone, as it should where it is sent too much
            pass

    def reply(
        self, body: bytes, *headers: tuple[str, str], status: int = 200, length: int | None = None
    ) -> None:
        """A whole answer; `length` is what Content-Length says, where it is not the truth."""
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def raw(self, data: bytes) -> None:
        self.wfile.write(data)

    def drip(self, data: bytes) -> None:
        """Byte after byte, until the server ends."""
        for byte in data:
            if self.server.stopping.wait(0.05):
                return
            self.wfile.write(bytes([byte]))

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Web(http.server.ThreadingHTTPServer):
    """`pages` by path; `asked` are the paths asked for, in order, and `seen` the headers of these
    requests. Those for /robots.txt are in `robots` alone; without a page of its own it is 404."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.asked: list[str] = []
        self.seen: list[dict[str, str]] = []
        self.robots: list[dict[str, str]] = []
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def url(self, path: str = "/") -> str:
        return f"http://{self.place}{path}"

    def page(self, path: str, body: bytes, *headers: tuple[str, str], **more: Any) -> str:
        """Adds a page that is answered the same each time; returns its address."""
        self.pages[path] = lambda handler: handler.reply(body, *headers, **more)
        return self.url(path)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Web]:
    server = Web()
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    yield server
    server.stopping.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def settings(web: Web) -> DownloadSettings:
    """Settings that allow the server, and are quick to give up."""
    quick: dict[str, Any] = {
        "timeout": 1.0,
        "connect_timeout": 0.8,
        "retries": 0,
        "backoff": 0.01,
        "max_redirects": 3,
    }
    return DownloadSettings(
        allow=(web.place,), max_bytes=100_000, max_header_bytes=10_000, threads=4, **quick
    )


@pytest.fixture
def polite(settings: DownloadSettings) -> DownloadSettings:
    """Settings for runs: as quick to give up, but patient with a busy machine."""
    return dataclasses.replace(
        settings, timeout=20.0, connect_timeout=10.0, max_bytes=2_000_000, max_header_bytes=65_536
    )


make_jpeg = pytest.fixture(lambda: jpeg)


@pytest.fixture
def fetcher(settings: DownloadSettings) -> Iterator[Fetcher]:
    fetcher = Fetcher(settings)
    yield fetcher
    fetcher.close()


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener.getsockname()[1]
