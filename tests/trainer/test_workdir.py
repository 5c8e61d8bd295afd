"""A WORKDIR behind a URL: what is brought there and when, and that one run has it."""

import errno
import json
import os
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from open_diht.common import lease as lease_module
from open_diht.common.command_line import WrongUse
from open_diht.common.lease import Lease
from open_diht.common.ranks import Ranks
from open_diht.trainer import stores
from open_diht.trainer.stores import FsspecStore, StoreError, on_disk
from open_diht.trainer.workdir import Workdir, _leased, opened, spool


@pytest.fixture
def store() -> FsspecStore:
    return FsspecStore(f"memory://{uuid.uuid4().hex}/run")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def begun(store: FsspecStore, tmp_path: Path) -> Callable[..., tuple[Workdir, Clock]]:
    """A run's WORKDIR, as on a machine that never had it, and its clock."""

    def begin() -> tuple[Workdir, Clock]:
        clock = Clock()
        workdir = Workdir(tmp_path / uuid.uuid4().hex, store, clock)
        workdir.restore()
        return workdir, clock

    return begin


def write(workdir: Workdir, line: str) -> None:
    with open(workdir.folder / "log.jsonl", "a") as file:
        file.write(f"{line}\n")


def test_files_of_others_in_a_store_are_not_written_over(begun: Callable[..., Any], store: FsspecStore) -> None:
    store.write(b"mine", "export/notes.txt")
    with pytest.raises(WrongUse, match=r"memory://.* holds export .*another WORKDIR, or move it away"):
        begun()[0].require_unused()
    store.write(b"", "log.jsonl")
    begun()[0].require_unused()


def test_a_log_is_brought_now_and_then_and_before_a_checkpoint(begun: Callable[..., Any], store: FsspecStore) -> None:
    workdir, clock = begun()
    write(workdir, "one")
    workdir.grown()
    assert store.files() == []
    clock.now = 10.0
    workdir.grown()
    workdir.uploads.wait()
    assert store.read("log.jsonl") == b"one\n"
    write(workdir, "two")
    workdir.grown()
    workdir.uploads.wait()
    assert store.read("log.jsonl") == b"one\n"
    workdir.grown(now=True)
    workdir.uploads.wait()
    assert store.read("log.jsonl") == b"one\ntwo\n"


def test_a_log_is_continued_on_another_machine_never_cut(begun: Callable[..., Any], store: FsspecStore) -> None:
    workdir, _ = begun()
    write(workdir, "one")
    (workdir.folder / "wandb_id").write_text("abc")
    assert workdir.incomplete() is None
    again, _ = begun()
    assert (again.folder / "wandb_id").read_text() == "abc"
    write(again, "two")
    assert again.incomplete() is None
    assert store.read("log.jsonl") == b"one\ntwo\n"


def test_what_did_not_change_is_not_brought_again(begun: Callable[..., Any], store: FsspecStore) -> None:
    """Curves of each run are files of their own, and stay."""
    for number in (1, 2):
        workdir, _ = begun()
        (workdir.folder / "config.yaml").write_text("a: 1")
        (workdir.folder / "tensorboard").mkdir()
        (workdir.folder / "tensorboard" / f"events-{number}").write_text("curve")
        assert workdir.incomplete() is None
        store.delete("config.yaml")
        assert workdir.incomplete() is None
    assert store.files() == ["tensorboard/events-1", "tensorboard/events-2"]


def test_a_folder_is_whole_or_not_known(begun, store, monkeypatch):
    """A model is replaced; who loads it meanwhile never meets weights of one beside the description of the other."""
    workdir, _ = begun()
    folder = workdir.folder / "export"
    folder.mkdir()
    seen: list[list[str]] = []
    for name in ("config.json", "weights", "card"):
        (folder / name).write_text(name)
    workdir.publish("export", last="config.json")
    workdir.uploads.wait()
    upload = store.upload

    def watched(file: Path, path: str) -> None:
        seen.append(store.files("export"))
        upload(file, path)

    monkeypatch.setattr(store, "upload", watched)
    workdir.publish("export", last="config.json")
    workdir.uploads.wait()
    assert seen == [["card", "weights"]] * 3
    assert store.files("export") == ["card", "config.json", "weights"]


def test_an_error_of_the_store_is_the_runs(begun, store, monkeypatch):
    monkeypatch.setattr(stores, "PAUSES_S", ())

    def forbidden(content: bytes, path: str) -> None:
        raise StoreError("PermissionError: access denied")

    monkeypatch.setattr(store, "write", forbidden)
    workdir, _ = begun()
    write(workdir, "one")
    workdir.grown(now=True)
    assert "access denied" in str(workdir.incomplete())


