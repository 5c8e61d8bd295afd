"""Killed with SIGKILL at random moments of every stage and started again, a run ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MARK = "FILTERS_TEST_KILL"
SEED = random.SystemRandom().randrange(10**6)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[Path, Path], subprocess.Popen[str]]]:
    """Starts the command; at the end whatever it left running is killed, by process id."""
    mark = f"{MARK}={tmp_path}"
    started: list[subprocess.Popen[str]] = []

    def run(manifest: Path, output: Path) -> subprocess.Popen[str]:
        arguments = ["--dataset", "custom", "--input", str(manifest), "--output", str(output)]
        arguments += ["--unit-rows", "25", "--workers", "2"]
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "pipelines", *arguments],
                cwd=REPOSITORY,
                env={**os.environ, MARK: str(tmp_path)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        )
        return started[-1]

    yield run
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                os.kill(int(entry.name), signal.SIGKILL)


def _committed(output: Path, stage: str) -> int:
    return sum(1 for _ in (output / "work" / stage / "commits").glob("[!.]*.json"))


def _kill_at(process: subprocess.Popen[str], output: Path, stage: str, commits: int, delay: float) -> bool:
    """Kill the driver `delay` seconds after a stage has so many commits. False: it ended before."""
    while _committed(output, stage) < commits:
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    time.sleep(delay)
    if process.poll() is not None:
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return True


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_in_every_stage_and_started_again_equals_undisturbed(
    tmp_path: Path,
    start: Callable[[Path, Path], subprocess.Popen[str]],
    with_pictures: Callable[..., list[dict[str, Any]]],
    tsv: Callable[..., Path],
    tables_of: Callable[[Path], dict[str, Any]],
    ocr_models: None,
) -> None:
    rows = with_pictures(tmp_path / "pictures", 600)
    for n in range(0, 600, 37):
        rows[n]["image_path"] = "pictures/missing.png"
    rows[100]["caption"] = ""
    manifest = tsv(tmp_path / "manifest.tsv", rows)
    with open(manifest, "ab") as file:
        file.write(b"one field\n600\tA dog \xff runs\tpictures/blank.png\n")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    first = start(manifest, undisturbed)
    said, _ = first.communicate()
    assert first.returncode == 0, said

    dice = random.Random(SEED)
    units, pieces = _committed(undisturbed, "captions"), _committed(undisturbed, "spotting")
    assert units >= 20
    moments = [
        ("captions", 0, 2.0 * dice.random()),
        ("captions", dice.randrange(1, units), 0.1 * dice.random()),
        ("spotting", dice.randrange(1, pieces // 2), 0.2 * dice.random()),
        ("spotting", dice.randrange(pieces // 2, pieces), 0.2 * dice.random()),
        ("decide", dice.randrange(1, units), 0.02 * dice.random()),
        ("export", dice.randrange(1, units), 0.02 * dice.random()),
    ]
    hits = [_kill_at(start(manifest, killed), killed, *moment) for moment in moments]
    assert sum(hits) >= 5, (SEED, moments, hits)

    last = start(manifest, killed)
    said, _ = last.communicate()
    assert last.returncode == 0, (SEED, said)
    expected = tables_of(undisturbed)
    assert {kind: len(found) for kind, found in expected.items() if not found} == {}
    assert tables_of(killed) == expected, SEED
    assert (killed / "subset.npy").read_bytes() == (undisturbed / "subset.npy").read_bytes(), SEED
    shards = {path.name: path.read_bytes() for path in (undisturbed / "shards").iterdir()}
    assert {path.name: path.read_bytes() for path in (killed / "shards").iterdir()} == shards, SEED
    assert not [path for path in killed.rglob(".tmp-*")], SEED

    before = {path: path.stat().st_mtime_ns for path in killed.rglob("*") if path.name not in ("lock", "subset.npy")}
    rewritten = ("manifest.json", "exported.json")  # indexes of what is exported, with equal content
    third = start(manifest, killed)
    said, _ = third.communicate()
    assert third.returncode == 0 and "nothing is left to do" in said
    changed = [path for path, moment in before.items() if path.is_file() and path.stat().st_mtime_ns != moment]
    assert [path.name for path in changed if path.name not in rewritten] == [], changed
