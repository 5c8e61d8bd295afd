"""A WORKDIR behind a URL: what is brought there and when, and that one run has it."""

import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from open_diht.common import lease as lease_module
from open_diht.common.command_line import WrongUse
from open_diht.common.files import temporary_beside
from open_diht.common.lease import Lease, LeaseLost
from open_diht.common.ranks import Ranks
from open_diht.trainer import stores
from open_diht.trainer.stores import FsspecStore, LocalStore, StoreError, on_disk
from open_diht.trainer.workdir import Workdir, _leased, opened, spool
from tests.common.test_lease import pauses

__all__ = ["pauses"]


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


def test_files_of_others_in_a_store_are_not_written_over(
    begun: Callable[..., Any], store: FsspecStore
) -> None:
    store.write(b"mine", "export/notes.txt")
    with pytest.raises(
        WrongUse, match=r"memory://.* holds export .*another WORKDIR, or move it away"
    ):
        begun()[0].require_unused()
    store.write(b"", "log.jsonl")
    begun()[0].require_unused()


def test_a_log_is_brought_now_and_then_and_before_a_checkpoint(
    begun: Callable[..., Any], store: FsspecStore
) -> None:
    workdir, clock = begun()

    def brought(**now: bool) -> bytes:
        workdir.grown(**now)
        workdir.uploads.wait()
        return store.read("log.jsonl") if store.files() else b""

    write(workdir, "one")
    assert brought() == b""
    clock.now = 10.0
    assert brought() == b"one\n"
    write(workdir, "two")
    assert brought() == b"one\n" and brought(now=True) == b"one\ntwo\n"


def test_a_log_is_continued_on_another_machine_never_cut(
    begun: Callable[..., Any], store: FsspecStore
) -> None:
    workdir, _ = begun()
    write(workdir, "one")
    (workdir.folder / "wandb_id").write_text("abc")
    # A page that is being drawn may be gone when it is uploaded.
    temporary_beside(workdir.folder / "train.html").write_text("half")
    assert workdir.incomplete() is None
    assert sorted(store.files()) == ["log.jsonl", "wandb_id"]
    again, _ = begun()
    assert (again.folder / "wandb_id").read_text() == "abc"
    write(again, "two")
    assert again.incomplete() is None
    assert store.read("log.jsonl") == b"one\ntwo\n"


def test_what_did_not_change_is_not_brought_again(
    begun: Callable[..., Any], store: FsspecStore
) -> None:
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
    """A model is replaced; who loads it meanwhile never meets weights of one beside the description
    of the other."""
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
    monkeypatch.setattr(
        store, "write", Mock(side_effect=StoreError("PermissionError: access denied"))
    )
    workdir, _ = begun()
    write(workdir, "one")
    workdir.grown(now=True)
    assert "access denied" in str(workdir.incomplete())


# -- one run at a time -----------------------------------------------------------------------------


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


