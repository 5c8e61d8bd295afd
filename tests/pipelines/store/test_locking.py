"""Who may work in an output folder, and who finishes what several shards have done."""

import errno
import fcntl
import os
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from open_diht.common.lease import (
    Fence,
    FileFence,
    LeaseLost,
    Removed,
    check_fence,
    set_fence,
    token_of,
)
from open_diht.pipelines.store.commit import publish_json, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.locking import Busy, NoLocks, output_lock, watched
from open_diht.pipelines.store.storage import store_path


def test_a_lock_given_back_may_be_taken_again(tmp_path):
    layout = Layout(tmp_path)
    with output_lock(layout, shared=True) as one, output_lock(layout, shared=True) as other:
        one.release()
        assert other.take_alone() and not one.take_alone()
        other.release()
        assert one.take_alone()
        with pytest.raises(Busy, match="another run is working"):
            output_lock(layout, shared=True).__enter__()


def test_shards_lock_a_folder_on_nfs(tmp_path, monkeypatch):
    """Linux maps a flock on NFS to a lock of bytes, which asks how the file was opened (flock(2),
    "NFS details")."""
    flock = fcntl.flock

    def as_on_nfs(handle: Any, operation: int) -> None:
        if (operation & fcntl.LOCK_SH and not handle.readable()) or (
            operation & fcntl.LOCK_EX and not handle.writable()
        ):
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", as_on_nfs)
    layout = Layout(tmp_path)
    names = {"0-of-2-f", "1-of-2-f"}
    one, other = (output_lock(layout, True, name) for name in sorted(names))
    with one as first, other as second:
        assert first.at_work() == second.at_work() == names
    with output_lock(layout, shared=False) as alone:
        assert alone.at_work() == set()


def content_of(lock: Any) -> bytes:
    """Return what a lock's fence on a disk compares."""
    assert isinstance(lock.fence, FileFence)
    return lock.fence.content


def test_each_run_has_the_next_token_and_shards_at_work_share_one(tmp_path):
    layout = Layout(tmp_path)
    one, other = (output_lock(layout, True, f"{i}-of-2-f") for i in range(2))
    with one as first, other as second:
        assert first.fence == second.fence
        tokens = [content_of(first)]
        first.release()
        second.release()
        assert first.take_alone()
        tokens.append(content_of(first))
    for shared, shard in ((True, "0-of-2-f"), (False, "")):
        with output_lock(layout, shared, shard) as late:
            tokens.append(content_of(late))
    assert [len(token) - len(tokens[0]) for token in tokens] == [0, 1, 2, 3]
    assert len({token.rstrip(b"\0") for token in tokens}) == 1


@pytest.mark.parametrize(
    "before", [b"", b"\0", b"\0\0\0"], ids=["new", "of an old run", "of three old runs"]
)
def test_a_lock_in_a_folder_that_was_removed_is_lost(before, tmp_path):
    """Also if a run makes the folder again, where a lock of as many bytes may have the same inode.
    A worker knows the lock by its content alone."""
    layout = Layout(tmp_path / "out")
    layout.work.mkdir(parents=True)
    (layout.work / "lock").write_bytes(before)
    with output_lock(layout, shared=False) as lock:
        worker = pickle.loads(pickle.dumps(lock.fence))
        check_fence(layout.plan)
        shutil.rmtree(tmp_path)
        for check in (lock.fence.check, worker.check, lambda: check_fence(layout.plan)):
            with pytest.raises(
                Removed, match=f"{layout.root} was removed .* run the same command to start over"
            ):
                check()
        with output_lock(layout, shared=False) as other:
            for fence in (lock.fence, worker):
                with pytest.raises(
                    LeaseLost,
                    match=f"another run has taken {layout.root} .* same command to resume",
                ):
                    fence.check()
            other.fence.check()
            assert other.fence.name != lock.fence.name


def test_workers_that_outlive_their_driver_lose_the_folder_to_the_next_run(tmp_path):
    layout = Layout(tmp_path)
    with output_lock(layout, shared=False) as lock:
        worker = pickle.loads(pickle.dumps(lock.fence))
    worker.check()
    with output_lock(layout, shared=False), pytest.raises(LeaseLost, match="another run has taken"):
        worker.check()


def test_a_program_that_has_no_lock_publishes_until_a_run_takes_the_folder(tmp_path):
    layout = Layout(tmp_path)
    path = layout.root / "selection" / "a.json"
    with watched(layout):
        publish_json(path, "without a lock")
    with output_lock(layout, shared=False):
        pass
    with watched(layout):
        publish_json(path, "ours")
        os.truncate(
            tmp_path / "work" / "lock", (layout.work / "lock").stat().st_size + 1
        )  # as a run of another process does
        with pytest.raises(LeaseLost, match=f"another run has taken {tmp_path}"):
            publish_json(path, "late")
    assert read_json(path) == "ours"


def test_a_fence_of_the_working_directory(tmp_path, monkeypatch):
    """Paths may be relative, and begin with the folder's name or not."""
    monkeypatch.chdir(tmp_path)
    with output_lock(Layout(Path(".")), shared=False):
        check_fence(Path("work/plan.json"))
        (tmp_path / "work" / "lock").unlink()
        for path in (Path("work/plan.json"), tmp_path / "work" / "plan.json"):
            with pytest.raises(Removed):
                check_fence(path)


def test_shards_of_other_settings_are_refused(tmp_path):
    """Both would write the results of the same units."""
    layout = Layout(tmp_path)
    with (
        output_lock(layout, True, "0-of-2-f"),
        output_lock(layout, True, "1-of-4-f"),
        pytest.raises(Busy),
    ):
        output_lock(layout, True, "1-of-2-g").__enter__()
    with output_lock(layout, True, "1-of-2-g"):
        pass


def test_old_files_of_other_settings_that_another_shard_tests_are_no_obstacle(tmp_path):
    """Shards that start at the same moment test the same files, by locks of a moment."""
    layout = Layout(tmp_path)
    with output_lock(layout, True, "0-of-2-g"):
        pass
    with open(tmp_path / "work" / "shards" / "0-of-2-g", "r+", encoding="ascii") as old:
        fcntl.flock(old, fcntl.LOCK_EX)
        release = threading.Timer(0.1, fcntl.flock, (old, fcntl.LOCK_UN))
        release.start()
        with output_lock(layout, True, "0-of-2-f") as lock:
            release.join()
            assert lock.at_work() == {"0-of-2-f"}


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def unknown(handle: Any, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", unknown)
    with pytest.raises(
        NoLocks, match=r"without locks \(Function not implemented\).*choose another OUTPUT"
    ) as refused:
        output_lock(Layout(tmp_path), shared=False).__enter__()
    assert "\n" not in str(refused.value)


class Later(Fence):
    """A fence during whose check another thread begins to work in another folder."""

    def check(self) -> None:
        set_fence(store_path("memory://other"), Fence(None, "", "", token=2))


def test_another_thread_may_begin_to_work_in_a_folder_during_a_check() -> None:
    one = store_path("memory://one")
    other = store_path("memory://other")
    set_fence(one, Later(None, "", "", token=1))
    try:
        check_fence(one / "file")
        assert token_of(one) and token_of(other) and token_of(one) != token_of(other)
    finally:
        set_fence(one, None)
        set_fence(other, None)
    assert token_of(one) == token_of(other) == ""
