"""The boot program, with real gRPC servers for the services of a runner: no failure of it is
silent."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from apache_beam.portability import common_urns
from apache_beam.portability.api import (
    beam_artifact_api_pb2,
    beam_artifact_api_pb2_grpc,
    beam_fn_api_pb2,
    beam_fn_api_pb2_grpc,
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    beam_runner_api_pb2,
)
from google.protobuf import struct_pb2

from open_diht.pipelines.runners import boot, portable
from tests.pipelines.processes import REPOSITORY, captured


class Runner(
    beam_provision_api_pb2_grpc.ProvisionServiceServicer,
    beam_artifact_api_pb2_grpc.ArtifactRetrievalServiceServicer,
    beam_fn_api_pb2_grpc.BeamFnControlServicer,
    beam_fn_api_pb2_grpc.BeamFnLoggingServicer,
):
    def __init__(self) -> None:
        self.info = beam_provision_api_pb2.ProvisionInfo()
        self.files: dict[bytes, bytes] = {}
        self.asked: list[dict[str, str]] = []
        self.answers: list[tuple[str, str]] = []
        self.logged: list[str] = []
        self.chunk = 1000

    def stage(self, name: str, content: bytes, sha256: str | None = None) -> None:
        digest = hashlib.sha256(content).hexdigest() if sha256 is None else sha256
        payload = beam_runner_api_pb2.ArtifactFilePayload(
            path=f"/staged/{name}", sha256=digest
        ).SerializeToString()
        role = beam_runner_api_pb2.ArtifactStagingToRolePayload(
            staged_name=name
        ).SerializeToString()
        self.files[role] = content
        self.info.dependencies.add(
            type_urn=common_urns.artifact_types.FILE.urn,
            type_payload=payload,
            role_urn=common_urns.artifact_roles.STAGING_TO.urn,
            role_payload=role,
        )

    def GetProvisionInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.asked.append(dict(context.invocation_metadata()))
        return beam_provision_api_pb2.GetProvisionInfoResponse(info=self.info)

    def ResolveArtifacts(self, request: Any, context: grpc.ServicerContext) -> Any:
        return beam_artifact_api_pb2.ResolveArtifactsResponse(replacements=request.artifacts)

    def GetArtifact(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        content = self.files[request.artifact.role_payload]
        for start in range(0, len(content), self.chunk):
            yield beam_artifact_api_pb2.GetArtifactResponse(
                data=content[start : start + self.chunk]
            )

    def Control(self, responses: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self.asked.append(dict(context.invocation_metadata()))
        for number in ("first", "second"):
            yield beam_fn_api_pb2.InstructionRequest(instruction_id=number)
            answer = next(responses)
            self.answers.append((answer.instruction_id, answer.error))

    def Logging(self, lists: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self.logged += [entry.message for one in lists for entry in one.log_entries]
        yield from ()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a worker keeps installed wheels."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder / "diht" / "workers"


@pytest.fixture
def runner() -> Iterator[Runner]:
    service = Runner()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    beam_provision_api_pb2_grpc.add_ProvisionServiceServicer_to_server(service, server)
    beam_artifact_api_pb2_grpc.add_ArtifactRetrievalServiceServicer_to_server(service, server)
    beam_fn_api_pb2_grpc.add_BeamFnControlServicer_to_server(service, server)
    beam_fn_api_pb2_grpc.add_BeamFnLoggingServicer_to_server(service, server)
    address = f"localhost:{server.add_insecure_port('localhost:0')}"
    server.start()
    service.info.artifact_endpoint.url = service.info.control_endpoint.url = (
        service.info.logging_endpoint.url
    ) = address
    yield service
    server.stop(None)


@pytest.fixture
def start(runner: Runner, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Starts the boot program as a runner does; its worker is the code that a test gives, not
    Beam's."""
    folder = tmp_path / "boot"
    folder.mkdir()

    def run(worker: str, **variables: str) -> subprocess.CompletedProcess[str]:
        stand_in = tmp_path / "stand_in" / "apache_beam" / "runners" / "worker"
        stand_in.mkdir(parents=True, exist_ok=True)
        (tmp_path / "worker.py").write_text(worker, encoding="utf-8")
        # The worker is `python -m apache_beam.runners.worker.sdk_worker_main`: a python that takes
        # -m and runs ours.
        python = tmp_path / "python"
        python.write_text(
            f'#!/bin/sh\ncase "$*" in *sdk_worker_main*) exec {sys.executable}'
            f' {tmp_path}/worker.py;; *) exec {sys.executable} "$@";; esac\n',
            encoding="utf-8",
        )
        python.chmod(0o755)
        code = (
            f"import sys; sys.executable = {str(python)!r}\n"
            "from open_diht.pipelines.runners import boot\nsys.exit(boot.main())"
        )
        endpoint = runner.info.control_endpoint.url
        words = ["--id='w-1'", f"--provision_endpoint={endpoint}", "--semi_persist_dir=/x"]
        environment = {**os.environ, boot.FOLDER_VARIABLE: str(folder), **variables}
        return captured(
            [sys.executable, "-c", code, *words], env=environment, cwd=REPOSITORY, timeout=400
        )

    return run


