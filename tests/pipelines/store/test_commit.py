"""Files appear whole or not at all, and a commit record never vouches for files of another
decision."""

import hashlib
import json
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.common.files import temporary_beside
from open_diht.pipelines.store import commit
from open_diht.pipelines.store.commit import (
    _TRIES,
    TableFile,
    publish_first,
    publish_json,
    published,
    read_json,
    remove_leftovers,
    retract,
)
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.locking import Busy, output_lock
from open_diht.pipelines.store.storage import StorePath, sizes, store_path


def test_published_at_once(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    with published(target) as temporary:
        temporary.write_text("new")
        assert not target.exists() and temporary.parent == target.parent
    assert target.read_text() == "new" and [path.name for path in target.parent.iterdir()] == [
        "file"
    ]


def test_an_error_publishes_nothing_and_leaves_the_old(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(KeyError), published(target) as temporary:
        temporary.write_text("new")
        raise KeyError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_json_with_any_text(tmp_path: Path) -> None:
    value = {"a": "caf\u00e9 \ud83d \U0001f415", "n": [1, None, 0.5]}
    publish_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert read_json(tmp_path / "b.json") is None


def test_table_file(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    with TableFile(path) as out:
        out.write(pa.table({"a": [1, 2]}))
        out.write(pa.table({"a": [3]}))
        assert not path.exists()
    assert out.rows == 3 and pq.read_table(path)["a"].to_pylist() == [1, 2, 3]
    with pytest.raises(KeyError), TableFile(path) as out:
        out.write(pa.table({"a": [4]}))
        raise KeyError
    assert pq.read_table(path)["a"].to_pylist() == [1, 2, 3]
    with pytest.raises(KeyError), TableFile(path):
        raise KeyError
    assert path.exists()
    with TableFile(path):
        pass
    assert list(tmp_path.iterdir()) == [], "an earlier decision had rows here, this one has none"
    with TableFile(path, pa.schema([("a", pa.int64())])):
        pass
    assert pq.read_table(path).num_rows == 0


def test_retract_and_leftovers(tmp_path: Path) -> None:
    def temporary(path: StorePath) -> Path:
        return temporary_beside(Path(str(path)))

    layout = Layout(tmp_path)
    publish_json(tmp_path / "deep" / "a.json", 1)
    publish_json(layout.commit("captions", "00000-00000"), 1)
    ours = [
        temporary(path)
        for path in (
            tmp_path / "run.json",
            layout.part("kept", "u"),
            layout.index("u"),
            layout.plan,
        )
    ]
    ours += [
        temporary(layout.data("captions", "u")),
        temporary(layout.work / "00000-00000.0000.g0") / "x",
    ]
    theirs = [
        tmp_path / name
        for name in (".tmp-notes", ".tmp-mine-01234567", "deep/.tmp-b", "work/project/.tmp-a/b")
    ]
    theirs += [temporary(tmp_path / "deep" / "c"), temporary(layout.work / "project" / "commit")]
    publish_json(layout.commit("index", "00000-00000"), 1)
    for path in (*ours, *theirs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    remove_leftovers(layout)
    assert [
        path
        for path in ours
        if path.exists() or (path.parent.name.startswith(".tmp") and path.parent.exists())
    ] == []
    assert [path for path in theirs if not path.exists()] == []
    retract(tmp_path / "deep" / "a.json")
    retract(tmp_path / "deep" / "a.json")
    assert read_json(tmp_path / "deep" / "a.json") is None


def test_leftovers_of_a_run_in_a_store_and_on_this_machine() -> None:
    layout = Layout(store_path(f"memory://{uuid.uuid4().hex}"))
    names = [".tmp-diht-todo-captions-01234567", ".tmp-diht-begun-.tmp-diht-todo-captions-01234567"]
    theirs = [layout.plan, layout.work / ".tmp-notes", layout.root / "kept" / "part-a.parquet"]
    for path in [*theirs, *(layout.work / name for name in names)]:
        path.write_bytes(b"x")
    (layout.scratch / ".tmp-diht-a-01234567").mkdir(parents=True)
    remove_leftovers(layout)
    assert [path.exists() for path in theirs] == [True] * 3 and not [*layout.scratch.iterdir()]
    assert sizes(layout.work).keys() == {"plan.json", ".tmp-notes"}
    layout.scratch.rmdir()


class _Plain(BaseHTTPRequestHandler):
    """An S3 server over a dict, which refuses conditional puts."""

    protocol_version = "HTTP/1.1"
    server: Any
    date = "Tue, 01 Dec 2026 00:00:00 GMT"

    def _answer(self, status: int, body: bytes = b"", etag: bytes | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if etag is not None:
            self.send_header("ETag", f'"{hashlib.md5(etag).hexdigest()}"')
            self.send_header("Last-Modified", self.date)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _key(self) -> str:
        return unquote(urlsplit(self.path).path)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        conditional = self.headers["If-Match"] or self.headers["If-None-Match"]
        if conditional or self.server.refuses_all:
            status, code = self.server.refusal
            self.server.refused.append(self._key())
            return self._answer(
                status,
                f"<Error><Code>{code}</Code><Message>no conditions</Message></Error>".encode(),
            )
        self.server.objects[self._key()] = body
        self._answer(200, etag=body)

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" not in query:
            found = self.server.objects.get(self._key())
            return self._answer(404) if found is None else self._answer(200, found, etag=found)
        below = f"{self._key().rstrip('/')}/{query.get('prefix', [''])[0]}"
        keys = [key for key in self.server.objects if key.startswith(below)]
        entries = "".join(
            f"<Contents><Key>{key.split('/', 2)[2]}</Key><Size>1</Size>"
            "<LastModified>2026-12-01T00:00:00.000Z</LastModified></Contents>"
            for key in keys
        )
        self._answer(
            200,
            f"<ListBucketResult><KeyCount>{len(keys)}</KeyCount>{entries}</ListBucketResult>".encode(),
        )

    do_HEAD = do_GET

    def do_DELETE(self) -> None:
        self.server.objects.pop(self._key(), None)
        self._answer(204)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(
    params=[(501, "NotImplemented"), (405, "MethodNotAllowed")], ids=lambda refusal: refusal[1]
)
def plain(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server without conditional puts, to which the environment leads."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install '.[cloud]'")
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Plain)
    server.daemon_threads = True
    server.objects = {}
    server.refused = []
    server.refusal = request.param
    server.refuses_all = False
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    ).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.shutdown()
    server.server_close()


def test_a_store_without_conditional_puts_has_the_check_alone(plain: Any) -> None:
    root = store_path(f"s3://plain{plain.refusal[0]}/out")
    for value in (1, 2):
        publish_json(root / "a.json", value)
        assert read_json(root / "a.json") == value
    assert len(plain.refused) == 1, "a store is asked once"
    assert publish_first(root / "plan.json", 1) and not publish_first(root / "plan.json", 2)
    assert read_json(root / "plan.json") == 1
    with output_lock(Layout(root), shared=False), pytest.raises(Busy):
        output_lock(Layout(root), shared=False).__enter__()


def test_a_store_that_refuses_every_put_is_an_error_with_and_without_conditions(plain: Any) -> None:
    root = store_path(f"s3://full{plain.refusal[0]}/out")
    plain.refuses_all = True
    for path in (root / "a.json", root / "b.json"):  # the second one is put without a condition
        with pytest.raises(OSError, match="no conditions"):
            publish_json(path, 1)
    assert plain.objects == {} and len(plain.refused) == 3


def test_another_refusal_keeps_the_conditions(plain: Any) -> None:
    root = store_path(f"s3://taken{plain.refusal[0]}/out")
    plain.refusal = (412, "PreconditionFailed")
    with pytest.raises(OSError, match="no conditions"):
        publish_json(root / "a.json", 1)
    assert plain.objects == {} and len(plain.refused) == _TRIES


@pytest.fixture
def copy(paper: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(paper.output, tmp_path / "out"))


def test_stopped_while_another_preset_is_decided(copy, pairs, paper, filtering, tmp_path):
    """Files of the other preset are there, its commit record is not: the first preset must not take
    them for its."""
    part = next(iter(sorted((copy / "kept").glob("*.parquet"))))
    stashed = tmp_path / "stashed"
    os.rename(part, stashed)
    # a file cannot be renamed onto a folder: the run ends after it has published the rejected rows
    part.mkdir()
    (part / "x").touch()
    with pytest.raises(Exception, match="directory"):
        filtering(pairs, copy, preset="captions: {min_complexity: 99}", unit_rows=15)
    shutil.rmtree(part)
    os.rename(stashed, part)
    assert filtering(pairs, copy, unit_rows=15).tables() == paper.tables()


def test_annotations_of_another_version_are_made_anew(copy, pairs, paper, filtering):
    """An older version saw no action in any caption, so that no image was read."""
    for path in (copy / "work" / "captions" / "data").glob("*.parquet"):
        table = pq.read_table(path)
        place = table.schema.get_field_index("actions")
        none = pa.array([[]] * table.num_rows, table.schema.field(place).type)
        pq.write_table(table.set_column(place, table.schema.field(place), none), path)
    old = ""
    for path in (copy / "work" / "captions" / "commits").glob("*.json"):
        record = json.loads(path.read_text())
        old, record["fingerprint"] = record["fingerprint"], "older"
        record["files"] = {name: (copy / name).stat().st_size for name in record["files"]}
        path.write_text(json.dumps(record))
    for path in (copy / "work" / "spotting" / "commits").glob("*.json"):
        record = json.loads(path.read_text())
        record |= {
            "segments": 0,
            "images": 0,
            "covers": [c.replace(old, "older") for c in record["covers"]],
        }
        path.write_text(json.dumps(record))
    result = filtering(pairs, copy, unit_rows=15)
    assert any("annotating again: " in line for line in result.said)
    assert any("only images not read before" in line for line in result.said)
    assert result.tables() == paper.tables()
    assert all(row["spotted"] is not None for row in result.rows("kept"))


def test_images_that_another_version_read_are_read_anew(copy, pairs, paper, filtering):
    """One unit's, and no other's."""
    known = {
        path: path.stat().st_mtime_ns
        for path in (copy / "work" / "spotting" / "commits").glob("*.json")
    }
    older = min(known)
    record = json.loads(older.read_text())
    covers = [name.replace(record["fingerprint"], "older") for name in record["covers"]]
    older.write_text(json.dumps(record | {"fingerprint": "older", "covers": covers}))
    result = filtering(pairs, copy, unit_rows=15)
    said = (
        f"read again: {record['images']} images of 1 of {len(known)} units, read by another"
        " version, engine"
    )
    assert any(said in line for line in result.said)
    assert {path for path, time in known.items() if path.stat().st_mtime_ns != time} == {older}
    assert result.tables() == paper.tables()


@pytest.mark.parametrize("stage", ["captions", "spotting", "decide", "export"])
def test_a_unit_without_its_record_is_done_again(stage, copy, pairs, paper, filtering):
    record = sorted((copy / "work" / stage / "commits").glob("*.json"))[0]
    others = {
        path: path.stat().st_mtime_ns for path in record.parent.glob("*.json") if path != record
    }
    record.unlink()
    result = filtering(pairs, copy, unit_rows=15)
    assert result.tables() == paper.tables() and record.exists()
    if stage in ("captions", "spotting"):
        assert {path: path.stat().st_mtime_ns for path in others} == others
    shards = {
        path.name: path.read_bytes()
        for path in (paper.output / "shards").iterdir()
        if path.is_file()
    }
    found = {path.name: path.read_bytes() for path in (copy / "shards").iterdir() if path.is_file()}
    assert found == shards


def test_only_a_store_without_conditions_gets_requests_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Any other error says nothing about conditions: without one, a paused run could replace the
    object of the run that has taken over."""
    monkeypatch.setattr(commit, "_unchanged", lambda path: {"IfMatch": '"a"'})
    monkeypatch.setattr(commit, "_unconditional", set())
    path: Any = SimpleNamespace(protocol="s3", path="bucket/output/kept/a.parquet")
    given: list[dict[str, str]] = []

    def request(_: object, **condition: str) -> None:
        given.append(condition)
        raise PermissionError(13, "Permission denied")

    with pytest.raises(PermissionError):
        commit._guarded(path, request)
    assert given == [{"IfMatch": '"a"'}] and not commit._unconditional
