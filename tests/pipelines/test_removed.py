"""An output folder is removed while a run that works in it is paused, another run makes it again,
and the first run continues."""

import os
import shutil
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from open_diht.common.lease import LeaseLost
from open_diht.pipelines.engine.engine import Engine
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import Done, DoUnit, Stage
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.locking import output_lock
from open_diht.pipelines.store.records import CommitRecord
from open_diht.pipelines.store.storage import StorePath, is_local, stamps, store_path
from tests.pipelines.conftest import sorted_tables
from tests.pipelines.processes import Forked

MOMENTS = {"captions": 1, "spotting": 1, "decide": 0, "export": 0}
"""A stage in which the first run is paused, and the number of units that it has then committed."""


def _pause(process: Forked, output: StorePath, stage: str, commits: int) -> None:
    """Stop a run and its workers in a stage."""
    folder = output / "work" / stage
    while not folder.exists() or len(stamps(folder / "commits", ".json")) < commits:
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGSTOP)


def _remove(output: StorePath) -> None:
    if is_local(output):
        shutil.rmtree(output)
    else:
        output.fs.rm(output.path, recursive=True)


def _files(output: StorePath) -> dict[str, tuple[bytes, float]]:
    """Return the content and the time of all files of an output folder."""
    paths = [path for path in output.glob("**/*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime) for path in paths}


def _changed(output: StorePath, before: dict[str, tuple[bytes, float]]) -> set[str]:
    return {path for path, _ in _files(output).items() ^ before.items()}


@dataclass
class _Unit(Stage):
    """A stage whose folder is removed, and made again by another run, while it works."""

    layout: Layout
    fingerprint: str = "ours"
    name: str = field(default="unit", init=False)
    planned = False

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        shutil.rmtree(str(self.layout.root))
        mark = self.layout.progress(self.name, unit)
        mark.parent.mkdir(parents=True)
        mark.write_text("3 4", encoding="ascii")
        (self.layout.work / "lock").write_bytes(b"another")
        heartbeat.expect(1)
        raise AssertionError("it goes on")


def test_a_worker_leaves_the_marks_of_another_run(tmp_path):
    """They say which units were running when a worker dies."""
    layout = Layout(tmp_path / "out")
    with output_lock(layout, shared=False):
        do = DoUnit(_Unit(layout))
        do.setup()
        for _ in range(2):
            do.process("1")
        assert layout.progress("unit", "1").read_text(encoding="ascii") == "3 4"
        with pytest.raises(LeaseLost, match="has taken"):
            Engine(layout, 1, print).run(_Unit(layout), ["1"], of=1)
        assert layout.progress("unit", "1").exists()
    work = tmp_path / "out" / "work"
    files = {str(path.relative_to(work)) for path in work.parent.rglob("*") if path.is_file()}
    assert files == {"lock", "unit/progress/1"}


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.parametrize("stage", MOMENTS)
@pytest.mark.parametrize("place", ["disk", pytest.param("store", marks=pytest.mark.store)])
def test_a_paused_run_changes_nothing_in_the_output_of_another_run(
    place, stage, pairs, strict, runs, request
):
    """The other run has another preset, so that any file of the first run would show."""
    bucket = request.getfixturevalue("bucket" if place == "store" else "tmp_path")
    output = store_path(f"{bucket}/removed-{stage}")
    paused = runs.start(pairs, output, "--preset", "paper")  # type: ignore[arg-type]
    _pause(paused, output, stage, MOMENTS[stage])
    _remove(output)
    runs.finish(pairs, output, "--preset", "strict")
    made = _files(output)
    os.killpg(paused.pid, signal.SIGCONT)
    said, _ = paused.communicate()
    assert paused.returncode == 1 and f"has taken {output} " in said.splitlines()[-1], said
    assert "Traceback" not in said and _changed(output, made) == set()
    assert sorted_tables(output) == strict.tables()  # type: ignore[arg-type]


@pytest.mark.kill
@pytest.mark.slow
def test_workers_of_a_paused_driver_change_nothing_in_the_output_of_another_run(
    pairs, strict, runs, tmp_path
):
    """They have no handle of the lock, and work on while the folder is removed and made again."""
    output = tmp_path / "out"
    paused = runs.start(pairs, output, "--preset", "paper")
    while not stamps(output / "work" / "captions" / "commits", ".json"):
        assert paused.poll() is None, paused.communicate()[0]
        time.sleep(0.01)
    os.kill(paused.pid, signal.SIGSTOP)
    shutil.rmtree(output, ignore_errors=True)
    shutil.rmtree(output, ignore_errors=True)
    runs.finish(pairs, output, "--preset", "strict")
    made = _files(output)
    os.kill(paused.pid, signal.SIGCONT)
    said, _ = paused.communicate()
    assert paused.returncode == 1 and f"has taken {output} " in said.splitlines()[-1], said
    assert _changed(output, made) == set() and sorted_tables(output) == strict.tables()


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.parametrize("place", ["disk", pytest.param("store", marks=pytest.mark.store)])
def test_a_run_whose_output_is_removed_says_so(place, pairs, runs, request):
    bucket = request.getfixturevalue("bucket" if place == "store" else "tmp_path")
    output: Path | StorePath = store_path(f"{bucket}/gone")
    paused = runs.start(pairs, output)
    _pause(paused, output, "captions", 1)
    _remove(output)
    os.killpg(paused.pid, signal.SIGCONT)
    said, _ = paused.communicate()
    assert paused.returncode == 1 and f"{output} was removed or emptied" in said.splitlines()[-1], (
        said
    )
    assert "run the same command" in said.splitlines()[-1] and "Traceback" not in said
    runs.finish(pairs, output)
