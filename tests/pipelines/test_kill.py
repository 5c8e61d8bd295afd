"""Killed with SIGKILL at random moments and started again, a run ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from open_diht.common.shard_index import load
from tests.forks import Forks
from tests.pipelines.processes import ForkedStarter, committed, kill_at

SEED = random.SystemRandom().randrange(10**6)
ROWS = 600


@pytest.fixture
def runs(forks: Forks, tmp_path: Path) -> Iterator[ForkedStarter]:
    with contextlib.closing(ForkedStarter(forks, tmp_path)) as made:
        yield made


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, with_images, tsv, ocr_models) -> Path:
    """Rows with images, some of them missing, an empty caption, and two lines that are no rows."""
    folder = tmp_path_factory.mktemp("manifest")
    rows = with_images(folder / "images", ROWS)
    for n in range(0, ROWS, 37):
        rows[n]["image_path"] = "images/missing.png"
    rows[100]["caption"] = ""
    path = tsv(folder / "manifest.tsv", rows)
    with open(path, "ab") as file:
        file.write(b"one field\n600\tA dog \xff runs\timages/blank.png\n")
    return path


@pytest.fixture(scope="module")
def undisturbed(forks: Forks, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run that nobody killed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with contextlib.closing(ForkedStarter(forks, folder)) as runs:
        runs.finish(manifest, folder / "out")
    return folder / "out"


def shards(output: Path) -> dict[str, Any]:
    """The files in shards/; of indexes what they say of their tar, whose time of change is another one each time."""
    folder = output / "shards"
    found: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    indexes = {path.name: load(path) for path in (folder / ".index").glob("*.npz")}
    return found | {name: (index.sha256, index.keys, index.rows.tolist()) for name, index in indexes.items()}


def assert_equal(one: Path, other: Path, tables_of: Callable[[Path], dict[str, Any]]) -> None:
    expected = tables_of(other)
    assert {kind: len(found) for kind, found in expected.items() if not found} == {}
    assert tables_of(one) == expected, SEED
    assert (one / "subset.npy").read_bytes() == (other / "subset.npy").read_bytes(), SEED
    assert shards(one) == shards(other), SEED
    assert not [path for path in one.rglob(".tmp-*")], SEED


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_in_every_stage_and_started_again_equals_undisturbed(tmp_path, manifest, undisturbed, runs, tables_of):
    killed, dice = tmp_path / "killed", random.Random(SEED)
    units, image_units = committed(undisturbed, "captions"), committed(undisturbed, "spotting")
    assert units >= 20
    moments = [
        ("captions", 0, 2.0 * dice.random()),
        ("captions", dice.randrange(1, units), 0.1 * dice.random()),
        ("spotting", dice.randrange(1, image_units // 2), 0.2 * dice.random()),
        ("spotting", dice.randrange(image_units // 2, image_units), 0.2 * dice.random()),
        ("decide", dice.randrange(1, units), 0.02 * dice.random()),
        ("export", dice.randrange(1, units), 0.02 * dice.random()),
    ]
    hits = [kill_at(runs.start(manifest, killed), killed, *moment) for moment in moments]
    assert sum(hits) >= 5, (SEED, moments, hits)
    runs.finish(manifest, killed)
    assert_equal(killed, undisturbed, tables_of)

    before = {path: path.stat().st_mtime_ns for path in killed.rglob("*") if path.name not in ("lock", "subset.npy")}
    rewritten = ("manifest.json", "sizes.json", "exported.json", "fingerprints.json")  # indexes, with equal content
    assert "nothing is left to do" in runs.finish(manifest, killed)
    changed = [path for path, moment in before.items() if path.is_file() and path.stat().st_mtime_ns != moment]
    assert [path.name for path in changed if path.name not in rewritten] == [], changed


@pytest.mark.kill
@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_twenty_kills_at_random_moments_of_the_whole_run(tmp_path, manifest, runs, tables_of):
    """The moments are drawn over the time that an undisturbed run takes; what is done stays done, so that twenty kills
    walk through all stages."""
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    began = time.monotonic()
    runs.finish(manifest, undisturbed)
    whole = time.monotonic() - began
    dice, kills, ended = random.Random(SEED), 0, 0
    while kills < 20:
        process = runs.start(manifest, killed)
        time.sleep(dice.uniform(0.5, whole / 3))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            continue
        # It ended before its time came: go on where decisions are made anew, then back.
        ended += 1
        assert process.returncode == 0, (SEED, process.communicate()[0])
        runs.start(manifest, killed, "--preset", "strict").wait()
    runs.finish(manifest, killed)
    assert_equal(killed, undisturbed, tables_of)


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_shards_at_once_two_killed_one_started_twice(tmp_path, manifest, undisturbed, runs, tables_of):
    """On one shared folder, started at the same moment, with different WORKERS; a plain run finishes what the killed
    ones left."""
    shared, dice = tmp_path / "shared", random.Random(SEED)
    shards = [runs.start(manifest, shared, "--shard", f"{i}/4", workers=1 + i % 2) for i in range(4)]
    again = runs.start(manifest, shared, "--shard", "0/4", workers=1)
    deadline = time.monotonic() + 120
    while committed(shared, "captions") < dice.randrange(2, 12) and time.monotonic() < deadline:
        time.sleep(0.01)
    for victim in shards[2:]:
        assert victim.poll() is None, (SEED, victim.communicate()[0])
        os.kill(victim.pid, signal.SIGKILL)
        victim.wait()
    for process in (*shards[:2], again):
        said, _ = process.communicate()
        assert process.returncode == 0, (SEED, said)
        assert "has done its units" in said or "finishes" in said
    runs.finish(manifest, shared)
    assert_equal(shared, undisturbed, tables_of)
    plans = {path.name for path in (shared / "work").glob("plan*")}
    assert plans == {"plan.json"}
