"""Divide the units of a run among n invocations, SHARD=i/n.

For annotations, shard i runs every n-th unit and no other. Later stages divide the units among the
shards at work: each runs its part of a stage, and waits for the other parts before the next stage.
If a shard is absent or dies, the shards at work divide its part. Two shards that run the same unit
write equal files.
"""

import time
from collections.abc import Callable, Iterator, Sequence

from open_diht.common.lease import Lease, token_of
from open_diht.common.naming import counted
from open_diht.pipelines.engine.stage import FailedUnit, Stage
from open_diht.pipelines.store.commit import RunFailed, read_json
from open_diht.pipelines.store.locking import FileLock
from open_diht.pipelines.store.storage import FileStamp, each, stamps

# Seconds between polls of the other shards, on a disk and in a store.
_LOOK_S = 0.5
_LOOK_AT_STORE_S = 5.0
# Polls after which the first shard gives up on units that another one has done otherwise
_PATIENT_LOOKS = 20


def shard_name(shard: tuple[int, int], asked: str) -> str:
    """Return the name under which other shards see this one, see `output_lock`. Only shards with
    the same hash `asked` share units."""
    return f"{shard[0]}-of-{shard[1]}-{asked}"


class Sharing:
    """One shard's view of the shards at work, and its part of the units. `asked` is the hash of the
    settings. `number_of` returns a unit's number, which is the same in all shards, and for all
    image units of a caption unit.
    """

    def __init__(
        self,
        shard: tuple[int, int],
        asked: str,
        lock: FileLock | Lease,
        number_of: Callable[[str], int],
        say: Callable[[str], None],
    ):
        self._i, self._n = shard
        self._asked = asked
        self._lock = lock
        self._number_of = number_of
        self._say = say
        self._apart = 0  # polls since this shard and another one began to disagree

    def __str__(self) -> str:
        return f"shard {self._i}/{self._n}"

    def own(self, units: Sequence[str]) -> list[str]:
        """Return the units that belong to this shard, whichever shards are at work."""
        return [unit for unit in units if self._number_of(unit) % self._n == self._i]

    def wait(self, units: Sequence[str], undone: Callable[[Sequence[str]], list[str]]) -> list[str]:
        """Wait until no other shard at work owns an undone unit. Return the units that are still
        undone."""
        left = list(units)
        waited_for = set[int]()
        while True:
            # Before the units: a shard that ends in between may have done its units, and must not
            # be taken for absent.
            present = self._present()
            left = undone(left)
            others = {self._number_of(unit) % self._n for unit in left} & set(present) - {self._i}
            if not others:
                if left:
                    self._say(
                        f"{self} done; {counted(len(left), 'unit')} left to other shards. The last"
                        " shard, or a run without SHARD, completes the output"
                    )
                return left
            if others != waited_for:
                waited_for = others
                self._say(f"{self} done; waiting for {_listed(others)}")
            self._pause()

    def parts(
        self, stage: Stage, todo: Sequence[str], failed: dict[str, FailedUnit]
    ) -> Iterator[list[str]]:
        """Yield the units that this shard must run, part after part, until every unit is done or
        has failed. The caller adds the records of failed units of a part to `failed` before it
        requests the next part; this method adds those that failed in other shards. Raise RunFailed
        if another shard takes a unit for done and this one does not, see `_check_agreement`."""
        looks = _Looks(stage)
        left = list(todo)
        while left:
            # Before this shard tries them: the others have left them out.
            failed |= looks.failed(left)
            left = [unit for unit in left if unit not in failed]
            if mine := self._mine(left):
                yield mine
                done = {*mine}
                left = [unit for unit in left if unit not in done]
            elif left:
                self._check_agreement(stage, looks.others(left))
                self._pause()
            left = looks.undone([unit for unit in left if unit not in failed])

    def _check_agreement(self, stage: Stage, others: Sequence[str]) -> None:
        """Raise RunFailed if there are `others`, units that only another shard takes for done,
        because no shard would do them. The first shard at work first waits a while, so that one
        shard is left to complete the output.
        """
        self._apart = self._apart + 1 if others else 0
        if others and self._apart > (_PATIENT_LOOKS if self._i == min(self._present()) else 0):
            raise RunFailed(
                f"{self} and another shard disagree about {others[0]} of stage {stage.name}: units"
                " failed in only one of them, or their settings or inputs differ. The other one"
                " continues; run the same command to resume"
            )

    def take_alone(self) -> bool:
        """Return whether this shard is the last one at work; it then holds the lock of the folder
        exclusively."""
        self._lock.release()
        alone = self._lock.take_alone()
        done = "done; another run is still working, and the last one completes the output"
        self._say(f"{self} {'is the last one and completes the output' if alone else done}")
        return alone

    def _present(self) -> list[int]:
        """Return the numbers of the shards at work, including this one."""
        names = self._lock.at_work()
        return [
            i
            for i in range(self._n)
            if i == self._i or shard_name((i, self._n), self._asked) in names
        ]

    def _mine(self, units: Sequence[str]) -> list[str]:
        present = self._present()
        mine = []
        for unit in units:
            rest, owner = divmod(self._number_of(unit), self._n)
            # The units of absent shards are divided evenly among the present ones.
            if self._i == (owner if owner in present else present[rest % len(present)]):
                mine.append(unit)
        return mine

    def _pause(self) -> None:
        self._lock.fence.check()
        time.sleep(_LOOK_S if isinstance(self._lock, FileLock) else _LOOK_AT_STORE_S)


