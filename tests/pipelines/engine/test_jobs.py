"""A stage as a Beam job: every unit once, whatever the number of units, and a graph that stays
small."""

import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

from open_diht.common.files import is_temporary
from open_diht.filters.presets import load_preset
from open_diht.pipelines.datasets import load_dataset
from open_diht.pipelines.engine.jobs import assemble, run_name, run_units
from open_diht.pipelines.engine.progress import Heartbeat
from open_diht.pipelines.engine.stage import GPU_HINTS, METRICS, Done, DoUnit, Stage, hints_of
from open_diht.pipelines.manifests import FileChanged
from open_diht.pipelines.runners import Backend, Direct, Job
from open_diht.pipelines.stages.annotator import DuplicateFiles
from open_diht.pipelines.stages.decide import DecideStage
from open_diht.pipelines.stages.dedup.exact_stages import KeyStage
from open_diht.pipelines.stages.dedup.semantic_stages import EmbeddingStage
from open_diht.pipelines.stages.shards import ExportStage
from open_diht.pipelines.store.commit import publish_json, read_json
from open_diht.pipelines.store.layout import Layout
from open_diht.pipelines.store.records import CommitRecord, Fingerprints
from open_diht.pipelines.store.storage import store_path
from tests.pipelines.conftest import filter_manifest


class Note(beam.DoFn):
    def __init__(self, folder: Path):
        self._folder = folder

    def process(self, unit: str) -> None:
        with open(self._folder / unit, "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")


class Recorder:
    """A backend that runs nothing and keeps the jobs."""

    name = "recorder"
    detached = False
    takes_hints = False
    by_partition = False

    def __init__(self, then: Callable[[Job], None] = lambda job: None):
        self.jobs: list[Job] = []
        self.then = then

    def check(self, places: Any) -> None:
        pass

    def default_workers(self) -> int:
        return 1

    def await_units(self, place: str, say: Callable[[str], None]) -> None:
        pass

    def close(self) -> None:
        pass

    def run(self, job: Job) -> None:
        self.jobs.append(job)
        self.then(job)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_every_unit_is_done_once(tmp_path: Path, workers: int) -> None:
    done = tmp_path / "done"
    todo = tmp_path / "todo"
    done.mkdir()
    units = [f"{n:05d}" for n in range(40)]
    run_units("notes", units, Note(done), workers, backend=Direct(), todo=todo)
    notes = {path.name: path.read_text().split() for path in done.iterdir()}
    assert sorted(notes) == units and {len(lines) for lines in notes.values()} == {1}
    processes = {line for lines in notes.values() for line in lines}
    assert len(processes) == workers, "the units are spread over the workers"
    assert str(os.getpid()) not in processes, "the driver is none of them"
    assert list(todo.iterdir()) == [], "the file of names goes when the job ends"


@pytest.mark.slow
def test_where_partitions_are_all_that_is_spread_the_job_holds_the_names(tmp_path: Path) -> None:
    recorder = Recorder(Direct().run)
    recorder.by_partition = True  # type: ignore[misc]
    done = tmp_path / "done"
    todo = tmp_path / "todo"
    done.mkdir()
    run_units("notes", ["a", "b", "c"], Note(done), 2, backend=recorder, todo=todo)
    assert {path.name: len(path.read_text().split()) for path in done.iterdir()} == {
        "a": 1,
        "b": 1,
        "c": 1,
    }
    assert not todo.exists(), "no worker has names to read"


def test_folders_of_one_name_in_two_folders_are_two_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run waits for the workers of its own OUTPUT, and not for another's on the same cluster."""
    places = set()
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        places.add(run_name(Path("out/work")))
    assert places == {str(tmp_path / "one/out/work"), str(tmp_path / "other/out/work")}
    assert run_name(store_path("memory://bucket/out/work")) == "memory://bucket/out/work"


def graph(todo: Path, units: int, hints: Mapping[str, str] | None = None, *flags: str) -> Any:
    names = todo / "names.json"
    publish_json(names, [f"{n:05d}-{n:05d}" for n in range(units)])
    pipeline = beam.Pipeline(options=PipelineOptions(list(flags)))
    assemble(pipeline, label="notes", names=names, do=Note(todo), hints=hints)
    return pipeline.to_runner_api()


