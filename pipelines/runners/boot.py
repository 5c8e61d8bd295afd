#!/usr/bin/env python3
"""Start one Beam worker process on a machine without containers, like the boot binary of the SDK
container.

With `environment_type=PROCESS`, a runner starts this program for each worker, with an id and the
address of its provision service. The program gets pipeline options, service addresses and the list
of staged files from there, fetches the files, installs the packages among them, and starts Beam's
worker with them first on its path. It remains the parent of the worker. A runner waits silently for
a worker that never starts, and Flink sends the output of workers to /dev/null; so this program
reports every failure:

- Output that would be lost goes to a file `diht-boot-*.log` in the temporary folder of this host,
  which is kept if the worker fails.
- In place of a worker that cannot start, this program tells the runner why, as the error of the
  worker's first request.
- The reason is sent to the runner's log of workers, on Flink the log of the task manager.
- If the driver's folder (`DIHT_BOOT_FOLDER`) is on this machine, the reason is also written to a
  file there.

Beam has no such program outside its images: its worker pool (EXTERNAL) installs nothing and passes
no options. This file imports Beam and grpc but nothing of this project, which it may have to
install. It needs Python 3.11 or newer.
"""

import argparse
import contextlib
import csv
import ctypes
import hashlib
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

FOLDER_VARIABLE = "DIHT_BOOT_FOLDER"
"""Variable with the driver's folder, for workers' files and reports. If it is unset or the folder
is not on this machine, files go to a temporary folder, and reports are only printed."""
CWD_VARIABLE = "DIHT_WORKER_CWD"
"""Variable with the folder that relative paths of the job start from; ignored if it is not on this
machine."""
RPC_SECONDS = 60.0  # the runner may start its services later than its workers
ANY_SIZE = [("grpc.max_receive_message_length", -1)]
"""Prism sends a staged file as one message, and our wheel is larger than the 4 MiB that gRPC
accepts by default."""
ANSWER_SECONDS = 60.0
"""How long the runner may take to send a request to a worker that could not start, which is
answered with the error."""
# Not measured: the runner is on this network, and the message is short.
LOG_SECONDS = 10.0
KEPT_DAYS = 30
"""Days after whose last use an installed package is removed; a worker does not run that long."""
# Some twenty lines, which a runner's message can hold.
_LAST_BYTES = 2_000
_PR_SET_PDEATHSIG = 1
_log: Path | None = None
"""File that has the output of this program and its worker, if it would be lost otherwise."""


def keep_output() -> None:
    """If standard error goes to /dev/null, send it and standard output to a new file in the
    temporary folder."""
    global _log
    null = os.stat(os.devnull)
    errors = os.fstat(2)
    if (errors.st_dev, errors.st_ino) == (null.st_dev, null.st_ino):
        with contextlib.suppress(OSError):
            # Without a temporary folder a worker cannot start, as it then reports.
            handle, name = tempfile.mkstemp(prefix="diht-boot-", suffix=".log")
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            os.close(handle)
            _log = Path(name)


def with_output(message: str) -> str:
    """Return a message with the name of the file of the output, and its last lines."""
    if _log is None:
        return f"{message}; its output is above"
    last = _log.read_bytes()[-_LAST_BYTES:].decode("utf-8", "replace").strip()
    return f"{message}; its output is in {_log} on {socket.gethostname()} and ends with:\n{last}"


def given_folder() -> str | None:
    """Return the driver's folder. Return None if it is not on this machine."""
    folder = os.environ.get(FOLDER_VARIABLE, "")
    return folder if os.path.isdir(folder) else None