DUMP = (
    "import json, os, sys; json.dump(dict(os.environ, cwd=os.getcwd()), open(os.environ['DUMP'],"
    " 'w'))"
)


@pytest.mark.slow
def test_a_worker_gets_its_id_options_addresses_and_capabilities(runner, start, tmp_path):
    runner.info.pipeline_options.CopyFrom(struct_pb2.Struct())
    runner.info.pipeline_options.update({"beam:option:s3_region_name:v1": "eu-west-1"})
    runner.info.runner_capabilities.append("beam:protocol:x:v1")
    done = start(DUMP, DUMP=str(tmp_path / "seen.json"), **{boot.CWD_VARIABLE: str(tmp_path)})
    assert done.returncode == 0, done.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    address = f'url: "{runner.info.control_endpoint.url}"'
    assert seen["WORKER_ID"] == "w-1", "the quotes that Prism puts around an id are none of it"
    assert runner.asked[0]["worker_id"] == "w-1"
    assert (
        seen["CONTROL_API_SERVICE_DESCRIPTOR"] == seen["LOGGING_API_SERVICE_DESCRIPTOR"] == address
    )
    assert json.loads(seen["PIPELINE_OPTIONS"]) == {"beam:option:s3_region_name:v1": "eu-west-1"}
    assert seen["RUNNER_CAPABILITIES"] == "beam:protocol:x:v1"
    assert seen["PYTHONSAFEPATH"] == "1", "the folder it starts in is not imported from"
    assert seen["cwd"] == str(tmp_path), "relative paths start where the driver's do"
    assert list((tmp_path / "boot").iterdir()) == [], "nothing is left behind"


def sdist(folder: Path) -> bytes:
    source = folder / "source"
    source.mkdir()
    (source / "probe_of_boot.py").write_text("STAGED = 'yes'\n", encoding="utf-8")
    (source / "setup.py").write_text(
        "from setuptools import setup; setup(name='probe-of-boot', version='1',"
        " py_modules=['probe_of_boot'])",
        encoding="utf-8",
    )
    subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist"], cwd=source, check=True, capture_output=True
    )
    return next((source / "dist").iterdir()).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["workflow.tar.gz", "probe-of-boot-1.tar.gz"])