def test_a_hundred_thousand_units_leave_the_graph_as_small_as_one(tmp_path: Path) -> None:
    one = graph(tmp_path, 1).ByteSize()
    many = graph(tmp_path, 100_000).ByteSize()
    assert abs(many - one) < 200  # bytes; names of temporary things vary
    assert many < 100_000  # bytes; Dataflow takes ten million


def test_the_stages_themselves_do_not_grow_with_the_units(tmp_path: Path) -> None:
    """Also where the driver has looked at what the units are done from."""
    layout = Layout(tmp_path)
    dataset = load_dataset("custom")
    preset = load_preset("paper-dedup")
    files = (DuplicateFiles("pair", 64, True),)

    def sizes(units: int) -> dict[str, int]:
        of_units = {f"{n:05d}-{n:05d}": f"{n:016x}" for n in range(units)}
        last = f"{units - 1:05d}-{units - 1:05d}"

        def done_from(stage: str) -> Fingerprints:
            found = Fingerprints.published(layout, stage, of_units)
            assert found[last] == of_units[last]
            return found

        stages: list[Stage] = [
            DecideStage(
                layout,
                dataset,
                preset,
                ("captions",),
                done_from("decide"),
                examples=1,
                duplicate_files=files,
            ),
            ExportStage(layout, dataset, done_from("export")),
            KeyStage(
                layout,
                dataset,
                preset,
                ("captions",),
                "image",
                files,
                True,
                done_from("image_keys"),
            ),
            EmbeddingStage(
                layout, files, dataset, preset.dedup.encoder, "0" * 16, done_from("embeddings")
            ),
        ]
        for stage in stages:
            there = pickle.loads(pickle.dumps(DoUnit(stage)))._stage
            known = there.covers if isinstance(there, EmbeddingStage) else there.fingerprint
            assert known[last] == of_units[last], "workers find them in the output folder"
        return {stage.name: len(pickle.dumps(DoUnit(stage))) for stage in stages}

    assert sizes(100_000) == sizes(1) and max(sizes(1).values()) < 10_000  # bytes


def test_what_units_are_done_from_is_missed_by_name(tmp_path: Path) -> None:
    lost = Fingerprints.published(Layout(tmp_path), "decide", {"00000-00000": "f"})
    lost.path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"decide/fingerprints\.json is missing; .*storage that all workers"
    ):
        lost["00000-00000"]


def test_the_file_of_names_is_there_while_the_job_runs_and_gone_after_a_failure(
    tmp_path: Path,
) -> None:
    seen: list[list[str]] = []

    def fail(job: Job) -> None:
        seen.append([path.name for path in tmp_path.iterdir()])
        assert not job.started(), "no worker has read the names"
        raise RuntimeError("the cluster is gone")

    with pytest.raises(RuntimeError, match="the cluster is gone"):
        run_units("notes", ["a"], Note(tmp_path), 3, backend=Recorder(fail), todo=tmp_path)
    assert (
        len(seen[0]) == 1
        and seen[0][0].startswith(".tmp-diht-todo-notes-")
        and is_temporary(seen[0][0])
    ), "what a kill leaves is swept as a temporary"
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_reads_the_names_is_seen_by_the_driver(tmp_path: Path) -> None:
    started: list[bool] = []

    def run_locally(job: Job) -> None:
        Direct().run(job)
        started.append(job.started())

    done = tmp_path / "done"
    done.mkdir()
    run_units("notes", ["a"], Note(done), 1, backend=Recorder(run_locally), todo=tmp_path / "todo")
    assert started == [True]


def test_a_detached_job_keeps_its_names(tmp_path: Path) -> None:
    recorder = Recorder()
    recorder.detached = True  # type: ignore[misc]
    run_units("notes", ["a"], Note(tmp_path), 1, backend=recorder, todo=tmp_path)
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 1 and names[0].startswith("todo-notes-"), names


def test_there_are_never_more_workers_than_units(tmp_path: Path) -> None:
    recorder = Recorder()
    run_units("notes", ["a", "b"], Note(tmp_path), 16, backend=recorder, todo=tmp_path)
    assert recorder.jobs[0].workers == 2


def test_resource_hints_make_an_environment_of_their_own_and_only_where_asked(
    tmp_path: Path,
) -> None:
    assert len(graph(tmp_path, 1).components.environments) == 1
    assert hints_in(graph(tmp_path, 1, {"min_ram": "4GB"})) == [{"min_ram_bytes": b"4000000000"}]


