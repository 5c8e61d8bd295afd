"""Runs that are killed in every pass of a stage, and end as if nothing had happened."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from pathlib import Path

from tests.forks import Forks
from tests.pipelines.conftest import sorted_tables
from tests.pipelines.processes import ForkedStarter, kill_at

SEED = random.SystemRandom().randrange(10**6)


def killed_in_every_pass(
    folder: Path,
    forks: Forks,
    manifest: Path,
    options: Sequence[str],
    passes: Sequence[str],
    *,
    hits: int,
    calm: int = 2,
) -> set[str]:
    """Kill a run of two workers once in each pass, at least `hits` times before it has ended; then let it end, and find
    in it what a run of `calm` workers holds that nobody killed. Returns the reasons of what both have rejected."""
    undisturbed, killed, dice = folder / "undisturbed", folder / "killed", random.Random(SEED)
    with contextlib.closing(ForkedStarter(forks, folder)) as runs:
        runs.finish(manifest, undisturbed, *options, workers=calm)
        hit = [kill_at(runs.start(manifest, killed, *options), killed, one, 1, 0.05 * dice.random()) for one in passes]
        assert sum(hit) >= hits, (SEED, hit)
        runs.finish(manifest, killed, *options)
        expected = sorted_tables(undisturbed)
        assert sorted_tables(killed) == expected, SEED
        subsets = [[path.read_bytes() for path in output.glob("subset.npy")] for output in (killed, undisturbed)]
        assert subsets[0] == subsets[1], SEED
        assert not list(killed.rglob(".tmp-*")), SEED
        assert "nothing is left to do" in runs.finish(manifest, killed, *options)
    return {row["reason"] for row in expected["rejected"]}