def test_a_run_that_renews_its_lease_keeps_others_out(
    store: FsspecStore, pauses: list[Callable[[], None]]
) -> None:
    began = time.time()
    other_lease(store, began)
    pauses += [lambda: other_lease(store, began + 3), lambda: other_lease(store, began + 10)]
    with pytest.raises(
        WrongUse, match=r"another run \(other\) is writing to memory://.*another WORKDIR"
    ):
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
        (
            "nostore://bucket/run",
            r"nostore://bucket/run cannot be used: Protocol not known: nostore",
        ),
    ],
)
def test_an_address_that_cannot_be_used(url: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(WrongUse, match=says):
        opened(url, str(tmp_path), Ranks(), lambda text: None).__enter__()


def test_each_address_has_its_own_folder_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {spool(f"s3://bucket/{name}", str(tmp_path)) for name in "ab"}
    assert len(folders) == 2 and all(folder.is_relative_to(tmp_path) for folder in folders)
    monkeypatch.setitem(os.environ, "XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert spool("s3://bucket/a", None).is_relative_to(tmp_path / "cache" / "diht")


def test_a_file_system_without_locks_is_not_another_run(tmp_path, monkeypatch):
    used = "another run is writing to"
    without = r"cannot be locked \(.*No locks available\): take one on another file"
    for code, says in ((errno.EAGAIN, used), (errno.EACCES, used), (errno.ENOLCK, without)):
        monkeypatch.setattr("fcntl.lockf", Mock(side_effect=OSError(code, os.strerror(code))))
        with pytest.raises(WrongUse, match=says), opened(tmp_path / "w", None, Ranks(), print):
            pass


def test_no_checkpoint_is_written_to_a_folder_that_was_removed_and_made_again(
    tmp_path: Path,
) -> None:
    """As after a pause, in which the user removed WORKDIR and started another run there."""
    with opened(tmp_path / "w", None, Ranks(), print) as place:
        store = LocalStore(place.folder / "checkpoints")
        (first := store.stage("step-1")).joinpath("model").write_text("ours")
        store.put(first, "step-1", "model")
        shutil.rmtree(place.folder)
        (place.folder / "checkpoints" / "step-2").mkdir(parents=True)
        (second := store.stage("step-2")).joinpath("model").write_text("ours")
        with pytest.raises(LeaseLost, match=f"{place.folder} was removed and made again"):
            store.put(second, "step-2", "model")
        assert store.files() == [] and store.names("model") == ["step-2"]


def test_a_rename_that_is_killed_leaves_no_complete_folder(
    store: FsspecStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("manifest.json", "weights"):
        store.write(name.encode(), f"step-1/{name}")
    killed = Mock(side_effect=KeyboardInterrupt)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store.fs, "cp_file", killed)
        store.rename("step-1", "damaged-1", "manifest.json")
    assert [call.args[1].rpartition("/")[2] for call in killed.call_args_list] == ["weights"]
    store.rename("step-1", "damaged-1", "manifest.json")
    assert store.files() == ["damaged-1/manifest.json", "damaged-1/weights"]


@pytest.fixture
def open_run(
    store: FsspecStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Opens the same WORKDIR for a run. It is refused at once if another run holds the lease."""
    monkeypatch.setattr("open_diht.trainer.workdir.FsspecStore", lambda url: store)
    monkeypatch.setattr(Lease, "take_alone", lambda lease: lease.take(shared=False))
    return lambda ranks=None: opened(
        "s3://bucket/run", str(tmp_path), ranks or Ranks(), lambda text: None
    )


class OnAnotherMachine(Ranks):
    """The first process of a second machine, whose run rank 0 may refuse."""

    refused: Exception | None = None

    def __init__(self) -> None:
        super().__init__(rank=1, world=2)

    def all_or_error(self, error: Exception | None) -> None:
        if self.refused is not None:
            raise self.refused


def test_a_run_that_is_refused_leaves_the_folder_of_the_live_run(
    open_run: Callable[..., Any],
) -> None:
    with open_run() as live:
        write(live, "one")
        with pytest.raises(WrongUse, match="another run"), open_run():
            pass
        with (
            pytest.MonkeyPatch.context() as patch,
            pytest.raises(WrongUse, match="refused by the first"),
        ):
            patch.setattr(OnAnotherMachine, "refused", WrongUse("refused by the first"))
            open_run(OnAnotherMachine()).__enter__()
        assert (live.folder / "log.jsonl").read_text() == "one\n"
        with open_run(OnAnotherMachine()):
            assert live.folder.exists()
        assert not live.folder.exists(), "each machine removes its folder"
        live.folder.mkdir()
    assert not live.folder.exists()


def test_a_run_that_cannot_restore_its_log_leaves_no_folder(open_run, store, tmp_path, monkeypatch):
    monkeypatch.setattr(FsspecStore, "read", Mock(side_effect=StoreError("access denied")))
    with pytest.raises(StoreError, match="access denied"), open_run():
        pass
    assert not any(tmp_path.glob("workdirs/*")) and {*store.files("lease")} <= {"1.token"}


def test_a_folder_without_its_last_file_is_uploaded_as_incomplete(
    store: FsspecStore, tmp_path: Path
) -> None:
    """As the log of an evaluation that failed before its first result."""
    store.write(b"old", "tasks/step-1/results.json")
    (tmp_path / "log.txt").write_text("it failed")
    store.put(tmp_path, "tasks/step-1", "results.json")
    assert store.files() == ["tasks/step-1/log.txt"]


@pytest.mark.parametrize("begins", ["", "file://", "local://"])
def test_a_local_address_is_the_folder_itself(begins: str, tmp_path: Path) -> None:
    with on_disk(f"{begins}{tmp_path}") as folder:
        assert folder == tmp_path