# -- one run at a time -----------------------------------------------------------------------------------------------


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What happens while somebody waits, one at a time."""
    happen: list[Callable[[], None]] = []
    pause = time.sleep

    def sleep(seconds: float) -> None:
        if threading.current_thread() is not threading.main_thread():  # of another thread, as of fsspec or a monitor
            return pause(seconds)
        assert happen, "it would wait for ever"
        happen.pop(0)()

    monkeypatch.setattr("open_diht.common.lease.time.sleep", sleep)
    return happen


def other_lease(store: FsspecStore, renewed: float) -> None:
    content = {"holder": "other", "shared": False, "taken": 0.0, "renewed": renewed}
    store.write(json.dumps(content).encode(), "lease/other.json")


def test_after_a_kill_it_waits_until_the_lease_has_run_out(store, pauses, monkeypatch):
    """A pod that was evicted is started again at once."""
    said: list[str] = []
    other_lease(store, time.time())
    pauses += [lambda: None, lambda: monkeypatch.setattr(lease_module, "VALID_S", 0.0)]
    with _leased(store, said.append):
        assert len(store.files("lease")) == 3, "two leases, and the token of the second"
    assert not pauses and len(said) == 1 and "waiting up to a minute" in said[0]


def test_a_run_that_renews_its_lease_keeps_others_out(store: FsspecStore, pauses: list[Callable[[], None]]) -> None:
    began = time.time()
    other_lease(store, began)
    pauses += [lambda: other_lease(store, began + 3), lambda: other_lease(store, began + 10)]
    with pytest.raises(WrongUse, match=r"another run \(other\) is writing to memory://.*another WORKDIR"):
        _leased(store, lambda text: None).__enter__()
    assert store.files("lease") == ["other.json"]


def test_a_run_that_ended_leaves_nothing_to_wait_for(store: FsspecStore) -> None:
    for _ in range(2):
        with _leased(store, lambda text: None) as lease:
            assert isinstance(lease, Lease)
    assert store.files("lease") == ["2.token"]


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("memory://run", r"WORKDIR memory://run is in this process's memory.* take a folder"),
        ("/", r"WORKDIR / is the root of the file system"),
        ("nostore://bucket/run", r"nostore://bucket/run cannot be used: Protocol not known: nostore"),
    ],
)
def test_an_address_that_cannot_be_used(url: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=says):
        opened(url, str(tmp_path), Ranks(), lambda text: None).__enter__()


def test_each_address_has_its_own_folder_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {spool(f"s3://bucket/{name}", str(tmp_path)) for name in "ab"}
    assert len(folders) == 2 and all(folder.is_relative_to(tmp_path) for folder in folders)
    monkeypatch.setitem(os.environ, "XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert spool("s3://bucket/a", None).is_relative_to(tmp_path / "cache" / "diht")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.EAGAIN, "another run is writing to"),
        (errno.EACCES, "another run is writing to"),
        (errno.ENOLCK, r"cannot be locked \(.*No locks available\): take one on another file system"),
    ],
)
def test_a_file_system_without_locks_is_not_another_run(code, says, tmp_path, monkeypatch):
    def lockf(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.lockf", lockf)
    with pytest.raises(WrongUse, match=says), opened(tmp_path / "w", None, Ranks(), print):
        pass


def test_a_rename_that_is_killed_leaves_no_complete_folder(store: FsspecStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("manifest.json", "weights"):
        store.write(name.encode(), f"step-1/{name}")
    copied: list[str] = []

    def killed(source: str, target: str) -> None:
        copied.append(target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store.fs, "cp_file", killed)
        store.rename("step-1", "damaged-1", "manifest.json")
    assert [path.rpartition("/")[2] for path in copied] == ["weights"]
    store.rename("step-1", "damaged-1", "manifest.json")
    assert store.files() == ["damaged-1/manifest.json", "damaged-1/weights"]


@pytest.fixture
def open_run(store: FsspecStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Opens the same WORKDIR for a run. It is refused at once if another run holds the lease."""
    monkeypatch.setattr("open_diht.trainer.workdir.FsspecStore", lambda url: store)
    monkeypatch.setattr(Lease, "take_alone", lambda lease: lease.take(shared=False))
    return lambda ranks=None: opened("s3://bucket/run", str(tmp_path), ranks or Ranks(), lambda text: None)


class OnAnotherMachine(Ranks):
    """The first process of a second machine, whose run rank 0 may refuse."""

    refused: Exception | None = None

    def __init__(self) -> None:
        super().__init__(rank=1, world=2)

    def all_or_error(self, error: Exception | None) -> None:
        if self.refused is not None:
            raise self.refused


def test_a_run_that_is_refused_leaves_the_folder_of_the_live_run(open_run: Callable[..., Any]) -> None:
    with open_run() as live:
        write(live, "one")
        with pytest.raises(WrongUse, match="another run"), open_run():
            pass
        with pytest.MonkeyPatch.context() as patch, pytest.raises(WrongUse, match="refused by the first"):
            patch.setattr(OnAnotherMachine, "refused", WrongUse("refused by the first"))
            open_run(OnAnotherMachine()).__enter__()
        assert (live.folder / "log.jsonl").read_text() == "one\n"
        with open_run(OnAnotherMachine()):
            assert live.folder.exists()
        assert not live.folder.exists(), "each machine removes its folder"
        live.folder.mkdir()
    assert not live.folder.exists()


def test_a_run_that_cannot_restore_its_log_leaves_no_folder(open_run, store, tmp_path, monkeypatch):
    def failed(store: FsspecStore, path: str) -> bytes:
        raise StoreError("access denied")

    monkeypatch.setattr(FsspecStore, "read", failed)
    with pytest.raises(StoreError, match="access denied"), open_run():
        pass
    assert not any(tmp_path.glob("workdirs/*")) and {*store.files("lease")} <= {"1.token"}


def test_a_folder_without_its_last_file_is_uploaded_as_incomplete(store: FsspecStore, tmp_path: Path) -> None:
    """As the log of an evaluation that failed before its first result."""
    store.write(b"old", "tasks/step-1/results.json")
    (tmp_path / "log.txt").write_text("it failed")
    store.put(tmp_path, "tasks/step-1", "results.json")
    assert store.files() == ["tasks/step-1/log.txt"]


@pytest.mark.parametrize("begins", ["", "file://", "local://"])
def test_a_local_address_is_the_folder_itself(begins: str, tmp_path: Path) -> None:
    with on_disk(f"{begins}{tmp_path}") as folder:
        assert folder == tmp_path
