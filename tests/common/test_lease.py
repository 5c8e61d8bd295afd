"""A lock in an object store: taken, shared, renewed, run out, lost."""

import json
import pickle
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed: pip install .")
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped, unused-ignore]  # noqa: E402

from open_diht.common import lease as module  # noqa: E402
from open_diht.common.files import publish_bytes, published, published_folder  # noqa: E402
from open_diht.common.lease import Lease, LeaseLost, Removed, held  # noqa: E402

FOLDER = "/locking/work/leases"


@pytest.fixture
def leases() -> Iterator[Any]:
    fs = MemoryFileSystem()
    fs.makedirs(FOLDER, exist_ok=True)
    yield fs
    fs.rm("/locking", recursive=True)


def lease_in(fs: Any, shard: str = "") -> Lease:
    return Lease(fs, FOLDER, "memory://locking", shard)


def _others(
    fs: Any,
    renewed: float | None = None,
    taken: float = 0.0,
    shared: bool = False,
    name: str = "other",
) -> str:
    path = f"{FOLDER}/{name}.json"
    renewed = time.time() if renewed is None else renewed
    content = {
        "holder": name,
        "shard": "1-of-2",
        "shared": shared,
        "taken": taken,
        "renewed": renewed,
    }
    fs.pipe_file(path, json.dumps(content).encode())
    return path


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens while a run waits for a lease, a pause each."""
    happen: list[Callable[[], object]] = []
    pause = time.sleep

    def sleep(seconds: float) -> None:
        if threading.current_thread() is not threading.main_thread():
            # Of something else in this process.
            return pause(seconds)
        assert happen, "it would wait for ever"
        happen.pop(0)()

    monkeypatch.setattr("open_diht.common.lease.time.sleep", sleep)
    return happen


def test_a_lease_given_back_may_be_taken_again(
    leases: Any, pauses: list[Callable[[], object]]
) -> None:
    one = lease_in(leases)
    other = lease_in(leases)
    assert one.take(shared=True) and other.take(shared=True)
    one.release()
    assert other.take_alone()
    pauses.append(other.release)
    assert one.take_alone() and len(leases.glob(f"{FOLDER}/*.json")) == 1
    one.release()
    assert not leases.glob(f"{FOLDER}/*.json")


def test_the_last_shard_waits_for_the_lease_of_a_killed_one(leases, pauses, monkeypatch):
    """A shard that was killed and started again finds its own lease of before, and nobody else
    would complete."""
    _others(leases, shared=True)
    said: list[str] = []
    lease = Lease(leases, FOLDER, "memory://locking", "0-of-2", said.append)
    assert lease.take(shared=True)
    pauses += [lambda: None] * 3 + [lambda: _at(monkeypatch, 50)]
    assert lease.take_alone() and not pauses
    assert len(said) == 1 and "memory://locking was in use: waiting up to a minute" in said[0]
    lease.release()


@pytest.mark.parametrize("behind", [0, 3_600])
def test_a_run_that_renews_its_lease_is_not_waited_for(behind, leases, pauses):
    """Whatever its machine's clock says."""
    began = time.time() - behind
    _others(leases, began)
    pauses += [lambda: _others(leases, began + 3), lambda: _others(leases, began + 10)]
    assert not lease_in(leases).take_alone() and not pauses
    assert leases.ls(FOLDER, detail=False) == [f"{FOLDER}/other.json"]


def test_a_run_that_only_asks_again_and_again_is_waited_for(
    leases: Any, pauses: list[Callable[[], object]]
) -> None:
    """Else of many shards that end together each would take the others for at work, and none would
    complete."""
    began = time.time()
    met = _others(leases, began, taken=began)
    pauses += [lambda: _others(leases, began + 30, taken=began + 30), lambda: leases.rm_file(met)]
    lease = lease_in(leases)
    assert lease.take_alone() and not pauses
    lease.release()


def _at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """So much later, by the clocks of this machine and of the store in its memory."""
    later = timedelta(seconds=seconds)
    modified = MemoryFileSystem.modified

    def at(fs: Any, path: str) -> Any:
        return modified(fs, path) + (later if "other" not in path else timedelta())

    monkeypatch.setattr(MemoryFileSystem, "modified", at)


