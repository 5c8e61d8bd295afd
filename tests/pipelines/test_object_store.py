"""A run whose input and output lie in an object store: a real S3 server on this machine, and the
real client."""

import hashlib
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from open_diht.common import lease
from open_diht.common.shard_index import load
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.driver import cli
from open_diht.pipelines.engine.engine import Engine
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, Stage
from open_diht.pipelines.fetch.records import FETCHED
from open_diht.pipelines.manifests import Span, inspect, read, split
from open_diht.pipelines.stages.images import DOWNLOAD, images_of, tar_path
from open_diht.pipelines.store.commit import (
    publish_first,
    publish_json,
    publish_table,
    read_json,
    remove,
    retract,
)
from open_diht.pipelines.store.layout import Layout, image_unit_name, segment_name
from open_diht.pipelines.store.locking import Busy, output_lock
from open_diht.pipelines.store.records import CommitRecord
from open_diht.pipelines.store.storage import stamps, store_path
from open_diht.pipelines.verify.command import verify
from open_diht.pipelines.verify.options import parse as verify_options
from open_diht.pipelines.view import cli as view
from tests.pipelines.conftest import NOTHING_LEFT, Here, read_rows
from tests.pipelines.processes import Forked

REPOSITORY = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.store


def test_records_appear_once(bucket: str) -> None:
    record = store_path(f"{bucket}/first/plan.json")
    assert publish_first(record, {"a": 1}) and not publish_first(record, {"a": 2})
    assert read_json(record) == {"a": 1}
    publish_json(record, {"a": 3})
    assert (
        read_json(record) == {"a": 3} and read_json(store_path(f"{bucket}/first/none.json")) is None
    )


