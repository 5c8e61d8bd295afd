"""Kill a run at chosen moments, start it again until it ends, and compare it with an undisturbed
run."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_diht.common.shard_index import load
from tests.pipelines.conftest import sorted_tables
from tests.pipelines.processes import ForkedStarter, committed, kill_at

SEED = random.SystemRandom().randrange(10**6)


@dataclass(frozen=True)
class Moment:
    """When a run is killed: once a stage has committed some of its units, and a random time
    later."""

    stage: str
    """`*` counts the units of all stages."""
    after: int | tuple[float, float] = 1
    """Units, or the fractions of the stage's units between which their number is drawn."""
    seconds: float = 0.05
    """The longest time from the last commit to the kill."""

    def kill(
        self, runs: ForkedStarter, given: Path, output: Path, options: Sequence[str], calm: Path
    ) -> bool:
        """Start a run and kill it at this moment. False: it had ended before."""
        dice = random.Random(f"{SEED} {self}")
        units = committed(calm, self.stage)
        after = self.after
        if isinstance(after, tuple):
            after = dice.randrange(int(after[0] * units), max(int(after[1] * units), 1))
        return kill_at(
            runs.start(given, output, *options),
            output,
            self.stage,
            after,
            self.seconds * dice.random(),
        )


def left_by(output: Path) -> dict[str, Any]:
    """Return the rows, the subset and the shards of an output, and of indexes all but the shards'
    times of change."""
    files = [
        path
        for name in ("subset.npy", "index/*.json", "shards/*")
        for path in output.glob(name)
        if path.is_file()
    ]
    indexes = {
        path.name: load(path)
        for name in ("shards/.index", "index")
        for path in output.glob(f"{name}/*.npz")
    }
    return {
        **sorted_tables(output),
        **{str(path.relative_to(output)): path.read_bytes() for path in files},
        **{
            name: (index.identity, index.sha256, index.keys, index.rows.tolist())
            for name, index in indexes.items()
        },
    }


def check_kills(
    runs: ForkedStarter,
    given: Path,
    options: Sequence[str],
    moments: Sequence[Moment],
    *,
    calm: Path,
    killed: Path,
    hits: int,
    before_resume: Callable[[], None] = lambda: None,
    read: Callable[[Path], Any] = left_by,
) -> Any:
    """Kill a run at each moment, resume it, and compare what `read` gives of its output and of that
    of an undisturbed run, `calm`. At least `hits` runs must be killed before they end;
    `before_resume` is called after the last kill.
    """
    hit = [moment.kill(runs, given, killed, options, calm) for moment in moments]
    assert sum(hit) >= hits, (SEED, hit)
    before_resume()
    runs.finish(given, killed, *options)
    expected = read(calm)
    assert read(killed) == expected, SEED
    left = list(killed.rglob(".tmp-*"))
    assert not left, (SEED, left)
    return expected