def test_a_staged_source_package_is_installed_for_this_worker_alone(runner, start, tmp_path, name):
    runner.stage("extra_packages.txt", f"{name}\n".encode())
    runner.stage(name, sdist(tmp_path))
    worker = "import os, probe_of_boot; open(os.environ['DUMP'], 'w').write(probe_of_boot.__file__)"
    done = start(worker, DUMP=str(tmp_path / "where"))
    assert done.returncode == 0, done.stderr
    where = Path((tmp_path / "where").read_text())
    assert where.is_relative_to(tmp_path / "boot") and not where.exists(), (
        "its folder went with the worker"
    )


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda runner: runner.stage("a.whl", b"x", sha256="0" * 64), "expected " + "0" * 64),
        (
            lambda runner: runner.stage("requirements.txt", b"torch\n"),
            "put its packages into the worker's Python",
        ),
        (
            lambda runner: runner.stage("workflow.tar.gz", b"no archive"),
            "cannot install workflow.tar.gz",
        ),
        (lambda runner: runner.stage("..", b""), "has no name"),
    ],
    ids=["checksum", "requirements", "broken", "nameless"],
)
def test_what_keeps_a_worker_from_starting_is_said_and_reported(
    runner, tmp_path, monkeypatch, capsys, prepare, message
):
    prepare(runner)
    monkeypatch.setenv(boot.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(boot, "_supervise", lambda environment: pytest.fail("a worker was started"))
    assert boot.main(["--id=w-1", f"--provision_endpoint={runner.info.control_endpoint.url}"]) == 1
    assert message in capsys.readouterr().err
    (report,) = tmp_path.iterdir()
    assert report.name.startswith("failed-") and message in report.read_text()
    told = report.read_text()
    assert runner.answers == [
        ("first", told),
        ("second", told),
    ], "so it becomes the error of the job"
    assert runner.asked[-1]["worker_id"] == "w-1" and runner.logged == [told]


def test_a_staged_name_is_no_way_out_of_the_folder(runner: Runner, tmp_path: Path) -> None:
    runner.stage("../../escape.txt", b"x")
    address = runner.info.artifact_endpoint.url
    assert boot.fetch(runner.info.dependencies, address, tmp_path, []) == [tmp_path / "escape.txt"]
    assert (tmp_path / "escape.txt").read_bytes() == b"x"


def test_a_file_larger_than_a_message_of_grpc_by_default_may_come_in_one(
    runner: Runner, tmp_path: Path
) -> None:
    content = bytes(5 << 20)
    runner.chunk = len(content)
    runner.stage("model.onnx", content)
    (path,) = boot.fetch(runner.info.dependencies, runner.info.artifact_endpoint.url, tmp_path, [])
    assert path.read_bytes() == content


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "how"), [("os._exit(3)", "status 3"), ("os.kill(os.getpid(), 9)", "signal 9")]
)
def test_a_worker_that_dies_is_reported_as_dead_not_as_never_started(start, tmp_path, end, how):
    """It dies at once: gRPC sometimes aborts where Python ends by itself."""
    done = start(f"import os; {end}")
    assert done.returncode != 0 and f"the worker process ended with {how}" in done.stderr
    (report,) = (tmp_path / "boot").iterdir()
    assert report.name.startswith("died-")


@pytest.mark.slow
def test_output_that_flink_throws_away_is_kept_where_the_worker_fails_and_its_end_is_reported(
    runner, tmp_path
):
    """The boot program is started as Flink's task manager does it: with /dev/null for all
    output."""
    (tmp_path / "apache_beam.py").write_text(
        "raise ImportError('no such thing as Beam')", encoding="utf-8"
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    words = [
        sys.executable,
        "-P",
        boot.__file__,
        "--id=w",
        f"--provision_endpoint={runner.info.control_endpoint.url}",
    ]

    def start(**variables: str) -> int:
        environment = {**os.environ, "TMPDIR": str(temporary), **variables}
        return subprocess.run(
            words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).returncode

    assert start(PYTHONPATH=str(tmp_path)) != 0
    (log,) = temporary.glob("diht-boot-*.log")
    assert "no such thing as Beam" in log.read_text()
    log.unlink()

    # Beam's own worker ends with an error: its control service hangs up.
    assert start() != 0
    (log,) = temporary.glob("diht-boot-*")
    told = runner.logged[-1]
    assert f"the worker process ended with status 1; its output is in {log} on " in told
    assert "Traceback" in told and told.splitlines()[-1] in log.read_text()


def wheel(folder: Path, text: str = "STAGED = 'yes'\n") -> Path:
    """A wheel of one module, made as the driver makes that of this project."""
    folder.mkdir(exist_ok=True)
    (folder / "module.py").write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portable, "code_files", lambda: {"probe_of_boot.py": folder / "module.py"})
        return portable.build_wheel(folder)