def test_what_other_processes_write_is_seen(bucket: str) -> None:
    """Also where a listing came before: clients remember them, and a driver would take what workers
    did since for undone."""
    s3fs = pytest.importorskip("s3fs")
    commits = Layout(store_path(f"{bucket}/seen")).commits("captions")
    first = commits / "a.json"
    second = commits / "b.json"
    publish_json(first, {"a": 1})
    listed = stamps(commits, ".json")
    assert listed.keys() == {"a"} and not second.exists()
    elsewhere = s3fs.S3FileSystem(skip_instance_cache=True)
    elsewhere.pipe_file(str(first), b'{"a": "another, and longer"}')
    elsewhere.pipe_file(str(second), b'{"b": 2}')
    assert read_json(second) == {"b": 2} and read_json(first) == {"a": "another, and longer"}
    assert (
        second.exists() and second.read_text() == '{"b": 2}' and [*commits.glob("b*")] == [second]
    )
    now = stamps(commits, ".json")
    assert now.keys() == {"a", "b"} and now["a"] != listed["a"]
    elsewhere.rm_file(str(second))
    assert read_json(second) is None and not second.exists()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of every object or part of one that this process gets from the store."""
    core = pytest.importorskip("s3fs").core
    found: list[int] = []
    call = core.S3FileSystem._call_s3

    async def counting(self: Any, method: str, *args: Any, **more: Any) -> Any:
        answer = await call(self, method, *args, **more)
        if method == "get_object":
            found.append(answer["ContentLength"])
        return answer

    monkeypatch.setattr(core.S3FileSystem, "_call_s3", counting)
    return found


def test_of_a_manifest_only_what_is_read_is_fetched(
    bucket: str, fetched: list[int], tmp_path: Path
) -> None:
    """Clients read far ahead (S3: 50 MB); a span of a file is not worth a file."""
    dataset = load_dataset("custom")
    dice = random.Random(0)
    rows = 120_000
    units = 12
    table = pa.table(
        {
            "url": [f"https://example.org/{dice.getrandbits(256):064x}" for _ in range(rows)],
            "caption": [f"A dog {dice.getrandbits(256):064x}" for _ in range(rows)],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=rows // units)
    tsv = zip(table["url"].to_pylist(), table["caption"].to_pylist(), strict=True)
    (tmp_path / "a.tsv").write_text(
        "url\tcaption\n" + "".join(f"{url}\t{caption}\n" for url, caption in tsv)
    )
    for name, ahead in (
        ("a.parquet", 2**19),
        ("a.tsv", 2**23),
    ):
        # Text is read in one go, a few MiB ahead.
        size = (tmp_path / name).stat().st_size
        path = store_path(f"{bucket}/spans/{name}")
        path.write_bytes((tmp_path / name).read_bytes())
        info = inspect(str(path), dataset)
        assert sum(fetched) < ahead and info == replace(
            inspect(str(tmp_path / name), dataset), path=str(path)
        )
        spans = split(info, rows // units)
        fetched.clear()
        read_rows = sum(len(batch.ordinals) for batch in read(spans[3], dataset, batch_rows=2_000))
        assert abs(read_rows - rows // units) < 100
        assert sum(fetched) < 1.2 * size / units + ahead, f"{name}: {sum(fetched)} of {size} bytes"
        fetched.clear()


@pytest.mark.parametrize("wanted", [5, 300])
def test_images_of_a_tar_are_fetched_one_by_one_or_with_all_of_it(
    bucket: str, fetched: list[int], wanted: int
) -> None:
    dice = random.Random(0)
    layout = Layout(store_path(f"{bucket}/tar{wanted}"))
    unit = "00000-00000"
    size = 20_000
    image_unit = image_unit_name(unit, 0)
    images = [dice.randbytes(size) for _ in range(300)]
    order = dice.sample(range(300), 300)  # in a tar they lie as they came
    tar_path(layout, "any.tar").write_bytes(b"".join(images[ordinal] for ordinal in order))
    records = [
        {
            **dict.fromkeys(FETCHED.names),
            "ordinal": n,
            "status": "ok",
            "shard": "any.tar",
            "bytes": size,
        }
        | {"offset": order.index(n) * size}
        for n in range(300)
    ]
    publish_table(
        layout.data(DOWNLOAD, segment_name(image_unit, 0)), pa.Table.from_pylist(records, FETCHED)
    )
    publish_json(layout.commit(DOWNLOAD, image_unit), {"segments": 1})
    asked = sorted(dice.sample(range(300), wanted))
    span = Span(path="", format="parquet", start=0, stop=0, rows=0, exact=True)
    found = dict(images_of(layout, unit, span, 1_000, load_dataset("custom"), asked))
    assert found == {ordinal: images[ordinal] for ordinal in asked}
    assert sum(fetched) < wanted * size + 100_000 and len(fetched) < (
        15 if wanted > 100 else wanted + 10
    )


def test_one_run_or_several_shards(bucket: str) -> None:
    layout = Layout(store_path(f"{bucket}/lock"))
    shared = output_lock(layout, shared=True)
    with (
        shared,
        output_lock(layout, shared=True),
        pytest.raises(Busy, match=r"is working in s3://.*killed run counts for 45"),
    ):
        output_lock(layout, shared=False).__enter__()
    with output_lock(layout, shared=False), pytest.raises(Busy):
        output_lock(layout, shared=True).__enter__()
    with output_lock(layout, shared=True) as last:
        assert last.take(shared=False)


@dataclass
class Written(Stage):
    """A stage that publishes two files of a unit, and stops the process of one run at a moment."""

    layout: Layout
    fingerprint: str
    moment: str = ""
    name: str = field(default="written", init=False)
    planned = False

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        files = [self.layout.root / f"{unit}-{number}.json" for number in range(2)]
        for file in files:
            if self.moment == "before a file" and unit == "1":
                os.kill(os.getpid(), signal.SIGSTOP)
            publish_json(file, self.fingerprint)
        if self.moment == "before the record" and unit == "1":
            os.kill(os.getpid(), signal.SIGSTOP)
        return {"rows": 1}, files


def writes(root: str, fingerprint: str, moment: str) -> None:
    """A run of `Written`. Runs in a process of its own."""
    lease.RENEW_S = 0.5
    lease.VALID_S = 2.0
    layout = Layout(store_path(root))
    s3 = pytest.importorskip("s3fs").S3FileSystem
    put_file = s3.put_file
    uploads = Counter[str]()

    def paused(self: Any, file: str, path: str, **condition: Any) -> None:
        """A client that is stopped when an upload has been checked and is about to begin."""
        name = path.rpartition("/")[2]
        uploads[name] += 1
        if moment == f"in the upload of {name}" and uploads[name] == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        put_file(self, file, path, **condition)

    s3.put_file = paused
    with output_lock(layout, shared=False):
        stage = Written(layout, fingerprint, moment)
        assert Engine(layout, 1, print, backend=Here()).complete(stage, ["0", "1", "2"]) == {}


MOMENTS = [
    "before a file",
    "before the record",
    "in the upload of 1-0.json",
    "in the upload of 1.json",
]


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("settings", ["same", "other"])
def test_a_run_that_lost_its_lease_changes_nothing(bucket, forks, tmp_path, moment, settings):
    """It is stopped somewhere in its second unit, a second run does all of it, and then it
    continues."""
    root = f"{bucket}/lost-{settings}-{MOMENTS.index(moment)}"
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    first = tmp_path / "first"
    second = tmp_path / "second"
    paused = forks.start(__file__, "writes", root, "first", moment, said=first, **environment)
    wait_until_stopped(paused)
    begun = "first" if settings == "same" else "second"
    while forks.wait(forks.start(__file__, "writes", root, begun, "", said=second, **environment)):
        assert "Busy" in second.read_text(encoding="utf-8").splitlines()[-1], second.read_text(
            encoding="utf-8"
        )
        second.unlink()
    left = written_below(root)
    assert {content for path, (content, _) in left.items() if "/work/" not in path} == {
        f'"{begun}"\n'.encode()
    }
    os.kill(paused, signal.SIGCONT)
    assert forks.wait(paused) == 1
    said = first.read_text(encoding="utf-8")
    assert "LeaseLost: " in said and f"has taken {root} since" in said, said
    assert written_below(root) == left


@pytest.mark.parametrize("delete", [remove, retract])
def test_a_delete_that_was_paused_leaves_the_file_of_another_run(bucket, monkeypatch, delete):
    """The other run writes it after the check and before the request."""
    path: Any = store_path(f"{bucket}/paused-{delete.__name__}/a.json")
    checks = list[str]()
    publish_json(path, "ours")

    def check(checked: Any) -> None:
        checks.append(str(checked))
        if len(checks) == 2:
            raise lease.LeaseLost("another run has taken it")
        path.fs.pipe_file(path.path, b'"theirs"')

    monkeypatch.setattr("open_diht.pipelines.store.commit.check_fence", check)
    with pytest.raises(lease.LeaseLost):
        delete(path)
    assert read_json(path) == "theirs" and len(checks) == 2
    monkeypatch.undo()
    delete(path)
    assert read_json(path) is None
    delete(path)


def written_below(root: str) -> dict[str, tuple[bytes, float]]:
    """Content and time of all files of an output folder but those of its leases."""
    paths = (path for path in store_path(root).glob("**/*.json") if "/leases/" not in str(path))
    return {str(path): (path.read_bytes(), path.stat().st_mtime) for path in paths}


def wait_until_stopped(process: int) -> None:
    deadline = time.monotonic() + 60
    while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_store_that_denies_writing_in_the_middle_is_named(
    s3_server, bucket, tsv, captions, forks, command, tmp_path
):
    """The error is the workers' own, and its remedy works."""
    manifest = tsv(
        tmp_path / "rows.tsv",
        [{"caption": f"{text} {n}"} for n in range(40) for text in captions[:50]],
    )
    arguments = ["--dataset", "custom", "--input", str(manifest), "--output", f"{bucket}/denied"]
    arguments += ["--stages", "captions,export", "--unit-rows", "200", "--workers", "1"]
    process = Forked(forks, arguments, REPOSITORY, tmp_path / "said", tmp_path / "errors")
    while process.poll() is None and not stamps(
        store_path(f"{bucket}/denied/work/captions/commits"), ".json"
    ):
        time.sleep(0.05)
    s3_server.stop()
    s3_server.start("--readonly")
    try:
        assert process.wait() == 1
        said = (tmp_path / "errors").read_text()
        (refusal,) = [line for line in said.splitlines() if line.startswith("error: ")]
        assert "PermissionError: Access" in refusal and "Allow writing there" in refusal, said
        assert (
            "make room" not in refusal and f"{bucket}/denied" in refusal and "Traceback" not in said
        ), said
    finally:
        s3_server.stop()
        s3_server.start()
    for left in store_path(f"{bucket}/denied/work/leases").glob("*.json"):
        left.unlink()  # the run could not remove its own
    done = command(*arguments)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_in_the_store_equals_one_on_disk(
    bucket, pairs, paper, tables_of, command, forks, tmp_path
):
    manifest = store_path(f"{bucket}/in/pairs.tsv")
    for path in (pairs, *(pairs.parent / "images").iterdir()):
        (manifest.parent / path.relative_to(pairs.parent).as_posix()).write_bytes(path.read_bytes())
    arguments = ["--dataset", "custom", "--input", str(manifest), "--output", f"{bucket}/out"]
    arguments += ["--unit-rows", "15", "--workers", "2"]

    # Killed in the middle of a stage that writes, then finished.
    process = Forked(forks, arguments, REPOSITORY, tmp_path / "said", tmp_path / "errors")
    while process.poll() is None and not stamps(
        store_path(f"{bucket}/out/work/captions/commits"), ".json"
    ):
        time.sleep(0.05)
    assert process.poll() is None, (tmp_path / "errors").read_text()
    process.clear()
    for left in store_path(f"{bucket}/out/work/leases").glob("*.json"):
        left.unlink()  # of the killed run; it would count for minutes
    done = command(*arguments)
    assert done.returncode == 0, done.stderr

    output = store_path(f"{bucket}/out")
    assert tables_of(output) == tables_of(paper.output)
    with (
        (output / "subset.npy").open("rb") as file,
        open(paper.output / "subset.npy", "rb") as expected,
    ):
        assert np.array_equal(np.load(file), np.load(expected))
    shards = {path.name: path.read_bytes() for path in (output / "shards").glob("*.tar")}
    assert shards == {
        path.name: path.read_bytes() for path in (paper.output / "shards").glob("*.tar")
    }
    for name in shards:  # a training reads these in place of the shards
        index = output / "shards" / ".index" / f"{name}.npz"
        with index.open("rb") as file:
            assert load(str(index), file.read()).sha256 == hashlib.sha256(shards[name]).hexdigest()
    assert (output / "report.html").exists() and (output / "run.json").exists()
    again = command(*arguments)
    assert again.returncode == 0 and NOTHING_LEFT in again.stdout
    assert not verify(output, verify_options([str(output)])).differences

    (tmp_path / "held-out").mkdir()
    shutil.copy(pairs.parent / read_rows(output, "kept")[0]["image_path"], tmp_path / "held-out")
    checked = command(*arguments, "--decontaminate", f"{tmp_path}/held-out/")
    assert checked.returncode == 0 and "spotting: " not in checked.stdout, checked.stdout
    assert any(row["reason"] == "evaluation_image" for row in read_rows(output, "rejected"))
    assert not verify(output, verify_options([str(output)])).differences


