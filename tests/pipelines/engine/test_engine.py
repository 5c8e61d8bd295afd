"""Units that fail, workers that die: the others go on, the exit status says so, the next run tries
again."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import pytest

from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.engine.engine import Engine, _Counter, _Tries
from open_diht.pipelines.engine.progress import Count, Heartbeat
from open_diht.pipelines.engine.stage import TRIES, UNRECORDED, Done, DoUnit, Stage, failure
from open_diht.pipelines.manifests.plan import keep_plan, make_plan
from open_diht.pipelines.runners import Backend, Direct, Job, JobFailed
from open_diht.pipelines.runners.fork_server import ForkServer
from open_diht.pipelines.runners.job import JobAborted, WorkerDied, job_error
from open_diht.pipelines.store.commit import RunFailed, publish_json, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import CommitRecord
from open_diht.pipelines.store.storage import is_local, stamps, store_path
from tests.pipelines.conftest import Here


@dataclass
class Fussy(Stage):
    """A stage whose unit `killer` kills its worker while a file lies there, and whose unit `broken`
    raises."""

    layout: Layout
    name: str = field(default="fussy", init=False)
    fingerprint: str = "x"
    planned = False

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        with (self.layout.root / "calls").open("a", encoding="utf-8") as file:
            file.write(unit + "\n")
        if unit == "killer" and (self.layout.root / "deadly").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if unit == "broken":
            raise OSError("the disk is on fire")
        return {"rows": 1, "threads": os.environ.get("OMP_NUM_THREADS")}, ()


UNITS = [f"u{n}" for n in range(6)]


def _run(
    folder: Path,
    units: list[str],
    workers: int,
    said: list[str] | None = None,
    backend: Backend | None = None,
) -> dict[str, Any]:
    engine = Engine(
        Layout(folder),
        workers,
        (said if said is not None else []).append,
        backend=backend or Direct(),
    )
    return engine.run(Fussy(Layout(folder)), units, of=len(units), total=len(units))


def _calls(folder: Path, unit: str) -> int:
    return (folder / "calls").read_text(encoding="utf-8").split().count(unit)


def _committed(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "work" / "fussy" / "commits").glob("*.json")}


def test_a_unit_that_raises_is_tried_three_times_and_set_aside(tmp_path: Path) -> None:
    failed = _run(tmp_path, ["broken", *UNITS], workers=1, backend=Here())
    assert set(failed) == {"broken"} and _committed(tmp_path) == set(UNITS)
    tries = failed["broken"]["tries"]
    assert len(tries) == 3 == _calls(tmp_path, "broken")
    assert (
        tries[-1]["error"] == "OSError"
        and "on fire" in tries[-1]["message"]
        and "process" in tries[-1]["trace"]
    )
    assert read_json(Layout(tmp_path).failed("fussy", "broken")) == failed["broken"]


def test_the_third_death_at_which_a_unit_was_running_is_its_last(tmp_path: Path) -> None:
    stage = Fussy(Layout(tmp_path))
    both = ["killer", "u0"]
    tries = _Tries(stage, both)
    death = failure("WorkerDied", "signal 9")
    for _ in range(2):
        assert tries.divided(both) == (both, [])
        assert not tries.add("killer", death)
    assert tries.divided(both) == (["u0"], ["killer"])  # its last try is alone, after the others
    assert tries.divided(["killer", "killed"]) == (["killed"], ["killer"])
    assert tries.divided(["killer"]) == (["killer"], [])
    assert _Tries(stage, both).add("killer", death), "a later run counts on"
    assert len(read_json(stage.layout.failed("fussy", "killer"))["tries"]) == 3


def test_a_failure_that_ends_the_run_is_told_by_its_last_try(tmp_path: Path) -> None:
    tries = [failure("OSError", why) for why in ("no room", "no disk", "on fire")]
    engine = Engine(Layout(tmp_path), 1, print, backend=Here())
    record: Any = {"stage": "fussy", "tries": tries}
    with pytest.raises(RunFailed, match=r"fussy failed at u0 \(OSError: on fire\).* same command"):
        engine.give_up({"u0": record}, fatal=True)
    engine.give_up({"u0.0000.g0": record})
    assert engine.alive(["u0", "u1", "u0.0001.g0"]) == ["u1"]


@dataclass
class Reading(Engine):
    """An engine that notes which commit records it reads."""

    read: list[str] = field(default_factory=list)

    def records(self, stage: str, names: Iterable[str]) -> Iterator[tuple[str, Any]]:
        asked = list(names)
        self.read += asked
        return super().records(stage, asked)


def test_on_a_disk_no_record_of_a_finished_unit_is_read_again(tmp_path: Path) -> None:
    engine = Reading(Layout(tmp_path), 1, list[str]().append, backend=Here())
    assert engine.run(Fussy(Layout(tmp_path)), UNITS, of=len(UNITS)) == {}
    assert _committed(tmp_path) == set(UNITS) and engine.read == []


@dataclass
class Waiting(Fussy):
    """A stage that waits and lets a helper compute."""

    seconds: float = 0.3

    def setup(self) -> None:
        burn = f"import time\nfor _ in range(2):\n  end = time.process_time() + {self.seconds}\n"
        burn += "  input()\n  while time.process_time() < end: pass\n  print(flush=True)\ninput()"
        self._helper = subprocess.Popen(
            [sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def teardown(self) -> None:
        self._helper.communicate()

    def helpers(self) -> list[int]:
        return [self._helper.pid]

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        assert self._helper.stdin and self._helper.stdout
        self._helper.stdin.write(b"\n")
        self._helper.stdin.flush()
        self._helper.stdout.readline()
        time.sleep(self.seconds)
        return {"rows": 1}, ()


def test_cpu_time_of_a_unit_counts_helpers_and_no_waits(tmp_path: Path) -> None:
    engine = Engine(Layout(tmp_path), 1, list[str]().append, backend=Here())
    stage = Waiting(Layout(tmp_path))
    assert engine.run(stage, ["a", "b"], of=2) == {}
    for _, record in engine.committed("fussy", ["a", "b"]):
        assert record["cpu_seconds"] >= 0.9 * stage.seconds
        assert record["seconds"] - record["cpu_seconds"] >= 0.9 * stage.seconds


@dataclass
class Growing(Fussy):
    """A stage whose units are complete with two rows; it can add the second one only where a file
    lies."""

    adds = True

    def is_done(self, unit: str, record: CommitRecord | None) -> bool:
        return record is not None and record.get("rows") == 2

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        if before is not None and not (self.layout.root / "room").exists():
            raise OSError("no room")
        return {"rows": 1 if before is None else 2}, ()


def test_the_old_record_of_a_unit_that_could_not_be_extended_is_not_taken_for_done(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("open_diht.pipelines.engine.stage.PAUSES_S", (0.0, 0.0))
    engine = Engine(Layout(tmp_path), 1, list[str]().append, backend=Here())
    stage = Growing(Layout(tmp_path))
    assert engine.run(stage, ["a"], of=1) == {} and engine.total("fussy", ["a"]) == 1
    (
        tmp_path / "work" / "fussy" / "failed"
    ).touch()  # where the folder with the record of the failure should be
    with pytest.raises(
        RunFailed, match="1 unit of stage fussy could be neither completed nor recorded as failed"
    ):
        engine.run(stage, ["a"], of=1)
    (tmp_path / "room").touch()  # but the file is still in the way
    assert engine.run(stage, ["a"], of=1) == {} and engine.total("fussy", ["a"]) == 2


def test_a_store_that_is_down_ends_no_worker(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """Its unit is neither done nor set aside, for no record of that can be written either; the
    driver says so. The next units are not tried, which would take hours."""

    def down(*arguments: Any, **options: Any) -> None:
        raise Exception("no credentials")  # clients' errors are none of Python's

    layout = Layout(store_path("memory://down"))
    for call in ("exists", "cat_file", "put_file"):
        monkeypatch.setattr(type(fsspec.filesystem("memory")), call, down)
    monkeypatch.setattr("open_diht.pipelines.engine.stage.PAUSES_S", (0.0, 0.0))
    work = DoUnit(Fussy(layout))
    work.setup()
    work.process(UNITS[0])
    assert not layout.progress("fussy", UNITS[0]).exists()
    assert capfd.readouterr().err == f"{UNRECORDED}Exception: no credentials\n"
    monkeypatch.setattr(Fussy, "do", lambda stage, unit: pytest.fail("another unit is tried"))
    work.process(UNITS[1])


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.parametrize("workers", [1, 2])
def test_a_unit_that_kills_its_workers_is_set_aside_and_the_rest_goes_on(
    tmp_path: Path, workers: int
) -> None:
    """One worker is a process of its own too, or the driver would die of what it reads."""
    (tmp_path / "deadly").touch()
    said: list[str] = []
    failed = _run(tmp_path, ["killer", *UNITS], workers=workers, said=said)
    assert set(failed) == {"killer"} and _committed(tmp_path) == set(UNITS)
    assert [entry["error"] for entry in failed["killer"]["tries"]] == ["WorkerDied"] * TRIES
    message = failed["killer"]["tries"][0]["message"]
    assert "signal 9" in message and "fewer WORKERS" in message
    assert any("a worker process ended unexpectedly" in line for line in said)
    assert all(_calls(tmp_path, unit) <= TRIES for unit in UNITS)

    (tmp_path / "deadly").unlink()
    assert _run(tmp_path, ["killer"], workers=workers) == {}
    assert (
        "killer" in _committed(tmp_path) and not Layout(tmp_path).failed("fussy", "killer").exists()
    )

    # Units that are redone, since something else is asked for, are still to do when a worker dies.
    (tmp_path / "deadly").touch()
    engine = Engine(Layout(tmp_path), workers, said.append, backend=Direct())
    again = engine.run(Fussy(Layout(tmp_path), fingerprint="y"), ["killer", *UNITS], of=7, total=7)
    assert set(again) == {"killer"} and _committed(tmp_path) == set(UNITS)


@dataclass(frozen=True)
class Cluster(Here):
    """A cluster that the unit `killer` takes down, so that the run ends, too."""

    down: Path = field(kw_only=True)

    def run(self, job: Job) -> None:
        do, names = job.build.keywords["do"], job.build.keywords["names"]  # type: ignore[attr-defined]
        if self.down.exists():
            raise JobFailed("fussy: no cluster answers")
        if "killer" not in read_json(names):
            super().run(job)
            return
        mark = do._stage.layout.marks(do._stage.name) / "killer"
        if is_local(mark):
            mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_bytes(b"")
        self.down.touch()
        raise job_error(
            "fussy: the job failed",
            RuntimeError("Pipeline x failed in state FAILED: exit code 137"),
        )


@pytest.mark.parametrize("root", ["", "memory://deaths"])
def test_deaths_are_counted_over_runs_that_end_with_their_cluster(
    root: str, tmp_path: Path
) -> None:
    """The marks are seen wherever the worker was. The last try of a unit is alone, after the others
    are done."""
    layout = Layout(store_path(root or str(tmp_path / "out")))
    down = tmp_path / "down"
    stage = Counting(layout)
    backend = Cluster(down=down)
    for _ in range(TRIES - 1):
        down.unlink(missing_ok=True)
        with pytest.raises(JobFailed, match="no cluster answers"):
            Engine(layout, 1, print, backend=backend).run(stage, ["killer", *UNITS], of=7)
    assert not stamps(layout.commits("fussy"), ".json")
    down.unlink()
    failed = Engine(layout, 1, print, backend=backend).run(stage, ["killer", *UNITS], of=7)
    assert set(failed) == {"killer"} and stamps(layout.commits("fussy"), ".json").keys() == set(
        UNITS
    )
    assert [entry["error"] for entry in failed["killer"]["tries"]] == ["WorkerDied"] * TRIES
    assert "exit code 137" in failed["killer"]["tries"][0]["message"]
    assert not stamps(layout.marks("fussy"), "") and not stamps(
        layout.work / "fussy" / "deaths", ".json"
    )

    down.unlink()
    with pytest.raises(JobFailed, match="no cluster answers"):  # the next run gives it new tries
        Engine(layout, 1, print, backend=backend).run(stage, ["killer"], of=7)
    assert len(read_json(layout.deaths("fussy", "killer"))) == 1


@dataclass
class Counting(Fussy):
    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        return {"rows": 1}, ()


@dataclass(frozen=True)
class Refusing(Direct):
    """A cluster on which each job ends before a unit begins."""

    state: str = "FAILED"

    def run(self, job: Job) -> None:
        raise job_error(
            "fussy: the job failed",
            RuntimeError(f"Pipeline x failed in state {self.state}: no model"),
        )


def test_a_job_that_fails_at_no_unit_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(JobAborted, match="no model"):
        _run(tmp_path, UNITS, workers=1, backend=Refusing())


def test_a_job_that_the_user_has_cancelled_is_not_tried_again(tmp_path: Path) -> None:
    mark = Layout(tmp_path).marks("fussy") / UNITS[0]

    class Cancelled(Refusing):
        def run(self, job: Job) -> None:
            mark.touch()
            super().run(job)

    mark.parent.mkdir(parents=True)
    with pytest.raises(JobFailed, match="CANCELLED"):
        _run(tmp_path, UNITS, workers=1, backend=Cancelled(state="CANCELLED"))
    assert read_json(Layout(tmp_path).deaths("fussy", UNITS[0])) is None


class KilledServer(ForkServer):
    def __init__(self) -> None:
        ours, self._theirs = socket.socketpair()
        super().__init__(ours, process=0)

    def fork(self, environment: dict[str, str]) -> socket.socket:
        connection = super().fork(environment)
        self._theirs.close()  # as the kernel does, with the order unread
        return connection


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.timeout(120)
def test_a_fork_server_that_is_killed_while_it_starts_is_started_again(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    running = ForkServer.running
    servers = iter([KilledServer(), KilledServer()])
    monkeypatch.setattr(ForkServer, "running", lambda: next(servers, None) or running())
    said: list[str] = []
    assert _run(tmp_path, UNITS, workers=1, said=said) == {}
    assert _committed(tmp_path) == set(UNITS) and len(said) == 2
    record = read_json(Layout(tmp_path).commit("fussy", UNITS[0]))
    assert record is not None and record["threads"] == "1", (
        "a worker has one thread, whoever starts it"
    )


@pytest.mark.kill
@pytest.mark.timeout(120)
def test_a_fork_server_that_never_starts_ends_the_run_in_one_line(tmp_path, monkeypatch, capfd):
    servers: list[ForkServer] = []

    def start() -> ForkServer:
        servers.append(KilledServer())
        return servers[-1]

    monkeypatch.setattr(ForkServer, "running", start)
    with pytest.raises(WorkerDied, match=r"run the same command to resume") as death:
        _run(tmp_path, UNITS, workers=1)
    assert len(servers) == 3 and _committed(tmp_path) == set()
    assert str(Layout(tmp_path).scratch / "workers.log") in str(death.value)
    assert "Traceback" not in capfd.readouterr().err


def test_a_unit_set_aside_leaves_the_run_whole_and_is_the_only_one_retried(
    pairs, paper, tmp_path, filtering
):
    """A folder in the place of a unit's file: nobody can write there, and it can be taken away
    again."""
    layout = Layout(tmp_path / "out")
    keep_plan(layout.plan, make_plan(str(pairs), load_dataset("custom"), 1, 15, layout.root))
    obstacle = tmp_path / "out" / "work" / "captions" / "data" / "00000-00001.parquet"
    obstacle.mkdir(parents=True)
    result = filtering(pairs, tmp_path / "out", unit_rows=15)
    assert result.status == 1
    assert result.funnel["set_aside"] == {"00000-00001": "captions"}
    theirs = read_json(Layout(paper.output).commit("captions", "00000-00001"))["rows"]
    assert result.funnel["rows_in"] == 60 - theirs and result.funnel["dead_letter"]["units"] == 1
    assert result.funnel["not_decided"] == {
        "rows": 0,
        "units": 1,
        "uncounted": 1,
    }, "nobody has counted them"
    (letter,) = result.rows("dead_letter")
    assert (letter["unit"], letter["stage"], letter["error"]) == (
        "00000-00001",
        "captions",
        "IsADirectoryError",
    )
    (line,) = (line for line in result.said if line.startswith("error"))
    assert "00000-00001" in line and "Run the same command to try again" in line
    assert {row["n"] for kind in ("kept", "rejected") for row in result.rows(kind)} < set(
        paper.verdicts()
    )

    obstacle.rmdir()
    again = filtering(pairs, tmp_path / "out", unit_rows=15)
    assert again.status == 0 and again.tables() == paper.tables()
    assert "captions: 3 of 4 units already done" in again.said and not again.funnel["set_aside"]
    for name in ("subset.npy", "shards/manifest.json"):
        assert (tmp_path / "out" / name).read_bytes() == (paper.output / name).read_bytes()


def test_an_image_unit_set_aside_in_spotting_takes_its_unit_along(
    pairs, paper, tmp_path, filtering
):
    """An earlier decision about the unit does not stay beside a funnel that does not count it."""
    filtering(pairs, tmp_path / "out", unit_rows=15, stages=("captions", "export"))
    assert (tmp_path / "out" / "kept" / "part-00000-00002.parquet").exists()
    (tmp_path / "out" / "work" / "spotting" / "data" / "00000-00002.0000.g0.parquet").mkdir(
        parents=True
    )
    result = filtering(pairs, tmp_path / "out", unit_rows=15)
    assert result.status == 1 and result.funnel["set_aside"] == {"00000-00002": "spotting"}
    theirs = read_json(Layout(paper.output).commit("captions", "00000-00002"))["rows"]
    assert result.funnel["rows_in"] == 60 and result.funnel["not_decided"]["rows"] == theirs > 0
    assert not (tmp_path / "out" / "kept" / "part-00000-00002.parquet").exists()
    assert not list((tmp_path / "out" / "shards").glob("00000-00002-*"))


@dataclass
class _Images(Fussy):
    """A stage that adds segments to its units."""

    name: str = field(default="spotting", init=False)
    adds = True
    counted = noun = "images"


def test_what_is_to_be_done_is_estimated_from_the_units_begun_until_all_are(tmp_path, monkeypatch):
    # Commits are listed at each look.
    monkeypatch.setattr("open_diht.pipelines.engine.engine._LISTING_SHARE", 0)
    layout = Layout(tmp_path)
    counter = _Counter(_Images(layout), ["a", "b", "c", "d"], None)
    assert counter.look() == Count(0, None), "nothing is known yet"
    Heartbeat(layout.progress("spotting", "a")).expect(30)
    assert counter.look() == Count(0, 120, exact=False)
    publish_json(layout.commit("spotting", "a"), {"images": 30, "segments": 1})
    Heartbeat(layout.progress("spotting", "a")).end()
    assert counter.look() == Count(30, 120, exact=False)
    for unit, of in (("b", 60), ("c", 60), ("d", 0)):
        Heartbeat(layout.progress("spotting", unit)).expect(of)
    assert counter.look() == Count(30, 150, exact=True), "the last unit has nothing to do"


def test_the_last_look_sees_all_records(tmp_path: Path) -> None:
    """Also where listing them takes long, as in a store."""
    layout = Layout(tmp_path)
    counter = _Counter(_Images(layout), ["a"], None)
    counter.look()
    counter._took = 1_000.0
    publish_json(layout.commit("spotting", "a"), {"images": 30, "segments": 1})
    assert counter.look() == Count(0)
    counter.forget()
    assert counter.look() == Count(30, 30)


def test_what_an_earlier_run_has_counted_is_not_counted_again(tmp_path: Path) -> None:
    """Unless it was begun anew: then all of it is."""
    layout = Layout(tmp_path)
    for unit in ("more", "anew"):
        publish_json(layout.commit("spotting", unit), {"images": 50, "segments": 1})
    counter = _Counter(_Images(layout), ["more", "anew"], 100)
    publish_json(layout.commit("spotting", "more"), {"images": 70, "segments": 2})
    publish_json(layout.commit("spotting", "anew"), {"images": 80, "segments": 1})
    assert counter.look() == Count(100, 100)


def test_records_in_a_store_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=10)
    monkeypatch.setattr(
        "open_diht.pipelines.engine.engine.read_json", lambda _: {"rows": 3 + both.wait() * 0}
    )
    engine = Engine(Layout(store_path("memory://records")), workers=1, say=print)
    assert engine.total("vocabulary", ["a", "b"]) == 6
