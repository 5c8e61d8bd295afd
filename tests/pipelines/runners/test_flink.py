"""RUNNER=flink up to the job server: a small REST service for a cluster, and an empty archive for
the jar."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import (
    FlinkRunnerOptions,
    GoogleCloudOptions,
    JobServerOptions,
    PortableOptions,
    WorkerOptions,
)
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_job_api_pb2, beam_runner_api_pb2
from apache_beam.runners.portability.flink_runner import FlinkRunner

from open_diht.pipelines.driver.cli import main
from open_diht.pipelines.runners import Job, JobFailed, RunnerError, Workers, make_backend
from open_diht.pipelines.runners.flink import JAR_VARIABLE, Flink, jar_name
from open_diht.pipelines.runners.job import is_of_run, job_name


@pytest.fixture(autouse=True)
def jar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / jar_name("1.20")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", "b")
    monkeypatch.setenv(JAR_VARIABLE, str(path))
    return path


class Submission:
    """What FlinkRunner was about to hand to its job server."""

    options: Any
    environment: Any
    payload: Any
    launcher: str
    started: str
    python: Path


class _JobService:
    """Answers as a job server whose job has ended."""

    def __init__(self, state: Any):
        self._state = state

    def submit(self, proto: Any) -> tuple[str, list[Any], list[Any]]:
        return "job", [], [beam_job_api_pb2.JobStateEvent(state=self._state)]

    @property
    def job_service(self) -> Any:
        return self

    def Cancel(self, request: Any) -> None:
        pass


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> Submission:
    seen = Submission()

    def take(self: FlinkRunner, options: Any) -> _JobService:
        seen.options = options
        return _JobService(beam_job_api_pb2.JobState.DONE)

    inner = FlinkRunner._optimize_pipeline

    def look(proto: Any, options: Any) -> Any:
        seen.python = Path(shutil.which("python") or "")
        (seen.environment,) = proto.components.environments.values()
        if seen.environment.urn == common_urns.environments.PROCESS.urn:
            seen.payload = beam_runner_api_pb2.ProcessPayload.FromString(seen.environment.payload)
            seen.launcher = (
                Path(seen.payload.command).read_text()
                if seen.payload.command.startswith("/tmp")
                else ""
            )
            if seen.launcher:
                done = subprocess.run(
                    [seen.payload.command, "--help"], capture_output=True, text=True, check=False
                )
                seen.started = done.stdout
        return inner(proto, options)

    monkeypatch.setattr(FlinkRunner, "create_job_service", take)
    monkeypatch.setattr(FlinkRunner, "_optimize_pipeline", staticmethod(look))
    return seen


def job(workers: int = 4) -> Job:
    def build(pipeline: beam.Pipeline) -> None:
        _ = pipeline | beam.Create(["a"]) | beam.Map(len)

    return Job(label="captions", build=build, workers=workers)


@pytest.mark.slow
def test_the_cluster_tells_its_slots_and_its_line_and_both_reach_flinkrunner(
    flink_rest, submitted, jar
):
    master = flink_rest(**{"slots-total": 6, "taskmanagers": 3})
    backend = make_backend("flink", [f"--flink_master={master}"])
    backend.check([("OUTPUT", "out")])
    assert backend.default_workers() == 6
    backend.run(job(backend.default_workers()))
    flink = submitted.options.view_as(FlinkRunnerOptions)
    assert (flink.flink_master, flink.flink_version, flink.parallelism) == (master, "1.20", 6)
    assert flink.flink_job_server_jar == str(jar)
    assert submitted.options.view_as(PortableOptions).sdk_worker_parallelism == "2", (
        "one python for each slot"
    )
    properties = submitted.options.view_as(JobServerOptions).job_server_jvm_properties
    assert "--add-opens=java.base/java.lang=ALL-UNNAMED" in properties
    assert submitted.options.view_as(WorkerOptions).default_sdk_harness_log_level == "ERROR"
    assert re.fullmatch(
        r"diht-captions-[0-9a-f]{8}-[0-9a-f]{6}",
        submitted.options.view_as(GoogleCloudOptions).job_name,
    )


@pytest.mark.parametrize(("workers", "processes"), [(1, "1"), (2, "2"), (6, "2")])
def test_a_task_manager_has_a_process_for_each_slot_that_a_job_may_get_there(
    flink_rest, submitted, workers, processes
):
    """Flink fills the slots of one task manager before it uses the next: two processes for two
    slots, not one."""
    master = flink_rest(**{"slots-total": 6, "taskmanagers": 3})
    make_backend("flink", [f"--flink_master={master}"]).run(job(workers))
    assert submitted.options.view_as(PortableOptions).sdk_worker_parallelism == processes


def test_names_of_jobs_tell_runs_apart_and_hosts_where_workers_are_on_the_drivers(flink_rest):
    names = [
        job_name("pair_keys", place)
        for place in ("/data/out/work", "/data/out/work", "/data/other/work")
    ]
    assert len(set(names)) == 3 and all(
        re.fullmatch("diht-pair-keys-[0-9a-f]{8}-[0-9a-f]{6}", name) for name in names
    )
    assert [is_of_run(name, "/data/out/work") for name in names] == [True, True, False]
    assert not is_of_run("BeamApp-root-1202", "/data/out/work")
    there = Flink((f"--flink_master={flink_rest()}",))
    here = Flink((*there.flags, "--environment_type=LOOPBACK"))
    assert there._home("/data/out") == "/data/out" != here._home("/data/out"), (
        "folders of two hosts have equal names"
    )


@pytest.mark.slow
def test_workers_are_processes_of_the_boot_program_with_this_code_staged(
    flink_rest, submitted, tmp_path, monkeypatch
):
    monkeypatch.setenv("DIHT_OCR_MODELS", "/models")
    make_backend("flink", [f"--flink_master={flink_rest()}"]).run(job())
    assert submitted.environment.urn == common_urns.environments.PROCESS.urn
    assert submitted.payload.env["DIHT_OCR_MODELS"] == "/models"
    assert submitted.payload.env["DIHT_WORKER_CWD"] == os.getcwd()
    assert "-P" in submitted.launcher and "boot.py" in submitted.launcher
    assert "--provision_endpoint" in submitted.started, (
        "the launcher is a program that runs as it is"
    )
    assert not Path(submitted.payload.command).exists(), "and goes with the job"
    staged = [
        beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(
            artifact.role_payload
        ).staged_name
        for artifact in submitted.environment.dependencies
    ]
    assert "extra_packages.txt" in staged
    assert any(name.startswith("open_diht-") and name.endswith(".whl") for name in staged)


def test_what_the_user_says_wins(flink_rest, submitted):
    config = json.dumps({"command": "/opt/other/boot"})
    arguments = [
        f"--flink_master={flink_rest()}",
        "--parallelism=1",
        f"--environment_config={config}",
    ]
    make_backend("flink", arguments).run(job())
    assert submitted.options.view_as(FlinkRunnerOptions).parallelism == 1
    assert submitted.payload.command == "/opt/other/boot"


def test_hosts_with_files_of_their_own_start_their_own_boot_program_and_keep_their_models(
    flink_rest, submitted, monkeypatch
):
    monkeypatch.setenv("DIHT_OCR_MODELS", "/models/of/the/driver")
    workers = Workers(python="/not/looked/for/here", boot="/opt/diht/boot")
    backend = make_backend("flink", [f"--flink_master={flink_rest()}"], workers)
    backend.check([("OUTPUT", "out")])
    backend.run(job())
    assert (
        submitted.payload.command == "/opt/diht/boot"
        and "DIHT_OCR_MODELS" not in submitted.payload.env
    )


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["--environment_type=LOOPBACK"], python_urns.EMBEDDED_PYTHON_LOOPBACK),
        (["--flink_master=[local]"], None),
    ],
    ids=["asked", "mini cluster"],
)
def test_loopback_runs_the_units_in_processes_of_the_driver(flink_rest, submitted, arguments, kind):
    if kind:
        arguments = [*arguments, f"--flink_master={flink_rest()}"]
    make_backend("flink", arguments).run(job())
    assert submitted.options.view_as(PortableOptions).environment_type == "LOOPBACK"
    assert "use_loopback_process_worker" in submitted.options.get_all_options()["experiments"]
    assert submitted.environment.urn == common_urns.environments.EXTERNAL.urn, (
        "Beam has put its worker pool in place"
    )
    assert submitted.python == Path(sys.executable), (
        "which starts the `python` that is first on PATH"
    )


@pytest.mark.parametrize(
    ("overview", "arguments", "message"),
    [
        ({"flink-version": "1.17.2"}, [], r"is Flink 1\.17; Beam has job servers for .*1\.20"),
        (
            {"flink-version": "2.0.1"},
            ["--flink_version=1.20"],
            r"=1\.20, but the cluster .* is Flink 2\.0",
        ),
        (
            {"flink-version": "1.19.1"},
            [],
            r"does not fit this SDK, Beam .*, and Flink 1\.19; get .*-1\.19-",
        ),
    ],
)
def test_a_cluster_of_another_line_is_refused(flink_rest, overview, arguments, message):
    backend = make_backend("flink", [f"--flink_master={flink_rest(**overview)}", *arguments])
    with pytest.raises(RunnerError, match=message):
        backend.check([("OUTPUT", "out")])


def test_no_cluster_no_java_no_worker_python(flink_rest, monkeypatch, tmp_path):
    with pytest.raises(
        RunnerError,
        match=r"no Flink cluster answers at http://localhost:1/overview .*make flink-up",
    ):
        make_backend("flink", ["--flink_master=localhost:1"]).check([("OUTPUT", "out")])
    master = f"--flink_master={flink_rest()}"
    with pytest.raises(RunnerError, match="/no/python is not a program on this machine"):
        make_backend("flink", [master], Workers(python="/no/python")).check([("OUTPUT", "out")])
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(RunnerError, match="needs Java"):
        make_backend("flink", [master]).check([("OUTPUT", "out")])


def test_a_cluster_that_goes_away_between_stages_fails_the_job() -> None:
    with pytest.raises(
        JobFailed, match=r"captions: no Flink cluster answers at http://localhost:1/overview"
    ):
        make_backend("flink", ["--flink_master=localhost:1"]).run(job())


def test_wrong_use_is_one_line_and_status_two_and_nothing_is_written(
    flink_rest, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv(JAR_VARIABLE, str(tmp_path / "nothing.jar"))
    output = tmp_path / "out"
    status = main(["--runner", "flink", "--flink-master", flink_rest(), "--output", str(output)])
    printed = capsys.readouterr()
    assert status == 2 and printed.out == "" and not output.exists()
    assert (
        printed.err.count("\n") == 1
        and JAR_VARIABLE in printed.err
        and jar_name("1.20") in printed.err
    )


class _NeverStarting(_JobService):
    def __init__(self) -> None:
        super().__init__(beam_job_api_pb2.JobState.RUNNING)
        self.cancelled = False

    def submit(self, proto: Any) -> tuple[str, Any, Any]:
        def states() -> Any:
            while True:
                yield beam_job_api_pb2.JobStateEvent(state=beam_job_api_pb2.JobState.RUNNING)
                time.sleep(0.05)

        return "job", iter([]), states()

    def Cancel(self, request: Any) -> None:
        self.cancelled = True


@pytest.mark.parametrize("why", ["boot reports", "nothing comes"])
def test_workers_that_do_not_come_end_the_job_instead_of_hanging_it(flink_rest, monkeypatch, why):
    service = _NeverStarting()

    def take(self: FlinkRunner, options: Any) -> Any:
        config = json.loads(options.view_as(PortableOptions).environment_config)
        if why == "boot reports":
            folder = Path(config["env"]["DIHT_BOOT_FOLDER"])
            (folder / "failed-1.txt").write_text("no module named apache_beam", encoding="utf-8")
        return service

    monkeypatch.setattr(FlinkRunner, "create_job_service", take)
    workers = Workers(start_seconds=0.5 if why == "nothing comes" else 600)
    waiting = Job(label="captions", build=job().build, workers=1, started=lambda: False)
    message = (
        "no module named apache_beam"
        if why == "boot reports"
        else "no worker started within 0 seconds|within 1"
    )
    with pytest.raises(JobFailed, match=message):
        Flink((f"--flink_master={flink_rest()}",), workers).run(waiting)
    assert service.cancelled
