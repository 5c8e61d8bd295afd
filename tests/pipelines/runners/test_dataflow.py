"""RUNNER=dataflow without a cloud: Beam's DataflowRunner stages each job against an endpoint where nobody listens, and
what it staged runs in a python that holds Beam and the libraries only. Not shown: rights and quotas, autoscaling, the
container image, gs:// from workers, Dataflow's own fusion, shuffle and retries."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from open_diht.pipelines.driver.cli import main
from open_diht.pipelines.runners import RunnerError, make_backend
from open_diht.pipelines.runners.beam_options import option_values
from open_diht.pipelines.runners.job import Job, JobFailed
from open_diht.pipelines.stages.spotting import SpottingStage
from tests.conftest import TOOLS
from tests.pipelines.processes import captured

from .conftest import clean_environment, python_without_us

REPLAY = Path(__file__).with_name("replay.py")
CLOUD = ["--project=p", "--region=europe-west4", "--temp_location=gs://bucket/tmp"]
IMAGE = "--sdk_container_image=europe-docker.example/p/r/filters:1"


@pytest.fixture
def with_gcp(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if Beam's Google Cloud part were installed: only its presence is asked for by what is tested with this."""
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
        ([*CLOUD, IMAGE], "out/sample", "OUTPUT out/sample is on this machine; --runner dataflow needs object storage"),
        ([*CLOUD[:2], "--temp_location=/tmp/x", IMAGE], "gs://bucket/out", "--temp_location /tmp/x is on this machine"),
        ([*CLOUD, IMAGE, "--template_location=gs://b/t.json"], "out/sample", "OUTPUT out/sample is on this machine"),
    ],
)
def test_what_a_cloud_needs_is_asked_for_before_anything_starts(with_gcp, arguments, output, message):
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
        ({"--template_location": "gs://bucket/t.json", "INPUT": "{disk}/a.tsv"}, "INPUT {disk}/a.tsv"),
        ({"--dataflow_endpoint": "http://localhost:1", "INPUT": "{disk}/a.tsv"}, "INPUT {disk}/a.tsv"),
    ],
)
def test_what_workers_elsewhere_cannot_see_is_refused_before_anything_is_staged(
    with_gcp, typed, refused, tsv, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("open_diht.pipelines.driver.cli.run", lambda *_: pytest.fail("the run began"))
    tsv(tmp_path / "a.tsv", [{"caption": "A brown dog runs", "url": "https://example.org/a.jpg"}])
    names = {"OUTPUT": "--output", "INPUT": "--input"}
    given = {names.get(name, name): text.format(disk=tmp_path) for name, text in (SOMEWHERE | typed).items()}
    assert main(["--runner=dataflow", *CLOUD, IMAGE, *(f"{name}={text}" for name, text in given.items())]) == 2
    said, errors = capsys.readouterr()
    assert errors.count("\n") == 1 and errors.startswith(f"error: {refused.format(disk=tmp_path)} is on this machine; ")
    assert "needs object storage, gs://..." in errors and not said
    assert [path.name for path in tmp_path.iterdir()] == ["a.tsv"]


def test_enough_is_enough(with_gcp: None) -> None:
    places = [
        ("OUTPUT", "gs://bucket/a,b"),
        ("INPUT", "gs://bucket/*.tsv"),
        ("INPUT", "simplecache::s3://bucket/a.tsv"),
    ]
    make_backend("dataflow", [*CLOUD, IMAGE]).check(places)


def test_a_job_that_fails_or_is_cancelled_is_a_failed_job(with_gcp: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from apache_beam.runners.dataflow import dataflow_runner

    cancelled = []

    class Result:
        def wait_until_finish(self) -> None:
            raise dataflow_runner.DataflowRuntimeException("Dataflow pipeline failed. State: FAILED", self)

        def cancel(self) -> None:
            cancelled.append(True)

    monkeypatch.setattr("open_diht.pipelines.runners.dataflow.beam.Pipeline", lambda **_: Result())
    monkeypatch.setattr(Result, "run", lambda self: self, raising=False)
    job = Job(label="captions", build=lambda pipeline: None, workers=1)
    with pytest.raises(JobFailed, match=r"^captions: the Dataflow job failed: .*State: FAILED"):
        make_backend("dataflow", [*CLOUD, IMAGE]).run(job)
    assert cancelled == [True]


def test_without_the_extra_one_line_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam.runners.dataflow.internal.apiclient", None)
    monkeypatch.delattr("apache_beam.runners.dataflow.internal.apiclient", raising=False)
    with pytest.raises(RunnerError, match=r"needs Beam's Google Cloud part .* install .*\[cloud\]"):
        make_backend("dataflow", [*CLOUD, IMAGE]).check([("OUTPUT", "gs://bucket/out")])


def test_options_of_a_stage() -> None:
    backend = make_backend("dataflow", [*CLOUD, IMAGE, "--max_num_workers=50", "--worker_machine_type=n2-standard-16"])
    assert backend.default_workers() == 50
    assert backend.takes_hints and SpottingStage.hints == {"min_ram": "4GB"}
    values = option_values(backend.job_flags("spotting"))  # type: ignore[attr-defined]
    assert values["staging_location"] == "gs://bucket/tmp/staging"
    assert str(values["job_name"]).startswith("diht-spotting-2")
    assert values["save_main_session"] is False and values["number_of_worker_harness_threads"] == 1
    assert values["machine_type"] == "n2-standard-16", "what the user says wins"
    named = make_backend("dataflow", [*CLOUD, IMAGE, "--job_name=mine", "--staging_location=gs://other"])
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
    assert machine("--dataflow_service_options=enable_prime") is None, "Prime goes by the stage's hint"
    assert machine("--machine_type=c3-highcpu-22") == "c3-highcpu-22", "2 GB for each will do"
    assert machine("--machine_type=n2-custom-8-16384") == "n2-custom-8-16384"
    for tight in (
        *("n2-highcpu-16", "n1-highcpu-8", "e2-micro", "g1-small"),
        *("custom-8-4096", "n2-custom-8-8192", "n1-custom-2-2048-ext", "e2-custom-small-4096"),
    ):
        with pytest.raises(RunnerError, match=f"--worker_machine_type {tight} has 1 GB or less for each process"):
            machine(f"--worker_machine_type={tight}")
    one = "--experiments=no_use_multiple_sdk_containers"
    assert machine("--worker_machine_type=n2-highcpu-16", one) == "n2-highcpu-16"


# ---- the real runner, and what it staged
@pytest.fixture(scope="session")
def gcp_python() -> Path:
    """A python with Beam's Google Cloud part beside all of this environment's libraries, made once for a checkout
    (330 MB, a minute): too big for the development environment. Skips where it cannot be had."""
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
            pytest.skip(f"apache-beam[gcp] cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    return python


@pytest.fixture
def stage(gcp_python, arguments, filter_command, tmp_path) -> Callable[[Path, Path], Any]:
    """Lets DataflowRunner stage the next stage of a run, from a copy of the project, into a folder."""

    def run(setup: Path, staged: Path) -> Any:
        how = [f"--output={tmp_path}/out", "--runner=dataflow", "--project=p", "--region=europe-west4", "--no_auth"]
        how += ["--dataflow_endpoint=http://localhost:1", f"--temp_location={staged}/temp", f"--setup_file={setup}"]
        how += [f"--staging_location={staged}/staging", f"--template_location={staged}/template.json"]
        return filter_command(*arguments, *how, python=gcp_python)

    return run


def replay(python: Path, staged: Path) -> subprocess.CompletedProcess[str]:
    return captured([python, "-P", REPLAY, staged / "staging"], cwd="/", env=clean_environment(), timeout=300)


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
        told = re.search(rf"stage (\w+) is staged as template {staged}/template.json; nothing was started", done.stdout)
        assert told, done.stdout
        name = told[1]
        names.append(name)
        template = json.loads((staged / "template.json").read_text())
        text = json.dumps(template)
        assert "use_runner_v2" in text and f"diht-{name.replace('_', '-')}-" in text and "pipeline.pb" in text
        assert (staged / "staging" / "pipeline.pb").stat().st_size < 1_000_000

        ran = replay(bare_python, staged)
        assert ran.returncode == 0, ran.stderr[-4000:]
        said = json.loads(ran.stdout.splitlines()[-1])
        assert said["state"] == "DONE" and said["staged code only"] and said["where"], said
        assert all(
            one["image"].endswith("beam_python3.11_sdk:2.77.0") for one in said["environments"]
        ) or sys.version_info[:2] != (3, 11)
        hints = [one["hints"] for one in said["environments"] if one["hints"]]
        assert hints == ([{"beam:resources:min_ram_bytes:v1": "4000000000"}] if name == "spotting" else [])
    keys = [f"{kind}_{step}" for kind in ("pair", "uid", "image") for step in ("keys", "duplicates")]
    assert names == ["captions", "spotting", "fingerprints", "evaluation", *keys, "decide", "export"]
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
