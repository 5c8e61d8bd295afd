"""RUNNER=dataflow without a cloud: Beam's DataflowRunner stages each job against an endpoint where
nobody listens, and what it staged runs in a python that holds Beam and the libraries only. Not
shown: rights and quotas, autoscaling, the container image, gs:// from workers, Dataflow's own
fusion, shuffle and retries."""

import http.server
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from apache_beam.portability.api import beam_runner_api_pb2

from open_diht.pipelines.driver.cli import main
from open_diht.pipelines.engine.stage import GPU_HINTS
from open_diht.pipelines.runners import RunnerError, make_backend
from open_diht.pipelines.runners.beam_options import option_values
from open_diht.pipelines.runners.job import is_of_run, job_name
from open_diht.pipelines.stages.score.stage import ScoreStage
from open_diht.pipelines.stages.spotting import SpottingStage
from open_diht.pipelines.teachers.embeddings import EmbeddingStage
from open_diht.pipelines.teachers.features import FeatureStage
from tests.conftest import TOOLS
from tests.pipelines.processes import captured

from .conftest import REPOSITORY, clean_environment, killed_at_the_end, python_without_us

REPLAY = Path(__file__).with_name("replay.py")
CLOUD = ["--project=p", "--region=europe-west4", "--temp_location=gs://bucket/tmp"]
IMAGE = "--sdk_container_image=europe-docker.example/p/r/filters:1"