class _Looks:
    """The units of a stage as their records show them. A record is read again only if its stamp has
    changed."""

    def __init__(self, stage: Stage):
        self._stage = stage
        self._token = token_of(stage.layout.root)
        self._seen: dict[str, FileStamp] = {}
        self._seen_failed: dict[str, FileStamp] = {}
        self._others = set[str]()

    def failed(self, units: Sequence[str]) -> dict[str, FailedUnit]:
        """Return the records of units that failed in a shard now at work. Records of earlier runs
        have other tokens."""
        stage = self._stage
        layout = self._stage.layout
        now = stamps(layout.work / stage.name / "failed", ".json")
        new = [unit for unit in units if now.get(unit) not in (None, self._seen_failed.get(unit))]
        read = each(lambda unit: read_json(layout.failed(stage.name, unit)), new, layout.root)
        records = zip(new, read, strict=True)
        self._seen_failed |= {unit: now[unit] for unit in new}
        return {
            unit: record
            for unit, record in records
            if record and record.get("token") == self._token
        }

    def undone(self, units: Sequence[str]) -> list[str]:
        stage = self._stage
        layout = self._stage.layout
        now = stamps(layout.commits(stage.name), ".json")
        new = [unit for unit in units if now.get(unit, 0) not in (0, self._seen.get(unit))]
        read = each(lambda unit: read_json(layout.commit(stage.name, unit)), new, layout.root)
        records = dict(zip(new, read, strict=True))
        done = {unit for unit, record in records.items() if stage.is_done(unit, record)}
        ours = {
            unit
            for unit, record in records.items()
            if record and record.get("token") == self._token
        }
        self._others = (self._others - {*new}) | (ours - done)
        self._seen |= {unit: now[unit] for unit in new}
        return [unit for unit in units if unit not in done]

    def others(self, units: Sequence[str]) -> list[str]:
        """Return the units that only other shards at work take for done. This happens because a
        unit may fail in only one shard, and the fingerprint of a step over all rows covers all
        units that have not failed.
        """
        return [unit for unit in units if unit in self._others]


def _listed(shards: set[int]) -> str:
    names = [f"{i}" for i in sorted(shards)]
    return (
        f"shard {names[0]}"
        if len(names) == 1
        else f"shards {', '.join(names[:8])}{', ...' if names[8:] else ''}"
    )