def test_a_killed_runs_lease_runs_out_within_a_minute(
    leases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _others(leases)
    lease = lease_in(leases)
    assert not lease.take(shared=True) and not lease.take(shared=False)
    _at(monkeypatch, 40)
    assert not lease.take(shared=False)
    _at(monkeypatch, 20)
    assert lease.take(shared=False)
    lease.release()


def test_leases_of_killed_runs_are_removed_by_whoever_takes_the_lock(leases, monkeypatch):
    """By two at a time too; not by one that is refused, and not those that may only be late."""
    paths = [_others(leases, shared=True, name=f"other-{number}") for number in range(5)]
    one = lease_in(leases)
    another = lease_in(leases)
    alone = lease_in(leases)
    _at(monkeypatch, 3_000)
    assert one.take(shared=True) and all(leases.exists(path) for path in paths)
    one.release()
    _at(monkeypatch, 1_000)
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda lease: lease.take(shared=True), (one, another)))
    assert len(leases.glob(f"{FOLDER}/*.json")) == 2
    _others(leases, shared=True, name="other-0")
    assert not alone.take(shared=False) and leases.exists(paths[0])
    one.release()
    another.release()


def test_a_lease_that_was_removed_while_it_was_renewed_comes_back_or_is_lost(leases, monkeypatch):
    monkeypatch.setattr(module, "RENEW_S", 0.01)
    lease = lease_in(leases)
    assert lease.take(shared=True)
    (path,) = leases.glob(f"{FOLDER}/*.json")
    leases.rm_file(path)
    deadline = time.monotonic() + 20
    while not leases.exists(path):
        assert time.monotonic() < deadline, "it was not written again"
        time.sleep(0.01)
    lease.fence.check()
    monkeypatch.setattr(module, "VALID_S", 0.0)
    other = lease_in(leases)
    assert other.take(shared=False)
    while leases.exists(path):
        leases.rm_file(path)
        time.sleep(0.1)
    with pytest.raises(LeaseLost, match=f"{other._name} has taken memory://locking"):
        lease.fence.check()
    lease.release()
    other.release()