@pytest.fixture
def with_gcp(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Beam's Google Cloud part were installed: only its presence is asked for by what is
    tested with this."""
    name = "apache_beam.runners.dataflow.internal.apiclient"
    module = type(sys)(name)
    import apache_beam.runners.dataflow.internal as package

    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(package, "apiclient", module, raising=False)


@pytest.mark.parametrize(
    ("arguments", "output", "message"),
    [
        ([], "gs://bucket/out", "needs --project; see deploy/dataflow/README.md"),
        (CLOUD[:1], "gs://bucket/out", "needs --region"),
        (CLOUD[:2], "gs://bucket/out", "needs --temp_location"),
        (CLOUD, "gs://bucket/out", "needs --sdk_container_image"),
        (
            [*CLOUD, IMAGE],
            "out/sample",
            "OUTPUT out/sample is on this machine; --runner dataflow needs object storage",
        ),
        (
            [*CLOUD[:2], "--temp_location=/tmp/x", IMAGE],
            "gs://bucket/out",
            "--temp_location /tmp/x is on this machine",
        ),
        (
            [*CLOUD, IMAGE, "--template_location=gs://b/t.json"],
            "out/sample",
            "OUTPUT out/sample is on this machine",
        ),
    ],
)
def test_what_a_cloud_needs_is_asked_for_before_anything_starts(
    with_gcp, arguments, output, message
):
    with pytest.raises(RunnerError) as refused:
        make_backend("dataflow", arguments).check([("OUTPUT", output)])
    assert message in str(refused.value) and "\n" not in str(refused.value)


SOMEWHERE = {"OUTPUT": "gs://bucket/out", "INPUT": "gs://bucket/*.parquet"}


@pytest.mark.parametrize(
    ("typed", "refused"),
    [
        ({"INPUT": "{disk}/a.tsv"}, "INPUT {disk}/a.tsv"),
        ({"INPUT": "file://{disk}/a.tsv"}, "INPUT file://{disk}/a.tsv"),
        ({"INPUT": "gs://bucket/a.tsv,{disk}/b*.tsv"}, "INPUT {disk}/b*.tsv"),
        ({"INPUT": "simplecache::{disk}/a.tsv"}, "INPUT simplecache::{disk}/a.tsv"),
        ({"INPUT": "memory://a.tsv"}, "INPUT memory://a.tsv"),
        ({"OUTPUT": "{disk}/out"}, "OUTPUT {disk}/out"),
        ({"OUTPUT": "memory://out"}, "OUTPUT memory://out"),
        ({"--images-root": "{disk}"}, "--images-root {disk}"),
        ({"--staging_location": "{disk}/s"}, "--staging_location {disk}/s"),
        (
            {"--template_location": "gs://bucket/t.json", "INPUT": "{disk}/a.tsv"},
            "INPUT {disk}/a.tsv",
        ),
        (
            {"--dataflow_endpoint": "http://localhost:1", "INPUT": "{disk}/a.tsv"},
            "INPUT {disk}/a.tsv",
        ),
    ],
)
def test_what_workers_elsewhere_cannot_see_is_refused_before_anything_is_staged(
    with_gcp, typed, refused, tsv, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(
        "open_diht.pipelines.driver.cli.run", lambda *_: pytest.fail("the run began")
    )
    tsv(tmp_path / "a.tsv", [{"caption": "A brown dog runs", "url": "https://example.org/a.jpg"}])
    names = {"OUTPUT": "--output", "INPUT": "--input"}
    given = {
        names.get(name, name): text.format(disk=tmp_path)
        for name, text in (SOMEWHERE | typed).items()
    }
    assert (
        main(
            [
                "--runner=dataflow",
                *CLOUD,
                IMAGE,
                *(f"{name}={text}" for name, text in given.items()),
            ]
        )
        == 2
    )
    said, errors = capsys.readouterr()
    assert errors.count("\n") == 1 and errors.startswith(
        f"error: {refused.format(disk=tmp_path)} is on this machine; "
    )
    assert "needs object storage, gs://..." in errors and not said
    assert [path.name for path in tmp_path.iterdir()] == ["a.tsv"]


def test_enough_is_enough(with_gcp: None) -> None:
    places = [
        ("OUTPUT", "gs://bucket/a,b"),
        ("INPUT", "gs://bucket/*.tsv"),
        ("INPUT", "simplecache::s3://bucket/a.tsv"),
    ]
    make_backend("dataflow", [*CLOUD, IMAGE]).check(places)


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam.runners.dataflow.internal.apiclient", None)
    monkeypatch.delattr("apache_beam.runners.dataflow.internal.apiclient", raising=False)
    with pytest.raises(RunnerError, match=r"needs Beam's Google Cloud part .* install .*\[cloud\]"):
        make_backend("dataflow", [*CLOUD, IMAGE]).check([("OUTPUT", "gs://bucket/out")])


def test_options_of_a_stage() -> None:
    backend = make_backend(
        "dataflow", [*CLOUD, IMAGE, "--max_num_workers=50", "--worker_machine_type=n2-standard-16"]
    )
    assert backend.default_workers() == 50
    assert backend.takes_hints and SpottingStage.hints == {"min_ram": "4GB"}
    values = option_values(backend.job_flags("spotting"))  # type: ignore[attr-defined]
    assert values["staging_location"] == "gs://bucket/tmp/staging"
    assert is_of_run(str(values["job_name"]), "")
    assert values["save_main_session"] is False and values["number_of_worker_harness_threads"] == 1
    assert values["machine_type"] == "n2-standard-16", "what the user says wins"
    named = make_backend(
        "dataflow", [*CLOUD, IMAGE, "--job_name=mine", "--staging_location=gs://other"]
    )
    values = option_values(named.job_flags("captions"))  # type: ignore[attr-defined]
    assert (values["job_name"], values["staging_location"]) == ("mine", "gs://other")


def test_a_process_has_one_thread_and_the_memory_that_ocr_takes(with_gcp: None) -> None:
    def machine(*arguments: str) -> object:
        backend = make_backend("dataflow", [*CLOUD, IMAGE, *arguments])
        backend.check([("OUTPUT", "gs://bucket/out")])
        values = option_values(backend.job_flags("spotting"))  # type: ignore[attr-defined]
        assert values["number_of_worker_harness_threads"] == 1
        return values["machine_type"]

    assert machine() == "n2-standard-4", "4 GB for each vCPU, and so for each process"
    assert machine("--dataflow_service_options=enable_prime") is None, (
        "Prime goes by the stage's hint"
    )
    assert machine("--machine_type=c3-highcpu-22") == "c3-highcpu-22", "2 GB for each will do"
    assert machine("--machine_type=n2-custom-8-16384") == "n2-custom-8-16384"
    for tight in (
        *("n2-highcpu-16", "n1-highcpu-8", "e2-micro", "g1-small"),
        *("custom-8-4096", "n2-custom-8-8192", "n1-custom-2-2048-ext", "e2-custom-small-4096"),
    ):
        with pytest.raises(
            RunnerError, match=f"--worker_machine_type {tight} has 1 GB or less for each process"
        ):
            machine(f"--worker_machine_type={tight}")
    one = "--experiments=no_use_multiple_sdk_containers"
    assert machine("--worker_machine_type=n2-highcpu-16", one) == "n2-highcpu-16"


# ---- the real runner, and what it staged
@pytest.fixture(scope="session")
def gcp_python() -> Path:
    """A python with Beam's Google Cloud part beside all of this environment's libraries, made once
    for a checkout (330 MB, a minute): too big for the development environment. Skips where it
    cannot be had."""
    asked = os.environ.get("DIHT_GCP_PYTHON")
    if asked:
        return Path(asked)
    folder = TOOLS / f"gcp-python{sys.version_info.major}.{sys.version_info.minor}"
    python = python_without_us(folder)
    probe = [str(python), "-c", "from apache_beam.runners.dataflow.internal import apiclient"]
    if captured(probe, env=clean_environment()).returncode:
        pip = [str(python), "-m", "pip", "install", "--quiet", "apache-beam[gcp]==2.77.0"]
        done = captured(pip, env=clean_environment())
        if done.returncode:
            pytest.skip(
                f"apache-beam[gcp] cannot be installed: {done.stderr.strip().splitlines()[-1]}"
            )
    return python


@pytest.fixture
def stage(gcp_python, arguments, filter_command, tmp_path) -> Callable[[Path, Path], Any]:
    """Lets DataflowRunner stage the next stage of a run, from a copy of the project, into a
    folder."""

    def run(setup: Path, staged: Path) -> Any:
        how = [
            f"--output={tmp_path}/out",
            "--runner=dataflow",
            "--project=p",
            "--region=europe-west4",
            "--no_auth",
        ]
        how += [
            "--dataflow_endpoint=http://localhost:1",
            f"--temp_location={staged}/temp",
            f"--setup_file={setup}",
        ]
        how += [
            f"--staging_location={staged}/staging",
            f"--template_location={staged}/template.json",
        ]
        return filter_command(*arguments, *how, python=gcp_python)

    return run


@pytest.mark.parametrize("stage", [ScoreStage, FeatureStage, EmbeddingStage])
def test_stages_that_compute_on_a_gpu_have_hints_for_one(stage: Any) -> None:
    assert stage.hints.fget(SimpleNamespace(device="cuda")) == GPU_HINTS
    assert stage.hints.fget(SimpleNamespace(device="cpu")) == {}


STAGED = """
import sys
from functools import partial
import apache_beam as beam
from open_diht.pipelines.engine.jobs import assemble
from open_diht.pipelines.engine.stage import hints_of
from open_diht.pipelines.runners import Staged, make_backend
from open_diht.pipelines.runners.job import Job
build = partial(assemble, label="score", names="names", do=beam.DoFn(), hints=hints_of("cuda"))
try:
    make_backend("dataflow", sys.argv[1:]).run(Job(label="score", build=build, workers=1))
except Staged as staged:
    print(staged)
"""


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("more", "gpu", "bundles"),
    [
        ([], "type:nvidia-tesla-t4;count:1;install-nvidia-driver", "1"),
        (["--resource_hints=accelerator=type:nvidia-l4;count:1"], "type:nvidia-l4;count:1", "1"),
    ],
    ids=["ours", "the user's"],
)
def test_a_staged_job_has_the_hints_and_the_time_limit(gcp_python, tmp_path, more, gpu, bundles):
    words = [
        "--project=p",
        "--region=europe-west4",
        "--no_auth",
        IMAGE,
        "--element_processing_timeout_minutes=240",
    ]
    words += ["--dataflow_endpoint=http://localhost:1", f"--temp_location={tmp_path}/temp"]
    words += [f"--template_location={tmp_path}/template.json", *more]
    done = captured(
        [gcp_python, "-c", STAGED, *words], cwd=REPOSITORY, env=clean_environment(), timeout=300
    )
    assert "nothing was started" in done.stdout, done.stderr
    content = (tmp_path / "temp" / "staging" / "pipeline.pb").read_bytes()
    environments = beam_runner_api_pb2.Pipeline.FromString(content).components.environments
    (stage,) = (
        environment.resource_hints
        for environment in environments.values()
        if "beam:resources:max_active_bundles_per_worker:v1" in environment.resource_hints
    )
    assert stage["beam:resources:accelerator:v1"].decode() == gpu
    assert stage["beam:resources:max_active_bundles_per_worker:v1"].decode() == bundles
    template = json.loads((tmp_path / "template.json").read_text(encoding="utf-8"))
    options = template["environment"]["sdkPipelineOptions"]["options"]
    assert (
        options["element_processing_timeout_minutes"],
        options["number_of_worker_harness_threads"],
    ) == (240, 1)


class Service(http.server.ThreadingHTTPServer):
    """The few calls of Dataflow's REST that a job needs."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.jobs: dict[str, dict[str, Any]] = {}
        self.fails = False
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def add(self, name: str) -> dict[str, Any]:
        number = f"2026-{len(self.jobs)}"
        self.jobs[number] = {
            "id": number,
            "name": name,
            "currentState": "JOB_STATE_RUNNING",
            "looks": 0,
        }
        return self.jobs[number]

    def states(self) -> list[str]:
        return [job["currentState"].removeprefix("JOB_STATE_") for job in self.jobs.values()]


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Service

    def _answer(self, found: Any) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def do_POST(self) -> None:
        self._answer(self.server.add(self._body()["name"]))

    def do_PUT(self) -> None:
        assert self._body()["requestedState"] in (5, "JOB_STATE_CANCELLED")
        job = self.server.jobs[self.path.partition("?")[0].rpartition("/")[2]]
        job["currentState"] = "JOB_STATE_CANCELLING"
        self._answer(job)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.endswith("/messages"):
            return self._answer({})
        if not path.endswith("/jobs"):
            job = self.server.jobs[path.rpartition("/")[2]]
            if self.server.fails:
                job["currentState"] = "JOB_STATE_FAILED"
            return self._answer(job)
        for job in self.server.jobs.values():
            job["looks"] += job["currentState"] == "JOB_STATE_CANCELLING"
            if job["looks"] > 1:  # a job takes a while to end
                job["currentState"] = "JOB_STATE_CANCELLED"
        active = ("JOB_STATE_RUNNING", "JOB_STATE_CANCELLING")
        self._answer(
            {"jobs": [job for job in self.server.jobs.values() if job["currentState"] in active]}
        )

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    server = Service()
    yield server
    server.shutdown()
    server.server_close()


DRIVER = """
import sys
import apache_beam as beam
from open_diht.pipelines.runners import dataflow, make_backend
from open_diht.pipelines.runners.job import Job
dataflow.POLL_SECONDS = 0.2
backend = make_backend("dataflow", sys.argv[1:])
job = Job(label="captions", build=lambda pipeline: pipeline | beam.Create([1]), workers=1, place="gs://b/out/work")
backend.await_units(job.place, lambda line: print(line, flush=True))
backend.run(job)
"""
PLACE = "gs://b/out/work"


@pytest.fixture
def driver(gcp_python: Path, service: Service, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that runs a job with Beam's DataflowRunner and its client, and the service on this
    machine."""
    (tmp_path / "temp" / "staging").mkdir(parents=True)
    words = [
        str(gcp_python),
        "-c",
        DRIVER,
        "--project=p",
        "--region=europe-west4",
        "--no_auth",
        IMAGE,
    ]
    words += [
        f"--dataflow_endpoint=http://localhost:{service.server_port}",
        f"--temp_location={tmp_path}/temp",
    ]
    piped: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, cwd=REPOSITORY, env=clean_environment(), **piped)
    with killed_at_the_end(process):
        yield process


def is_submitted(driver: subprocess.Popen[str], service: Service, jobs: int) -> None:
    deadline = time.monotonic() + 200
    while len(service.jobs) < jobs:
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_stopped_driver_cancels_its_job_and_no_other(service, driver):
    other = service.add(job_name("captions", "gs://b/other/work"))
    is_submitted(driver, service, 2)
    job = service.jobs["2026-1"]
    assert is_of_run(job["name"], PLACE)
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=200)
    assert driver.returncode != 0 and service.states() == ["RUNNING", "CANCELLED"], said
    assert f"cancelling job {job['name']}" in said and other["looks"] == 0


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_run_first_cancels_the_job_of_a_killed_driver(service, driver):
    left = service.add(job_name("spotting", PLACE))
    is_submitted(driver, service, 2)
    assert service.states() == [
        "CANCELLED",
        "RUNNING",
    ], "the new job begins when the other has ended"
    driver.send_signal(signal.SIGINT)
    said, _ = driver.communicate(timeout=200)
    assert said.startswith(f"cancelling job {left['name']} (2026-0)")


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_job_that_fails_is_a_failed_job(service, driver):
    service.fails = True
    _, said = driver.communicate(timeout=200)
    assert (
        driver.returncode == 1
        and "captions: the Dataflow job failed: " in said
        and "State: FAILED" in said
    )
    assert service.states() == ["FAILED"]


def replay(python: Path, staged: Path) -> subprocess.CompletedProcess[str]:
    return captured(
        [python, "-P", REPLAY, staged / "staging"], cwd="/", env=clean_environment(), timeout=300
    )


@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_every_stage_is_staged_by_the_real_runner_and_runs_from_what_was_staged(
    stage, bare_python, project_copy, local, tables_of, tmp_path
):
    setup = project_copy()
    names = []
    for number in range(14):
        staged = tmp_path / f"job{number}"
        done = stage(setup, staged)
        assert done.returncode == 0, done.stderr
        if "results in" in done.stdout:
            break
        told = re.search(
            rf"stage (\w+) is staged as template {staged}/template.json; nothing was started",
            done.stdout,
        )
        assert told, done.stdout
        name = told[1]
        names.append(name)
        template = json.loads((staged / "template.json").read_text())
        text = json.dumps(template)
        assert (
            "use_runner_v2" in text
            and f"diht-{name.replace('_', '-')}-" in text
            and "pipeline.pb" in text
        )
        assert (staged / "staging" / "pipeline.pb").stat().st_size < 1_000_000

        ran = replay(bare_python, staged)
        assert ran.returncode == 0, ran.stderr[-4000:]
        said = json.loads(ran.stdout.splitlines()[-1])
        assert said["state"] == "DONE" and said["staged code only"] and said["where"], said
        assert all(
            one["image"].endswith("beam_python3.11_sdk:2.77.0") for one in said["environments"]
        ) or sys.version_info[:2] != (3, 11)
        hints = [one["hints"] for one in said["environments"] if one["hints"]]
        assert hints == (
            [{"beam:resources:min_ram_bytes:v1": "4000000000"}] if name == "spotting" else []
        )
    keys = [
        f"{kind}_{step}" for kind in ("pair", "uid", "image") for step in ("keys", "duplicates")
    ]
    assert names == [
        "captions",
        "spotting",
        "fingerprints",
        "evaluation",
        *keys,
        "decide",
        "export",
    ]
    assert tables_of(tmp_path / "out") == local


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_negative_control_a_package_left_out_is_staged_without_complaint_and_fails_when_run(
    stage, bare_python, project_copy, tmp_path
):
    done = stage(project_copy("open_diht.filters.captions"), tmp_path / "job")
    assert done.returncode == 0, done.stderr
    ran = replay(bare_python, tmp_path / "job")
    assert ran.returncode != 0
    assert "ModuleNotFoundError: No module named 'open_diht.filters.captions" in ran.stderr