def test_a_store_that_cannot_be_reached_is_wrong_use(bucket, pairs, command, monkeypatch):
    for output, word in (
        ("s3://no-such-bucket/out", "not writable"),
        ("sftpx://host/out", "cannot be used"),
    ):
        done = command("--dataset", "custom", "--input", pairs, "--output", output)
        assert done.returncode == 2 and word in done.stderr and "Traceback" not in done.stderr, (
            done.stderr
        )


@pytest.fixture
def other_clients() -> Iterator[None]:
    """Clients are remembered with the credentials and the endpoint that they were made with."""
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


WRONG = {
    "no credentials": (
        {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
        "Unable to locate credentials",
    ),
    "wrong credentials": ({"AWS_SECRET_ACCESS_KEY": "another"}, "PermissionError"),
    "an endpoint without protocol": (
        {"AWS_ENDPOINT_URL": "127.0.0.1:9000"},
        "Invalid endpoint: 127.0.0.1:9000",
    ),
    "an endpoint of another protocol": (
        {"AWS_ENDPOINT_URL": "htp://127.0.0.1:9000"},
        "127.0.0.1:9000",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_credentials_or_endpoint_are_one_line(
    bucket, other_clients, kind, pairs, tmp_path, monkeypatch, capsys
):
    """Where INPUT lies in the store, where OUTPUT does, and where an output there is looked at."""
    environment, says = WRONG[kind]
    away = {
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/none",
        "AWS_SHARED_CREDENTIALS_FILE": "/none",
    }
    for name, value in {**away, **environment}.items():
        monkeypatch.setenv(name, value)
        if not value:
            monkeypatch.delenv(name)
    words = ["--dataset", "custom", "--stages", "captions"]
    for do, arguments in (
        (cli.main, [*words, "--input", f"{bucket}/in/*.tsv", "--output", str(tmp_path / "out")]),
        (cli.main, [*words, "--input", str(pairs), "--output", f"{bucket}/out"]),
        (view.main, ["--output", f"{bucket}/out"]),
    ):
        assert do(arguments) == 2
        errors = capsys.readouterr().err
        assert (
            errors.count("\n") == 1
            and bucket in errors
            and says in errors
            and "credentials" in errors
        ), errors
    assert not [*tmp_path.iterdir()]
