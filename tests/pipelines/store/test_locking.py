"""Who may work in an output folder, and who finishes what several shards have done."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from pipelines.driver.annotations import Annotations
from pipelines.store import locking
from pipelines.store.commit import publish_json, read_json
from pipelines.store.layout import Layout
from pipelines.store.locking import Busy, Lease, NoLocks, output_lock

SENTENCE = "A brown dog runs after a red ball"


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


def test_of_two_that_meet_one_gets_it(leases: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both have given way; then one asks again."""
    met = _others(leases, shared=False)
    waited: list[float] = []

    def sleep(seconds: float) -> None:
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


def test_a_shard_that_ends_while_another_is_looking_is_seen(
    tmp_path: Path, tsv: Callable[..., Path], filtering: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one meets the other at work and goes; so the other looks again, or nobody would finish."""
    manifest = tsv(tmp_path / "rows.tsv", [{"n": n, "caption": f"{SENTENCE} {n}"} for n in range(12)])
    look = Annotations.undone
    others: list[Any] = []

    def shard(i: int) -> Any:
        return filtering(manifest, tmp_path / "out", stages=("captions",), unit_rows=4, shard=(i, 2))

    def slowly(annotations: Annotations, units: list[str]) -> list[str]:
        found = look(annotations, units)
        if not others:
            others.append(None)
            others[0] = shard(1)
        return found

    monkeypatch.setattr(Annotations, "undone", slowly)
    first = shard(0)
    (other,) = others
    assert other.outcome.funnel is None and "another one is still at work" in other.said[-1]
    assert first.outcome.funnel is not None and len(first.rows("kept")) == 12
    assert any("shard 0/2 is the last one" in line for line in first.said)