def test_its_age_is_told_by_the_stores_clock(leases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks of two machines may differ by more than a lease counts."""
    _others(leases, renewed=time.time() - 3_600)
    lease = lease_in(leases)
    assert not lease.take(shared=False)
    monkeypatch.setattr(MemoryFileSystem, "modified", Mock(side_effect=NotImplementedError))
    assert lease.take(shared=False), "a store that does not say: then this machine's"
    lease.release()


def test_a_lease_says_which_shards_are_at_work(leases: Any) -> None:
    one = lease_in(leases, "0-of-2")
    other = lease_in(leases, "1-of-2")
    run = lease_in(leases)
    assert one.take(shared=True) and other.take(shared=True)
    assert one.at_work() == other.at_work() == {"0-of-2", "1-of-2"}
    assert not run.take(shared=False)
    other.release()
    assert one.at_work() == {"0-of-2"}
    one.release()


@pytest.mark.parametrize("gone", [False, True], ids=["at work", "ended"])
def test_a_lease_that_ran_out_and_was_taken_is_lost(
    gone: bool, leases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the run that took it has ended meanwhile, in each process that writes, and whatever
    is renewed."""
    lease = lease_in(leases)
    other = lease_in(leases)
    assert lease.take(shared=False)
    worker = pickle.loads(pickle.dumps(lease.fence))
    worker.check()
    monkeypatch.setattr(module, "VALID_S", 0.0)  # this machine slept
    assert other.take(shared=False)
    if gone:
        other.release()
    for check in (lease.fence.check, worker.check):
        with pytest.raises(
            LeaseLost, match=f"{other._name} has taken memory://locking since.*Run the same"
        ):
            check()
    lease.release()
    other.release()
    assert len(leases.ls(FOLDER)) == 1, "of the tokens only the newest stays"


@pytest.mark.parametrize("before", [1, 3])
def test_a_lease_in_a_folder_that_was_removed_is_lost(before: int, leases: Any) -> None:
    """Also if a run makes the folder again, where the numbers of tokens begin at 1 again."""
    lease = lease_in(leases)
    other = lease_in(leases)
    for _ in range(before):
        assert lease.take(shared=False)
    worker = pickle.loads(pickle.dumps(lease.fence))
    worker.check()
    leases.rm(FOLDER, recursive=True)
    for check in (lease.fence.check, worker.check):
        with pytest.raises(
            Removed, match=r"memory://locking was removed .* run the same command to start over"
        ):
            check()
    assert other.take(shared=False) and other.fence.token == 1
    for check in (lease.fence.check, worker.check):
        with pytest.raises(
            LeaseLost, match=f"{other._name} has taken memory://locking since"
        ) as lost:
            check()
        assert not isinstance(lost.value, Removed)
    other.fence.check()
    assert other.fence.name != lease.fence.name
    lease.release()
    other.release()


def test_nothing_is_published_in_a_folder_that_was_removed(tmp_path: Path) -> None:
    """Nor in one that was made again."""
    folder = tmp_path / "out"
    path = folder / "deep" / "a"
    whole = folder / "b"
    with held(folder):
        publish_bytes(path, b"ours")
        shutil.rmtree(folder)
        for publish in (publish_bytes, _publish_folder):
            with pytest.raises(Removed, match=f"{folder} was removed"):
                publish(path, b"ours")
        assert not folder.exists()
        folder.mkdir()
        (folder / "a").write_bytes(b"theirs")
        for target, publish in ((folder / "a", publish_bytes), (whole, _publish_folder)):
            with pytest.raises(LeaseLost, match=f"{folder} was removed and made again"):
                publish(target, b"ours")
    assert [path.name for path in folder.iterdir()] == ["a"] and (
        folder / "a"
    ).read_bytes() == b"theirs"


def test_a_file_that_is_being_written_is_not_published_in_a_folder_made_again(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "out"
    with held(folder), pytest.raises(LeaseLost), published(folder / "a") as temporary:
        shutil.rmtree(folder)
        folder.mkdir()
        temporary.write_bytes(b"ours")
    assert not [*folder.iterdir()]


def _publish_folder(path: Path, content: bytes) -> None:
    with published_folder(path) as temporary:
        (temporary / "a").write_bytes(content)


def test_a_lease_that_nobody_took_is_not_lost(leases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = lease_in(leases)
    assert lease.take(shared=False)
    monkeypatch.setattr(module, "VALID_S", 0.0)
    lease.fence.check()
    lease.release()


def test_shards_at_work_share_a_token_and_those_that_come_after_them_get_the_next(
    leases, pauses, monkeypatch
):
    one, other, third, late = (lease_in(leases, f"{i}-of-4-f") for i in range(4))
    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda lease: lease.take(shared=True), (one, other)))
    one.release()
    assert third.take(shared=True)
    assert one.fence.token == other.fence.token == third.fence.token == 1
    for lease in (other, third):
        lease.fence.check()
        lease.release()
    assert late.take(shared=True) and late.fence.token == 2
    with pytest.raises(LeaseLost):
        other.fence.check()
    late.release()
    assert late.take_alone() and late.fence.token == 3
    late.fence.check()
    late.release()


def test_shards_of_other_settings_are_refused(leases: Any) -> None:
    one = lease_in(leases, "0-of-2-f")
    other = lease_in(leases, "1-of-2-g")
    third = lease_in(leases, "1-of-4-f")
    assert one.take(shared=True) and not other.take(shared=True) and third.take(shared=True)
    one.release()
    third.release()
    assert other.take(shared=True)
    other.release()


def test_a_lease_is_renewed_also_after_a_failure(
    leases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_S", 0.01)
    monkeypatch.setattr(module, "AGAIN_S", 0.01)
    lease = lease_in(leases)
    assert lease.take(shared=True)
    (path,) = leases.glob(f"{FOLDER}/*.json")
    failures = iter([ConnectionError("the store is away"), TimeoutError("still")])

    write = leases.pipe_file

    def failing(target: str, content: bytes) -> None:
        for failure in failures:
            raise failure
        write(target, content)

    def renewed() -> float:
        return float(json.loads(leases.cat_file(path))["renewed"])

    monkeypatch.setattr(leases, "pipe_file", failing)
    before = renewed()
    deadline = time.monotonic() + 20
    while renewed() == before:
        assert time.monotonic() < deadline, "it was not renewed"
        time.sleep(0.01)
    assert next(failures, None) is None
    lease.release()


def test_a_store_that_does_not_answer_is_reported(
    leases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in {"RENEW_S": 0.01, "AGAIN_S": 0.01, "RENEWAL_SLOW_S": 0.05}.items():
        monkeypatch.setattr(module, name, seconds)
    answers = threading.Event()
    reported = threading.Event()
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        reported.set()

    lease = Lease(leases, FOLDER, "memory://locking", say=say)
    assert lease.take(shared=True)
    pipe_file = MemoryFileSystem.pipe_file
    monkeypatch.setattr(
        MemoryFileSystem,
        "pipe_file",
        lambda self, *more: answers.wait(60) and pipe_file(self, *more),
    )
    assert reported.wait(60) and "memory://locking" in said[0]
    answers.set()
    lease.release()
