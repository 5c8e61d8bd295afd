"""How n invocations, SHARD=i/n, share the units of a run.

Annotations: every shard does its own units, every n-th, and no others'. What follows is done together by the shards
that are at work then: each does its part of a stage's units, and waits for the others' before the next stage. The part
of one that is not there, or that dies, falls to the others. Should two do a unit at once, they write the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from open_diht.common.lease import Lease
from open_diht.common.naming import counted
from open_diht.pipelines.engine.stage import Stage
from open_diht.pipelines.store.commit import read_json
from open_diht.pipelines.store.locking import FileLock
from open_diht.pipelines.store.storage import each, stamps

_LOOK_S, _LOOK_AT_STORE_S = 0.5, 5.0  # between looks at what the others have done


def shard_name(shard: tuple[int, int], asked: str) -> str:
    """What the others see of a shard (see `output_lock`). `asked` changes with all that the results depend on: only
    shards that are asked for the same can share."""
    return f"{shard[0]}-of-{shard[1]}-{asked}"


class Sharing:
    """One of several shards at work.

    Args:
        shard: (i, n).
        asked: see `shard_name`.
        lock: of the output folder.
        place: a number for each unit, the same in all shards, and one for all parts of a unit.
        say: gets lines for people.
    """

    def __init__(
        self,
        shard: tuple[int, int],
        asked: str,
        lock: FileLock | Lease,
        place: Callable[[str], int],
        say: Callable[[str], None],
    ):
        self._i, self._n = shard
        self._asked, self._lock, self._place, self._say = asked, lock, place, say

    def __str__(self) -> str:
        return f"shard {self._i}/{self._n}"

    def own(self, units: Sequence[str]) -> list[str]:
        """Those of the units that are this shard's, whoever else is at work."""
        return [unit for unit in units if self._place(unit) % self._n == self._i]

    def wait(self, units: Sequence[str], undone: Callable[[Sequence[str]], list[str]]) -> list[str]:
        """Wait until none of the units is undone, or those that are are nobody's who is at work. Returns these."""
        left, waited_for = list(units), set[int]()
        while True:
            present = self._present()  # looked at first: one that has done its units and gone is not waited for
            left = undone(left)
            others = {self._place(unit) % self._n for unit in left} & set(present) - {self._i}
            if not others:
                if left:
                    self._say(
                        f"{self} has done its units, and left {counted(len(left), 'unit')} to others. The last of "
                        "them finishes, or a run without SHARD"
                    )
                return left
            if others != waited_for:
                waited_for = others
                self._say(f"{self} has done its units, and waits for {_listed(others)}")
            self._pause()

    def parts(self, stage: Stage, todo: Sequence[str], failed: dict[str, dict[str, Any]]) -> Iterator[list[str]]:
        """Yield the units of a stage that are to be done here, part after part, until every unit is done or has failed.

        Args:
            stage: whose units they are.
            todo: units that are not committed, the same in all shards.
            failed: units that failed, with their record. The caller adds those of a part before it asks for the next
                one; those that failed in other shards are added here.
        """
        folder = stage.layout.work / stage.name / "failed"
        before = stamps(folder, ".json")
        seen: dict[str, Any] = {}
        left = list(todo)
        while left:
            if mine := self._mine(left):
                yield mine
                done = set(mine)
                left = [unit for unit in left if unit not in done]
            else:
                self._pause()
            now = stamps(folder, ".json")
            gone = [unit for unit in left if now.get(unit) not in (None, before.get(unit))]
            failed |= {unit: record for unit in gone if (record := read_json(stage.layout.failed(stage.name, unit)))}
            left = _undone(stage, [unit for unit in left if unit not in failed], seen)

    def take_alone(self) -> bool:
        """Whether this shard is the last one at work; then it has the folder for itself."""
        self._lock.release()
        alone = self._lock.take_alone()
        done = "has done its part; another one is still at work. The last of them finishes"
        self._say(f"{self} {'is the last one, and finishes' if alone else done}")
        return alone

    def _present(self) -> list[int]:
        """The shards that are at work, this one with them."""
        names = self._lock.at_work()
        return [i for i in range(self._n) if i == self._i or shard_name((i, self._n), self._asked) in names]

    def _mine(self, units: Sequence[str]) -> list[str]:
        present = self._present()
        return [unit for unit in units if self._owner(self._place(unit), present) == self._i]

    def _owner(self, place: int, present: Sequence[int]) -> int:
        owner = place % self._n
        return owner if owner in present else present[place // self._n % len(present)]

    def _pause(self) -> None:
        self._lock.check()
        time.sleep(_LOOK_S if isinstance(self._lock, FileLock) else _LOOK_AT_STORE_S)


def _undone(stage: Stage, units: Sequence[str], seen: dict[str, Any]) -> list[str]:
    """Those of the units of which something is left to do. Of records that are as they were, `seen` knows it."""
    now = stamps(stage.layout.commits(stage.name), ".json")
    new = [unit for unit in units if now.get(unit, 0) not in (0, seen.get(unit))]
    records = each(lambda unit: read_json(stage.layout.commit(stage.name, unit)), new, stage.layout.root)
    done = {unit for unit, record in zip(new, records, strict=True) if stage.is_done(unit, record)}
    seen |= {unit: now[unit] for unit in new}
    return [unit for unit in units if unit not in done]


def _listed(shards: set[int]) -> str:
    names = [f"{i}" for i in sorted(shards)]
    return f"shard {names[0]}" if len(names) == 1 else f"shards {', '.join(names[:8])}{', ...' if names[8:] else ''}"
