"""A run whose input and output lie in an object store: a real S3 server on this machine, and the real client."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.commit import publish_first, publish_json, read_json
from pipelines.layout import Layout
from pipelines.locking import Busy, output_lock
from pipelines.storage import place, stamps

REPOSITORY = Path(__file__).resolve().parents[2]
KINDS = ("kept", "rejected", "dead_letter")

pytestmark = pytest.mark.store


def _server() -> str:
    """The path of versitygw, an S3 server over a folder; skips where there is none."""
    found = os.environ.get("VERSITYGW") or shutil.which("versitygw") or str(REPOSITORY / ".tools" / "versitygw")
    if not os.path.exists(found):
        pytest.skip("no S3 server: `make s3-server` builds versitygw (needs Go), or VERSITYGW names one")
    return found


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """s3://... of an empty bucket; the environment leads to its server."""
    s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install '.[s3]'")
    folder = tmp_path_factory.mktemp("store")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testkey",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(
            [_server(), "--port", f"127.0.0.1:{port}", "--region", "us-east-1", "posix", str(folder)],
            env={**os.environ, "ROOT_ACCESS_KEY": "testkey", "ROOT_SECRET_KEY": "testsecret"},
            stdout=log,
            stderr=log,
        )
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        _wait(port, server, folder / "log")
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
        yield "s3://bucket"
    finally:
        server.kill()
        server.wait()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _wait(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the S3 server did not come up: {log.read_text()}")


def _rows(output: Any) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in KINDS:
        tables = []
        for path in sorted((output / kind).glob("part-*.parquet"), key=str):
            with path.open("rb") as file:
                tables += pq.read_table(file).to_pylist()
        found[kind] = sorted(tables, key=repr)
    return found


def test_records_appear_once(bucket: str) -> None:
    record = place(f"{bucket}/first/plan.json")
    assert publish_first(record, {"a": 1}) and not publish_first(record, {"a": 2})
    assert read_json(record) == {"a": 1}
    publish_json(record, {"a": 3})
    assert read_json(record) == {"a": 3} and read_json(place(f"{bucket}/first/none.json")) is None


def test_what_other_processes_write_is_seen(bucket: str) -> None:
    """Also where a listing came before: clients remember them, and a driver would take what workers did since for
    undone."""
    s3fs = pytest.importorskip("s3fs")
    commits = Layout(place(f"{bucket}/seen")).commits("captions")
    first, second = commits / "a.json", commits / "b.json"
    publish_json(first, {"a": 1})
    listed = stamps(commits, ".json")
    assert listed.keys() == {"a"} and not second.exists()
    elsewhere = s3fs.S3FileSystem(skip_instance_cache=True)
    elsewhere.pipe_file(str(first), b'{"a": "another, and longer"}')
    elsewhere.pipe_file(str(second), b'{"b": 2}')
    assert read_json(second) == {"b": 2} and read_json(first) == {"a": "another, and longer"}
    assert second.exists() and second.read_text() == '{"b": 2}' and [*commits.glob("b*")] == [second]
    now = stamps(commits, ".json")
    assert now.keys() == {"a", "b"} and now["a"] != listed["a"]
    elsewhere.rm_file(str(second))
    assert read_json(second) is None and not second.exists()


def test_one_run_or_several_shards(bucket: str) -> None:
    layout = Layout(place(f"{bucket}/lock"))
    shared = output_lock(layout, shared=True)
    with shared, output_lock(layout, shared=True), pytest.raises(Busy, match="is working in s3://"):
        output_lock(layout, shared=False).__enter__()
    with output_lock(layout, shared=False), pytest.raises(Busy):
        output_lock(layout, shared=True).__enter__()
    with output_lock(layout, shared=True) as last:
        assert last.take(shared=False)


@pytest.mark.slow
def test_a_run_in_the_store_equals_one_on_disk(
    bucket: str, pairs: Path, paper: Any, tables_of: Callable[[Path], Any], command: Callable[..., Any]
) -> None:
    manifest = place(f"{bucket}/in/pairs.tsv")
    for path in (pairs, *(pairs.parent / "pictures").iterdir()):
        (manifest.parent / path.relative_to(pairs.parent).as_posix()).write_bytes(path.read_bytes())
    arguments = ["--dataset", "custom", "--input", str(manifest), "--output", f"{bucket}/out"]
    arguments += ["--unit-rows", "15", "--workers", "2"]

    # Killed in the middle of a stage that writes, then finished.
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", *arguments], cwd=REPOSITORY, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not stamps(place(f"{bucket}/out/work/captions/commits"), ".json"):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    for lease in place(f"{bucket}/out/work/leases").glob("*.json"):
        lease.unlink()  # of the killed run; it would count for minutes
    done = command(*arguments)
    assert done.returncode == 0, done.stderr

    output = place(f"{bucket}/out")
    assert _rows(output) == tables_of(paper.output)
    with (output / "subset.npy").open("rb") as file, open(paper.output / "subset.npy", "rb") as expected:
        assert np.array_equal(np.load(file), np.load(expected))
    shards = {path.name: path.read_bytes() for path in (output / "shards").glob("*.tar")}
    assert shards == {path.name: path.read_bytes() for path in (paper.output / "shards").glob("*.tar")}
    assert (output / "report.html").exists() and (output / "run.json").exists()
    again = command(*arguments)
    assert again.returncode == 0 and "nothing is left to do" in again.stdout


def test_a_store_that_cannot_be_reached_is_wrong_use(
    bucket: str, pairs: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for output, word in (("s3://no-such-bucket/out", "not writable"), ("sftpx://host/out", "cannot be used")):
        done = command("--dataset", "custom", "--input", pairs, "--output", output)
        assert done.returncode == 2 and word in done.stderr and "Traceback" not in done.stderr, done.stderr