def test_an_installed_wheel_serves_later_workers_and_another_content_does_not(
    tmp_path, cache, monkeypatch
):
    one = boot.installed([wheel(tmp_path / "a")], tmp_path / "private")
    assert (
        one.parent == cache
        and (one / "open_diht" / "probe_of_boot.py").read_text() == "STAGED = 'yes'\n"
    )
    assert cache.stat().st_mode & 0o777 == 0o700
    other = boot.installed([wheel(tmp_path / "b", text="STAGED = 'other'\n")], tmp_path / "private")
    assert (
        other != one
        and (other / "open_diht" / "probe_of_boot.py").read_text() == "STAGED = 'other'\n"
    )
    assert {path.name for path in cache.iterdir()} == {one.name, other.name}, "nothing else is left"
    monkeypatch.setattr(boot, "install", lambda *_: pytest.fail("it is installed again"))
    assert boot.installed([wheel(tmp_path / "c")], tmp_path / "private") == one


def test_an_installation_that_a_crash_has_damaged_is_made_again(tmp_path, cache):
    package = wheel(tmp_path / "a")
    site = boot.installed([package], tmp_path / "private")
    for damage in (lambda path: path.write_text(""), lambda path: path.unlink()):
        damage(site / "open_diht" / "probe_of_boot.py")
        assert boot.installed([package], tmp_path / "private") == site
        assert (site / "open_diht" / "probe_of_boot.py").read_text() == "STAGED = 'yes'\n"


def test_of_two_workers_that_install_at_the_same_time_one_gets_the_others(
    tmp_path, cache, monkeypatch
):
    package = wheel(tmp_path / "a")
    install = boot.install

    def late(packages: list[Path], site: Path) -> None:
        install(packages, site)
        monkeypatch.setattr(boot, "install", install)
        boot.installed(packages, tmp_path / "private")  # the other one

    monkeypatch.setattr(boot, "install", late)
    site = boot.installed([package], tmp_path / "private")
    assert [path.name for path in cache.iterdir()] == [site.name]
    assert (site / "open_diht" / "probe_of_boot.py").read_text() == "STAGED = 'yes'\n"


def test_an_installation_without_use_is_removed_and_one_that_others_may_write_is_not_trusted(
    tmp_path, cache
):
    old = boot.installed([wheel(tmp_path / "a")], tmp_path / "private")
    os.utime(old, (0, 0))
    new = boot.installed([wheel(tmp_path / "b", text="")], tmp_path / "private")
    assert list(cache.iterdir()) == [new]
    cache.chmod(0o777)
    assert (
        boot.installed([wheel(tmp_path / "a")], tmp_path / "private")
        == tmp_path / "private" / "site"
    )


def test_services_that_do_not_answer_are_an_error_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot, "RPC_SECONDS", 0.3)
    monkeypatch.setenv(boot.FOLDER_VARIABLE, str(tmp_path))
    assert boot.main(["--id=w", "--provision_endpoint=localhost:1"]) == 1
    (report,) = tmp_path.iterdir()
    assert "the runner's services do not answer" in report.read_text()


def test_a_python_without_beam_is_reported(tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-I",
        "-S",
        boot.__file__,
        "--id=w",
        "--provision_endpoint=localhost:1",
    ]
    done = captured(words, env={boot.FOLDER_VARIABLE: str(tmp_path)})
    assert done.returncode != 0 and "has no Apache Beam" in done.stderr
    (report,) = tmp_path.iterdir()
    assert report.name.startswith("failed-")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux is what ends the worker")
def test_a_worker_does_not_outlive_a_boot_program_that_is_killed(tmp_path: Path) -> None:
    """Runners end a worker with SIGKILL, which the boot program cannot pass on."""
    code = (
        "import sys; from open_diht.pipelines.runners import boot\n"
        "import subprocess, os\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " preexec_fn=lambda me=os.getpid(): boot.die_with(me))\n"
        "print(p.pid, flush=True); p.wait()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        try:
            if b"Z" in Path(f"/proc/{worker}/stat").read_bytes().rsplit(b")", 1)[1][:3]:
                return
        except FileNotFoundError:
            return
        time.sleep(0.05)
    pytest.fail("the worker is still there")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_report_reaches_the_driver_where_the_log_is_full(tmp_path: Path) -> None:
    code = "from open_diht.pipelines.runners import boot; boot.report('1', 'signal 9', 'died')"
    environment = {**os.environ, boot.FOLDER_VARIABLE: str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    with open("/dev/full", "w", encoding="ascii") as full:
        subprocess.run([sys.executable, "-c", code], env=environment, stderr=full, check=False)
    (report,) = tmp_path.glob("died-*.txt")
    assert report.read_text() == "signal 9"