def report(worker: str, message: str, kind: str = "failed") -> None:
    """Print an error, and write its message to a file `<kind>-*.txt` in the driver's folder if that
    is on this machine. `kind`: a worker `failed` to start or `died` with an error."""
    with contextlib.suppress(OSError):
        # The disk of a log may be full, and the driver waits for the file.
        print(f"boot: worker {worker}: {message}", file=sys.stderr, flush=True)
    if folder := given_folder():
        handle, name = tempfile.mkstemp(prefix=f".{kind}-", dir=folder)
        with open(handle, "w", encoding="utf-8") as file:
            file.write(message)
        os.rename(name, os.path.join(folder, f"{os.path.basename(name)[1:]}.txt"))


if __name__ == "__main__":
    keep_output()
try:
    import grpc
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
    from google.protobuf import json_format
except ImportError as error:
    report("?", f"{sys.executable} has no Apache Beam ({error}); workers need one that has")
    raise


class BootError(RuntimeError):
    """The worker cannot be started; the message says why."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a worker, wait for its end, and return its exit status: 128 + n after signal n, 1 if it
    cannot start."""
    parser = argparse.ArgumentParser(
        prog="boot", description="Start a Beam worker process.", allow_abbrev=False
    )
    parser.add_argument("--id", required=True)
    parser.add_argument("--provision_endpoint", required=True)
    # Runners pass more, semi_persist_dir for example.
    options, _ = parser.parse_known_args(arguments)
    worker = options.id.strip("'")  # Prism quotes the id although it uses no shell
    base = given_folder()
    prefix = "worker-" if base else "diht-boot-"
    info = None
    try:
        with tempfile.TemporaryDirectory(
            prefix=prefix, dir=base, ignore_cleanup_errors=True
        ) as private:
            info = provisioned(worker, options.provision_endpoint)
            status = _supervise(prepare(worker, info, Path(private)))
    except (BootError, OSError, grpc.RpcError) as error:
        why = str(error)
        if isinstance(error, grpc.RpcError):
            code = getattr(error, "code", str)()
            details = getattr(error, "details", str)()
            why = f"the runner's services do not answer: {code}, {details}"
        if _log is not None:
            why += f" (log: {_log} on {socket.gethostname()})"
        report(worker, why)
        if info is not None:
            tell_runner(worker, info, why, instead=True)
        return 1
    if status:
        how = f"signal {-status}" if status < 0 else f"status {status}"
        message = with_output(f"the worker process ended with {how}")
        report(worker, message, "died")
        tell_runner(worker, info, message)
    elif _log is not None:
        _log.unlink(missing_ok=True)
    return status if status >= 0 else 128 - status


def provisioned(worker: str, endpoint: str) -> Any:
    """Return what the runner's provision service says about a worker's job."""
    with grpc.insecure_channel(endpoint, ANY_SIZE) as channel:
        service = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
        request = beam_provision_api_pb2.GetProvisionInfoRequest()
        metadata = [("worker_id", worker)]
        return service.GetProvisionInfo(
            request, metadata=metadata, timeout=RPC_SECONDS, wait_for_ready=True
        ).info


def tell_runner(worker: str, info: Any, message: str, instead: bool = False) -> None:
    """Send an error to the runner's log of workers. With `instead`, also answer the requests to the
    worker with it, in place of a worker that could not start. A runner that no longer answers is
    not told."""
    metadata = [("worker_id", worker)]
    entry = beam_fn_api_pb2.LogEntry(
        severity=beam_fn_api_pb2.LogEntry.Severity.ERROR, message=message, log_location="boot.py"
    )
    entry.timestamp.GetCurrentTime()
    try:
        if info.logging_endpoint.url:
            with grpc.insecure_channel(info.logging_endpoint.url) as channel:
                log = beam_fn_api_pb2_grpc.BeamFnLoggingStub(channel)
                entries = iter([beam_fn_api_pb2.LogEntry.List(log_entries=[entry])])
                list(log.Logging(entries, metadata=metadata, timeout=LOG_SECONDS))
        if instead:
            with grpc.insecure_channel(info.control_endpoint.url) as channel:
                _answer(beam_fn_api_pb2_grpc.BeamFnControlStub(channel), metadata, message)
    except grpc.RpcError as error:
        print(
            f"boot: worker {worker}: the runner could not be told: {error}",
            file=sys.stderr,
            flush=True,
        )


