"""Who may work in an output folder, and who finishes what several shards have done."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped, unused-ignore]
from upath import UPath

from pipelines.store import locking
from pipelines.store.commit import publish_json, read_json
from pipelines.store.layout import Layout
from pipelines.store.locking import Busy, Lease, LeaseLost, NoLocks, output_lock


@pytest.fixture
def leases() -> Iterator[UPath]:
    """A folder of leases in a store."""
    folder = UPath("memory://locking/work/leases")
    yield folder
    folder.fs.rm("/locking", recursive=True)


def _others(folder: UPath, shared: bool) -> UPath:
    """The lease of somebody else."""
    path = folder / "other.json"
    publish_json(path, {"holder": "other", "shared": shared, "renewed": time.time()})
    return path


def test_a_lock_given_back_may_be_taken_again(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    with output_lock(layout, shared=True) as one, output_lock(layout, shared=True) as other:
        one.release()
        assert other.take_alone() and not one.take_alone()
        other.release()
        assert one.take_alone()
        with pytest.raises(Busy, match="another run is working"):
            output_lock(layout, shared=True).__enter__()


def test_a_lease_given_back_may_be_taken_again(leases: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.store.locking.time.sleep", lambda seconds: None)
    one, other = Lease(leases), Lease(leases)
    assert one.take(shared=True) and other.take(shared=True)
    one.release()
    assert other.take_alone() and not one.take_alone()
    other.release()
    assert one.take_alone() and len(list(leases.iterdir())) == 1
    one.release()
    assert not list(leases.iterdir())


def _at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """So much later, by the clocks of this machine and of the store in its memory."""
    later = timedelta(seconds=seconds)
    modified = MemoryFileSystem.modified
    monkeypatch.setattr(
        MemoryFileSystem,
        "modified",
        lambda fs, path: modified(fs, path) + (later if "other" not in path else timedelta()),
    )


def test_a_killed_runs_lease_runs_out_within_a_minute(leases: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    _others(leases, shared=False)
    lease = Lease(leases)
    assert not lease.take(shared=True) and not lease.take(shared=False)
    _at(monkeypatch, 40)
    assert not lease.take(shared=False)
    _at(monkeypatch, 20)
    assert lease.take(shared=False)
    lease.release()


def test_leases_of_killed_runs_are_removed_by_whoever_takes_the_lock(
    leases: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By two at a time too; not by one that is refused, and not those that may only be late."""
    killed = [leases / f"other-{number}.json" for number in range(5)]
    for path in killed:
        publish_json(path, {"holder": path.name, "shared": True, "renewed": time.time()})
    one, another, alone = Lease(leases), Lease(leases), Lease(leases)
    _at(monkeypatch, 3_000)
    assert one.take(shared=True) and all(path.exists() for path in killed)
    one.release()
    _at(monkeypatch, 1_000)
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda lease: lease.take(shared=True), (one, another)))
    assert len(list(leases.iterdir())) == 2
    publish_json(killed[0], {"holder": "other", "shared": True, "renewed": time.time()})
    assert not alone.take(shared=False) and killed[0].exists()
    one.release()
    another.release()


def test_a_lease_that_was_removed_while_it_was_renewed_comes_back_or_is_lost(
    leases: UPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "_RENEW_S", 0.01)
    lease = Lease(leases)
    assert lease.take(shared=True)
    (path,) = leases.iterdir()
    path.unlink()
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, "it was not written again"
        time.sleep(0.01)
    lease.check()
    _others(leases, shared=False)
    path.unlink()
    with pytest.raises(LeaseLost, match="other works in"):
        while time.monotonic() < deadline:
            lease.check()
            time.sleep(0.01)
    lease.release()


def test_its_age_is_told_by_the_stores_clock(leases: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks of two machines may differ by more than a lease counts."""
    path = leases / "other.json"
    publish_json(path, {"holder": "other", "shared": False, "renewed": time.time() - 3_600})
    lease = Lease(leases)
    assert not lease.take(shared=False)
    monkeypatch.setattr(MemoryFileSystem, "modified", _says_nothing)
    assert lease.take(shared=False), "a store that does not say: then this machine's"
    lease.release()


def _says_nothing(fs: Any, path: str) -> Any:
    raise NotImplementedError


def test_a_lease_says_which_shards_are_at_work(leases: UPath) -> None:
    one, other, run = Lease(leases, "0-of-2"), Lease(leases, "1-of-2"), Lease(leases)
    assert one.take(shared=True) and other.take(shared=True)
    assert one.at_work() == other.at_work() == {"0-of-2", "1-of-2"}
    assert [lease["shard"] for lease in one.others()] == ["1-of-2"]
    assert not run.take(shared=False)
    other.release()
    assert one.at_work() == {"0-of-2"}
    one.release()


def test_a_lease_that_ran_out_and_was_taken_is_known_to_be_lost(leases: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "_RENEW_S", 0.01)
    lease = Lease(leases)
    assert lease.take(shared=False)
    lease.check()
    _others(leases, shared=False)  # this machine slept, and another one came
    lease._renewed -= 100
    deadline = time.monotonic() + 20
    with pytest.raises(LeaseLost, match=r"did not take the lease .* for 45 seconds, and other works in .*; what is"):
        while time.monotonic() < deadline:
            lease.check()
            time.sleep(0.01)
    lease.release()


def test_of_two_that_meet_one_gets_it(leases: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have given way; then one asks again."""
    met = _others(leases, shared=False)
    waited: list[float] = []
    at_rest = time.sleep

    def sleep(seconds: float) -> None:
        if threading.current_thread() is not threading.main_thread():  # of something else in this process
            return at_rest(seconds)
        waited.append(seconds)
        met.unlink()

    monkeypatch.setattr("pipelines.store.locking.time.sleep", sleep)
    lease = Lease(leases)
    assert lease.take_alone() and len(waited) == 1
    lease.release()


def test_a_lease_is_renewed_also_after_a_failure(leases: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locking, "_RENEW_S", 0.01)
    monkeypatch.setattr(locking, "_AGAIN_S", 0.01)
    lease = Lease(leases)
    assert lease.take(shared=True)
    (path,) = leases.iterdir()
    failures = iter([ConnectionError("the store is away"), TimeoutError("still")])

    def write(target: Any, value: Any) -> None:
        for failure in failures:
            raise failure
        publish_json(target, value)

    monkeypatch.setattr(locking, "publish_json", write)
    before, deadline = read_json(path)["renewed"], time.monotonic() + 20
    while read_json(path)["renewed"] == before:
        assert time.monotonic() < deadline, "it was not renewed"
        time.sleep(0.01)
    assert next(failures, None) is None
    lease.release()


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(handle: Any, operation: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", unknown)
    with pytest.raises(NoLocks, match=r"without locks \(Function not implemented\).*choose another OUTPUT") as refused:
        output_lock(Layout(tmp_path), shared=False).__enter__()
    assert "\n" not in str(refused.value)
