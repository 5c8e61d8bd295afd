"""Several shards do the units of a stage together: each unit once, whoever comes, goes or dies."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from open_diht.pipelines.engine import sharing
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.sharing import Sharing, shard_name
from open_diht.pipelines.engine.stage import Done, Stage, failure, quarantine
from open_diht.pipelines.store import commit
from open_diht.pipelines.store.commit import RunFailed
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.locking import FileLock, output_lock
from open_diht.pipelines.store.records import CommitRecord

ASKED = "f"


@dataclass
class Noted(Stage):
    """Commits units, and notes who did them."""

    layout: Layout
    who: int
    did: list[tuple[int, str]]
    fingerprint: str = ASKED
    name: str = field(default="noted", init=False)
    planned = False

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        self.did.append((self.who, unit))
        return {"rows": 1}, []

    def do_all(
        self, sharing: Sharing, count: int, then: Callable[[], None] = lambda: None
    ) -> dict[str, Any]:
        """What an engine does with the units; `then` is called after each part."""
        failed: dict[str, Any] = {}
        for mine in sharing.parts(self, units(count), failed):
            for unit in mine:
                self.do(unit)
            then()
        return failed


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_LOOK_S", 0.005)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


def place(unit: str) -> int:
    return int(unit)


def units(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def at(
    layout: Layout, i: int, n: int, said: list[str] | None = None
) -> tuple[Any, Callable[[FileLock], Sharing]]:
    """The lock of a shard, and what it shares once it holds it."""
    lock = output_lock(layout, shared=True, shard=shard_name((i, n), ASKED))
    return lock, lambda held: Sharing(
        (i, n), ASKED, held, place, (said if said is not None else []).append
    )


class Present(FileLock):
    """A lock that says who is at work."""

    def __init__(self, *present: tuple[int, int]):
        self._names = {shard_name(shard, ASKED) for shard in present}

    def at_work(self) -> set[str]:
        return self._names


@given(
    st.integers(1, 9).flatmap(
        lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1), min_size=1))
    )
)
def test_every_unit_has_one_owner_among_those_at_work(drawn: tuple[int, set[int]]) -> None:
    n, present = drawn
    lock = Present(*((i, n) for i in present))
    parts = [Sharing((i, n), ASKED, lock, place, print)._mine(units(50)) for i in present]
    assert Counter(unit for part in parts for unit in part) == Counter(units(50))
    own = [Sharing((i, n), ASKED, lock, place, print).own(units(50)) for i in range(n)]
    assert Counter(unit for part in own for unit in part) == Counter(units(50))
    assert max(map(len, parts)) <= 2 * 50 / len(present) + n, "nobody gets much more than a share"


def test_those_at_work_do_each_unit_once_and_go_on_together(layout: Layout) -> None:
    did: list[tuple[int, str]] = []
    done_at_the_end: list[set[str]] = []
    began = threading.Barrier(3)

    def shard(i: int) -> None:
        lock, share = at(layout, i, 3)
        with lock as held:
            began.wait(10)
            stage = Noted(layout, i, did)
            assert stage.do_all(share(held), 12) == {}
            done_at_the_end.append({path.stem for path in layout.commits("noted").glob("*.json")})

    threads = [threading.Thread(target=shard, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert Counter(did) == Counter((int(unit) % 3, unit) for unit in units(12))
    assert done_at_the_end == [set(units(12))] * 3, "nobody goes on before all is done"


def test_the_part_of_one_that_dies_falls_to_the_others(layout: Layout) -> None:
    did: list[tuple[int, str]] = []
    other, _ = at(layout, 1, 2)
    lock, share = at(layout, 0, 2)
    with lock as held:
        dying = other.__enter__()
        assert dying.at_work() == {shard_name((0, 2), ASKED), shard_name((1, 2), ASKED)}
        stage = Noted(layout, 0, did)

        def die() -> None:
            if len(did) == 3:
                other.__exit__(None, None, None)

        stage.do_all(share(held), 6, die)
    assert [unit for _, unit in did] == ["0", "2", "4", "1", "3", "5"]


def test_what_another_sets_aside_is_known_here_and_what_an_earlier_run_did_is_not(
    layout: Layout,
) -> None:
    did: list[tuple[int, str]] = []
    theirs = Noted(layout, 1, did)
    quarantine(theirs, "3", [failure("Old", "of an earlier run")])
    other, _ = at(layout, 1, 2)
    lock, share = at(layout, 0, 2)
    stage = Noted(layout, 0, did)

    def do_theirs() -> None:
        theirs.do("3")
        quarantine(theirs, "1", [failure("New", "just now")])

    with lock as held, other:
        failed = stage.do_all(share(held), 4, do_theirs)
    assert list(failed) == ["1"] and failed["1"]["tries"][0]["error"] == "New"
    assert "3" in layout.failed("noted", "3").read_text(encoding="utf-8"), (
        "the old record is its owner's to remove"
    )


def test_a_unit_that_failed_in_a_shard_at_work_has_failed_in_all(layout: Layout) -> None:
    """Also before a shard came to this stage, or was killed and started again: the others have
    left the unit out of the steps that follow, and would wait for a shard that does them with
    the unit."""
    did: list[tuple[int, str]] = []
    stage = Noted(layout, 0, did)
    other, _ = at(layout, 1, 2)
    lock, share = at(layout, 0, 2)
    with other, lock as held:
        for unit in ("2", "3"):
            quarantine(stage, unit, [failure("New", "a moment before this shard came")])
        for unit in ("1", "5"):
            Noted(layout, 1, did).do(unit)
        assert stage.do_all(share(held), 6).keys() == {"2", "3"}
    assert did == [(1, "1"), (1, "5"), (0, "0"), (0, "4")]
    lock, share = at(layout, 0, 2)
    with lock as held:
        assert stage.do_all(share(held), 6) == {}
    assert did[4:] == [(0, "2"), (0, "3")], "a later run tries it again"


def test_the_record_of_an_earlier_failure_is_read_once(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[tuple[int, str]] = []
    theirs = Noted(layout, 1, did)
    quarantine(theirs, "1", [failure("Old", "of an earlier run")])
    read = list[Any]()
    pauses = list[str]()

    def read_json(path: Path) -> Any:
        read.append(path)
        return commit.read_json(path)

    def pause(_: Sharing) -> None:
        pauses.append("1")
        if len(pauses) == 5:
            theirs.do("1")

    monkeypatch.setattr(sharing, "read_json", read_json)
    monkeypatch.setattr(Sharing, "_pause", pause)
    other, _ = at(layout, 1, 2)
    lock, share = at(layout, 0, 2)
    with lock as held, other:
        assert Noted(layout, 0, did).do_all(share(held), 2) == {}
    assert read.count(layout.failed("noted", "1")) == 1 and did == [(0, "0"), (1, "1")]


@pytest.mark.parametrize("i", [0, 1])
def test_shards_that_disagree_do_not_wait_for_each_other(layout: Layout, i: int) -> None:
    """One has left out a unit that failed in it, and the other one has not."""
    did: list[tuple[int, str]] = []
    theirs = Noted(layout, 1 - i, did, fingerprint="without the unit that failed")
    other, _ = at(layout, 1 - i, 2)
    lock, share = at(layout, i, 2)
    with lock as held, other:
        theirs.do(str(1 - i))
        with pytest.raises(
            RunFailed,
            match=rf"^shard {i}/2 .* {1 - i} of stage noted.*run the same command to resume",
        ):
            Noted(layout, i, did).do_all(share(held), 2)
    lock, share = at(layout, i, 2)
    with lock as held:  # the other one has ended
        assert Noted(layout, i, did).do_all(share(held), 2) == {}
    assert did == [(1 - i, str(1 - i)), (i, str(i)), (i, str(1 - i))]


def test_annotations_are_waited_for_where_their_shard_is_at_work(layout: Layout) -> None:
    said: list[str] = []
    other, _ = at(layout, 1, 3)
    lock, share = at(layout, 0, 3, said)
    looks: Iterator[list[str]] = iter([["1", "2", "4"], ["2", "4"], ["2"]])
    with lock as held, other:
        left = share(held).wait(units(6), lambda units: next(looks))
    assert left == ["2"], "nobody is at work on it"
    assert said[0] == "shard 0/3 done; waiting for shard 1"
    assert said[1].startswith("shard 0/3 done; 1 unit left to other shards.") and len(said) == 2


def test_one_that_ends_while_another_is_looking_is_not_missed(layout: Layout) -> None:
    """It has done its unit and gone, between two looks of the other: so the other finds nothing
    undone."""
    did: list[tuple[int, str]] = []
    other, _ = at(layout, 1, 2)
    lock, share = at(layout, 0, 2)
    other.__enter__()
    stage = Noted(layout, 1, did)

    def look(names: Sequence[str]) -> list[str]:
        found = [unit for unit in names if not layout.commit("noted", unit).exists()]
        if found and not did:
            stage.do("1")
            other.__exit__(None, None, None)
        return found

    with lock as held:
        assert share(held).wait(["1"], look) == []
        assert share(held).take_alone()


def test_only_shards_of_the_same_number_share(layout: Layout) -> None:
    lock, share = at(layout, 0, 2)
    with lock as held, output_lock(layout, shared=True, shard=shard_name((1, 4), ASKED)):
        assert share(held)._mine(units(4)) == units(4)