def _answer(control: Any, metadata: Sequence[tuple[str, str]], message: str) -> None:
    """Answer requests to a worker with an error, until the runner ends the stream or
    `ANSWER_SECONDS` are over."""
    requests: SimpleQueue[Any] = SimpleQueue()

    def answers() -> Iterator[Any]:
        for number in iter(requests.get, None):
            yield beam_fn_api_pb2.InstructionResponse(instruction_id=number, error=message)

    try:
        for request in control.Control(answers(), metadata=metadata, timeout=ANSWER_SECONDS):
            requests.put(request.instruction_id)
    finally:
        requests.put(None)


def prepare(worker: str, info: Any, private: Path) -> dict[str, str]:
    """Fetch and install the staged files of a worker into an empty folder, and return the
    environment variables of the worker process, which describe its job."""
    metadata = [("worker_id", worker)]
    staged = (
        fetch(info.dependencies, info.artifact_endpoint.url, private, metadata)
        if info.dependencies
        else []
    )
    environment = {
        **os.environ,
        "WORKER_ID": worker,
        "SEMI_PERSISTENT_DIRECTORY": str(private),
        "PIPELINE_OPTIONS": json.dumps(json_format.MessageToDict(info.pipeline_options)),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
        # The working directory, perhaps a checkout, must not shadow staged code.
        "PYTHONSAFEPATH": ("1"),
    }
    for name in ("control", "logging", "status"):
        if url := getattr(info, f"{name}_endpoint").url:
            environment[f"{name.upper()}_API_SERVICE_DESCRIPTOR"] = f'url: "{url}"'
    if packages := [path for path in staged if path.name.endswith((".whl", ".tar.gz"))]:
        paths = [str(installed(packages, private)), os.environ.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    print(
        f"boot: worker {worker}, staged: {', '.join(path.name for path in staged)}",
        file=sys.stderr,
        flush=True,
    )
    return environment


def fetch(
    dependencies: Sequence[Any], endpoint: str, folder: Path, metadata: list[tuple[str, str]]
) -> list[Path]:
    """Fetch staged files and return their paths. Raise BootError if a checksum differs, a file has
    no name, or a file lists requirements for every worker to download."""
    paths = []
    with grpc.insecure_channel(endpoint, ANY_SIZE) as channel:
        service = beam_artifact_api_pb2_grpc.ArtifactRetrievalServiceStub(channel)
        request = beam_artifact_api_pb2.ResolveArtifactsRequest(artifacts=dependencies)
        resolved = service.ResolveArtifacts(
            request, metadata=metadata, timeout=RPC_SECONDS, wait_for_ready=True
        )
        for artifact in resolved.replacements:
            file = beam_runner_api_pb2.ArtifactFilePayload()
            if artifact.type_urn == common_urns.artifact_types.FILE.urn:
                file.ParseFromString(artifact.type_payload)
            role = beam_runner_api_pb2.ArtifactStagingToRolePayload.FromString(
                artifact.role_payload
            )
            # A name must not lead out of the folder.
            path = folder / os.path.basename(role.staged_name or file.path)
            if path.name in ("", "..", folder.name):
                raise BootError(f"a staged artifact of type {artifact.type_urn} has no name")
            if path.name.endswith("requirements.txt"):
                raise BootError(
                    "a requirements file is staged; put its packages into the worker's Python"
                    " instead"
                )
            digest = hashlib.sha256()
            with open(path, "wb") as content:
                wanted = beam_artifact_api_pb2.GetArtifactRequest(artifact=artifact)
                for chunk in service.GetArtifact(wanted, metadata=metadata):
                    digest.update(chunk.data)
                    content.write(chunk.data)
            if file.sha256 and digest.hexdigest() != file.sha256:
                raise BootError(
                    f"staged file {path.name} has sha256 {digest.hexdigest()}, expected"
                    f" {file.sha256}"
                )
            paths.append(path)
    return paths


def installed(packages: Sequence[Path], private: Path) -> Path:
    """Return a folder in which packages are installed. Wheels are installed once on a host for all
    workers with this version of Python; a source package only for this worker, because its result
    may depend on the environment.
    """
    kept = kept_folder()
    if kept is None or not all(package.suffix == ".whl" for package in packages):
        install(packages, private / "site")
        return private / "site"
    digest = hashlib.sha256(f"{sys.implementation.cache_tag} {platform.machine()}".encode())
    for package in sorted(packages):
        digest.update(package.name.encode() + hashlib.sha256(package.read_bytes()).digest())
    site = kept / digest.hexdigest()
    if not _is_intact(site):
        shutil.rmtree(site, ignore_errors=True)
        with tempfile.TemporaryDirectory(
            prefix="new-", dir=kept, ignore_cleanup_errors=True
        ) as fresh:
            install(packages, Path(fresh, "site"))
            try:
                os.rename(Path(fresh, "site"), site)
            except OSError:
                if not _is_intact(site):  # else another worker was first
                    raise
    os.utime(site)
    for other in kept.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another worker removes it too
            if time.time() - other.stat().st_mtime > KEPT_DAYS * 86_400:
                shutil.rmtree(other, ignore_errors=True)
    return site


def kept_folder() -> Path | None:
    """Return the folder of installed wheels, which only this user may write to, or None if there
    can be none."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = Path(cache, "diht", "workers")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.stat()
    except OSError:
        return None
    return folder if state.st_uid == os.getuid() and not state.st_mode & 0o022 else None


def _is_intact(site: Path) -> bool:
    """Return whether every file that pip has installed is there with its size; after a crash of the
    host it may not."""
    # importlib.metadata leaves out missing files from Python 3.12 on.
    records = list(site.glob("*.dist-info/RECORD"))
    rows = [
        row
        for record in records
        for row in csv.reader(record.read_text(encoding="utf-8").splitlines())
    ]
    try:
        # Scripts are listed where pip would put them without --target.
        return bool(rows) and all(
            size in ("", str((site / name).stat().st_size))
            for name, _, size in rows
            if ".." not in Path(name).parts
        )
    except OSError:
        return False


def install(packages: Sequence[Path], site: Path) -> None:
    """Install packages into the folder `site`, without dependencies and network access. Raise
    BootError."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ]
    command += [
        "--no-index",
        "--no-build-isolation",
        "--no-compile",
        "--target",
        str(site),
        *map(str, packages),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        names = ", ".join(package.name for package in packages)
        raise BootError(
            f"{sys.executable} cannot install {names} (it needs pip, and setuptools for a source"
            f" package): {(done.stderr or done.stdout).strip()[-2_000:]}"
        )


def _supervise(environment: Mapping[str, str]) -> int:
    """Run the worker and return its exit status. It is 0 if this process got SIGTERM or SIGINT,
    which it passes on, and negative if another signal ended the worker. On Linux the worker does
    not outlive this process.
    """
    cwd = environment.get(CWD_VARIABLE, "")
    parent = os.getpid()
    process = subprocess.Popen(
        [sys.executable, "-m", "apache_beam.runners.worker.sdk_worker_main"],
        env=dict(environment),
        cwd=cwd if os.path.isdir(cwd) else None,
        stdin=subprocess.DEVNULL,
        preexec_fn=lambda: die_with(parent),
    )
    ended_by_runner = False

    def pass_on(number: int, _: object) -> None:
        nonlocal ended_by_runner
        ended_by_runner = True
        process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    status = process.wait()
    return 0 if ended_by_runner else status


def die_with(parent: int) -> None:
    """On Linux, have the kernel kill this process when its parent ends, because a parent cannot
    forward a SIGKILL."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before the call
            os._exit(1)


if __name__ == "__main__":
    raise SystemExit(main())