def hints_in(graph: Any) -> list[dict[str, bytes]]:
    found = [environment.resource_hints for environment in graph.components.environments.values()]
    return [{urn.split(":")[2]: value for urn, value in hints.items()} for hints in found if hints]


def test_the_users_hints_take_the_place_of_a_stages(tmp_path: Path) -> None:
    """Beam itself would keep the accelerator of the stage, and take 1 + 2 bundles."""
    gpu = {
        "accelerator": b"type:nvidia-tesla-t4;count:1;install-nvidia-driver",
        "max_active_bundles_per_worker": b"1",
    }
    assert hints_in(graph(tmp_path, 1, hints_of("cuda"))) == [gpu]
    assert hints_of("cuda:1") == GPU_HINTS and hints_of("cpu") == {}
    theirs = (
        "--resource_hints=accelerator=type:nvidia-l4;count:1",
        "--resource_hints=max_active_bundles_per_worker=2",
    )
    given = {"accelerator": b"type:nvidia-l4;count:1", "max_active_bundles_per_worker": b"2"}
    assert hints_in(graph(tmp_path, 1, hints_of("cuda"), *theirs)) == [given]


class Measured(Backend):
    """A backend on Beam's embedded runner that keeps the metrics of each job, by the job's name."""

    name = "measured"

    def __init__(self) -> None:
        self.metrics: dict[str, dict[str, int]] = {}

    def run(self, job: Job) -> None:
        pipeline = beam.Pipeline(runner=FnApiRunner())
        job.build(pipeline)
        result = pipeline.run()
        result.wait_until_finish()
        found = result.metrics().query(MetricsFilter().with_namespace(METRICS))["counters"]
        self.metrics[job.label] = {metric.key.metric.name: metric.committed for metric in found}


@pytest.mark.slow
def test_a_runners_page_shows_the_numbers_of_the_commit_records(tsv, tmp_path: Path) -> None:
    captions = [
        "a brown dog catches a red ball",
        "IMG_2034.jpg",
        "",
        "two women laugh at a table",
    ] * 8
    source = tsv(tmp_path / "rows.tsv", [{"caption": caption} for caption in captions])
    backend = Measured()
    run = filter_manifest(
        source, tmp_path / "out", stages=["captions"], backend=backend, unit_rows=8
    )
    assert run.status == 0 and set(backend.metrics) >= {"captions", "decide"}
    for stage, metrics in backend.metrics.items():
        records = [
            read_json(path) for path in Layout(tmp_path / "out").commits(stage).glob("*.json")
        ]
        assert metrics["units"] == len(records) and "failed_units" not in metrics
        assert metrics.get("rows", 0) == sum(record.get("rows", 0) for record in records)
        assert metrics["bytes"] == sum(sum(record["files"].values()) for record in records)
        assert metrics["milliseconds"] == sum(round(1000 * record["seconds"]) for record in records)
    decided = backend.metrics["decide"]
    assert decided["rejected"] == sum(run.funnel["rejected"].values()) > 0
    assert decided["dead_letters"] == len(run.rows("dead_letter"))
    assert decided["rows"] == run.funnel["rows_in"]


@dataclass
class Fails(Stage):
    """A stage whose unit `a` fails, and whose other units have three rows."""

    layout: Layout
    name: str = field(default="fails", init=False)
    fingerprint: str = "x"
    planned = False

    def process(self, unit: str, before: CommitRecord | None, heartbeat: Heartbeat) -> Done:
        if unit == "a":
            raise FileChanged("rows.tsv", "has changed")  # which is not tried again
        return {"rows": 3}, ()


def test_a_unit_that_fails_is_counted_as_failed(tmp_path: Path) -> None:
    backend = Measured()
    run_units(
        "fails", ["a", "b"], DoUnit(Fails(Layout(tmp_path))), 1, backend=backend, todo=tmp_path
    )
    counts = backend.metrics["fails"].items()
    assert {name: count for name, count in counts if name != "milliseconds"} == {
        "failed_units": 1, "units": 1, "rows": 3, "rejected": 0, "dead_letters": 0, "bytes": 0,
    }  # fmt: skip
