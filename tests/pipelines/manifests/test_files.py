"""Remote files: read in parts, what is asked for, all of it, and nothing twice; and what an outage
is."""

import errno
import os
import random
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import fsspec
import pytest

from open_diht.pipelines.manifests.files import (
    _REMEMBERED_BYTES,
    file_size,
    open_file,
    reading,
    stamp,
)
from open_diht.pipelines.manifests.types import Unreachable, UnreadableFile

MIB = 2**20


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of every read of a file in memory, which stands for one in a store."""
    sizes: list[int] = []
    memory = type(fsspec.filesystem("memory"))
    opened = memory._open

    def counting(self: Any, path: str, *arguments: Any, **options: Any) -> Any:
        handle = opened(self, path, *arguments, **options)  # of a file always the same
        read = type(handle).read

        def counted(size: int) -> bytes:
            content: bytes = read(handle, size)
            sizes.append(len(content))
            return content

        handle.read = counted
        return handle

    monkeypatch.setattr(memory, "_open", counting)
    return sizes


def _written(name: str, size: int) -> tuple[str, bytes]:
    content = random.Random(0).randbytes(size)
    fsspec.filesystem("memory").pipe_file(f"/parts/{name}", content)
    return f"memory://parts/{name}", content


def test_parts_are_those_of_the_file_and_fetched_once(fetched: list[int]) -> None:
    path, content = _written("a", MIB)
    dice = random.Random(1)
    with open_file(path, parts=True) as file:
        for _ in range(500):
            at = dice.randrange(MIB + 100)
            size = dice.randrange(20_000)
            assert file.seek(at) == at
            assert file.read(size) == content[at : at + size] and file.tell() == max(
                at, min(at + size, MIB)
            )
        assert sum(fetched) <= MIB
        assert (
            file.seek(-10, os.SEEK_END) == MIB - 10
            and file.read() == content[-10:]
            and file.read(1) == b""
        )


def test_what_is_remembered_is_bounded(fetched: list[int]) -> None:
    path, content = _written("b", _REMEMBERED_BYTES + 2 * MIB)
    with open_file(path, parts=True) as file:
        for at in (*range(0, len(content), MIB), 0):
            file.seek(at)
            assert file.read(MIB) == content[at : at + MIB]
        assert sum(fetched) == len(content) + MIB  # the first part was forgotten
        file.seek(0)
        assert file.read() == content


class _Answer(Exception):
    """As botocore's ClientError."""

    def __init__(self, code: str):
        self.response = {"Error": {"Code": code}}


def _denied(code: str) -> PermissionError:
    error = PermissionError("denied")
    error.__cause__ = _Answer(code)
    return error


def test_a_store_that_does_not_say_whether_a_file_has_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, _ = _written("c", 10)

    def down(*arguments: Any) -> None:
        raise TimeoutError("no answer")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "info", down)
    with pytest.raises(Unreachable, match="parts/c cannot be read now"):
        stamp(path)


@pytest.mark.parametrize(
    ("path", "error", "is_one"),
    [
        ("s3://b/a", TimeoutError("timed out"), True),
        ("s3://b/a", ConnectionResetError("reset"), True),
        ("s3://b/a", OSError(errno.EBUSY, "Please reduce your request rate."), True),
        ("s3://b/a", OSError(errno.EREMOTEIO, "We encountered an internal error."), True),
        ("s3://b/a", _denied("ExpiredToken"), True), ("s3://b/a", _denied("AccessDenied"), False),
        ("s3://b/a", FileNotFoundError("b/a"), False),
        ("s3://b/a", OSError("Couldn't deserialize thrift"), False),
        ("s3://b/a", EOFError("ends early"), False),
        ("/data/a", OSError(errno.EIO, "a bad disk"), False),
    ],
)  # fmt: skip
def test_an_outage_is_no_fault_of_the_file(path: str, error: Exception, is_one: bool) -> None:
    with (
        pytest.raises(Unreachable if is_one else UnreadableFile, match=r"cannot (be )?read"),
        reading(path),
    ):
        raise error


def test_a_file_whose_server_does_not_state_its_size_is_not_called_empty() -> None:
    class Silent(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\ncaption\na dog\n")

    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(UnreadableFile, match=r"does not state its size.*download it first"):
            file_size(f"http://127.0.0.1:{server.server_port}/a.tsv")
        server.shutdown()
